//! The engine thread as HTTP workers see it: what is computed, what is reused, who waits, and what comes back.

#[allow(dead_code, reason = "shared with other tests")]
#[path = "common/server.rs"]
mod server;

use std::time::{Duration, Instant};

use oxling::constrain::Constrainer;
use oxling::engine::EngineConfig;
use oxling::engine::sampling::{Constraint, SamplingParams};
use oxling::engine::speculation::{DraftType, SpeculationParams};
use oxling::server::protocol::{
    Command, Embed, EngineState, Event, Generate, RequestError, StopReason, TokenEvent,
};
use oxling::server::worker::{EngineHandle, Loader, WorkerConfig, spawn};
use server::{STORY, SYSTEM, Server, TURN, chat, config, human, request};
use tokio::sync::{mpsc, oneshot};

fn prompts(server: &Server) -> Vec<Vec<u32>> {
    [
        "Tell me a story.",
        "Where is France?",
        "What is the capital of Peru?",
        "Who created the heaven and the earth?",
        "Count to ten.",
        "What is two and three?",
        "Who are you?",
        "Good morning.",
    ]
    .iter()
    .map(|t| server.tokens(&format!("{SYSTEM}{}{TURN}", human(t))))
    .collect()
}

fn eight_slots(speculation: SpeculationParams) -> WorkerConfig {
    WorkerConfig {
        engine: EngineConfig {
            n_seq: 8,
            n_ctx: 8 * 512,
            mtp: speculation.draft == DraftType::Mtp,
            ..config().engine
        },
        speculation,
        ..config()
    }
}

/// Texts of eight requests, each alone and then all at once.
fn alone_and_together(config: WorkerConfig, sampling: &SamplingParams) {
    let server = Server::start(config);
    let ask = |prompt: &Vec<u32>| Generate {
        sampling: sampling.clone(),
        cache_prompt: false,
        ..request(prompt.clone(), 32)
    };
    let prompts = prompts(&server);
    let alone: Vec<Vec<u32>> = prompts
        .iter()
        .map(|p| server.answer(ask(p)).ids(0))
        .collect();
    let clients: Vec<_> = prompts.iter().map(|p| server.ask(ask(p))).collect();
    for (client, expected) in clients.into_iter().zip(&alone) {
        let answer = client.wait();
        assert_eq!(&answer.ids(0), expected);
        let text = server
            .handle
            .info()
            .expect("loaded")
            .tokenizer
            .decode(expected, false);
        assert_eq!(answer.text(0), String::from_utf8_lossy(&text));
    }
    server.stop();
}

#[test]
fn eight_at_once_say_what_each_says_alone() {
    let greedy = request(vec![0], 0).sampling;
    alone_and_together(eight_slots(SpeculationParams::default()), &greedy);
    let drawn = SamplingParams {
        seed: Some(7),
        ..SamplingParams::default()
    };
    alone_and_together(eight_slots(SpeculationParams::default()), &drawn);
}

/// What is asked for as exact has the bits it has alone even while prompts of others are computed.
#[test]
fn exact_answers_do_not_feel_the_prompts_of_others() {
    let server = Server::start(config());
    let greedy = request(vec![0], 0).sampling;
    let ask = || Generate {
        logprobs: Some(1),
        cache_prompt: false,
        sampling: SamplingParams {
            ignore_eos: true,
            ..greedy.clone()
        },
        ..request(server.tokens(STORY), 96)
    };
    let bits = |answer: &server::Answer| -> Vec<(u32, u32)> {
        let chosen = |t: &TokenEvent| t.logprobs.as_ref().expect("asked").chosen.logprob;
        let tokens = answer.tokens.iter();
        tokens.map(|t| (t.token, chosen(t).to_bits())).collect()
    };
    let alone = bits(&server.answer(ask()));
    let mut stream = server.ask(ask());
    while !matches!(stream.next(), Some(Event::Token(_))) {}
    let others: Vec<_> = (1..4)
        .map(|n| server.ask(request(server.tokens(&STORY.repeat(n)), 24)))
        .collect();
    let beside = bits(&stream.wait());
    assert_eq!(alone[1..], beside[..], "the first token was heard before");
    for other in others {
        assert!(other.wait().failed.is_none());
    }
    server.stop();
}

