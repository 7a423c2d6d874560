//! How many guesses pay: measured while running.
//!
//! A step with guesses brings `1 + a1 + a1 a2 + ...` tokens, where `ai` is how often guess `i` is right if those before
//! it are. It costs the verification of all tokens together and one run of the head per guess. [`lengths`] takes the
//! numbers of guesses with the most tokens per time, which may be none.

#![forbid(unsafe_code)]

use super::params::{DraftType, MOST_DRAFTS};

/// Share of a new measurement in a running average.
const NEW_TIME: f64 = 0.15;
/// A measurement counts for at most this many times the average: other work may have had the processor.
const OUTLIER: f64 = 2.0;
/// Columns whose times are kept apart.
const MOST_COLUMNS: usize = 128;
/// Before it is measured, a further column is taken to add this share of a step of one.
const COLUMN_SHARE: f64 = 0.4;
/// Before it is measured, a guess of the head is taken to cost this share of a step.
const DRAFT_SHARE: f64 = 0.15;

/// Acceptance before anything is known, how many guesses that knowledge is worth, and what is left of it from one
/// guess to the next.
const PRIOR: f64 = 0.7;
const PRIOR_WEIGHT: f64 = 5.0;
const PRIOR_FADE: f64 = 0.9;
/// Old guesses fade: about the last thirty count.
const FADE: f64 = 0.97;
/// What is left of them when a sequence tries again.
const REMEMBERED: f64 = 3.0;

/// Guessing must be better than not by this factor.
const WORTH: f64 = 1.01;
/// Steps without guesses before the first new try; each try in vain doubles it, up to the largest.
const FIRST_PAUSE: u32 = 96;
const LONGEST_PAUSE: u32 = 4096;
/// Steps of one try.
const TRY_STEPS: u32 = 2;
/// Every so many steps one goes without guesses, to know what that costs by now.
const PLAIN_EVERY: u32 = 64;

/// A running average of seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Average {
    seconds: f64,
    count: u32,
}

impl Average {
    fn add(&mut self, seconds: f64) {
        self.count = self.count.saturating_add(1);
        if self.count == 1 {
            self.seconds = seconds;
            return;
        }
        let share = NEW_TIME.max(1.0 / f64::from(self.count));
        self.seconds += share * (seconds.min(OUTLIER * self.seconds) - self.seconds);
    }
}

/// Measured times of small steps and of guesses, by columns. An engine keeps them for all its sequences.
#[derive(Debug, Clone)]
pub struct Costs {
    steps: Vec<Average>,
    drafts: Vec<Average>,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            steps: vec![Average::default(); MOST_COLUMNS + 1],
            drafts: vec![Average::default(); MOST_COLUMNS + 1],
        }
    }
}

impl Costs {
    /// Takes note of the time of a step of this many tokens.
    pub fn add_step(&mut self, columns: usize, seconds: f64) {
        self.steps[columns.min(MOST_COLUMNS)].add(seconds);
    }

    /// Takes note of the time of one guess for this many sequences.
    pub fn add_draft(&mut self, columns: usize, seconds: f64) {
        self.drafts[columns.min(MOST_COLUMNS)].add(seconds);
    }

    /// Seconds of a step of this many tokens, measured or estimated from its neighbours; `None` before the first
    /// measurement.
    pub fn step(&self, columns: usize) -> Option<f64> {
        interpolate(&self.steps, columns.min(MOST_COLUMNS))
    }

    /// Seconds of one guess for this many sequences.
    pub fn draft(&self, columns: usize) -> Option<f64> {
        interpolate(&self.drafts, columns.min(MOST_COLUMNS))
            .or_else(|| self.step(columns).map(|s| DRAFT_SHARE * s))
    }

    fn is_measured(&self, columns: usize) -> bool {
        self.steps[columns.min(MOST_COLUMNS)].count > 0
    }
}

/// Between two measured neighbours a straight line, beyond the last one a guess.
fn interpolate(times: &[Average], at: usize) -> Option<f64> {
    let known = |i: &usize| times[*i].count > 0;
    let below = (1..=at).rev().find(known);
    let above = (at..times.len()).find(known);
    match (below, above) {
        (Some(b), Some(a)) if a > b => {
            let share = (at - b) as f64 / (a - b) as f64;
            Some(times[b].seconds + share * (times[a].seconds - times[b].seconds))
        }
        (Some(b), _) => {
            let more = COLUMN_SHARE * (at - b) as f64 / b as f64;
            Some(times[b].seconds * (1.0 + more))
        }
        (None, Some(a)) => Some(times[a].seconds),
        (None, None) => None,
    }
}

