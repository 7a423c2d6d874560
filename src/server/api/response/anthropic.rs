//! Anthropic's Messages.

use serde_json::{Value, json};

use super::answer::{Answer, Change, usage};
use super::numbers::Usage;
use super::{Form, Frame, ids};
use crate::chat::ChatDelta;
use crate::server::api::ApiError;
use crate::server::protocol::StopReason;

/// The block of a stream that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    /// A call, by its number.
    Call(usize),
}

/// A message of one request.
#[derive(Debug)]
pub struct MessagesForm {
    id: String,
    model: String,
    open: Option<Block>,
    n_blocks: usize,
}

impl MessagesForm {
    /// Answers in the name of `model`.
    pub fn new(model: &str) -> Self {
        Self {
            id: ids::unique("msg_"),
            model: model.to_owned(),
            open: None,
            n_blocks: 0,
        }
    }

    fn message(&self, content: Value, answer: Option<&Answer>, usage: Usage) -> Value {
        let (reason, word) = answer.map_or((Value::Null, Value::Null), stop);
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": word,
            "usage": usage.to_anthropic(),
        })
    }

    fn close(&mut self, frames: &mut Vec<Frame>) {
        let Some(open) = self.open.take() else { return };
        let index = self.n_blocks.saturating_sub(1);
        if open == Block::Thinking {
            let delta = json!({ "type": "signature_delta", "signature": "" });
            frames.push(block_delta(index, delta));
        }
        let stop = json!({ "type": "content_block_stop", "index": index });
        frames.push(Frame::named("content_block_stop", stop));
    }

    /// Opens a block unless it is open; gives its index.
    fn open(&mut self, block: Block, start: Value, frames: &mut Vec<Frame>) -> usize {
        if self.open != Some(block) {
            self.close(frames);
            self.open = Some(block);
            let start = json!({
                "type": "content_block_start", "index": self.n_blocks, "content_block": start,
            });
            frames.push(Frame::named("content_block_start", start));
            self.n_blocks += 1;
        }
        self.n_blocks.saturating_sub(1)
    }

    fn piece(&mut self, piece: &ChatDelta, frames: &mut Vec<Frame>) {
        match piece {
            ChatDelta::Reasoning(text) => {
                let start = json!({ "type": "thinking", "thinking": "", "signature": "" });
                let index = self.open(Block::Thinking, start, frames);
                let delta = json!({ "type": "thinking_delta", "thinking": text });
                frames.push(block_delta(index, delta));
            }
            ChatDelta::Content(text) => {
                let start = json!({ "type": "text", "text": "" });
                let index = self.open(Block::Text, start, frames);
                let delta = json!({ "type": "text_delta", "text": text });
                frames.push(block_delta(index, delta));
            }
            ChatDelta::ToolCall { index, id, name } => {
                let start = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
                self.open(Block::Call(*index), start, frames);
            }
            ChatDelta::Arguments { text, .. } => {
                let index = self.n_blocks.saturating_sub(1);
                let delta = json!({ "type": "input_json_delta", "partial_json": text });
                frames.push(block_delta(index, delta));
            }
        }
    }
}

fn block_delta(index: usize, delta: Value) -> Frame {
    let value = json!({ "type": "content_block_delta", "index": index, "delta": delta });
    Frame::named("content_block_delta", value)
}

/// `stop_reason` and `stop_sequence`.
fn stop(answer: &Answer) -> (Value, Value) {
    match answer.reason() {
        None => (Value::Null, Value::Null),
        Some(StopReason::Limit) => ("max_tokens".into(), Value::Null),
        Some(_) if !answer.calls.is_empty() => ("tool_use".into(), Value::Null),
        Some(StopReason::Eos) => ("end_turn".into(), Value::Null),
        Some(StopReason::Word(word)) => ("stop_sequence".into(), word.as_str().into()),
    }
}

/// The blocks of a whole answer.
fn content(answer: &Answer) -> Vec<Value> {
    let mut blocks = Vec::new();
    if !answer.reasoning.is_empty() {
        let thinking = answer.reasoning.as_str();
        blocks.push(json!({ "type": "thinking", "thinking": thinking, "signature": "" }));
    }
    if !answer.content.is_empty() {
        blocks.push(json!({ "type": "text", "text": answer.content }));
    }
    for call in &answer.calls {
        // A call that was cut off is no JSON; clients want an object.
        let input = serde_json::from_str(&call.arguments)
            .ok()
            .filter(Value::is_object)
            .unwrap_or_else(|| json!({}));
        blocks.push(json!({
            "type": "tool_use", "id": call.id, "name": call.name, "input": input,
        }));
    }
    blocks
}

impl Form for MessagesForm {
    fn started(&mut self, answers: &[Answer]) -> Vec<Frame> {
        let message = self.message(json!([]), None, usage(answers));
        let start = json!({ "type": "message_start", "message": message });
        vec![Frame::named("message_start", start)]
    }

    fn changed(&mut self, answer: &mut Answer, change: Change) -> Vec<Frame> {
        let mut frames = Vec::new();
        for piece in &change.deltas {
            self.piece(piece, &mut frames);
        }
        if answer.finished.is_some() {
            self.close(&mut frames);
        }
        frames
    }

    fn ended(&mut self, answers: &[Answer]) -> Vec<Frame> {
        let (reason, word) = answers.first().map_or((Value::Null, Value::Null), stop);
        let delta = json!({
            "type": "message_delta",
            "delta": { "stop_reason": reason, "stop_sequence": word },
            "usage": usage(answers).to_anthropic(),
        });
        let stop = json!({ "type": "message_stop" });
        vec![
            Frame::named("message_delta", delta),
            Frame::named("message_stop", stop),
        ]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![Frame::named("error", error.to_anthropic())]
    }

    fn whole(&mut self, answers: &mut [Answer]) -> Value {
        let blocks = answers.first().map(content).unwrap_or_default();
        self.message(blocks.into(), answers.first(), usage(answers))
    }
}
