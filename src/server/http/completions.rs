//! Completions of texts.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use serde_json::{Map, Value};

use super::gate::Whole;
use super::generate::{Job, run};
use super::model::Loaded;
use super::state::{App, Caller};
use super::status::Answered;
use crate::constrain::Start;
use crate::server::api::ApiError;
use crate::server::api::request::{Fields, Options, prompt};
use crate::server::api::response::completion::CompletionForm;
use crate::server::api::response::native::{NativeForm, settings};

/// llama-server's `/completion`.
pub async fn native(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Answered {
    let job = app.convert(body, native_job).await?;
    run(&app, &caller, job).await
}

/// OpenAI's `/v1/completions`.
pub async fn openai(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Answered {
    let job = app.convert(body, openai_job).await?;
    run(&app, &caller, job).await
}

fn native_job(loaded: &Loaded, body: &Map<String, Value>) -> Result<Job, ApiError> {
    let list = matches!(body.get("prompt"), Some(Value::Array(list)) if list.iter().all(|v| !v.is_number()));
    job(loaded, body, |options| {
        let name = loaded.name(options.model.as_deref());
        Box::new(NativeForm::new(&name, options, settings(options), list))
    })
}

fn openai_job(loaded: &Loaded, body: &Map<String, Value>) -> Result<Job, ApiError> {
    job(loaded, body, |options| {
        let name = loaded.name(options.model.as_deref());
        Box::new(CompletionForm::new(&name, options))
    })
}

fn job(
    loaded: &Loaded,
    body: &Map<String, Value>,
    form: impl FnOnce(&Options) -> Box<dyn crate::server::api::response::Form>,
) -> Result<Job, ApiError> {
    let f = Fields::new(body);
    let tokenizer = &loaded.info.tokenizer;
    let Some(value) = f.get("prompt") else {
        return Err(ApiError::field("prompt", "is required"));
    };
    let prompts = prompt::read("prompt", value, tokenizer)?;
    let options = Options::read(&f, &loaded.defaults, tokenizer)?;
    let constrainer = Job::constrainer(loaded, &options, Start::Now)?;
    Ok(Job {
        prompts,
        reading: None,
        constrainer,
        special: f.bool("special")?.unwrap_or(false),
        form: form(&options),
        options,
    })
}