/// How often a sequence's guesses are right, by position, and when it tries again after giving up.
#[derive(Debug, Clone)]
pub(super) struct Acceptance {
    /// Guesses tried and right, faded.
    tried: Vec<(f64, f64)>,
    idle: u32,
    pause: u32,
    trying: u32,
    since_plain: u32,
}

impl Default for Acceptance {
    fn default() -> Self {
        Self {
            tried: vec![(0.0, 0.0); MOST_DRAFTS as usize],
            idle: 0,
            pause: FIRST_PAUSE,
            trying: 0,
            since_plain: 0,
        }
    }
}

impl Acceptance {
    /// Takes note of a step with `n_drafted` guesses, the first `n_accepted` of them right.
    pub fn add(&mut self, n_drafted: usize, n_accepted: usize) {
        for i in 0..n_drafted.min(n_accepted + 1).min(self.tried.len()) {
            let (tried, right) = &mut self.tried[i];
            *tried = *tried * FADE + 1.0;
            *right = *right * FADE + f64::from(u8::from(i < n_accepted));
        }
    }

    /// Probability that the guesses up to and including number `i` (from 0) are all right.
    fn up_to(&self, i: usize) -> f64 {
        let (mut all, mut prior) = (1.0, PRIOR);
        for &(tried, right) in &self.tried[..=i.min(self.tried.len() - 1)] {
            let rate = (right + PRIOR_WEIGHT * prior) / (tried + PRIOR_WEIGHT);
            all *= rate;
            prior = rate * PRIOR_FADE;
        }
        all
    }

    /// The number of guesses of the next step, `wanted` being what pays.
    fn decide(&mut self, wanted: u32) -> u32 {
        if wanted > 0 {
            (self.idle, self.pause, self.trying) = (0, FIRST_PAUSE, 0);
            return wanted;
        }
        if self.trying > 0 {
            self.trying -= 1;
            return 1;
        }
        self.idle += 1;
        if self.idle >= self.pause {
            self.idle = 0;
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
            self.trying = TRY_STEPS;
            for (tried, right) in &mut self.tried {
                let kept = (REMEMBERED / tried.max(REMEMBERED)).min(1.0);
                (*tried, *right) = (*tried * kept, *right * kept);
            }
        }
        0
    }
}

/// One sequence of a step that is being planned.
pub(super) struct Candidate<'a> {
    pub acceptance: &'a mut Acceptance,
    pub draft: DraftType,
    /// Most guesses now.
    pub most: u32,
    /// Whether to choose fewer where they do not pay.
    pub adapt: bool,
}