#[test]
fn eight_that_guess_say_the_same() {
    let guessing = SpeculationParams {
        draft: DraftType::Mtp,
        n_max: 2,
        adapt: false,
        ..SpeculationParams::default()
    };
    let server = Server::start(eight_slots(SpeculationParams::default()));
    let prompts = prompts(&server);
    let plain: Vec<Vec<u32>> = prompts
        .iter()
        .map(|p| server.answer(request(p.clone(), 32)).ids(0))
        .collect();
    server.stop();
    let server = Server::start(eight_slots(guessing));
    let ask = |p: &Vec<u32>| request(p.clone(), 32);
    let clients: Vec<_> = prompts.iter().map(|p| server.ask(ask(p))).collect();
    let mut guessed = 0;
    for (client, expected) in clients.into_iter().zip(&plain) {
        let answer = client.wait();
        assert_eq!(&answer.ids(0), expected);
        guessed += answer.finished[0].timings.drafts.n_drafted();
    }
    assert!(guessed > 0);
    assert_eq!(server.handle.metrics().spec_draft_tokens.get(), guessed);
    // One request may want none.
    let off = Generate {
        speculation: Some(SpeculationParams::default()),
        cache_prompt: false,
        ..ask(&prompts[0])
    };
    let answer = server.answer(off);
    assert_eq!(answer.ids(0), plain[0]);
    assert_eq!(answer.finished[0].timings.drafts.n_drafted(), 0);
    server.stop();
}

#[test]
fn a_long_prompt_never_makes_those_who_generate_miss_a_step() {
    let budget = 16;
    let server = Server::start(WorkerConfig {
        prefill_budget: Some(budget),
        ..config()
    });
    let short = server.tokens(&format!("{}{TURN}", human("Tell me a story.")));
    let long = server.tokens(&STORY.repeat(6));
    let alone = server.answer(request(short.clone(), 200));
    let expected_long = server.answer(request(long.clone(), 8));
    server.stop();
    let server = Server::start(WorkerConfig {
        prefill_budget: Some(budget),
        ..config()
    });
    let mut stream = server.ask(Generate {
        sampling: SamplingParams {
            ignore_eos: true,
            ..request(vec![0], 0).sampling
        },
        ..request(short, 200)
    });
    let mut heard = Vec::new();
    while heard.len() < 4 {
        if let Some(Event::Token(token)) = stream.next() {
            heard.push(token.token);
        }
    }
    let steps = || server.handle.metrics().n_decode.get();
    let before = steps();
    let mut prompt = server.ask(Generate {
        progress: true,
        ..request(long.clone(), 8)
    });
    let mut processed = Vec::new();
    let mut second = Vec::new();
    while let Some(event) = prompt.next() {
        match event {
            Event::Progress(p) => processed.push(p.processed),
            Event::Token(t) => second.push(t.token),
            _ => {}
        }
    }
    let n_steps = steps() - before;
    while let Some(event) = stream.next() {
        if let Event::Token(token) = event {
            heard.push(token.token);
        }
    }
    let sizes: Vec<usize> = processed.windows(2).map(|p| p[1] - p[0]).collect();
    assert_eq!(processed.first(), Some(&0));
    assert_eq!(processed.last(), Some(&long.len()));
    assert!(sizes.iter().all(|&n| n <= budget as usize), "{sizes:?}");
    assert!(n_steps as usize >= long.len() / budget as usize);
    assert_eq!(heard.len(), 200, "a token of every step");
    let n = alone.ids(0).len().min(heard.len());
    assert_eq!(heard[..n], alone.ids(0)[..n], "mixed steps change no word");
    assert_eq!(second, expected_long.ids(0));
    let metrics = server.handle.metrics().encode();
    assert!(metrics.contains("oxling:prefill_stall_seconds_count"));
    assert!(!metrics.contains("oxling:prefill_stall_seconds_count 0"));
    server.stop();
}

