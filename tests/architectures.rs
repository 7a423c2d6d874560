//! The common architectures on random models of many shapes, against the same networks in plain loops.

#[path = "common/plain_decoder.rs"]
mod plain_decoder;
#[path = "common/random_model.rs"]
mod random_model;
#[path = "common/random_shapes.rs"]
mod random_shapes;

use std::sync::Arc;

use oxling::engine::{Engine, EngineConfig, FlashAttention};
use oxling::ggml::DType;
use oxling::gguf::Gguf;
use oxling::memory::{SeqId, Work};
use oxling::model::{ARCHITECTURES, LoadOptions, Model};
use random_model::RandomModel;

/// F32 sums of a few hundred terms against f64, on logits of size about 1.
const F32_TOLERANCE: f64 = 2e-4;

const TOKENS: [u32; 23] = [
    84, 104, 101, 32, 99, 97, 112, 105, 116, 97, 108, 32, 111, 102, 32, 70, 114, 97, 110, 99, 101,
    32, 105,
];

fn load(hp: &RandomModel) -> Model {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("tiny.gguf");
    hp.write(&path);
    let gguf = Arc::new(Gguf::open(&path).expect("our own file"));
    Model::load(gguf, &LoadOptions::default(), &mut |_, _| {})
        .unwrap_or_else(|e| panic!("{} {}: {e}", hp.arch, hp.name))
}

fn engine(model: &Model, flash_attention: FlashAttention, n_seq: u32) -> Engine {
    engine_with(model, (flash_attention, true), n_seq)
}

fn engine_with(model: &Model, kernels: (FlashAttention, bool), n_seq: u32) -> Engine {
    let (flash_attention, own_kernels) = kernels;
    let config = EngineConfig {
        n_threads: 1,
        n_threads_batch: 1,
        n_ctx: 64,
        n_seq,
        row_type: DType::F32,
        flash_attention,
        own_kernels,
        mtp: model.network().has_mtp(),
        ..EngineConfig::default()
    };
    Engine::new(model, config).expect("engine")
}

fn worst(a: &[f32], b: &[f64]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, b)| (f64::from(a) - b).abs())
        .fold(0.0, f64::max)
}

/// Every position of the trunk and of the MTP head, in steps of `chunk` tokens.
fn check(hp: &RandomModel, expected: &plain_decoder::Expected, engine: &mut Engine, chunk: usize) {
    let what = format!("{} {}, steps of {chunk}", hp.arch, hp.name);
    engine.clear(SeqId(0)).expect("clears");
    let mut t = 0;
    for part in TOKENS.chunks(chunk) {
        let work = Work {
            seq: SeqId(0),
            tokens: part,
            outputs: (0..part.len() as u32).collect(),
        };
        let step = engine.step(&[work], hp.mtp).expect("step");
        for i in 0..part.len() as u32 {
            let off = worst(step.logits(0, i).expect("row"), &expected.trunk[t]);
            assert!(off < F32_TOLERANCE, "{what}: token {t} is off by {off}");
            let ahead = step.mtp_logits(0, i);
            assert_eq!(ahead.is_some(), hp.mtp, "{what}");
            if let (Some(ahead), 1..) = (ahead, t) {
                let off = worst(ahead, &expected.mtp[t - 1]);
                assert!(off < F32_TOLERANCE, "{what}: MTP at {t} is off by {off}");
            }
            t += 1;
        }
    }
}

/// Sequences of unequal length, in slots that are no neighbours, together with a prompt.
fn check_together(hp: &RandomModel, expected: &plain_decoder::Expected, engine: &mut Engine) {
    let lengths = [9usize, 9, 14];
    let slots = [0, 1, 3];
    for part in 0..2 {
        let work: Vec<Work<'_>> = lengths
            .iter()
            .zip(slots)
            .map(|(&n, slot)| {
                let (from, to) = if part == 0 { (0, n) } else { (n, n + 1 + slot) };
                Work {
                    seq: SeqId(slot as u32),
                    tokens: &TOKENS[from..to],
                    outputs: vec![(to - from) as u32 - 1],
                }
            })
            .collect();
        let step = engine.step(&work, false).expect("step");
        for (i, (&n, slot)) in lengths.iter().zip(slots).enumerate() {
            let last = if part == 0 { n - 1 } else { n + slot };
            let row = step.logits(i, work[i].outputs[0]).expect("row");
            let off = worst(row, &expected.trunk[last]);
            assert!(
                off < F32_TOLERANCE,
                "{} {}, together: slot {slot} token {last} is off by {off}",
                hp.arch,
                hp.name
            );
        }
    }
}

