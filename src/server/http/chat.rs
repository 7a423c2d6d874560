//! Conversations: OpenAI's chat completions and Responses, Anthropic's messages.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::gate::Whole;
use super::generate::{Job, run};
use super::model::Loaded;
use super::reply::ok;
use super::state::{App, Caller};
use super::status::Answered;
use crate::server::api::ApiError;
use crate::server::api::request::{Fields, Options, anthropic, responses as responses_request};
use crate::server::api::response::Form;
use crate::server::api::response::anthropic::MessagesForm;
use crate::server::api::response::chat::ChatForm;
use crate::server::api::response::responses::ResponsesForm;

type Body = Map<String, Value>;
type ToChat = fn(&Body) -> Result<Body, ApiError>;

/// `/v1/chat/completions`.
pub async fn completions(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Answered {
    let job = app
        .convert(body, |loaded, body| {
            job(loaded, body, |name, options| {
                Box::new(ChatForm::new(name, options))
            })
        })
        .await?;
    run(&app, &caller, job).await
}

/// `/v1/responses`.
pub async fn responses(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Answered {
    let job = app
        .convert(body, |loaded, body| {
            let chat = responses_request::to_chat(body)?;
            single(loaded, &chat, |name, options| {
                Box::new(ResponsesForm::new(name, body, options))
            })
        })
        .await?;
    run(&app, &caller, job).await
}

/// `/v1/messages`.
pub async fn messages(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Answered {
    let job = app
        .convert(body, |loaded, body| {
            let chat = anthropic::to_chat(body)?;
            single(loaded, &chat, |name, _| Box::new(MessagesForm::new(name)))
        })
        .await?;
    run(&app, &caller, job).await
}

/// `/v1/chat/completions/input_tokens`.
pub async fn input_tokens(State(app): State<Arc<App>>, Whole(body): Whole) -> Answered {
    let n = count(&app, body, |body| Ok(body.clone())).await?;
    Ok(ok(&input_tokens_json(n)))
}

/// `/v1/responses/input_tokens`.
pub async fn responses_tokens(State(app): State<Arc<App>>, Whole(body): Whole) -> Answered {
    let n = count(&app, body, responses_request::to_chat).await?;
    Ok(ok(&input_tokens_json(n)))
}

/// `/v1/messages/count_tokens`.
pub async fn count_tokens(State(app): State<Arc<App>>, Whole(body): Whole) -> Answered {
    let n = count(&app, body, anthropic::to_chat).await?;
    Ok(ok(&json!({ "input_tokens": n })))
}

fn input_tokens_json(n: usize) -> Value {
    json!({ "object": "response.input_tokens", "input_tokens": n })
}

async fn count(app: &App, body: axum::body::Bytes, to_chat: ToChat) -> Result<usize, ApiError> {
    app.convert(body, move |loaded, body| {
        let chat = to_chat(body)?;
        let call = loaded.chat()?.read(&Fields::new(&chat))?;
        Ok(call.prompt.tokens.len())
    })
    .await
}

fn job(
    loaded: &Loaded,
    body: &Body,
    form: impl FnOnce(&str, &Options) -> Box<dyn Form>,
) -> Result<Job, ApiError> {
    let call = loaded.chat()?.read(&Fields::new(body))?;
    let options = call.options;
    let constrainer = Job::constrainer(loaded, &options, call.start)?;
    let name = loaded.name(options.model.as_deref());
    Ok(Job {
        prompts: vec![call.prompt],
        reading: Some(call.reading),
        constrainer,
        special: loaded.shows_control(),
        form: form(&name, &options),
        options,
    })
}

/// A job of a form that has one answer only.
fn single(
    loaded: &Loaded,
    body: &Body,
    form: impl FnOnce(&str, &Options) -> Box<dyn Form>,
) -> Result<Job, ApiError> {
    let mut job = job(loaded, body, form)?;
    job.options.n = 1;
    Ok(job)
}
