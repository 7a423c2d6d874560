//! Anthropic's Messages requests as chat completions.

use serde_json::{Map, Value, json};

use super::fields::{Fields, kind_of};
use crate::server::api::ApiError;

/// Start of a text some clients put first in the system message; it differs in every request and would make every
/// prompt a new one.
const BILLING: &str = "x-anthropic-billing-header:";

/// The same request in OpenAI's form. Fields that both know keep their names.
///
/// # Errors
/// A message, a part or a tool that is none of text.
pub fn to_chat(body: &Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    let f = Fields::new(body);
    let mut chat = body.clone();
    chat.remove("system");
    let mut messages = Vec::new();
    if let Some(system) = f.get("system") {
        let text = system_text(system)?;
        if !text.is_empty() {
            messages.push(json!({ "role": "system", "content": text }));
        }
    }
    let Some(list) = f.array("messages")? else {
        return Err(ApiError::field("messages", "is required"));
    };
    for (i, value) in list.iter().enumerate() {
        message(&format!("messages[{i}]"), value, &mut messages)?;
    }
    chat.insert("messages".to_owned(), messages.into());
    if let Some(tools) = f.array("tools")? {
        let tools: Result<Vec<Value>, _> = tools
            .iter()
            .enumerate()
            .map(|(i, value)| tool(&format!("tools[{i}]"), value))
            .collect();
        chat.insert("tools".to_owned(), tools?.into());
    }
    choice(&f, &mut chat)?;
    thinking(&f, &mut chat)?;
    format(&f, &mut chat)?;
    Ok(chat)
}

/// The text of a system prompt, without lines that only count.
fn system_text(value: &Value) -> Result<String, ApiError> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks
            .iter()
            .map(|block| block_text("system", block))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .filter(|text| !text.trim_start().starts_with(BILLING) || text.contains('\n'))
            .collect::<Vec<_>>()
            .join("\n"),
        other => {
            let reason = format!("expected a string or blocks, found {}", kind_of(other));
            return Err(ApiError::field("system", reason));
        }
    };
    let kept = text.lines().filter(|line| !line.starts_with(BILLING));
    Ok(match text.contains(BILLING) {
        true => kept.collect::<Vec<_>>().join("\n"),
        false => text,
    })
}

fn block_text(name: &str, block: &Value) -> Result<String, ApiError> {
    match (block["type"].as_str(), block["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (kind, _) => {
            let kind = kind.unwrap_or("none");
            let reason = format!("a block of type '{kind}', but this model reads text only");
            Err(ApiError::field(name, reason))
        }
    }
}

/// Appends one message as one or several.
fn message(name: &str, value: &Value, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let role = value["role"].as_str();
    let Some(role @ ("user" | "assistant" | "system")) = role else {
        return Err(ApiError::field(name, "expected the role user or assistant"));
    };
    let blocks = match &value["content"] {
        Value::String(text) => {
            out.push(json!({ "role": role, "content": text }));
            return Ok(());
        }
        Value::Array(blocks) => blocks,
        other => {
            let reason = format!("expected content, found {}", kind_of(other));
            return Err(ApiError::field(name, reason));
        }
    };
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for block in blocks {
        match block["type"].as_str() {
            Some("thinking") => {
                thoughts.push(block["thinking"].as_str().unwrap_or_default().to_owned());
            }
            Some("redacted_thinking") => {}
            Some("tool_use") => calls.push(tool_use(name, block)?),
            Some("tool_result") => out.push(tool_result(name, block)?),
            _ => texts.push(block_text(name, block)?),
        }
    }
    if texts.is_empty() && thoughts.is_empty() && calls.is_empty() {
        return Ok(());
    }
    let mut plain = json!({ "role": role, "content": texts.join("\n") });
    if !thoughts.is_empty() {
        plain["reasoning_content"] = thoughts.join("\n").into();
    }
    if !calls.is_empty() {
        plain["tool_calls"] = calls.into();
    }
    out.push(plain);
    Ok(())
}

fn tool_use(name: &str, block: &Value) -> Result<Value, ApiError> {
    let (Some(id), Some(function)) = (block["id"].as_str(), block["name"].as_str()) else {
        return Err(ApiError::field(name, "a tool_use has no id or no name"));
    };
    let input = match &block["input"] {
        Value::Null => "{}".to_owned(),
        input => input.to_string(),
    };
    let function = json!({ "name": function, "arguments": input });
    Ok(json!({ "id": id, "type": "function", "function": function }))
}

