//! The text of an answer, as it arrives, to thoughts, content and calls of functions.

#![forbid(unsafe_code)]

use serde_json::Value;

use super::reasoning::{ReasoningSplitter, ReasoningTags, Segment, SegmentKind};
use super::tools::{ArgumentTypes, ToolFormat, ToolParser};

/// A piece of an answer. Texts are never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatDelta {
    /// Of the thought before the answer.
    Reasoning(String),
    /// Of the answer.
    Content(String),
    /// A call begins.
    ToolCall {
        /// Which call of the answer, from 0.
        index: usize,
        /// Links the call to its result.
        id: String,
        /// The function.
        name: String,
    },
    /// Of the arguments of a call. All of them together are a JSON object if the model completed the call.
    Arguments {
        /// Which call.
        index: usize,
        /// JSON, or a part of it.
        text: String,
    },
}

/// Splits an answer that arrives in pieces, cut anywhere.
///
/// Rules:
///
/// - Tags and markers are in no piece. Neither is white space between a thought and the answer, at the ends of a
///   thought, and around calls.
/// - What looks like a call but cannot be one is content, as the model wrote it.
/// - Arguments that stop being JSON after they were begun stay arguments up to the end of the call: the client sees
///   what the model wrote.
/// - Nothing is an error.
///
/// The text must show the markers of the form ([`ToolFormat::markers`]) and the tags of thoughts, also where they are
/// control tokens.
#[derive(Debug, Clone)]
pub struct ChatParser {
    splitter: ReasoningSplitter,
    tools: Option<ToolParser>,
    /// White space of the thought that counts only if more of it follows.
    space: String,
    thought: bool,
    answered: bool,
    n_calls: usize,
}

impl ChatParser {
    /// A parser for the answer to `prompt`, which tells whether the answer starts within a thought. With `tools`, calls
    /// are looked for. Forms that write all values as text ([`ToolFormat::QwenXml`], [`ToolFormat::ArgTags`]) need
    /// [`ChatParser::with_tools`] to tell the text `5` from the number.
    pub fn new(format: ToolFormat, tags: ReasoningTags, prompt: &str, tools: bool) -> Self {
        Self {
            splitter: ReasoningSplitter::for_prompt(tags, prompt),
            tools: tools.then(|| ToolParser::new(format)),
            space: String::new(),
            thought: false,
            answered: false,
            n_calls: 0,
        }
    }

    /// The same with the `tools` of the request, for the types of arguments.
    #[must_use]
    pub fn with_tools(mut self, tools: &Value) -> Self {
        if let Some(parser) = &mut self.tools {
            parser.set_types(ArgumentTypes::from_tools(tools));
        }
        self
    }

    /// Whether the text that comes next belongs to a thought.
    pub fn is_reasoning(&self) -> bool {
        self.splitter.is_reasoning()
    }

    /// How many calls were begun; with any, the reason of an answer that ended by itself is `tool_calls`.
    pub fn n_calls(&self) -> usize {
        self.n_calls
    }

    /// The pieces that became certain with this text.
    pub fn push(&mut self, text: &str) -> Vec<ChatDelta> {
        let segments = self.splitter.push(text);
        let mut out = Vec::new();
        self.take(segments, &mut out);
        out
    }

    /// The rest, when the answer is complete. Call it once.
    pub fn finish(&mut self) -> Vec<ChatDelta> {
        let segments = self.splitter.finish();
        let mut out = Vec::new();
        self.take(segments, &mut out);
        if let Some(tools) = &mut self.tools {
            tools.finish(&mut out);
            self.n_calls = tools.n_calls();
        }
        out
    }

    fn take(&mut self, segments: Vec<Segment>, out: &mut Vec<ChatDelta>) {
        for segment in segments {
            match segment.kind {
                SegmentKind::Reasoning => self.thought(&segment.text, out),
                SegmentKind::Content => self.content(&segment.text, out),
            }
        }
    }

    fn thought(&mut self, text: &str, out: &mut Vec<ChatDelta>) {
        let text = if self.thought {
            text
        } else {
            text.trim_start()
        };
        let end = text.trim_end().len();
        if end > 0 {
            let mut shown = std::mem::take(&mut self.space);
            shown.push_str(&text[..end]);
            out.push(ChatDelta::Reasoning(shown));
            self.thought = true;
        }
        self.space.push_str(&text[end..]);
    }

    fn content(&mut self, text: &str, out: &mut Vec<ChatDelta>) {
        let text = if self.splitter.has_thought() && !self.answered {
            text.trim_start()
        } else {
            text
        };
        if text.is_empty() {
            return;
        }
        self.answered = true;
        match &mut self.tools {
            Some(tools) => {
                tools.push(text, out);
                self.n_calls = tools.n_calls();
            }
            None => out.push(ChatDelta::Content(text.to_owned())),
        }
    }
}
