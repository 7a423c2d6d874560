//! What comes back.

use oxling::server::http::ServerConfig;
use serde_json::{Value, json};

use crate::http::Reply;
use crate::played::{self, N_CACHED, answering};
use crate::{chat, config, merged};

const CALL: &str =
    "Well.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, 2]}}\n</tool_call>";

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
    let thought = &usage["completion_tokens_details"]["reasoning_tokens"];
    assert!((1..usage["completion_tokens"].as_u64().unwrap()).contains(&thought.as_u64().unwrap()));
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
    for (accept, format) in [
        ("*/*", "application/openmetrics-text; version=1.0.0"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4"),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text; version=1.0.0",
        ),
    ] {
        let metrics = server.client.with("accept", accept).get("/metrics");
        let found = metrics.header("content-type").unwrap();
        assert!(found.starts_with(format), "{accept}: {found}");
    }
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

#[test]
fn every_field_of_the_document_is_read() {
    let (server, _) = answering(config(), "x");
    for (path, name, wrong) in oxling::server::http::openapi::typed_fields() {
        if path == "/apply-template" || path == "/slots/{id}" {
            // It reads only what makes the prompt; slots need a folder.
            continue;
        }
        let mut body = json!({ "messages": [{ "role": "user", "content": "x" }], "prompt": "x", "input": "x" });
        body[name] = wrong;
        let reply = server.client.post(path, &body);
        assert_eq!(reply.status, 400, "{path}: {name} is not read");
        let message = reply.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(
            message.contains(name.split('.').next().unwrap()),
            "{path} {name}: {message}"
        );
    }
}
