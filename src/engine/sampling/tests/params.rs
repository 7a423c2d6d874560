//! Names, defaults and ranges.

use super::super::SamplingError;
use super::*;

#[test]
fn defaults_are_those_of_llama_cpp() {
    let expected = SamplingParams {
        seed: None,
        samplers: SamplerKind::parse_list(
            "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature",
        )
        .unwrap(),
        temp: 0.8,
        dynatemp_range: 0.0,
        dynatemp_exponent: 1.0,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        typ_p: 1.0,
        top_n_sigma: -1.0,
        xtc_probability: 0.0,
        xtc_threshold: 0.1,
        min_keep: 0,
        penalty_last_n: 64,
        penalty_repeat: 1.0,
        penalty_freq: 0.0,
        penalty_present: 0.0,
        dry_multiplier: 0.0,
        dry_base: 1.75,
        dry_allowed_length: 2,
        dry_penalty_last_n: 64,
        dry_sequence_breakers: vec!["\n".into(), ":".into(), "\"".into(), "*".into()],
        mirostat: 0,
        mirostat_tau: 5.0,
        mirostat_eta: 0.1,
        adaptive_target: -1.0,
        adaptive_decay: 0.9,
        logit_bias: vec![],
        ignore_eos: false,
        n_probs: 0,
    };
    assert_eq!(SamplingParams::default(), expected);
    assert_eq!(
        SamplerKind::parse_letters("edskypmxt").unwrap(),
        expected.samplers
    );
    assert_eq!(expected.validate(), Ok(()));
}

#[test]
fn names_and_letters_go_both_ways() {
    for kind in SamplerKind::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
        assert_eq!(kind.name().to_uppercase().parse(), Ok(kind));
        assert_eq!(kind.name().replace('_', "-").parse(), Ok(kind));
        assert_eq!(kind.name().replace('_', "").parse(), Ok(kind));
        assert_eq!(SamplerKind::from_letter(kind.letter()), Some(kind));
    }
    for (alias, kind) in [
        ("temp", SamplerKind::Temperature),
        ("nucleus", SamplerKind::TopP),
        ("typ", SamplerKind::TypicalP),
        ("typical", SamplerKind::TypicalP),
        ("top-k", SamplerKind::TopK),
    ] {
        assert_eq!(alias.parse(), Ok(kind));
    }
    assert_eq!(SamplerKind::parse_list(""), Ok(vec![]));
}

#[test]
fn unknown_names_are_errors_with_the_known_ones() {
    let error = SamplerKind::parse_list("top_k;tfs_z").unwrap_err();
    assert_eq!(error.to_string(), "unknown sampler \"tfs_z\"");
    assert!(error.hint().unwrap().contains("top_n_sigma"));
    let error = SamplerKind::parse_letters("kq").unwrap_err();
    assert_eq!(error.to_string(), "unknown sampler letter 'q' in \"kq\"");
    assert!(error.hint().unwrap().contains("k = top_k"));
    assert!(
        "infill"
            .parse::<SamplerKind>()
            .unwrap_err()
            .hint()
            .unwrap()
            .contains("fill")
    );
}

#[test]
fn values_out_of_range_are_named() {
    type Change = fn(&mut SamplingParams);
    let cases: &[(Change, &str)] = &[
        (
            |p| p.temp = f32::NAN,
            "temperature is NaN, allowed is a finite number",
        ),
        (|p| p.temp = f32::INFINITY, "temperature is inf"),
        (|p| p.dynatemp_range = -0.1, "dynatemp_range is -0.1"),
        (|p| p.dynatemp_exponent = -1.0, "dynatemp_exponent is -1"),
        (|p| p.top_p = 1.5, "top_p is 1.5, allowed is 0 to 1"),
        (|p| p.min_p = -0.5, "min_p is -0.5"),
        (|p| p.typ_p = f32::NEG_INFINITY, "typical_p is -inf"),
        (|p| p.top_n_sigma = f32::NAN, "top_n_sigma is NaN"),
        (|p| p.xtc_probability = 2.0, "xtc_probability is 2"),
        (|p| p.xtc_threshold = -1.0, "xtc_threshold is -1"),
        (|p| p.penalty_repeat = 0.0, "repeat_penalty is 0"),
        (|p| p.penalty_repeat = 1e-45, "repeat_penalty is 0.000"),
        (
            |p| p.penalty_freq = f32::INFINITY,
            "frequency_penalty is inf",
        ),
        (|p| p.penalty_present = f32::NAN, "presence_penalty is NaN"),
        (
            |p| p.penalty_last_n = -2,
            "repeat_last_n is -2, allowed is -1 (context size) or more",
        ),
        (|p| p.dry_multiplier = -1.0, "dry_multiplier is -1"),
        (|p| p.dry_base = f32::NAN, "dry_base is NaN"),
        (
            |p| p.dry_penalty_last_n = i32::MIN,
            "dry_penalty_last_n is -2147483648",
        ),
        (
            |p| p.dry_sequence_breakers.push(String::new()),
            "dry_sequence_breakers is [",
        ),
        (|p| p.mirostat = 3, "mirostat is 3, allowed is 0, 1 or 2"),
        (|p| p.mirostat_tau = -1.0, "mirostat_tau is -1"),
        (|p| p.mirostat_eta = f32::INFINITY, "mirostat_eta is inf"),
        (|p| p.adaptive_target = 1.1, "adaptive_target is 1.1"),
        (
            |p| p.adaptive_decay = 1.0,
            "adaptive_decay is 1, allowed is 0 to 0.99",
        ),
        (
            |p| p.logit_bias.push((7, f32::INFINITY)),
            "logit_bias is inf for token 7",
        ),
        (
            |p| p.logit_bias.push((7, f32::NAN)),
            "logit_bias is NaN for token 7",
        ),
    ];
    for (change, text) in cases {
        let mut params = SamplingParams::default();
        change(&mut params);
        let error = params.validate().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("sampling parameter {text}")),
            "{error}"
        );
        assert!(Sampler::new(&params, &letters(10), 64).is_err(), "{text}");
    }
}

