//! Who gets in, what is refused, who has left.

use std::time::{Duration, Instant};

use oxling::server::http::{Keys, ServerConfig};
use oxling::server::protocol::{Command, Event, Loading};
use serde_json::json;

use crate::played::{self, answering, loading, ready};
use crate::{chat, config};

#[test]
fn nothing_but_health_is_said_while_the_model_is_loaded() {
    let (server, _commands) = loading(config(), 4);
    for path in ["/health", "/v1/health", "/v1/models", "/props", "/slots"] {
        let reply = server.client.get(path);
        assert_eq!(reply.status, 503, "{path}");
        let error = &reply.json()["error"];
        assert_eq!(
            (&error["code"], &error["type"]),
            (&json!(503), &json!("unavailable_error"))
        );
        assert_eq!(error["message"], "Loading model");
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(
        server
            .client
            .post("/v1/chat/completions", &chat(json!({})))
            .status,
        503
    );
    server.status.set_loading(Loading {
        what: "downloading model.gguf".into(),
        done: 256,
        total: 1024,
    });
    let error = server.client.get("/health").json()["error"].clone();
    assert_eq!(
        error["message"],
        "Loading model: downloading model.gguf, 25 %"
    );
    let progress = json!({ "what": "downloading model.gguf", "done": 256, "total": 1024 });
    assert_eq!(error["progress"], progress);
    ready(&server.status, 1);
    let reply = server.client.get("/health");
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({ "status": "ok" }))
    );
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let (server, _) = answering(config(), "x");
    let cases = [
        ("/v1/chat/completions", json!({})),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user" }] }),
        ),
        ("/v1/chat/completions", chat(json!({ "n": 5 }))),
        (
            "/v1/chat/completions",
            chat(json!({ "temperature": "hot" })),
        ),
        ("/v1/chat/completions", chat(json!({ "top_p": 7 }))),
        ("/v1/chat/completions", chat(json!({ "top_logprobs": 3 }))),
        (
            "/v1/chat/completions",
            chat(json!({ "tool_choice": "required" })),
        ),
        (
            "/v1/chat/completions",
            chat(json!({ "add_generation_prompt": true, "continue_final_message": true })),
        ),
        (
            "/v1/chat/completions",
            chat(json!({ "response_format": { "type": "xml" } })),
        ),
        (
            "/v1/chat/completions",
            chat(json!({ "json_schema": { "type": "nothing" } })),
        ),
        (
            "/v1/chat/completions",
            chat(json!({ "grammar": "root ::= (" })),
        ),
        (
            "/v1/chat/completions",
            chat(json!({ "grammar": "root ::= \"a\"", "json_schema": {} })),
        ),
        (
            "/v1/chat/completions",
            chat(json!({ "logit_bias": { "99999999": 1 } })),
        ),
        ("/completion", json!({})),
        ("/completion", json!({ "prompt": "" })),
        ("/completion", json!({ "prompt": [99999999] })),
        ("/v1/embeddings", json!({})),
        (
            "/v1/responses",
            json!({ "input": "x", "previous_response_id": "r" }),
        ),
        ("/slots/9?action=erase", json!({})),
        ("/slots/0?action=burn", json!({})),
    ];
    for (path, body) in cases {
        let reply = server.client.post(path, &body);
        assert_eq!(reply.status, 400, "{path} {body}: {}", reply.text());
        let error = &reply.json()["error"];
        assert_eq!(
            (&error["code"], &error["type"]),
            (&json!(400), &json!("invalid_request_error")),
            "{path} {body}"
        );
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    let long = server.client.post(
        "/completion",
        &json!({ "prompt": "a b c d e f g h ".repeat(200) }),
    );
    let error = &long.json()["error"];
    assert_eq!(
        (&error["type"], &error["n_ctx"]),
        (&json!("exceed_context_size_error"), &json!(played::N_CTX))
    );
    let reply = server.client.post("/v1/messages", &json!({}));
    assert_eq!(
        (reply.status, &reply.json()["type"]),
        (400, &json!("error"))
    );
    assert_eq!(server.client.send("POST", "/completion", b"{").status, 400);
    assert_eq!(server.client.get("/nothing").status, 404);
    assert_eq!(
        server.client.get("/nothing").json()["error"]["message"],
        "File Not Found"
    );
    assert_eq!(server.client.get("/completion").status, 405);
    assert_eq!(server.client.get("/metrics").status, 501);
    assert_eq!(server.client.post("/props", &json!({})).status, 501);
    let save = server
        .client
        .post("/slots/0?action=save", &json!({ "filename": "a" }));
    assert_eq!(
        (save.status, &save.json()["error"]["type"]),
        (501, &json!("not_supported_error"))
    );
}

