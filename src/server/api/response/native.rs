//! llama-server's own completions.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Change};
use super::probs::Scale;
use super::{Form, Frame, numbers, probs};
use crate::server::api::request::Options;
use crate::server::protocol::PrefillProgress;

/// Native completions of one request.
#[derive(Debug)]
pub struct NativeForm {
    model: String,
    options: Options,
    settings: Value,
    /// Whether the request had a list of prompts, so that the answer is a list.
    list: bool,
}

impl NativeForm {
    /// Answers in the name of `model`.
    pub fn new(model: &str, options: &Options, settings: Value, list: bool) -> Self {
        Self {
            model: model.to_owned(),
            options: options.clone(),
            settings,
            list,
        }
    }

    /// Adds probabilities of tokens from `from` on.
    fn add_probs(&self, body: &mut Value, answer: &Answer, from: usize) {
        if self.options.logprobs.is_none() {
            return;
        }
        let scale = match self.options.post_sampling {
            true => Scale::Plain,
            false => Scale::Log,
        };
        let list = answer.logprobs.get(from..).unwrap_or_default();
        body["completion_probabilities"] = list
            .iter()
            .map(|p| probs::token(&answer.tokenizer, p, scale, true))
            .collect();
    }

    fn chunk(&self, answer: &mut Answer, text: &str) -> Value {
        let from = answer.told;
        let (tokens, _) = answer.untold();
        let mut body = json!({
            "index": 0,
            "content": text,
            "tokens": tokens,
            "stop": false,
        });
        body["index"] = answer.index.into();
        body["id_slot"] = slot(answer);
        body["tokens_predicted"] = answer.n_predicted().into();
        body["tokens_evaluated"] = answer.n_prompt.into();
        if self.options.timings_per_token {
            body["timings"] = numbers::timings(&answer.timings);
        }
        self.add_probs(&mut body, answer, from);
        self.reduced(body)
    }

    /// The last chunk, or the whole answer.
    fn last(&self, answer: &Answer, content: &str, from: usize) -> Value {
        let (stop_type, word) = numbers::stop_type(answer.reason());
        let tokens = match self.options.return_tokens {
            true => answer.tokens.get(from..).unwrap_or_default(),
            false => &[],
        };
        let mut settings = self.settings.clone();
        if let Some(finished) = &answer.finished {
            settings["seed"] = finished.seed.into();
        }
        let mut body = json!({
            "index": answer.index,
            "content": content,
            "tokens": tokens,
            "id_slot": slot(answer),
            "stop": true,
            "model": self.model,
            "tokens_predicted": answer.n_predicted(),
            "tokens_evaluated": answer.n_prompt,
            "generation_settings": settings,
            "prompt": &*answer.prompt,
            "has_new_line": answer.content.contains('\n'),
            "truncated": false,
            "stop_type": stop_type,
            "stopping_word": word,
            "tokens_cached": answer.n_prompt + answer.n_predicted(),
            "timings": numbers::timings(&answer.timings),
        });
        self.add_probs(&mut body, answer, from);
        self.reduced(body)
    }

    /// Only the fields asked for; `a/b` brings `b` of `a` to the top.
    fn reduced(&self, body: Value) -> Value {
        if self.options.response_fields.is_empty() {
            return body;
        }
        let mut kept = Map::new();
        for path in &self.options.response_fields {
            let found = path.split('/').try_fold(&body, |value, key| value.get(key));
            if let (Some(value), Some(name)) = (found, path.split('/').next_back()) {
                kept.insert(name.to_owned(), value.clone());
            }
        }
        kept.into()
    }
}

fn slot(answer: &Answer) -> Value {
    answer.slot.map_or_else(|| (-1).into(), Value::from)
}

impl Form for NativeForm {
    fn progress(&mut self, answer: &Answer, progress: &PrefillProgress) -> Vec<Frame> {
        let body = json!({
            "index": answer.index,
            "content": "",
            "tokens": [],
            "stop": false,
            "id_slot": slot(answer),
            "tokens_predicted": 0,
            "tokens_evaluated": answer.n_prompt,
            "prompt_progress": numbers::progress(progress),
        });
        vec![Frame::data(body)]
    }

    fn changed(&mut self, answer: &mut Answer, change: Change) -> Vec<Frame> {
        let text = change.text();
        if answer.finished.is_none() {
            if text.is_empty() {
                return Vec::new();
            }
            return vec![Frame::data(self.chunk(answer, &text))];
        }
        let mut frames = Vec::new();
        if !text.is_empty() {
            frames.push(Frame::data(self.chunk(answer, &text)));
        }
        let from = answer.told;
        answer.untold();
        frames.push(Frame::data(self.last(answer, "", from)));
        frames
    }

    fn ended(&mut self, _: &[Answer]) -> Vec<Frame> {
        Vec::new()
    }

    fn whole(&mut self, answers: &mut [Answer]) -> Value {
        let mut all: Vec<Value> = answers
            .iter()
            .map(|answer| self.last(answer, &answer.content, 0))
            .collect();
        match all.len() {
            1 if !self.list => all.remove(0),
            _ => all.into(),
        }
    }
}

/// `generation_settings` and the `params` of `/props`.
pub fn settings(options: &Options) -> Value {
    let mut all = serde_json::to_value(&options.sampling).unwrap_or_default();
    let limit = options.n_predict.map_or(-1, i64::from);
    for (name, value) in [
        ("n_predict", Value::from(limit)),
        ("max_tokens", limit.into()),
        ("stop", options.stop.clone().into()),
        ("stream", options.stream.into()),
        ("n_probs", options.logprobs.unwrap_or(0).into()),
        ("post_sampling_probs", options.post_sampling.into()),
        ("timings_per_token", options.timings_per_token.into()),
        ("cache_prompt", options.cache_prompt.into()),
    ] {
        all[name] = value;
    }
    if let Some(spec) = &options.speculation {
        all["speculative.type"] = spec.draft.name().into();
        all["speculative.n_max"] = spec.n_max.into();
        all["speculative.n_min"] = spec.n_min.into();
        all["speculative.p_min"] = f64::from(spec.p_min).into();
    }
    all
}
