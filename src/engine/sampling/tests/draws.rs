//! Randomness, replay, broken rows, constraints and reported probabilities.

use super::super::rng::{Draws, Purpose};
use super::super::{Constraint, LogProbs, SamplingError};
use super::*;

/// Computed by an implementation of ChaCha8 of its own, from RFC 8439's round function.
#[test]
fn random_numbers_are_pinned() {
    for (seed, position, purpose, expected) in [
        (0, 0, Purpose::Token, 0.187_240_615_216_297_87),
        (42, 0, Purpose::Token, 0.099_848_301_929_480_91),
        (42, 0, Purpose::Xtc, 0.088_347_862_308_309_04),
        (42, 1, Purpose::Token, 0.234_018_459_326_287_4),
        (42, 7, Purpose::Retry, 0.416_109_954_796_016_53),
        (u64::MAX, 1 << 40, Purpose::Token, 0.325_785_138_555_745_3),
    ] {
        let mut draws = Draws::new(Some(seed));
        draws.uniform(3, Purpose::Retry);
        let found = draws.uniform(position, purpose);
        assert_eq!(
            found, expected,
            "seed {seed}, position {position}, {purpose:?}"
        );
    }
}

/// A row of logits that differs from position to position.
fn row_at(position: usize, n: usize) -> Vec<f32> {
    (0..n)
        .map(|token| ((token * 37 + position * 11) % 101) as f32 * 0.05)
        .collect()
}

/// Tokens of the first `n` positions.
fn generate(sampler: &mut Sampler, n: usize) -> Vec<u32> {
    let draw = |position| {
        let token = sampler.sample(&row_at(position, 200), None).unwrap().token;
        sampler.accept(token);
        token
    };
    (0..n).map(draw).collect()
}

/// Parameters that switch on everything with a state.
fn busy(mirostat: u8) -> SamplingParams {
    SamplingParams {
        seed: Some(99),
        penalty_repeat: 1.3,
        dry_multiplier: 0.8,
        xtc_probability: 0.5,
        xtc_threshold: 0.02,
        mirostat,
        ..SamplingParams::default()
    }
}

#[test]
fn a_seed_replays_and_another_does_not() {
    for mirostat in 0..=2 {
        let params = busy(mirostat);
        let first = generate(&mut sampler(&params, 200), 100);
        let mut again = sampler(&params, 200);
        assert_eq!(generate(&mut again, 100), first);
        again.reset();
        assert_eq!(again.position(), 0);
        assert_eq!(generate(&mut again, 100), first, "after reset");
        let other = SamplingParams {
            seed: Some(100),
            ..params
        };
        assert_ne!(generate(&mut sampler(&other, 200), 100), first);
    }
}

#[test]
fn a_random_seed_can_be_read_and_replayed() {
    let mut random = sampler(
        &SamplingParams {
            seed: None,
            ..busy(0)
        },
        200,
    );
    let first = generate(&mut random, 50);
    let mut replay = sampler(
        &SamplingParams {
            seed: Some(random.seed()),
            ..busy(0)
        },
        200,
    );
    assert_eq!(generate(&mut replay, 50), first);
    let seeds: Vec<u64> = (0..4).map(|_| Draws::new(None).seed()).collect();
    assert!(seeds.iter().any(|&seed| seed != seeds[0]), "{seeds:?}");
}

#[test]
fn drawing_twice_gives_the_same_token() {
    for mirostat in 0..=2 {
        let params = busy(mirostat);
        let once = generate(&mut sampler(&params, 200), 100);
        let mut twice = sampler(&params, 200);
        for (position, &token) in once.iter().enumerate() {
            // Rows of later positions, as speculation draws from, leave no trace.
            for ahead in [3, 0, 1, 0] {
                let drawn = twice.sample(&row_at(position + ahead, 200), None).unwrap();
                assert!(ahead != 0 || drawn.token == token, "position {position}");
            }
            twice.accept(token);
        }
    }
}

