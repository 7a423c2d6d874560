//! Conversations as templates see them.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::TemplateError;

/// What a template is rendered with.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChatRequest {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Functions the model may call, in the form the template expects (OpenAI's list of `{"type": "function", ..}`).
    pub tools: Option<Value>,
    /// End with the start of an answer.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`. They hide the standard ones of the same name.
    pub kwargs: Map<String, Value>,
}

/// One message. Fields that are absent are undefined in the template, except `content`, which is none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool` or what the template knows beside these.
    pub role: String,
    /// The text. Absent where an assistant only calls functions.
    #[serde(default)]
    pub content: Option<Content>,
    /// What the assistant thought before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Functions the assistant called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Name of the speaker, or of the function whose result this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The call whose result this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Fields only some templates know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message that is only text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: Some(Content::Text(content.into())),
            ..Self::default()
        }
    }
}

/// The text of a message, whole or in parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// The text.
    Text(String),
    /// Parts, of which only text is understood.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContentPart {
    /// `text`; others are refused.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A function call by the assistant.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ToolCall {
    /// Links the call to its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`.
    #[serde(rename = "type", default = "function_kind")]
    pub kind: String,
    /// What was called.
    pub function: FunctionCall,
}

fn function_kind() -> String {
    "function".to_owned()
}

/// Name and arguments of a call.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function.
    pub name: String,
    /// An object, or a string that holds one as JSON (OpenAI's form).
    pub arguments: Value,
}

impl Message {
    /// The message as templates written for Hugging Face's library expect it: text in one string, arguments as an
    /// object where they are one.
    pub(super) fn to_template(&self) -> Result<Value, TemplateError> {
        let mut plain = self.clone();
        if let Some(Content::Parts(parts)) = &self.content {
            plain.content = Some(Content::Text(join_parts(parts)?));
        }
        for call in plain.tool_calls.iter_mut().flatten() {
            let arguments = &mut call.function.arguments;
            if let Value::String(json) = arguments
                && let Ok(object @ Value::Object(_)) = serde_json::from_str(json)
            {
                *arguments = object;
            }
        }
        serde_json::to_value(plain).map_err(|error| TemplateError::Message {
            reason: error.to_string(),
        })
    }
}

fn join_parts(parts: &[ContentPart]) -> Result<String, TemplateError> {
    let texts: Vec<&str> = parts
        .iter()
        .map(|part| match (part.kind.as_str(), &part.text) {
            ("text", Some(text)) => Ok(text.as_str()),
            (kind, _) => Err(TemplateError::ContentPart {
                kind: kind.to_owned(),
            }),
        })
        .collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}
