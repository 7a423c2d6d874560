//! Sampling: from a row of logits to a token, with llama.cpp's chain of samplers, its names, order
//! and defaults.
//!
//! ```text
//! logits -> logit bias -> penalties -> dry -> top-n-sigma -> top-k -> typical -> top-p -> min-p
//!        -> xtc -> temperature -> draw
//! ```
//!
//! Rules that callers can rely on:
//!
//! - **Replay.** The random numbers of an output position depend on the seed and on the number of
//!   tokens accepted before it, on nothing else. [`Sampler::sample`] changes no state that matters:
//!   calling it twice gives the same token, and the tokens are the same however the positions were
//!   batched. Speculation draws with `sample`, compares, and calls [`Sampler::accept`] for what it
//!   keeps.
//! - **Order.** Equal logits rank by rising token id.
//! - **Broken logits.** NaN counts as minus infinity and plus infinity as the largest number. A row
//!   without any other value is an error, never a panic.
//! - **Forbidden tokens** (minus infinity) are no candidates: they count neither for `min_keep` nor
//!   for the entropy of dynamic temperature, unlike in llama.cpp.

#![forbid(unsafe_code)]

mod candidates;
mod chain;
mod dry;
mod error;
mod filters;
mod math;
mod params;
mod penalties;
mod probs;
mod rng;
mod select;
#[cfg(test)]
mod tests;
mod vocab;

use std::fmt;
use std::sync::Arc;

pub use candidates::Candidate;
pub use error::SamplingError;
pub use params::{SamplerKind, SamplingParams};
pub use probs::{LogProbs, TokenLogProb};
pub use vocab::{Constraint, VocabView};

use candidates::Candidates;
use chain::Chain;
use rng::{Draws, Purpose};

/// Draws tokens for one sequence. A clone continues independently from the same state.
#[derive(Clone)]
pub struct Sampler {
    biases: Arc<[(u32, f32)]>,
    chain: Chain,
    draws: Draws,
    position: u64,
    n_vocab: usize,
    candidates: Candidates,
}

/// A drawn token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Token id.
    pub token: u32,
    /// Its probability among the candidates that the chain left.
    pub prob: f32,
}

impl Sampler {
    /// A sampler for a sequence of at most `n_ctx` tokens.
    ///
    /// # Errors
    /// [`SamplingError::OutOfRange`] as [`SamplingParams::validate`], or
    /// [`SamplingError::UnknownToken`] for a bias on a token that does not exist.
    pub fn new(
        params: &SamplingParams,
        vocab: &Arc<dyn VocabView>,
        n_ctx: usize,
    ) -> Result<Self, SamplingError> {
        params.validate()?;
        let n_vocab = vocab.n_vocab();
        let mut biases = params.logit_bias.clone();
        if params.ignore_eos {
            biases.extend(
                vocab
                    .eog_tokens()
                    .iter()
                    .map(|&token| (token, f32::NEG_INFINITY)),
            );
        }
        if let Some(&(token, _)) = biases.iter().find(|bias| bias.0 as usize >= n_vocab) {
            return Err(SamplingError::UnknownToken { token, n_vocab });
        }
        Ok(Self {
            biases: biases.into(),
            chain: Chain::new(params, vocab, n_ctx),
            draws: Draws::new(params.seed),
            position: 0,
            n_vocab,
            candidates: Candidates::default(),
        })
    }

