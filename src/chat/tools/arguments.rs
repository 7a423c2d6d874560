//! What the functions of a request say about their arguments, for forms that write all values as text.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use serde_json::Value;

/// How the text of a value is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// As a text.
    Text,
    /// As JSON, and as a text if it is none.
    Json,
    /// Unknown: like JSON, but quoted text stays a text.
    #[default]
    Guess,
}

/// Types of the arguments of all functions.
#[derive(Debug, Clone, Default)]
pub struct ArgumentTypes {
    kinds: HashMap<String, HashMap<String, Kind>>,
}

impl ArgumentTypes {
    /// Types from the `tools` of a request: OpenAI's list of `{"type": "function", "function": {..}}`, the functions
    /// bare, or Anthropic's with `input_schema`. What is not understood is left out.
    pub fn from_tools(tools: &Value) -> Self {
        let mut kinds = HashMap::new();
        for tool in tools.as_array().into_iter().flatten() {
            let function = tool.get("function").unwrap_or(tool);
            let Some(name) = function.get("name").and_then(Value::as_str) else {
                continue;
            };
            let schema = function
                .get("parameters")
                .or_else(|| function.get("input_schema"));
            let properties = schema
                .and_then(|schema| schema.get("properties"))
                .and_then(Value::as_object);
            let known = properties
                .into_iter()
                .flatten()
                .map(|(key, schema)| (key.clone(), kind_of(schema)));
            kinds.insert(name.to_owned(), known.collect());
        }
        Self { kinds }
    }

    pub(super) fn kind(&self, function: &str, key: &str) -> Kind {
        self.kinds
            .get(function)
            .and_then(|keys| keys.get(key))
            .copied()
            .unwrap_or_default()
    }
}

fn kind_of(schema: &Value) -> Kind {
    match schema.get("type") {
        Some(Value::String(kind)) if kind == "string" => Kind::Text,
        Some(Value::String(_)) => Kind::Json,
        Some(Value::Array(kinds)) if !kinds.iter().any(|kind| kind == "string") => Kind::Json,
        Some(_) => Kind::Guess,
        None => match schema.get("enum").and_then(Value::as_array) {
            Some(values) if values.iter().all(Value::is_string) => Kind::Text,
            _ => Kind::Guess,
        },
    }
}

/// The JSON of a value that was written as text.
pub(super) fn value_json(text: &str, kind: Kind) -> String {
    let trimmed = text.trim();
    let python = match trimmed {
        "True" => Some("true"),
        "False" => Some("false"),
        "None" => Some("null"),
        _ => None,
    };
    let json = || match serde_json::from_str::<Value>(trimmed) {
        Ok(Value::String(_)) if kind == Kind::Guess => None,
        Ok(_) => Some(trimmed.to_owned()),
        Err(_) => None,
    };
    let read = match kind {
        Kind::Text => None,
        Kind::Json => json().or(python.map(str::to_owned)),
        Kind::Guess => json(),
    };
    read.unwrap_or_else(|| format!("\"{}\"", escaped(text)))
}

/// A text as it stands between quotation marks in JSON.
pub(super) fn escaped(text: &str) -> String {
    let quoted = Value::String(text.to_owned()).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}
