//! `bailing_hybrid` on random models of many shapes, against the same network in plain loops.

#[path = "common/plain_ling.rs"]
mod plain_ling;
#[path = "common/tiny.rs"]
mod tiny;

use std::collections::BTreeMap;
use std::sync::Arc;

use oxling::engine::{Engine, EngineConfig, FlashAttention};
use oxling::ggml::DType;
use oxling::gguf::{GgmlType, Gguf};
use oxling::memory::{SeqId, Work};
use oxling::model::{LoadOptions, Model};
use tiny::TinyLing;

/// F32 sums of a few hundred terms against f64, on logits of size about 1.
const F32_TOLERANCE: f64 = 2e-4;

const TOKENS: [u32; 23] = [
    84, 104, 101, 32, 99, 97, 112, 105, 116, 97, 108, 32, 111, 102, 32, 70, 114, 97, 110, 99, 101,
    32, 105,
];

fn shapes() -> Vec<TinyLing> {
    let base = TinyLing::BASE;
    vec![
        base.clone(),
        TinyLing {
            name: "no MTP block",
            mtp: false,
            ..base.clone()
        },
        TinyLing {
            name: "fused kv_b",
            fused_kv_b: true,
            ..base.clone()
        },
        TinyLing {
            name: "queries straight from the input, as in 1T",
            q_lora: None,
            ..base.clone()
        },
        TinyLing {
            name: "odd heads",
            n_head: 3,
            norm_groups: 3,
            ..base.clone()
        },
        TinyLing {
            name: "one head",
            n_head: 1,
            ..base.clone()
        },
        TinyLing {
            name: "heads of 128, cut for the scan",
            head_dim: 128,
            n_rot: 64,
            ..base.clone()
        },
        TinyLing {
            name: "heads of 32, not cut",
            head_dim: 32,
            n_rot: 16,
            ..base.clone()
        },
        TinyLing {
            name: "one expert per token, no groups",
            n_used: 1,
            n_group: 1,
            n_group_used: 1,
            ..base.clone()
        },
        TinyLing {
            name: "all experts, no shared one, no bias",
            n_expert: 4,
            n_used: 4,
            n_group: 1,
            n_group_used: 1,
            n_shared: 0,
            bias: false,
            ..base.clone()
        },
        TinyLing {
            name: "two shared experts, no dense block",
            n_shared: 2,
            n_dense: 0,
            ..base.clone()
        },
        TinyLing {
            name: "groups of one expert",
            n_expert: 4,
            n_group: 4,
            n_group_used: 2,
            ..base.clone()
        },
        TinyLing {
            name: "tied output",
            tied: true,
            ..base.clone()
        },
        TinyLing {
            name: "scalar head_count_kv",
            scalar_kv: true,
            ..base.clone()
        },
        TinyLing {
            name: "YaRN, 64 tokens stretched to 256",
            yarn: Some((4.0, 64)),
            ..base.clone()
        },
        TinyLing {
            name: "only MLA blocks",
            interval: 1,
            scalar_kv: true,
            ..base.clone()
        },
        TinyLing {
            name: "one block",
            n_layer: 1,
            interval: 8,
            scalar_kv: true,
            n_dense: 0,
            ..base
        },
    ]
}

fn load(hp: &TinyLing, weights: &BTreeMap<String, Vec<f32>>) -> Model {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("tiny.gguf");
    hp.write(&path, weights);
    let gguf = Arc::new(Gguf::open(&path).expect("our own file"));
    Model::load(gguf, &LoadOptions::default(), &mut |_, _| {})
        .unwrap_or_else(|e| panic!("{}: {e}", hp.name))
}

