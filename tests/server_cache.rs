//! What a prompt finds in memory: earlier turns, shared starts, conversations that lost their slot, slot files.

#[allow(dead_code, reason = "this test needs a part of it")]
#[path = "common/random_model.rs"]
mod random_model;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "common/server.rs"]
mod server;

use std::path::PathBuf;
use std::sync::Arc;

use oxling::engine::EngineConfig;
use oxling::engine::speculation::{DraftType, SpeculationParams};
use oxling::ggml::DType;
use oxling::gguf::Gguf;
use oxling::model::{LoadOptions, Model};
use oxling::server::protocol::{Generate, RequestError, SlotAction, TokenEvent};
use oxling::server::worker::WorkerConfig;
use random_model::RandomModel;
use server::{
    ALICE, Answer, BOB, STORY, SYSTEM, Server, TURN, chat, config, conversation, human, request,
};
use sha2::{Digest, Sha256};

#[test]
fn a_second_turn_computes_its_own_tokens_only() {
    let server = Server::start(config());
    let first_message = human(STORY);
    let first = chat(&server, &[SYSTEM, &first_message], 12);
    let first_prompt = first.prompt.clone();
    let answer = server.answer(first);
    assert_eq!(answer.prompt_n(), first_prompt.len());
    assert_eq!(answer.n_cached, 0);
    // The next prompt goes on with the answer's tokens.
    let mut second = chat(&server, &[&human("And then?")], 6);
    let mut prompt = first_prompt.clone();
    prompt.extend(answer.ids(0));
    let known = prompt.len();
    prompt.extend(&second.prompt);
    second.boundaries = vec![known, known + second.boundaries[0]];
    second.prompt = prompt.clone();
    let reused = server.answer(second);
    let new = prompt.len() - known;
    // The answer's last token was never computed.
    assert_eq!(reused.prompt_n(), new + 1);
    assert_eq!(reused.n_cached + reused.prompt_n(), prompt.len());
    // The same from nothing.
    let fresh = server.answer(Generate {
        cache_prompt: false,
        ..request(prompt, 6)
    });
    assert_eq!(fresh.n_cached, 0);
    assert_eq!(fresh.ids(0), reused.ids(0), "reuse changes no word");
    server.stop();
}

#[test]
fn a_long_conversation_goes_on_where_it_was() {
    let server = Server::start(WorkerConfig {
        engine: EngineConfig {
            n_seq: 2,
            n_ctx: 2 * 4096,
            ..config().engine
        },
        ..config()
    });
    let long = human(&STORY.repeat(68));
    let first = chat(&server, &[SYSTEM, &long], 20);
    let mut prompt = first.prompt.clone();
    assert!(prompt.len() > 3000, "{}", prompt.len());
    let answer = server.answer(first);
    prompt.extend(answer.ids(0));
    let known = prompt.len();
    prompt.extend(server.tokens(&format!("<|role_end|>{}{TURN}", human("And then?"))));
    let second = server.answer(request(prompt.clone(), 4));
    // The last token was drawn, but never computed.
    assert_eq!(second.prompt_n(), prompt.len() - known + 1);
    server.stop();
}

/// Without recurrent state any common start can be used.
#[test]
fn models_of_attention_alone_reuse_every_token_in_common() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("llama.gguf");
    RandomModel::tiny("llama").write(&model);
    let with = |path: PathBuf| WorkerConfig {
        load: Box::new(move |progress| {
            let gguf = Arc::new(Gguf::open(&path).map_err(|e| e.to_string())?);
            Model::load(gguf, &LoadOptions::default(), progress).map_err(|e| e.to_string())
        }),
        engine: EngineConfig {
            n_seq: 2,
            n_ctx: 2 * 128,
            ..config().engine
        },
        ..config()
    };
    let server = Server::start(with(model.clone()));
    let prompt = |from: u32, to: u32| {
        (0..40)
            .map(|i| if i < 20 { i } else { from + i % to })
            .collect()
    };
    let (a, b, c): (Vec<u32>, Vec<u32>, Vec<u32>) = (prompt(60, 7), prompt(90, 11), prompt(30, 5));
    let fresh = |prompt: &Vec<u32>| Generate {
        cache_prompt: false,
        ..request(prompt.clone(), 8)
    };
    let alone: Vec<Answer> = [&a, &b, &c].map(|p| server.answer(fresh(p))).into();
    for (i, p) in [&a, &b, &c, &a, &b, &c].into_iter().enumerate() {
        let answer = server.answer(request(p.clone(), 8));
        let expected = [20, 20, 20, 39, 39, 39][i];
        assert!(answer.n_cached >= expected, "{i}: {}", answer.n_cached);
        assert_eq!(answer.ids(0), alone[i % 3].ids(0), "{i}");
    }
    let path = folder.path().join("chat.slot");
    let answer = server.answer(request(a.clone(), 8));
    let n_tokens = save(&server, answer.slot, &path).expect("saves");
    server.stop();
    let server = Server::start(with(model));
    let report = server.slot(1, ALICE, SlotAction::Restore(path));
    assert_eq!(report.expect("restores").n_tokens, n_tokens);
    let again = server.answer(request(a, 8));
    assert_eq!((again.prompt_n(), again.ids(0)), (1, answer.ids(0)));
    server.stop();
}

