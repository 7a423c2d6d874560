//! Calls and schemas on the demo model, which knows little of either: what holds, holds by grammar.

use oxling::server::http::ServerConfig;
use serde_json::{Value, json};

use crate::http::Client;
use crate::{live, message};

/// The demo model's `<tool_call>`.
const OPENER: &str = "7";
const SEEDS: u64 = 6;

fn body(more: Value) -> Value {
    let parameters = json!({
        "type": "object",
        "properties": { "days": { "type": "integer", "minimum": 1, "maximum": 9 } },
        "required": ["days"],
        "additionalProperties": false,
    });
    let function = json!({ "name": "weather", "parameters": parameters });
    let mut body = json!({
        "messages": [message("user", "How will the weather be?")],
        "tools": [{ "type": "function", "function": function }],
        "parallel_tool_calls": false,
        "temperature": 1.5,
        "max_tokens": 200,
    });
    let (Value::Object(all), Value::Object(more)) = (&mut body, more) else {
        unreachable!()
    };
    all.extend(more);
    body
}

/// The first choice of an answer.
fn choice(client: &Client, body: &Value) -> Value {
    let reply = client.post("/v1/chat/completions", body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"][0].clone()
}

/// Checks the one call of a choice.
fn check_call(choice: &Value) {
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    let calls = choice["message"]["tool_calls"].as_array().expect("calls");
    assert_eq!(calls.len(), 1, "{choice}");
    assert_eq!(calls[0]["function"]["name"], "weather");
    let arguments = calls[0]["function"]["arguments"].as_str().expect("text");
    let arguments: Value = serde_json::from_str(arguments).expect("JSON");
    assert!((1..=9).contains(&arguments["days"].as_i64().expect("a number")));
    assert_eq!(arguments.as_object().expect("an object").len(), 1);
}

#[test]
fn a_call_that_the_model_begins_is_one_that_can_be_made() {
    let server = live(ServerConfig::default(), 512);
    for seed in 0..SEEDS {
        let begun = body(json!({ "seed": seed, "logit_bias": { OPENER: 100 } }));
        check_call(&choice(&server.client, &begun));
    }
}

#[test]
fn tools_and_a_schema_give_calls_or_answers_that_fit() {
    let server = live(ServerConfig::default(), 512);
    let schema = json!({
        "type": "object",
        "properties": { "good": { "type": "boolean" } },
        "required": ["good"],
        "additionalProperties": false,
    });
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } });
    let mut answers = 0;
    for seed in 0..SEEDS {
        for bias in [-100, 100] {
            let asked = body(json!({
                "seed": seed, "response_format": format, "logit_bias": { OPENER: bias }
            }));
            let choice = choice(&server.client, &asked);
            // Other tokens spell the opener too.
            let Some(content) = choice["message"]["content"].as_str() else {
                check_call(&choice);
                continue;
            };
            let answer: Value = serde_json::from_str(content).expect("JSON");
            assert!(answer["good"].is_boolean(), "{choice}");
            answers += 1;
        }
    }
    assert!(answers > 0 && answers < 2 * SEEDS, "{answers}");
    for wrong in [
        json!({ "grammar": "root ::= \"a\"" }),
        json!({ "regex": "a+" }),
        json!({ "json_schema": { "type": "thing" } }),
        json!({ "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "type": "thing" } } }] }),
    ] {
        let reply = server
            .client
            .post("/v1/chat/completions", &body(wrong.clone()));
        assert_eq!(reply.status, 400, "{wrong}: {}", reply.text());
    }
}
