//! What all requests for text have in common.

use std::time::Duration;

use serde_json::Value;

use super::fields::{Fields, float_of, int_of};
use super::{constraint, sampling};
use crate::constrain::GrammarSpec;
use crate::engine::sampling::SamplingParams;
use crate::engine::speculation::SpeculationParams;
use crate::server::api::ApiError;
use crate::tokenizer::Tokenizer;

/// Most stop texts of one request.
const MOST_STOPS: usize = 256;
/// Most alternatives reported with a token.
const MOST_LOGPROBS: i64 = 1024;

/// What a request gets if it does not say otherwise.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// Sampling parameters.
    pub sampling: SamplingParams,
    /// Most tokens per answer; `None`: until the model ends it or the context is full.
    pub n_predict: Option<u32>,
    /// Most choices per request.
    pub n_max: u32,
    /// How guesses are made where a request changes only a part of it.
    pub speculation: SpeculationParams,
}

/// Fields that every request for text knows.
#[derive(Debug, Clone)]
pub struct Options {
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Choices per prompt.
    pub n: u32,
    /// Most tokens per choice.
    pub n_predict: Option<u32>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Answer as a stream of events.
    pub stream: bool,
    /// End an OpenAI stream with the usage.
    pub include_usage: bool,
    /// Guesses, if the request speaks of them.
    pub speculation: Option<SpeculationParams>,
    /// Log probabilities of this many alternatives with each token.
    pub logprobs: Option<u32>,
    /// Probabilities after the sampling chain.
    pub post_sampling: bool,
    /// Use what is in memory.
    pub cache_prompt: bool,
    /// The slot asked for.
    pub slot: Option<u32>,
    /// Report prefill.
    pub progress: bool,
    /// Most time for generation.
    pub max_time: Option<Duration>,
    /// Times with every chunk of a stream.
    pub timings_per_token: bool,
    /// Token ids with the text (native form).
    pub return_tokens: bool,
    /// Repeat the prompt before the answer (OpenAI's completions).
    pub echo: bool,
    /// Fields of a native answer to keep; empty keeps all.
    pub response_fields: Vec<String>,
    /// Time between pings on a silent stream; `None` is the server's, zero none.
    pub ping: Option<Duration>,
    /// What the answer must look like.
    pub constraint: Option<GrammarSpec>,
    /// Name of a model the request gave.
    pub model: Option<String>,
}

impl Options {
    /// Reads the common fields.
    ///
    /// # Errors
    /// A field of the wrong type or out of range.
    pub fn read(
        f: &Fields<'_>,
        defaults: &Defaults,
        tokenizer: &Tokenizer,
    ) -> Result<Self, ApiError> {
        let mut params = defaults.sampling.clone();
        sampling::apply(f, &mut params, tokenizer)?;
        let usage = f.object("stream_options")?.map(Fields::new);
        let include_usage = usage.map(|o| o.bool("include_usage")).transpose()?;
        Ok(Self {
            sampling: params,
            n: count(f, defaults)?,
            n_predict: n_predict(f, defaults)?,
            stop: stops(f)?,
            stream: f.bool("stream")?.unwrap_or(false),
            include_usage: include_usage.flatten().unwrap_or(false),
            speculation: speculation(f, defaults)?,
            logprobs: logprobs(f)?,
            post_sampling: f.bool("post_sampling_probs")?.unwrap_or(false),
            cache_prompt: f.bool("cache_prompt")?.unwrap_or(true),
            slot: slot(f)?,
            progress: f.bool("return_progress")?.unwrap_or(false),
            max_time: millis(f, "t_max_predict_ms")?.filter(|time| !time.is_zero()),
            timings_per_token: f.bool("timings_per_token")?.unwrap_or(false),
            return_tokens: f.bool("return_tokens")?.unwrap_or(false),
            echo: f.bool("echo")?.unwrap_or(false),
            response_fields: f.texts("response_fields")?.unwrap_or_default(),
            ping: ping(f)?,
            constraint: constraint::read(f)?,
            model: f.str("model")?.map(str::to_owned),
        })
    }
}

fn count(f: &Fields<'_>, defaults: &Defaults) -> Result<u32, ApiError> {
    let Some((name, value)) = f.first(&["n", "n_cmpl"]) else {
        return Ok(1);
    };
    let n = int_of(name, value)?;
    let most = defaults.n_max.max(1);
    match u32::try_from(n) {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => {
            let reason = format!("expected 1 to {most}, the number of slots, found {n}");
            Err(ApiError::field(name, reason))
        }
    }
}

