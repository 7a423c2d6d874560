//! From a converted request to its answer, whole or as a stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Response;
use tokio::sync::mpsc;

use super::flow::Flow;
use super::model::Loaded;
use super::reply;
use super::state::{App, Caller};
use super::stream::{Reader, stream};
use crate::constrain::{Constrainer, Start};
use crate::server::api::ApiError;
use crate::server::api::request::Options;
use crate::server::api::request::chat::Reading;
use crate::server::api::request::prompt::Prompt;
use crate::server::api::response::{Answer, Form};
use crate::server::protocol::{Event, Generate};

/// How long an answer may stay an ordinary one, so that an early error has its status code. After that a stream begins.
const PATIENCE: Duration = Duration::from_millis(500);

/// A request for text, ready to be computed.
pub struct Job {
    /// Its prompts, at least one.
    pub prompts: Vec<Prompt>,
    /// What all requests have.
    pub options: Options,
    /// How the text is taken apart, if it is.
    pub reading: Option<Reading>,
    /// What may be said.
    pub constrainer: Option<Box<dyn Constrainer>>,
    /// Whether control tokens become text.
    pub special: bool,
    /// Form of the answer.
    pub form: Box<dyn Form>,
}

impl Job {
    /// Makes the constraint of a request.
    ///
    /// # Errors
    /// The grammar or schema is wrong.
    pub fn constrainer(
        loaded: &Loaded,
        options: &Options,
        start: Start,
    ) -> Result<Option<Box<dyn Constrainer>>, ApiError> {
        let spec = options.constraint.as_ref();
        spec.map(|spec| loaded.constrainer(spec, start)).transpose()
    }
}

/// Computes a job and answers it.
///
/// # Errors
/// Whatever goes wrong before the answer begins.
pub async fn run(app: &App, caller: &Caller, job: Job) -> Result<Response<Body>, ApiError> {
    let began = Instant::now();
    let loaded = app.loaded().await?;
    let Job {
        prompts,
        options,
        reading,
        constrainer,
        special,
        form,
    } = job;
    let n_ctx = loaded.info.n_ctx as usize;
    if let Some(long) = prompts.iter().find(|prompt| prompt.tokens.len() >= n_ctx) {
        let n_prompt = long.tokens.len();
        return Err(
            crate::server::protocol::RequestError::PromptTooLong { n_prompt, n_ctx }.into(),
        );
    }
    let answers = answers(&loaded, &prompts, options.n, reading.as_ref());
    let mut commands = Vec::with_capacity(prompts.len());
    let mut constrainer = constrainer;
    let n = prompts.len();
    for (i, prompt) in prompts.into_iter().enumerate() {
        let own = match i + 1 == n {
            true => constrainer.take(),
            false => constrainer.as_ref().map(|c| c.fork()),
        };
        commands.push(command(caller, &options, special, prompt, own));
    }
    let flow = Flow::start(app.engine.clone(), commands, loaded.info.n_slots as usize)?;
    let reader = Reader::new(
        flow,
        answers,
        form,
        options.n,
        Arc::clone(&caller.id),
        began,
    );
    if options.stream {
        let ping = options.ping.unwrap_or(app.config.ping);
        return streamed(reader, ping).await;
    }
    whole(reader).await
}

fn answers(loaded: &Loaded, prompts: &[Prompt], n: u32, reading: Option<&Reading>) -> Vec<Answer> {
    let mut all = Vec::new();
    for prompt in prompts {
        let text: Arc<str> = prompt.text.as_str().into();
        for choice in 0..n {
            let tokenizer = Arc::clone(&loaded.info.tokenizer);
            let (text, n_prompt) = (Arc::clone(&text), prompt.tokens.len());
            all.push(Answer::new(
                all.len(),
                text,
                n_prompt,
                choice == 0,
                tokenizer,
                reading,
            ));
        }
    }
    all
}

fn command(
    caller: &Caller,
    options: &Options,
    special: bool,
    prompt: Prompt,
    constrainer: Option<Box<dyn Constrainer>>,
) -> (Box<Generate>, mpsc::UnboundedReceiver<Event>) {
    let (events, receiver) = mpsc::unbounded_channel();
    let generate = Generate {
        id: caller.id.to_string(),
        scope: caller.scope,
        prompt: prompt.tokens,
        boundaries: prompt.boundaries,
        sampling: options.sampling.clone(),
        n: options.n,
        n_predict: options.n_predict,
        stop: options.stop.clone(),
        special,
        constrainer,
        speculation: options.speculation.clone(),
        logprobs: options.logprobs,
        post_sampling: options.post_sampling,
        cache_prompt: options.cache_prompt,
        slot: options.slot,
        progress: options.progress,
        max_time: options.max_time,
        events,
    };
    (Box::new(generate), receiver)
}

async fn whole(mut reader: Reader) -> Result<Response<Body>, ApiError> {
    while let Some((prompt, event)) = reader.flow.next().await {
        reader.take(prompt, event)?;
    }
    Ok(reply::ok(&reader.whole()))
}

async fn streamed(mut reader: Reader, ping: Duration) -> Result<Response<Body>, ApiError> {
    let mut ready = VecDeque::new();
    match tokio::time::timeout(PATIENCE, reader.flow.next()).await {
        Ok(Some((prompt, event))) => ready.extend(reader.take(prompt, event)?),
        Ok(None) => return Err(ApiError::internal()),
        Err(_) => {}
    }
    Ok(stream(reader, ready, ping))
}
