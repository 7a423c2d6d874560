//! OpenAI's Responses.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Change, usage};
use super::probs::{self, Scale};
use super::{Form, Frame, ids};
use crate::chat::ChatDelta;
use crate::server::api::ApiError;
use crate::server::api::request::Options;
use crate::server::protocol::StopReason;

/// An item of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    kind: Kind,
    id: String,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
    Call { id: String, name: String },
}

/// A response of one request.
#[derive(Debug)]
pub struct ResponsesForm {
    id: String,
    created: u64,
    model: String,
    /// Fields that a response repeats.
    echoed: Map<String, Value>,
    logprobs: bool,
    items: Vec<Item>,
    /// Whether the last item is open.
    open: bool,
    sequence: u64,
}

/// Fields of the request that come back, and what they are if absent.
fn echoed(body: &Map<String, Value>, options: &Options) -> Map<String, Value> {
    let given = |name: &str| body.get(name).cloned().filter(|value| !value.is_null());
    let or = |name: &str, value: Value| (name.to_owned(), given(name).unwrap_or(value));
    Map::from_iter([
        or("instructions", Value::Null),
        or("max_output_tokens", Value::Null),
        or("metadata", json!({})),
        or("parallel_tool_calls", true.into()),
        or("reasoning", json!({ "effort": null, "summary": null })),
        or("text", json!({ "format": { "type": "text" } })),
        or("tool_choice", "auto".into()),
        or("tools", json!([])),
        ("store".to_owned(), false.into()),
        ("previous_response_id".to_owned(), Value::Null),
        ("temperature".to_owned(), options.sampling.temp.into()),
        ("top_p".to_owned(), options.sampling.top_p.into()),
        ("truncation".to_owned(), "disabled".into()),
    ])
}

impl ResponsesForm {
    /// Answers a request in the name of `model`.
    pub fn new(model: &str, body: &Map<String, Value>, options: &Options) -> Self {
        Self {
            id: ids::unique("resp_"),
            created: ids::now(),
            model: model.to_owned(),
            echoed: echoed(body, options),
            logprobs: options.logprobs.is_some(),
            items: Vec::new(),
            open: false,
            sequence: 0,
        }
    }

