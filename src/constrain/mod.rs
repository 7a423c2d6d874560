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
mod lazy;
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
use lazy::{Lazy, Opener};
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
        /// What an answer without a call must be: JSON. With [`ToolChoice::Auto`] only; without it such an answer
        /// is free, and a call is bound once it has begun.
        answer: Option<Box<GrammarSpec>>,
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
        match spec {
            GrammarSpec::ToolCalls {
                format,
                tools,
                choice: ToolChoice::Auto,
                parallel,
                answer: None,
            } => self.lazy(*format, tools, *parallel, start),
            GrammarSpec::ToolCalls {
                answer: Some(answer),
                ..
            } => {
                let compiled = self.whole(spec, start.clone());
                // A schema that is at fault says so itself.
                compiled.or_else(|e| self.whole(answer, start).and(Err(e)))
            }
            _ => self.whole(spec, start),
        }
    }

    /// A grammar that holds from the start.
    fn whole(
        &self,
        spec: &GrammarSpec,
        start: Start,
    ) -> Result<Box<dyn Constrainer>, ConstrainError> {
        let kind = spec.clone();
        let matcher = self.matcher(spec.clone(), b"", move |t| grammar(&kind, t))?;
        Ok(Box::new(self.answer(matcher, start)))
    }

    /// Calls that are bound once they have begun.
    fn lazy(
        &self,
        format: ToolFormat,
        tools: &Value,
        parallel: bool,
        start: Start,
    ) -> Result<Box<dyn Constrainer>, ConstrainError> {
        calls::check(tools)?;
        let mut openers = Vec::new();
        for &text in format.openers() {
            let spec = GrammarSpec::ToolCalls {
                format,
                tools: tools.clone(),
                choice: ToolChoice::Required,
                parallel,
                answer: None,
            };
            let tools = tools.clone();
            let make = move |tokenizer: &Tokenizer| {
                let opened = calls::Root::Opened { text, parallel };
                calls::to_lark(format, &tools, opened, &control(tokenizer))
                    .map(TopLevelGrammar::from_lark)
            };
            let rest = self.matcher(spec, text.as_bytes(), make)?;
            let rest = self.answer(rest, Start::Now);
            openers.push(Opener { text, rest });
        }
        if openers.is_empty() || tools.as_array().is_some_and(Vec::is_empty) {
            return Ok(Box::new(free::Free));
        }
        let vocabulary = Arc::clone(&self.vocabulary);
        Ok(Box::new(Lazy::new(vocabulary, openers, parallel, start)))
    }

    fn answer(&self, matcher: Matcher, start: Start) -> Answer {
        let vocabulary = Arc::clone(&self.vocabulary);
        Answer::new(vocabulary, self.worker.clone(), matcher, start)
    }

    /// Compiles what `make` gives for `spec`, as far as after `begun`.
    fn matcher(
        &self,
        spec: GrammarSpec,
        begun: &'static [u8],
        make: impl FnOnce(&Tokenizer) -> Result<TopLevelGrammar, ConstrainError> + Send + 'static,
    ) -> Result<Matcher, ConstrainError> {
        let (factory, vocabulary) = (Arc::clone(&self.factory), Arc::clone(&self.vocabulary));
        let mut matcher = limits::bounded(move |stop| {
            let tokenizer = &vocabulary.tokenizer;
            let parser = factory.create_parser(make(tokenizer)?);
            let parser = parser.map_err(|e| spec.error(&e.to_string()))?;
            let mut matcher = Matcher::new(Ok(parser)).into_cancellable();
            if let Some(handle) = matcher.cancellation_handle() {
                // Set once, here.
                let _ = stop.set(handle);
            }
            if !begun.is_empty() {
                let token = std::str::from_utf8(begun).ok().and_then(control(tokenizer));
                let tokens = token.map(|id| vec![id]);
                let tokens = tokens.or_else(|| answer::split(&matcher, begun));
                let fed = matcher.consume_tokens(&tokens.unwrap_or_default());
                fed.map_err(|e| spec.error(&e.to_string()))?;
            }
            // The first mask too: what cannot even begin is the grammar's fault, and better said at once.
            match matcher.compute_mask_or_eos().map_err(|e| e.to_string()) {
                Ok(_) => {}
                Err(e) if e.starts_with(NO_TEXT) => return Err(spec.error("no text fits it")),
                Err(e) => return Err(spec.error(&e)),
            }
            limits::probe(&matcher).map_err(|e| spec.error(&e))?;
            Ok(matcher)
        })?;
        for warning in matcher.grammar_warnings() {
            tracing::debug!("grammar: {warning}");
        }
        Ok(matcher)
    }
}

/// The control token of a text, where there is one.
fn control(tokenizer: &Tokenizer) -> impl Fn(&str) -> Option<u32> {
    |text| {
        let id = tokenizer.token_id(text);
        id.filter(|&id| tokenizer.is_control(id))
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
            answer,
        } => {
            let root = calls::Root::Calls {
                choice,
                parallel: *parallel,
                answer: answer.as_deref(),
            };
            let lark = calls::to_lark(*format, tools, root, &control(tokenizer))?;
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
