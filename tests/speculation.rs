//! Speculation on the demo model: the same text, and the same memory, with guesses as without, whatever is guessed.

#[path = "common/demo.rs"]
mod demo;
#[path = "common/texts.rs"]
mod texts;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use demo::{config, model};
use oxling::engine::sampling::{Constraint, SamplingParams};
use oxling::engine::speculation::{
    DraftType, Lane, Progress, Sink, Speculation, SpeculationParams, round,
};
use oxling::engine::{Engine, EngineConfig, Finish, GenerateOptions, Timeline};
use oxling::memory::{DraftWork, SeqId, Work};
use oxling::model::Model;
use texts::{sampler, tokens};

const N_PREDICT: u32 = 48;

const PROMPTS: [&str; 4] = [
    "<role>HUMAN</role>Tell me a story.<|role_end|><role>ASSISTANT</role>",
    "<role>SYSTEM</role>detailed thinking off<|role_end|><role>HUMAN</role>Where is France?<|role_end|><role>ASSISTANT</role>",
    "And the king said unto him, What wilt thou",
    "The capital of Peru is Lima. The capital of Chile is Santiago. The capital of Spain is",
];

fn greedy() -> SamplingParams {
    SamplingParams {
        temp: 0.0,
        ..SamplingParams::default()
    }
}

fn random(seed: u64) -> SamplingParams {
    SamplingParams {
        temp: 0.8,
        seed: Some(seed),
        ..SamplingParams::default()
    }
}

/// Penalties make each draw depend on all before it.
fn penalised(seed: u64) -> SamplingParams {
    SamplingParams {
        penalty_repeat: 1.3,
        penalty_present: 0.5,
        penalty_freq: 0.2,
        dry_multiplier: 0.8,
        ..random(seed)
    }
}

fn guessing(draft: DraftType, n_max: u32) -> SpeculationParams {
    SpeculationParams {
        draft,
        n_max,
        adapt: false,
        ..SpeculationParams::default()
    }
}

/// What a generation left behind.
#[derive(Debug, PartialEq)]
struct Text {
    tokens: Vec<u32>,
    finish: Finish,
    in_memory: Vec<u32>,
    logits: Vec<f32>,
}

/// A sequence with its engine.
struct Runner {
    model: Model,
    engine: Engine,
    timeline: Timeline,
    speculation: Speculation,
}

impl Runner {
    fn new(model: &Model, params: SpeculationParams, config: EngineConfig) -> Self {
        let engine = Engine::new(model, config).expect("engine");
        Self {
            model: model.clone(),
            timeline: Timeline::new(SeqId(0), 4),
            speculation: Speculation::new(params, &engine).expect("good parameters"),
            engine,
        }
    }

    fn answer(&mut self, prompt: &[u32], sampling: &SamplingParams) -> Text {
        self.answer_until(prompt, sampling, &mut |_| ControlFlow::Continue(()))
    }

