//! Mixed traffic for a while: chats, tools, schemas, aborts, malformed requests, slot files.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use oxling::server::http::ServerConfig;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::http::Client;
use crate::{idle_within, live_with, message};

/// Length in the suite; `OXLING_SOAK=1800` makes it half an hour.
const SECONDS: u64 = 6;
const CLIENTS: u64 = 4;
/// Small enough to be full early.
const CACHE_BYTES: u64 = 8 << 20;
/// Looks at memory during a run.
const LOOKS: u64 = 12;
/// Growth of resident memory that is allowed after the first third of the time, by which caches are full.
const MOST_GROWTH: f64 = 0.03;
/// Shorter runs than this are still filling caches, and say nothing about growth.
const SECONDS_TO_JUDGE: u64 = 600;

const QUESTIONS: &[&str] = &[
    "What is the capital of France?",
    "Tell me a story.",
    "Count to ten.",
    "Who are you?",
    "What is two and three?",
];

fn request(rng: &mut impl Rng) -> (&'static str, Value) {
    let question = *QUESTIONS.choose(rng).expect("questions");
    let mut messages = vec![message("system", "Be brief.")];
    for _ in 0..rng.random_range(0..3) {
        messages.push(message("user", QUESTIONS.choose(rng).expect("questions")));
        messages.push(message("assistant", "It is so."));
    }
    messages.push(message("user", question));
    let stream = rng.random::<bool>();
    let n = rng.random_range(1..40);
    let chat = json!({ "messages": messages, "max_tokens": n, "stream": stream });
    let with = |more: Value| {
        let mut body = chat.clone();
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        body
    };
    let parameters = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    let tool = json!({ "type": "function", "function": { "name": "f", "parameters": parameters } });
    match rng.random_range(0..10) {
        0 | 1 => ("/v1/chat/completions", chat),
        2 => {
            let choice = *["required", "auto"].choose(rng).expect("choices");
            (
                "/v1/chat/completions",
                with(json!({ "tools": [tool], "tool_choice": choice })),
            )
        }
        3 => {
            let format = json!({ "type": "json_schema", "json_schema": { "name": "a", "schema": parameters } });
            let tools = if rng.random::<bool>() {
                vec![tool]
            } else {
                Vec::new()
            };
            (
                "/v1/chat/completions",
                with(json!({ "response_format": format, "tools": tools })),
            )
        }
        4 => (
            "/v1/chat/completions",
            with(json!({ "n": 2, "logprobs": true, "top_logprobs": 2 })),
        ),
        5 => ("/v1/messages", chat),
        6 => (
            "/v1/responses",
            json!({ "input": question, "max_output_tokens": n, "stream": stream }),
        ),
        7 => (
            "/completion",
            json!({ "prompt": question, "n_predict": n, "stream": stream, "n_probs": 1 }),
        ),
        8 => ("/v1/embeddings", json!({ "input": question })),
        _ => match rng.random_range(0..3) {
            0 => ("/slots/0?action=save", json!({ "filename": "soak" })),
            1 => ("/slots/1?action=restore", json!({ "filename": "soak" })),
            _ => ("/slots/1?action=erase", json!({})),
        },
    }
}

/// Sends a request, reads a part of the answer, and leaves.
fn abort(client: &Client, path: &str, body: &Value, rng: &mut impl Rng) {
    let body = body.to_string();
    let mut socket = TcpStream::connect(client.address).expect("the server listens");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let sent = rng.random_range(0..=body.len());
    let sent = if rng.random::<bool>() {
        body.len()
    } else {
        sent
    };
    socket.write_all(head.as_bytes()).expect("sent");
    socket.write_all(&body.as_bytes()[..sent]).expect("sent");
    let wait = Duration::from_millis(rng.random_range(1..150));
    socket.set_read_timeout(Some(wait)).expect("a timeout");
    let _ = socket.read(&mut [0; 512]);
}

fn talk(client: &Client, seed: u64, end: Instant) -> (u64, u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut whole, mut aborted) = (0, 0);
    while Instant::now() < end {
        let (path, body) = request(&mut rng);
        match rng.random_range(0..20) {
            // A file may not be there yet, and a slot may be at work: that is an answer too.
            0 => {
                let wrong = client.send(
                    "POST",
                    "/v1/chat/completions",
                    &body.to_string().as_bytes()[1..],
                );
                assert_eq!(wrong.status, 400);
            }
            1..=3 => {
                abort(client, path, &body, &mut rng);
                aborted += 1;
            }
            _ => {
                let reply = client.post(path, &body);
                let fine =
                    reply.status == 200 || (path.starts_with("/slots") && reply.status < 500);
                assert!(fine, "{path} {body}: {} {}", reply.status, reply.text());
                if reply.header("content-type") == Some("text/event-stream") {
                    let chunks = reply.chunks();
                    let ends = chunks
                        .last()
                        .is_some_and(|chunk| chunk.get("error").is_none());
                    assert!(ends, "{path} {body}: {}", reply.text());
                } else {
                    drop(reply.json());
                }
                whole += 1;
            }
        }
    }
    (whole, aborted)
}

/// Resident memory of this process in KiB, which holds the server; none where the system does not say.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn mixed_traffic_leaves_nothing_behind() {
    // As the program does.
    oxling::ggml::give_memory_back();
    let seconds = std::env::var("OXLING_SOAK")
        .ok()
        .and_then(|n| n.parse().ok());
    let seconds = seconds.unwrap_or(SECONDS);
    let folder = tempfile::tempdir().unwrap();
    let config = ServerConfig {
        slot_folder: Some(folder.path().to_owned()),
        ..ServerConfig::default()
    };
    let server = live_with(config, 512, CACHE_BYTES);
    let began = Instant::now();
    let end = began + Duration::from_secs(seconds);
    let (mut whole, mut aborted) = (0, 0);
    let mut looks: Vec<Option<f64>> = Vec::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|seed| {
                let client = &server.client;
                scope.spawn(move || talk(client, seed, end))
            })
            .collect();
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(200));
            if began.elapsed().as_secs() * LOOKS >= seconds * looks.len() as u64 {
                looks.push(resident());
            }
        }
        for client in clients {
            let (w, a) = client.join().expect("a client whose answers are all right");
            (whole, aborted) = (whole + w, aborted + a);
        }
    });
    idle_within(&server.client, Duration::from_secs(2));
    let late = resident();
    println!("{whole} answers, {aborted} aborts in {seconds} s; resident KiB: {looks:?}, {late:?}");
    assert!(whole > 0 && aborted > 0);
    let early = looks.get(looks.len() / 3).copied().flatten();
    if let (Some(early), Some(late)) = (early, late)
        && seconds >= SECONDS_TO_JUDGE
    {
        assert!(
            late < early * (1.0 + MOST_GROWTH),
            "memory grew from {early} to {late} KiB"
        );
    }
}