#[test]
fn an_edited_message_keeps_all_before_it() {
    for n_seq in [1, 4] {
        let server = Server::start(WorkerConfig {
            engine: EngineConfig {
                n_seq,
                n_ctx: n_seq * 512,
                ..config().engine
            },
            ..config()
        });
        let (story, question, other) = (human(STORY), human("Who moved?"), human("What was void?"));
        let answered = format!("{TURN}God.<|role_end|>");
        server.answer(chat(&server, &[SYSTEM, &story, &answered, &question], 8));
        let (kept, _) = conversation(&server, &[SYSTEM, &story, &answered]);
        let edited = server.answer(chat(&server, &[SYSTEM, &story, &answered, &other], 8));
        assert_eq!(edited.n_cached, kept.len(), "{n_seq} slots");
        let mut fresh = chat(&server, &[SYSTEM, &story, &answered, &other], 8);
        fresh.cache_prompt = false;
        assert_eq!(server.answer(fresh).ids(0), edited.ids(0));
        let again = server.answer(chat(&server, &[SYSTEM, &story, &answered, &question], 8));
        assert_eq!(again.n_cached, kept.len(), "{n_seq} slots");
        server.stop();
    }
}

#[test]
fn chats_share_a_system_prompt_within_a_scope_and_nothing_between_scopes() {
    let server = Server::start(config());
    let (a, b) = (human("Tell me a story."), human("Where is France?"));
    let (system, _) = conversation(&server, &[SYSTEM]);
    let first = server.answer(chat(&server, &[SYSTEM, &a], 6));
    let second = server.answer(chat(&server, &[SYSTEM, &b], 6));
    assert_eq!(second.n_cached, system.len());
    assert_ne!(first.slot, second.slot, "the first conversation stays");
    let again = server.answer(chat(&server, &[SYSTEM, &a], 6));
    assert_eq!((again.prompt_n(), again.ids(0)), (0, first.ids(0)));
    for _ in 0..2 {
        let mut other = chat(&server, &[SYSTEM, &a], 6);
        other.scope = BOB;
        // Also where all slots and the store hold Alice's.
        let bob = server.answer(other);
        assert_eq!(bob.ids(0), first.ids(0));
        if bob.n_cached > 0 {
            assert_eq!(bob.prompt_n(), 0, "his own, the second time");
        } else {
            assert_eq!(bob.prompt_n(), first.prompt_n());
        }
    }
    let n_cached = |scope| {
        let mut request = chat(&server, &[SYSTEM, &b], 2);
        request.scope = scope;
        server.answer(request).n_cached
    };
    assert_eq!(n_cached(BOB), system.len(), "only what he said himself");
    assert!(n_cached(ALICE) > system.len());
    server.stop();
}

#[test]
fn conversations_come_back_after_their_slot_was_given_away() {
    let one_slot = |cache_ram| {
        Server::start(WorkerConfig {
            engine: EngineConfig {
                n_seq: 1,
                n_ctx: 512,
                ..config().engine
            },
            cache_ram,
            ..config()
        })
    };
    let server = one_slot(64 << 20);
    let chats = ["Tell me a story.", "Where is France?", "Who are you?"].map(human);
    let first: Vec<Answer> = chats
        .iter()
        .map(|c| server.answer(chat(&server, &[SYSTEM, c], 8)))
        .collect();
    for (c, before) in chats.iter().zip(&first) {
        let again = server.answer(chat(&server, &[SYSTEM, c], 8));
        assert_eq!((again.prompt_n(), again.ids(0)), (0, before.ids(0)), "{c}");
    }
    server.stop();
    // Without a budget only what is in the slot can be used again.
    let server = one_slot(0);
    for c in &chats {
        server.answer(chat(&server, &[SYSTEM, c], 8));
    }
    let again = server.answer(chat(&server, &[SYSTEM, &chats[0]], 8));
    assert_eq!(again.n_cached, 0);
    assert_eq!(again.ids(0), first[0].ids(0));
    assert_eq!(server.handle.metrics().cache_bytes.get(), 0);
    server.stop();
}

