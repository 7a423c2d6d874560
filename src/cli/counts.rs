//! Numbers in llama-bench's notation: one, or a range `first-last`, `first-last+step`, `first-last*factor`.

#![forbid(unsafe_code)]

use std::str::FromStr;

use oxling::engine::EngineConfig;

/// More values than anyone waits for: such a range is a slip.
const MOST_VALUES: usize = 4096;

/// The numbers that one entry of a list stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(Vec<u32>);

impl FromStr for Counts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, rest) = match text.split_once('-') {
            None => (text, None),
            Some((first, rest)) => (first, Some(rest)),
        };
        let first = number(first)?;
        let Some(rest) = rest else {
            return Ok(Self(vec![first]));
        };
        let (last, factor, step) = if let Some((last, step)) = rest.split_once('+') {
            (last, 1, number(step)?)
        } else if let Some((last, factor)) = rest.split_once('*') {
            (last, number(factor)?, 0)
        } else {
            (rest, 1, 1)
        };
        let last = number(last)?;
        if last < first {
            return Err("the range ends before it starts".to_owned());
        }
        let mut all = vec![first];
        let mut now = first;
        let next = |n: u32| n.checked_mul(factor)?.checked_add(step);
        while let Some(n) = next(now).filter(|&n| n <= last) {
            if n <= now {
                return Err("the range never ends".to_owned());
            }
            if all.len() == MOST_VALUES {
                return Err(format!("the range has more than {MOST_VALUES} values"));
            }
            all.push(n);
            now = n;
        }
        Ok(Self(all))
    }
}

/// As numbers and ranges are read, and -1 for as many threads as there are by default.
pub fn thread_counts(text: &str) -> Result<Counts, String> {
    match text {
        "-1" => {
            let default = EngineConfig::default().n_threads;
            Ok(Counts(vec![u32::try_from(default).unwrap_or(1)]))
        }
        _ => text.parse(),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        "expected a number, or a range first-last, first-last+step or first-last*factor".to_owned()
    })
}

/// All numbers of a list.
pub fn all(list: &[Counts]) -> Vec<u32> {
    list.iter().flat_map(|counts| &counts.0).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges() {
        let cases: [(&str, &[u32]); 7] = [
            ("512", &[512]),
            ("0", &[0]),
            ("1-4", &[1, 2, 3, 4]),
            ("8-8", &[8]),
            ("8-30+8", &[8, 16, 24]),
            ("128-1024*2", &[128, 256, 512, 1024]),
            ("4294967294-4294967295", &[u32::MAX - 1, u32::MAX]),
        ];
        for (text, expected) in cases {
            assert_eq!(
                text.parse::<Counts>().map(|c| c.0).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn threads_by_default_are_at_least_one() {
        assert!(thread_counts("-1").is_ok_and(|counts| counts.0[0] >= 1));
        assert_eq!(thread_counts("1-2").map(|c| c.0), Ok(vec![1, 2]));
        assert!(thread_counts("-2").is_err());
    }

    #[test]
    fn what_is_no_range_is_an_error() {
        let wrong = [
            "",
            "x",
            "-1",
            "8-",
            "8-4",
            "1-8+0",
            "1-8*1",
            "0-8*2",
            "1-8*",
            "1-2-3",
            "1.5",
            "1-4294967295",
            "4294967296",
        ];
        for text in wrong {
            assert!(text.parse::<Counts>().is_err(), "{text}");
        }
    }
}
