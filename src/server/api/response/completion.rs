//! OpenAI's completions.

use serde_json::{Value, json};

use super::answer::{Answer, Change, usage};
use super::{Form, Frame, ids, numbers, probs};
use crate::server::api::request::Options;
use crate::server::protocol::PrefillProgress;

/// Completions of one request.
#[derive(Debug)]
pub struct CompletionForm {
    id: String,
    created: u64,
    model: String,
    logprobs: bool,
    echo: bool,
    include_usage: bool,
    timings_per_token: bool,
    /// The chunk that waits for the timings, which the last one gets.
    last: Option<Value>,
}

impl CompletionForm {
    /// Answers in the name of `model`.
    pub fn new(model: &str, options: &Options) -> Self {
        Self {
            id: ids::unique("cmpl-"),
            created: ids::now(),
            model: model.to_owned(),
            logprobs: options.logprobs.is_some(),
            echo: options.echo,
            include_usage: options.include_usage,
            timings_per_token: options.timings_per_token,
            last: None,
        }
    }

    fn body(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": ids::fingerprint(),
            "choices": choices,
        })
    }

    fn chunk(&self, answer: &mut Answer, text: &str) -> Value {
        let mut logprobs = Value::Null;
        if self.logprobs {
            let (from, to) = (answer.told, answer.tokens.len());
            answer.untold();
            let new = answer.logprobs.get(from..to).unwrap_or_default();
            logprobs = probs::completion(&answer.tokenizer, new, self.offset(answer, from));
        }
        let choice = json!({
            "index": answer.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": answer.finish_reason(),
        });
        let mut chunk = self.body(json!([choice]));
        if self.timings_per_token {
            chunk["timings"] = numbers::timings(&answer.timings);
        }
        chunk
    }

    /// Where the text of token `from` begins.
    fn offset(&self, answer: &Answer, from: usize) -> usize {
        let before = answer.tokens.get(..from).unwrap_or_default();
        let bytes = before.iter().flat_map(|&t| answer.tokenizer.token_bytes(t));
        let bytes: Vec<u8> = bytes.copied().collect();
        let echoed = self.echo.then(|| answer.prompt.chars().count());
        String::from_utf8_lossy(&bytes).chars().count() + echoed.unwrap_or_default()
    }
}

impl Form for CompletionForm {
    fn started(&mut self, answers: &[Answer]) -> Vec<Frame> {
        let echo = |answer: &Answer| {
            let choice = json!({
                "index": answer.index, "text": &*answer.prompt, "logprobs": null, "finish_reason": null,
            });
            Frame::data(self.body(json!([choice])))
        };
        let echoed = answers.iter().filter(|_| self.echo);
        echoed.map(echo).collect()
    }

    fn progress(&mut self, answer: &Answer, progress: &PrefillProgress) -> Vec<Frame> {
        let choice = json!({
            "index": answer.index, "text": "", "logprobs": null, "finish_reason": null,
        });
        let mut chunk = self.body(json!([choice]));
        chunk["prompt_progress"] = numbers::progress(progress);
        vec![Frame::data(chunk)]
    }

    fn changed(&mut self, answer: &mut Answer, change: Change) -> Vec<Frame> {
        let text = change.text();
        if answer.finished.is_some() {
            let chunk = self.chunk(answer, &text);
            return self
                .last
                .replace(chunk)
                .map(Frame::data)
                .into_iter()
                .collect();
        }
        if text.is_empty() {
            return Vec::new();
        }
        vec![Frame::data(self.chunk(answer, &text))]
    }

    fn ended(&mut self, answers: &[Answer]) -> Vec<Frame> {
        let mut chunks: Vec<Value> = self.last.take().into_iter().collect();
        if self.include_usage {
            let mut chunk = self.body(json!([]));
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
            let echoed = if self.echo { &*answer.prompt } else { "" };
            let logprobs = self.logprobs.then(|| {
                probs::completion(&answer.tokenizer, &answer.logprobs, self.offset(answer, 0))
            });
            json!({
                "index": answer.index,
                "text": format!("{echoed}{}", answer.content),
                "logprobs": logprobs,
                "finish_reason": answer.finish_reason(),
            })
        };
        let mut body = self.body(answers.iter().map(choice).collect());
        body["usage"] = usage(answers).to_json();
        if let Some(answer) = answers.last() {
            body["timings"] = numbers::timings(&answer.timings);
        }
        body
    }
}
