//! The engine on the demo model: the same numbers however the tokens are cut, batched, rolled back and continued.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use oxling::engine::{Engine, EngineConfig, FlashAttention, Timeline};
use oxling::ggml::DType;
use oxling::gguf::Gguf;
use oxling::memory::{SeqId, Work};
use oxling::model::{LoadOptions, Model};
use oxling::tokenizer::EncodeOptions;

/// Kernels for one and for many columns round IQ4_NL products differently, and a near tie of two experts may fall the
/// other way: measured up to 0.12 in logits that spread over 30. A wrong mask or state is off by whole units.
const KERNEL_TOLERANCE: f32 = 0.4;

const TEXTS: [&str; 4] = [
    "In the beginning God created the heaven and the earth. And the earth was without form, and void;",
    "The capital of France is",
    "One day Tom went to the park. There Tom saw a red ball.",
    "3 + 4 = 7. 5 times 6 is 30. The day after Monday is",
];

fn model() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-ling-IQ4_NL.gguf");
    let gguf = Arc::new(Gguf::open(&path).expect("demo model"));
    Model::load(gguf, &LoadOptions::default(), &mut |_, _| {}).expect("loads")
}

fn tokens(model: &Model, text: &str) -> Vec<u32> {
    let options = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    model.tokenizer().encode(text, options)
}

fn config() -> EngineConfig {
    EngineConfig {
        n_ctx: 512,
        n_threads: 1,
        n_threads_batch: 1,
        ..EngineConfig::default()
    }
}

fn engine(model: &Model, config: EngineConfig) -> Engine {
    Engine::new(model, config).expect("engine")
}

fn all(n: usize) -> Vec<u32> {
    (0..n as u32).collect()
}

/// Logits at every position of one sequence, computed in steps of `chunk` tokens.
fn rows(engine: &mut Engine, seq: u32, tokens: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let mut out = Vec::new();
    for part in tokens.chunks(chunk) {
        let work = Work {
            seq: SeqId(seq),
            tokens: part,
            outputs: all(part.len()),
        };
        let step = engine.step(&[work], false).expect("step");
        out.extend((0..part.len()).map(|t| step.logits(0, t as u32).expect("asked for").to_vec()));
    }
    out
}

fn assert_close(a: &[Vec<f32>], b: &[Vec<f32>], tolerance: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (row, (x, y)) in a.iter().zip(b).enumerate() {
        let worst = x
            .iter()
            .zip(y)
            .map(|(p, q)| (p - q).abs())
            .fold(0.0, f32::max);
        assert!(worst <= tolerance, "{what}: row {row} differs by {worst}");
        assert!(
            x.iter().all(|v| v.is_finite()),
            "{what}: row {row} is not finite"
        );
    }
}

#[test]
fn prefill_equals_decode() {
    let model = model();
    let ids = tokens(&model, TEXTS[0]);
    let whole = rows(&mut engine(&model, config()), 0, &ids, 512);
    for chunk in [1, 7] {
        let parts = rows(&mut engine(&model, config()), 0, &ids, chunk);
        assert_close(
            &whole,
            &parts,
            KERNEL_TOLERANCE,
            &format!("steps of {chunk}"),
        );
    }
}

#[test]
fn a_batch_equals_single_runs() {
    let model = model();
    let ids: Vec<Vec<u32>> = TEXTS.iter().map(|t| tokens(&model, t)).collect();
    let mut single = engine(&model, config());
    let mut batch = engine(
        &model,
        EngineConfig {
            n_seq: 4,
            ..config()
        },
    );
    // Prompts of different lengths in one step, then two steps of one token each for all sequences.
    let (heads, tails): (Vec<&[u32]>, Vec<&[u32]>) =
        ids.iter().map(|i| i.split_at(i.len() - 2)).unzip();
    let mut together: Vec<Vec<Vec<f32>>> = vec![Vec::new(); 4];
    for step in 0..3 {
        let work: Vec<Work<'_>> = (0..4)
            .map(|s| {
                let tokens = if step == 0 {
                    heads[s]
                } else {
                    &tails[s][step - 1..step]
                };
                Work {
                    seq: SeqId(s as u32),
                    tokens,
                    outputs: all(tokens.len()),
                }
            })
            .collect();
        let out = batch.step(&work, false).expect("step");
        for (s, w) in work.iter().enumerate() {
            together[s].extend(
                (0..w.tokens.len()).map(|t| out.logits(s, t as u32).expect("row").to_vec()),
            );
        }
    }
    for (s, rows_of) in together.iter().enumerate() {
        single.clear(SeqId(0)).expect("clear");
        assert_close(
            &rows(&mut single, 0, &ids[s], 512),
            rows_of,
            KERNEL_TOLERANCE,
            TEXTS[s],
        );
    }
}

