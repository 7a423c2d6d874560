//! Samplers with a memory: penalties, DRY, Mirostat, adaptive-p.

use super::*;

/// The logits that a sampler leaves of a row, by token.
fn logits_left(sampler: &mut Sampler, row: &[f32]) -> Vec<f32> {
    sampler.sample(row, None).unwrap();
    let mut left = vec![f32::NEG_INFINITY; row.len()];
    for item in sampler.candidates() {
        left[item.token as usize] = item.logit;
    }
    left
}

#[test]
fn penalties() {
    let params = SamplingParams {
        penalty_repeat: 2.0,
        penalty_freq: 0.5,
        penalty_present: 0.25,
        penalty_last_n: 4,
        ..only("penalties")
    };
    let mut sampler = sampler(&params, 4);
    let row = [4.0, -4.0, 0.0, 1.0];
    assert_eq!(logits_left(&mut sampler, &row), row);
    sampler.accept_prompt(&[0, 1, 1]);
    // 4/2 - 0.5 - 0.25, -4*2 - 2*0.5 - 0.25
    assert_eq!(logits_left(&mut sampler, &row), [1.25, -9.25, 0.0, 1.0]);
    sampler.accept(2);
    sampler.accept(2);
    // Token 0 has left the window of four.
    assert_eq!(logits_left(&mut sampler, &row), [4.0, -9.25, -1.25, 1.0]);
    sampler.reset();
    assert_eq!(logits_left(&mut sampler, &row), row);
}

#[test]
fn penalties_act_on_what_a_filter_left() {
    let params = SamplingParams {
        penalty_present: 2.0,
        top_k: 2,
        ..only("top_k;penalties")
    };
    let mut sampler = sampler(&params, 3);
    sampler.accept_prompt(&[2, 0]);
    let left = logits_left(&mut sampler, &[1.0, 2.0, 3.0]);
    assert_eq!(left, [f32::NEG_INFINITY, 2.0, 1.0]);
}

#[test]
fn windows_of_zero_and_of_the_context() {
    let params = |penalty_last_n| SamplingParams {
        penalty_last_n,
        penalty_present: 1.0,
        ..only("penalties")
    };
    let seen = |penalty_last_n| {
        let mut sampler = Sampler::new(&params(penalty_last_n), &letters(3), 2).unwrap();
        sampler.accept_prompt(&[0, 1, 2]);
        logits_left(&mut sampler, &[0.0; 3])
    };
    assert_eq!(seen(0), [0.0, 0.0, 0.0]);
    assert_eq!(seen(-1), [0.0, -1.0, -1.0]);
    assert_eq!(seen(1), [0.0, 0.0, -1.0]);
    assert_eq!(seen(i32::MAX), [-1.0, -1.0, -1.0]);
}

/// What DRY takes from tokens 0 to 5 after a sequence of single letters.
fn dry_takes(change: impl Fn(&mut SamplingParams), text: &[u32]) -> Vec<f32> {
    let vocab: Arc<dyn VocabView> = Arc::new(Words(vec!["a", "b", "c", "\n", "x:", "d"]));
    let mut params = SamplingParams {
        dry_multiplier: 1.0,
        dry_base: 2.0,
        dry_allowed_length: 2,
        ..only("dry")
    };
    change(&mut params);
    let mut sampler = Sampler::new(&params, &vocab, 1024).unwrap();
    sampler.accept_prompt(text);
    logits_left(&mut sampler, &[0.0; 6])
        .iter()
        .map(|logit| 0.0 - logit)
        .collect()
}

