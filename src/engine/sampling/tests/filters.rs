//! Each filter against distributions worked out by hand, and their order in the chain.

use super::*;

/// The distribution behind most cases.
const PROBS: [f32; 4] = [0.1, 0.2, 0.3, 0.4];

#[test]
fn top_k() {
    let k = |top_k| {
        left(
            &SamplingParams {
                top_k,
                ..only("top_k")
            },
            &PROBS,
        )
    };
    assert_left(&k(1), &[(3, 1.0)]);
    assert_left(&k(3), &[(3, 4.0 / 9.0), (2, 3.0 / 9.0), (1, 2.0 / 9.0)]);
    for off in [4, 100, i32::MAX, 0, -1] {
        assert_left(&k(off), &[(3, 0.4), (2, 0.3), (1, 0.2), (0, 0.1)]);
    }
}

#[test]
fn top_k_prefers_low_ids_among_equals() {
    let params = SamplingParams {
        top_k: 300,
        ..only("top_k")
    };
    let mut row = vec![0.0; 5000];
    row[4000..4100].fill(1.0);
    let mut kept = tokens(&left_of(&mut sampler(&params, row.len()), &row));
    kept.sort_unstable();
    let expected: Vec<u32> = (0..200).chain(4000..4100).collect();
    assert_eq!(kept, expected);
}

#[test]
fn top_k_of_a_large_vocabulary_equals_a_full_sort() {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 20) as f32 * 0.01
    };
    let row: Vec<f32> = (0..20_000).map(|_| next()).collect();
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
    for k in [1, 2, 40, 200, 1000, 19_999] {
        let params = SamplingParams {
            top_k: k,
            ..only("top_k")
        };
        let mut sampler = sampler(&params, row.len());
        sampler.sample(&row, None).unwrap();
        let kept: Vec<u32> = sampler.candidates().iter().map(|item| item.token).collect();
        assert_eq!(kept, order[..k as usize], "k = {k}");
    }
}

#[test]
fn top_p() {
    let p = |top_p, min_keep| {
        left(
            &SamplingParams {
                top_p,
                min_keep,
                ..only("top_p")
            },
            &PROBS,
        )
    };
    assert_left(&p(0.0, 0), &[(3, 1.0)]);
    assert_left(&p(0.69, 0), &[(3, 4.0 / 7.0), (2, 3.0 / 7.0)]);
    assert_left(
        &p(0.71, 0),
        &[(3, 4.0 / 9.0), (2, 3.0 / 9.0), (1, 2.0 / 9.0)],
    );
    assert_left(&p(0.0, 2), &[(3, 4.0 / 7.0), (2, 3.0 / 7.0)]);
    assert_eq!(p(1.0, 0).len(), 4);
    assert_eq!(p(0.999, 0).len(), 4);
}

#[test]
fn top_p_that_needs_many_tokens() {
    let params = SamplingParams {
        top_p: 0.5,
        ..only("top_p")
    };
    let kept = left(&params, &vec![1.0; 1000]);
    assert_eq!(tokens(&kept), (0..500).collect::<Vec<u32>>());
}

#[test]
fn min_p() {
    let p = |min_p, min_keep| {
        left(
            &SamplingParams {
                min_p,
                min_keep,
                ..only("min_p")
            },
            &PROBS,
        )
    };
    assert_left(&p(0.24, 0), &[(3, 0.4), (2, 0.3), (1, 0.2), (0, 0.1)]);
    assert_left(
        &p(0.26, 0),
        &[(3, 4.0 / 9.0), (2, 3.0 / 9.0), (1, 2.0 / 9.0)],
    );
    assert_left(&p(0.74, 0), &[(3, 4.0 / 7.0), (2, 3.0 / 7.0)]);
    assert_left(&p(1.0, 0), &[(3, 1.0)]);
    assert_left(
        &p(1.0, 3),
        &[(3, 4.0 / 9.0), (2, 3.0 / 9.0), (1, 2.0 / 9.0)],
    );
    assert_eq!(p(0.0, 0).len(), 4);
}

