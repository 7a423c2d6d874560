//! The tokens that are still in the race, with their logits.
//!
//! A row starts *dense*: a copy of the logits, indexed by token. Penalties and biases edit it by
//! index, and the first filter turns it into a *list* of the tokens it keeps, so that the usual
//! chain never builds, let alone sorts, a list of the whole vocabulary.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::math::exp_nonpositive;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Token id.
    pub token: u32,
    /// Logit after the samplers so far.
    pub logit: f32,
    /// Probability; set by the last step of a chain.
    pub prob: f32,
}

impl Candidate {
    /// Falling logits, ties by rising token id: a total order, so results do not depend on the
    /// sorting algorithm.
    pub(super) fn rank(a: &Self, b: &Self) -> Ordering {
        b.logit
            .total_cmp(&a.logit)
            .then_with(|| a.token.cmp(&b.token))
    }
}

/// Maps logits to logarithms of probabilities.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogNormaliser {
    max: f64,
    ln_sum: f64,
}

impl LogNormaliser {
    /// Natural logarithm of the probability of a logit.
    pub(super) fn log_prob(self, logit: f32) -> f64 {
        f64::from(logit) - self.max - self.ln_sum
    }
}

/// See the module. No logit is NaN or plus infinity, and minus infinity never enters the list.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    dense: Vec<f32>,
    list: Vec<Candidate>,
    is_dense: bool,
    /// Length of the part of the list that is in rank order and ahead of the rest.
    sorted: usize,
    spare: Vec<Candidate>,
    scores: Vec<(f64, u32)>,
}

/// A copied sampler needs its own scratch space, not a copy of the old content.
impl Clone for Candidates {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// NaN counts as minus infinity, plus infinity as the largest number; -0 becomes +0 so that equal
/// logits compare equal in the total order.
fn clean(logit: f32) -> f32 {
    let logit = if logit.is_nan() {
        f32::NEG_INFINITY
    } else {
        logit
    };
    logit.min(f32::MAX) + 0.0
}

/// Values handled side by side, so that the compiler can use vector instructions.
const LANES: usize = 8;

/// Largest value; minus infinity for none.
fn max_of(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let mut max = chunks
        .remainder()
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    for lane in lanes {
        max = max.max(lane);
    }
    max
}

impl Candidates {
    /// Takes a row of logits.
    pub(super) fn load(&mut self, logits: &[f32]) {
        self.dense.clear();
        self.dense.extend(logits.iter().map(|&logit| clean(logit)));
        self.list.clear();
        self.sorted = 0;
        self.is_dense = true;
    }

    /// The whole row, for a constraint's mask. Empty once the row has become a list.
    pub(super) fn row_mut(&mut self) -> &mut [f32] {
        if self.is_dense {
            &mut self.dense
        } else {
            &mut []
        }
    }

    /// Adds to the logit of one token; minus infinity forbids it.
    pub(super) fn add(&mut self, token: u32, bias: f32) {
        if let Some(logit) = self.row_mut().get_mut(token as usize) {
            *logit = if bias == f32::NEG_INFINITY {
                bias
            } else {
                keep_finite(*logit, *logit + bias)
            };
        }
    }

    /// Replaces the logit of each token in `map` by `change(logit, value)`.
    pub(super) fn update<V>(&mut self, map: &HashMap<u32, V>, change: impl Fn(f32, &V) -> f32) {
        if self.is_dense {
            for (&token, value) in map {
                if let Some(logit) = self.dense.get_mut(token as usize) {
                    *logit = keep_finite(*logit, change(*logit, value));
                }
            }
            return;
        }
        for item in &mut self.list {
            if let Some(value) = map.get(&item.token) {
                item.logit = keep_finite(item.logit, change(item.logit, value));
            }
        }
        self.sorted = 0;
    }

    /// The list; a row still dense becomes one of all tokens, in order of their ids.
    pub(super) fn list(&mut self) -> &mut [Candidate] {
        if self.is_dense {
            self.keep_at_least(f32::MIN);
        }
        &mut self.list
    }

    /// The list as it is.
    pub(super) fn as_slice(&self) -> &[Candidate] {
        &self.list
    }

    /// Number of candidates.
    pub(super) fn len(&mut self) -> usize {
        self.list().len()
    }

