//! Guesses by looking up what followed the latest tokens when they came before.

#![forbid(unsafe_code)]

/// Tokens that must be the same.
const SHORTEST: usize = 3;
/// Beyond this many a longer match is no better.
const LONGEST: usize = 16;
/// How far back to look: bounds the time of a guess.
const WINDOW: usize = 1 << 15;

/// Up to `n` tokens that followed the end of `tokens` at its longest earlier match, the latest of equals.
pub(super) fn continuation(tokens: &[u32], n: usize) -> &[u32] {
    let recent = &tokens[tokens.len().saturating_sub(WINDOW)..];
    let mut best = (SHORTEST - 1, recent.len());
    for end in (SHORTEST..recent.len()).rev() {
        let same = recent[..end]
            .iter()
            .rev()
            .zip(recent.iter().rev())
            .take(LONGEST)
            .take_while(|(a, b)| a == b)
            .count();
        if same > best.0 {
            best = (same, end);
            if same == LONGEST {
                break;
            }
        }
    }
    &recent[best.1..(best.1 + n).min(recent.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_then_the_latest_match_is_continued() {
        let cases: [(&[u32], usize, &[u32]); 6] = [
            (&[1, 2, 3, 9, 8, 1, 2, 3], 2, &[9, 8]),
            (&[1, 2, 3, 9, 1, 2, 3, 7, 1, 2, 3], 1, &[7]),
            (&[5, 1, 2, 3, 9, 4, 1, 2, 3, 7, 5, 1, 2, 3], 1, &[9]),
            (&[1, 2, 9, 1, 2], 3, &[]),
            (&[], 3, &[]),
            (&[4, 4, 4, 4, 4], 3, &[4]),
        ];
        for (tokens, n, expected) in cases {
            assert_eq!(continuation(tokens, n), expected, "{tokens:?}");
        }
    }
}
