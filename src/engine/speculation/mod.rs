//! Speculation: tokens are guessed ahead, and one step checks several guesses at once.
//!
//! A guess counts if it is the very token that the sampler draws at its place, with the same random number, the same
//! penalties and constraints. So a text with speculation is the text without it; a bad guess costs time only. A
//! sequence that went too far is shortened, which for recurrent states is the choice of another plane.
//!
//! A generation is a [`Lane`]; [`round`] takes all lanes of an engine one step further together. A server that mixes
//! other work into the step calls the parts: [`Lane::take`], [`draft`], [`Lane::work`], [`Lane::settle`].

#![forbid(unsafe_code)]

mod governor;
mod lane;
mod ngram;
mod params;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub use governor::Costs;
pub use lane::{Lane, Progress, Sink, draft, round};
pub use params::{DraftStats, DraftType, MOST_DRAFTS, SpeculationParams};

use super::{Engine, EngineError};
use governor::Acceptance;

/// Speculation of one sequence: parameters, and what its guesses brought. It outlives a generation, so that the next
/// one starts with what this one learned.
#[derive(Debug, Clone)]
pub struct Speculation {
    params: SpeculationParams,
    stats: DraftStats,
    acceptance: Acceptance,
    synth: Option<ChaCha8Rng>,
}

impl Speculation {
    /// Speculation by these parameters.
    ///
    /// # Errors
    /// [`EngineError::NoMtp`] if the head is asked for and does not run with the engine's steps,
    /// [`EngineError::Config`] for values that cannot work.
    pub fn new(params: SpeculationParams, engine: &Engine) -> Result<Self, EngineError> {
        params.validate()?;
        if params.draft == DraftType::Mtp && !engine.config().mtp {
            return Err(EngineError::NoMtp);
        }
        let fake = !params.synth_rates.is_empty();
        Ok(Self {
            synth: fake.then(|| ChaCha8Rng::seed_from_u64(0)),
            params,
            stats: DraftStats::default(),
            acceptance: Acceptance::default(),
        })
    }

    /// No guesses: plain decoding.
    pub fn off() -> Self {
        Self {
            params: SpeculationParams::default(),
            stats: DraftStats::default(),
            acceptance: Acceptance::default(),
            synth: None,
        }
    }

    /// The parameters.
    pub fn params(&self) -> &SpeculationParams {
        &self.params
    }

    /// What all guesses so far brought.
    pub fn stats(&self) -> &DraftStats {
        &self.stats
    }

    /// Most guesses of a step that memory can take back: it keeps that many states, if the model has any.
    fn most(&self, engine: &Engine) -> u32 {
        let kept = if engine.memory().is_recurrent() {
            engine.config().n_snapshots.saturating_sub(1)
        } else {
            MOST_DRAFTS
        };
        match self.params.draft {
            DraftType::None => 0,
            _ => self.params.n_max.min(kept),
        }
    }

    /// Whether guess `i` counts as right without a look at it; `None` if guesses are checked.
    fn fake(&mut self, i: usize) -> Option<bool> {
        let rng = self.synth.as_mut()?;
        let rates = &self.params.synth_rates;
        let rate = rates.get(i).or(rates.last())?;
        Some(rng.next_u32() as f32 / (u32::MAX as f32) < *rate)
    }

    /// Takes note of a step.
    fn count(&mut self, n_drafted: usize, n_accepted: usize) {
        self.stats.count(n_drafted, n_accepted);
        self.acceptance.add(n_drafted, n_accepted);
    }
}
