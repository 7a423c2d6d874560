//! How many prompt tokens a step may take while others generate, who wait for it; and who gets how many.

#![forbid(unsafe_code)]

use std::time::Duration;

/// What a step with prompts should take at most while others generate.
const STEP_TIME: Duration = Duration::from_millis(300);
/// Fewer tokens than this cost hardly less time.
const FEWEST: usize = 32;
/// Weight of the latest step in the running average.
const NEWEST: f64 = 0.3;

/// Prompt tokens per step: a fixed number, or as many as fit into [`STEP_TIME`] by what earlier steps took.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    fixed: Option<usize>,
    most: usize,
    seconds_per_token: Option<f64>,
}

impl Budget {
    /// `most` is what one graph takes.
    pub fn new(fixed: Option<u32>, most: u32) -> Self {
        let most = most.max(1) as usize;
        Self {
            fixed: fixed.map(|n| (n as usize).clamp(1, most)),
            most,
            seconds_per_token: None,
        }
    }

    /// Prompt tokens of the next step.
    pub fn tokens(&self) -> usize {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let fewest = FEWEST.min(self.most);
        match self.seconds_per_token {
            None => fewest,
            Some(one) => round((STEP_TIME.as_secs_f64() / one) as usize).clamp(fewest, self.most),
        }
    }

    /// Takes note of a step with this many prompt tokens. Small ones say little about large ones.
    pub fn learn(&mut self, n_tokens: usize, time: Duration) {
        if n_tokens < FEWEST.min(self.most) {
            return;
        }
        let latest = (time.as_secs_f64() / n_tokens as f64).max(f64::MIN_POSITIVE);
        let known = self.seconds_per_token.unwrap_or(latest);
        self.seconds_per_token = Some(known + NEWEST * (latest - known));
    }
}

/// The nearest power of two below, or one and a half times that: graphs are used again while sizes repeat.
fn round(n: usize) -> usize {
    let power = (n / 2 + 1).next_power_of_two();
    if 2 * n >= 3 * power {
        3 * power / 2
    } else {
        power
    }
}

/// Shares a budget: everybody the same, what one does not need to the others, and what does not divide evenly to each
/// in turn.
pub(super) fn shares(budget: usize, wants: &[usize], turn: usize) -> Vec<usize> {
    let mut given = vec![0; wants.len()];
    let mut left = budget;
    loop {
        let hungry: Vec<usize> = (0..wants.len()).filter(|&i| given[i] < wants[i]).collect();
        if hungry.is_empty() || left == 0 {
            return given;
        }
        let each = left / hungry.len();
        for k in 0..hungry.len() {
            let i = hungry[(k + turn) % hungry.len()];
            let more = each.max(1).min(wants[i] - given[i]).min(left);
            given[i] += more;
            left -= more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_follow_what_steps_take() {
        let mut budget = Budget::new(None, 512);
        assert_eq!(budget.tokens(), 32, "careful at first");
        budget.learn(32, Duration::from_millis(96));
        assert_eq!(budget.tokens(), 96);
        for _ in 0..50 {
            budget.learn(100, Duration::from_millis(100));
        }
        assert_eq!(budget.tokens(), 256);
        budget.learn(8, Duration::from_secs(9));
        assert_eq!(budget.tokens(), 256, "a small step says little");
        for _ in 0..50 {
            budget.learn(100, Duration::from_micros(10));
        }
        assert_eq!(budget.tokens(), 512, "never more than a graph takes");
        for _ in 0..50 {
            budget.learn(100, Duration::from_secs(10));
        }
        assert_eq!(budget.tokens(), 32, "never so few that nothing moves");
        let mut fixed = Budget::new(Some(1000), 512);
        fixed.learn(100, Duration::from_secs(10));
        assert_eq!(fixed.tokens(), 512);
        assert_eq!(Budget::new(Some(0), 512).tokens(), 1);
        assert_eq!(Budget::new(None, 8).tokens(), 8);
    }

    #[test]
    fn sizes_repeat() {
        let rounded = [1, 2, 3, 4, 5, 6, 7, 8, 47, 48, 63, 64, 95, 96, 1000].map(round);
        assert_eq!(
            rounded,
            [1, 2, 3, 4, 4, 6, 6, 8, 32, 48, 48, 64, 64, 96, 768]
        );
        assert_eq!(round(0), 1);
    }

    #[test]
    fn budgets_are_shared_evenly_and_nothing_is_left_over() {
        assert_eq!(shares(10, &[], 0), [0usize; 0]);
        assert_eq!(shares(10, &[4], 3), [4]);
        assert_eq!(shares(10, &[100, 100], 0), [5, 5]);
        assert_eq!(shares(10, &[2, 100], 0), [2, 8]);
        assert_eq!(shares(10, &[100, 3, 1], 1), [6, 3, 1]);
        assert_eq!(shares(0, &[5], 0), [0]);
        // Less than one each: in turn.
        assert_eq!(shares(2, &[9, 9, 9], 0), [1, 1, 0]);
        assert_eq!(shares(2, &[9, 9, 9], 1), [0, 1, 1]);
        for turn in 0..5 {
            let given = shares(100, &[40, 70, 10, 90], turn);
            assert_eq!(given.iter().sum::<usize>(), 100);
            assert!(given.iter().all(|&g| g >= 10), "{given:?}");
        }
    }
}
