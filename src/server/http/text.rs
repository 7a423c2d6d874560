//! Text, tokens and templates without computing anything.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Map, Value, json};

use super::gate::Whole;
use super::model::Loaded;
use super::reply::ok;
use super::state::App;
use super::status::Answered;
use crate::server::api::ApiError;
use crate::server::api::request::{Fields, prompt};
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// `/tokenize`.
pub async fn tokenize(State(app): State<Arc<App>>, Whole(body): Whole) -> Answered {
    Ok(ok(&app.convert(body, tokens_of).await?))
}

fn tokens_of(loaded: &Loaded, body: &Map<String, Value>) -> Result<Value, ApiError> {
    let f = Fields::new(body);
    let options = EncodeOptions {
        add_special: f.bool("add_special")?.unwrap_or(false),
        parse_special: f.bool("parse_special")?.unwrap_or(true),
    };
    let tokenizer = &loaded.info.tokenizer;
    let tokens = match f.get("content") {
        None => Vec::new(),
        Some(Value::String(text)) => tokenizer.encode(text, options),
        Some(mixed) if mixed.as_array().is_some_and(Vec::is_empty) => Vec::new(),
        Some(mixed) => {
            let all = prompt::read("content", mixed, tokenizer)?;
            all.into_iter().flat_map(|prompt| prompt.tokens).collect()
        }
    };
    if !f.bool("with_pieces")?.unwrap_or(false) {
        return Ok(json!({ "tokens": tokens }));
    }
    let with_piece = |&id: &u32| json!({ "id": id, "piece": piece(tokenizer, id) });
    Ok(json!({ "tokens": tokens.iter().map(with_piece).collect::<Vec<_>>() }))
}

/// The text of a token, or its bytes where they are none.
fn piece(tokenizer: &Tokenizer, id: u32) -> Value {
    let bytes = tokenizer.token_bytes(id);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.into(),
    }
}

/// `/detokenize`.
pub async fn detokenize(State(app): State<Arc<App>>, Whole(body): Whole) -> Answered {
    Ok(ok(&app.convert(body, text_of).await?))
}

fn text_of(loaded: &Loaded, body: &Map<String, Value>) -> Result<Value, ApiError> {
    let tokenizer = &loaded.info.tokenizer;
    let list = Fields::new(body).array("tokens")?.unwrap_or_default();
    let tokens = list
        .iter()
        .map(|value| prompt::token("tokens", value, tokenizer))
        .collect::<Result<Vec<u32>, _>>()?;
    let bytes = tokenizer.detokenize(&tokens, true);
    Ok(json!({ "content": String::from_utf8_lossy(&bytes) }))
}

/// `/apply-template`.
pub async fn apply_template(State(app): State<Arc<App>>, Whole(body): Whole) -> Answered {
    let rendered = |loaded: &Loaded, body: &Map<String, Value>| {
        let prompt = loaded.chat()?.render(&Fields::new(body))?;
        Ok(json!({ "prompt": prompt }))
    };
    Ok(ok(&app.convert(body, rendered).await?))
}