/// Surprises of 0.97, 0.02, 0.01 are 0.0305, 3.912 and 4.605; the entropy is 0.154, so the order is
/// by rank. For 0.4 to 0.1 they are 0.916, 1.204, 1.609, 2.303 around 1.280: 2, 1, 3, 0.
#[test]
fn typical() {
    let p = |typ_p, min_keep, probs: &[f32]| {
        tokens(&left(
            &SamplingParams {
                typ_p,
                min_keep,
                ..only("typ_p")
            },
            probs,
        ))
    };
    assert_eq!(p(0.5, 0, &[0.97, 0.02, 0.01]), [0]);
    assert_eq!(p(0.29, 0, &PROBS), [2]);
    assert_eq!(p(0.49, 0, &PROBS), [2, 1]);
    assert_eq!(p(0.51, 0, &PROBS), [3, 2, 1]);
    assert_eq!(p(0.91, 0, &PROBS), [3, 2, 1, 0]);
    assert_eq!(p(0.29, 2, &PROBS), [2, 1]);
    assert_eq!(p(1.0, 0, &PROBS), [3, 2, 1, 0]);
}

/// The logits of 0.1 to 0.4 have mean -1.508 and standard deviation 0.522; the largest is -0.916.
#[test]
fn top_n_sigma() {
    let n = |n| {
        tokens(&left(
            &SamplingParams {
                top_n_sigma: n,
                ..only("top_n_sigma")
            },
            &PROBS,
        ))
    };
    assert_eq!(n(0.5), [3]);
    assert_eq!(n(0.6), [3, 2]);
    assert_eq!(n(1.3), [3, 2]);
    assert_eq!(n(1.4), [3, 2, 1]);
    assert_eq!(n(3.0), [3, 2, 1, 0]);
    for off in [0.0, -1.0] {
        assert_eq!(n(off).len(), 4);
    }
}

#[test]
fn xtc() {
    let left = |probability, threshold, min_keep| {
        let params = SamplingParams {
            xtc_probability: probability,
            xtc_threshold: threshold,
            min_keep,
            ..only("xtc")
        };
        left(&params, &PROBS)
    };
    assert_left(
        &left(1.0, 0.25, 0),
        &[(2, 0.5), (1, 2.0 / 6.0), (0, 1.0 / 6.0)],
    );
    assert_left(&left(1.0, 0.05, 0), &[(0, 1.0)]);
    assert_eq!(left(1.0, 0.25, 3).len(), 3, "min_keep allows the cut");
    assert_eq!(left(1.0, 0.35, 0).len(), 4, "a single top choice stays");
    assert_eq!(left(1.0, 0.05, 2).len(), 4, "min_keep forbids the cut");
    assert_eq!(left(0.0, 0.25, 0).len(), 4, "off by probability");
    assert_eq!(left(1.0, 0.51, 0).len(), 4, "off by threshold");
}

#[test]
fn xtc_acts_as_often_as_asked() {
    let params = SamplingParams {
        xtc_probability: 0.3,
        xtc_threshold: 0.25,
        ..only("xtc")
    };
    let mut sampler = sampler(&params, 4);
    let row = logits(&PROBS);
    let mut acted = 0;
    for _ in 0..10_000 {
        acted += i32::from(left_of(&mut sampler, &row).len() == 3);
        sampler.accept(0);
    }
    // Standard deviation 46.
    assert!((acted - 3000).abs() < 184, "{acted}");
}

#[test]
fn temperature() {
    let temp = |temp| {
        left(
            &SamplingParams {
                temp,
                ..only("temperature")
            },
            &PROBS,
        )
    };
    assert_left(&temp(1.0), &[(3, 0.4), (2, 0.3), (1, 0.2), (0, 0.1)]);
    assert_left(
        &temp(0.5),
        &[
            (3, 16.0 / 30.0),
            (2, 9.0 / 30.0),
            (1, 4.0 / 30.0),
            (0, 1.0 / 30.0),
        ],
    );
    for greedy in [0.0, -1.0] {
        assert_left(&temp(greedy), &[(3, 1.0)]);
    }
}

#[test]
fn extreme_temperatures_keep_the_order() {
    for temp in [f32::MIN_POSITIVE, 1e-30] {
        let mut sampler = sampler(
            &SamplingParams {
                temp,
                ..only("temperature")
            },
            3,
        );
        for row in [[20.0, 21.0, 19.0], [-1e30, -1e29, -1e31]] {
            assert_eq!(
                sampler.sample(&row, None).unwrap().token,
                1,
                "{temp} {row:?}"
            );
        }
    }
    let mut sampler = sampler(
        &SamplingParams {
            temp: f32::MAX,
            ..only("temperature")
        },
        3,
    );
    let left = left_of(&mut sampler, &[20.0, 21.0, 19.0]);
    assert_left(&left, &[(0, 1.0 / 3.0), (1, 1.0 / 3.0), (2, 1.0 / 3.0)]);
}

