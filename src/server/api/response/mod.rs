//! Answers: events of the engine thread to JSON, whole or as a stream. Both come from the same [`Answer`]s, so a stream
//! says what a whole answer says.

pub mod answer;
pub mod anthropic;
pub mod chat;
pub mod completion;
pub mod ids;
pub mod native;
pub mod numbers;
pub mod probs;
pub mod responses;

pub use answer::{Answer, Change};

use serde_json::Value;

use super::ApiError;
use crate::server::protocol::PrefillProgress;

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Its name, where the form names events.
    pub event: Option<&'static str>,
    /// Its data.
    pub data: Data,
}

/// Data of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// JSON.
    Json(Value),
    /// OpenAI's end of a stream.
    Done,
}

impl Frame {
    /// An event without a name.
    pub fn data(value: Value) -> Self {
        Self {
            event: None,
            data: Data::Json(value),
        }
    }

    /// An event named like its `type`.
    pub fn named(event: &'static str, value: Value) -> Self {
        Self {
            event: Some(event),
            data: Data::Json(value),
        }
    }

    /// OpenAI's end of a stream.
    pub fn done() -> Self {
        Self {
            event: None,
            data: Data::Done,
        }
    }

    /// As it is sent.
    pub fn encode(&self) -> String {
        let data = match &self.data {
            Data::Json(value) => value.to_string(),
            Data::Done => "[DONE]".to_owned(),
        };
        match self.event {
            None => format!("data: {data}\n\n"),
            Some(event) => format!("event: {event}\ndata: {data}\n\n"),
        }
    }
}

/// A form of answers: OpenAI's chat completions, Anthropic's messages, and so on.
pub trait Form: Send {
    /// The first prompt left the queue.
    fn started(&mut self, answers: &[Answer]) -> Vec<Frame> {
        let _ = answers;
        Vec::new()
    }

    /// A part of a prompt was computed.
    fn progress(&mut self, answer: &Answer, progress: &PrefillProgress) -> Vec<Frame> {
        let _ = (answer, progress);
        Vec::new()
    }

    /// An answer got longer, or came to its end ([`Answer::finished`]).
    fn changed(&mut self, answer: &mut Answer, change: Change) -> Vec<Frame>;

    /// All answers are complete.
    fn ended(&mut self, answers: &[Answer]) -> Vec<Frame>;

    /// The request failed in the middle of a stream.
    fn failed(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![Frame::data(error.to_json())]
    }

    /// The whole answer.
    fn whole(&mut self, answers: &mut [Answer]) -> Value;
}
