//! One answer as it grows.

use std::sync::Arc;

use crate::chat::{ChatDelta, ChatParser};
use crate::engine::sampling::LogProbs;
use crate::server::api::request::chat::Reading;
use crate::server::protocol::{Finished, StopReason, Timings, TokenEvent};
use crate::tokenizer::Tokenizer;

use super::numbers::Usage;

/// A call of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// Links the call to its result.
    pub id: String,
    /// The function.
    pub name: String,
    /// JSON, as the model wrote it.
    pub arguments: String,
}

/// What a token, or the end, added to an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Pieces of thought, text and calls.
    pub deltas: Vec<ChatDelta>,
}

impl Change {
    /// The text of a change that has no thoughts and calls.
    pub fn text(&self) -> String {
        let text = |delta: &ChatDelta| match delta {
            ChatDelta::Content(text) => text.clone(),
            _ => String::new(),
        };
        self.deltas.iter().map(text).collect()
    }
}

/// One choice for one prompt.
#[derive(Debug)]
pub struct Answer {
    /// Which one, over all prompts and choices.
    pub index: usize,
    /// Text of the prompt.
    pub prompt: Arc<str>,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Of these, in memory before.
    pub n_cached: usize,
    /// Whether this is the first choice for its prompt, which counts the prompt.
    pub first: bool,
    /// The slot it runs on.
    pub slot: Option<u32>,
    /// Text of the answer, thoughts and calls aside.
    pub content: String,
    /// The thought before it.
    pub reasoning: String,
    /// Calls of functions.
    pub calls: Vec<Call>,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Log probabilities of each token.
    pub logprobs: Vec<LogProbs>,
    /// Tokens of the thought.
    pub n_reasoning: usize,
    /// Tokens and log probabilities that streams have told of.
    pub told: usize,
    /// Its end.
    pub finished: Option<Box<Finished>>,
    /// Times at the last token.
    pub timings: Timings,
    /// Texts of tokens.
    pub tokenizer: Arc<Tokenizer>,
    parser: Option<ChatParser>,
    only_one_call: bool,
}

impl Answer {
    /// An answer that has not begun. `reading`: how its text is taken apart, if it is.
    pub fn new(
        index: usize,
        prompt: Arc<str>,
        n_prompt: usize,
        first: bool,
        tokenizer: Arc<Tokenizer>,
        reading: Option<&Reading>,
    ) -> Self {
        let parser = reading.map(|r| {
            let tags = r.tags.clone();
            let parser = ChatParser::new(r.format, tags, &prompt, r.tools.is_some());
            match &r.tools {
                Some(tools) => parser.with_tools(tools),
                None => parser,
            }
        });
        Self {
            index,
            prompt,
            n_prompt,
            n_cached: 0,
            first,
            slot: None,
            content: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            n_reasoning: 0,
            told: 0,
            finished: None,
            timings: Timings::default(),
            tokenizer,
            parser,
            only_one_call: reading.is_some_and(|r| !r.parallel),
        }
    }

    /// Takes a token.
    pub fn token(&mut self, event: TokenEvent) -> Change {
        self.tokens.push(event.token);
        self.logprobs.extend(event.logprobs);
        self.timings = event.timings;
        let change = self.text(&event.text);
        let thinks = self.parser.as_ref().is_some_and(ChatParser::is_reasoning);
        self.n_reasoning += usize::from(thinks);
        change
    }

    /// Takes the end.
    pub fn finish(&mut self, finished: Box<Finished>) -> Change {
        let mut change = self.text(&finished.text);
        if let Some(parser) = &mut self.parser {
            let rest = parser.finish();
            let rest = self.keep(rest);
            change.deltas.extend(rest);
        }
        self.timings = finished.timings.clone();
        self.slot = Some(finished.slot);
        self.finished = Some(finished);
        change
    }

    fn text(&mut self, text: &str) -> Change {
        if text.is_empty() {
            return Change::default();
        }
        let deltas = match &mut self.parser {
            Some(parser) => parser.push(text),
            None => vec![ChatDelta::Content(text.to_owned())],
        };
        Change {
            deltas: self.keep(deltas),
        }
    }

    /// Adds the pieces to the answer; those of calls beyond the allowed one are dropped.
    fn keep(&mut self, mut deltas: Vec<ChatDelta>) -> Vec<ChatDelta> {
        if self.only_one_call {
            deltas.retain(|delta| {
                !matches!(delta, ChatDelta::ToolCall { index, .. } | ChatDelta::Arguments { index, .. } if *index > 0)
            });
        }
        for delta in &deltas {
            match delta {
                ChatDelta::Reasoning(text) => self.reasoning.push_str(text),
                ChatDelta::Content(text) => self.content.push_str(text),
                ChatDelta::ToolCall { id, name, .. } => self.calls.push(Call {
                    id: id.clone(),
                    name: name.clone(),
                    arguments: String::new(),
                }),
                ChatDelta::Arguments { index, text } => {
                    if let Some(call) = self.calls.get_mut(*index) {
                        call.arguments.push_str(text);
                    }
                }
            }
        }
        deltas
    }

    /// Why it ended.
    pub fn reason(&self) -> Option<&StopReason> {
        self.finished.as_ref().map(|finished| &finished.reason)
    }

    /// OpenAI's reason of the end.
    pub fn finish_reason(&self) -> Option<&'static str> {
        self.reason().map(|reason| match reason {
            StopReason::Limit => "length",
            _ if !self.calls.is_empty() => "tool_calls",
            _ => "stop",
        })
    }

    /// Tokens and log probabilities that no chunk of a stream has told of; they count as told from now on.
    pub fn untold(&mut self) -> (&[u32], &[LogProbs]) {
        let from = std::mem::replace(&mut self.told, self.tokens.len());
        let probs = self.logprobs.get(from..).unwrap_or_default();
        (self.tokens.get(from..).unwrap_or_default(), probs)
    }

    /// Tokens generated.
    pub fn n_predicted(&self) -> usize {
        self.tokens.len().max(self.timings.predicted_n)
    }
}

/// Tokens of all answers of a request.
pub fn usage(answers: &[Answer]) -> Usage {
    answers.iter().fold(Usage::default(), |sum, answer| Usage {
        prompt: sum.prompt + if answer.first { answer.n_prompt } else { 0 },
        cached: sum.cached + if answer.first { answer.n_cached } else { 0 },
        completion: sum.completion + answer.n_predicted(),
        reasoning: sum.reasoning + answer.n_reasoning,
    })
}