#[test]
fn the_byte_budget_is_never_exceeded() {
    let budget = 3 << 20;
    let server = Server::start(WorkerConfig {
        cache_ram: budget,
        ..config()
    });
    let metrics = server.handle.metrics();
    for i in 0..12 {
        let text = human(&format!("{i} {STORY}"));
        server.answer(chat(&server, &[SYSTEM, &text], 4));
        let bytes = metrics.cache_bytes.get();
        assert!(bytes > 0 && bytes <= budget as i64, "{bytes}");
    }
    assert!(metrics.cache_evictions.get() > 0);
    // The latest one is still there.
    let latest = human(&format!("11 {STORY}"));
    assert_eq!(
        server
            .answer(chat(&server, &[SYSTEM, &latest], 4))
            .prompt_n(),
        0
    );
    server.stop();
}

fn save(server: &Server, slot: u32, path: &PathBuf) -> Result<usize, RequestError> {
    let report = server.slot(slot, ALICE, SlotAction::Save(path.clone()))?;
    let written = std::fs::metadata(path).expect("a file").len();
    assert_eq!(report.n_bytes, written);
    Ok(report.n_tokens)
}

#[test]
fn a_saved_slot_continues_after_a_restart_as_if_nothing_happened() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.slot");
    let speculation = SpeculationParams {
        draft: DraftType::Mtp,
        ..SpeculationParams::default()
    };
    let with_mtp = || WorkerConfig {
        engine: EngineConfig {
            mtp: true,
            ..config().engine
        },
        speculation: speculation.clone(),
        ..config()
    };
    let server = Server::start(with_mtp());
    let (question, other) = (human("Tell me a story."), human("Where is France?"));
    let first = server.answer(chat(&server, &[SYSTEM, &question], 12));
    let prompt = chat(&server, &[SYSTEM, &question], 0).prompt;
    let mut longer = prompt.clone();
    longer.extend(first.ids(0));
    let n_tokens = save(&server, first.slot, &path).expect("saves");
    assert_eq!(n_tokens, longer.len() - 1);
    let continued = server.answer(request(longer.clone(), 12));
    server.stop();
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("lists").count(),
        1,
        "no unfinished file stays"
    );

    let server = Server::start(with_mtp());
    let report = server.slot(2, ALICE, SlotAction::Restore(path.clone()));
    assert_eq!(report.expect("restores").n_tokens, n_tokens);
    let again = server.answer(request(longer, 12));
    assert_eq!((again.slot, again.prompt_n()), (2, 1));
    assert_eq!(again.ids(0), continued.ids(0));
    let same = server.answer(chat(&server, &[SYSTEM, &question], 12));
    assert_eq!((same.prompt_n(), same.ids(0)), (0, first.ids(0)));
    let (system, _) = conversation(&server, &[SYSTEM]);
    let edited = server.answer(chat(&server, &[SYSTEM, &other], 4));
    assert_eq!(edited.n_cached, system.len(), "states at boundaries too");
    // Saved again at the same point, the file is the same to the bit.
    let slot = server.slot(3, ALICE, SlotAction::Restore(path.clone()));
    slot.expect("restores");
    let copy = folder.path().join("copy.slot");
    save(&server, 3, &copy).expect("saves");
    assert!(std::fs::read(&path).expect("reads") == std::fs::read(&copy).expect("reads"));
    let erased = server.slot(3, ALICE, SlotAction::Erase).expect("erases");
    assert_eq!(erased.n_tokens, n_tokens);
    server.stop();
}