#[test]
fn who_leaves_frees_the_slot_within_a_step() {
    let server = Server::start(WorkerConfig {
        engine: EngineConfig {
            n_seq: 1,
            n_ctx: 2048,
            n_ubatch: 16,
            ..config().engine
        },
        ..config()
    });
    let long = server.tokens(&STORY.repeat(24));
    let endless = Generate {
        sampling: SamplingParams {
            ignore_eos: true,
            ..request(vec![0], 0).sampling
        },
        ..request(server.tokens("And"), 2000)
    };
    let cancelled = || {
        let label = [("how", "cancelled".to_owned())];
        server.handle.metrics().requests.get_or_create(&label).get()
    };
    // While it generates.
    let mut client = server.ask(endless);
    while !matches!(client.next(), Some(Event::Token(_))) {}
    // While it waits.
    let waiting = server.ask(request(server.tokens("So"), 4));
    server.wait_for("a queue", |h| h.waiting() == 1);
    drop(waiting);
    server.wait_for("an empty queue", |h| h.waiting() == 0);
    assert_eq!(cancelled(), 1);
    drop(client);
    server.wait_idle();
    assert_eq!(cancelled(), 2);
    assert!(
        server.handle.slots()[0].n_past < 1000,
        "long before its end"
    );
    // While its prompt is computed.
    let mut client = server.ask(Generate {
        progress: true,
        ..request(long.clone(), 4)
    });
    while !matches!(client.next(), Some(Event::Progress(p)) if p.processed >= 32) {}
    let steps = server.handle.metrics().n_decode.get();
    drop(client);
    server.wait_idle();
    assert_eq!(cancelled(), 3);
    // The step under way, one that began before the look, and one for a slow test.
    assert!(server.handle.metrics().n_decode.get() <= steps + 4);
    // What was computed is of use.
    let again = server.answer(request(long, 2));
    assert!(again.n_cached >= 32, "{}", again.n_cached);
    server.stop();
}

#[test]
fn choices_share_one_prompt_and_differ_by_their_seeds() {
    let sampling = |seed| SamplingParams {
        seed: Some(seed),
        temp: 1.0,
        ..SamplingParams::default()
    };
    for n_seq in [1, 2, 4] {
        let server = Server::start(WorkerConfig {
            engine: EngineConfig {
                n_seq,
                n_ctx: n_seq * 512,
                ..config().engine
            },
            ..config()
        });
        let ask = |n, seed| Generate {
            n,
            sampling: sampling(seed),
            ..chat(&server, &[SYSTEM, &human("Tell me a story.")], 16)
        };
        let prompt = ask(1, 0).prompt;
        let three = server.answer(ask(3, 40));
        assert_eq!(three.finished.len(), 3);
        assert_eq!(
            server.handle.metrics().prompt_tokens.get() as usize,
            prompt.len(),
            "computed once"
        );
        for i in 0..3 {
            let single = server.answer(ask(1, 40 + u64::from(i)));
            assert_eq!(single.ids(0), three.ids(i), "choice {i} on {n_seq} slots");
            assert_eq!(three.finished[i as usize].seed, 40 + u64::from(i));
        }
        assert_ne!(three.ids(0), three.ids(1));
        server.stop();
    }
}

#[test]
fn stop_texts_are_found_across_tokens_and_never_shown() {
    let server = Server::start(config());
    let ask = |stop: &[&str]| Generate {
        stop: stop.iter().map(ToString::to_string).collect(),
        ..request(
            server.tokens("And the king said unto him, What wilt thou"),
            40,
        )
    };
    let whole = server.answer(ask(&[]));
    let text = whole.text(0);
    let first: Vec<&str> = whole.tokens.iter().map(|t| t.text.as_str()).collect();
    assert!(first.len() > 12 && text.is_ascii(), "{first:?}");
    // From the middle of one token into the middle of a later one.
    let start: usize = first[..5].iter().map(|t| t.len()).sum::<usize>() + 1;
    let end: usize = first[..8].iter().map(|t| t.len()).sum::<usize>() + 1;
    let word = &text[start..end];
    let at = text.find(word).expect("it is there");
    let stopped = server.answer(ask(&["never said", word]));
    assert_eq!(stopped.text(0), text[..at]);
    assert_eq!(stopped.reason(), &StopReason::Word(word.to_owned()));
    // What only began like one comes after all.
    let almost = format!("{}@", &text[text.len() - 4..]);
    let all = server.answer(ask(&[&almost]));
    assert_eq!((all.text(0), all.reason()), (text, &StopReason::Limit));
    server.stop();
}

