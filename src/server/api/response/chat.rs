//! OpenAI's chat completions.

use serde_json::{Value, json};

use super::answer::{Answer, Change, usage};
use super::probs::Scale;
use super::{Form, Frame, ids, numbers, probs};
use crate::chat::ChatDelta;
use crate::server::api::request::Options;
use crate::server::protocol::PrefillProgress;

/// Chat completions of one request.
#[derive(Debug)]
pub struct ChatForm {
    id: String,
    created: u64,
    model: String,
    logprobs: bool,
    include_usage: bool,
    timings_per_token: bool,
    /// The chunk that waits for the timings, which the last one gets.
    last: Option<Value>,
}

impl ChatForm {
    /// Answers in the name of `model`.
    pub fn new(model: &str, options: &Options) -> Self {
        Self {
            id: ids::unique("chatcmpl-"),
            created: ids::now(),
            model: model.to_owned(),
            logprobs: options.logprobs.is_some(),
            include_usage: options.include_usage,
            timings_per_token: options.timings_per_token,
            last: None,
        }
    }

    fn body(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": ids::fingerprint(),
            "choices": choices,
        })
    }

    fn chunk(&self, answer: &Answer, delta: Value, finish: Option<&str>) -> Value {
        let choice = json!({
            "index": answer.index,
            "delta": delta,
            "logprobs": null,
            "finish_reason": finish,
        });
        self.body("chat.completion.chunk", json!([choice]))
    }

    fn logprobs(answer: &Answer, list: &[crate::engine::sampling::LogProbs]) -> Value {
        let one = |p| probs::token(&answer.tokenizer, p, Scale::Log, true);
        json!({ "content": list.iter().map(one).collect::<Vec<_>>(), "refusal": null })
    }

    /// Puts what belongs to the tokens so far into a chunk.
    fn with_tokens(&self, mut chunk: Value, answer: &mut Answer) -> Value {
        if self.timings_per_token {
            chunk["timings"] = numbers::timings(&answer.timings);
        }
        if self.logprobs {
            let (from, to) = (answer.told, answer.tokens.len());
            answer.untold();
            let new = answer.logprobs.get(from..to).unwrap_or_default();
            if !new.is_empty() {
                chunk["choices"][0]["logprobs"] = Self::logprobs(answer, new);
            }
        }
        chunk
    }
}

/// A piece of an answer as OpenAI's delta.
fn delta(piece: &ChatDelta) -> Value {
    match piece {
        ChatDelta::Reasoning(text) => json!({ "reasoning_content": text }),
        ChatDelta::Content(text) => json!({ "content": text }),
        ChatDelta::ToolCall { index, id, name } => json!({ "tool_calls": [{
            "index": index, "id": id, "type": "function",
            "function": { "name": name, "arguments": "" },
        }]}),
        ChatDelta::Arguments { index, text } => json!({ "tool_calls": [{
            "index": index, "function": { "arguments": text },
        }]}),
    }
}

/// The message of a whole answer.
fn message(answer: &Answer) -> Value {
    let silent = answer.content.is_empty() && !answer.calls.is_empty();
    let mut message = json!({
        "role": "assistant",
        "content": (!silent).then_some(&answer.content),
    });
    if !answer.reasoning.is_empty() {
        message["reasoning_content"] = answer.reasoning.as_str().into();
    }
    if !answer.calls.is_empty() {
        let call = |call: &super::answer::Call| {
            json!({
                "id": call.id, "type": "function",
                "function": { "name": call.name, "arguments": call.arguments },
            })
        };
        message["tool_calls"] = answer.calls.iter().map(call).collect();
    }
    message
}

impl Form for ChatForm {
    fn started(&mut self, answers: &[Answer]) -> Vec<Frame> {
        let first = |answer| {
            let delta = json!({ "role": "assistant", "content": null });
            Frame::data(self.chunk(answer, delta, None))
        };
        answers.iter().map(first).collect()
    }

    fn progress(&mut self, answer: &Answer, progress: &PrefillProgress) -> Vec<Frame> {
        let mut chunk = self.chunk(answer, json!({}), None);
        chunk["prompt_progress"] = numbers::progress(progress);
        vec![Frame::data(chunk)]
    }

    fn changed(&mut self, answer: &mut Answer, change: Change) -> Vec<Frame> {
        let mut frames = Vec::new();
        for piece in &change.deltas {
            let chunk = self.chunk(answer, delta(piece), None);
            frames.push(Frame::data(self.with_tokens(chunk, answer)));
        }
        if let Some(reason) = answer.finish_reason() {
            let chunk = self.chunk(answer, json!({}), Some(reason));
            let chunk = self.with_tokens(chunk, answer);
            frames.extend(self.last.replace(chunk).map(Frame::data));
        }
        frames
    }

    fn ended(&mut self, answers: &[Answer]) -> Vec<Frame> {
        let mut chunks: Vec<Value> = self.last.take().into_iter().collect();
        if self.include_usage {
            let mut chunk = self.body("chat.completion.chunk", json!([]));
            chunk["usage"] = usage(answers).to_json();
            chunks.push(chunk);
        }
        if let (Some(last), Some(answer)) = (chunks.last_mut(), answers.last()) {
            last["timings"] = numbers::timings(&answer.timings);
        }
        let frames = chunks.into_iter().map(Frame::data);
        frames.chain([Frame::done()]).collect()
    }

    fn whole(&mut self, answers: &mut [Answer]) -> Value {
        let choice = |answer: &Answer| {
            json!({
                "index": answer.index,
                "message": message(answer),
                "logprobs": self.logprobs.then(|| Self::logprobs(answer, &answer.logprobs)),
                "finish_reason": answer.finish_reason(),
            })
        };
        let mut body = self.body("chat.completion", answers.iter().map(choice).collect());
        body["usage"] = usage(answers).to_json();
        if let Some(answer) = answers.last() {
            body["timings"] = numbers::timings(&answer.timings);
        }
        body
    }
}
