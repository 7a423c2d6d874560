//! Last steps of a chain that choose the token: plain draw, Mirostat 1 and 2, adaptive-p.
//!
//! All but the plain draw keep a running average over the tokens drawn. Drawing only notes what an
//! accepted token would change; `accept` changes it. So drawing twice gives the same token twice.

use super::candidates::{Candidate, Candidates};

/// Mirostat estimates the exponent of the distribution's tail from this many tokens.
const MIROSTAT_TOKENS: usize = 100;

/// How the token is chosen from the candidates that are left.
#[derive(Clone, Debug)]
pub(super) enum Selector {
    /// A draw from the probabilities.
    Draw,
    /// Mirostat (Basu et al. 2020), version 1 or 2: steers the surprise of the text.
    Mirostat {
        version: Version,
        target: f32,
        rate: f32,
        /// Largest surprise allowed for the next token, in bits.
        limit: f32,
        pending: Option<Pending>,
    },
    /// Adaptive-p: prefers tokens near a probability that keeps the average at the target.
    Adaptive {
        target: f32,
        decay: f32,
        weighted_sum: f32,
        total_weight: f32,
        pending: Option<Pending>,
    },
}

/// Version of Mirostat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Version {
    /// Estimates a top-k from Zipf's law over this many tokens of vocabulary.
    One { n_vocab: usize },
    /// Cuts at the allowed surprise.
    Two,
}

/// The token drawn last and its probability.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    token: u32,
    prob: f32,
}

impl Selector {
    /// Mirostat at its start.
    pub(super) fn mirostat(version: Version, target: f32, rate: f32) -> Self {
        Self::Mirostat {
            version,
            target,
            rate,
            limit: 2.0 * target,
            pending: None,
        }
    }

    /// Adaptive-p at its start: the average stands at the target.
    pub(super) fn adaptive(target: f32, decay: f32) -> Self {
        Self::Adaptive {
            target,
            decay,
            weighted_sum: target / (1.0 - decay),
            total_weight: 1.0 / (1.0 - decay),
            pending: None,
        }
    }

    /// Name in the description of a chain.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Draw => "dist",
            Self::Mirostat {
                version: Version::One { .. },
                ..
            } => "mirostat",
            Self::Mirostat {
                version: Version::Two,
                ..
            } => "mirostat-v2",
            Self::Adaptive { .. } => "adaptive-p",
        }
    }

    /// Back to the start.
    pub(super) fn reset(&mut self) {
        *self = match *self {
            Self::Draw => Self::Draw,
            Self::Mirostat {
                version,
                target,
                rate,
                ..
            } => Self::mirostat(version, target, rate),
            Self::Adaptive { target, decay, .. } => Self::adaptive(target, decay),
        };
    }

    /// Chooses a token by `u` in [0, 1); `None` if there is no candidate.
    pub(super) fn select(&mut self, candidates: &mut Candidates, u: f64) -> Option<Candidate> {
        if candidates.len() == 0 {
            return None;
        }
        match self {
            Self::Draw => {
                candidates.softmax();
                candidates.pick(u)
            }
            Self::Mirostat {
                version,
                limit,
                pending,
                ..
            } => {
                match *version {
                    Version::One { n_vocab } => cut_by_zipf(candidates, n_vocab, *limit),
                    Version::Two => cut_by_surprise(candidates, *limit),
                }
                candidates.softmax();
                let chosen = candidates.pick(u)?;
                *pending = Some(Pending {
                    token: chosen.token,
                    prob: chosen.prob,
                });
                Some(chosen)
            }
            Self::Adaptive {
                target,
                weighted_sum,
                total_weight,
                pending,
                ..
            } => {
                candidates.softmax();
                if *target < 0.0 {
                    return candidates.pick(u);
                }
                let wanted = (2.0 * *target - *weighted_sum / *total_weight).clamp(0.0, 1.0);
                let (chosen, prob) = pick_near(candidates, wanted, u)?;
                *pending = Some(Pending {
                    token: chosen.token,
                    prob,
                });
                Some(chosen)
            }
        }
    }

    /// Learns from an accepted token. One that was not drawn here (forced by the caller) teaches
    /// nothing.
    pub(super) fn accept(&mut self, token: u32) {
        match self {
            Self::Draw => {}
            Self::Mirostat {
                target,
                rate,
                limit,
                pending,
                ..
            } => {
                if let Some(drawn) = pending.take().filter(|drawn| drawn.token == token) {
                    let surprise = -drawn.prob.log2();
                    *limit = (*limit - *rate * (surprise - *target)).clamp(f32::MIN, f32::MAX);
                }
            }
            Self::Adaptive {
                decay,
                weighted_sum,
                total_weight,
                pending,
                ..
            } => {
                if let Some(drawn) = pending.take().filter(|drawn| drawn.token == token) {
                    *weighted_sum = drawn.prob + *decay * *weighted_sum;
                    *total_weight = 1.0 + *decay * *total_weight;
                }
            }
        }
    }
}