/// Files whose checksum is right and whose contents are not, with what is said about them.
fn forged(whole: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let (start, end) = (16 + word(&whole[8..16]) as usize, whole.len() - 32);
    let header = std::str::from_utf8(&whole[16..start]).expect("text");
    let with = |header: &str, payload: &[u8]| {
        let length = (header.len() as u64).to_le_bytes();
        let mut bytes = [&whole[..8], &length, header.as_bytes(), payload].concat();
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        bytes
    };
    let payload = &whole[start..end];
    let changed = |at: usize, value: &[u8]| {
        let mut payload = payload.to_vec();
        payload[at..at + value.len()].copy_from_slice(value);
        with(header, &payload)
    };
    let nan = f32::NAN.to_le_bytes();
    let json: serde_json::Value = serde_json::from_str(header).expect("JSON");
    let number = |key: &str| json[key].as_u64().expect("a number");
    let rows = 4 * number("n_tokens") as usize;
    let states = rows + number("row_bytes") as usize;
    let edited = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut json = json.clone();
        edit(&mut json);
        with(&json.to_string(), payload)
    };
    assert_eq!(with(header, payload), whole);
    vec![
        (
            "outside the vocabulary",
            changed(0, &u32::MAX.to_le_bytes()),
        ),
        ("not finite", changed(rows, &[0xff; 2])),
        ("not finite", changed(states, &nan)),
        (
            "do not end",
            edited(&|json| json["states"][0]["n"] = 1_000_000.into()),
        ),
        (
            "truncated",
            edited(&|json| json["row_bytes"] = u64::MAX.into()),
        ),
        (
            "truncated",
            edited(&|json| json["n_tokens"] = u64::MAX.into()),
        ),
        (
            "header is damaged",
            edited(&|json| json["states"] = "none".into()),
        ),
        ("header is damaged", with("{", payload)),
        (
            "bytes of state",
            edited(&|json| {
                // One state's bytes are the next one's.
                let n = json["states"][0]["bytes"].as_u64().expect("a number");
                json["states"][0]["bytes"] = (n - 4).into();
                let n = json["states"][1]["bytes"].as_u64().expect("a number");
                json["states"][1]["bytes"] = (n + 4).into();
            }),
        ),
    ]
}

#[test]
fn slot_files_that_do_not_fit_are_refused_and_change_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.slot");
    let server = Server::start(config());
    let answer = server.answer(chat(&server, &[SYSTEM, &human(STORY)], 8));
    save(&server, answer.slot, &path).expect("saves");
    let whole = std::fs::read(&path).expect("reads");
    let restore = |server: &Server, scope, name: &str| {
        let path = folder.path().join(name);
        let error = server.slot(1, scope, SlotAction::Restore(path));
        let error = error.expect_err(name);
        assert!(
            !error
                .to_string()
                .contains(&*folder.path().to_string_lossy())
        );
        error
    };
    let invalid = |error: RequestError, phrase: &str| {
        assert!(matches!(error, RequestError::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains(phrase), "{error}");
    };
    let missing = restore(&server, ALICE, "missing");
    assert!(matches!(missing, RequestError::NotFound(_)), "{missing:?}");
    invalid(restore(&server, BOB, "chat.slot"), "another API key");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).expect("writes");
    };
    for cut in [0, 7, 15, 40, whole.len() / 2, whole.len() - 1] {
        write("cut", &whole[..cut]);
        let error = restore(&server, ALICE, "cut");
        assert!(
            matches!(error, RequestError::Invalid(_)),
            "{cut}: {error:?}"
        );
    }
    write("cut", &whole[..whole.len() / 2]);
    invalid(restore(&server, ALICE, "cut"), "truncated");
    for at in [whole.len() / 3, whole.len() - 20] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        write("changed", &bytes);
        invalid(restore(&server, ALICE, "changed"), "checksum");
    }
    for (what, bytes) in forged(&whole) {
        write("forged", &bytes);
        invalid(restore(&server, ALICE, "forged"), what);
    }
    write("version", &[b"OXLSLOT\x02", &whole[8..]].concat());
    invalid(restore(&server, ALICE, "version"), "this version");
    let empty = server.slot(3, ALICE, SlotAction::Save(folder.path().join("x")));
    invalid(empty.expect_err("nothing in it"), "holds nothing");
    let foreign = server.slot(answer.slot, BOB, SlotAction::Save(folder.path().join("x")));
    invalid(foreign.expect_err("not his"), "holds nothing");
    let erased = server.slot(answer.slot, BOB, SlotAction::Erase);
    assert_eq!(erased.expect("says so").n_tokens, 0, "not his to forget");
    let none = server.slot(9, ALICE, SlotAction::Erase);
    assert!(matches!(none, Err(RequestError::NotFound(_))));
    let no_folder = folder.path().join("no/such/folder");
    let error = server.slot(answer.slot, ALICE, SlotAction::Save(no_folder));
    assert!(error.is_err());
    let same = server.answer(chat(&server, &[SYSTEM, &human(STORY)], 8));
    assert_eq!((same.prompt_n(), same.ids(0)), (0, answer.ids(0)));
    server.stop();
}

/// Opening a pipe would wait for ever.
#[cfg(unix)]
#[test]
fn a_pipe_is_no_slot_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    if !made.is_ok_and(|status| status.success()) {
        return;
    }
    let server = Server::start(config());
    let error = server.slot(1, ALICE, SlotAction::Restore(path));
    assert!(matches!(error, Err(RequestError::Invalid(_))), "{error:?}");
    server.stop();
}

