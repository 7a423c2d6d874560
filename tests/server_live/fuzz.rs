//! Bodies that no client means: each is refused, or answered well.

use std::time::Duration;

use oxling::server::http::ServerConfig;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use crate::http::{Client, Reply};
use crate::{idle_within, live};

/// Bodies in the suite; `OXLING_FUZZ=10000` makes more.
const BODIES: u64 = 400;
const CLIENTS: u64 = 4;

const NAMES: &[&str] = &[
    "prompt",
    "messages",
    "input",
    "content",
    "tokens",
    "role",
    "tools",
    "tool_choice",
    "response_format",
    "json_schema",
    "grammar",
    "regex",
    "stop",
    "n",
    "n_predict",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "samplers",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "n_probs",
    "stream",
    "stream_options",
    "id_slot",
    "cache_prompt",
    "echo",
    "mirostat",
    "dry_multiplier",
    "dry_sequence_breakers",
    "chat_template_kwargs",
    "reasoning_effort",
    "continue_final_message",
    "add_generation_prompt",
    "system",
    "thinking",
    "instructions",
    "text",
    "speculative.n_max",
    "speculative.type",
    "response_fields",
    "encoding_format",
    "dimensions",
    "type",
    "name",
    "function",
    "parameters",
    "arguments",
    "tool_calls",
    "xtc_probability",
    "typical_p",
    "repeat_last_n",
    "t_max_predict_ms",
    "return_progress",
    "timings_per_token",
    "post_sampling_probs",
    "ignore_eos",
    "model",
];

const TEXTS: &[&str] = &[
    "",
    "x",
    "user",
    "assistant",
    "system",
    "tool",
    "auto",
    "required",
    "none",
    "-1",
    "1e999",
    "NaN",
    "\u{0}",
    "\u{FFFD}",
    "\u{1F642}\u{200D}",
    "<think>",
    "<tool_call>",
    "<|role_end|>",
    "{{ messages }}",
    "{% for x in y %}",
    "root ::= root",
    "root ::= \"a\"*",
    "start: /a{1,9999}/",
    "%llguidance {}",
    "(a+)+$",
    "[",
    "json_schema",
    "json_object",
    "object",
    "string",
    "mtp",
    "ngram",
    "base64",
    "top_k;temperature",
    "edskypmxt",
    "../../etc/passwd",
    "function",
    "text",
];

fn value(rng: &mut impl Rng, depth: u32) -> Value {
    match rng.random_range(0..if depth == 0 { 7 } else { 10 }) {
        0 => Value::Null,
        1 => rng.random::<bool>().into(),
        2 => rng.random_range(-3..40).into(),
        3 => [0.0, -1.0, 0.5, 1e30, -1e30, 1e308, f64::MIN_POSITIVE]
            .choose(rng)
            .copied()
            .into(),
        4 => [i64::MAX, i64::MIN, 4_294_967_295, -2_147_483_648]
            .choose(rng)
            .copied()
            .into(),
        5 | 6 => (*TEXTS.choose(rng).expect("texts")).into(),
        7 => (0..rng.random_range(0..4))
            .map(|_| value(rng, depth - 1))
            .collect(),
        8 => "x ".repeat(rng.random_range(0..900)).into(),
        _ => object(rng, depth - 1).into(),
    }
}

fn object(rng: &mut impl Rng, depth: u32) -> Map<String, Value> {
    let n = rng.random_range(0..5);
    let pair = |_| {
        (
            (*NAMES.choose(rng).expect("names")).to_owned(),
            value(rng, depth),
        )
    };
    (0..n).map(pair).collect()
}

