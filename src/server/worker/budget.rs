//! How many prompt tokens a step may take while others generate, who wait for it; and who gets how many.
//!
//! A step costs about `a + b * tokens`: weights are read whatever it holds, and the rest grows. Neither is known before, so
//! both are learnt from the steps that streams had to wait for: running averages of tokens and seconds give a point of the
//! line, and what changes together gives its slope. A step then takes the tokens at which the line, and a margin of what it
//! was off by lately, meet the time that streams may wait.

#![forbid(unsafe_code)]

use std::time::Duration;

/// What streams should wait for a token at most while prompts are computed. They never do for more than a fifth longer,
/// unless the machine itself stumbles.
pub(super) const STEP_TIME: Duration = Duration::from_millis(300);
/// Fewer tokens than this cost hardly less time.
const FEWEST: usize = 32;
/// Tokens come in multiples of this: buffers of a step are used again while it does not grow.
const GRAIN: usize = 8;
/// Weight of the latest step in running averages.
const NEWEST: f64 = 0.25;
/// Most that a step grows beyond those that were timed.
const GROWTH: f64 = 1.5;
/// A step that takes this many times as long as expected says that the machine stumbled, not what steps cost; unless the
/// next one does so too.
const STUMBLE: f64 = 2.0;
/// Of this many mean deviations the margin consists: of steps that scatter as they do, one in twenty takes longer.
const DEVIATIONS: f64 = 2.0;
/// The first deviation, as a part of the first step's time.
const FIRST_DEVIATION: f64 = 0.1;
/// The slope is at least this part of what it would be if all of a step grew with its tokens.
const LEAST_SLOPE: f64 = 0.25;
/// Spread of sizes, as a part of their mean, from which on they say more about the slope than was known before.
const TELLING_SPREAD: f64 = 0.1;
/// A prompt this much deeper than twice the depth of the latest step is another matter: attention has more to look at.
const DEEPER: usize = 1024;

/// What a step holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Tokens of sequences that generate.
    pub streams: usize,
    /// Tokens in memory before the part of the deepest prompt.
    pub depth: usize,
}

/// Prompt tokens per step: a fixed number, or as many as streams can wait for by what earlier steps took.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    fixed: Option<usize>,
    most: usize,
    line: Option<Line>,
}

impl Budget {
    /// `most` is what one graph takes.
    pub fn new(fixed: Option<u32>, most: u32) -> Self {
        let most = most.max(1) as usize;
        Self {
            fixed: fixed.map(|n| (n as usize).clamp(1, most)),
            most,
            line: None,
        }
    }

    /// Prompt tokens of a step that always has as many.
    pub fn constant(&self) -> usize {
        self.fixed.unwrap_or(self.most)
    }

    /// Prompt tokens of the next step, for which streams can wait this long.
    pub fn tokens(&self, load: Load, time: Duration) -> usize {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let all = self.line(load.depth).map(|l| l.tokens(time.as_secs_f64()));
        let prompts = (all.unwrap_or(0.0) as usize).saturating_sub(load.streams);
        (prompts / GRAIN * GRAIN).clamp(FEWEST.min(self.most), self.most)
    }

    /// Takes note of a step with this many prompt tokens. Small ones say little about large ones.
    pub fn learn(&mut self, load: Load, prompt_tokens: usize, time: Duration) {
        if prompt_tokens < FEWEST.min(self.most) {
            return;
        }
        let (tokens, seconds) = ((prompt_tokens + load.streams) as f64, time.as_secs_f64());
        let mut line = match self.line(load.depth) {
            Some(line) => line.clone(),
            None => Line::through(tokens, seconds),
        };
        line.add(tokens, seconds);
        line.depth = load.depth;
        self.line = Some(line);
    }

    /// What is known about prompts of this depth.
    fn line(&self, depth: usize) -> Option<&Line> {
        let line = self.line.as_ref();
        line.filter(|line| depth <= 2 * line.depth + DEEPER)
    }
}

/// Seconds of a step by its tokens.
#[derive(Debug, Clone)]
struct Line {
    /// Means.
    tokens: f64,
    seconds: f64,
    /// Variance of tokens, and covariance.
    spread: f64,
    together: f64,
    /// Seconds per token more.
    slope: f64,
    /// Mean of what the line is off by.
    deviation: f64,
    /// Tokens and depth of the latest step.
    latest: f64,
    depth: usize,
    stumbled: bool,
}

