//! Prompts of completions: texts, token ids, mixtures of both, and lists of these.

use serde_json::Value;

use super::fields::kind_of;
use crate::server::api::ApiError;
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// Most prompts in one request.
const MOST_PROMPTS: usize = 128;

/// A prompt ready to be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens, at least one.
    pub tokens: Vec<u32>,
    /// Its text.
    pub text: String,
    /// Positions in `tokens` where a message ends.
    pub boundaries: Vec<usize>,
}

/// All prompts of a field.
///
/// # Errors
/// It is of another type, a token does not exist, or a prompt is empty.
pub fn read(name: &str, value: &Value, tokenizer: &Tokenizer) -> Result<Vec<Prompt>, ApiError> {
    let items: Vec<&Value> = match value {
        Value::Array(list) if is_list_of_prompts(list) => list.iter().collect(),
        one => vec![one],
    };
    if items.len() > MOST_PROMPTS {
        let many = format!("{} prompts, at most {MOST_PROMPTS} are taken", items.len());
        return Err(ApiError::field(name, many));
    }
    items
        .into_iter()
        .map(|item| read_one(name, item, tokenizer))
        .collect()
}

/// A list with a number in it is one prompt of tokens and texts.
fn is_list_of_prompts(list: &[Value]) -> bool {
    !list.is_empty() && !list.iter().any(Value::is_number)
}

fn read_one(name: &str, value: &Value, tokenizer: &Tokenizer) -> Result<Prompt, ApiError> {
    let mut tokens = Vec::new();
    match value {
        Value::String(text) => tokens = encode(text, tokenizer, true),
        Value::Array(parts) => {
            for (i, part) in parts.iter().enumerate() {
                match part {
                    Value::String(text) => tokens.extend(encode(text, tokenizer, i == 0)),
                    Value::Number(_) => tokens.push(token(name, part, tokenizer)?),
                    other => return Err(wrong(name, other)),
                }
            }
        }
        Value::Object(map) => match map.get("prompt_string") {
            Some(Value::String(text)) => {
                let media = map.get("multimodal_data").and_then(Value::as_array);
                if media.is_some_and(|media| !media.is_empty()) {
                    return Err(ApiError::field(name, "this model reads text only"));
                }
                tokens = encode(text, tokenizer, true);
            }
            _ => {
                return Err(ApiError::field(
                    name,
                    "expected prompt_string in the object",
                ));
            }
        },
        other => return Err(wrong(name, other)),
    }
    if tokens.is_empty() {
        return Err(ApiError::field(name, "the prompt has no tokens"));
    }
    let text = String::from_utf8_lossy(&tokenizer.detokenize(&tokens, true)).into_owned();
    Ok(Prompt {
        tokens,
        text,
        boundaries: Vec::new(),
    })
}

fn encode(text: &str, tokenizer: &Tokenizer, add_special: bool) -> Vec<u32> {
    let options = EncodeOptions {
        add_special,
        parse_special: true,
    };
    tokenizer.encode(text, options)
}

/// A token id that exists.
pub fn token(name: &str, value: &Value, tokenizer: &Tokenizer) -> Result<u32, ApiError> {
    value
        .as_u64()
        .and_then(|id| u32::try_from(id).ok())
        .filter(|&id| (id as usize) < tokenizer.n_vocab())
        .ok_or_else(|| {
            let n = tokenizer.n_vocab();
            ApiError::field(name, format!("{value} is none of the model's {n} tokens"))
        })
}

fn wrong(name: &str, found: &Value) -> ApiError {
    let found = kind_of(found);
    ApiError::field(
        name,
        format!("expected a string, token ids, or a list of these, found {found}"),
    )
}
