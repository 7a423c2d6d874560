//! DRY ("don't repeat yourself"): a penalty that grows with the length of the sequence that a
//! token would repeat.
//!
//! If the text ends with `L` tokens that also occur earlier, the token that followed them there
//! loses `multiplier * base^(L - allowed_length)`. A sequence breaker ends what counts as one
//! sequence. llama.cpp finds breakers by the tokens they are usually split into; here they are
//! matched in the bytes of the text, which finds the same ones and those split otherwise.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::candidates::Candidates;
use super::{SamplingParams, VocabView};

/// A breaker text and how far the end of the text so far matches it (Knuth, Morris, Pratt).
#[derive(Clone, Debug)]
struct Breaker {
    bytes: Vec<u8>,
    /// Length of the longest border of each prefix.
    borders: Vec<usize>,
    matched: usize,
}

impl Breaker {
    /// A matcher of a text that is not empty.
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut borders = vec![0];
        for i in 1..bytes.len() {
            let mut border = borders[i - 1];
            while border > 0 && bytes[border] != bytes[i] {
                border = borders[border - 1];
            }
            borders.push(border + usize::from(bytes[border] == bytes[i]));
        }
        Self {
            bytes,
            borders,
            matched: 0,
        }
    }

    /// Reads one byte; true if a match ends with it.
    fn read(&mut self, byte: u8) -> bool {
        if self.matched == self.bytes.len() {
            self.matched = self.borders[self.matched - 1];
        }
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        self.matched == self.bytes.len()
    }

    /// Whether `text` contains the breaker.
    fn is_in(&self, text: &[u8]) -> bool {
        text.windows(self.bytes.len())
            .any(|part| part == self.bytes)
    }
}

/// A token of the past.
#[derive(Clone, Copy, Debug)]
struct Past {
    token: u32,
    /// Whether a breaker ends within this token.
    breaks: bool,
}

/// The DRY sampler and its window of the past.
#[derive(Clone)]
pub(super) struct Dry {
    multiplier: f32,
    base: f32,
    allowed_length: usize,
    last_n: usize,
    vocab: Arc<dyn VocabView>,
    breakers: Vec<Breaker>,
    window: VecDeque<Past>,
    scratch: Scratch,
}

/// Buffers reused from token to token.
#[derive(Clone, Debug, Default)]
struct Scratch {
    /// The window, newest first.
    recent: Vec<u32>,
    /// For each position of `recent`, the length of the match with its start.
    matches: Vec<usize>,
    /// Longest repeated sequence that each token would extend.
    repeats: HashMap<u32, usize>,
}

impl Dry {
    /// DRY over the last `last_n` tokens; `None` if the parameters switch it off.
    pub(super) fn new(
        params: &SamplingParams,
        last_n: usize,
        vocab: &Arc<dyn VocabView>,
    ) -> Option<Self> {
        let on = params.dry_multiplier != 0.0 && params.dry_base >= 1.0 && last_n > 0;
        on.then(|| Self {
            multiplier: params.dry_multiplier,
            base: params.dry_base,
            allowed_length: params.dry_allowed_length as usize,
            last_n,
            vocab: Arc::clone(vocab),
            breakers: params
                .dry_sequence_breakers
                .iter()
                .map(|text| Breaker::new(text))
                .collect(),
            window: VecDeque::new(),
            scratch: Scratch::default(),
        })
    }

    /// Takes a token into the window.
    pub(super) fn accept(&mut self, token: u32) {
        if self.window.len() == self.last_n {
            self.window.pop_front();
        }
        let mut breaks = false;
        for &byte in self.vocab.token_bytes(token).iter() {
            for breaker in &mut self.breakers {
                breaks |= breaker.read(byte);
            }
        }
        self.window.push_back(Past { token, breaks });
    }

    /// Lowers the logits of tokens that would extend a repetition.
    pub(super) fn apply(&mut self, candidates: &mut Candidates) {
        if self.window.len() <= self.allowed_length {
            return;
        }
        let since_breaker = self.window.iter().rev().position(|past| past.breaks);
        let limit = since_breaker.unwrap_or(self.window.len());
        if limit < self.allowed_length {
            return;
        }
        self.find_repeats(limit);
        // base^exponent must stay finite.
        let max_exponent = if self.base > 1.000_001 {
            (f32::MAX.ln() / self.base.ln()) as usize
        } else {
            usize::MAX
        };
        candidates.update(&self.scratch.repeats, |logit, &length| {
            let exponent = (length - self.allowed_length).min(max_exponent);
            logit - self.multiplier * self.base.powf(exponent as f32)
        });
    }

    /// Fills `scratch.repeats` with sequences of `allowed_length` to `limit` tokens.
    fn find_repeats(&mut self, limit: usize) {
        let Scratch {
            recent,
            matches,
            repeats,
        } = &mut self.scratch;
        recent.clear();
        recent.extend(self.window.iter().rev().map(|past| past.token));
        common_prefixes(recent, matches);
        repeats.clear();
        for position in 1..recent.len() {
            let length = matches[position].min(limit);
            if length >= self.allowed_length {
                let next = repeats.entry(recent[position - 1]).or_insert(0);
                *next = length.max(*next);
            }
        }
        // A token that is a breaker itself ends the repetition: no penalty.
        let (vocab, breakers) = (&self.vocab, &self.breakers);
        repeats.retain(|&token, _| {
            let bytes = vocab.token_bytes(token);
            !breakers.iter().any(|breaker| breaker.is_in(&bytes))
        });
    }

    /// Forgets the past.
    pub(super) fn reset(&mut self) {
        self.window.clear();
        for breaker in &mut self.breakers {
            breaker.matched = 0;
        }
    }
}

/// For each position of `text` from 1 on, how many tokens from there on equal the start of `text`
/// (the Z-algorithm, linear in the length).
fn common_prefixes(text: &[u32], lengths: &mut Vec<usize>) {
    lengths.clear();
    lengths.resize(text.len(), 0);
    // The match found so far that reaches furthest covers start..end.
    let (mut start, mut end) = (0, 0);
    for position in 1..text.len() {
        let mut length = if position < end {
            lengths[position - start].min(end - position)
        } else {
            0
        };
        while position + length < text.len() && text[length] == text[position + length] {
            length += 1;
        }
        lengths[position] = length;
        if position + length > end {
            (start, end) = (position, position + length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_prefixes_equal_the_naive_ones() {
        let mut seed = 1u32;
        let mut lengths = Vec::new();
        for n in 0..60 {
            let text: Vec<u32> = (0..n)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) % 3
                })
                .collect();
            common_prefixes(&text, &mut lengths);
            for position in 1..text.len() {
                let pairs = text.iter().zip(&text[position..]);
                let naive = pairs.take_while(|(a, b)| a == b).count();
                assert_eq!(lengths[position], naive, "{text:?} at {position}");
            }
        }
    }

    #[test]
    fn breaker_finds_overlapping_matches() {
        let ends = |pattern: &str, text: &str| -> Vec<usize> {
            let mut breaker = Breaker::new(pattern);
            let found = text
                .bytes()
                .enumerate()
                .filter(|&(_, byte)| breaker.read(byte));
            found.map(|(i, _)| i).collect()
        };
        assert_eq!(ends("aa", "aaaa"), [1, 2, 3]);
        assert_eq!(ends("abab", "abacababab"), [7, 9]);
        assert_eq!(ends("\n", "a\nb\n"), [1, 3]);
        assert_eq!(ends("xyz", "xyxy"), [0usize; 0]);
    }
}
