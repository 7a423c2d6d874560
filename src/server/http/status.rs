//! What the server is and does: health, models, settings, counters.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Response};
use serde_json::{Map, Value, json};

use super::model::Loaded;
use super::reply::ok;
use super::state::App;
use crate::server::api::request::{Fields, Options};
use crate::server::api::response::{ids, native};
use crate::server::api::{ApiError, ErrorKind};
use crate::server::metrics::{CONTENT_TYPE as METRICS_TYPE, PLAIN_CONTENT_TYPE};

/// What handlers answer.
pub type Answered = Result<Response<Body>, ApiError>;

/// `/health`.
pub async fn health(State(app): State<Arc<App>>) -> Answered {
    app.loaded().await?;
    Ok(ok(&json!({ "status": "ok" })))
}

/// llama.cpp's number of a vocabulary's kind.
fn vocab_type(loaded: &Loaded) -> u8 {
    match loaded.info.tokenizer.kind() {
        "SPM" => 1,
        _ => 2,
    }
}

fn model_json(app: &App, loaded: &Loaded) -> Value {
    let since = app.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    let info = &loaded.info;
    json!({
        "id": info.name,
        "object": "model",
        "created": since.as_secs(),
        "owned_by": "oxling",
        "aliases": [info.name],
        "tags": [],
        "meta": {
            "vocab_type": vocab_type(loaded),
            "n_vocab": info.n_vocab,
            "n_ctx": info.n_ctx,
            "n_ctx_train": info.n_ctx_train,
            "n_embd": info.n_embd,
            "n_params": info.n_params,
            "size": info.n_bytes,
            "architecture": info.architecture,
        },
    })
}

/// `/v1/models`.
pub async fn models(State(app): State<Arc<App>>) -> Answered {
    let loaded = app.loaded().await?;
    Ok(ok(
        &json!({ "object": "list", "data": [model_json(&app, &loaded)] }),
    ))
}

/// `/v1/models/{id}`.
pub async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answered {
    let loaded = app.loaded().await?;
    if id != loaded.info.name {
        let reason = format!("the model is '{}'", loaded.info.name);
        return Err(ApiError::new(ErrorKind::NotFound, reason));
    }
    Ok(ok(&model_json(&app, &loaded)))
}

/// `/props`.
pub async fn props(State(app): State<Arc<App>>) -> Answered {
    let loaded = app.loaded().await?;
    let info = &loaded.info;
    let options = Options::read(&Fields::new(&Map::new()), &loaded.defaults, &info.tokenizer)?;
    let text = |id: Option<u32>| id.map_or("", |id| info.tokenizer.token_text(id));
    let chat = loaded.chat().ok();
    Ok(ok(&json!({
        "default_generation_settings": {
            "id": 0,
            "n_ctx": info.n_ctx,
            "speculative": info.speculation.draft.name() != "none",
            "is_processing": false,
            "params": native::settings(&options),
        },
        "total_slots": info.n_slots,
        "model_path": info.path,
        "model_alias": info.name,
        "modalities": { "vision": false, "audio": false },
        "chat_template": chat.map(|chat| chat.template.source()),
        "chat_template_caps": {
            "supports_system_role": chat.is_some_and(|c| c.template.supports_system()),
            "supports_thinking": chat.is_some_and(|c| c.template.supports_thinking()),
        },
        "bos_token": text(info.tokenizer.bos()),
        "eos_token": text(info.tokenizer.eos()),
        "build_info": ids::fingerprint(),
        "endpoint_slots": app.config.slots,
        "endpoint_props": app.config.props,
        "endpoint_metrics": app.config.metrics,
        "is_sleeping": false,
    })))
}

/// `POST /props`.
pub async fn set_props(State(app): State<Arc<App>>) -> Answered {
    if !app.config.props {
        return Err(ApiError::not_supported(
            "This server does not support changing properties: start it with --props",
        ));
    }
    Ok(ok(&json!({ "success": true })))
}

/// Whether a client takes plain text, and says nothing of OpenMetrics.
fn wants_plain(headers: &HeaderMap) -> bool {
    let accepts = |kind: &str| {
        let mut values = headers.get_all(ACCEPT).iter();
        values.any(|value| value.to_str().is_ok_and(|text| text.contains(kind)))
    };
    accepts("text/plain") && !accepts("openmetrics-text")
}

/// `/metrics`.
pub async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Answered {
    if !app.config.metrics {
        return Err(ApiError::not_supported(
            "This server does not support metrics: start it with --metrics",
        ));
    }
    let metrics = app.engine.metrics();
    let (text, format) = match wants_plain(&headers) {
        true => (metrics.encode_plain(), PLAIN_CONTENT_TYPE),
        false => (metrics.encode(), METRICS_TYPE),
    };
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format));
    let since = app.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    headers.insert("process-start-time-unix", since.as_secs().into());
    Ok(response)
}
