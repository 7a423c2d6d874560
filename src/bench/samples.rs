//! Averages of repeated measurements.

use std::time::Duration;

/// Times of the repetitions of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samples {
    /// Nanoseconds of each repetition.
    pub ns: Vec<u64>,
    n_tokens: u64,
}

impl Samples {
    /// Repetitions that each computed `n_tokens` tokens.
    pub fn new(times: &[Duration], n_tokens: u64) -> Self {
        let ns = |t: &Duration| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX).max(1);
        Self {
            ns: times.iter().map(ns).collect(),
            n_tokens,
        }
    }

    /// Tokens per second of each repetition.
    pub fn rates(&self) -> Vec<f64> {
        let rate = |&ns: &u64| self.n_tokens as f64 * 1e9 / ns as f64;
        self.ns.iter().map(rate).collect()
    }

    /// Average and standard deviation of the times, in whole nanoseconds.
    pub fn time(&self) -> (u64, u64) {
        let ns: Vec<f64> = self.ns.iter().map(|&ns| ns as f64).collect();
        let (mean, deviation) = mean_and_deviation(&ns);
        (mean as u64, deviation as u64)
    }

    /// Average and standard deviation of the tokens per second.
    pub fn rate(&self) -> (f64, f64) {
        mean_and_deviation(&self.rates())
    }
}

/// Mean and standard deviation of a sample (n - 1 in the divisor); 0 where there is none.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() == 1 {
        return (mean, 0.0);
    }
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

/// Quotient of two independent measurements, each with its deviation, and the quotient's own; relative errors add as
/// squares. `None` where there is nothing to divide by.
pub fn ratio(a: (f64, f64), b: (f64, f64)) -> Option<(f64, f64)> {
    if !(a.0 > 0.0 && b.0 > 0.0) {
        return None;
    }
    let ratio = a.0 / b.0;
    let spread = ratio * (a.1 / a.0).hypot(b.1 / b.0);
    ratio.is_finite().then_some((ratio, spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_those_of_a_sample() {
        let times = [1, 3].map(Duration::from_secs);
        let samples = Samples::new(&times, 6);
        assert_eq!(samples.time(), (2_000_000_000, 1_414_213_562));
        let (mean, deviation) = samples.rate();
        assert_eq!(mean, 4.0);
        assert!((deviation - 8f64.sqrt()).abs() < 1e-12);
        assert_eq!(Samples::new(&times[..1], 6).rate(), (6.0, 0.0));
        assert_eq!(Samples::new(&[], 6).rate(), (0.0, 0.0));
    }

    #[test]
    fn ratios_carry_both_spreads() {
        let (value, spread) = ratio((20.0, 3.0), (10.0, 2.0)).unwrap();
        assert_eq!(value, 2.0);
        assert!((spread - 0.5).abs() < 1e-12);
        assert_eq!(ratio((1.0, 0.0), (0.0, 0.0)), None);
    }
}