/// A grammar with a bug.
#[derive(Debug, Clone)]
struct Buggy;

impl Constraint for Buggy {
    fn allows(&mut self, _: u32) -> bool {
        panic!("a bug, wanted by this test")
    }

    fn mask(&mut self, _: &mut [f32]) {}
}

impl Constrainer for Buggy {
    fn advance(&mut self, _: u32) -> bool {
        true
    }

    fn is_complete(&self) -> bool {
        false
    }

    fn fork(&self) -> Box<dyn Constrainer> {
        Box::new(Self)
    }
}

#[test]
fn a_request_that_panics_fails_alone() {
    let server = Server::start(config());
    let prompt = server.tokens("And the king said unto him, What wilt thou");
    let expected = server.answer(request(prompt.clone(), 40)).ids(0);
    let mut good = server.ask(request(prompt.clone(), 40));
    let mut heard = Vec::new();
    while heard.len() < 3 {
        if let Some(Event::Token(token)) = good.next() {
            heard.push(token.token);
        }
    }
    let bad = server.answer(Generate {
        constrainer: Some(Box::new(Buggy)),
        ..request(prompt, 40)
    });
    assert!(
        matches!(bad.failed, Some(RequestError::Internal(_))),
        "{bad:?}"
    );
    heard.extend(good.wait().ids(0));
    assert_eq!(heard, expected);
    server.stop();
}

/// Lets only the tokens of one list come, each at its place.
#[derive(Debug, Clone)]
struct Script {
    tokens: Vec<u32>,
    at: usize,
}

impl Constraint for Script {
    fn allows(&mut self, token: u32) -> bool {
        self.tokens.get(self.at) == Some(&token)
    }

