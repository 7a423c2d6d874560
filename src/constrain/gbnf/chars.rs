//! Sets of characters.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

const LAST: u32 = 0x10_FFFF;

/// A set of code points: ranges that rise, do not touch, and include both ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub(in crate::constrain) struct CharSet(Vec<(u32, u32)>);

impl CharSet {
    /// Every character.
    pub(super) fn any() -> Self {
        Self(vec![(0, LAST)])
    }

    pub(super) fn one(c: char) -> Self {
        Self(vec![(u32::from(c), u32::from(c))])
    }

    pub(super) fn from_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Self(merged)
    }

    /// All other characters.
    pub(super) fn negated(&self) -> Self {
        let (mut next, mut ranges) = (0, Vec::new());
        for &(low, high) in &self.0 {
            if low > next {
                ranges.push((next, low - 1));
            }
            next = high + 1;
        }
        if next <= LAST {
            ranges.push((next, LAST));
        }
        Self(ranges)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a set; gives whether anything was new.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        if other.0.is_empty() {
            return false;
        }
        let all = self.0.iter().chain(&other.0).copied().collect();
        let sum = Self::from_ranges(all);
        let new = sum != *self;
        *self = sum;
        new
    }

    /// Whether a character is in both.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            if x.0.max(y.0) <= x.1.min(y.1) {
                return true;
            }
            if x.1 < y.1 {
                a.next();
            } else {
                b.next();
            }
        }
        false
    }

    #[cfg(test)]
    pub(in crate::constrain) fn has(&self, c: char) -> bool {
        self.meets(&Self::one(c))
    }

    /// A character of the set, near the start of one of its ranges.
    #[cfg(test)]
    pub(in crate::constrain) fn pick(&self, random: usize) -> char {
        let (low, high) = self.0[random % self.0.len()];
        let n = (high - low + 1).min(100) as usize;
        char::from_u32(low + (random / 7 % n) as u32).unwrap_or('?')
    }

    /// The set as a class of a regular expression, `None` if no character of text is in it.
    pub(super) fn class(&self) -> Option<String> {
        let mut class = String::from("[");
        for &(low, high) in &self.0 {
            // Surrogates are no characters.
            let low = if (0xD800..0xE000).contains(&low) {
                0xE000
            } else {
                low
            };
            let high = if (0xD800..0xE000).contains(&high) {
                0xD7FF
            } else {
                high
            };
            if low <= high {
                let _ = write!(class, "\\x{{{low:X}}}-\\x{{{high:X}}}");
            }
        }
        class.push(']');
        (class.len() > 2).then_some(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_add_meet_and_turn_round() {
        let digits = CharSet::from_ranges(vec![(0x30, 0x35), (0x36, 0x39)]);
        assert_eq!(digits.0, [(0x30, 0x39)]);
        let others = digits.negated();
        assert!(!digits.meets(&others) && others.negated() == digits);
        assert!(CharSet::one('5').meets(&digits) && !CharSet::one('a').meets(&digits));
        let mut all = digits.clone();
        assert!(all.add(&others) && all == CharSet::any() && !all.add(&digits));
        assert!(CharSet::any().negated().is_empty());
        assert_eq!(digits.class().as_deref(), Some("[\\x{30}-\\x{39}]"));
        let surrogates = CharSet::from_ranges(vec![(0xD800, 0xDFFF)]);
        assert_eq!(surrogates.class(), None);
    }
}
