//! Messages, tools and the choice among them, as OpenAI's chat completions have them.

use serde_json::{Map, Value, json};

use super::fields::{Fields, kind_of};
use crate::chat::{Content, ContentPart, Message};
use crate::constrain::ToolChoice;
use crate::server::api::ApiError;

/// Most messages of one conversation.
const MOST_MESSAGES: usize = 10_000;

/// The messages of a conversation, at least one.
///
/// # Errors
/// The field is absent or empty, or a message is not one.
pub fn messages(f: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let Some(list) = f.array("messages")? else {
        return Err(ApiError::field("messages", "is required"));
    };
    if list.is_empty() || list.len() > MOST_MESSAGES {
        let found = list.len();
        let reason = format!("expected 1 to {MOST_MESSAGES} messages, found {found}");
        return Err(ApiError::field("messages", reason));
    }
    list.iter()
        .enumerate()
        .map(|(i, value)| message(&format!("messages[{i}]"), value))
        .collect()
}

fn message(name: &str, value: &Value) -> Result<Message, ApiError> {
    let Value::Object(map) = value else {
        let reason = format!("expected an object, found {}", kind_of(value));
        return Err(ApiError::field(name, reason));
    };
    let mut map: Map<String, Value> = map.clone();
    map.retain(|_, value| !value.is_null());
    if let Some(thought) = map.remove("reasoning")
        && thought.is_string()
    {
        map.entry("reasoning_content").or_insert(thought);
    }
    if map
        .get("tool_calls")
        .and_then(Value::as_array)
        .is_some_and(Vec::is_empty)
    {
        map.remove("tool_calls");
    }
    let mut message: Message =
        serde_json::from_value(Value::Object(map)).map_err(|e| ApiError::field(name, e))?;
    if message.role == "developer" {
        "system".clone_into(&mut message.role);
    }
    if let Some(Content::Parts(parts)) = &mut message.content {
        for part in parts {
            plain_part(name, part)?;
        }
    }
    let is_empty = message.content.is_none() && message.tool_calls.is_none();
    if is_empty && message.reasoning_content.is_none() {
        if message.role != "assistant" {
            return Err(ApiError::field(name, "expected content, found none"));
        }
        message.content = Some(Content::Text(String::new()));
    }
    Ok(message)
}

fn plain_part(name: &str, part: &mut ContentPart) -> Result<(), ApiError> {
    match part.kind.as_str() {
        "text" | "input_text" | "output_text" | "refusal" if part.text.is_some() => {
            "text".clone_into(&mut part.kind);
            Ok(())
        }
        "text" => Err(ApiError::field(name, "a text part has no text")),
        other => Err(ApiError::field(
            name,
            format!("a part of type '{other}', but this model reads text only"),
        )),
    }
}