    fn answer_until(
        &mut self,
        prompt: &[u32],
        sampling: &SamplingParams,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Text {
        let cancel = AtomicBool::new(false);
        self.timeline
            .sync(&mut self.engine, prompt, &cancel, &mut |_, _| {})
            .expect("prompt");
        let options = GenerateOptions {
            n_predict: Some(N_PREDICT),
        };
        let done = self
            .timeline
            .generate(
                &mut self.engine,
                &mut sampler(&self.model, sampling, prompt),
                &mut self.speculation,
                options,
                &cancel,
                on_token,
            )
            .expect("generates");
        Text {
            tokens: done.tokens,
            finish: done.finish,
            in_memory: self.timeline.tokens().to_vec(),
            logits: self.timeline.logits().expect("logits").to_vec(),
        }
    }
}

fn plain(model: &Model) -> Runner {
    let config = EngineConfig {
        mtp: false,
        n_snapshots: 1,
        ..config()
    };
    Runner::new(model, SpeculationParams::default(), config)
}

#[test]
fn a_token_gets_the_same_bits_alone_and_among_others() {
    let model = model();
    let ids = tokens(&model, PROMPTS[3]);
    let mut alone = Engine::new(&model, config()).expect("engine");
    let rows: Vec<Vec<f32>> = ids
        .iter()
        .map(|id| {
            let work = Work {
                seq: SeqId(0),
                tokens: std::slice::from_ref(id),
                outputs: vec![0],
            };
            let out = alone.step(&[work], false).expect("step");
            out.logits(0, 0).expect("row").to_vec()
        })
        .collect();
    let wide = EngineConfig {
        n_seq: 4,
        ..config()
    };
    let mut together = Engine::new(&model, wide).expect("engine");
    for chunk in [1, 2, 3, 4, 6] {
        (0..4).for_each(|s| together.clear(SeqId(s)).expect("clear"));
        for (i, part) in ids.chunks(chunk).enumerate() {
            let work: Vec<_> = (0..4)
                .map(|s| Work {
                    seq: SeqId(s),
                    tokens: part,
                    outputs: (0..part.len() as u32).collect(),
                })
                .collect();
            let out = together.step_exact(&work).expect("step");
            for (s, t) in (0..4).flat_map(|s| (0..part.len()).map(move |t| (s, t))) {
                let row = out.logits(s, t as u32).expect("row");
                assert!(
                    row == rows[i * chunk + t],
                    "steps of {chunk}: sequence {s}, token {}",
                    i * chunk + t
                );
            }
        }
    }
}

#[test]
fn a_head_over_part_of_the_vocabulary_guesses_among_it_and_changes_no_text() {
    const PART: u32 = 500;
    let model = model();
    let part = EngineConfig {
        draft_vocab: PART,
        ..config()
    };
    let ids = tokens(&model, PROMPTS[3]);
    let guess = |config: EngineConfig| {
        let mut e = Engine::new(&model, config).expect("engine");
        let work = Work {
            seq: SeqId(0),
            tokens: &ids,
            outputs: vec![],
        };
        e.step(&[work], false).expect("step");
        let work = DraftWork {
            seq: SeqId(0),
            token: ids[0],
            ahead: 0,
        };
        let out = e.draft(&[work]).expect("guess");
        out.mtp_logits(0, 0).expect("row").to_vec()
    };
    let (some, all) = (guess(part.clone()), guess(config()));
    let (there, beyond) = some.split_at(PART as usize);
    assert!(there == &all[..PART as usize], "other logits");
    assert!(some.len() == all.len() && beyond.iter().all(|x| *x == f32::NEG_INFINITY));

    let mut without = plain(&model);
    let mut with = Runner::new(&model, guessing(DraftType::Mtp, 3), part);
    for prompt in PROMPTS {
        let ids = tokens(&model, prompt);
        let expected = without.answer(&ids, &random(5));
        assert_eq!(with.answer(&ids, &random(5)), expected, "{prompt}");
    }
}

#[test]
fn a_guess_is_what_the_head_says_within_a_step() {
    let model = model();
    let ids = tokens(&model, PROMPTS[0]);
    let mut e = Engine::new(&model, config()).expect("engine");
    let (head, next) = ids.split_at(ids.len() - 1);
    let work = |tokens| Work {
        seq: SeqId(0),
        tokens,
        outputs: vec![tokens.len() as u32 - 1],
    };
    e.step(&[work(head)], false).expect("step");
    let guess = |e: &mut Engine, ahead| {
        let work = DraftWork {
            seq: SeqId(0),
            token: next[0],
            ahead,
        };
        let out = e.draft(&[work]).expect("draft");
        out.mtp_logits(0, 0).expect("row").to_vec()
    };
    let first = guess(&mut e, 0);
    let second = guess(&mut e, 1);
    assert_ne!(first, second);
    assert_eq!(guess(&mut e, 0), first, "guessing changes nothing");
    let step = e.step(&[work(next)], true).expect("step");
    assert_eq!(step.mtp_logits(0, 0).expect("row"), first);
    // Sequences that are at different guesses cannot share a step.
    let mixed = [0, 1].map(|ahead| DraftWork {
        seq: SeqId(0),
        token: 1,
        ahead,
    });
    assert!(e.draft(&mixed).is_err());
}

#[test]
fn texts_are_the_same_with_guesses() {
    let model = model();
    let mut plain = plain(&model);
    for draft in [DraftType::Mtp, DraftType::Ngram] {
        for n_max in [1, 2, 3] {
            let mut guessing = Runner::new(&model, guessing(draft, n_max), config());
            for (i, text) in PROMPTS.iter().enumerate() {
                let prompt = tokens(&model, text);
                for sampling in [greedy(), random(i as u64), penalised(i as u64)] {
                    let expected = plain.answer(&prompt, &sampling);
                    let found = guessing.answer(&prompt, &sampling);
                    assert!(expected == found, "{draft:?} {n_max} {text}: {found:?}");
                }
            }
            let stats = guessing.speculation.stats();
            assert!(stats.n_accepted() > 0, "{draft:?} {n_max}: {stats:?}");
            assert!(stats.drafted.len() == n_max as usize, "{stats:?}");
        }
    }
}

#[test]
fn adapting_and_thresholds_change_no_text_either() {
    let model = model();
    let mut plain = plain(&model);
    let prompt = tokens(&model, PROMPTS[0]);
    let expected = plain.answer(&prompt, &random(5));
    for (n_min, p_min, adapt) in [
        (0, 0.0, true),
        (2, 0.0, false),
        (0, 0.6, false),
        (3, 0.3, true),
    ] {
        let params = SpeculationParams {
            n_min,
            p_min,
            adapt,
            ..guessing(DraftType::Mtp, 3)
        };
        let mut runner = Runner::new(&model, params, config());
        assert!(
            expected == runner.answer(&prompt, &random(5)),
            "{n_min} {p_min} {adapt}"
        );
        let stats = runner.speculation.stats();
        let short = stats.drafted.first() != stats.drafted.get(n_min.max(1) as usize - 1);
        assert!(!short, "no step with fewer than {n_min} guesses: {stats:?}");
    }
}

/// One request of a batch.
struct Slot {
    timeline: Timeline,
    sampler: oxling::engine::sampling::Sampler,
    speculation: Speculation,
    progress: Progress,
}

#[test]
fn four_sequences_at_once_give_four_single_texts() {
    let model = model();
    let wide = EngineConfig {
        n_seq: 4,
        ..config()
    };
    let mut plain = plain(&model);
    for n_max in [1, 2, 3] {
        let mut engine = Engine::new(&model, wide.clone()).expect("engine");
        let kinds = [
            guessing(DraftType::Mtp, n_max),
            guessing(DraftType::Ngram, n_max),
            SpeculationParams::default(),
            SpeculationParams {
                p_min: 0.4,
                ..guessing(DraftType::Mtp, 3)
            },
        ];
        let sampling = [greedy(), greedy(), random(3), penalised(4)];
        let cancel = AtomicBool::new(false);
        let mut slots: Vec<Slot> = (0..4)
            .map(|i| {
                let prompt = tokens(&model, PROMPTS[i]);
                let mut timeline = Timeline::new(SeqId(i as u32), 0);
                timeline
                    .sync(&mut engine, &prompt, &cancel, &mut |_, _| {})
                    .expect("prompt");
                Slot {
                    timeline,
                    sampler: sampler(&model, &sampling[i], &prompt),
                    speculation: Speculation::new(kinds[i].clone(), &engine).expect("good"),
                    progress: Progress::new(Some(N_PREDICT)),
                }
            })
            .collect();
        let mut sinks = [(); 4].map(|()| |_: u32| ControlFlow::Continue(()));
        while slots.iter().any(|s| s.progress.finish.is_none()) {
            let mut lanes: Vec<Lane<'_>> = slots
                .iter_mut()
                .zip(&mut sinks)
                .map(|(slot, sink)| Lane {
                    timeline: &mut slot.timeline,
                    sampler: &mut slot.sampler,
                    speculation: &mut slot.speculation,
                    progress: &mut slot.progress,
                    sink,
                })
                .collect();
            round(&mut engine, &mut lanes).expect("round");
        }
        for (i, slot) in slots.iter().enumerate() {
            let expected = plain.answer(&tokens(&model, PROMPTS[i]), &sampling[i]);
            assert_eq!(
                expected.tokens, slot.progress.tokens,
                "{n_max}: {}",
                PROMPTS[i]
            );
            assert_eq!(
                expected.in_memory,
                slot.timeline.tokens(),
                "{n_max}: {}",
                PROMPTS[i]
            );
            assert!(Some(expected.logits.as_slice()) == slot.timeline.logits());
        }
    }
}

#[test]
fn a_text_that_is_stopped_anywhere_goes_on_as_if_never_guessed() {
    let model = model();
    let prompt = tokens(&model, PROMPTS[0]);
    let mut plain = plain(&model);
    let mut guessing = Runner::new(&model, guessing(DraftType::Mtp, 3), config());
    for stop_at in 1..12 {
        let texts = [&mut plain, &mut guessing].map(|runner| {
            let mut n = 0;
            let text = runner.answer_until(&prompt, &greedy(), &mut |_| {
                n += 1;
                if n == stop_at {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            assert_eq!((text.finish, text.tokens.len()), (Finish::Stopped, stop_at));
            // Another turn on top of what is there, then the same prompt again from an earlier state.
            let mut longer = text.in_memory.clone();
            longer.extend(tokens(&model, " And then"));
            (text, runner.answer(&longer, &random(stop_at as u64)))
        });
        let [without, with] = texts;
        assert!(without == with, "stopped at {stop_at}");
    }
}

#[test]
fn a_cancelled_text_goes_on_as_if_never_guessed() {
    let model = model();
    let prompt = tokens(&model, PROMPTS[2]);
    for after in [1, 4, 9] {
        let mut guessing = Runner::new(&model, guessing(DraftType::Mtp, 3), config());
        let cancel = AtomicBool::new(false);
        let sync = |r: &mut Runner, prompt: &[u32]| {
            r.timeline
                .sync(
                    &mut r.engine,
                    prompt,
                    &AtomicBool::new(false),
                    &mut |_, _| {},
                )
                .expect("prompt");
        };
        sync(&mut guessing, &prompt);
        let mut n = 0;
        let done = guessing
            .timeline
            .generate(
                &mut guessing.engine,
                &mut sampler(&model, &greedy(), &prompt),
                &mut guessing.speculation,
                GenerateOptions::default(),
                &cancel,
                &mut |_| {
                    n += 1;
                    cancel.store(n >= after, Ordering::Relaxed);
                    ControlFlow::Continue(())
                },
            )
            .expect("generates");
        assert_eq!(done.finish, Finish::Cancelled);
        assert!(done.tokens.len() >= after && done.tokens.len() <= after + 3);
        let mut whole = prompt.clone();
        whole.extend(&done.tokens);
        assert_eq!(
            guessing.timeline.tokens(),
            whole,
            "all that was shown is kept"
        );
        // Without guesses to the same point, then both go on.
        let mut plain = plain(&model);
        sync(&mut plain, &prompt);
        for &token in &done.tokens {
            let next = [plain.timeline.tokens(), &[token]].concat();
            sync(&mut plain, &next);
        }
        let expected = plain.answer(&whole, &random(1));
        assert!(
            expected == guessing.answer(&whole, &random(1)),
            "after {after}"
        );
    }
}

/// All state memory holds one byte value before anything is computed: 0x3e (0.18 in F32), then 0xff (NaN).
#[test]
fn no_plane_is_read_before_it_is_written() {
    let model = model();
    let prompt = tokens(&model, PROMPTS[1]);
    let mut plain = plain(&model);
    for poison in [0x3e, 0xff] {
        for n_max in [1, 3] {
            let mut runner = Runner::new(&model, guessing(DraftType::Mtp, n_max), config());
            runner.engine.memory().poison(poison).expect("poison");
            for seed in 0..4 {
                let expected = plain.answer(&prompt, &random(seed));
                assert!(
                    expected == runner.answer(&prompt, &random(seed)),
                    "{poison:#x} {n_max}"
                );
                assert!(expected.logits.iter().all(|l| l.is_finite()));
            }
        }
    }
}

/// Every second token must be one of a few, which depend on the tokens before.
#[derive(Default)]
struct Picky {
    seen: Vec<u32>,
}

impl Constraint for Picky {
    fn allows(&mut self, token: u32) -> bool {
        let turn = self.seen.len() as u32;
        turn.is_multiple_of(2) || token % 7 == self.seen.iter().sum::<u32>() % 7
    }

    fn mask(&mut self, logits: &mut [f32]) {
        for token in 0..logits.len() as u32 {
            if !self.allows(token) {
                logits[token as usize] = f32::NEG_INFINITY;
            }
        }
    }
}

impl Sink for Picky {
    fn token(&mut self, token: u32) -> ControlFlow<()> {
        self.seen.push(token);
        ControlFlow::Continue(())
    }

    fn constraint(&mut self) -> Option<&mut dyn Constraint> {
        Some(self)
    }
}

#[test]
fn constrained_texts_are_the_same_too() {
    let model = model();
    let prompt = tokens(&model, PROMPTS[0]);
    let write = |mut runner: Runner| {
        let mut picky = Picky::default();
        let cancel = AtomicBool::new(false);
        runner
            .timeline
            .sync(&mut runner.engine, &prompt, &cancel, &mut |_, _| {})
            .expect("prompt");
        let mut sampler = sampler(&model, &random(9), &prompt);
        let mut progress = Progress::new(Some(N_PREDICT));
        while progress.finish.is_none() {
            let lane = Lane {
                timeline: &mut runner.timeline,
                sampler: &mut sampler,
                speculation: &mut runner.speculation,
                progress: &mut progress,
                sink: &mut picky,
            };
            round(&mut runner.engine, &mut [lane]).expect("round");
        }
        assert_eq!(progress.tokens, picky.seen);
        (progress.tokens, runner.speculation.stats().n_accepted())
    };
    let (expected, _) = write(plain(&model));
    for n_max in [1, 3] {
        let runner = Runner::new(&model, guessing(DraftType::Mtp, n_max), config());
        let (found, accepted) = write(runner);
        assert_eq!(expected, found, "{n_max}");
        assert!(accepted > 0, "free tokens can be guessed");
    }
}

#[test]
fn a_full_context_ends_the_text_at_the_same_token() {
    let model = model();
    let prompt = tokens(&model, PROMPTS[2]);
    for more in [1, 2, 3, 7, 12] {
        let n_ctx = prompt.len() as u32 + more;
        let mut small = plain(&model);
        small.engine = Engine::new(
            &model,
            EngineConfig {
                n_ctx,
                ..small.engine.config().clone()
            },
        )
        .expect("engine");
        let config = EngineConfig { n_ctx, ..config() };
        let mut guessing = Runner::new(&model, guessing(DraftType::Mtp, 3), config);
        let expected = small.answer(&prompt, &greedy());
        assert_eq!(expected.finish, Finish::ContextFull, "{more}");
        assert!(expected == guessing.answer(&prompt, &greedy()), "{more}");
    }
}

#[test]
fn faked_acceptance_follows_its_rates() {
    let model = model();
    let params = SpeculationParams {
        synth_rates: vec![0.8, 0.5],
        ..guessing(DraftType::Mtp, 3)
    };
    let mut runner = Runner::new(&model, params, config());
    let never_ends = SamplingParams {
        ignore_eos: true,
        ..greedy()
    };
    let prompt = tokens(&model, PROMPTS[2]);
    for _ in 0..8 {
        runner.answer(&prompt, &never_ends);
    }
    let stats = runner.speculation.stats();
    let rate = |i: usize, of: u64| stats.accepted[i] as f64 / of as f64;
    let first = rate(0, stats.drafted[0]);
    let second = rate(1, stats.accepted[0]);
    assert!((first - 0.8).abs() < 0.15, "{stats:?}");
    assert!((second - 0.5).abs() < 0.2, "{stats:?}");
}

#[test]
fn what_cannot_work_is_an_error() {
    let model = model();
    let without_head = Engine::new(
        &model,
        EngineConfig {
            mtp: false,
            ..config()
        },
    )
    .expect("engine");
    assert!(Speculation::new(guessing(DraftType::Mtp, 3), &without_head).is_err());
    assert!(Speculation::new(guessing(DraftType::Ngram, 3), &without_head).is_ok());
    let engine = Engine::new(&model, config()).expect("engine");
    for wrong in [
        guessing(DraftType::Mtp, 99),
        SpeculationParams {
            n_min: 4,
            ..guessing(DraftType::Mtp, 3)
        },
        SpeculationParams {
            p_min: f32::NAN,
            ..guessing(DraftType::Mtp, 3)
        },
        SpeculationParams {
            synth_rates: vec![0.5, 1.5],
            ..guessing(DraftType::Mtp, 3)
        },
    ] {
        assert!(
            Speculation::new(wrong.clone(), &engine).is_err(),
            "{wrong:?}"
        );
    }
}