    /// Largest logit; minus infinity if there is no candidate.
    pub(super) fn max_logit(&self) -> f32 {
        if self.is_dense {
            max_of(&self.dense)
        } else if self.sorted > 0 {
            self.list[0].logit
        } else {
            self.list
                .iter()
                .fold(f32::NEG_INFINITY, |max, item| max.max(item.logit))
        }
    }

    /// Standard deviation of the logits.
    pub(super) fn deviation(&mut self) -> f64 {
        let list = self.list();
        let n = list.len().max(1) as f64;
        let mean = list.iter().map(|item| f64::from(item.logit)).sum::<f64>() / n;
        let square = |item: &Candidate| (f64::from(item.logit) - mean).powi(2);
        (list.iter().map(square).sum::<f64>() / n).sqrt()
    }

    /// Keeps the tokens with a logit of at least `floor`, in their order.
    pub(super) fn keep_at_least(&mut self, floor: f32) {
        let floor = floor.max(f32::MIN);
        if !self.is_dense {
            return self.retain(|item| item.logit >= floor);
        }
        self.list.clear();
        let live = self
            .dense
            .iter()
            .enumerate()
            .filter(|&(_, &logit)| logit >= floor);
        self.list
            .extend(live.map(|(token, &logit)| candidate(token, logit)));
        self.is_dense = false;
        self.sorted = 0;
    }

    /// Keeps the candidates that `keep` accepts, in their order.
    pub(super) fn retain(&mut self, keep: impl Fn(&Candidate) -> bool) {
        let all_sorted = self.sorted == self.list().len();
        self.list.retain(keep);
        self.sorted = if all_sorted { self.list.len() } else { 0 };
    }

    /// Keeps the `k` best, in rank order.
    pub(super) fn keep_top(&mut self, k: usize) {
        if self.is_dense {
            self.top_of_row(k);
        }
        self.sort_top(k);
        self.truncate(k);
    }

    /// Turns the row into a list that holds its `k` best and perhaps some more.
    ///
    /// One pass that collects what beats the `k`-th best seen so far. Equal logits further on have
    /// higher ids and rank behind, so "beats" may be strict.
    fn top_of_row(&mut self, k: usize) {
        const CHUNK: usize = 32;
        let room = k.saturating_mul(2).clamp(256, self.dense.len().max(256));
        let mut floor = f32::NEG_INFINITY;
        self.list.clear();
        for (i, chunk) in self.dense.chunks(CHUNK).enumerate() {
            if max_of(chunk) <= floor {
                continue;
            }
            for (j, &logit) in chunk.iter().enumerate() {
                if logit > floor {
                    self.list.push(candidate(i * CHUNK + j, logit));
                }
            }
            if self.list.len() >= room && self.list.len() > k {
                self.list.select_nth_unstable_by(k - 1, Candidate::rank);
                self.list.truncate(k);
                floor = self.list[k - 1].logit;
            }
        }
        self.is_dense = false;
        self.sorted = 0;
    }

    /// Brings the `k` best to the front, in rank order.
    pub(super) fn sort_top(&mut self, k: usize) {
        let k = k.min(self.list().len());
        if k <= self.sorted {
            return;
        }
        let rest = &mut self.list[self.sorted..];
        let wanted = k - self.sorted;
        if wanted < rest.len() {
            rest.select_nth_unstable_by(wanted - 1, Candidate::rank);
        }
        rest[..wanted].sort_unstable_by(Candidate::rank);
        self.sorted = k;
    }

    /// Drops all but the first `n`, which must be in rank order.
    pub(super) fn truncate(&mut self, n: usize) {
        debug_assert!(n <= self.sorted || self.list.len() <= n);
        self.list.truncate(n);
        self.sorted = self.sorted.min(self.list.len());
    }

    /// Reduces to the single best token.
    pub(super) fn keep_best(&mut self) {
        if self.is_dense {
            let max = max_of(&self.dense);
            let token = self.dense.iter().position(|&logit| logit == max);
            self.list.clear();
            if let Some(token) = token.filter(|_| max > f32::NEG_INFINITY) {
                self.list.push(candidate(token, max));
            }
            self.is_dense = false;
        } else if let Some(&best) = self.list.iter().min_by(|a, b| Candidate::rank(a, b)) {
            self.list.clear();
            self.list.push(best);
        }
        self.sorted = self.list.len();
    }

