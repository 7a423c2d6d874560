//! `oxling serve` as a program: it says where it listens, writes its log as JSON, and ends in order.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::http::Client;

#[test]
fn the_program_serves_and_ends_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "# of nobody\n\nsecret\n").unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_oxling"))
        .args(["serve", "--port", "0", "-np", "1", "-c", "512", "-t", "1"])
        .args([
            "--log-format",
            "json",
            "--api-prefix",
            "llm",
            "--api-key-file",
        ])
        .arg(&keys)
        .env_remove("OXLING_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().expect("an address").unwrap();
        if let Some((_, rest)) = line.split_once("http://") {
            break rest.trim_end_matches("/llm").parse().unwrap();
        }
    };
    let client = Client::new(address);
    while client.get("/llm/health").status == 503 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(client.get("/llm/v1/models").status, 401);
    assert_eq!(client.get("/llm/").status, 200);
    let body = json!({ "prompt": "The capital of France is", "n_predict": 4 });
    let known = client
        .with("x-api-key", "secret")
        .with("x-request-id", "mine");
    assert_eq!(known.post("/llm/completion", &body).status, 200);

    // A stream that runs is not cut off.
    let body =
        json!({ "prompt": "x", "n_predict": 60, "ignore_eos": true, "stream": true }).to_string();
    let mut stream = known.open("POST", "/llm/completion", body.as_bytes());
    stream.piece();
    let id = program.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    let rest = stream.rest();
    assert_eq!(rest.chunks().last().unwrap()["stop"], true);
    assert!(program.wait().unwrap().success());

    let lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(&line.unwrap()).expect("JSON"))
        .collect();
    let mine = lines.iter().filter(|line| line["request"] == "mine");
    assert!(mine.clone().any(|line| line["status"] == 200), "{lines:?}");
    assert!(
        lines
            .iter()
            .all(|line| line["level"].is_string() && line["time"].is_number())
    );
    assert!(!lines.iter().any(|line| line.to_string().contains("secret")));
}

#[test]
fn what_cannot_be_is_said_before_the_model_is_loaded() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (flags, expected) in [
        (["--port", &port], "choose one with --port"),
        (["--chat-template", "{% nonsense"], "chat template"),
        (["--api-key-file", "/nowhere/keys"], "/nowhere/keys"),
        (["--chat-template-kwargs", "[]"], "JSON object"),
    ] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_oxling"))
            .arg("serve")
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        program
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(program.wait().unwrap().code(), Some(1), "{flags:?}");
        assert!(
            text.contains("error: ") && text.contains(expected),
            "{flags:?}: {text}"
        );
    }
}