#[test]
fn bodies_have_a_limit() {
    let mut config = config();
    config.limits.body = 1000;
    let (server, _) = answering(config, "x");
    let body = json!({ "prompt": "x".repeat(2000) });
    let reply = server.client.post("/completion", &body);
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (413, &json!(413))
    );
}

#[test]
fn keys_open_and_set_the_scope() {
    let config = ServerConfig {
        keys: Keys::new(["one", "two"]),
        ..config()
    };
    let (server, heard) = answering(config, "x");
    assert_eq!(server.client.get("/health").status, 200);
    for path in ["/v1/models", "/props", "/slots", "/metrics"] {
        let reply = server.client.get(path);
        assert_eq!(reply.status, 401, "{path}");
        assert_eq!(reply.json()["error"]["type"], "authentication_error");
    }
    let wrong = server.client.with("authorization", "Bearer three");
    assert_eq!(
        wrong.post("/v1/chat/completions", &chat(json!({}))).status,
        401
    );
    for (name, value) in [
        ("authorization", "Bearer one"),
        ("x-api-key", "two"),
        ("x-api-key", "one"),
    ] {
        let reply = server
            .client
            .with(name, value)
            .post("/v1/chat/completions", &chat(json!({})));
        assert_eq!(reply.status, 200);
    }
    let scopes: Vec<_> = heard
        .lock()
        .unwrap()
        .iter()
        .map(|request| request.scope)
        .collect();
    assert_eq!(scopes[0], scopes[2]);
    assert_ne!(scopes[0], scopes[1]);
}

#[test]
fn pages_of_other_origins_stay_out_unless_they_are_named() {
    let (server, _) = answering(config(), "x");
    let own = format!("http://{}", server.client.address);
    assert_eq!(
        server.client.with("origin", &own).get("/v1/models").status,
        200
    );
    let foreign = server.client.with("origin", "https://evil.example");
    let reply = foreign.post("/completion", &json!({ "prompt": "x" }));
    assert_eq!(
        (reply.status, &reply.json()["error"]["type"]),
        (403, &json!("permission_error"))
    );
    assert_eq!(reply.header("access-control-allow-origin"), None);

    let config = ServerConfig {
        origins: vec!["https://good.example".to_owned()],
        ..config()
    };
    let (server, _) = answering(config, "x");
    let good = server.client.with("origin", "https://good.example");
    assert_eq!(
        good.get("/v1/models").header("access-control-allow-origin"),
        Some("https://good.example")
    );
    let preflight = good.with("access-control-request-method", "POST").send(
        "OPTIONS",
        "/v1/chat/completions",
        b"",
    );
    assert_eq!(
        preflight.header("access-control-allow-origin"),
        Some("https://good.example")
    );
    assert_eq!(
        server
            .client
            .with("origin", "https://evil.example")
            .get("/v1/models")
            .status,
        403
    );
}

#[test]
fn a_name_that_points_here_does_not_open_the_server() {
    let (server, _) = answering(config(), "x");
    let reply = server.client.with("host", "evil.example").get("/v1/models");
    assert_eq!(reply.status, 403);
    let keyed = ServerConfig {
        keys: Keys::new(["one"]),
        ..config()
    };
    let (server, _) = answering(keyed, "x");
    let known = server
        .client
        .with("x-api-key", "one")
        .with("host", "chat.example");
    assert_eq!(known.get("/v1/models").status, 200);
}

