//! How to guess ahead, and what came of it.

#![forbid(unsafe_code)]

use std::str::FromStr;

use super::super::EngineError;

/// Most guesses in one step: beyond it the last ones are hardly ever right, and each costs a state.
pub const MOST_DRAFTS: u32 = 16;

/// Where guesses come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DraftType {
    /// No guesses.
    #[default]
    None,
    /// The model's MTP head, chained on its own output.
    Mtp,
    /// The tokens that followed the latest words when they came before.
    Ngram,
}

impl DraftType {
    /// The name that flags and requests use.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Mtp => "mtp",
            Self::Ngram => "ngram",
        }
    }
}

impl FromStr for DraftType {
    type Err = String;

    /// Our names and llama.cpp's.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "mtp" | "draft-mtp" => Ok(Self::Mtp),
            "ngram" | "ngram-simple" => Ok(Self::Ngram),
            _ => Err("expected mtp (draft-mtp), ngram (ngram-simple) or none".to_owned()),
        }
    }
}

/// How one sequence guesses ahead. A server takes these per request.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeculationParams {
    /// Where guesses come from.
    pub draft: DraftType,
    /// Most guesses per step.
    pub n_max: u32,
    /// Fewer guesses than this are not worth a larger step and are dropped.
    pub n_min: u32,
    /// Guessing ends with the first token that the head gives less than this probability.
    pub p_min: f32,
    /// Choose the number of guesses by what they cost and bring, down to none.
    pub adapt: bool,
    /// Accept guess `i` with the probability at `i` (the last stands for all later ones) instead of by what is drawn.
    /// This measures speed on models of random weights; the text means nothing.
    pub synth_rates: Vec<f32>,
}

impl Default for SpeculationParams {
    fn default() -> Self {
        Self {
            draft: DraftType::None,
            n_max: 3,
            n_min: 0,
            p_min: 0.0,
            adapt: true,
            synth_rates: Vec::new(),
        }
    }
}

impl SpeculationParams {
    /// States an engine must keep per sequence for these guesses: see
    /// [`EngineConfig::n_snapshots`](super::super::EngineConfig::n_snapshots).
    pub fn n_snapshots(&self) -> u32 {
        match self.draft {
            DraftType::None => 1,
            _ => self.n_max.min(MOST_DRAFTS) + 1,
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`EngineError::Config`] with the first one that cannot work.
    pub fn validate(&self) -> Result<(), EngineError> {
        let wrong = |what, expected, found: f64| EngineError::Config {
            what,
            expected,
            found: found as u64,
        };
        if self.n_max > MOST_DRAFTS {
            return Err(wrong("most drafts", "0 to 16", self.n_max.into()));
        }
        if self.n_min > self.n_max {
            return Err(wrong(
                "fewest drafts",
                "at most the most drafts",
                self.n_min.into(),
            ));
        }
        let mut shares = self.synth_rates.iter().chain([&self.p_min]);
        match shares.find(|p| !(0.0..=1.0).contains(*p)) {
            Some(&p) => Err(wrong("draft probability", "0 to 1", p.into())),
            None => Ok(()),
        }
    }
}

/// What guesses brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DraftStats {
    /// Steps of the trunk, with guesses or without.
    pub steps: u64,
    /// Steps with at least one guess.
    pub drafting_steps: u64,
    /// Guesses made, by position.
    pub drafted: Vec<u64>,
    /// Guesses whose predecessors were all right, by position.
    pub reached: Vec<u64>,
    /// Guesses that were right, as were their predecessors, by position.
    pub accepted: Vec<u64>,
}

impl DraftStats {
    /// Guesses made.
    pub fn n_drafted(&self) -> u64 {
        self.drafted.iter().sum()
    }

    /// Guesses that were right.
    pub fn n_accepted(&self) -> u64 {
        self.accepted.iter().sum()
    }

    /// Tokens per step that had guesses: the right ones and the one that comes anyway.
    pub fn mean_length(&self) -> f64 {
        match self.drafting_steps {
            0 => 1.0,
            n => 1.0 + self.n_accepted() as f64 / n as f64,
        }
    }

    /// The counts after `earlier`, an earlier state of the same.
    pub fn since(&self, earlier: &Self) -> Self {
        let less = |now: &[u64], then: &[u64]| -> Vec<u64> {
            let then = then.iter().copied().chain(std::iter::repeat(0));
            now.iter().zip(then).map(|(n, t)| n - t).collect()
        };
        Self {
            steps: self.steps - earlier.steps,
            drafting_steps: self.drafting_steps - earlier.drafting_steps,
            drafted: less(&self.drafted, &earlier.drafted),
            reached: less(&self.reached, &earlier.reached),
            accepted: less(&self.accepted, &earlier.accepted),
        }
    }

    /// How often a guess is right where all before it are, by position.
    pub fn acceptance(&self) -> Vec<f64> {
        let accepted = self.accepted.iter().copied().chain(std::iter::repeat(0));
        let pairs = self.reached.iter().zip(accepted);
        pairs
            .map(|(&n, right)| right as f64 / n.max(1) as f64)
            .collect()
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.drafting_steps += other.drafting_steps;
        for (sum, more) in [
            (&mut self.drafted, &other.drafted),
            (&mut self.reached, &other.reached),
            (&mut self.accepted, &other.accepted),
        ] {
            sum.resize(sum.len().max(more.len()), 0);
            sum.iter_mut().zip(more).for_each(|(s, m)| *s += m);
        }
    }

    /// Takes note of a step with `n_drafted` guesses, the first `n_accepted` of them right.
    pub(super) fn count(&mut self, n_drafted: usize, n_accepted: usize) {
        self.steps += 1;
        self.drafting_steps += u64::from(n_drafted > 0);
        for (counts, n) in [
            (&mut self.drafted, n_drafted),
            (&mut self.reached, n_drafted.min(n_accepted + 1)),
            (&mut self.accepted, n_accepted),
        ] {
            counts.resize(counts.len().max(n), 0);
            counts[..n].iter_mut().for_each(|c| *c += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acceptance_counts_what_could_be_right() {
        let mut stats = DraftStats::default();
        for (drafted, accepted) in [(3, 3), (3, 0), (1, 1), (0, 0), (3, 1)] {
            stats.count(drafted, accepted);
        }
        assert_eq!((stats.steps, stats.drafting_steps), (5, 4));
        assert_eq!((stats.n_drafted(), stats.n_accepted()), (10, 5));
        // The first: three of four. The second: one of the two behind a right one that were guessed at all.
        assert_eq!(stats.acceptance(), [0.75, 0.5, 1.0]);
        assert_eq!(stats.mean_length(), 2.25);
        let before = stats.clone();
        stats.count(4, 2);
        let since = stats.since(&before);
        assert_eq!(since.drafted, [1, 1, 1, 1]);
        assert_eq!(since.acceptance(), [1.0, 1.0, 0.0]);
        let mut sum = before;
        sum.add(&since);
        assert_eq!(sum, stats);
    }
}
