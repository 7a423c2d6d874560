//! Tests of the sampler as callers use it; helpers for all of them.

mod draws;
mod filters;
mod history;
mod params;
mod properties;

use std::borrow::Cow;
use std::sync::Arc;

use super::{Sampler, SamplerKind, SamplingParams, VocabView};

/// Probabilities are computed in f32.
const PROB_TOLERANCE: f32 = 1e-6;

/// A vocabulary of the given texts; the last token ends a generation.
struct Words(Vec<&'static str>);

impl VocabView for Words {
    fn n_vocab(&self) -> usize {
        self.0.len()
    }

    fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        let text = self.0.get(token as usize).copied().unwrap_or_default();
        Cow::Borrowed(text.as_bytes())
    }

    fn eog_tokens(&self) -> Cow<'_, [u32]> {
        Cow::Owned(vec![self.0.len() as u32 - 1])
    }
}

/// A vocabulary of `n` tokens without line breaks or punctuation.
fn letters(n: usize) -> Arc<dyn VocabView> {
    Arc::new(Words(vec!["a"; n]))
}

/// Parameters with only the named samplers in the chain, a fixed seed and temperature 1.
fn only(samplers: &str) -> SamplingParams {
    SamplingParams {
        seed: Some(1),
        samplers: SamplerKind::parse_list(samplers).unwrap(),
        temp: 1.0,
        ..SamplingParams::default()
    }
}

/// A sampler over a vocabulary of `n` tokens.
fn sampler(params: &SamplingParams, n: usize) -> Sampler {
    Sampler::new(params, &letters(n), 1024).unwrap()
}

/// Logits with these probabilities.
fn logits(probs: &[f32]) -> Vec<f32> {
    probs.iter().map(|prob| prob.ln()).collect()
}

/// What the chain leaves of a distribution, best first: tokens and probabilities.
fn left(params: &SamplingParams, probs: &[f32]) -> Vec<(u32, f32)> {
    left_of(&mut sampler(params, probs.len()), &logits(probs))
}

/// What a sampler leaves of a row.
fn left_of(sampler: &mut Sampler, row: &[f32]) -> Vec<(u32, f32)> {
    sampler.sample(row, None).unwrap();
    let list = sampler.top_candidates(usize::MAX);
    list.iter().map(|item| (item.token, item.prob)).collect()
}

/// The tokens of [`left`].
fn tokens(left: &[(u32, f32)]) -> Vec<u32> {
    left.iter().map(|item| item.0).collect()
}

/// Compares token by token.
#[track_caller]
fn assert_left(found: &[(u32, f32)], expected: &[(u32, f32)]) {
    assert_eq!(tokens(found), tokens(expected), "{found:?}");
    for (a, b) in found.iter().zip(expected) {
        assert!(
            (a.1 - b.1).abs() < PROB_TOLERANCE,
            "{found:?} is not {expected:?}"
        );
    }
}
