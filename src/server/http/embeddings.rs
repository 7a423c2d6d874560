//! Embeddings of texts.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::gate::Whole;
use super::reply::ok;
use super::state::{App, Caller};
use super::status::Answered;
use crate::server::api::ApiError;
use crate::server::api::request::Fields;
use crate::server::api::request::prompt::{self, Prompt};
use crate::server::protocol::{Command, Embed, RequestError};

/// A request for embeddings.
struct Wanted {
    prompts: Vec<Prompt>,
    base64: bool,
    normalise: bool,
    model: String,
}

/// OpenAI's `/v1/embeddings`.
pub async fn openai(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Answered {
    let wanted = read(&app, body).await?;
    let n_tokens: usize = wanted.prompts.iter().map(|p| p.tokens.len()).sum();
    let vectors = compute(&app, &caller, &wanted).await?;
    let item = |(i, vector): (usize, Vec<f32>)| {
        let embedding = match wanted.base64 {
            true => base64(vector.iter().flat_map(|v| v.to_le_bytes())).into(),
            false => Value::from(vector),
        };
        json!({ "object": "embedding", "index": i, "embedding": embedding })
    };
    Ok(ok(&json!({
        "object": "list",
        "data": vectors.into_iter().enumerate().map(item).collect::<Vec<_>>(),
        "model": wanted.model,
        "usage": { "prompt_tokens": n_tokens, "total_tokens": n_tokens },
    })))
}

/// llama-server's `/embedding`.
pub async fn native(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Answered {
    let wanted = read(&app, body).await?;
    let vectors = compute(&app, &caller, &wanted).await?;
    let item = |(i, vector)| json!({ "index": i, "embedding": [vector] });
    let all = vectors.into_iter().enumerate().map(item);
    Ok(ok(&all.collect::<Vec<_>>().into()))
}

async fn read(app: &App, body: Bytes) -> Result<Wanted, ApiError> {
    app.convert(body, |loaded, body| {
        let f = Fields::new(body);
        let Some((name, value)) = f.first(&["input", "content"]) else {
            return Err(ApiError::field("input", "is required"));
        };
        let base64 = match f.str("encoding_format")? {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                let reason = format!("expected float or base64, found '{other}'");
                return Err(ApiError::field("encoding_format", reason));
            }
        };
        let n_embd = i64::from(loaded.info.n_embd);
        if let Some(n) = f.int("dimensions")?.filter(|&n| n != n_embd) {
            let reason = format!("the model's embeddings have {n_embd} values, found {n}");
            return Err(ApiError::field("dimensions", reason));
        }
        Ok(Wanted {
            prompts: prompt::read(name, value, &loaded.info.tokenizer)?,
            base64,
            normalise: f.int("embd_normalize")?.is_none_or(|kind| kind >= 0),
            model: loaded.name(f.str("model")?),
        })
    })
    .await
}

async fn compute(app: &App, caller: &Caller, wanted: &Wanted) -> Result<Vec<Vec<f32>>, ApiError> {
    let n_ctx = app.loaded().await?.info.n_ctx as usize;
    let mut vectors = Vec::with_capacity(wanted.prompts.len());
    for prompt in &wanted.prompts {
        let n_prompt = prompt.tokens.len();
        if n_prompt > n_ctx {
            return Err(RequestError::PromptTooLong { n_prompt, n_ctx }.into());
        }
        let (reply, answer) = oneshot::channel();
        app.engine.submit(Command::Embed(Box::new(Embed {
            id: caller.id.to_string(),
            prompt: prompt.tokens.clone(),
            reply,
        })))?;
        let gone = |_| ApiError::from(RequestError::Internal("the engine has ended".to_owned()));
        let mut vector = answer.await.map_err(gone)??;
        if wanted.normalise {
            normalise(&mut vector);
        }
        vectors.push(vector);
    }
    Ok(vectors)
}

fn normalise(vector: &mut [f32]) {
    let length = vector
        .iter()
        .map(|v| f64::from(*v).powi(2))
        .sum::<f64>()
        .sqrt();
    if length > 0.0 {
        vector
            .iter_mut()
            .for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
}

/// The usual alphabet, padded.
fn base64(bytes: impl Iterator<Item = u8>) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = bytes.collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = (at(0) << 16) | (at(1) << 8) | at(2);
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_usual_one() {
        for (text, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(text.bytes()), coded);
        }
        assert_eq!(base64([0xFF, 0xFE, 0xFD].into_iter()), "//79");
    }
}
