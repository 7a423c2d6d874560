//! Comparing predictions with saved ones.

use rayon::prelude::*;

use super::{Mean, log_sum_exp};

/// Saved log-probabilities below this are too small to matter, and too coarse to use.
const FLOOR: f32 = -16.0;

/// One position, under saved and present predictions.
#[derive(Debug, Clone, Copy)]
pub struct Compared {
    /// Negative log-likelihood of the right token now.
    pub nll: f64,
    /// The same as saved.
    pub base_nll: f64,
    /// Kullback-Leibler divergence of the present prediction from the saved one.
    pub kl: f64,
    /// Whether the likeliest token is the same.
    pub same_top: bool,
}

impl Compared {
    /// Compares one row of logits with saved log-probabilities.
    pub fn new(logits: &[f32], base: &[f32], target: u32) -> Self {
        let (_, log_sum) = log_sum_exp(logits);
        let target = target as usize;
        let mut kl = 0.0;
        for (&base, &logit) in base.iter().zip(logits).filter(|(base, _)| **base > FLOOR) {
            kl += f64::from(base.exp() * (base - (logit - log_sum)));
        }
        Self {
            nll: f64::from(log_sum - logits.get(target).copied().unwrap_or(f32::NEG_INFINITY)),
            base_nll: -f64::from(base.get(target).copied().unwrap_or(f32::NEG_INFINITY)),
            kl,
            same_top: argmax(logits) == argmax(base),
        }
    }
}

fn argmax(row: &[f32]) -> Option<usize> {
    row.iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))
        .map(|(i, _)| i)
}

/// All positions compared so far.
#[derive(Debug, Clone, Default)]
pub struct Divergence {
    nll: Mean,
    base_nll: Mean,
    ratio: Mean,
    kl: Mean,
    change: Mean,
    kls: Vec<f64>,
    changes: Vec<f64>,
    product: f64,
    same_top: usize,
}

/// How values are spread: extremes and percentiles.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Spread {
    /// Largest value.
    pub max: f64,
    /// 99.9th, 99th, 95th and 90th percentiles.
    pub high: [f64; 4],
    /// Median.
    pub median: f64,
    /// 10th, 5th, 1st and 0.1th percentiles.
    pub low: [f64; 4],
    /// Smallest value.
    pub min: f64,
}

impl Divergence {
    /// Adds the scored positions of a chunk.
    pub fn add_chunk(&mut self, rows: &[&[f32]], base: &[Vec<f32>], targets: &[u32]) {
        let compared: Vec<Compared> = (0..rows.len().min(base.len()).min(targets.len()))
            .into_par_iter()
            .map(|i| Compared::new(rows[i], &base[i], targets[i]))
            .collect();
        compared.into_iter().for_each(|c| self.add(c));
    }

    fn add(&mut self, c: Compared) {
        self.nll.add(c.nll);
        self.base_nll.add(c.base_nll);
        self.ratio.add(c.nll - c.base_nll);
        self.product += c.nll * c.base_nll;
        self.kl.add(c.kl);
        self.kls.push(c.kl);
        let change = (-c.nll).exp() - (-c.base_nll).exp();
        self.change.add(change);
        self.changes.push(change);
        self.same_top += usize::from(c.same_top);
    }

    /// Negative log-likelihoods now.
    pub fn nll(&self) -> &Mean {
        &self.nll
    }

    /// Negative log-likelihoods as saved.
    pub fn base_nll(&self) -> &Mean {
        &self.base_nll
    }

    /// Logarithm of the ratio of perplexities.
    pub fn ratio(&self) -> &Mean {
        &self.ratio
    }

    /// Divergences.
    pub fn kl(&self) -> &Mean {
        &self.kl
    }

    /// Changes of the right token's probability.
    pub fn change(&self) -> &Mean {
        &self.change
    }

    /// Root of the mean square of these changes.
    pub fn change_rms(&self) -> f64 {
        (self.change.sum_of_squares / self.change.count.max(1) as f64).sqrt()
    }

    /// Spread of the divergences; `None` of nothing.
    pub fn kl_spread(&self) -> Option<Spread> {
        spread(&self.kls)
    }

    /// Spread of the changes; `None` of nothing.
    pub fn change_spread(&self) -> Option<Spread> {
        spread(&self.changes)
    }

    /// Share of positions with the same likeliest token, and its standard error.
    pub fn same_top(&self) -> (f64, f64) {
        let n = self.kls.len() as f64;
        let share = self.same_top as f64 / n;
        (share, (share * (1.0 - share) / (n - 1.0).max(1.0)).sqrt())
    }

    /// Correlation of the two logarithms of perplexity.
    pub fn correlation(&self) -> f64 {
        let n = self.nll.count as f64;
        let covariance = self.product / n - self.nll.mean() * self.base_nll.mean();
        let deviation = |m: &Mean| (m.sum_of_squares / n - m.mean().powi(2)).max(0.0).sqrt();
        covariance / (deviation(&self.nll) * deviation(&self.base_nll))
    }
}

fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (&min, &max) = (sorted.first()?, sorted.last()?);
    // Linear between the two nearest values.
    let at = |share: f64| {
        let place = share * (sorted.len() - 1) as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        sorted[below] + (sorted[above] - sorted[below]) * place.fract()
    };
    Some(Spread {
        max,
        high: [0.999, 0.99, 0.95, 0.9].map(at),
        median: at(0.5),
        low: [0.1, 0.05, 0.01, 0.001].map(at),
        min,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_softmax(logits: &[f32]) -> Vec<f32> {
        let (_, log_sum) = log_sum_exp(logits);
        logits.iter().map(|l| l - log_sum).collect()
    }

    #[test]
    fn equal_predictions_do_not_diverge() {
        let logits = [0.3, -1.0, 2.0];
        let c = Compared::new(&logits, &log_softmax(&logits), 1);
        assert!(c.kl.abs() < 1e-6 && (c.nll - c.base_nll).abs() < 1e-6 && c.same_top);
    }

    #[test]
    fn divergence_is_that_of_the_formula() {
        // p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2).
        let c = Compared::new(&[0.0, 0.0], &[0.75f32.ln(), 0.25f32.ln()], 1);
        assert!(
            (c.kl - (0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln())).abs() < 1e-6,
            "{}",
            c.kl
        );
        assert!((c.nll - 2f64.ln()).abs() < 1e-6 && (c.base_nll - 4f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn sums_over_positions() {
        let (a, b) = ([2.0f32, 0.0, 0.0], [0.0f32, 1.0, 0.0]);
        let mut all = Divergence::default();
        all.add_chunk(&[&a, &b], &[log_softmax(&a), log_softmax(&a)], &[0, 0]);
        assert_eq!(all.same_top().0, 0.5);
        assert_eq!(all.kl().count(), 2);
        let spread = all.kl_spread().unwrap();
        assert!(spread.min.abs() < 1e-6 && spread.max > 0.1);
        assert!((spread.median - (spread.min + spread.max) / 2.0).abs() < 1e-9);
        assert!((all.change().mean() - all.change_spread().unwrap().median).abs() < 1e-9);
    }
}
