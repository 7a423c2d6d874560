//! The HTTP side over loopback, with an engine that is played: shapes, streams, errors, keys, cancellation.

#[path = "common/demo.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod demo;
#[path = "common/http.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod http;
#[path = "common/played.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod played;

use std::time::{Duration, Instant};

use oxling::server::http::{Keys, ServerConfig};
use oxling::server::protocol::{Command, Event};
use serde_json::{Value, json};

use http::Reply;
use played::{N_CACHED, answering, loading, ready};

const CALL: &str =
    "Well.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, 2]}}\n</tool_call>";

fn config() -> ServerConfig {
    ServerConfig::default()
}

fn chat(more: Value) -> Value {
    merged(
        json!({ "messages": [{ "role": "user", "content": "Hi" }] }),
        more,
    )
}

fn merged(mut base: Value, more: Value) -> Value {
    if let (Value::Object(base), Value::Object(more)) = (&mut base, more) {
        base.extend(more);
    }
    base
}

fn tools() -> Value {
    json!([{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }])
}

/// The message that the deltas of a stream make.
fn gathered(reply: &Reply) -> Value {
    let mut message = json!({ "content": null });
    for chunk in reply.chunks() {
        let Some(choice) = chunk["choices"].get(0) else {
            continue;
        };
        let delta = &choice["delta"];
        for key in ["content", "reasoning_content"] {
            if let Some(text) = delta[key].as_str() {
                assert!(!text.is_empty(), "no empty pieces");
                let so_far = message[key].as_str().unwrap_or_default().to_owned();
                message[key] = (so_far + text).into();
            }
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let at = call["index"].as_u64().unwrap() as usize;
            if message["tool_calls"].is_null() {
                message["tool_calls"] = json!([]);
            }
            let list = message["tool_calls"].as_array_mut().unwrap();
            if list.len() == at {
                list.push(json!({ "type": call["type"], "function": call["function"] }));
            } else {
                let so_far = list[at]["function"]["arguments"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                let text = call["function"]["arguments"].as_str().unwrap();
                list[at]["function"]["arguments"] = (so_far + text).into();
            }
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            message["finish"] = reason.into();
        }
    }
    message
}

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
    ready(&server.status, 1);
    let reply = server.client.get("/health");
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({ "status": "ok" }))
    );
}

#[test]
fn chats_have_openais_shape_whole_and_streamed() {
    let text = "<think>\nhm\n</think>\n\nYes, \u{e9}\u{1F642}.";
    let (server, heard) = answering(config(), text);
    let whole = server
        .client
        .post("/v1/chat/completions", &chat(json!({ "model": "any" })))
        .json();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], "any");
    assert!(whole["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(
        whole["system_fingerprint"]
            .as_str()
            .unwrap()
            .starts_with('b')
    );
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"], "Yes, \u{e9}\u{1F642}.");
    assert_eq!(choice["message"]["reasoning_content"], "hm");
    assert_eq!(choice["finish_reason"], "stop");
    let n_prompt = heard.lock().unwrap()[0].prompt.len();
    let usage = &whole["usage"];
    assert_eq!(usage["prompt_tokens"], n_prompt);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], N_CACHED);
    let sum =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], sum);
    assert_eq!(whole["timings"]["cache_n"], N_CACHED);

    let asked = chat(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let stream = server.client.post("/v1/chat/completions", &asked);
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    let chunks = stream.chunks();
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": null })
    );
    assert!(chunks[0].get("timings").is_none());
    let same = |key: &str| chunks.iter().all(|chunk| chunk[key] == chunks[0][key]);
    assert!(same("id") && same("created") && same("model"));
    let message = gathered(&stream);
    for key in ["content", "reasoning_content"] {
        assert_eq!(message[key], choice["message"][key], "{key}");
    }
    assert_eq!(message["finish"], "stop");
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), usage));
    assert!(last.get("timings").is_some());
    assert_eq!(stream.events().last().unwrap().1, "[DONE]");
}