/// Text of a message's content.
pub fn text_of(message: &Message) -> String {
    match &message.content {
        None => String::new(),
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Parts(parts)) => parts
            .iter()
            .filter_map(|part| part.text.as_deref())
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

/// Functions the model may call, in OpenAI's nested form.
///
/// # Errors
/// A tool is no function, or has no name.
pub fn tools(f: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let list = f.array("tools")?.unwrap_or_default();
    list.iter()
        .enumerate()
        .map(|(i, value)| tool(&format!("tools[{i}]"), value))
        .collect()
}

fn tool(name: &str, value: &Value) -> Result<Value, ApiError> {
    let Value::Object(map) = value else {
        let reason = format!("expected an object, found {}", kind_of(value));
        return Err(ApiError::field(name, reason));
    };
    let f = Fields::new(map);
    match f.str("type")? {
        None | Some("function" | "custom") => {}
        Some(other) => {
            let reason = format!("a tool of type '{other}', but only functions can be called");
            return Err(ApiError::field(name, reason));
        }
    }
    // Responses has the function's fields beside the type.
    let function = f.object("function")?.unwrap_or(map);
    let f = Fields::new(function);
    let Some(title) = f.str("name")?.filter(|title| !title.is_empty()) else {
        return Err(ApiError::field(name, "the function has no name"));
    };
    let parameters = f.object("parameters")?.cloned().map(Value::Object);
    let mut plain = json!({ "name": title });
    if let Some(text) = f.str("description")? {
        plain["description"] = text.into();
    }
    plain["parameters"] =
        parameters.unwrap_or_else(|| json!({ "type": "object", "properties": {} }));
    if let Some(strict) = f.bool("strict")? {
        plain["strict"] = strict.into();
    }
    Ok(json!({ "type": "function", "function": plain }))
}

/// Name of a tool in nested form.
fn tool_name(tool: &Value) -> &str {
    tool["function"]["name"].as_str().unwrap_or_default()
}

/// Whether and which functions are to be called; `None` for none at all.
///
/// # Errors
/// An unknown choice, or a function that is not among the tools.
pub fn tool_choice(f: &Fields<'_>, tools: &[Value]) -> Result<Option<ToolChoice>, ApiError> {
    const NAME: &str = "tool_choice";
    let choice = match f.get(NAME) {
        None => ToolChoice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => return Ok(None),
            "required" | "any" => ToolChoice::Required,
            other => {
                let reason =
                    format!("expected auto, none, required or a function, found '{other}'");
                return Err(ApiError::field(NAME, reason));
            }
        },
        Some(Value::Object(map)) => {
            let inner = Fields::new(map).object("function")?.unwrap_or(map);
            match Fields::new(inner).str("name")? {
                Some(name) => ToolChoice::Named(name.to_owned()),
                None => return Err(ApiError::field(NAME, "the function has no name")),
            }
        }
        Some(other) => {
            let reason = format!("expected a string or an object, found {}", kind_of(other));
            return Err(ApiError::field(NAME, reason));
        }
    };
    match &choice {
        ToolChoice::Required | ToolChoice::Named(_) if tools.is_empty() => {
            Err(ApiError::field(NAME, "needs tools, found none"))
        }
        ToolChoice::Named(name) if !tools.iter().any(|tool| tool_name(tool) == name) => {
            Err(ApiError::field(NAME, format!("no tool is named '{name}'")))
        }
        _ => Ok(Some(choice)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => unreachable!(),
        }
    }

    #[test]
    fn messages_are_taken_as_clients_send_them() {
        let map = object(json!({ "messages": [
            { "role": "developer", "content": [{ "type": "input_text", "text": "a" }, { "type": "text", "text": "b" }] },
            { "role": "user", "content": "hi", "name": null },
            { "role": "assistant", "content": null, "reasoning": "hm", "refusal": null,
              "tool_calls": [{ "id": "1", "type": "function", "function": { "name": "f", "arguments": "{}" } }] },
            { "role": "tool", "tool_call_id": "1", "content": "ok" },
            { "role": "assistant", "content": null, "tool_calls": [] },
        ]}));
        let found = messages(&Fields::new(&map)).unwrap();
        assert_eq!(
            (found[0].role.as_str(), text_of(&found[0]).as_str()),
            ("system", "a\nb")
        );
        assert_eq!(found[2].reasoning_content.as_deref(), Some("hm"));
        assert_eq!(found[2].tool_calls.as_ref().unwrap().len(), 1);
        assert_eq!(text_of(&found[4]), "");
        for wrong in [
            json!({}),
            json!({ "messages": [] }),
            json!({ "messages": "hi" }),
            json!({ "messages": ["hi"] }),
            json!({ "messages": [{ "content": "x" }] }),
            json!({ "messages": [{ "role": "user" }] }),
            json!({ "messages": [{ "role": "user", "content": 3 }] }),
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            json!({ "messages": [{ "role": "assistant", "tool_calls": [{ "function": {} }] }] }),
        ] {
            let map = object(wrong);
            assert!(messages(&Fields::new(&map)).is_err(), "{map:?}");
        }
    }

    #[test]
    fn tools_have_one_form_and_choices_name_them() {
        let map = object(json!({ "tools": [
            { "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } },
            { "type": "function", "name": "g", "description": "d" },
        ], "tool_choice": { "type": "function", "name": "g" } }));
        let f = Fields::new(&map);
        let list = tools(&f).unwrap();
        assert_eq!(list.iter().map(tool_name).collect::<Vec<_>>(), ["f", "g"]);
        assert_eq!(list[1]["function"]["parameters"]["type"], "object");
        assert!(matches!(tool_choice(&f, &list), Ok(Some(ToolChoice::Named(name))) if name == "g"));
        for wrong in [
            json!("maybe"),
            json!(3),
            json!({ "function": { "name": "h" } }),
            json!({}),
        ] {
            let map = object(json!({ "tool_choice": wrong }));
            assert!(tool_choice(&Fields::new(&map), &list).is_err(), "{map:?}");
        }
        let map = object(json!({ "tool_choice": "required" }));
        assert!(tool_choice(&Fields::new(&map), &[]).is_err());
        for wrong in [
            json!([3]),
            json!([{ "type": "web_search" }]),
            json!([{ "function": {} }]),
        ] {
            let map = object(json!({ "tools": wrong }));
            assert!(tools(&Fields::new(&map)).is_err(), "{map:?}");
        }
    }
}