#[test]
fn slot_files_of_other_sizes_and_types_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.slot");
    let server = Server::start(config());
    let answer = server.answer(chat(&server, &[SYSTEM, &human(STORY)], 8));
    save(&server, answer.slot, &path).expect("saves");
    server.stop();
    let refused = |engine: EngineConfig, phrase: &str| {
        let server = Server::start(WorkerConfig { engine, ..config() });
        let error = server.slot(1, ALICE, SlotAction::Restore(path.clone()));
        let error = error.expect_err(phrase);
        assert!(matches!(error, RequestError::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains(phrase), "{error}");
        assert_eq!(server.handle.slots()[1].n_past, 0);
        server.stop();
    };
    let small = EngineConfig {
        n_seq: 2,
        n_ctx: 64,
        ..config().engine
    };
    refused(small, "the context of a slot holds 32");
    let other_rows = EngineConfig {
        row_type: DType::F32,
        ..config().engine
    };
    refused(other_rows, "was written for");
    let with_head = EngineConfig {
        mtp: true,
        ..config().engine
    };
    refused(with_head, "without guesses by its head");
}

/// Answers whose every token leads by this much are the same however their prompts were cut into steps.
const CLEAR_LEAD: f32 = 0.05;
const N_PREDICT: u32 = 10;

/// A row of numbers that are as good as random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A prompt that is asked more than once.
struct Asked {
    prompt: Vec<u32>,
    boundaries: Vec<usize>,
}

impl Asked {
    fn request(&self) -> Generate {
        Generate {
            boundaries: self.boundaries.clone(),
            ..request(self.prompt.clone(), N_PREDICT)
        }
    }
}

/// Prompts of conversations that share starts, with answers that leave no doubt.
fn clear_answers(server: &Server) -> Vec<(Asked, Vec<u32>)> {
    let openings = [
        "Tell me a story.",
        "Where is France?",
        "Who are you?",
        STORY,
    ]
    .map(human);
    let questions = ["And then?", "Why?", "What is the capital of Peru?"].map(human);
    let said = format!("{TURN}I do not know.<|role_end|>");
    let lead = |t: &TokenEvent| {
        let top = &t.logprobs.as_ref().expect("asked for").top;
        top[0].logprob - top[1].logprob
    };
    let mut clear = Vec::new();
    for opening in &openings {
        for question in &questions {
            for messages in [
                vec![SYSTEM, opening],
                vec![SYSTEM, opening, &said, question],
            ] {
                let Generate {
                    prompt, boundaries, ..
                } = chat(server, &messages, N_PREDICT);
                let asked = Asked { prompt, boundaries };
                let alone = server.answer(Generate {
                    cache_prompt: false,
                    logprobs: Some(2),
                    ..asked.request()
                });
                if alone.tokens.iter().all(|t| lead(t) > CLEAR_LEAD) {
                    clear.push((asked, alone.ids(0)));
                }
            }
        }
    }
    clear
}

#[test]
fn whatever_happens_around_it_a_request_gets_its_own_answer() {
    let server = Server::start(WorkerConfig {
        engine: EngineConfig {
            n_seq: 3,
            n_ctx: 3 * 512,
            n_ubatch: 64,
            ..config().engine
        },
        // Room for a few states and conversations only.
        cache_ram: 2 << 20,
        prefill_budget: Some(24),
        ..config()
    });
    let asked = clear_answers(&server);
    assert!(asked.len() > 8, "{}", asked.len());
    let mut dice = Dice(7);
    let mut reused = 0;
    for round in 0..16 {
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let (prompt, expected) = &asked[dice.below(asked.len())];
                let client = server.ask(Generate {
                    scope: [ALICE, BOB][dice.below(2)],
                    n: 1 + dice.below(3) as u32 / 2,
                    ..prompt.request()
                });
                (client, expected)
            })
            .collect();
        if round % 7 == 0 {
            let slot = dice.below(3) as u32;
            server.slot(slot, ALICE, SlotAction::Erase).expect("erases");
        }
        for (mut client, expected) in clients {
            if dice.below(4) == 0 {
                // It leaves after a few events.
                (0..dice.below(6)).for_each(|_| drop(client.next()));
                continue;
            }
            let answer = client.wait();
            assert!(answer.failed.is_none(), "{answer:?}");
            for finished in &answer.finished {
                assert_eq!(&answer.ids(finished.choice), expected, "round {round}");
            }
            reused += answer.n_cached;
        }
        assert!(server.handle.metrics().cache_bytes.get() <= 2 << 20);
    }
    server.wait_idle();
    assert!(reused > 0);
    assert!(server.handle.metrics().cache_evictions.get() > 0);
    server.stop();
}
