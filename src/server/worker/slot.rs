//! One slot: a sequence of the engine, whose it is, and what it does.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::cache::{Holder, State};
use super::embed::Embedding;
use super::job::Choice;
use crate::engine::{Engine, EngineError, Timeline};
use crate::memory::SeqId;
use crate::server::protocol::Scope;

/// What a slot does.
#[derive(Default)]
pub(super) enum Task {
    /// Nothing.
    #[default]
    Idle,
    /// It computes a prompt.
    Prompt(Prompt),
    /// It generates.
    Choice(Box<Choice>),
    /// It computes a text to embed.
    Embed(Box<Embedding>),
}

/// A prompt that is not done.
pub(super) struct Prompt {
    /// Number of its job.
    pub job: u64,
    /// Positions where the state is kept, ascending; those that were reached are gone.
    pub stops: Vec<usize>,
}

/// A sequence with its owner.
pub(super) struct Slot {
    pub timeline: Timeline,
    /// Whose tokens it holds.
    pub owner: Option<Scope>,
    /// Kept states of its tokens, ascending.
    pub states: Vec<Arc<State>>,
    /// When it was used last, by the cache's clock.
    pub used: u64,
    pub task: Task,
}

impl Slot {
    pub fn new(id: u32) -> Self {
        Self {
            // States to go back to are the cache's business.
            timeline: Timeline::new(SeqId(id), 0),
            owner: None,
            states: Vec::new(),
            used: 0,
            task: Task::Idle,
        }
    }

    /// Whether it can take a request.
    pub fn is_idle(&self) -> bool {
        matches!(self.task, Task::Idle)
    }

    /// Number of the job it works for.
    pub fn job(&self) -> Option<u64> {
        match &self.task {
            Task::Prompt(prompt) => Some(prompt.job),
            Task::Choice(choice) => Some(choice.job),
            Task::Idle | Task::Embed(_) => None,
        }
    }

    /// Tokens in memory.
    pub fn n_past(&self) -> usize {
        self.timeline.tokens().len()
    }

    /// Forgets everything.
    pub fn clear(&mut self, engine: &mut Engine) -> Result<(), EngineError> {
        self.states.clear();
        self.owner = None;
        self.timeline.clear(engine)
    }

    /// Its tokens as a prompt's start. While it works, its present state moves on.
    pub fn holder(&self, engine: &Engine) -> Holder<'_> {
        let oldest = engine.memory().oldest(self.timeline.seq()).ok();
        Holder {
            tokens: self.timeline.tokens(),
            states: &self.states,
            oldest: oldest.filter(|_| self.is_idle()).map(|n| n as usize),
            has_logits: self.timeline.logits().is_some(),
            recurrent: engine.memory().is_recurrent(),
        }
    }
}