#[test]
fn calls_are_told_from_text_in_all_forms() {
    let (server, heard) = answering(config(), CALL);
    let asked = chat(json!({ "tools": tools() }));
    let whole = server.client.post("/v1/chat/completions", &asked).json();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&call["type"], &call["function"]["name"]),
        (&json!("function"), &json!("f"))
    );
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({ "a": [1, 2] }));

    let stream = server.client.post(
        "/v1/chat/completions",
        &merged(asked, json!({ "stream": true })),
    );
    let message = gathered(&stream);
    assert_eq!(message["content"], choice["message"]["content"]);
    assert_eq!(message["tool_calls"][0]["function"], call["function"]);
    assert_eq!(message["finish"], "tool_calls");

    let tool = json!([{ "name": "f", "input_schema": { "type": "object" } }]);
    let asked = chat(json!({ "max_tokens": 100, "tools": tool }));
    let whole = server.client.post("/v1/messages", &asked).json();
    assert_eq!(
        (&whole["type"], &whole["stop_reason"]),
        (&json!("message"), &json!("tool_use"))
    );
    assert_eq!(
        whole["content"][0],
        json!({ "type": "text", "text": "Well." })
    );
    assert_eq!(whole["content"][1]["input"], json!({ "a": [1, 2] }));
    let n_prompt = heard.lock().unwrap().last().unwrap().prompt.len();
    assert_eq!(whole["usage"]["input_tokens"], n_prompt - N_CACHED);
    assert_eq!(whole["usage"]["cache_read_input_tokens"], N_CACHED);
    let stream = server
        .client
        .post("/v1/messages", &merged(asked, json!({ "stream": true })));
    let events = stream.events();
    assert!(events.iter().all(|(name, data)| {
        serde_json::from_str::<Value>(data).unwrap()["type"] == name.as_str()
    }));
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        (names[0], *names.last().unwrap()),
        ("message_start", "message_stop")
    );
    let parts: String = stream
        .chunks()
        .iter()
        .filter_map(|c| c["delta"]["partial_json"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(
        serde_json::from_str::<Value>(&parts).unwrap(),
        json!({ "a": [1, 2] })
    );

    let flat = json!([{ "type": "function", "name": "f", "parameters": { "type": "object" } }]);
    let asked = json!({ "input": "Hi", "tools": flat });
    let whole = server.client.post("/v1/responses", &asked).json();
    assert_eq!(
        (&whole["object"], &whole["status"]),
        (&json!("response"), &json!("completed"))
    );
    let kinds: Vec<&str> = whole["output"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["message", "function_call"]);
    assert_eq!(whole["output"][0]["content"][0]["text"], "Well.");
    let stream = server
        .client
        .post("/v1/responses", &merged(asked, json!({ "stream": true })))
        .chunks();
    let numbers: Vec<u64> = stream
        .iter()
        .map(|c| c["sequence_number"].as_u64().unwrap())
        .collect();
    assert!(numbers.iter().enumerate().all(|(i, &n)| n == i as u64));
    let end = stream.last().unwrap();
    assert_eq!(end["type"], "response.completed");
    for (streamed, item) in end["response"]["output"]
        .as_array()
        .unwrap()
        .iter()
        .zip(whole["output"].as_array().unwrap())
    {
        assert_eq!(
            (&streamed["content"], &streamed["arguments"]),
            (&item["content"], &item["arguments"])
        );
    }
}

#[test]
fn native_completions_have_llama_servers_shape() {
    let (server, heard) = answering(config(), "One\ntwo");
    let asked =
        json!({ "prompt": "Count", "n_predict": "50", "return_tokens": true, "n_probs": 2 });
    let whole = server.client.post("/completion", &asked).json();
    assert_eq!(
        (&whole["content"], &whole["stop"], &whole["stop_type"]),
        (&json!("One\ntwo"), &json!(true), &json!("eos"))
    );
    assert_eq!(
        (&whole["id_slot"], &whole["has_new_line"], &whole["prompt"]),
        (&json!(2), &json!(true), &json!("Count"))
    );
    assert_eq!(whole["generation_settings"]["seed"], 42);
    assert_eq!(whole["generation_settings"]["n_predict"], 50);
    let n = whole["tokens"].as_array().unwrap().len();
    assert_eq!(
        (&whole["tokens_predicted"], &whole["tokens_evaluated"]),
        (&json!(n), &json!(heard.lock().unwrap()[0].prompt.len()))
    );
    let probs = whole["completion_probabilities"].as_array().unwrap();
    assert_eq!(
        (
            probs.len(),
            probs[0]["top_logprobs"].as_array().unwrap().len()
        ),
        (n, 2)
    );

    let stream = server.client.post(
        "/completion",
        &merged(
            asked.clone(),
            json!({ "stream": true, "return_progress": true }),
        ),
    );
    let chunks = stream.chunks();
    assert_eq!(
        chunks[0]["prompt_progress"]["processed"],
        chunks[0]["prompt_progress"]["cache"]
    );
    let text: String = chunks
        .iter()
        .map(|c| c["content"].as_str().unwrap())
        .collect();
    assert_eq!(text, "One\ntwo");
    let tokens: usize = chunks
        .iter()
        .map(|c| c["tokens"].as_array().unwrap().len())
        .sum();
    assert_eq!(tokens, n);
    assert!(!stream.text().contains("[DONE]"));
    assert_eq!(chunks.last().unwrap()["stop"], true);

    let reduced = merged(
        asked.clone(),
        json!({ "response_fields": ["content", "timings/prompt_n", "nothing"] }),
    );
    let reduced = server.client.post("/completion", &reduced).json();
    assert_eq!(
        reduced.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["content", "prompt_n"]
    );
    let list = server
        .client
        .post("/completion", &json!({ "prompt": ["a", [5, 6]] }))
        .json();
    assert_eq!(
        list.as_array()
            .unwrap()
            .iter()
            .map(|a| a["index"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [0, 1]
    );
    let post = merged(asked, json!({ "post_sampling_probs": true }));
    let post = server.client.post("/completion", &post).json();
    assert!(post["completion_probabilities"][0]["top_probs"][0]["prob"].is_number());
}

#[test]
fn openai_completions_know_choices_echo_and_logprobs() {
    let (server, _) = answering(config(), " four, and more");
    let asked = json!({ "prompt": ["Two and", "two make"], "n": 2, "echo": true, "logprobs": 1, "max_tokens": 9 });
    let whole = server.client.post("/v1/completions", &asked).json();
    assert_eq!(whole["object"], "text_completion");
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    assert_eq!(
        (&choices[3]["text"], &choices[3]["index"]),
        (&json!("two make four, and more"), &json!(3))
    );
    let logprobs = &choices[0]["logprobs"];
    let n = logprobs["tokens"].as_array().unwrap().len();
    assert_eq!(logprobs["text_offset"][0], "Two and".len());
    for key in ["token_logprobs", "top_logprobs", "text_offset", "content"] {
        assert_eq!(logprobs[key].as_array().unwrap().len(), n, "{key}");
    }
    let stream = server
        .client
        .post("/v1/completions", &merged(asked, json!({ "stream": true })));
    let mut texts = vec![String::new(); 4];
    for chunk in stream.chunks() {
        for choice in chunk["choices"].as_array().unwrap() {
            texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
        }
    }
    for (text, choice) in texts.iter().zip(choices) {
        assert_eq!(choice["text"], text.as_str());
    }
    let cut = server
        .client
        .post(
            "/v1/completions",
            &json!({ "prompt": "x", "max_tokens": 1 }),
        )
        .json();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
}

#[test]
fn logprobs_of_chats_cover_every_token_once() {
    let (server, _) = answering(config(), "<think>hm</think>Yes.");
    let asked = chat(json!({ "logprobs": true, "top_logprobs": 3 }));
    let whole = server.client.post("/v1/chat/completions", &asked).json();
    let all = whole["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(json!(all.len()), whole["usage"]["completion_tokens"]);
    assert_eq!(all[0]["top_logprobs"].as_array().unwrap().len(), 3);
    assert!(all[0]["bytes"].is_array());
    let stream = server.client.post(
        "/v1/chat/completions",
        &merged(asked, json!({ "stream": true })),
    );
    let streamed: Vec<Value> = stream
        .chunks()
        .iter()
        .filter_map(|chunk| {
            chunk["choices"][0]["logprobs"]["content"]
                .as_array()
                .cloned()
        })
        .flatten()
        .collect();
    assert_eq!(streamed, all);
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
fn small_endpoints_answer() {
    let config = ServerConfig {
        metrics: true,
        ..config()
    };
    let (server, _) = answering(config, "x");
    let post = |path: &str, body: Value| server.client.post(path, &body).json();
    let tokens = post(
        "/tokenize",
        json!({ "content": "Hello there", "with_pieces": true }),
    );
    let ids: Vec<Value> = tokens["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["id"].clone())
        .collect();
    assert_eq!(
        post("/detokenize", json!({ "tokens": ids }))["content"],
        "Hello there"
    );
    assert_eq!(post("/tokenize", json!({}))["tokens"], json!([]));
    let prompt = post("/apply-template", chat(json!({})))["prompt"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        prompt.contains("Hi") && prompt.ends_with("<role>ASSISTANT</role>"),
        "{prompt}"
    );
    let n = post("/v1/chat/completions/input_tokens", chat(json!({})))["input_tokens"].clone();
    assert_eq!(
        post("/v1/messages/count_tokens", chat(json!({})))["input_tokens"],
        n
    );
    assert_eq!(
        post("/v1/responses/input_tokens", json!({ "input": "Hi" }))["input_tokens"],
        n
    );
    let models = server.client.get("/v1/models").json();
    let id = models["data"][0]["id"].as_str().unwrap();
    assert_eq!(
        server.client.get(&format!("/v1/models/{id}")).json()["object"],
        "model"
    );
    assert_eq!(server.client.get("/v1/models/other").status, 404);
    let props = server.client.get("/props").json();
    assert_eq!(
        (
            &props["total_slots"],
            &props["default_generation_settings"]["n_ctx"]
        ),
        (&json!(4), &json!(played::N_CTX))
    );
    let metrics = server.client.get("/metrics");
    assert!(metrics.text().contains("llamacpp:requests_deferred"));
    assert!(metrics.header("process-start-time-unix").is_some());
    let two = post("/v1/embeddings", json!({ "input": ["a", "b"] }));
    let vector = two["data"][1]["embedding"].as_array().unwrap();
    let length: f64 = vector.iter().map(|v| v.as_f64().unwrap().powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-5, "f32 rounding: {length}");
    let coded = post(
        "/v1/embeddings",
        json!({ "input": "a", "encoding_format": "base64" }),
    );
    assert!(coded["data"][0]["embedding"].is_string());
    let own = server.client.with("x-request-id", "mine-1").get("/health");
    assert_eq!(own.header("x-request-id"), Some("mine-1"));
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
            "POST /completion HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
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
    std::thread::sleep(Duration::from_millis(2600));
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

#[test]
fn conversations_say_where_their_messages_end() {
    let (server, heard) = answering(config(), "x");
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "One?" },
        { "role": "assistant", "content": "1" },
        { "role": "user", "content": "Two?" },
    ]);
    server
        .client
        .post("/v1/chat/completions", &json!({ "messages": messages }));
    let heard = heard.lock().unwrap();
    let tokenizer = played::model().tokenizer();
    let texts: Vec<String> = heard[0]
        .boundaries
        .iter()
        .map(|&at| String::from_utf8(tokenizer.detokenize(&heard[0].prompt[..at], true)).unwrap())
        .collect();
    assert_eq!(texts.len(), 4, "{texts:?}");
    for (text, end) in texts.iter().zip([
        "<|role_end|>",
        "One?<|role_end|>",
        "1<|role_end|>",
        "Two?<|role_end|>",
    ]) {
        assert!(text.ends_with(end), "{text:?}");
    }
}

#[test]
fn a_trailing_answer_is_continued() {
    let (server, _) = answering(config(), "x");
    let messages = json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "The answer is" }]);
    let prompt = |more: Value| {
        let body = merged(json!({ "messages": messages }), more);
        server.client.post("/apply-template", &body).json()["prompt"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(prompt(json!({})).ends_with("<role>ASSISTANT</role>The answer is"));
    assert!(prompt(json!({ "continue_final_message": true })).ends_with("The answer is"));
    let answered = prompt(json!({ "continue_final_message": false }));
    assert!(answered.ends_with("<role>ASSISTANT</role>"), "{answered}");
    let two = json!({ "messages": [messages[0], messages[1], messages[1]] });
    assert_eq!(server.client.post("/v1/chat/completions", &two).status, 400);
}
