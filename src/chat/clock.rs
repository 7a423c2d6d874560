//! The date for `strftime_now`, in UTC.

#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Seconds since 1970, 0 for a clock before it.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

/// Year, month and day of month of a day counted from 1970-01-01, by the rules of the Gregorian calendar.
fn date(days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut rest) = (1970, days);
    // 400 years have 146097 days: skip whole cycles, so that the loop is short for any clock.
    year += rest / 146_097 * 400;
    rest %= 146_097;
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while rest >= lengths[month] {
        rest -= lengths[month];
        month += 1;
    }
    (year, month, rest + 1)
}

/// Python's `strftime` for the codes that templates use; others stay as they are.
pub(super) fn strftime(seconds: u64, format: &str) -> String {
    let days = seconds / 86_400;
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let weekday = DAYS[(days % 7) as usize];
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        let unpadded = chars.next_if_eq(&'-').is_some();
        let number = |value: u64| {
            if unpadded {
                value.to_string()
            } else {
                format!("{value:02}")
            }
        };
        match chars.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &number(year % 100),
            Some('m') => out += &number(month as u64 + 1),
            Some('d') => out += &number(day),
            Some('e') => out += &format!("{day:2}"),
            Some('B') => out += MONTHS[month],
            Some('b') => out += &MONTHS[month][..3],
            Some('A') => out += weekday,
            Some('a') => out += &weekday[..3],
            Some('H') => out += &number(hour),
            Some('I') => out += &number(hour12),
            Some('M') => out += &number(minute),
            Some('S') => out += &number(second),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('F') => out += &format!("{year}-{:02}-{day:02}", month + 1),
            Some('T') => out += &format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => out += "UTC",
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        let cases = [
            (0, "%Y-%m-%d %A", "1970-01-01 Thursday"),
            (951_782_400, "%F %a", "2000-02-29 Tue"),
            (1_740_787_199, "%d %b %Y %T", "28 Feb 2025 23:59:59"),
            (1_740_787_200, "%-d %B %y", "1 March 25"),
            (
                4_102_444_799,
                "%A, %e. %B %Y %I:%M %p",
                "Thursday, 31. December 2099 11:59 PM",
            ),
            (13_569_465_600, "%F", "2400-01-01"),
            (0, "%% %q %", "% %q %"),
        ];
        for (seconds, format, expected) in cases {
            assert_eq!(strftime(seconds, format), expected);
        }
    }
}
