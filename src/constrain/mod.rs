//! Constrained output: what a grammar, a schema or a regular expression lets come next.
//!
//! [`Grammars`] compiles a [`GrammarSpec`] for a model's vocabulary into a [`Constrainer`], which the sampler asks.
//! Rules:
//!
//! - Thoughts are free: a grammar begins when the thought has ended.
//! - A text may end exactly where the grammar accepts it.
//! - Nothing fails open: a grammar that met a limit allows no token at all, and [`Constrainer::failure`] says why.
//! - Whatever is compiled may be hostile: sizes, depths and work are bounded, errors say where.

#![forbid(unsafe_code)]

mod answer;
mod calls;
mod error;
mod free;
mod gbnf;
mod limits;
mod vocab;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::chat::{ReasoningSplitter, ReasoningTags, ToolFormat};
use crate::engine::sampling::Constraint;
use crate::tokenizer::Tokenizer;

pub use calls::ToolChoice;
pub use error::ConstrainError;

use answer::Answer;
use vocab::Vocabulary;
use worker::Worker;

/// How the library names a state without a next token.
const NO_TEXT: &str = "NoExtensionBias";

/// A grammar in progress. `allows` and `mask` speak of the token after all those [`Constrainer::advance`] has seen.
pub trait Constrainer: Constraint + Send + std::fmt::Debug {
    /// Takes a token of the answer. False if the grammar cannot go on, which is a bug of the caller.
    fn advance(&mut self, token: u32) -> bool;

    /// Called when a step of the model begins: a good time to compute the next mask on another thread.
    fn prepare(&mut self) {}

    /// Whether nothing more may follow.
    fn is_complete(&self) -> bool;

    /// Why nothing may come next although the text is not complete: a limit was met. The request is an error.
    fn failure(&self) -> Option<&str> {
        None
    }

    /// The same grammar in the same state, for another choice.
    fn fork(&self) -> Box<dyn Constrainer>;
}

/// What an answer must be.
#[derive(Debug, Clone, PartialEq)]
pub enum GrammarSpec {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema allows.
    JsonSchema(Value),
    /// llama.cpp's grammars.
    Gbnf(String),
    /// The lark dialect of llguidance.
    Lark(String),
    /// A regular expression for the whole answer, in the syntax of Rust's `regex`.
    Regex(String),
    /// Calls of functions, in the form of the model.
    ToolCalls {
        /// The form.
        format: ToolFormat,
        /// OpenAI's list of functions.
        tools: Value,
        /// Which calls there must be.
        choice: ToolChoice,
        /// Whether several calls may follow each other.
        parallel: bool,
    },
}

/// Where in the answer a grammar begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// With the first token.
    Now,
    /// With the first token, or after a thought if the answer starts with one.
    AfterReasoning(ReasoningTags),
    /// After the thought that the prompt has begun.
    InReasoning(ReasoningTags),
}

impl Start {
    /// Where a grammar begins in the answer to `prompt`, of a model that may think between `tags`.
    pub fn for_prompt(tags: ReasoningTags, prompt: &str) -> Self {
        if ReasoningSplitter::for_prompt(tags.clone(), prompt).is_reasoning() {
            Self::InReasoning(tags)
        } else {
            Self::AfterReasoning(tags)
        }
    }
}

/// Compiles grammars for one vocabulary. Share it: the tables it builds are large.
pub struct Grammars {
    factory: Arc<ParserFactory>,
    vocabulary: Arc<Vocabulary>,
    worker: Option<Worker>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// Builds the tables for a vocabulary.
    ///
    /// # Errors
    /// [`ConstrainError::Vocabulary`].
    pub fn new(tokenizer: &Arc<Tokenizer>) -> Result<Self, ConstrainError> {
        let (env, vocabulary) = vocab::build(tokenizer)?;
        let mut factory =
            ParserFactory::new_simple(&env).map_err(|e| ConstrainError::Vocabulary {
                reason: worker::message(&e.to_string()),
            })?;
        factory.quiet();
        limits::set(factory.limits_mut());
        Ok(Self {
            factory: Arc::new(factory),
            vocabulary: Arc::new(vocabulary),
            worker: Worker::start(),
        })
    }