fn tool_result(name: &str, block: &Value) -> Result<Value, ApiError> {
    let Some(id) = block["tool_use_id"].as_str() else {
        return Err(ApiError::field(name, "a tool_result has no tool_use_id"));
    };
    let content = match &block["content"] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks
            .iter()
            .map(|block| block_text(name, block))
            .collect::<Result<Vec<_>, _>>()?
            .join("\n"),
        other => {
            let reason = format!("expected a result, found {}", kind_of(other));
            return Err(ApiError::field(name, reason));
        }
    };
    Ok(json!({ "role": "tool", "tool_call_id": id, "content": content }))
}

fn tool(name: &str, value: &Value) -> Result<Value, ApiError> {
    let Value::Object(map) = value else {
        let reason = format!("expected an object, found {}", kind_of(value));
        return Err(ApiError::field(name, reason));
    };
    let f = Fields::new(map);
    match f.str("type")? {
        None | Some("custom") => {}
        Some(other) => {
            let reason = format!("a tool of type '{other}', but only functions can be called");
            return Err(ApiError::field(name, reason));
        }
    }
    let mut function = json!({ "name": map.get("name").cloned().unwrap_or_default() });
    for (from, to) in [
        ("description", "description"),
        ("input_schema", "parameters"),
    ] {
        if let Some(value) = f.get(from) {
            function[to] = value.clone();
        }
    }
    Ok(json!({ "type": "function", "function": function }))
}

fn choice(f: &Fields<'_>, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let Some(choice) = f.object("tool_choice")?.map(Fields::new) else {
        return Ok(());
    };
    let value = match choice.str("type")? {
        Some("any") => "required".into(),
        Some("tool") => json!({ "type": "function", "function": { "name": choice.str("name")? } }),
        Some(word) => word.into(),
        None => {
            return Err(ApiError::field(
                "tool_choice",
                "expected a type, found none",
            ));
        }
    };
    chat.insert("tool_choice".to_owned(), value);
    if choice.bool("disable_parallel_tool_use")? == Some(true) {
        chat.insert("parallel_tool_calls".to_owned(), false.into());
    }
    Ok(())
}

fn thinking(f: &Fields<'_>, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let Some(thinking) = f.object("thinking")?.map(Fields::new) else {
        return Ok(());
    };
    let on = match thinking.str("type")? {
        Some("enabled" | "adaptive") => true,
        Some("disabled") => false,
        _ => {
            return Err(ApiError::field(
                "thinking",
                "expected the type enabled or disabled",
            ));
        }
    };
    chat.insert("enable_thinking".to_owned(), on.into());
    Ok(())
}

/// `output_format`, or `output_config.format`, as `response_format`.
fn format(f: &Fields<'_>, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let inside = f.object("output_config")?.map(Fields::new);
    let inside = inside.map(|o| o.object("format")).transpose()?.flatten();
    if let Some(format) = f.object("output_format")?.or(inside) {
        chat.insert("response_format".to_owned(), format.clone().into());
    }
    Ok(())
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
    fn blocks_become_messages() {
        let chat = converted(json!({
            "system": [
                { "type": "text", "text": "x-anthropic-billing-header: cch=1;" },
                { "type": "text", "text": "Be brief.", "cache_control": { "type": "ephemeral" } },
            ],
            "messages": [
                { "role": "user", "content": "hi" },
                { "role": "assistant", "content": [
                    { "type": "thinking", "thinking": "hm", "signature": "" },
                    { "type": "text", "text": "calling" },
                    { "type": "tool_use", "id": "t1", "name": "f", "input": { "a": 1 } },
                ]},
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "t1", "content": [{ "type": "text", "text": "42" }] },
                    { "type": "text", "text": "and?" },
                ]},
            ],
            "tools": [{ "name": "f", "input_schema": { "type": "object" } }],
            "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
            "thinking": { "type": "enabled", "budget_tokens": 100 },
        }))
        .unwrap();
        let roles: Vec<&str> = chat["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["role"].as_str().unwrap())
            .collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "user"]);
        assert_eq!(chat["messages"][0]["content"], "Be brief.");
        assert_eq!(chat["messages"][2]["reasoning_content"], "hm");
        assert_eq!(
            chat["messages"][2]["tool_calls"][0]["function"]["arguments"],
            "{\"a\":1}"
        );
        assert_eq!(chat["tools"][0]["function"]["parameters"]["type"], "object");
        assert_eq!(
            (&chat["tool_choice"], &chat["parallel_tool_calls"]),
            (&json!("required"), &json!(false))
        );
        assert_eq!(chat["enable_thinking"], true);
        for wrong in [
            json!({}),
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image" }] }] }),
            json!({ "messages": [{ "role": "nobody", "content": "" }] }),
            json!({ "messages": [], "tools": [{ "type": "web_search_20250305", "name": "w" }] }),
            json!({ "messages": [], "system": 3 }),
        ] {
            assert!(converted(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