impl Line {
    /// From one step. All of it may grow with the tokens: that is the steepest line, which promises least.
    fn through(tokens: f64, seconds: f64) -> Self {
        Self {
            tokens,
            seconds,
            spread: 0.0,
            together: 0.0,
            slope: seconds / tokens,
            deviation: FIRST_DEVIATION * seconds,
            latest: tokens,
            depth: 0,
            stumbled: false,
        }
    }

    fn seconds(&self, tokens: f64) -> f64 {
        self.seconds + self.slope * (tokens - self.tokens)
    }

    /// Tokens of a step that takes no longer, probably.
    fn tokens(&self, seconds: f64) -> f64 {
        let spare = seconds - DEVIATIONS * self.deviation - self.seconds;
        let most = GROWTH * self.latest.max(self.tokens);
        (self.tokens + spare / self.slope.max(f64::MIN_POSITIVE)).clamp(0.0, most)
    }

    fn add(&mut self, tokens: f64, seconds: f64) {
        let expected = self.seconds(tokens);
        let stumbled = seconds > STUMBLE * expected;
        if stumbled && !std::mem::replace(&mut self.stumbled, stumbled) {
            return;
        }
        self.stumbled = stumbled;
        let seconds = seconds.min(STUMBLE * expected);
        let off = (seconds - expected).abs();
        self.deviation += NEWEST * (off - self.deviation);
        let (dx, dy) = (tokens - self.tokens, seconds - self.seconds);
        self.tokens += NEWEST * dx;
        self.seconds += NEWEST * dy;
        self.spread = (1.0 - NEWEST) * (self.spread + NEWEST * dx * dx);
        self.together = (1.0 - NEWEST) * (self.together + NEWEST * dx * dy);
        // What was known counts as much as steps that differ so much in size.
        let known = (TELLING_SPREAD * self.tokens).powi(2);
        let slope = (self.together + known * self.slope) / (self.spread + known);
        let steepest = self.seconds / self.tokens;
        self.slope = slope.clamp(LEAST_SLOPE * steepest, steepest);
        self.latest = tokens;
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

    /// Most seconds a stream may wait.
    const BOUND: f64 = 0.36;
    const STREAMS: usize = 8;

    /// A machine: seconds of a step by tokens and depth.
    struct Machine {
        base: f64,
        token: f64,
        /// Per token and token before it.
        depth: f64,
        /// Steps take up to this part more or less.
        noise: f64,
    }

    /// Weights dominate, as of many experts on two cores.
    const EXPERTS: Machine = Machine {
        base: 0.17,
        token: 0.0018,
        depth: 1e-8,
        noise: 0.04,
    };
    /// Arithmetic dominates.
    const DENSE: Machine = Machine {
        base: 0.03,
        token: 0.0035,
        depth: 1e-7,
        noise: 0.04,
    };
    const MACHINES: [Machine; 2] = [EXPERTS, DENSE];

    impl Machine {
        fn seconds(&self, tokens: usize, depth: usize, random: &mut u32) -> f64 {
            *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = self.noise * (f64::from(*random >> 8) / f64::from(1 << 23) - 1.0);
            let n = tokens as f64;
            (self.base + n * (self.token + self.depth * depth as f64)) * (1.0 + noise)
        }

        /// Prompt tokens that fit at this depth if all is known.
        fn best(&self, depth: usize) -> f64 {
            let per_token = self.token + self.depth * depth as f64;
            (STEP_TIME.as_secs_f64() - self.base) / per_token - STREAMS as f64
        }

        /// Computes a prompt from some depth to another; gives each step's tokens and seconds.
        fn prompt(&self, budget: &mut Budget, from: usize, to: usize) -> Vec<(usize, f64)> {
            let (mut depth, mut random, mut steps) = (from, 1, Vec::new());
            while depth < to {
                let streams = STREAMS;
                let load = Load { streams, depth };
                let n = budget.tokens(load, STEP_TIME).min(to - depth);
                let seconds = self.seconds(n + STREAMS, depth, &mut random);
                budget.learn(load, n, Duration::from_secs_f64(seconds));
                depth += n;
                steps.push((n, seconds));
            }
            steps
        }
    }

    fn longest(steps: &[(usize, f64)]) -> f64 {
        steps.iter().map(|s| s.1).fold(0.0, f64::max)
    }

    #[test]
    fn no_step_is_over_the_bound_from_the_first_one_on() {
        for machine in MACHINES {
            let mut budget = Budget::new(None, 512);
            for to in [4000, 700, 4000, 16_000] {
                let steps = machine.prompt(&mut budget, 0, to);
                assert!(longest(&steps) < BOUND, "{steps:?}");
            }
        }
    }

    #[test]
    fn steps_are_soon_as_large_as_they_can_be() {
        for machine in MACHINES {
            let mut budget = Budget::new(None, 512);
            let steps = machine.prompt(&mut budget, 0, 4000);
            assert_eq!(steps[0].0, FEWEST, "careful at first");
            // The margin and the grain cost something.
            let late = &steps[8..steps.len() - 1];
            let mean = late.iter().map(|s| s.0).sum::<usize>() as f64 / late.len() as f64;
            assert!(
                mean > 0.75 * machine.best(2000),
                "{mean} of {}: {steps:?}",
                machine.best(2000)
            );
        }
    }

    #[test]
    fn a_prompt_that_goes_on_far_down_begins_carefully() {
        let mut budget = Budget::new(None, 512);
        DENSE.prompt(&mut budget, 0, 3000);
        let steps = DENSE.prompt(&mut budget, 40_000, 41_000);
        assert_eq!(steps[0].0, FEWEST);
        assert!(longest(&steps) < BOUND, "{steps:?}");
    }

    #[test]
    fn a_machine_that_slows_down_is_followed() {
        let mut budget = Budget::new(None, 512);
        DENSE.prompt(&mut budget, 0, 4000);
        let slow = Machine {
            base: 2.0 * DENSE.base,
            token: 2.0 * DENSE.token,
            ..DENSE
        };
        let steps = slow.prompt(&mut budget, 0, 2000);
        assert!(longest(&steps[3..]) < BOUND, "{steps:?}");
    }

    #[test]
    fn one_stumble_of_the_machine_is_forgotten() {
        let mut budget = Budget::new(None, 512);
        EXPERTS.prompt(&mut budget, 0, 4000);
        let (streams, depth) = (STREAMS, 4000);
        let load = Load { streams, depth };
        let before = budget.tokens(load, STEP_TIME);
        budget.learn(load, before, Duration::from_secs(8));
        assert_eq!(budget.tokens(load, STEP_TIME), before);
        budget.learn(load, before, Duration::from_secs(8));
        assert!(budget.tokens(load, STEP_TIME) < before, "twice is a rule");
    }

    #[test]
    fn time_that_is_gone_already_is_not_given_to_prompts() {
        let mut budget = Budget::new(None, 512);
        DENSE.prompt(&mut budget, 0, 2000);
        let (streams, depth) = (STREAMS, 2000);
        let load = Load { streams, depth };
        let whole = budget.tokens(load, STEP_TIME);
        let rest = budget.tokens(load, STEP_TIME - Duration::from_millis(60));
        let fewer = 0.06 / DENSE.token;
        assert!(
            (whole as f64 - rest as f64 - fewer).abs() < 0.5 * fewer,
            "{whole} {rest}"
        );
        assert_eq!(budget.tokens(load, Duration::ZERO), FEWEST);
    }

    #[test]
    fn budgets_have_bounds() {
        let (streams, depth) = (STREAMS, 0);
        let load = Load { streams, depth };
        let mut budget = Budget::new(None, 512);
        for _ in 0..50 {
            let n = budget.tokens(load, STEP_TIME);
            budget.learn(load, n, Duration::from_micros(10));
        }
        assert_eq!(budget.tokens(load, STEP_TIME), 512, "what a graph takes");
        budget.learn(load, 8, Duration::from_secs(9));
        assert_eq!(
            budget.tokens(load, STEP_TIME),
            512,
            "a small step says little"
        );
        for _ in 0..100 {
            let n = budget.tokens(load, STEP_TIME);
            budget.learn(load, n, Duration::from_secs(10));
        }
        assert_eq!(budget.tokens(load, STEP_TIME), 32, "something moves");
        let mut fixed = Budget::new(Some(1000), 512);
        fixed.learn(load, 100, Duration::from_secs(10));
        assert_eq!(fixed.tokens(load, Duration::ZERO), 512);
        assert_eq!(Budget::new(Some(0), 512).tokens(load, STEP_TIME), 1);
        assert_eq!(Budget::new(None, 8).tokens(load, STEP_TIME), 8);
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