/// Mirostat 1: fits a Zipf exponent to the most probable tokens and keeps as many tokens as have
/// the allowed surprise under it.
fn cut_by_zipf(candidates: &mut Candidates, n_vocab: usize, limit: f32) {
    candidates.sort_top(MIROSTAT_TOKENS);
    let top = &candidates.as_slice()[..candidates.as_slice().len().min(MIROSTAT_TOKENS)];
    let (mut products, mut squares) = (0.0, 0.0);
    for (i, pair) in top.windows(2).enumerate() {
        let steps = ((i + 2) as f64 / (i + 1) as f64).ln();
        // The logarithm of a ratio of probabilities is the difference of the logits.
        products += steps * (f64::from(pair[0].logit) - f64::from(pair[1].logit));
        squares += steps * steps;
    }
    if squares == 0.0 {
        return;
    }
    let exponent = products / squares;
    let excess = exponent - 1.0;
    // excess / (1 - n^-excess) tends to 1 / ln n where the exponent is that of Zipf's law.
    let share = if excess.abs() < 1e-6 {
        1.0 / (n_vocab as f64).ln()
    } else {
        excess / (1.0 - (n_vocab as f64).powf(-excess))
    };
    let k = (share * f64::from(limit).exp2()).powf(1.0 / exponent);
    // A float turns into an integer by saturating; NaN becomes 0.
    candidates.keep_top((k as usize).max(1));
}

/// Mirostat 2: keeps tokens whose surprise is at most `limit` bits, the best one in any case.
fn cut_by_surprise(candidates: &mut Candidates, limit: f32) {
    let normaliser = candidates.softmax();
    let max = candidates.max_logit();
    let bits = |logit| -normaliser.log_prob(logit) / std::f64::consts::LN_2;
    if bits(max) > f64::from(limit) {
        candidates.keep_best();
    } else {
        candidates.retain(|item| bits(item.logit) <= f64::from(limit));
    }
}

/// Draws after reshaping the probabilities around `wanted`; returns the token and the probability
/// it had before. Expects the probabilities to be set.
fn pick_near(candidates: &mut Candidates, wanted: f32, u: f64) -> Option<(Candidate, f32)> {
    // Height, width and steepness of the peak: the values that llama.cpp's users know.
    const PEAK: f32 = 5.0;
    const WIDTH: f32 = 0.3;
    const SHARPNESS: f32 = 10.0;
    candidates.reshape(|prob| {
        let distance = (prob - wanted).abs() / WIDTH;
        PEAK - SHARPNESS * distance * distance / (1.0 + distance)
    });
    candidates.softmax();
    let chosen = candidates.pick(u)?;
    let prob = candidates.prob_before_reshape(chosen.token)?;
    Some((chosen, prob))
}
