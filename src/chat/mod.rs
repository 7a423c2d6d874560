//! Conversations: templates that turn messages into a prompt, and the split of an answer into thought and text.
//!
//! This module knows texts and messages. It does not know how a prompt is run.

#![forbid(unsafe_code)]

mod builtin;
mod clock;
mod error;
mod json;
mod limits;
mod message;
mod probe;
mod reasoning;
pub mod stream;
mod template;
pub mod tools;

#[cfg(test)]
mod tests;

pub use builtin::names as builtin_template_names;
pub use error::TemplateError;
pub use message::{ChatRequest, Content, ContentPart, FunctionCall, Message, ToolCall};
pub use probe::ThinkingSwitch;
pub use reasoning::{ReasoningSplitter, ReasoningTags, Segment, SegmentKind};
pub use stream::{ChatDelta, ChatParser};
pub use template::ChatTemplate;
pub use tools::ToolFormat;