#[test]
fn a_bias_on_an_unknown_token_is_an_error() {
    let params = SamplingParams {
        logit_bias: vec![(9, 1.0), (10, 1.0)],
        ..Default::default()
    };
    let error = Sampler::new(&params, &letters(10), 64).unwrap_err();
    assert_eq!(
        error,
        SamplingError::UnknownToken {
            token: 10,
            n_vocab: 10
        }
    );
}

#[test]
fn json_takes_the_names_of_the_http_interface() {
    let json = r#"{
        "temperature": 0.5, "typical_p": 0.9, "repeat_last_n": -1, "repeat_penalty": 1.1,
        "frequency_penalty": 0.2, "presence_penalty": 0.3, "seed": 7, "top_k": 5,
        "samplers": ["top-k", "temp"], "logit_bias": [[5, false], [6, 1.5]]
    }"#;
    let params: SamplingParams = serde_json::from_str(json).unwrap();
    let expected = SamplingParams {
        temp: 0.5,
        typ_p: 0.9,
        penalty_last_n: -1,
        penalty_repeat: 1.1,
        penalty_freq: 0.2,
        penalty_present: 0.3,
        seed: Some(7),
        top_k: 5,
        samplers: vec![SamplerKind::TopK, SamplerKind::Temperature],
        logit_bias: vec![(5, f32::NEG_INFINITY), (6, 1.5)],
        ..SamplingParams::default()
    };
    assert_eq!(params, expected);
    let text = serde_json::to_string(&params).unwrap();
    assert_eq!(
        serde_json::from_str::<SamplingParams>(&text).unwrap(),
        params
    );
    let error = serde_json::from_str::<SamplingParams>(r#"{"samplers": ["magic"]}"#).unwrap_err();
    assert!(
        error.to_string().contains("unknown sampler \"magic\""),
        "{error}"
    );
    assert!(serde_json::from_str::<SamplingParams>(r#"{"logit_bias": [[5, true]]}"#).is_err());
}

#[test]
fn seeds_that_mean_a_random_one() {
    for (json, seed) in [
        ("-1", None),
        ("4294967295", None),
        ("null", None),
        ("0", Some(0)),
        ("18446744073709551615", Some(u64::MAX)),
    ] {
        let json = format!("{{\"seed\": {json}}}");
        let params: SamplingParams = serde_json::from_str(&json).unwrap();
        assert_eq!(params.seed, seed, "{json}");
    }
    assert_eq!(SamplingParams::seed_from_number(-1), None);
    assert_eq!(SamplingParams::seed_from_number(42), Some(42));
}

#[test]
fn the_chain_is_described_as_llama_cpp_prints_it() {
    let describe = |params: &SamplingParams| sampler(params, 10).describe().to_owned();
    assert_eq!(
        describe(&SamplingParams::default()),
        "logits -> ?penalties -> ?dry -> ?top-n-sigma -> top-k -> ?typical -> top-p -> min-p \
         -> ?xtc -> temp-ext -> dist"
    );
    let params = SamplingParams {
        mirostat: 2,
        temp: 0.7,
        ignore_eos: true,
        ..Default::default()
    };
    assert_eq!(
        describe(&params),
        "logits -> logit-bias -> temp -> mirostat-v2"
    );
    let params = SamplingParams {
        mirostat: 1,
        ..only("")
    };
    assert_eq!(describe(&params), "logits -> ?temp -> mirostat");
    assert_eq!(
        describe(&only("adaptive_p;min_p")),
        "logits -> min-p -> adaptive-p"
    );
}