/// Trunk and MTP logits at every position, in steps of `chunk` tokens.
fn run(
    model: &Model,
    (flash_attention, own_kernels): (FlashAttention, bool),
    chunk: usize,
) -> Vec<(Vec<f32>, Option<Vec<f32>>)> {
    let mtp = model.network().has_mtp();
    let config = EngineConfig {
        n_threads: 1,
        n_threads_batch: 1,
        row_type: DType::F32,
        flash_attention,
        own_kernels,
        mtp,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(model, config).expect("engine");
    let mut out = Vec::new();
    for part in TOKENS.chunks(chunk) {
        let work = Work {
            seq: SeqId(0),
            tokens: part,
            outputs: (0..part.len() as u32).collect(),
        };
        let step = engine.step(&[work], mtp).expect("step");
        out.extend((0..part.len() as u32).map(|t| {
            (
                step.logits(0, t).expect("row").to_vec(),
                step.mtp_logits(0, t).map(<[f32]>::to_vec),
            )
        }));
    }
    out
}

fn worst(a: &[f32], b: &[f64]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, b)| (f64::from(a) - b).abs())
        .fold(0.0, f64::max)
}

#[test]
fn every_shape_equals_the_plain_network() {
    for hp in shapes() {
        let weights = hp.weights();
        let expected = plain_ling::forward(&hp, &weights, &TOKENS);
        let model = load(&hp, &weights);
        for (kernel, chunk) in [
            ((FlashAttention::Off, true), 23),
            ((FlashAttention::Auto, true), 23),
            ((FlashAttention::On, false), 23),
            ((FlashAttention::Off, true), 1),
            ((FlashAttention::Auto, true), 1),
            ((FlashAttention::On, false), 5),
            ((FlashAttention::Auto, true), 5),
        ] {
            for (t, (trunk, mtp)) in run(&model, kernel, chunk).iter().enumerate() {
                let off = worst(trunk, &expected.trunk[t]);
                assert!(
                    off < F32_TOLERANCE,
                    "{}, {kernel:?}, steps of {chunk}: token {t} is off by {off}",
                    hp.name
                );
                assert_eq!(mtp.is_some(), hp.mtp, "{}", hp.name);
                if let (Some(mtp), 1..) = (mtp, t) {
                    let off = worst(mtp, &expected.mtp[t - 1]);
                    assert!(
                        off < F32_TOLERANCE,
                        "{}, {kernel:?}, steps of {chunk}: MTP at token {t} is off by {off}",
                        hp.name
                    );
                }
            }
        }
    }
}

/// Keys and values are made of latents for a prompt of some hundreds of tokens. The rest of it, and a token of another
/// sequence in the same step, absorb the matrices into queries.
#[test]
fn long_prompts_equal_the_plain_network() {
    const LENGTH: usize = 280;
    /// Activations meet F16 matrices in F16: logits were off by 0.002.
    const F16_TOLERANCE: f64 = 1e-2;
    let tokens: Vec<u32> = (0..LENGTH as u32).map(|i| 32 + i * i % 91).collect();
    let base = TinyLing {
        n_layer: 2,
        ..TinyLing::BASE
    };
    let shapes = [
        (base.clone(), true, F32_TOLERANCE),
        (
            TinyLing {
                name: "F16 matrices",
                fused_kv_b: true,
                weight_type: GgmlType::F16,
                ..base.clone()
            },
            true,
            F16_TOLERANCE,
        ),
        (
            TinyLing {
                name: "widths that are not made",
                nope: 24,
                ..base
            },
            false,
            F32_TOLERANCE,
        ),
    ];
    for (hp, can, tolerance) in shapes {
        let weights = rounded(&hp, &hp.weights()).expect("encodes");
        let expected = plain_ling::forward(&hp, &weights, &tokens);
        let model = load(&hp, &weights);
        let (own, mtp) = (oxling::ggml::attends(DType::F32), hp.mtp);
        for (cuts, own_kernels) in [
            (&[0, LENGTH][..], true),
            (&[0, 270, LENGTH], true),
            (&[0, 10, 270, LENGTH], true),
            (&[0, LENGTH], false),
        ] {
            let config = EngineConfig {
                n_ctx: 512,
                n_seq: 2,
                n_threads: 1,
                n_threads_batch: 1,
                row_type: DType::F32,
                own_kernels,
                mtp,
                ..EngineConfig::default()
            };
            let mut engine = Engine::new(&model, config).expect("engine");
            engine.set_profiling(true);
            let what = format!("{}, {cuts:?}, own kernels: {own_kernels}", hp.name);
            for (i, cut) in cuts.windows(2).enumerate() {
                let works = [(0, cut[0]..cut[1]), (1, i..i + 1)].map(|(seq, part)| Work {
                    seq: SeqId(seq),
                    tokens: &tokens[part.clone()],
                    outputs: (0..part.len() as u32).collect(),
                });
                let step = engine.step(&works, mtp).expect("step");
                for (w, start) in [(0, cut[0]), (1, i)] {
                    for t in 0..works[w].tokens.len() {
                        let trunk = step.logits(w, t as u32).expect("row");
                        let off = worst(trunk, &expected.trunk[start + t]);
                        let token = start + t;
                        assert!(off < tolerance, "{what}: {w}, {token} is off by {off}");
                        if let (Some(mtp), 1..) = (step.mtp_logits(w, t as u32), start + t) {
                            let off = worst(mtp, &expected.mtp[start + t - 1]);
                            assert!(off < tolerance, "{what}: MTP {w}, {token}, {off}");
                        }
                    }
                }
            }
            let ops = engine.take_profile().entries;
            let made = ops.iter().any(|op| op.op == "ATTENTION_LATENTS");
            assert_eq!(made, can && own && own_kernels, "{what}");
        }
    }
}