#[test]
fn slot_files_cannot_leave_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = ServerConfig {
        slot_folder: Some(folder.path().to_owned()),
        ..config()
    };
    let (server, _) = answering(config, "x");
    for name in [
        "../a",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "",
        "a\\b",
        "a\u{0}b",
    ] {
        for action in ["save", "restore"] {
            let path = format!("/slots/1?action={action}");
            let reply = server.client.post(&path, &json!({ "filename": name }));
            assert_eq!(reply.status, 400, "{name:?}");
        }
    }
    let saved = server
        .client
        .post("/slots/1?action=save", &json!({ "filename": "a.bin" }))
        .json();
    assert_eq!(
        (&saved["n_saved"], &saved["n_written"], &saved["filename"]),
        (&json!(7), &json!(70), &json!("a.bin"))
    );
    let restored = server
        .client
        .post("/slots/1?action=restore", &json!({ "filename": "a.bin" }))
        .json();
    assert_eq!(
        (&restored["n_restored"], &restored["timings"]["restore_ms"]),
        (&json!(7), &json!(5.0))
    );
    let erased = server
        .client
        .post("/slots/1?action=erase", &json!({}))
        .json();
    assert_eq!(erased, json!({ "id_slot": 1, "n_erased": 7 }));
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let (server, mut commands) = loading(config(), 1);
    ready(&server.status, 1);
    let client = server.client.clone();
    let waiting =
        std::thread::spawn(move || client.post("/completion", &json!({ "prompt": "x" })).status);
    while server.status.waiting() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let reply = server.client.post("/completion", &json!({ "prompt": "x" }));
    assert_eq!(reply.status, 429);
    assert!(reply.header("retry-after").is_some());
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    // An engine that ends says so to whoever waits.
    drop(commands.blocking_recv());
    assert_eq!(waiting.join().unwrap(), 500);
}

#[test]
fn clients_that_leave_cancel_their_requests() {
    let (server, mut commands) = loading(config(), 8);
    ready(&server.status, 2);
    for stream in [false, true] {
        let body = json!({ "prompt": "x", "stream": stream }).to_string();
        let address = server.client.address;
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        let head = format!(
            "POST /completion HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        std::io::Write::write_all(&mut socket, head.as_bytes()).unwrap();
        let Some(Command::Generate(request)) = commands.blocking_recv() else {
            panic!("no request came");
        };
        server.status.leave_queue();
        let _ = request.events.send(Event::Started {
            slot: 0,
            n_cached: 0,
        });
        assert!(!request.events.is_closed());
        drop(socket);
        let began = Instant::now();
        while !request.events.is_closed() {
            assert!(
                began.elapsed() < Duration::from_secs(2),
                "stream {stream}: still computing"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn a_silent_stream_lives_and_late_errors_arrive_in_it() {
    let (server, mut commands) = loading(config(), 8);
    ready(&server.status, 2);
    let body = chat(json!({ "stream": true, "sse_ping_interval": 1 })).to_string();
    let client = server.client.clone();
    let reader =
        std::thread::spawn(move || client.send("POST", "/v1/chat/completions", body.as_bytes()));
    let Some(Command::Generate(request)) = commands.blocking_recv() else {
        panic!("no request came");
    };
    server.status.leave_queue();
    std::thread::sleep(Duration::from_millis(3600));
    let failed = oxling::server::protocol::RequestError::Internal("broken".to_owned());
    request.events.send(Event::Failed(failed)).unwrap();
    let reply = reader.join().unwrap();
    assert_eq!(reply.status, 200);
    assert!(
        reply.text().matches(":\n\n").count() >= 3,
        "{:?}",
        reply.text()
    );
    assert_eq!(reply.chunks()[0]["error"]["type"], "server_error");

    // An early error has its status code.
    let client = server.client.clone();
    let body = chat(json!({ "stream": true })).to_string();
    let reader =
        std::thread::spawn(move || client.send("POST", "/v1/chat/completions", body.as_bytes()));
    let Some(Command::Generate(request)) = commands.blocking_recv() else {
        panic!("no request came");
    };
    let failed = oxling::server::protocol::RequestError::Invalid("no".to_owned());
    request.events.send(Event::Failed(failed)).unwrap();
    assert_eq!(reader.join().unwrap().status, 400);
}