    fn mask(&mut self, logits: &mut [f32]) {
        for (token, logit) in logits.iter_mut().enumerate() {
            if self.tokens.get(self.at) != Some(&(token as u32)) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

impl Constrainer for Script {
    fn advance(&mut self, token: u32) -> bool {
        let right = self.allows(token);
        self.at += 1;
        right
    }

    fn is_complete(&self) -> bool {
        self.at >= self.tokens.len()
    }

    fn fork(&self) -> Box<dyn Constrainer> {
        Box::new(self.clone())
    }
}

#[test]
fn a_grammar_decides_every_token_of_every_choice() {
    let server = Server::start(config());
    let tokens = server.tokens("the quick brown fox");
    let answer = server.answer(Generate {
        n: 2,
        constrainer: Some(Box::new(Script {
            tokens: tokens.clone(),
            at: 0,
        })),
        logprobs: Some(2),
        ..request(server.tokens(STORY), 40)
    });
    for choice in 0..2 {
        assert_eq!(answer.ids(choice), tokens);
        assert_eq!(answer.text(choice), "the quick brown fox");
        assert_eq!(answer.finished[choice as usize].reason, StopReason::Eos);
    }
    for token in &answer.tokens {
        let probs = token.logprobs.as_ref().expect("asked for");
        assert_eq!(probs.chosen.token, token.token);
        assert_eq!(probs.top.len(), 2);
        assert!(probs.top[0].logprob >= probs.top[1].logprob);
        assert!(probs.chosen.logprob <= probs.top[0].logprob);
    }
    server.stop();
}

#[test]
fn probabilities_before_and_after_sampling() {
    let server = Server::start(config());
    let ask = |post_sampling| Generate {
        logprobs: Some(5),
        post_sampling,
        sampling: SamplingParams {
            top_k: 3,
            temp: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            seed: Some(1),
            ..SamplingParams::default()
        },
        ..request(server.tokens(STORY), 8)
    };
    let (before, after) = (server.answer(ask(false)), server.answer(ask(true)));
    assert_eq!(before.ids(0), after.ids(0));
    for (b, a) in before.tokens.iter().zip(&after.tokens) {
        let (b, a) = (
            b.logprobs.as_ref().expect("asked"),
            a.logprobs.as_ref().expect("asked"),
        );
        assert_eq!(b.top.len(), 5);
        assert!(a.top.len() <= 3);
        let sum: f32 = a.top.iter().map(|t| t.logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
        assert!(a.chosen.logprob >= b.chosen.logprob);
    }
    server.stop();
}

#[test]
fn the_queue_is_bounded_and_fair() {
    let server = Server::start(WorkerConfig {
        engine: EngineConfig {
            n_seq: 1,
            n_ctx: 512,
            ..config().engine
        },
        queue: 2,
        ..config()
    });
    let endless = Generate {
        sampling: SamplingParams {
            ignore_eos: true,
            ..request(vec![0], 0).sampling
        },
        ..request(server.tokens("And"), 400)
    };
    let mut running = server.ask(endless);
    while !matches!(running.next(), Some(Event::Token(_))) {}
    let waiting: Vec<_> = ["So", "But"]
        .iter()
        .map(|t| server.ask(request(server.tokens(t), 2)))
        .collect();
    let refused = server.send(request(server.tokens("Or"), 2));
    assert_eq!(refused, Err(RequestError::QueueFull { queued: 2 }));
    drop(running);
    for client in waiting {
        let answer = client.wait();
        assert!(answer.failed.is_none());
        assert!(answer.finished[0].timings.queued > Duration::ZERO);
    }
    assert!(server.send(request(server.tokens("Or"), 2)).is_ok());
    server.stop();
}

#[test]
fn impossible_requests_fail_and_nothing_else_does() {
    let server = Server::start(config());
    let good = server.tokens("In the beginning");
    let failed = |request: Generate| server.answer(request).failed.expect("fails");
    assert_eq!(
        failed(request(vec![5; 513], 1)),
        RequestError::PromptTooLong {
            n_prompt: 513,
            n_ctx: 512
        }
    );
    let wrong = [
        request(Vec::new(), 1),
        request(vec![u32::MAX], 1),
        Generate {
            n: 0,
            ..request(good.clone(), 1)
        },
        Generate {
            sampling: SamplingParams {
                top_p: f32::NAN,
                ..SamplingParams::default()
            },
            ..request(good.clone(), 1)
        },
        Generate {
            speculation: Some(SpeculationParams {
                draft: DraftType::Mtp,
                ..SpeculationParams::default()
            }),
            ..request(good.clone(), 1)
        },
    ];
    for (i, request) in wrong.into_iter().enumerate() {
        let error = failed(request);
        assert!(matches!(error, RequestError::Invalid(_)), "{i}: {error:?}");
    }
    let no_slot = failed(Generate {
        slot: Some(4),
        ..request(good.clone(), 1)
    });
    assert!(matches!(no_slot, RequestError::NotFound(_)));
    // A grammar that allows nothing fails closed.
    let stuck = failed(Generate {
        constrainer: Some(Box::new(Script {
            tokens: vec![u32::MAX],
            at: 0,
        })),
        ..request(good.clone(), 4)
    });
    assert!(matches!(stuck, RequestError::Internal(_)), "{stuck:?}");
    let none = server.answer(request(good.clone(), 0));
    assert_eq!((none.ids(0).len(), none.reason()), (0, &StopReason::Limit));
    let full = server.answer(Generate {
        sampling: SamplingParams {
            ignore_eos: true,
            ..request(vec![0], 0).sampling
        },
        n_predict: None,
        slot: Some(3),
        ..request(good.clone(), 0)
    });
    assert_eq!((full.slot, full.reason()), (3, &StopReason::Limit));
    assert_eq!(
        good.len() + full.ids(0).len(),
        513,
        "up to the context's end"
    );
    server.stop();
}

#[test]
fn time_limits_end_an_answer() {
    let server = Server::start(config());
    let answer = server.answer(Generate {
        max_time: Some(Duration::from_nanos(1)),
        ..request(server.tokens(STORY), 40)
    });
    assert_eq!(
        (answer.ids(0).len(), answer.reason()),
        (2, &StopReason::Limit)
    );
    server.stop();
}

/// Most that a mean of hidden states, which are about 1, may be off for being computed in parts: what 8 bits of
/// activations cost on this model.
const PARTS_DIFFER: f32 = 5e-3;

#[test]
fn embeddings_are_means_and_do_not_disturb_others() {
    let server = Server::start(WorkerConfig {
        engine: EngineConfig {
            mtp: true,
            ..config().engine
        },
        prefill_budget: Some(16),
        ..config()
    });
    let embed = |prompt: Vec<u32>| {
        let (reply, answer) = oneshot::channel();
        let id = "embed".to_owned();
        let command = Command::Embed(Box::new(Embed { id, prompt, reply }));
        server.handle.submit(command).expect("accepted");
        answer.blocking_recv().expect("an answer")
    };
    let text = server.tokens(STORY);
    let whole = embed(text.clone()).expect("embeds");
    let n_embd = server.handle.info().expect("loaded").n_embd as usize;
    assert_eq!(whole.len(), n_embd);
    assert!(whole.iter().all(|v| v.is_finite()) && whole.iter().any(|&v| v != 0.0));
    let stream = server.ask(request(text.clone(), 24));
    let beside = embed(text.clone()).expect("embeds");
    // Beside a stream it is computed in parts, and kernels round otherwise for fewer columns.
    let off = whole.iter().zip(&beside).map(|(a, b)| (a - b).abs());
    assert!(off.fold(0.0, f32::max) < PARTS_DIFFER);
    let alone = stream.wait().ids(0);
    assert_eq!(alone, server.answer(request(text.clone(), 24)).ids(0));
    // The mean over a text that is one token twice as long is not the same; but the first token's alone is its own.
    let one = embed(text[..1].to_vec()).expect("embeds");
    assert_ne!(one, whole);
    assert!(matches!(embed(Vec::new()), Err(RequestError::Invalid(_))));
    server.stop();
}

#[test]
fn a_shutdown_finishes_what_runs_and_refuses_the_rest() {
    let server = Server::start(WorkerConfig {
        engine: EngineConfig {
            n_seq: 1,
            n_ctx: 512,
            ..config().engine
        },
        ..config()
    });
    let mut running = server.ask(Generate {
        sampling: SamplingParams {
            ignore_eos: true,
            ..request(vec![0], 0).sampling
        },
        ..request(server.tokens("And"), 60)
    });
    while !matches!(running.next(), Some(Event::Token(_))) {}
    let waiting = server.ask(request(server.tokens("So"), 2));
    server
        .handle
        .submit(Command::Shutdown)
        .expect("always taken");
    let refused = server.send(request(server.tokens("Or"), 2));
    assert!(matches!(refused, Err(RequestError::Unavailable(_))));
    let answer = running.wait();
    assert_eq!(answer.finished[0].timings.predicted_n, 60);
    let waited = waiting.wait();
    assert!(
        matches!(waited.failed, Some(RequestError::Unavailable(_))),
        "{waited:?}"
    );
    server.stop();
}

/// A server whose model cannot be loaded, once it says so.
fn failed_server(load: Loader) -> EngineHandle {
    let handle = spawn(WorkerConfig { load, ..config() });
    let start = Instant::now();
    while !matches!(handle.state(), EngineState::Failed(_)) {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
    handle
}

#[test]
fn loading_says_how_far_it_is() {
    const STEPS: [u64; 3] = [0, 50, 100];
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let load: Loader = Box::new(move |progress| {
        for done in STEPS {
            progress(done, 100);
            wait.recv().map_err(|e| e.to_string())?;
        }
        Err("enough".to_owned())
    });
    let handle = spawn(WorkerConfig { load, ..config() });
    let start = Instant::now();
    for percent in STEPS {
        while !matches!(handle.state(), EngineState::Loading(now)
            if now.percent() == Some(percent) && &*now.what == "weights")
        {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "never {percent} %"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        go.send(()).unwrap();
    }
}

#[test]
fn a_model_that_cannot_be_loaded_is_a_state_and_not_a_crash() {
    failed_server(Box::new(|_| panic!("a bug, wanted by this test")));
    let handle = failed_server(Box::new(|_| Err("no such file".to_owned())));
    assert!(handle.info().is_none());
    let (events, _receiver) = mpsc::unbounded_channel();
    let refused = handle.submit(Command::Generate(Box::new(Generate {
        events,
        ..request(vec![1], 1)
    })));
    assert_eq!(
        refused,
        Err(RequestError::Unavailable("no such file".to_owned()))
    );
}