#[test]
fn dry() {
    let none = [0.0; 6];
    let (a, b, c, newline, colon, d) = (0, 1, 2, 3, 4, 5);
    let plain = |text: &[u32]| dry_takes(|_| {}, text);
    assert_eq!(plain(&[]), none);
    assert_eq!(plain(&[a, b, c, a]), none, "one repeated token is allowed");
    assert_eq!(
        plain(&[a, b, c, a, b]),
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        "2 repeated: 2^0"
    );
    assert_eq!(
        plain(&[a, b, c, d, a, b, c]),
        [0.0, 0.0, 0.0, 0.0, 0.0, 2.0],
        "3 repeated: 2^1"
    );
    // "a b" was followed by c and by d; the longer match "c a b" counts for d.
    assert_eq!(
        plain(&[a, b, c, a, b, d, c, a, b]),
        [0.0, 0.0, 1.0, 0.0, 0.0, 2.0]
    );
    // A run overlaps itself: five a's repeat a sequence of four.
    assert_eq!(plain(&[a, a, a, a, a]), [4.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let longer = |params: &mut SamplingParams| params.dry_allowed_length = 3;
    assert_eq!(dry_takes(longer, &[a, b, c, a, b]), none);
    assert_eq!(dry_takes(longer, &[a, b, c, d, a, b, c])[d as usize], 1.0);
    // A breaker inside the repeated sequence leaves only what follows it.
    assert_eq!(plain(&[a, newline, b, c, a, newline, b]), none);
    assert_eq!(
        plain(&[a, colon, b, b, c, a, colon, b, b]),
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    );
    // A token that is itself a breaker is never penalised.
    assert_eq!(plain(&[a, b, newline, a, b]), none);
    assert_eq!(plain(&[a, b, colon, a, b]), none);
    let no_breakers = |params: &mut SamplingParams| params.dry_sequence_breakers.clear();
    assert_eq!(
        dry_takes(no_breakers, &[a, b, newline, a, b])[newline as usize],
        1.0
    );
}

#[test]
fn dry_breakers_that_span_tokens() {
    let (a, b, c, d) = (0, 1, 2, 5);
    let text = [d, a, b, c, d, a, b];
    let spanning = |params: &mut SamplingParams| params.dry_sequence_breakers = vec!["da".into()];
    assert_eq!(dry_takes(|_| {}, &text)[c as usize], 2.0);
    // Only "b" stands behind the last "da".
    assert_eq!(dry_takes(spanning, &text), [0.0; 6]);
    // No token holds the whole breaker, so its parts may be penalised.
    let second = dry_takes(spanning, &[b, c, d, b, c]);
    assert_eq!(second, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn dry_window_and_off_switches() {
    let (a, b, c) = (0, 1, 2);
    let text = [a, b, c, a, b];
    let takes = |change: fn(&mut SamplingParams)| dry_takes(change, &text)[c as usize];
    assert_eq!(takes(|p| p.dry_penalty_last_n = 4), 0.0);
    assert_eq!(takes(|p| p.dry_penalty_last_n = 5), 1.0);
    assert_eq!(takes(|p| p.dry_penalty_last_n = -1), 1.0);
    assert_eq!(takes(|p| p.dry_penalty_last_n = 0), 0.0);
    assert_eq!(takes(|p| p.dry_multiplier = 0.0), 0.0);
    assert_eq!(takes(|p| p.dry_base = 0.5), 0.0);
    // The power is cut before it overflows.
    let long = vec![a; 60];
    let huge = dry_takes(|p| p.dry_base = 1e6, &long)[a as usize];
    assert!(huge.is_finite() && huge > 1e35, "{huge}");
}

#[test]
fn mirostat_2_cuts_and_learns() {
    let params = SamplingParams {
        mirostat: 2,
        mirostat_tau: 1.0,
        ..only("")
    };
    let mut sampler = sampler(&params, 4);
    // The limit starts at 2 * tau = 2 bits: 0.25 and more.
    let row = logits(&[0.1, 0.2, 0.3, 0.4]);
    assert_left(
        &left_of(&mut sampler, &row),
        &[(3, 4.0 / 7.0), (2, 3.0 / 7.0)],
    );
    // A token of 0.8073 or 1.2224 bits moves the limit by 0.1 * (1 - bits).
    let drawn = sampler.sample(&row, None).unwrap();
    let bits = -drawn.prob.log2();
    assert!(
        (bits - 0.8073).abs() < 1e-3 || (bits - 1.2224).abs() < 1e-3,
        "{bits}"
    );
    sampler.accept(drawn.token);
    let debug = format!("{:?}", sampler.clone());
    assert!(debug.contains("mirostat-v2"), "{debug}");
    // Drawing only sure tokens raises the limit until everything is allowed.
    for _ in 0..20 {
        let sure = sampler.sample(&[0.0, 0.0, 0.0, 50.0], None).unwrap();
        assert_eq!(sure.token, 3);
        sampler.accept(sure.token);
    }
    assert_eq!(left_of(&mut sampler, &row).len(), 4);
    sampler.reset();
    assert_eq!(left_of(&mut sampler, &row).len(), 2);
}

/// Exponent 2 over 20 tokens: (1 / (1 - 1/20) * 2^4)^(1/2) is 4.1; exponent 1: 2^4 / ln 20 is 5.3.
#[test]
fn mirostat_1_cuts_by_the_exponent_of_the_tail() {
    for (exponent, kept) in [(2.0, 4), (1.0, 5)] {
        let row: Vec<f32> = (1..=20)
            .map(|rank| -exponent * (rank as f32).ln())
            .collect();
        let params = SamplingParams {
            mirostat: 1,
            mirostat_tau: 2.0,
            ..only("")
        };
        let left = left_of(&mut sampler(&params, row.len()), &row);
        assert_eq!(tokens(&left), (0..kept).collect::<Vec<u32>>(), "{exponent}");
    }
}

#[test]
fn mirostat_holds_the_target_surprise() {
    // Zipf's law over 500 tokens has about 6.9 bits.
    let row: Vec<f32> = (1..=500).map(|rank| -(rank as f32).ln()).collect();
    for version in [1, 2] {
        for target in [2.0, 4.0] {
            let params = SamplingParams {
                mirostat: version,
                mirostat_tau: target,
                ..only("")
            };
            let mut sampler = sampler(&params, row.len());
            let mut bits = 0.0;
            for i in 0..2500 {
                let drawn = sampler.sample(&row, None).unwrap();
                sampler.accept(drawn.token);
                bits += if i >= 500 {
                    -drawn.prob.log2() / 2000.0
                } else {
                    0.0
                };
            }
            assert!(
                (bits - target).abs() < 0.15,
                "version {version}: {bits} for {target}"
            );
        }
    }
}

#[test]
fn mirostat_ignores_all_samplers_but_the_temperature() {
    let params = SamplingParams {
        mirostat: 2,
        mirostat_tau: 100.0,
        top_k: 1,
        penalty_present: 5.0,
        temp: 0.5,
        ..SamplingParams::default()
    };
    let mut sampler = sampler(&params, 2);
    sampler.accept_prompt(&[1]);
    let left = left_of(&mut sampler, &logits(&[0.2, 0.8]));
    assert_left(&left, &[(1, 16.0 / 17.0), (0, 1.0 / 17.0)]);
}

#[test]
fn a_forced_token_teaches_mirostat_nothing() {
    let params = SamplingParams {
        mirostat: 2,
        mirostat_tau: 1.0,
        mirostat_eta: 1.0,
        ..only("")
    };
    let mut sampler = sampler(&params, 4);
    let row = logits(&[0.1, 0.2, 0.3, 0.4]);
    sampler.sample(&row, None).unwrap();
    sampler.accept(0);
    assert_eq!(left_of(&mut sampler, &row).len(), 2);
}

#[test]
fn adaptive_p_prefers_tokens_near_the_target() {
    let params = SamplingParams {
        adaptive_target: 0.2,
        ..only("adaptive_p")
    };
    let mut sampler = sampler(&params, 4);
    let row = logits(&[0.05, 0.2, 0.25, 0.5]);
    // The average starts at the target, so the wanted probability is 0.2 itself.
    let left = left_of(&mut sampler, &row);
    assert_eq!(tokens(&left), [1, 2, 0, 3]);
    let weight = |prob: f32| {
        let distance = (prob - 0.2).abs() / 0.3;
        (5.0 - 10.0 * distance * distance / (1.0 + distance)).exp()
    };
    let sum: f32 = [0.05, 0.2, 0.25, 0.5].map(weight).iter().sum();
    for (token, prob) in [(1, 0.2), (2, 0.25), (0, 0.05), (3, 0.5)] {
        let found = left.iter().find(|item| item.0 == token).unwrap().1;
        assert!(
            (found - weight(prob) / sum).abs() < 1e-5,
            "{token}: {found}"
        );
    }
    // After likely tokens the wanted probability falls, and the least likely token leads.
    for _ in 0..50 {
        let sure = sampler
            .sample(&[f32::NAN, f32::NAN, f32::NAN, 0.0], None)
            .unwrap();
        sampler.accept(sure.token);
    }
    assert_eq!(tokens(&left_of(&mut sampler, &row))[0], 0);
    // A negative target draws from what the other samplers left.
    let off = SamplingParams {
        top_k: 2,
        ..only("adaptive_p;top_k")
    };
    assert_left(
        &super::left(&off, &[0.1, 0.2, 0.2, 0.6]),
        &[(3, 0.75), (1, 0.25)],
    );
}
