//! One request on its way: the prompt it shares, and its choices.

#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache::State;
use crate::constrain::Constrainer;
use crate::engine::sampling::{Constraint, LogProbs, Sampler, TokenLogProb};
use crate::engine::speculation::{Progress, Speculation};
use crate::engine::{Finish, StopFilter};
use crate::server::metrics::Metrics;
use crate::server::protocol::{
    Event, Events, Finished, Generate, PrefillProgress, RequestError, StopReason, Timings,
    TokenEvent,
};
use crate::tokenizer::{StreamDecoder, Tokenizer};

/// A request that has a slot.
pub(super) struct Job {
    pub request: Box<Generate>,
    pub arrived: Instant,
    pub begun: Instant,
    /// Prompt tokens that were in memory.
    pub n_cached: usize,
    /// When the whole prompt was there.
    pub prefilled: Option<Instant>,
    /// The next choice to begin.
    pub next_choice: u32,
    /// Choices in slots, the prompt counting as one.
    pub live: u32,
    /// The state at the prompt's end, for choices that begin later.
    pub prompt_end: Option<Arc<State>>,
}

impl Job {
    /// Whether nobody listens any more.
    pub fn is_cancelled(&self) -> bool {
        self.request.events.is_closed()
    }

    /// Tells the client. That it may have left is found out before the next step.
    pub fn send(&self, event: Event) {
        let _ = self.request.events.send(event);
    }

    /// Reports prefill, if asked for.
    pub fn report(&self, processed: usize) {
        if self.request.progress {
            self.send(Event::Progress(PrefillProgress {
                total: self.request.prompt.len(),
                cached: self.n_cached,
                processed,
                time: self.begun.elapsed(),
            }));
        }
    }

    /// Times known when the prompt is done.
    pub fn timings(&self) -> Timings {
        let end = self.prefilled.unwrap_or_else(Instant::now);
        Timings {
            cache_n: self.n_cached,
            prompt_n: self.request.prompt.len() - self.n_cached,
            prompt: end - self.begun,
            queued: self.begun - self.arrived,
            ..Timings::default()
        }
    }
}

/// A choice that generates.
pub(super) struct Choice {
    /// Number of its job.
    pub job: u64,
    pub sampler: Sampler,
    pub speculation: Speculation,
    pub progress: Progress,
    pub voice: Voice,
}

/// Why the receiver of tokens wanted no more.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Word(String),
    Complete,
    Time,
    /// The grammar refused a token that it had allowed.
    Broken(u32),
}

/// Turns a choice's tokens into events.
pub(super) struct Voice {
    pub choice: u32,
    pub constrainer: Option<Box<dyn Constrainer>>,
    pub timings: Timings,
    decoder: StreamDecoder,
    stop: StopFilter,
    n_logprobs: Option<u32>,
    post_sampling: bool,
    logprobs: Option<LogProbs>,
    max_time: Option<Duration>,
    arrived: Instant,
    begun: Instant,
    latest: Option<Instant>,
    end: Option<End>,
    events: Events,
    metrics: Arc<Metrics>,
}

impl Voice {
    pub fn new(
        job: &mut Job,
        choice: u32,
        tokenizer: &Arc<Tokenizer>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        // The last choice takes the request's own grammar.
        let constrainer = match &mut job.request.constrainer {
            Some(grammar) if choice + 1 < job.request.n => Some(grammar.fork()),
            last => last.take(),
        };
        let request = &job.request;
        Self {
            choice,
            constrainer,
            timings: job.timings(),
            decoder: tokenizer.detokenizer(request.special),
            stop: StopFilter::new(&request.stop),
            n_logprobs: request.logprobs,
            post_sampling: request.post_sampling,
            logprobs: None,
            max_time: request.max_time,
            arrived: job.arrived,
            begun: Instant::now(),
            latest: None,
            end: None,
            events: request.events.clone(),
            metrics: Arc::clone(metrics),
        }
    }

