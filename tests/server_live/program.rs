//! `oxling serve` as a program: it says where it listens, writes its log as JSON, and ends in order.

use std::io::{BufRead, BufReader, Lines, Read};
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::{Value, json};

use crate::http::Client;

#[test]
fn the_program_serves_and_ends_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "# of nobody\n\nsecret\n").unwrap();
    let keys = keys.to_str().unwrap();
    let (mut program, client, lines) =
        started("/llm", &["--log-format", "json", "--api-key-file", keys]);
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

/// A server below a path, its address, and the rest of what it says.
fn started(prefix: &str, flags: &[&str]) -> (Child, Client, Lines<BufReader<ChildStderr>>) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_oxling"))
        .args(["serve", "--port", "0", "-np", "1", "-c", "4096", "-t", "1"])
        .args(["--api-prefix", prefix])
        .args(flags)
        .env_remove("OXLING_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().expect("an address").unwrap();
        if let Some((_, rest)) = line.split_once("http://") {
            break rest.strip_suffix(prefix).unwrap().parse().unwrap();
        }
    };
    let client = Client::new(address);
    while client.get(&format!("{prefix}/health")).status == 503 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    (program, client, lines)
}

#[cfg(unix)]
#[test]
fn the_second_signal_ends_the_program_at_once() {
    for (second, code) in [("-TERM", 143), ("-INT", 130)] {
        let (mut program, client, mut lines) = started("", &["--shutdown-timeout", "600"]);
        let body = json!({ "prompt": "x", "ignore_eos": true, "stream": true });
        let body = body.to_string();
        let mut stream = client.open("POST", "/completion", body.as_bytes());
        stream.piece();
        let id = program.id().to_string();
        let send = |signal: &str| {
            let sent = Command::new("kill").args([signal, &id]).status();
            assert!(sent.unwrap().success());
        };
        // The first of the same kind, as its number decides the exit code.
        send(second);
        assert!(lines.any(|line| line.unwrap().contains("shutting down")));
        send(second);
        assert!(lines.any(|line| line.unwrap().contains("leaving at once")));
        assert_eq!(program.wait().unwrap().code(), Some(code), "{second}");
    }
}

#[cfg(unix)]
#[test]
fn a_key_may_begin_with_a_dash() {
    let (mut program, client, _lines) = started("", &["--api-key", "-abc"]);
    assert_eq!(client.get("/v1/models").status, 401);
    let known = client.with("x-api-key", "-abc");
    assert_eq!(known.get("/v1/models").status, 200);
    program.kill().unwrap();
    program.wait().unwrap();
}

#[test]
fn an_empty_variable_with_a_key_does_not_open_the_server() {
    let program = Command::new(env!("CARGO_BIN_EXE_oxling"))
        .args(["serve", "--port", "0"])
        .env("LLAMA_API_KEY", "")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&program.stderr);
    assert_eq!(program.status.code(), Some(1), "{text}");
    assert!(text.contains("there is no key") && text.contains("LLAMA_API_KEY"));
}

#[test]
fn what_cannot_be_is_said_before_the_model_is_loaded() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let cases: [(&[&str], &str); 9] = [
        (&["--port", &port], "choose one with --port"),
        (&["--chat-template", "{% nonsense"], "chat template"),
        (&["--api-key-file", "/nowhere/keys"], "/nowhere/keys"),
        (&["--chat-template-kwargs", "[]"], "JSON object"),
        (&["--api-key", ""], "there is no key in it"),
        (&["--api-key", ","], "there is no key in it"),
        (&["--api-key", " ", "--host", "0.0.0.0"], "no key in it"),
        (&["-c", "10", "-np", "20"], "leaves 0 tokens each"),
        (&["-c", "60"], "at least -c 64"),
    ];
    for (flags, expected) in cases {
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
