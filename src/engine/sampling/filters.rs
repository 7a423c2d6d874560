//! The filters of the chain: each keeps some of the candidates, never none of them.

use super::candidates::{Candidate, Candidates};

/// Keeps the `k` most probable.
pub(super) fn top_k(candidates: &mut Candidates, k: usize) {
    candidates.keep_top(k.max(1));
}

/// Keeps the shortest run of the most probable that reaches probability `p` and `min_keep` tokens
/// (Holtzman et al. 2019).
pub(super) fn top_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    const FIRST: usize = 64;
    let n = candidates.len();
    if n <= 1 {
        return;
    }
    candidates.softmax();
    let mut sum = 0.0;
    let mut seen = 0;
    let mut sorted = FIRST;
    while seen < n {
        // The run is short as a rule: sort no more than it takes.
        candidates.sort_top(sorted);
        for item in candidates.as_slice().iter().take(sorted).skip(seen) {
            sum += f64::from(item.prob);
            seen += 1;
            if sum >= f64::from(p) && seen >= min_keep {
                return candidates.truncate(seen);
            }
        }
        sorted *= 4;
    }
}

/// Keeps tokens with at least `p` times the largest probability, and `min_keep` at least.
pub(super) fn min_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    let floor = f64::from(candidates.max_logit()) + f64::from(p).ln();
    keep_from(candidates, floor as f32, min_keep);
}

/// Keeps tokens within `n` standard deviations of the largest logit (Tang et al. 2024).
pub(super) fn top_n_sigma(candidates: &mut Candidates, n: f32) {
    let floor = f64::from(candidates.max_logit()) - f64::from(n) * candidates.deviation();
    keep_from(candidates, floor as f32, 1);
}

/// Keeps logits from `floor` on, but the `min_keep` best in any case, and never none.
fn keep_from(candidates: &mut Candidates, floor: f32, min_keep: usize) {
    let floor = floor.min(candidates.max_logit());
    if min_keep > 1 {
        let above = candidates
            .list()
            .iter()
            .filter(|item| item.logit >= floor)
            .count();
        if above < min_keep {
            return candidates.keep_top(min_keep);
        }
    }
    candidates.keep_at_least(floor);
}

/// Keeps the tokens whose surprise is nearest to the entropy until they exceed probability `p` and
/// reach `min_keep` (Meister et al. 2022).
pub(super) fn typical(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if candidates.len() <= 1 {
        return;
    }
    let normaliser = candidates.softmax();
    let entropy = entropy(candidates.as_slice(), |item| {
        normaliser.log_prob(item.logit)
    });
    candidates.keep_by_score(
        |item| (-normaliser.log_prob(item.logit) - entropy).abs(),
        |sum, count| sum > f64::from(p) && count >= min_keep,
    );
}

/// Drops every token of at least probability `threshold` but the least probable of them, if that
/// leaves `min_keep`. The caller decides by chance whether to act.
pub(super) fn xtc(candidates: &mut Candidates, threshold: f32, min_keep: usize) {
    let n = candidates.len();
    if n < 2 {
        return;
    }
    candidates.softmax();
    let is_top = |item: &&Candidate| item.prob >= threshold;
    let dropped = candidates
        .as_slice()
        .iter()
        .filter(is_top)
        .count()
        .saturating_sub(1);
    let last = candidates
        .as_slice()
        .iter()
        .filter(is_top)
        .max_by(|a, b| Candidate::rank(a, b));
    if let Some(&last) = last
        && dropped > 0
        && n - dropped >= min_keep
    {
        candidates.retain(|item| item.prob < threshold || item.token == last.token);
    }
}

/// Divides the logits by `temperature`; 0 or less keeps only the most probable token.
pub(super) fn temperature(candidates: &mut Candidates, temperature: f32) {
    if temperature <= 0.0 {
        candidates.keep_best();
    } else if temperature != 1.0 {
        candidates.scale(temperature);
    }
}

/// A temperature between `centre - range` and `centre + range`, which grows with the entropy of
/// the candidates relative to the largest entropy they could have, raised to `exponent`.
pub(super) fn dynamic_temperature(
    candidates: &mut Candidates,
    centre: f32,
    range: f32,
    exponent: f32,
) {
    let n = candidates.len();
    if n <= 1 {
        return;
    }
    let normaliser = candidates.softmax();
    let entropy = entropy(candidates.as_slice(), |item| {
        normaliser.log_prob(item.logit)
    });
    let share = (entropy / (n as f64).ln()).clamp(0.0, 1.0);
    let low = f64::from((centre - range).max(0.0));
    let high = f64::from(centre) + f64::from(range);
    let chosen = low + (high - low) * share.powf(f64::from(exponent));
    temperature(candidates, chosen.min(f64::from(f32::MAX)) as f32);
}

/// Entropy in nats.
fn entropy(list: &[Candidate], log_prob: impl Fn(&Candidate) -> f64) -> f64 {
    list.iter()
        .filter(|item| item.prob > 0.0)
        .map(|item| -f64::from(item.prob) * log_prob(item))
        .sum()
}
