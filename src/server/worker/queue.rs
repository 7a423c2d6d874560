//! Requests before they have a slot: what can be refused at once, who is next, and how a request begins.

#![forbid(unsafe_code)]

use std::time::Instant;

use super::cache::{Way, boundaries_to_keep};
use super::job::Job;
use super::place::{Place, Source};
use super::run::Worker;
use super::slot::{Prompt, Task};
use crate::engine::sampling::Sampler;
use crate::engine::speculation::Speculation;
use crate::server::protocol::{Command, Embed, Event, Generate, RequestError};

/// A request without a slot.
pub(super) enum Waiting {
    Text(Box<Generate>, Instant),
    Embed(Box<Embed>),
}

impl Waiting {
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Text(request, _) => request.events.is_closed(),
            Self::Embed(embed) => embed.reply.is_closed(),
        }
    }

    pub fn refuse(self, error: RequestError) {
        // Whoever does not listen any more needs no answer.
        match self {
            Self::Text(request, _) => drop(request.events.send(Event::Failed(error))),
            Self::Embed(embed) => drop(embed.reply.send(Err(error))),
        }
    }
}

impl Worker {
    pub(super) fn accept(&mut self, command: Command) {
        match command {
            Command::Generate(request) => match self.check(&request) {
                Ok(()) => self.queue.push_back(Waiting::Text(request, Instant::now())),
                Err(e) => {
                    self.status.leave_queue();
                    Waiting::Text(request, Instant::now()).refuse(e);
                }
            },
            Command::Embed(embed) => match self.check_prompt(&embed.prompt) {
                Ok(()) => self.queue.push_back(Waiting::Embed(embed)),
                Err(e) => {
                    self.status.leave_queue();
                    Waiting::Embed(embed).refuse(e);
                }
            },
            Command::Slot(command) => self.files.add(command),
            Command::Shutdown => {
                self.stopping = true;
                self.status.set_stopping();
                for waiting in self.queue.drain(..) {
                    self.status.leave_queue();
                    let why = "the server is shutting down".to_owned();
                    waiting.refuse(RequestError::Unavailable(why));
                }
            }
        }
    }

    /// What can be said about a request before it gets a slot.
    fn check(&self, request: &Generate) -> Result<(), RequestError> {
        let invalid = |e: &dyn std::fmt::Display| RequestError::Invalid(e.to_string());
        self.check_prompt(&request.prompt)?;
        if request.n == 0 {
            return Err(RequestError::Invalid("n must be at least 1".to_owned()));
        }
        if let Some(slot) = request.slot.filter(|&s| s as usize >= self.slots.len()) {
            return Err(no_slot(slot, self.slots.len()));
        }
        let params = request.speculation.as_ref().unwrap_or(&self.speculation);
        Speculation::new(params.clone(), &self.engine).map_err(|e| invalid(&e))?;
        Sampler::new(&request.sampling, &self.vocab, 1).map_err(|e| invalid(&e))?;
        Ok(())
    }

    fn check_prompt(&self, prompt: &[u32]) -> Result<(), RequestError> {
        let n_ctx = self.engine.n_ctx() as usize;
        if prompt.is_empty() {
            return Err(RequestError::Invalid("the prompt is empty".to_owned()));
        }
        if prompt.len() > n_ctx {
            let n_prompt = prompt.len();
            return Err(RequestError::PromptTooLong { n_prompt, n_ctx });
        }
        let n_vocab = self.engine.model().n_vocab();
        match prompt.iter().find(|&&t| t >= n_vocab) {
            Some(token) => Err(RequestError::Invalid(format!(
                "token {token} is outside the vocabulary of {n_vocab}"
            ))),
            None => Ok(()),
        }
    }

    /// Gives free slots to those who wait, first come, first served; who asked for a busy slot lets others pass.
    pub(super) fn begin_waiting(&mut self) {
        let mut at = 0;
        while at < self.queue.len() && !self.slots.iter().all(|s| !s.is_idle()) {
            let place = match &self.queue[at] {
                Waiting::Text(request, _) => self.place(request),
                Waiting::Embed(_) => self.any_place(),
            };
            let Some(place) = place else {
                at += 1;
                continue;
            };
            self.status.leave_queue();
            match self.queue.remove(at) {
                Some(Waiting::Text(request, arrived)) => self.begin(request, arrived, &place),
                Some(Waiting::Embed(embed)) => self.begin_embedding(*embed, &place),
                None => break,
            }
        }
    }

    fn begin(&mut self, request: Box<Generate>, arrived: Instant, place: &Place) {
        let begun = Instant::now();
        let n_cached = match self.occupy(place, request.scope) {
            Ok(n) => n,
            Err(e) => {
                let waiting = Waiting::Text(request, arrived);
                return waiting.refuse(RequestError::Internal(e.to_string()));
            }
        };
        self.tell_reuse(&request, place, n_cached);
        let metrics = self.status.metrics();
        metrics.queue_time.observe((begun - arrived).as_secs_f64());
        metrics.prompt_tokens_cached.inc_by(n_cached as u64);
        let id = self.next_job;
        self.next_job += 1;
        let mut stops = Vec::new();
        if request.cache_prompt {
            stops = boundaries_to_keep(&request.boundaries, n_cached, request.prompt.len());
        }
        let job = Job {
            request,
            arrived,
            begun,
            n_cached,
            prefilled: None,
            next_choice: 0,
            live: 1,
            prompt_end: None,
        };
        job.send(Event::Started {
            slot: place.target as u32,
            n_cached,
        });
        job.report(n_cached);
        let done = n_cached == job.request.prompt.len();
        self.jobs.insert(id, job);
        self.slots[place.target].task = Task::Prompt(Prompt { job: id, stops });
        if done {
            self.end_prompt(place.target);
        }
    }

    /// Says how much of a prompt was in memory, and why not more.
    fn tell_reuse(&self, request: &Generate, place: &Place, n_cached: usize) {
        let metrics = self.status.metrics();
        let common = place.found.common;
        let (label, why) = match () {
            () if !request.cache_prompt => ("disabled", "the request wants none"),
            () if common == 0 => ("other", "no conversation of this scope starts like it"),
            () if n_cached + 1 >= common.min(request.prompt.len()) => ("", "all there is"),
            () if matches!(place.found.way, Way::Nothing) => {
                ("no_state", "no state is kept before the first difference")
            }
            () => ("", "no state is kept nearer to the first difference"),
        };
        if n_cached > 0 {
            metrics.cache_hits.inc();
        } else {
            let label = if label.is_empty() { "other" } else { label };
            let label = [("reason", label.to_owned())];
            metrics.cache_misses.get_or_create(&label).inc();
        }
        tracing::info!(
            request = request.id,
            slot = place.target,
            prompt = request.prompt.len(),
            reused = n_cached,
            in_common = common,
            why,
            "prompt"
        );
    }

    fn any_place(&self) -> Option<Place> {
        let target = self.empty_slot().or_else(|| self.oldest_idle_slot())?;
        let found = super::cache::Found {
            n: 0,
            common: 0,
            way: Way::Nothing,
        };
        Some(Place {
            target,
            source: Source::Nobody,
            found,
        })
    }
}

/// There is no such slot.
pub(super) fn no_slot(slot: u32, n_slots: usize) -> RequestError {
    RequestError::NotFound(format!("slot {slot} does not exist: there are {n_slots}"))
}
