//! Probabilities to report beside a token, taken from the model's logits before any sampler.

use super::candidates::Candidates;

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogProb {
    /// Token id.
    pub token: u32,
    /// At most 0; minus infinity for a token whose logit is NaN or minus infinity.
    pub logprob: f32,
}

/// Log-probabilities of one output position.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbs {
    /// The token that was chosen.
    pub chosen: TokenLogProb,
    /// The most probable tokens, best first.
    pub top: Vec<TokenLogProb>,
}

impl LogProbs {
    /// Softmax over a whole row of logits: the chosen token and the `n` most probable ones.
    pub fn of_row(logits: &[f32], chosen: u32, n: usize) -> Self {
        let mut candidates = Candidates::default();
        candidates.load(logits);
        let normaliser = candidates.row_normaliser();
        let logit = candidates.row_mut().get(chosen as usize).copied();
        let entry = |token, logit| TokenLogProb {
            token,
            logprob: match logit {
                f32::NEG_INFINITY => logit,
                logit => normaliser.log_prob(logit).min(0.0) as f32,
            },
        };
        candidates.keep_top(n);
        let top = candidates.as_slice().iter();
        Self {
            chosen: entry(chosen, logit.unwrap_or(f32::NEG_INFINITY)),
            top: top.map(|item| entry(item.token, item.logit)).collect(),
        }
    }
}