    /// Divides all logits by a positive temperature.
    pub(super) fn scale(&mut self, temperature: f32) {
        let max = self.max_logit();
        // A tiny temperature would push the logits out of range and lose their order; softmax
        // does not see a common shift, so put the largest at 0 first.
        let shift = if (max / temperature).is_finite() {
            0.0
        } else {
            max
        };
        for item in self.list() {
            item.logit = keep_finite(item.logit, (item.logit - shift) / temperature);
        }
    }

    /// Sets all probabilities.
    pub(super) fn softmax(&mut self) -> LogNormaliser {
        let max = self.max_logit();
        let mut sum = 0.0;
        for item in self.list() {
            item.prob = exp_nonpositive(item.logit - max);
            sum += f64::from(item.prob);
        }
        let inverse = 1.0 / sum;
        for item in &mut self.list {
            item.prob = (f64::from(item.prob) * inverse) as f32;
        }
        LogNormaliser {
            max: f64::from(max),
            ln_sum: sum.ln(),
        }
    }

    /// What [`Self::softmax`] returns, for a row that is still dense, which it stays.
    pub(super) fn row_normaliser(&self) -> LogNormaliser {
        let max = max_of(&self.dense);
        let mut sum = 0.0;
        for chunk in self.dense.chunks(LANES) {
            let mut exps = [0.0; LANES];
            for (exp, &logit) in exps.iter_mut().zip(chunk) {
                *exp = exp_nonpositive(logit - max);
            }
            sum += exps.iter().map(|&exp| f64::from(exp)).sum::<f64>();
        }
        LogNormaliser {
            max: f64::from(max),
            ln_sum: sum.ln(),
        }
    }

    /// Orders the list by rising `score`, ties by rank, and keeps the shortest prefix that
    /// `enough(probability so far, count)` accepts.
    pub(super) fn keep_by_score(
        &mut self,
        score: impl Fn(&Candidate) -> f64,
        enough: impl Fn(f64, usize) -> bool,
    ) {
        self.sort_top(usize::MAX);
        let index = 0u32..;
        self.scores.clear();
        self.scores.extend(self.list.iter().map(score).zip(index));
        self.scores
            .sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.spare.clear();
        let mut sum = 0.0;
        for &(_, index) in &self.scores {
            let item = self.list[index as usize];
            sum += f64::from(item.prob);
            self.spare.push(item);
            if enough(sum, self.spare.len()) {
                break;
            }
        }
        std::mem::swap(&mut self.list, &mut self.spare);
        self.sorted = 0;
    }

    /// The candidate at `u` in [0, 1) of the cumulated probabilities; `None` for an empty list.
    pub(super) fn pick(&self, u: f64) -> Option<Candidate> {
        let total: f64 = self.list.iter().map(|item| f64::from(item.prob)).sum();
        let target = u * total;
        let mut sum = 0.0;
        let mut last = self.list.first();
        for item in &self.list {
            if item.prob > 0.0 {
                sum += f64::from(item.prob);
                last = Some(item);
                if sum > target {
                    break;
                }
            }
        }
        last.copied()
    }

    /// Replaces the logits by `change(probability)` and remembers the probabilities.
    pub(super) fn reshape(&mut self, change: impl Fn(f32) -> f32) {
        self.scores.clear();
        for item in &mut self.list {
            self.scores.push((f64::from(item.prob), item.token));
            item.logit = change(item.prob);
        }
        self.sorted = 0;
    }

    /// The probability of a token before the last [`Self::reshape`].
    pub(super) fn prob_before_reshape(&self, token: u32) -> Option<f32> {
        let entry = self.scores.iter().find(|entry| entry.1 == token)?;
        Some(entry.0 as f32)
    }
}

/// A changed logit of a live candidate stays finite, that of a forbidden one stays as it is.
fn keep_finite(old: f32, new: f32) -> f32 {
    if old == f32::NEG_INFINITY {
        old
    } else if new.is_nan() {
        f32::MIN
    } else {
        new.clamp(f32::MIN, f32::MAX)
    }
}

fn candidate(token: usize, logit: f32) -> Candidate {
    Candidate {
        token: token as u32,
        logit,
        prob: 0.0,
    }
}
