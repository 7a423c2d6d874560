//! OpenAI's Responses requests as chat completions.

use serde_json::{Map, Value, json};

use super::fields::{Fields, kind_of};
use crate::server::api::ApiError;

/// The same request as a chat completion. Fields that both know keep their names.
///
/// # Errors
/// An item that is no text, or a field that needs stored responses.
pub fn to_chat(body: &Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    let f = Fields::new(body);
    for name in ["previous_response_id", "conversation"] {
        if f.get(name).is_some() {
            return Err(ApiError::field(
                name,
                "responses are not stored: send the whole input",
            ));
        }
    }
    let mut chat = body.clone();
    let mut messages = Vec::new();
    if let Some(text) = f.str("instructions")? {
        messages.push(json!({ "role": "system", "content": text }));
    }
    match f.get("input") {
        None => return Err(ApiError::field("input", "is required")),
        Some(Value::String(text)) => messages.push(json!({ "role": "user", "content": text })),
        Some(Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                add_item(&format!("input[{i}]"), item, &mut messages)?;
            }
        }
        Some(other) => {
            let reason = format!("expected a string or an array, found {}", kind_of(other));
            return Err(ApiError::field("input", reason));
        }
    }
    chat.insert("messages".to_owned(), messages.into());
    if let Some(format) = f.object("text")?.and_then(|text| text.get("format")) {
        chat.insert("response_format".to_owned(), format.clone());
    }
    if let Some(reasoning) = f.object("reasoning")?.map(Fields::new)
        && let Some(effort) = reasoning.str("effort")?
    {
        chat.insert("reasoning_effort".to_owned(), effort.into());
    }
    // Here it is a number without a switch beside it.
    if let Some(top) = chat.remove("top_logprobs").filter(|top| !top.is_null()) {
        chat.insert("logprobs".to_owned(), true.into());
        chat.insert("top_logprobs".to_owned(), top);
    }
    Ok(chat)
}

/// Appends an item; thoughts and calls join the assistant message they belong to.
fn add_item(name: &str, item: &Value, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let text = |key: &str| item[key].as_str();
    match text("type") {
        None | Some("message") => {
            let Some(role) = text("role") else {
                return Err(ApiError::field(name, "a message has no role"));
            };
            let content = item.get("content").cloned().unwrap_or_default();
            match joining(role, out) {
                Some(last) if last["content"].is_null() && last["tool_calls"].is_null() => {
                    last["content"] = content;
                }
                _ => out.push(json!({ "role": role, "content": content })),
            }
        }
        Some("reasoning") => {
            let mut parts = parts_text(&item["content"]);
            if parts.is_empty() {
                parts = parts_text(&item["summary"]);
            }
            out.push(json!({ "role": "assistant", "content": null, "reasoning_content": parts }));
        }
        Some("function_call") => {
            let (Some(function), Some(arguments)) = (text("name"), text("arguments")) else {
                return Err(ApiError::field(
                    name,
                    "a function_call has no name or no arguments",
                ));
            };
            let id = text("call_id").or(text("id")).unwrap_or_default();
            let call = json!({
                "id": id, "type": "function",
                "function": { "name": function, "arguments": arguments },
            });
            let last = match joining("assistant", out) {
                Some(last) => last,
                None => {
                    out.push(json!({ "role": "assistant", "content": null }));
                    let at = out.len() - 1;
                    &mut out[at]
                }
            };
            match last["tool_calls"].as_array_mut() {
                Some(calls) => calls.push(call),
                None => last["tool_calls"] = json!([call]),
            }
        }
        Some("function_call_output") => {
            let output = match &item["output"] {
                Value::String(text) => text.clone(),
                other => parts_text(other),
            };
            let id = text("call_id").unwrap_or_default();
            out.push(json!({ "role": "tool", "tool_call_id": id, "content": output }));
        }
        Some(other) => {
            let reason = format!("an item of type '{other}' is not supported");
            return Err(ApiError::field(name, reason));
        }
    }
    Ok(())
}

/// The last message, if it is the assistant's and the next item is too.
fn joining<'a>(role: &str, out: &'a mut [Value]) -> Option<&'a mut Value> {
    out.last_mut()
        .filter(|last| role == "assistant" && last["role"] == "assistant")
}

fn parts_text(value: &Value) -> String {
    let parts = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<&str> = parts.iter().filter_map(|p| p["text"].as_str()).collect();
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(value: Value) -> Result<Value, ApiError> {
        match value {
            Value::Object(map) => to_chat(&map).map(Value::Object),
            _ => unreachable!(),
        }
    }

    #[test]
    fn items_become_messages() {
        let chat = converted(json!({
            "instructions": "Be brief.",
            "input": [
                { "role": "user", "content": [{ "type": "input_text", "text": "hi" }] },
                { "type": "reasoning", "summary": [], "content": [{ "type": "reasoning_text", "text": "hm" }] },
                { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "so" }] },
                { "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}" },
                { "type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}" },
                { "type": "function_call_output", "call_id": "c1", "output": "42" },
            ],
            "text": { "format": { "type": "json_schema", "name": "x", "schema": {} } },
            "reasoning": { "effort": "low" },
        }))
        .unwrap();
        let messages = chat["messages"].as_array().unwrap();
        assert_eq!(messages.len(), 4);
        assert_eq!(messages[2]["reasoning_content"], "hm");
        assert_eq!(messages[2]["content"][0]["text"], "so");
        assert_eq!(messages[2]["tool_calls"].as_array().unwrap().len(), 2);
        assert_eq!(messages[3]["content"], "42");
        assert_eq!(chat["response_format"]["type"], "json_schema");
        assert_eq!(chat["reasoning_effort"], "low");
        for wrong in [
            json!({}),
            json!({ "input": 3 }),
            json!({ "input": [{ "type": "web_search_call" }] }),
            json!({ "input": [{ "content": "x" }] }),
            json!({ "input": "x", "previous_response_id": "resp_1" }),
        ] {
            assert!(converted(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