#[test]
fn neighbouring_and_scattered_slots_agree() {
    let model = model();
    let ids = tokens(&model, TEXTS[0]);
    for flash_attention in [FlashAttention::On, FlashAttention::Off] {
        let mut e = engine(
            &model,
            EngineConfig {
                n_seq: 5,
                flash_attention,
                ..config()
            },
        );
        // Slots 0, 1 and 4: one run of two and one of one.
        let seqs = [0, 1, 4];
        let mut last = Vec::new();
        for part in [&ids[..9], &ids[9..10]] {
            let work: Vec<_> = seqs
                .iter()
                .map(|&s| Work {
                    seq: SeqId(s),
                    tokens: part,
                    outputs: vec![part.len() as u32 - 1],
                })
                .collect();
            let out = e.step(&work, false).expect("step");
            last = (0..3)
                .map(|i| out.logits(i, part.len() as u32 - 1).expect("row").to_vec())
                .collect();
        }
        assert_close(&last[..1], &last[1..2], KERNEL_TOLERANCE, "neighbours");
        assert_close(&last[..1], &last[2..], KERNEL_TOLERANCE, "scattered");
        let mut alone = engine(
            &model,
            EngineConfig {
                flash_attention,
                ..config()
            },
        );
        let expected = rows(&mut alone, 0, &ids[..10], 9);
        assert_close(&expected[9..], &last[..1], KERNEL_TOLERANCE, "alone");
    }
}

#[test]
fn rolling_back_by_snapshots_continues_as_if_never_gone_ahead() {
    let model = model();
    let ids = tokens(&model, TEXTS[0]);
    let wrong: Vec<u32> = ids.iter().rev().copied().collect();
    for poison in [0x3e, 0xff] {
        let mut e = engine(
            &model,
            EngineConfig {
                n_snapshots: 4,
                mtp: true,
                ..config()
            },
        );
        e.memory().poison(poison).expect("poison");
        let expected = rows(
            &mut engine(
                &model,
                EngineConfig {
                    mtp: true,
                    ..config()
                },
            ),
            0,
            &ids,
            4,
        );
        rows(&mut e, 0, &ids[..8], 8);
        for back in 0..4usize {
            // A draft of four tokens of which 4 - back are right.
            let mut draft = ids[8..12].to_vec();
            draft[4 - back..].copy_from_slice(&wrong[..back]);
            rows(&mut e, 0, &draft, 4);
            e.truncate(SeqId(0), 12 - back as u32)
                .expect("within the snapshots");
            let rest = rows(&mut e, 0, &ids[12 - back..20], 3);
            assert_close(
                &expected[12 - back..20],
                &rest,
                KERNEL_TOLERANCE,
                &format!("back {back}, poison {poison:#x}"),
            );
            assert!(e.truncate(SeqId(0), 8).is_err(), "that state is gone");
            e.clear(SeqId(0)).expect("clear");
            rows(&mut e, 0, &ids[..8], 8);
        }
    }
}

#[test]
fn checkpoints_and_copies_continue_identically() {
    let model = model();
    let ids = tokens(&model, TEXTS[0]);
    let mut e = engine(
        &model,
        EngineConfig {
            n_seq: 3,
            ..config()
        },
    );
    rows(&mut e, 1, &ids[..9], 9);
    let checkpoint = e.checkpoint(SeqId(1)).expect("checkpoint");
    e.copy(SeqId(1), SeqId(2)).expect("copy");
    let first = rows(&mut e, 1, &ids[9..18], 3);
    let copied = rows(&mut e, 2, &ids[9..18], 3);
    e.restore(SeqId(1), &checkpoint).expect("restore");
    assert_eq!(e.n_past(SeqId(1)).expect("exists"), 9);
    let again = rows(&mut e, 1, &ids[9..18], 3);
    // The same kernels on the same numbers: bit for bit.
    assert_close(&first, &again, 0.0, "restored");
    assert_close(&first, &copied, 0.0, "copied");
}

#[test]
fn a_timeline_reuses_what_it_can_and_gives_the_same_logits() {
    let model = model();
    let ids = tokens(&model, TEXTS[0]);
    let cancel = AtomicBool::new(false);
    let mut e = engine(&model, config());
    let mut timeline = Timeline::new(SeqId(0), 4);
    let mut sync = |t: &mut Timeline, prompt: &[u32]| {
        let done = t
            .sync(&mut e, prompt, &cancel, &mut |_, _| {})
            .expect("sync");
        if prompt.len() == 10 {
            t.checkpoint(&e).expect("checkpoint");
        }
        (
            done.reused,
            done.computed,
            t.logits().expect("logits").to_vec(),
        )
    };
    sync(&mut timeline, &ids[..10]);
    let (reused, computed, extended) = sync(&mut timeline, &ids[..20]);
    assert_eq!((reused, computed), (10, 10));
    // Another continuation after token 10: the checkpoint is there.
    let mut other = ids[..14].to_vec();
    other[12] = ids[0];
    let (reused, computed, _) = sync(&mut timeline, &other);
    assert_eq!((reused, computed), (10, 4));
    let (reused, computed, again) = sync(&mut timeline, &ids[..20]);
    assert_eq!((reused, computed), (10, 10));
    assert_close(
        &[extended],
        &[again],
        KERNEL_TOLERANCE,
        "another way to the same tokens",
    );
    // The whole prompt is there already.
    assert_eq!(sync(&mut timeline, &ids[..20]).1, 0);
    // Before the checkpoint nothing is kept but the beginning.
    assert_eq!(sync(&mut timeline, &ids[..5]).0, 0);
}