    fn response(&self, answers: &[Answer], status: &str) -> Value {
        let incomplete = (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
        let output: Vec<Value> = match status {
            "in_progress" => Vec::new(),
            _ => {
                let answer = answers.first();
                let json = |item: &Item| self.item(item, answer, "completed");
                self.items.iter().map(json).collect()
            }
        };
        let mut body = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": null,
            "incomplete_details": incomplete,
            "model": self.model,
            "output": output,
            "usage": (status != "in_progress").then(|| usage(answers).to_responses()),
        });
        if let Value::Object(map) = &mut body {
            map.extend(self.echoed.clone());
        }
        body
    }

    /// An item; its contents only when it is complete.
    fn item(&self, item: &Item, answer: Option<&Answer>, status: &str) -> Value {
        let done = status == "completed";
        match &item.kind {
            Kind::Reasoning => json!({
                "type": "reasoning", "id": item.id, "summary": [], "status": status,
                "content": if done { json!([{ "type": "reasoning_text", "text": item.text }]) } else { json!([]) },
            }),
            Kind::Message => json!({
                "type": "message", "id": item.id, "role": "assistant", "status": status,
                "content": if done { json!([self.part(&item.text, answer)]) } else { json!([]) },
            }),
            Kind::Call { id, name } => json!({
                "type": "function_call", "id": item.id, "call_id": id, "name": name, "status": status,
                "arguments": if done { item.text.as_str() } else { "" },
            }),
        }
    }

    fn part(&self, text: &str, answer: Option<&Answer>) -> Value {
        let logprobs: Vec<Value> = answer
            .filter(|_| self.logprobs)
            .map(|answer| {
                let one = |p| probs::token(&answer.tokenizer, p, Scale::Log, false);
                answer.logprobs.iter().map(one).collect()
            })
            .unwrap_or_default();
        json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs })
    }

    fn event(&mut self, kind: &'static str, mut fields: Value) -> Frame {
        fields["type"] = kind.into();
        fields["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        Frame::named(kind, fields)
    }

    /// Where the last item is: its id and its index in the output.
    fn place(&self) -> Value {
        let id = self.items.last().map_or("", |item| item.id.as_str());
        json!({ "item_id": id, "output_index": self.items.len().saturating_sub(1) })
    }

    fn at_place(&mut self, kind: &'static str, more: Value) -> Frame {
        let mut fields = self.place();
        if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
            fields.extend(more);
        }
        self.event(kind, fields)
    }

    fn close(&mut self, answer: Option<&Answer>, frames: &mut Vec<Frame>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let Some(item) = self.items.last().cloned() else {
            return;
        };
        match &item.kind {
            Kind::Reasoning => {
                let text = json!({ "content_index": 0, "text": item.text });
                frames.push(self.at_place("response.reasoning_text.done", text));
            }
            Kind::Message => {
                let part = self.part(&item.text, answer);
                let text = json!({
                    "content_index": 0, "text": item.text, "logprobs": part["logprobs"],
                });
                frames.push(self.at_place("response.output_text.done", text));
                let part = json!({ "content_index": 0, "part": part });
                frames.push(self.at_place("response.content_part.done", part));
            }
            Kind::Call { name, .. } => {
                let text = json!({ "name": name, "arguments": item.text });
                frames.push(self.at_place("response.function_call_arguments.done", text));
            }
        }
        let json = self.item(&item, answer, "completed");
        let index = self.items.len().saturating_sub(1);
        let fields = json!({ "output_index": index, "item": json });
        frames.push(self.event("response.output_item.done", fields));
    }

    /// Opens an item unless the last one is of this kind and open.
    fn open(&mut self, kind: Kind, answer: &Answer, frames: &mut Vec<Frame>) {
        if self.open && self.items.last().is_some_and(|item| item.kind == kind) {
            return;
        }
        self.close(Some(answer), frames);
        let prefix = match kind {
            Kind::Reasoning => "rs_",
            Kind::Message => "msg_",
            Kind::Call { .. } => "fc_",
        };
        let item = Item {
            id: ids::unique(prefix),
            text: String::new(),
            kind,
        };
        let json = self.item(&item, None, "in_progress");
        let is_message = item.kind == Kind::Message;
        self.items.push(item);
        self.open = true;
        let fields = json!({ "output_index": self.items.len() - 1, "item": json });
        frames.push(self.event("response.output_item.added", fields));
        if is_message {
            let part = json!({ "content_index": 0, "part": self.part("", None) });
            frames.push(self.at_place("response.content_part.added", part));
        }
    }

    fn piece(&mut self, piece: &ChatDelta, answer: &Answer, frames: &mut Vec<Frame>) {
        let (kind, text) = match piece {
            ChatDelta::Reasoning(text) => (Some(Kind::Reasoning), text.as_str()),
            ChatDelta::Content(text) => (Some(Kind::Message), text.as_str()),
            ChatDelta::ToolCall { id, name, .. } => {
                let (id, name) = (id.clone(), name.clone());
                (Some(Kind::Call { id, name }), "")
            }
            ChatDelta::Arguments { text, .. } => (None, text.as_str()),
        };
        if let Some(kind) = kind {
            self.open(kind, answer, frames);
        }
        if text.is_empty() {
            return;
        }
        if let Some(item) = self.items.last_mut() {
            item.text.push_str(text);
        }
        let delta = json!({ "content_index": 0, "delta": text });
        frames.push(match piece {
            ChatDelta::Reasoning(_) => self.at_place("response.reasoning_text.delta", delta),
            ChatDelta::Content(_) => {
                let delta = json!({ "content_index": 0, "delta": text, "logprobs": [] });
                self.at_place("response.output_text.delta", delta)
            }
            _ => {
                let delta = json!({ "delta": text });
                self.at_place("response.function_call_arguments.delta", delta)
            }
        });
    }

    fn status(answers: &[Answer]) -> &'static str {
        match answers.first().and_then(Answer::reason) {
            Some(StopReason::Limit) => "incomplete",
            _ => "completed",
        }
    }
}

impl Form for ResponsesForm {
    fn started(&mut self, answers: &[Answer]) -> Vec<Frame> {
        let response = json!({ "response": self.response(answers, "in_progress") });
        vec![
            self.event("response.created", response.clone()),
            self.event("response.in_progress", response),
        ]
    }

    fn changed(&mut self, answer: &mut Answer, change: Change) -> Vec<Frame> {
        let mut frames = Vec::new();
        for piece in &change.deltas {
            self.piece(piece, answer, &mut frames);
        }
        if answer.finished.is_some() {
            self.close(Some(answer), &mut frames);
        }
        frames
    }

    fn ended(&mut self, answers: &[Answer]) -> Vec<Frame> {
        let status = Self::status(answers);
        let response = json!({ "response": self.response(answers, status) });
        let kind = match status {
            "incomplete" => "response.incomplete",
            _ => "response.completed",
        };
        vec![self.event(kind, response)]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Frame> {
        let mut response = self.response(&[], "failed");
        response["error"] = json!({ "code": "server_error", "message": error.message });
        vec![self.event("response.failed", json!({ "response": response }))]
    }

    fn whole(&mut self, answers: &mut [Answer]) -> Value {
        self.response(answers, Self::status(answers))
    }
}
