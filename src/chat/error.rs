//! What can go wrong with a chat template.

#![forbid(unsafe_code)]

use super::builtin;
use crate::gguf::MetadataError;

/// A chat template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template is not valid Jinja, or needs what is not implemented.
    #[error("chat template, line {line}: {message}: `{source_line}`")]
    Syntax {
        /// Line in the template, from 1.
        line: usize,
        /// What is wrong.
        message: String,
        /// The text of that line.
        source_line: String,
    },
    /// The template failed on this conversation.
    #[error("chat template, line {line}: {message}: `{source_line}`")]
    Render {
        /// Line in the template, from 1.
        line: usize,
        /// What is wrong.
        message: String,
        /// The text of that line.
        source_line: String,
    },
    /// The template refused this conversation with `raise_exception`.
    #[error("the chat template refuses this conversation: {message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The template runs or writes without end.
    #[error("the chat template does not come to an end ({limit})")]
    Runaway {
        /// The limit it met.
        limit: &'static str,
    },
    /// The template's source is longer than any real one.
    #[error("the chat template has {bytes} bytes, at most {most} are allowed")]
    TooLong {
        /// Its bytes.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// One tag has too many operators to be compiled.
    #[error(
        "chat template, line {line}: a tag has {operators} operators, filters and attributes, at most {most} are allowed"
    )]
    TooComplex {
        /// Line in the template, from 1.
        line: usize,
        /// How many it has.
        operators: usize,
        /// The bound.
        most: usize,
    },
    /// The template's thread could not start, or panicked.
    #[error("the chat template's thread failed: {reason}")]
    Thread {
        /// Why.
        reason: String,
    },
    /// A message holds something that is not text.
    #[error("a message has a part of type `{kind}`, only `text` is supported")]
    ContentPart {
        /// The part's type.
        kind: String,
    },
    /// A message cannot be handed to the template.
    #[error("a message cannot be handed to the chat template: {reason}")]
    Message {
        /// Why.
        reason: String,
    },
    /// No built-in template has this name.
    #[error("unknown chat template `{name}`")]
    UnknownName {
        /// The name asked for.
        name: String,
    },
    /// A template key of the file is of another type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl TemplateError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let names = || builtin::names().collect::<Vec<_>>().join(", ");
        match self {
            Self::Syntax { .. }
            | Self::Render { .. }
            | Self::Runaway { .. }
            | Self::TooLong { .. }
            | Self::TooComplex { .. } => Some(format!(
                "use a built-in template with `--chat-template NAME` (one of {})",
                names()
            )),
            Self::UnknownName { .. } => Some(format!("known are {}", names())),
            Self::Metadata(error) => error.hint(),
            Self::Thread { .. }
            | Self::Refused { .. }
            | Self::ContentPart { .. }
            | Self::Message { .. } => None,
        }
    }
}