/// The number of guesses of each sequence.
pub(super) fn lengths(costs: &Costs, lanes: &mut [Candidate<'_>]) -> Vec<u32> {
    let pinned: Vec<u32> = lanes
        .iter()
        .map(|l| if l.adapt { 0 } else { l.most })
        .collect();
    let mut chosen = best(costs, lanes, &pinned);
    let n_plain = lanes.len();
    for (lane, n) in lanes.iter_mut().zip(&mut chosen) {
        if lane.adapt && lane.most > 0 {
            *n = lane.acceptance.decide(*n).min(lane.most);
        }
    }
    let adapting = lanes.iter().all(|l| l.adapt);
    if adapting && chosen.iter().any(|&n| n > 0) {
        let first = &mut lanes[0].acceptance;
        first.since_plain += 1;
        if first.since_plain >= PLAIN_EVERY || !costs.is_measured(n_plain) {
            first.since_plain = 0;
            chosen.fill(0);
        }
    }
    chosen
}

/// Adds the likeliest guess of any sequence, one after the other, and keeps the best numbers met on the way.
fn best(costs: &Costs, lanes: &[Candidate<'_>], pinned: &[u32]) -> Vec<u32> {
    let Some(plain) = rate(costs, lanes, pinned) else {
        return pinned.to_vec();
    };
    let (mut now, mut best, mut best_rate) = (pinned.to_vec(), pinned.to_vec(), plain * WORTH);
    loop {
        let next = (0..lanes.len())
            .filter(|&i| lanes[i].adapt && now[i] < lanes[i].most)
            .map(|i| (i, lanes[i].acceptance.up_to(now[i] as usize)))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        let Some((lane, _)) = next else {
            return best;
        };
        now[lane] += 1;
        if let Some(rate) = rate(costs, lanes, &now).filter(|r| *r > best_rate) {
            (best_rate, best) = (rate, now.clone());
        }
    }
}

/// Tokens per second with these numbers of guesses.
fn rate(costs: &Costs, lanes: &[Candidate<'_>], lengths: &[u32]) -> Option<f64> {
    let tokens: f64 = lanes
        .iter()
        .zip(lengths)
        .map(|(lane, &n)| {
            let guesses = (0..n as usize).map(|i| lane.acceptance.up_to(i));
            1.0 + guesses.sum::<f64>()
        })
        .sum();
    let columns = lengths.iter().map(|&n| 1 + n as usize).sum();
    let mut seconds = costs.step(columns)?;
    for depth in 0..lengths.iter().copied().max().unwrap_or(0) {
        let drafting = lanes
            .iter()
            .zip(lengths)
            .filter(|(l, n)| l.draft == DraftType::Mtp && **n > depth)
            .count();
        if drafting > 0 {
            seconds += costs.draft(drafting)?;
        }
    }
    Some(tokens / seconds.max(f64::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose step costs 1, each further column `column`, each guess `draft`, running for `n` tokens with
    /// guesses right at `rate`; gives tokens per unit of time, 1 being plain decoding.
    fn speed(rate: f64, column: f64, draft: f64, n: usize) -> (f64, Vec<u32>) {
        let (mut costs, mut acceptance) = (Costs::default(), Acceptance::default());
        let (mut tokens, mut time, mut chosen) = (0usize, 0.0, Vec::new());
        let mut dice = 12345u32;
        while tokens < n {
            let lane = Candidate {
                acceptance: &mut acceptance,
                draft: DraftType::Mtp,
                most: 3,
                adapt: true,
            };
            let drafts = lengths(&costs, &mut [lane])[0] as usize;
            let step = 1.0 + column * drafts as f64;
            costs.add_step(1 + drafts, step);
            (0..drafts).for_each(|_| costs.add_draft(1, draft));
            time += step + draft * drafts as f64;
            let mut right = 0;
            while right < drafts {
                dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if f64::from(dice >> 8) / f64::from(1 << 24) >= rate {
                    break;
                }
                right += 1;
            }
            acceptance.add(drafts, right);
            tokens += 1 + right;
            chosen.push(drafts as u32);
        }
        (tokens as f64 / time, chosen)
    }

    #[test]
    fn bad_guesses_cost_less_than_three_percent() {
        for column in [0.05, 0.2, 0.45, 0.7, 1.0, 1.3] {
            for n in [256, 1024, 8192] {
                let (speed, _) = speed(0.1, column, 0.12, n);
                assert!(
                    speed > 0.97,
                    "column {column}, {n} tokens: {speed:.3} of plain"
                );
            }
        }
    }

    #[test]
    fn good_guesses_pay() {
        // Within a few percent of the best fixed length: 1 + 0.85 / (1.44 + 0.12) and 3.18 / (1.3 + 0.15).
        assert!(speed(0.85, 0.44, 0.12, 4096).0 > 1.15);
        assert!(speed(0.85, 0.1, 0.05, 4096).0 > 2.0);
    }

    #[test]
    fn it_tries_again_with_growing_pauses() {
        let (_, chosen) = speed(0.0, 0.9, 0.2, 8192);
        let tries: Vec<usize> = (1..chosen.len())
            .filter(|&i| chosen[i] > 0 && chosen[i - 1] == 0)
            .collect();
        let pauses: Vec<usize> = tries.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(pauses.len() >= 4, "{pauses:?}");
        assert!(pauses.windows(2).skip(1).all(|p| p[1] > p[0]), "{pauses:?}");
    }

    #[test]
    fn a_change_for_the_better_is_found() {
        let mut acceptance = Acceptance::default();
        for _ in 0..100 {
            acceptance.add(1, 0);
        }
        assert!(acceptance.up_to(0) < 0.2);
        for _ in 0..FIRST_PAUSE {
            acceptance.decide(0);
        }
        assert_eq!(acceptance.decide(0), 1, "a try");
        for _ in 0..TRY_STEPS {
            acceptance.add(1, 1);
        }
        assert!(acceptance.up_to(0) > 0.4, "{}", acceptance.up_to(0));
    }

    #[test]
    fn pinned_lanes_stay_pinned() {
        let mut costs = Costs::default();
        costs.add_step(1, 1.0);
        costs.add_step(4, 100.0);
        let (mut a, mut b) = (Acceptance::default(), Acceptance::default());
        let mut lanes = [
            Candidate {
                acceptance: &mut a,
                draft: DraftType::Mtp,
                most: 3,
                adapt: false,
            },
            Candidate {
                acceptance: &mut b,
                draft: DraftType::Ngram,
                most: 2,
                adapt: true,
            },
        ];
        assert_eq!(lengths(&costs, &mut lanes)[0], 3);
    }
}
