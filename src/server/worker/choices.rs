//! Choices: how they begin where the prompt ends, and how they end.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use super::job::{Choice, Voice};
use super::place::two;
use super::run::Worker;
use super::slot::Task;
use crate::engine::sampling::Sampler;
use crate::engine::speculation::{Progress, Speculation};
use crate::engine::{EngineError, Finish};
use crate::server::metrics::Metrics;
use crate::server::protocol::{Event, RequestError, StopReason};

impl Worker {
    /// The prompt of a slot is in memory: begins the first choice here, and others in slots that are free.
    pub(super) fn end_prompt(&mut self, index: usize) {
        let Some(id) = self.slots[index].job() else {
            return;
        };
        if let Err(e) = self.begin_choices(index, id) {
            self.fail_job(id, e);
        }
    }

    fn begin_choices(&mut self, index: usize, id: u64) -> Result<(), RequestError> {
        let internal = |e: EngineError| RequestError::Internal(e.to_string());
        let Some(job) = self.jobs.get_mut(&id) else {
            return Ok(());
        };
        job.prefilled = Some(Instant::now());
        let (n, scope) = (job.request.n, job.request.scope);
        if n > 1 {
            let state = self.present_state(index).map_err(internal)?;
            if let Some(job) = self.jobs.get_mut(&id) {
                job.prompt_end = Some(state);
            }
        }
        for _ in 1..n {
            let place = self.empty_slot().or_else(|| self.oldest_idle_slot());
            let Some(other) = place else {
                break;
            };
            self.save_conversation(other).map_err(internal)?;
            let Some((from, to)) = two(&mut self.slots, index, other) else {
                break;
            };
            to.owner = Some(scope);
            to.states = from.states.clone();
            let copied = to.timeline.copy_from(&mut self.engine, &from.timeline);
            copied.map_err(internal)?;
            if let Some(job) = self.jobs.get_mut(&id) {
                job.live += 1;
            }
            self.begin_choice(other, id)?;
        }
        self.begin_choice(index, id)
    }

    /// Begins the next choice of a job in a slot that holds its prompt.
    fn begin_choice(&mut self, index: usize, id: u64) -> Result<(), RequestError> {
        let Some(job) = self.jobs.get_mut(&id) else {
            return Ok(());
        };
        let number = job.next_choice;
        job.next_choice += 1;
        let request = &job.request;
        let mut sampling = request.sampling.clone();
        sampling.seed = sampling.seed.map(|s| s.wrapping_add(u64::from(number)));
        let n_ctx = self.engine.n_ctx() as usize;
        let sampler = Sampler::new(&sampling, &self.vocab, n_ctx);
        let mut sampler = sampler.map_err(|e| RequestError::Invalid(e.to_string()))?;
        sampler.accept_prompt(&request.prompt);
        let params = request.speculation.as_ref().unwrap_or(&self.speculation);
        let speculation = Speculation::new(params.clone(), &self.engine)
            .map_err(|e| RequestError::Invalid(e.to_string()))?;
        let tokenizer = self.engine.model().tokenizer();
        self.slots[index].task = Task::Choice(Box::new(Choice {
            job: id,
            sampler,
            speculation,
            progress: Progress::new(request.n_predict),
            voice: Voice::new(job, number, tokenizer, self.status.metrics()),
        }));
        Ok(())
    }

    /// Says goodbye to choices that have ended.
    pub(super) fn end_choices(&mut self) {
        for index in 0..self.slots.len() {
            let Task::Choice(choice) = &self.slots[index].task else {
                continue;
            };
            if let Some(finish) = choice.progress.finish {
                self.end_choice(index, finish);
            }
        }
    }

    fn end_choice(&mut self, index: usize, finish: Finish) {
        let slot = &mut self.slots[index];
        let Task::Choice(choice) = std::mem::take(&mut slot.task) else {
            return;
        };
        slot.used = self.cache.tick();
        let Choice {
            job: id,
            sampler,
            speculation,
            mut voice,
            ..
        } = *choice;
        voice.timings.drafts = speculation.stats().clone();
        count_drafts(self.status.metrics(), &speculation);
        let finished = match voice.finish(finish, sampler.seed(), index as u32) {
            Ok(finished) => finished,
            Err(e) => return self.fail_job(id, e),
        };
        let how = match finished.reason {
            StopReason::Limit => "limit",
            _ => "stop",
        };
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        job.send(Event::Finished(Box::new(finished)));
        if job.next_choice < job.request.n {
            if let Err(e) = self.begin_again(index, id) {
                self.fail_job(id, e);
            }
            return;
        }
        job.live -= 1;
        if job.live == 0 {
            self.end_job(id, how);
        }
    }

    /// Takes a slot back to its prompt's end for the next choice.
    fn begin_again(&mut self, index: usize, id: u64) -> Result<(), RequestError> {
        let state = self.jobs.get(&id).and_then(|job| job.prompt_end.clone());
        let state = state.ok_or_else(|| {
            RequestError::Internal("the state at the prompt's end was not kept".to_owned())
        })?;
        let slot = &mut self.slots[index];
        let logits = state.logits.as_deref();
        slot.timeline
            .restore(&mut self.engine, None, &state.checkpoint, logits)
            .map_err(|e| RequestError::Internal(e.to_string()))?;
        slot.states.retain(|s| s.n() <= state.n());
        self.begin_choice(index, id)
    }
}

/// Counts a choice's guesses, which have come to an end.
pub(super) fn count_drafts(metrics: &Arc<Metrics>, speculation: &Speculation) {
    let stats = speculation.stats();
    metrics.spec_draft_tokens.inc_by(stats.n_drafted());
    metrics.spec_accepted_tokens.inc_by(stats.n_accepted());
    metrics.spec_drafts.inc_by(stats.drafting_steps);
    for (counts, family) in [
        (&stats.drafted, &metrics.spec_drafted_per_pos),
        (&stats.accepted, &metrics.spec_accepted_per_pos),
    ] {
        for (position, &n) in counts.iter().enumerate() {
            let label = [("position", position.to_string())];
            family.get_or_create(&label).inc_by(n);
        }
    }
}
