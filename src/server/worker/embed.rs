//! Embeddings: the mean over a text's tokens of the hidden states after the final norm.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::budget::Load;
use super::place::Place;
use super::run::Worker;
use super::slot::Task;
use crate::engine::EngineError;
use crate::server::protocol::{Embed, RequestError};

/// A text that is being embedded.
pub(super) struct Embedding {
    request: Embed,
    /// Sums over the tokens that are done.
    sum: Vec<f64>,
}

impl Embedding {
    /// Request id.
    pub fn id(&self) -> &str {
        &self.request.id
    }

    /// Tokens of the text.
    pub fn n_prompt(&self) -> usize {
        self.request.prompt.len()
    }

    /// Whether nobody listens any more.
    pub fn is_cancelled(&self) -> bool {
        self.request.reply.is_closed()
    }

    fn add(&mut self, hidden: &[f32]) {
        for row in hidden.chunks_exact(self.sum.len().max(1)) {
            for (sum, &value) in self.sum.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
        }
    }

    fn reply(self, error: Option<RequestError>) {
        let n = self.request.prompt.len() as f64;
        let mean = || self.sum.iter().map(|s| (s / n) as f32).collect();
        let answer = error.map_or_else(|| Ok(mean()), Err);
        // Whoever does not listen any more needs no answer.
        let _ = self.request.reply.send(answer);
    }
}

impl Worker {
    /// Gives a slot to a text; its conversation is kept where there is room.
    pub(super) fn begin_embedding(&mut self, request: Embed, place: &Place) {
        let index = place.target;
        let emptied = self
            .save_conversation(index)
            .and_then(|()| self.slots[index].clear(&mut self.engine));
        let n_embd = self.engine.model().sizes().n_embd as usize;
        let embedding = Embedding {
            request,
            sum: vec![0.0; n_embd],
        };
        if let Err(e) = emptied {
            return embedding.reply(Some(RequestError::Internal(e.to_string())));
        }
        self.slots[index].task = Task::Embed(Box::new(embedding));
    }

    /// Whether a step leaves prompts out because texts to embed have their turn: beside streams there is time for one
    /// of both.
    pub(super) fn embeds_now(&self) -> bool {
        let is = |wanted: fn(&Task) -> bool| self.slots.iter().any(|slot| wanted(&slot.task));
        let prompts = is(|task| matches!(task, Task::Prompt(_)));
        is(|task| matches!(task, Task::Embed(_))) && (!prompts || self.turn % 2 == 1)
    }

    /// Computes a part of the text that waits longest. Streams that could wait this long when the step was `planned`
    /// wait for both.
    pub(super) fn embed(&mut self, time: Duration, planned: Instant) {
        if self.n_choices() > 0 && !self.embeds_now() {
            return;
        }
        let waiting =
            (0..self.slots.len()).filter(|&i| matches!(self.slots[i].task, Task::Embed(_)));
        let Some(index) = waiting.min_by_key(|&i| self.slots[i].used) else {
            return;
        };
        let Task::Embed(mut embedding) = std::mem::take(&mut self.slots[index].task) else {
            return;
        };
        let load = Load {
            streams: self.n_choices(),
            depth: self.slots[index].n_past(),
        };
        let n = match load.streams {
            0 => self.engine.config().n_ubatch as usize,
            _ => self.embed_budget.tokens(load, time),
        };
        let computed = self.embed_part(index, &mut embedding, n);
        if load.streams > 0 && computed.is_ok() {
            let n = self.slots[index].n_past() - load.depth;
            self.embed_budget.learn(load, n, planned.elapsed());
        }
        match computed {
            Ok(false) => self.slots[index].task = Task::Embed(embedding),
            Ok(true) => {
                self.forget_slot(index);
                embedding.reply(None);
                self.count_end("stop");
            }
            Err(e) => {
                self.forget_slot(index);
                embedding.reply(Some(RequestError::Internal(e.to_string())));
                self.count_end("failed");
            }
        }
    }

    /// Computes the next `n` tokens; gives whether the text is done.
    fn embed_part(
        &mut self,
        index: usize,
        embedding: &mut Embedding,
        n: usize,
    ) -> Result<bool, EngineError> {
        let slot = &mut self.slots[index];
        let (start, prompt) = (slot.n_past(), &embedding.request.prompt);
        let end = (start + n).min(prompt.len());
        let hidden = self
            .engine
            .hidden(slot.timeline.seq(), &prompt[start..end])?;
        slot.timeline.extend(&prompt[start..end], None);
        let done = end == prompt.len();
        embedding.add(&hidden);
        Ok(done)
    }

    pub(super) fn forget_slot(&mut self, index: usize) {
        if let Err(e) = self.slots[index].clear(&mut self.engine) {
            tracing::error!(%e, "a slot cannot be emptied");
        }
    }
}