#[test]
fn cache_types_and_kernels_agree() {
    /// Eight bits per cached element.
    const Q8_TOLERANCE: f32 = 1.0;
    let model = model();
    let ids = tokens(&model, TEXTS[2]);
    let with = |row_type, flash_attention| {
        rows(
            &mut engine(
                &model,
                EngineConfig {
                    row_type,
                    flash_attention,
                    ..config()
                },
            ),
            0,
            &ids,
            512,
        )
    };
    let exact = with(DType::F32, FlashAttention::Off);
    for (row_type, tolerance) in [
        (DType::F32, KERNEL_TOLERANCE),
        (DType::F16, KERNEL_TOLERANCE),
        (DType::BF16, Q8_TOLERANCE),
        (DType::Q8_0, Q8_TOLERANCE),
    ] {
        assert_close(
            &exact,
            &with(row_type, FlashAttention::On),
            tolerance,
            row_type.name(),
        );
        if !row_type.is_quantized() {
            assert_close(
                &exact,
                &with(row_type, FlashAttention::Off),
                tolerance,
                row_type.name(),
            );
        }
    }
}

/// A slot that held something not finite serves its next user like a fresh one.
#[test]
fn nothing_shines_through_a_cleared_slot() {
    let model = model();
    let ids = tokens(&model, TEXTS[1]);
    let expected = rows(&mut engine(&model, config()), 0, &ids, 512);
    let mut e = engine(&model, config());
    e.memory().poison(0xff).expect("poison");
    rows(&mut e, 0, &tokens(&model, TEXTS[0]), 512);
    e.clear(SeqId(0)).expect("clear");
    assert_close(
        &expected,
        &rows(&mut e, 0, &ids, 512),
        0.0,
        "after another text",
    );
}

#[test]
fn graphs_are_reused_while_shapes_repeat() {
    let model = model();
    let ids = tokens(&model, TEXTS[0]);
    let mut e = engine(&model, config());
    rows(&mut e, 0, &ids[..4], 4);
    e.take_stats();
    rows(&mut e, 0, &ids[4..20], 1);
    let stats = e.take_stats();
    assert_eq!((stats.graphs, stats.graphs_built), (16, 1));
}

#[test]
fn impossible_requests_are_errors_and_leave_the_sequence_alone() {
    let model = model();
    let mut e = engine(
        &model,
        EngineConfig {
            n_ctx: 16,
            n_seq: 2,
            ..config()
        },
    );
    let step = |e: &mut Engine, seq, tokens: &[u32]| {
        e.step(
            &[Work {
                seq: SeqId(seq),
                tokens,
                outputs: vec![],
            }],
            false,
        )
        .map(drop)
    };
    step(&mut e, 0, &[5, 6, 7]).expect("fits");
    let errors = [
        step(&mut e, 0, &[1; 14]),
        step(&mut e, 7, &[1]),
        step(&mut e, 0, &[model.n_vocab()]),
        step(&mut e, 0, &[u32::MAX]),
        e.truncate(SeqId(9), 0),
        e.truncate(SeqId(0), 1),
    ];
    let expected = [
        "context is full",
        "sequence 7 does not exist",
        "outside the vocabulary",
        "outside the vocabulary",
        "does not exist",
        "cannot go back",
    ];
    for (error, phrase) in errors.into_iter().zip(expected) {
        let message = error.expect_err(phrase).to_string();
        assert!(
            message.contains(phrase),
            "`{message}` does not say `{phrase}`"
        );
    }
    assert_eq!(e.n_past(SeqId(0)).expect("exists"), 3);
    let twice = [
        Work {
            seq: SeqId(0),
            tokens: &[1],
            outputs: vec![],
        },
        Work {
            seq: SeqId(0),
            tokens: &[1],
            outputs: vec![],
        },
    ];
    assert!(e.step(&twice, false).is_err());
    let beyond = [Work {
        seq: SeqId(1),
        tokens: &[1, 2],
        outputs: vec![2],
    }];
    assert!(e.step(&beyond, false).is_err(), "there is no third token");
    let unreadable = EngineConfig {
        row_type: DType::Q8_0,
        flash_attention: FlashAttention::Off,
        ..config()
    };
    let error = Engine::new(&model, unreadable).expect_err("only the fused kernel reads such rows");
    assert!(
        error.to_string().contains("Q8_0") && error.hint().is_some(),
        "{error}"
    );
    step(&mut e, 0, &[8, 9]).expect("still works");
}