fn start(rng: &mut impl Rng) -> (&'static str, Value) {
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }]);
    let all = [
        ("/completion", json!({ "prompt": "x" })),
        ("/v1/completions", json!({ "prompt": ["x", [5, 6]] })),
        ("/v1/chat/completions", json!({ "messages": messages })),
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "tools": tools }),
        ),
        (
            "/v1/chat/completions/input_tokens",
            json!({ "messages": messages }),
        ),
        ("/v1/responses", json!({ "input": "x" })),
        (
            "/v1/messages",
            json!({ "messages": messages, "max_tokens": 3 }),
        ),
        ("/v1/messages/count_tokens", json!({ "messages": messages })),
        ("/v1/embeddings", json!({ "input": "x" })),
        ("/tokenize", json!({ "content": "x" })),
        ("/detokenize", json!({ "tokens": [5] })),
        ("/apply-template", json!({ "messages": messages })),
        ("/slots/0?action=save", json!({ "filename": "fuzz" })),
        ("/slots/1?action=restore", json!({ "filename": "fuzz" })),
    ];
    all.choose(rng).expect("endpoints").clone()
}

/// Changes something, somewhere.
fn mutate(rng: &mut impl Rng, at: &mut Value) {
    let inside = rng.random_range(0..3) > 0;
    match at {
        Value::Object(map) if inside && !map.is_empty() => {
            let i = rng.random_range(0..map.len());
            if let Some((_, value)) = map.iter_mut().nth(i) {
                mutate(rng, value);
            }
        }
        Value::Array(list) if inside && !list.is_empty() => {
            let i = rng.random_range(0..list.len());
            mutate(rng, &mut list[i]);
        }
        Value::Object(map) => map.extend(object(rng, 2)),
        Value::Array(list) => list.push(value(rng, 2)),
        other => *other = value(rng, 2),
    }
}

fn body(rng: &mut impl Rng) -> (&'static str, Vec<u8>) {
    let (path, mut body) = start(rng);
    for _ in 0..rng.random_range(1..5) {
        mutate(rng, &mut body);
    }
    let mut bytes = body.to_string().into_bytes();
    if rng.random_range(0..8) == 0 {
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..3) {
                0 => bytes[at] = rng.random(),
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, rng.random()),
            }
        }
    }
    (path, bytes)
}

/// An error object, an answer in JSON, or a stream that comes to its end.
fn check(path: &str, body: &[u8], reply: &Reply) {
    let about = || {
        format!(
            "{path} {}: {} {}",
            String::from_utf8_lossy(body),
            reply.status,
            String::from_utf8_lossy(&reply.body)
        )
    };
    match reply.status {
        200 if reply.header("content-type") == Some("text/event-stream") => {
            let chunks = reply.chunks();
            let last = chunks.last().unwrap_or_else(|| panic!("{}", about()));
            assert_ne!(last["error"]["type"], "server_error", "{}", about());
        }
        200 => drop(reply.json()),
        400..=499 => {
            let error = &reply.json()["error"];
            assert!(
                error["message"].as_str().is_some_and(|m| !m.is_empty()),
                "{}",
                about()
            );
        }
        _ => panic!("{}", about()),
    }
}

fn attack(client: &Client, seed: u64, n: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..n {
        let (path, body) = body(&mut rng);
        check(path, &body, &client.send("POST", path, &body));
    }
}

#[test]
fn no_body_brings_the_server_down() {
    let n = std::env::var("OXLING_FUZZ")
        .ok()
        .and_then(|n| n.parse().ok());
    let n = n.unwrap_or(BODIES);
    let folder = tempfile::tempdir().unwrap();
    let config = ServerConfig {
        n_predict: Some(4),
        slot_folder: Some(folder.path().to_owned()),
        metrics: true,
        props: true,
        ..ServerConfig::default()
    };
    let server = live(config, 512);
    std::thread::scope(|scope| {
        for seed in 0..CLIENTS {
            let client = &server.client;
            scope.spawn(move || attack(client, seed, n / CLIENTS));
        }
    });
    idle_within(&server.client, Duration::from_secs(2));
    assert_eq!(server.client.get("/health").status, 200);
    let good = json!({ "prompt": "The capital of France is", "n_predict": 4 });
    assert_eq!(server.client.post("/completion", &good).status, 200);
}
