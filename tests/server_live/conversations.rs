//! Conversations go on where they were.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use oxling::server::http::{Keys, Limits, ServerConfig};
use serde_json::{Value, json};

use crate::http::Client;
use crate::{busy, idle_within, live, message};

/// Far more than a step of the demo model takes, beside other tests.
const SOON: Duration = Duration::from_secs(2);
/// By then buffers are full and the time is over even where tests crawl.
const LATE: Duration = Duration::from_secs(60);
/// Tokens of a role's header and of a few words.
const NEW_TOKENS: u64 = 40;

fn ask(client: &Client, messages: &[Value]) -> Value {
    let body = json!({ "messages": messages, "max_tokens": 16, "temperature": 0 });
    let reply = client.post("/v1/chat/completions", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// A conversation of this many turns, whose answers are given.
fn history(turns: usize) -> Vec<Value> {
    let mut messages = vec![message(
        "system",
        "You are a friendly guide to all countries of the world.",
    )];
    for i in 0..turns {
        let question = format!("Question {i}: what can you tell about country number {i}?");
        messages.push(message("user", &question));
        let answer = format!("Country {i} has {i} rivers, {i} lakes and a very old town.");
        messages.push(message("assistant", &answer));
    }
    messages
}

#[test]
fn a_second_turn_an_edited_one_and_a_second_chat_compute_what_is_new() {
    let server = live(ServerConfig::default(), 2048);
    let mut messages = history(24);
    messages.push(message("user", "What is the capital of France?"));
    let first = ask(&server.client, &messages);
    let n_first = first["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(n_first > 1000, "a long conversation: {n_first}");
    assert_eq!(first["timings"]["prompt_n"], n_first);

    let answer = first["choices"][0]["message"]["content"].as_str().unwrap();
    let mut next = messages.clone();
    next.extend([
        message("assistant", answer),
        message("user", "And of Spain?"),
    ]);
    let second = ask(&server.client, &next);
    let n_new = second["timings"]["prompt_n"].as_u64().unwrap();
    assert!(
        n_new < NEW_TOKENS,
        "the second turn computed {n_new} tokens"
    );
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap();
    assert_eq!(
        cached + n_new,
        second["usage"]["prompt_tokens"].as_u64().unwrap()
    );

    let mut edited = messages.clone();
    edited.pop();
    edited.push(message("user", "What is the capital of Italy, please?"));
    let n_new = ask(&server.client, &edited)["timings"]["prompt_n"]
        .as_u64()
        .unwrap();
    assert!(
        n_new < NEW_TOKENS,
        "after the edit {n_new} tokens were computed"
    );

    let other = [history(0)[0].clone(), message("user", "Hello!")];
    let other = ask(&server.client, &other);
    let cached = other["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap();
    assert!(
        cached > 10,
        "a chat with the same system message knew {cached} tokens"
    );
}

#[test]
fn a_slot_lives_on_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = || ServerConfig {
        slot_folder: Some(folder.path().to_owned()),
        ..ServerConfig::default()
    };
    let prompt =
        "The capital of France is Paris. The capital of Spain is Madrid. The capital of Italy is";
    let body = json!({ "prompt": prompt, "n_predict": 12, "temperature": 0, "id_slot": 1 });
    let before = {
        let server = live(config(), 512);
        let before = server.client.post("/completion", &body).json();
        let saved = server
            .client
            .post("/slots/1?action=save", &json!({ "filename": "one" }));
        assert_eq!(saved.status, 200, "{}", saved.text());
        assert!(saved.json()["n_saved"].as_u64().unwrap() > 0);
        before
    };
    let server = live(config(), 512);
    let missing = server
        .client
        .post("/slots/1?action=restore", &json!({ "filename": "two" }));
    assert_eq!(missing.status, 404, "{}", missing.text());
    let restored = server
        .client
        .post("/slots/1?action=restore", &json!({ "filename": "one" }));
    assert_eq!(restored.status, 200, "{}", restored.text());
    let after = server.client.post("/completion", &body).json();
    assert!(
        after["timings"]["prompt_n"].as_u64().unwrap() <= 1,
        "{}",
        after["timings"]
    );
    assert_eq!(after["content"], before["content"]);
    let erased = server
        .client
        .post("/slots/1?action=erase", &json!({}))
        .json();
    assert!(erased["n_erased"].as_u64().unwrap() > 0);
}

#[test]
fn keys_share_nothing_unless_they_shall() {
    for shared in [false, true] {
        let config = ServerConfig {
            keys: Keys::new(["one", "two"]),
            cache_shared: shared,
            ..ServerConfig::default()
        };
        let server = live(config, 512);
        let messages = [message(
            "user",
            "Tell me about the old town and the river beside it.",
        )];
        let cached = |key: &str| {
            let answer = ask(&server.client.with("x-api-key", key), &messages);
            answer["usage"]["prompt_tokens_details"]["cached_tokens"]
                .as_u64()
                .unwrap()
        };
        assert_eq!(cached("one"), 0);
        assert!(cached("one") > 0);
        assert_eq!(cached("two") > 0, shared, "shared: {shared}");
    }
}

#[test]
fn streams_say_what_whole_answers_say() {
    let server = live(ServerConfig::default(), 512);
    for (prompt, more) in [
        ("The capital of Peru is", json!({})),
        ("Once upon a time", json!({ "temperature": 1.2, "seed": 5 })),
        ("Count:", json!({ "stop": [" t", "5"], "n_probs": 2 })),
        (
            "JSON:",
            json!({ "json_schema": { "type": "object", "properties": { "a": { "type": "integer" } } } }),
        ),
    ] {
        let mut body = json!({ "prompt": prompt, "n_predict": 40, "temperature": 0 });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let whole = server.client.post("/completion", &body).json();
        body["stream"] = true.into();
        let stream = server.client.post("/completion", &body);
        let texts = stream.chunks();
        let text: String = texts
            .iter()
            .map(|c| c["content"].as_str().unwrap())
            .collect();
        assert_eq!(whole["content"], text.as_str(), "{prompt}");
        let last = texts.last().unwrap();
        for key in ["stop_type", "stopping_word", "tokens_predicted"] {
            assert_eq!(last[key], whole[key], "{prompt}: {key}");
        }
    }
}

/// Asks for a completion and reads nothing.
fn send(client: &Client, body: &str) -> TcpStream {
    let mut socket = TcpStream::connect(client.address).unwrap();
    let head = format!(
        "POST /completion HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket
}

#[test]
fn biases_that_leave_no_token_are_the_clients_mistake() {
    let server = live(ServerConfig::default(), 512);
    let forbidden: Vec<Value> = (0..4096).map(|token| json!([token, false])).collect();
    for (stream, status) in [(false, 400), (true, 200)] {
        let body =
            json!({ "prompt": "x", "n_predict": 2, "stream": stream, "logit_bias": forbidden });
        let reply = server.client.post("/completion", &body);
        let text = reply.text();
        assert_eq!(reply.status, status, "{text}");
        // A stream has begun by then, and says so in its own way.
        assert!(text.contains("\"code\":400"), "{text}");
        assert!(text.contains("check logit_bias"), "{text}");
    }
}

#[test]
fn a_client_that_never_reads_loses_its_connection_and_its_slot() {
    let limits = Limits {
        idle: Duration::from_secs(1),
        ..Limits::default()
    };
    let config = ServerConfig {
        limits,
        metrics: true,
        ..ServerConfig::default()
    };
    // Both systems' buffers take some megabytes; the answer has many more.
    let server = live(config, 8192);
    let body = json!({ "prompt": "x", "stream": true, "ignore_eos": true, "n_predict": 8000, "n_probs": 100 });
    let mut socket = send(&server.client, &body.to_string());
    let cancelled = || {
        let text = server.client.get("/metrics").text();
        text.lines()
            .any(|line| line.contains("how=\"cancelled\"") && line.ends_with(" 1"))
    };
    let began = Instant::now();
    while !cancelled() {
        assert!(began.elapsed() < LATE, "it still has its slot");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(busy(&server.client), 0);
    // What the buffers hold, and then no end of the stream.
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut heard = Vec::new();
    let _ = socket.read_to_end(&mut heard);
    let heard = String::from_utf8_lossy(&heard);
    assert!(heard.starts_with("HTTP/1.1 200 "));
    assert!(!heard.contains("\"stop\":true"), "the whole answer came");
}

#[test]
fn a_client_that_leaves_frees_its_slot() {
    let server = live(ServerConfig::default(), 2048);
    for stream in [true, false] {
        let body =
            json!({ "prompt": "x", "stream": stream, "ignore_eos": true, "n_predict": 2000 })
                .to_string();
        let socket = send(&server.client, &body);
        while busy(&server.client) == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(socket);
        idle_within(&server.client, SOON);
    }
}