    /// Draws the token of the current output position from a row of `n_vocab` logits.
    ///
    /// A constraint is asked about the drawn token only; if it refuses, the row is masked and the
    /// token drawn again from what is allowed.
    ///
    /// # Errors
    /// [`SamplingError::LogitsLength`], [`SamplingError::NoCandidate`] if no logit is above minus
    /// infinity, [`SamplingError::ConstraintAllowsNothing`] if none of those may come next.
    pub fn sample(
        &mut self,
        logits: &[f32],
        constraint: Option<&mut dyn Constraint>,
    ) -> Result<Sampled, SamplingError> {
        if logits.len() != self.n_vocab {
            return Err(SamplingError::LogitsLength {
                expected: self.n_vocab,
                found: logits.len(),
            });
        }
        self.candidates.load(logits);
        let first = self
            .draw(self.position, Purpose::Token)
            .ok_or_else(|| self.no_candidate(logits))?;
        let Some(constraint) = constraint else {
            return Ok(first);
        };
        if constraint.allows(first.token) {
            return Ok(first);
        }
        self.candidates.load(logits);
        constraint.mask(self.candidates.row_mut());
        self.draw(self.position, Purpose::Retry)
            .ok_or(SamplingError::ConstraintAllowsNothing {
                position: self.position,
            })
    }

    /// Draws what the token `ahead` positions after the current one may be, for speculation: with that position's
    /// random number, but with the past as it is now and without a constraint.
    ///
    /// # Errors
    /// As [`Self::sample`].
    pub fn guess(&mut self, logits: &[f32], ahead: u64) -> Result<Sampled, SamplingError> {
        if logits.len() != self.n_vocab {
            return Err(SamplingError::LogitsLength {
                expected: self.n_vocab,
                found: logits.len(),
            });
        }
        self.candidates.load(logits);
        self.draw(self.position.saturating_add(ahead), Purpose::Token)
            .ok_or_else(|| self.no_candidate(logits))
    }

    fn no_candidate(&self, logits: &[f32]) -> SamplingError {
        SamplingError::NoCandidate {
            position: self.position,
            nan: logits.iter().filter(|logit| logit.is_nan()).count(),
            n_vocab: self.n_vocab,
        }
    }

    /// Biases, then the chain, over the loaded candidates.
    fn draw(&mut self, position: u64, purpose: Purpose) -> Option<Sampled> {
        for &(token, bias) in self.biases.iter() {
            self.candidates.add(token, bias);
        }
        let chosen = self
            .chain
            .run(&mut self.candidates, &mut self.draws, position, purpose)?;
        Some(Sampled {
            token: chosen.token,
            prob: chosen.prob,
        })
    }

    /// Takes `token` as the output at the current position and moves to the next one.
    pub fn accept(&mut self, token: u32) {
        self.chain.accept(token);
        self.position += 1;
    }

    /// Takes tokens of the prompt (or of a prefilled answer): penalties and DRY see them, the
    /// output position stays.
    pub fn accept_prompt(&mut self, tokens: &[u32]) {
        for &token in tokens {
            self.chain.accept_prompt(token);
        }
    }

    /// Candidates that the last [`Self::sample`] chose from, in no particular order; their
    /// probabilities sum to 1.
    pub fn candidates(&self) -> &[Candidate] {
        self.candidates.as_slice()
    }

    /// The `n` most probable of [`Self::candidates`], best first.
    pub fn top_candidates(&self, n: usize) -> Vec<Candidate> {
        let mut list = self.candidates().to_vec();
        list.sort_unstable_by(|a, b| b.prob.total_cmp(&a.prob).then(a.token.cmp(&b.token)));
        list.truncate(n);
        list
    }

    /// Number of output tokens accepted so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The seed really used: with it as [`SamplingParams::seed`] the same text comes again.
    pub fn seed(&self) -> u64 {
        self.draws.seed()
    }

    /// Continues with another seed; `None` takes a random one. The past stays.
    pub fn reseed(&mut self, seed: Option<u64>) {
        self.draws = Draws::new(seed);
    }

    /// Back to the first output position, with the same seed and without a past.
    pub fn reset(&mut self) {
        self.chain.reset();
        self.position = 0;
    }

    /// The chain as llama.cpp prints it; a question mark stands before samplers that are off.
    pub fn describe(&self) -> &str {
        self.chain.description()
    }
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler")
            .field("chain", &self.describe())
            .field("seed", &self.seed())
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