/// The smaller of the request's limit and the server's; negative numbers are no limit.
fn n_predict(f: &Fields<'_>, defaults: &Defaults) -> Result<Option<u32>, ApiError> {
    let names = [
        "n_predict",
        "max_completion_tokens",
        "max_tokens",
        "max_output_tokens",
    ];
    let Some((name, value)) = f.first(&names) else {
        return Ok(defaults.n_predict);
    };
    let n = int_of(name, value)?;
    let asked = (n >= 0).then(|| u32::try_from(n).unwrap_or(u32::MAX));
    Ok(match (asked, defaults.n_predict) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    })
}

fn stops(f: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let mut all = f.texts("stop")?.unwrap_or_default();
    all.extend(f.texts("stop_sequences")?.unwrap_or_default());
    all.retain(|text| !text.is_empty());
    if all.len() > MOST_STOPS {
        let reason = format!("{} texts, at most {MOST_STOPS} are taken", all.len());
        return Err(ApiError::field("stop", reason));
    }
    Ok(all)
}

/// `n_probs`, `logprobs` as a number, or OpenAI's chat form `logprobs: true` with `top_logprobs`.
fn logprobs(f: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    let number = |name, value| match int_of(name, value)? {
        n if (0..=MOST_LOGPROBS).contains(&n) => Ok(u32::try_from(n).unwrap_or_default()),
        n => {
            let reason = format!("expected 0 to {MOST_LOGPROBS}, found {n}");
            Err(ApiError::field(name, reason))
        }
    };
    let top = f.get("top_logprobs");
    match f.get("logprobs") {
        Some(Value::Bool(true)) => top
            .map_or(Ok(0), |top| number("top_logprobs", top))
            .map(Some),
        None | Some(Value::Bool(false)) => {
            if top.is_some_and(|top| top.as_i64() != Some(0)) {
                let reason = "needs logprobs to be true";
                return Err(ApiError::field("top_logprobs", reason));
            }
            let n = f.get("n_probs").map(|n| number("n_probs", n)).transpose()?;
            Ok(n.filter(|&n| n > 0))
        }
        Some(n) => number("logprobs", n).map(Some),
    }
}

fn slot(f: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    match f.int("id_slot")? {
        Some(n) if n >= 0 => u32::try_from(n)
            .map(Some)
            .map_err(|_| ApiError::field("id_slot", format!("no slot {n}"))),
        _ => Ok(None),
    }
}

fn millis(f: &Fields<'_>, name: &str) -> Result<Option<Duration>, ApiError> {
    let ms = f.int(name)?.and_then(|ms| u64::try_from(ms).ok());
    Ok(ms.map(Duration::from_millis))
}

fn ping(f: &Fields<'_>) -> Result<Option<Duration>, ApiError> {
    Ok(f.int("sse_ping_interval")?
        .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
}

/// `speculative.n_max` and its like, flat or in an object.
fn speculation(f: &Fields<'_>, defaults: &Defaults) -> Result<Option<SpeculationParams>, ApiError> {
    let nested = f.object("speculative")?.map(Fields::new);
    let find = |name: &'static str, flat: &'static str| {
        let value = f.get(flat).or_else(|| nested.and_then(|n| n.get(name)));
        value.map(|value| (flat, value))
    };
    let mut given = false;
    let mut params = defaults.speculation.clone();
    let small = |(name, value): (&'static str, &Value)| {
        let n = int_of(name, value)?;
        u32::try_from(n)
            .map_err(|_| ApiError::field(name, format!("expected 0 or more, found {n}")))
    };
    if let Some(found) = find("n_max", "speculative.n_max") {
        (params.n_max, given) = (small(found)?, true);
        params.n_min = params.n_min.min(params.n_max);
    }
    if let Some(found) = find("n_min", "speculative.n_min") {
        (params.n_min, given) = (small(found)?, true);
    }
    if let Some((name, value)) = find("p_min", "speculative.p_min") {
        (params.p_min, given) = (float_of(name, value)? as f32, true);
    }
    if let Some((name, value)) = find("type", "speculative.type") {
        let text = value.as_str().unwrap_or_default();
        params.draft = text.parse().map_err(|why| ApiError::field(name, why))?;
        given = true;
    }
    if given {
        params
            .validate()
            .map_err(|e| ApiError::field("speculative", e))?;
    }
    Ok(given.then_some(params))
}