    /// Compiles a grammar. It takes milliseconds, for hostile ones up to seconds: do not call it where that matters.
    ///
    /// # Errors
    /// What is wrong with the grammar, and where.
    pub fn compile(
        &self,
        spec: &GrammarSpec,
        start: Start,
    ) -> Result<Box<dyn Constrainer>, ConstrainError> {
        // Before anything walks it.
        limits::check(spec)?;
        if let GrammarSpec::ToolCalls {
            tools,
            choice: ToolChoice::Auto,
            ..
        } = spec
        {
            calls::check(tools)?;
            return Ok(Box::new(free::Free));
        }
        let (factory, vocabulary) = (Arc::clone(&self.factory), Arc::clone(&self.vocabulary));
        let kind = spec.clone();
        // The first mask too: what cannot even begin is the grammar's fault, and better said at once.
        let mut matcher = limits::bounded(move |stop| {
            let parser = factory.create_parser(grammar(&kind, &vocabulary.tokenizer)?);
            let parser = parser.map_err(|e| kind.error(&e.to_string()))?;
            let mut matcher = Matcher::new(Ok(parser)).into_cancellable();
            if let Some(handle) = matcher.cancellation_handle() {
                // Set once, here.
                let _ = stop.set(handle);
            }
            match matcher.compute_mask_or_eos().map_err(|e| e.to_string()) {
                Ok(_) => Ok(matcher),
                Err(e) if e.starts_with(NO_TEXT) => Err(kind.error("no text fits it")),
                Err(e) => Err(kind.error(&e)),
            }
        })?;
        for warning in matcher.grammar_warnings() {
            tracing::debug!("grammar: {warning}");
        }
        Ok(Box::new(Answer::new(
            Arc::clone(&self.vocabulary),
            self.worker.clone(),
            matcher,
            start,
        )))
    }
}

/// The grammar in the library's form.
fn grammar(spec: &GrammarSpec, tokenizer: &Tokenizer) -> Result<TopLevelGrammar, ConstrainError> {
    Ok(match spec {
        GrammarSpec::JsonObject => {
            TopLevelGrammar::from_json_schema(limits::schema(&json!({"type": "object"}))?)
        }
        GrammarSpec::JsonSchema(schema) => {
            TopLevelGrammar::from_json_schema(limits::schema(schema)?)
        }
        GrammarSpec::Gbnf(text) => {
            let find = |text: &str| tokenizer.token_id(text);
            TopLevelGrammar::from_lark(gbnf::to_lark(text, &find)?)
        }
        GrammarSpec::Lark(text) => {
            limits::text("lark grammar", text)?;
            TopLevelGrammar::from_lark(text.clone())
        }
        GrammarSpec::Regex(text) => {
            limits::text("regular expression", text)?;
            TopLevelGrammar::from_regex(text)
        }
        GrammarSpec::ToolCalls {
            format,
            tools,
            choice,
            parallel,
        } => {
            let control = |text: &str| {
                tokenizer
                    .token_id(text)
                    .filter(|&id| tokenizer.is_control(id))
            };
            let lark = calls::to_lark(*format, tools, choice, *parallel, &control)?;
            TopLevelGrammar::from_lark(lark)
        }
    })
}

impl GrammarSpec {
    /// The library's error as ours.
    fn error(&self, error: &str) -> ConstrainError {
        let message = worker::message(error);
        match self {
            Self::JsonObject | Self::JsonSchema(_) => ConstrainError::Schema { message },
            Self::Lark(_) => ConstrainError::Lark { message },
            Self::Regex(_) => ConstrainError::Regex { message },
            // The converter wrote what is compiled, so its lines say nothing to the user.
            Self::Gbnf(_) => ConstrainError::Gbnf {
                line: 1,
                column: 1,
                message: message.lines().next().unwrap_or_default().to_owned(),
            },
            Self::ToolCalls { .. } => ConstrainError::Tools {
                message: message.lines().next().unwrap_or_default().to_owned(),
            },
        }
    }
}