#[test]
fn the_prompt_does_not_move_the_random_numbers() {
    let params = only("temperature");
    let mut with_prompt = sampler(&params, 200);
    with_prompt.accept_prompt(&[1, 2, 3]);
    assert_eq!(with_prompt.position(), 0);
    assert_eq!(
        generate(&mut with_prompt, 50),
        generate(&mut sampler(&params, 200), 50)
    );
}

#[test]
fn a_clone_goes_its_own_way_from_the_same_state() {
    for mirostat in 0..=2 {
        let mut original = sampler(&busy(mirostat), 200);
        generate(&mut original, 50);
        let mut copy = original.clone();
        let expected = generate(&mut original.clone(), 50);
        copy.accept(7);
        copy.accept(7);
        assert_eq!(generate(&mut original, 50), expected);
        let mut reseeded = original.clone();
        reseeded.reseed(Some(5));
        assert_eq!(reseeded.seed(), 5);
        assert_ne!(generate(&mut reseeded, 50), generate(&mut original, 50));
    }
}

#[test]
fn a_sampler_can_move_to_another_thread() {
    fn assert_send<T: Send + Sync>(_: &T) {}
    assert_send(&sampler(&SamplingParams::default(), 2));
}

/// Pearson's chi-square over ten tokens: 9 degrees of freedom, 27.9 is exceeded once in 1000.
#[test]
fn frequencies_follow_the_probabilities() {
    const LIMIT: f64 = 27.9;
    const N: usize = 20_000;
    let probs = [0.01, 0.19, 0.05, 0.15, 0.1, 0.1, 0.02, 0.08, 0.2, 0.1];
    let row = logits(&probs);
    for samplers in ["", "top_k", "top_p", "temperature"] {
        let params = SamplingParams {
            top_k: 10,
            top_p: 0.9999,
            ..only(samplers)
        };
        let mut sampler = sampler(&params, probs.len());
        let mut counts = [0u32; 10];
        for _ in 0..N {
            let token = sampler.sample(&row, None).unwrap().token;
            counts[token as usize] += 1;
            sampler.accept(token);
        }
        let chi_square: f64 = counts
            .iter()
            .zip(probs)
            .map(|(&count, prob)| {
                let expected = f64::from(prob) * N as f64;
                (f64::from(count) - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_square < LIMIT, "{samplers}: {chi_square}");
    }
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    let params = SamplingParams {
        temp: 0.0,
        ..SamplingParams::default()
    };
    let mut sampler = sampler(&params, 5);
    for (row, token) in [
        ([1.0, 3.0, 3.0, 2.0, 3.0], 1),
        ([-0.0, 0.0, -1.0, -0.0, 0.0], 0),
        ([f32::NAN, -5.0, f32::NAN, -4.0, f32::NEG_INFINITY], 3),
        ([1.0, f32::INFINITY, f32::MAX, f32::INFINITY, 0.0], 1),
    ] {
        let drawn = sampler.sample(&row, None).unwrap();
        assert_eq!((drawn.token, drawn.prob), (token, 1.0), "{row:?}");
    }
}

#[test]
fn rows_without_a_number_are_errors() {
    let mut sampler = sampler(&SamplingParams::default(), 3);
    let error = sampler
        .sample(&[f32::NAN, f32::NAN, f32::NEG_INFINITY], None)
        .unwrap_err();
    assert_eq!(
        error,
        SamplingError::NoCandidate {
            position: 0,
            nan: 2,
            n_vocab: 3
        }
    );
    assert!(error.hint().unwrap().contains("NaN"));
    let error = sampler.sample(&[0.0; 4], None).unwrap_err();
    assert_eq!(
        error,
        SamplingError::LogitsLength {
            expected: 3,
            found: 4
        }
    );
    let banned: Vec<_> = (0..3).map(|token| (token, f32::NEG_INFINITY)).collect();
    let params = SamplingParams {
        logit_bias: banned,
        ..SamplingParams::default()
    };
    let error = super::sampler(&params, 3)
        .sample(&[0.0; 3], None)
        .unwrap_err();
    assert_eq!(
        error,
        SamplingError::NoCandidate {
            position: 0,
            nan: 0,
            n_vocab: 3
        }
    );
    assert!(error.hint().unwrap().contains("logit_bias"));
}

/// Allows the listed tokens and counts how often it was asked for a mask.
struct Allow(Vec<u32>, usize);

impl Constraint for Allow {
    fn allows(&mut self, token: u32) -> bool {
        self.0.contains(&token)
    }

    fn mask(&mut self, logits: &mut [f32]) {
        self.1 += 1;
        for (token, logit) in logits.iter_mut().enumerate() {
            if !self.0.contains(&(token as u32)) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

#[test]
fn a_constraint_is_obeyed() {
    // Without the mask the chain would leave token 3 alone.
    let params = SamplingParams {
        top_k: 1,
        ..only("top_k")
    };
    let mut sampler = sampler(&params, 4);
    let row = logits(&[0.1, 0.2, 0.3, 0.4]);
    let mut allow = Allow(vec![0, 1], 0);
    assert_eq!(sampler.sample(&row, Some(&mut allow)).unwrap().token, 1);
    assert_eq!(allow.1, 1);
    let mut allow = Allow(vec![3], 0);
    assert_eq!(sampler.sample(&row, Some(&mut allow)).unwrap().token, 3);
    assert_eq!(allow.1, 0, "an allowed token needs no mask");
    let error = sampler
        .sample(&row, Some(&mut Allow(vec![], 0)))
        .unwrap_err();
    assert_eq!(
        error,
        SamplingError::ConstraintAllowsNothing { position: 0 }
    );
    let banned = SamplingParams {
        logit_bias: vec![(1, f32::NEG_INFINITY)],
        ..params
    };
    let error = super::sampler(&banned, 4)
        .sample(&row, Some(&mut Allow(vec![1], 0)))
        .unwrap_err();
    assert_eq!(
        error,
        SamplingError::ConstraintAllowsNothing { position: 0 }
    );
}

/// The second draw must not reuse the number that led to the refused token: it lies in a known
/// part of [0, 1), and token 1 would never come.
#[test]
fn a_constraint_does_not_skew_the_draw() {
    const N: i32 = 20_000;
    let row = logits(&[0.3, 0.3, 0.4]);
    let mut sampler = sampler(&only("top_k"), 3);
    let mut allow = Allow(vec![0, 1], 0);
    let mut zeros = 0;
    for _ in 0..N {
        let token = sampler.sample(&row, Some(&mut allow)).unwrap().token;
        assert!(token < 2);
        zeros += i32::from(token == 0);
        sampler.accept(token);
    }
    // Four standard deviations of 71.
    assert!((zeros - N / 2).abs() < 284, "{zeros}");
}

#[test]
fn log_probabilities_of_a_row() {
    let row = logits(&[0.1, 0.2, 0.3, 0.4]);
    let probs = LogProbs::of_row(&row, 1, 2);
    let close = |a: f32, b: f32| (a - b.ln()).abs() < PROB_TOLERANCE;
    assert_eq!(probs.chosen.token, 1);
    assert!(close(probs.chosen.logprob, 0.2));
    assert_eq!(
        probs.top.iter().map(|item| item.token).collect::<Vec<_>>(),
        [3, 2]
    );
    assert!(close(probs.top[0].logprob, 0.4) && close(probs.top[1].logprob, 0.3));
    assert!(LogProbs::of_row(&row, 1, 0).top.is_empty());
    assert_eq!(LogProbs::of_row(&row, 1, 100).top.len(), 4);
    let broken = LogProbs::of_row(&[f32::NAN, 0.0, f32::NEG_INFINITY], 0, 3);
    assert_eq!(broken.chosen.logprob, f32::NEG_INFINITY);
    assert_eq!(broken.top.len(), 1);
    assert_eq!(broken.top[0].logprob, 0.0);
    assert_eq!(LogProbs::of_row(&[], 0, 3).top, []);
    assert_eq!(LogProbs::of_row(&[f32::NAN; 3], 9, 3).top, []);
}