fn every_shape_equals_the_plain_network(arch: &'static str) {
    for hp in random_shapes::shapes(arch) {
        let expected = plain_decoder::forward(&hp, &TOKENS);
        let model = load(&hp);
        let kernels = [
            (FlashAttention::Off, true),
            (FlashAttention::Auto, true),
            (FlashAttention::On, false),
            (FlashAttention::Auto, false),
        ];
        for kernel in kernels {
            let mut one = engine_with(&model, kernel, 1);
            for chunk in [TOKENS.len(), 5, 1] {
                check(&hp, &expected, &mut one, chunk);
            }
            check_together(&hp, &expected, &mut engine_with(&model, kernel, 4));
        }
    }
}

#[test]
fn llama() {
    every_shape_equals_the_plain_network("llama");
}

#[test]
fn qwen2() {
    every_shape_equals_the_plain_network("qwen2");
}

#[test]
fn qwen3() {
    every_shape_equals_the_plain_network("qwen3");
}

#[test]
fn qwen3moe() {
    every_shape_equals_the_plain_network("qwen3moe");
}

#[test]
fn bailingmoe2() {
    every_shape_equals_the_plain_network("bailingmoe2");
}

#[test]
fn deepseek2() {
    every_shape_equals_the_plain_network("deepseek2");
}

#[test]
fn every_architecture_has_a_tiny_test() {
    let elsewhere = ["bailing_hybrid"];
    for architecture in ARCHITECTURES {
        let name = architecture.name;
        let tested = random_shapes::ARCHITECTURES.contains(&name) || elsewhere.contains(&name);
        assert!(tested, "{name} has no tiny model here");
        assert!(random_shapes::wide(name).is_none_or(|m| m.arch == name));
    }
}

#[test]
fn an_unknown_architecture_hears_what_runs() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("falcon.gguf");
    RandomModel::tiny("falcon").write(&path);
    let error = Model::open(&path, &LoadOptions::default(), &mut |_, _| {});
    let error = error.expect_err("no such architecture");
    assert!(error.to_string().contains("`falcon`"), "{error}");
    let hint = error.hint().expect("a way out");
    for architecture in ARCHITECTURES {
        assert!(hint.contains(architecture.name), "{hint}");
    }
}

/// Steps that check guesses: every token gets the bits it would get alone, also beside other sequences.
#[test]
fn exact_steps_give_the_bits_of_single_tokens() {
    const N_SEQ: u32 = 3;
    /// One key per head, few heads or many per key: where a token's columns may be a single one.
    const SHAPES: [&str; 4] = ["base", "odd-heads", "gqa8", "one-head"];
    let all = random_shapes::ARCHITECTURES
        .into_iter()
        .flat_map(random_shapes::shapes);
    for hp in all.filter(|hp| SHAPES.contains(&hp.name)) {
        let model = load(&hp);
        let mut alone = engine(&model, FlashAttention::Auto, 1);
        let single = |token: &u32| {
            let work = Work {
                seq: SeqId(0),
                tokens: std::slice::from_ref(token),
                outputs: vec![0],
            };
            let out = alone.step(&[work], false).expect("step");
            out.logits(0, 0).expect("row").to_vec()
        };
        let rows: Vec<Vec<f32>> = TOKENS[..9].iter().map(single).collect();
        let mut together = engine(&model, FlashAttention::Auto, N_SEQ);
        for (i, part) in TOKENS[..9].chunks(3).enumerate() {
            let work: Vec<Work<'_>> = (0..N_SEQ)
                .map(|s| Work {
                    seq: SeqId(s),
                    tokens: part,
                    outputs: vec![0, 1, 2],
                })
                .collect();
            let out = together.step_exact(&work).expect("step");
            for (s, t) in (0..N_SEQ as usize).flat_map(|s| (0..3).map(move |t| (s, t))) {
                let same = out.logits(s, t as u32).expect("row") == rows[3 * i + t];
                assert!(
                    same,
                    "{} {}: sequence {s}, step {i}, token {t}",
                    hp.arch, hp.name
                );
            }
        }
    }
}