    /// Counts a token, and the time it took.
    fn count(&mut self) {
        let now = Instant::now();
        let metrics = &self.metrics;
        let before = self.latest.replace(now);
        match before {
            None if self.choice == 0 => {
                let waited = now - self.arrived;
                metrics.time_to_first_token.observe(waited.as_secs_f64());
            }
            None => {}
            Some(before) => metrics.inter_token.observe((now - before).as_secs_f64()),
        }
        let taken = now - before.unwrap_or(self.begun);
        metrics.tokens_predicted.inc();
        metrics.tokens_predicted_seconds.inc_by(taken.as_secs_f64());
        self.timings.predicted_n += 1;
        self.timings.predicted = now - self.begun;
    }

    fn is_late(&self) -> bool {
        // The first token is free.
        let limit = self.max_time.filter(|_| self.timings.predicted_n > 1);
        limit.is_some_and(|limit| self.timings.predicted > limit)
    }

    /// The last words of a choice that ended in this way.
    pub fn finish(
        mut self,
        finish: Finish,
        seed: u64,
        slot: u32,
    ) -> Result<Finished, RequestError> {
        let rest = self.decoder.finish();
        let mut text = self.stop.push(&rest);
        if let Some(End::Broken(token)) = self.end {
            return Err(RequestError::Internal(format!(
                "the grammar allowed token {token} and then refused it"
            )));
        }
        let hit = self.stop.hit().map(str::to_owned);
        text += &self.stop.finish();
        let reason = match (hit, self.end, finish) {
            (Some(word), _, _) | (None, Some(End::Word(word)), _) => StopReason::Word(word),
            (None, Some(End::Time), _) | (None, None, Finish::Length | Finish::ContextFull) => {
                StopReason::Limit
            }
            (None, _, _) => StopReason::Eos,
        };
        Ok(Finished {
            choice: self.choice,
            reason,
            text,
            seed,
            slot,
            timings: self.timings,
        })
    }
}

impl crate::engine::speculation::Sink for Voice {
    fn drawn(&mut self, token: u32, logits: &[f32], sampler: &Sampler) {
        self.logprobs = self.n_logprobs.map(|n| {
            if self.post_sampling {
                after_sampling(token, sampler, n as usize)
            } else {
                LogProbs::of_row(logits, token, n as usize)
            }
        });
    }

    fn token(&mut self, token: u32) -> ControlFlow<()> {
        if let Some(grammar) = &mut self.constrainer
            && !grammar.advance(token)
        {
            self.end = Some(End::Broken(token));
            return ControlFlow::Break(());
        }
        let text = self.decoder.push(token);
        let text = self.stop.push(&text);
        self.count();
        // A client that has left is found out before the next step.
        let _ = self.events.send(Event::Token(Box::new(TokenEvent {
            choice: self.choice,
            token,
            text,
            logprobs: self.logprobs.take(),
            timings: self.timings.clone(),
        })));
        if let Some(word) = self.stop.hit() {
            self.end = Some(End::Word(word.to_owned()));
        } else if self.constrainer.as_ref().is_some_and(|c| c.is_complete()) {
            self.end = Some(End::Complete);
        } else if self.is_late() {
            self.end = Some(End::Time);
        }
        match self.end {
            None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        }
    }

    fn constraint(&mut self) -> Option<&mut dyn Constraint> {
        let grammar = self.constrainer.as_mut()?;
        Some(&mut **grammar)
    }
}

/// Probabilities among the candidates that the chain left.
fn after_sampling(token: u32, sampler: &Sampler, n: usize) -> LogProbs {
    let chosen = sampler.candidates().iter().find(|c| c.token == token);
    let entry = |token, prob: f32| TokenLogProb {
        token,
        logprob: prob.ln(),
    };
    LogProbs {
        chosen: entry(token, chosen.map_or(0.0, |c| c.prob)),
        top: sampler
            .top_candidates(n)
            .iter()
            .map(|c| entry(c.token, c.prob))
            .collect(),
    }
}
