//! What holds for any row of logits and any parameters that validate.

use proptest::prelude::*;

use super::*;

/// Any float, with the awkward ones often.
fn any_logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -20.0f32..20.0,
        1 => any::<f32>(),
        1 => prop::sample::select(vec![
            f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -0.0,
        ]),
    ]
}

/// A number in 0 to 1, with the ends often.
fn unit() -> impl Strategy<Value = f32> {
    prop_oneof![4 => 0.0f32..=1.0, 1 => Just(0.0f32), 1 => Just(1.0f32)]
}

/// A finite number that is not negative, huge ones included.
fn not_negative() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => 0.0f32..3.0,
        1 => prop::sample::select(vec![0.0, 1.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, 1e30]),
    ]
}

prop_compose! {
    fn any_filters()(
        samplers in prop::collection::vec(prop::sample::select(SamplerKind::ALL.to_vec()), 0..12),
        temp in prop_oneof![not_negative(), Just(-1.0)],
        dynatemp_range in prop_oneof![Just(0.0f32), not_negative()],
        dynatemp_exponent in not_negative(),
        top_k in prop_oneof![-1i32..20, Just(i32::MAX)],
        top_p in unit(),
        min_p in unit(),
        typ_p in unit(),
        top_n_sigma in prop_oneof![Just(-1.0), not_negative()],
        xtc_probability in unit(),
        xtc_threshold in unit(),
        min_keep in prop_oneof![0u32..6, Just(u32::MAX)],
    ) -> SamplingParams {
        SamplingParams {
            samplers, temp, dynatemp_range, dynatemp_exponent, top_k, top_p, min_p, typ_p,
            top_n_sigma, xtc_probability, xtc_threshold, min_keep,
            ..SamplingParams::default()
        }
    }
}

prop_compose! {
    fn any_params()(
        filters in any_filters(),
        seed in any::<u64>(),
        penalty_last_n in -1i32..8,
        penalty_repeat in 1e-38f32..1e30,
        penalty_freq in prop_oneof![-2.0f32..2.0, Just(f32::MAX), Just(f32::MIN)],
        penalty_present in prop_oneof![-2.0f32..2.0, Just(f32::MAX), Just(f32::MIN)],
        dry_multiplier in not_negative(),
        dry_base in not_negative(),
        dry_allowed_length in 0u32..4,
        dry_penalty_last_n in -1i32..10,
        mirostat in 0u8..=2,
        mirostat_tau in not_negative(),
        mirostat_eta in not_negative(),
        adaptive_target in prop_oneof![Just(-1.0f32), 0.0f32..=1.0],
        adaptive_decay in 0.0f32..=0.99,
        bias in prop_oneof![-5.0f32..5.0, Just(f32::NEG_INFINITY), Just(f32::MAX)],
    ) -> SamplingParams {
        SamplingParams {
            seed: Some(seed), penalty_last_n, penalty_repeat, penalty_freq, penalty_present,
            dry_multiplier, dry_base, dry_allowed_length, dry_penalty_last_n, mirostat,
            mirostat_tau, mirostat_eta, adaptive_target, adaptive_decay,
            logit_bias: vec![(0, bias)],
            ..filters
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Draws a few tokens and checks every one of them.
    #[test]
    fn any_row_gives_a_token_that_was_left(
        params in any_params(),
        rows in prop::collection::vec(prop::collection::vec(any_logit(), 12), 1..8),
    ) {
        let banned = params.logit_bias[0].1 == f32::NEG_INFINITY;
        let mut sampler = sampler(&params, 12);
        for row in &rows {
            let usable = |token: usize| row[token] > f32::NEG_INFINITY && !(banned && token == 0);
            let Ok(drawn) = sampler.sample(row, None) else {
                prop_assert!((0..12).all(|token| !usable(token)), "{row:?}");
                continue;
            };
            prop_assert!(usable(drawn.token as usize), "{row:?}: {drawn:?}");
            let left = sampler.candidates();
            let entry = left.iter().find(|item| item.token == drawn.token);
            prop_assert_eq!(entry.map(|item| item.prob), Some(drawn.prob));
            prop_assert!(drawn.prob > 0.0);
            let sum: f32 = left.iter().map(|item| item.prob).sum();
            prop_assert!((sum - 1.0).abs() < 1e-5, "sum {sum} of {left:?}");
            prop_assert!(left.iter().all(|item| item.logit.is_finite() && usable(item.token as usize)));
            prop_assert_eq!(sampler.sample(row, None), Ok(drawn));
            sampler.accept(drawn.token);
        }
    }

    /// The filters alone: what is left obeys the bounds of each.
    #[test]
    fn filters_keep_what_they_promise(
        probs in prop::collection::vec(1e-4f32..1.0, 1..60),
        top_k in 1i32..70,
        top_p in unit(),
        min_p in unit(),
        min_keep in 0u32..8,
    ) {
        let n = probs.len();
        let least = (min_keep as usize).clamp(1, n);
        let params = |samplers| SamplingParams { top_k, top_p, min_p, min_keep, ..only(samplers) };
        let total: f32 = probs.iter().sum();
        let share = |token: &u32| probs[*token as usize] / total;
        let max = probs.iter().copied().fold(0.0, f32::max) / total;

        prop_assert_eq!(left(&params("top_k"), &probs).len(), n.min(top_k as usize));

        let kept = tokens(&left(&params("top_p"), &probs));
        prop_assert!(kept.len() >= least);
        let sum: f32 = kept.iter().map(share).sum();
        prop_assert!(sum >= top_p - 1e-5);
        let without_last = sum - share(kept.last().unwrap());
        prop_assert!(kept.len() == least || without_last <= top_p + 1e-5);

        let kept = tokens(&left(&params("min_p"), &probs));
        prop_assert!(kept.len() >= least);
        let too_small = kept.iter().filter(|token| share(token) < max * min_p * 0.9999).count();
        prop_assert!(too_small == 0 || kept.len() == least);
        let dropped = (0..n as u32).filter(|token| !kept.contains(token));
        prop_assert!(dropped.into_iter().all(|token| share(&token) <= max * min_p * 1.0001));
    }
}
