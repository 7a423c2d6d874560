//! How well a model predicts a text: perplexity, and divergence from saved predictions.
//!
//! Method and file format are llama.cpp's, so that its figures and files compare with ours: a text is cut into chunks
//! of one context each, a model's start token replaces the first of each chunk, and the second half is scored.

#![forbid(unsafe_code)]

mod base;
mod divergence;
mod text;

pub use base::{BaseReader, BaseWriter};
pub use divergence::{Compared, Divergence, Spread};
pub use text::{ChunkLogits, Chunks, compute};

use crate::engine::EngineError;

/// What can go wrong while a text is scored.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A context too short to score anything in.
    #[error("a context of {n_ctx} is too short: expected at least 4 tokens")]
    ShortContext {
        /// The context.
        n_ctx: usize,
    },
    /// Too little text for one context to warm up in and one to score.
    #[error("the text has {found} tokens, but a context of {n_ctx} needs at least {}", 2 * n_ctx)]
    ShortText {
        /// Tokens of the text.
        found: usize,
        /// The context.
        n_ctx: usize,
    },
    /// A file of saved predictions cannot be read or written.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Cancelled,
    /// A file that holds something else, or predictions of another model.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Base {
        /// The file.
        path: std::path::PathBuf,
        /// The field.
        field: &'static str,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
}

impl EvalError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Engine(e) => e.hint(),
            Self::ShortText { .. } => {
                Some("give a longer text, or a smaller context with -c".into())
            }
            Self::Base { .. } => {
                Some("make the file with `--save-logits` and a model of the same vocabulary".into())
            }
            Self::ShortContext { .. } => Some("512 tokens are usual: -c 512".into()),
            Self::Io { .. } | Self::Cancelled => None,
        }
    }
}

/// A mean with its standard error, from a running sum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean {
    sum: f64,
    sum_of_squares: f64,
    count: usize,
}

impl Mean {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        self.sum += value;
        self.sum_of_squares += value * value;
        self.count += 1;
    }

    /// Number of values.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean; NaN of nothing.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// Standard error of the mean; 0 of fewer than two values.
    pub fn error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let variance = self.sum_of_squares / self.count as f64 - self.mean().powi(2);
        (variance.max(0.0) / (self.count - 1) as f64).sqrt()
    }

    /// Perplexity with its standard error, if the values are negative log-likelihoods.
    pub fn perplexity(&self) -> (f64, f64) {
        let perplexity = self.mean().exp();
        (perplexity, perplexity * self.error())
    }
}

/// Logarithm of the sum of exponentials, with the largest value.
fn log_sum_exp(logits: &[f32]) -> (f32, f32) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from((l - max).exp())).sum();
    (max, max + sum.ln() as f32)
}

/// Negative log-likelihood of `target` under a row of logits.
pub fn nll(logits: &[f32], target: u32) -> f64 {
    let (_, log_sum) = log_sum_exp(logits);
    f64::from(
        log_sum
            - logits
                .get(target as usize)
                .copied()
                .unwrap_or(f32::NEG_INFINITY),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_prediction_has_the_vocabulary_as_perplexity() {
        let mut mean = Mean::default();
        for target in 0..7 {
            mean.add(nll(&[2.5; 50], target));
        }
        let (perplexity, error) = mean.perplexity();
        assert!((perplexity - 50.0).abs() < 1e-3, "{perplexity}");
        assert!(error < 1e-3, "{error}");
        assert_eq!(mean.count(), 7);
    }

    #[test]
    fn the_error_of_a_mean_is_that_of_the_textbook() {
        let mut mean = Mean::default();
        for value in [1.0, 2.0, 3.0, 4.0] {
            mean.add(value);
        }
        assert_eq!(mean.mean(), 2.5);
        assert!((mean.error() - (1.25f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