/// Entropy of (1/2, 1/2) is all it can be, so the temperature is the highest; of (1, 0) it is 0.
#[test]
fn dynamic_temperature() {
    let left = |range, exponent, probs: &[f32]| {
        let params = SamplingParams {
            dynatemp_range: range,
            dynatemp_exponent: exponent,
            ..only("temperature")
        };
        left(&params, probs)
    };
    assert_left(&left(0.5, 1.0, &[0.5, 0.5]), &[(0, 0.5), (1, 0.5)]);
    assert_left(&left(0.0, 1.0, &[0.2, 0.8]), &[(1, 0.8), (0, 0.2)]);
    // Entropy 0.5004 of 0.6931 is a share of 0.7219; the temperature is 0.5 + 1.0 * share.
    let power = |temp: f32| {
        let (a, b) = (0.8f32.powf(1.0 / temp), 0.2f32.powf(1.0 / temp));
        [(1, a / (a + b)), (0, b / (a + b))]
    };
    assert_left(&left(0.5, 1.0, &[0.2, 0.8]), &power(0.5 + 0.721_928_1));
    assert_left(&left(0.5, 2.0, &[0.2, 0.8]), &power(0.5 + 0.521_180_2));
    // The range is cut at 0, where the choice is greedy.
    assert_left(&left(2.0, 1e9, &[0.2, 0.8]), &[(1, 1.0)]);
}

#[test]
fn the_order_of_the_chain_matters() {
    // Halving the temperature first moves 0.53 onto one token, then 0.5 is reached by it alone.
    let params = |samplers| SamplingParams {
        temp: 0.5,
        top_p: 0.5,
        ..only(samplers)
    };
    assert_eq!(tokens(&left(&params("temperature;top_p"), &PROBS)), [3]);
    assert_eq!(tokens(&left(&params("top_p;temperature"), &PROBS)), [3, 2]);
    assert_eq!(left(&params("temperature"), &PROBS).len(), 4);
    assert_eq!(left(&params(""), &PROBS).len(), 4);
}

#[test]
fn a_repeated_sampler_acts_twice() {
    let params = SamplingParams {
        temp: 0.5,
        ..only("temperature;temperature")
    };
    let quarter = SamplingParams {
        temp: 0.25,
        ..only("temperature")
    };
    assert_left(&left(&params, &PROBS), &left(&quarter, &PROBS));
}

/// Leaving out what greedy decoding makes idle must not change the token.
#[test]
fn greedy_keeps_samplers_that_change_the_best() {
    let xtc = SamplingParams {
        temp: 0.0,
        xtc_probability: 1.0,
        xtc_threshold: 0.15,
        ..only("xtc;top_k;temperature;top_p")
    };
    assert_left(&left(&xtc, &PROBS), &[(1, 1.0)]);
    let typical = SamplingParams {
        temp: 0.0,
        typ_p: 0.2,
        ..only("top_k;typ_p;min_p;temperature")
    };
    assert_left(&left(&typical, &PROBS), &[(2, 1.0)]);
    // The penalty moves token 3 below token 2, but top-k has already dropped token 2.
    let after = SamplingParams {
        temp: 0.0,
        top_k: 1,
        penalty_present: 1.0,
        ..only("top_k;penalties;temperature")
    };
    let mut sampler = sampler(&after, 4);
    sampler.accept_prompt(&[3]);
    assert_left(&left_of(&mut sampler, &logits(&PROBS)), &[(3, 1.0)]);
}

#[test]
fn biases_come_first() {
    let params = |bias| SamplingParams {
        logit_bias: bias,
        ..only("")
    };
    let banned = params(vec![(3, f32::NEG_INFINITY), (2, f32::NEG_INFINITY)]);
    assert_left(&left(&banned, &PROBS), &[(1, 2.0 / 3.0), (0, 1.0 / 3.0)]);
    let raised = params(vec![(0, 8.0f32.ln())]);
    assert_left(
        &left(&raised, &[0.2, 0.8]),
        &[(0, 2.0 / 3.0), (1, 1.0 / 3.0)],
    );
    // Biases on the same token add up, and nothing lifts a ban.
    let twice = params(vec![(0, 2.0f32.ln()), (0, 4.0f32.ln())]);
    assert_left(
        &left(&twice, &[0.2, 0.8]),
        &[(0, 2.0 / 3.0), (1, 1.0 / 3.0)],
    );
    let lifted = params(vec![(1, f32::NEG_INFINITY), (1, 100.0)]);
    assert_left(&left(&lifted, &[0.2, 0.8]), &[(0, 1.0)]);
    let eos = SamplingParams {
        ignore_eos: true,
        ..only("")
    };
    assert_eq!(tokens(&left(&eos, &PROBS)), [2, 1, 0]);
}