/// Every expert is used, so that rounding cannot change which.
#[test]
fn every_type_of_weight_loads_and_computes() {
    /// Activations are rounded to 8 bits for products with quantised weights; share of the largest logit, 0.07 at worst.
    const ROUNDING: f64 = 0.15;
    let base = TinyLing {
        n_embd: 256,
        n_ff: 256,
        head_dim: 128,
        n_rot: 64,
        kv_lora: 256,
        q_lora: Some(256),
        nope: 256,
        v_dim: 128,
        ..TinyLing::BASE
    };
    let base = TinyLing {
        n_layer: 2,
        n_dense: 0,
        mtp: false,
        ..base
    };
    let hp = TinyLing {
        n_expert: 4,
        n_used: 4,
        n_group: 1,
        n_group_used: 1,
        ..base
    };
    let weights = hp.weights();
    let mut seen = 0;
    for ty in GgmlType::ALL
        .iter()
        .copied()
        .filter(|t| oxling::ggml::usable_as_matrix(*t))
    {
        let hp = TinyLing {
            name: ty.name(),
            weight_type: ty,
            ..hp.clone()
        };
        // Types that cannot be encoded without importances are left to files that have them.
        let Some(rounded) = rounded(&hp, &weights) else {
            continue;
        };
        let expected = plain_ling::forward(&hp, &rounded, &TOKENS);
        let rows = run(&load(&hp, &weights), (FlashAttention::Auto, true), 23);
        for (t, (trunk, _)) in rows.iter().enumerate() {
            let size = expected.trunk[t]
                .iter()
                .fold(0.0, |m: f64, v| m.max(v.abs()));
            let off = worst(trunk, &expected.trunk[t]) / size;
            assert!(off < ROUNDING, "{ty}: token {t} is off by {off} of {size}");
        }
        seen += 1;
    }
    assert!(seen > 15, "only {seen} types");
}

/// The weights as the file holds them.
fn rounded(
    hp: &TinyLing,
    weights: &BTreeMap<String, Vec<f32>>,
) -> Option<BTreeMap<String, Vec<f32>>> {
    let mut all = BTreeMap::new();
    for (name, shape) in hp.shapes() {
        let (ty, row) = (hp.type_of(&name, &shape), shape[0] as u64);
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        oxling::ggml::quantize(ty, &weights[&name], row, None, &mut bytes).ok()?;
        oxling::ggml::dequantize(ty, &bytes, row, &mut values).ok()?;
        all.insert(name, values);
    }
    Some(all)
}
