//! One step of the engine for all slots: the next tokens of those that generate, and a share of each prompt.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::budget::{Load, shares};
use super::run::Worker;
use super::slot::{Slot, Task};
use crate::engine::EngineError;
use crate::engine::sampling::SamplingError;
use crate::engine::speculation::{DraftType, Lane, draft};
use crate::memory::Work;
use crate::server::protocol::RequestError;

/// A part of a prompt in a step.
struct Chunk {
    slot: usize,
    job: u64,
    start: usize,
    end: usize,
}

impl Chunk {
    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// A state that is to be kept as soon as streams have got their tokens.
pub(super) struct End {
    slot: usize,
    /// Tokens it has seen.
    n: usize,
}

impl Worker {
    /// Computes one step, for which streams can wait this long, and takes note of what it gave.
    pub(super) fn step(&mut self, time: Duration) {
        let (start, load) = (Instant::now(), self.load());
        let chunks = self.chunks(load, time);
        let computed = self.compute(&chunks);
        match computed {
            Err(e) => self.fail_step(&chunks, &e),
            Ok(0) => return,
            Ok(n_lanes) => self.count_step(&chunks, n_lanes, start.elapsed()),
        }
        self.end_choices();
        for chunk in &chunks {
            self.end_chunk(chunk);
        }
        let n_tokens = chunks.iter().map(Chunk::len).sum();
        if n_tokens > 0 && load.streams > 0 {
            self.budget.learn(load, n_tokens, start.elapsed());
        }
    }

    /// Sequences that generate, and how deep the deepest prompt is.
    fn load(&self) -> Load {
        let deepest = |most: usize, slot: &Slot| match slot.task {
            Task::Prompt(_) => most.max(slot.n_past()),
            _ => most,
        };
        Load {
            streams: self.n_choices(),
            depth: self.slots.iter().fold(0, deepest),
        }
    }

    /// Slots that generate.
    pub(super) fn n_choices(&self) -> usize {
        let choices = |slot: &&Slot| matches!(slot.task, Task::Choice(_));
        self.slots.iter().filter(choices).count()
    }

    /// Draws the next token of every choice that has logits for it; ends those that are done.
    pub(super) fn draw(&mut self) {
        let mut failed = Vec::new();
        for slot in &mut self.slots {
            let Some(mut lane) = lane_of(slot).filter(|lane| lane.work().is_none()) else {
                continue;
            };
            if let Err(why) = guarded(|| lane.take(&self.engine)) {
                failed.extend(slot.job().map(|id| (id, why)));
            } else if let Task::Choice(choice) = &mut slot.task
                && let Some(grammar) = &mut choice.voice.constrainer
            {
                grammar.prepare();
            }
        }
        for (id, why) in failed {
            self.fail_job(id, why);
        }
        self.end_choices();
    }

    /// What each prompt computes in this step. While others generate, all prompts share the budget.
    fn chunks(&mut self, load: Load, time: Duration) -> Vec<Chunk> {
        let room = (self.engine.config().n_ubatch as usize).saturating_sub(load.streams);
        let budget = match load.streams {
            0 if !self.exact => room,
            1.. if self.embeds_now() => 0,
            // Where a prompt is cut decides how its numbers are rounded: always alike.
            _ if self.exact => self.budget.constant(),
            _ => self.budget.tokens(load, time).min(room.max(1)),
        };
        let mut chunks = Vec::new();
        for (i, slot) in self.slots.iter().enumerate() {
            if let Task::Prompt(prompt) = &slot.task
                && let Some(job) = self.jobs.get(&prompt.job)
            {
                let (start, len) = (slot.n_past(), job.request.prompt.len());
                chunks.push(Chunk {
                    slot: i,
                    job: prompt.job,
                    start,
                    end: prompt.stops.first().copied().unwrap_or(len),
                });
            }
        }
        if self.exact {
            chunks.truncate(1);
        }
        let wants: Vec<usize> = chunks.iter().map(|c| c.end - c.start).collect();
        let shares = shares(budget, &wants, self.turn);
        for (chunk, share) in chunks.iter_mut().zip(shares) {
            chunk.end = chunk.start + share;
        }
        chunks.retain(|c| c.len() > 0);
        chunks
    }

    /// Computes the step; gives the number of its sequences.
    fn compute(&mut self, chunks: &[Chunk]) -> Result<usize, EngineError> {
        let mut lanes = Vec::new();
        let mut owners = Vec::new();
        let mut prompts = Vec::new();
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if matches!(slot.task, Task::Choice(_)) {
                owners.extend(slot.job());
                lanes.extend(lane_of(slot));
            } else if let Some(chunk) = chunks.iter().find(|c| c.slot == i) {
                prompts.push((chunk, &mut slot.timeline));
            }
        }
        let guesses = lanes
            .iter()
            .any(|l| l.speculation.params().draft != DraftType::None);
        if prompts.is_empty() && guesses {
            draft(&mut self.engine, &mut lanes)?;
        }
        let mut work: Vec<Work<'_>> = lanes.iter().filter_map(Lane::work).collect();
        let n_lanes = work.len();
        for (chunk, timeline) in &prompts {
            let prompt = self.jobs[&chunk.job].request.prompt.as_slice();
            let last = chunk.len() as u32 - 1;
            work.push(Work {
                seq: timeline.seq(),
                tokens: &prompt[chunk.start..chunk.end],
                outputs: (chunk.end == prompt.len())
                    .then_some(last)
                    .into_iter()
                    .collect(),
            });
        }
        if work.is_empty() {
            return Ok(0);
        }
        let n_sequences = work.len();
        let (output, of_prompts) = if self.exact && n_lanes > 0 && !prompts.is_empty() {
            let lanes = self.engine.step_exact(&work[..n_lanes])?;
            (lanes, Some(self.engine.step(&work[n_lanes..], false)?))
        } else if prompts.is_empty() && (guesses || self.exact) {
            (self.engine.step_exact(&work)?, None)
        } else {
            (self.engine.step(&work, false)?, None)
        };
        drop(work);
        for (i, (chunk, timeline)) in prompts.into_iter().enumerate() {
            let prompt = self.jobs[&chunk.job].request.prompt.as_slice();
            let last = chunk.len() as u32 - 1;
            let logits = match &of_prompts {
                Some(prompts) => prompts.logits(i, last),
                None => output.logits(n_lanes + i, last),
            };
            timeline.extend(&prompt[chunk.start..chunk.end], logits);
        }
        let mut failed = Vec::new();
        let mut item = 0;
        for (lane, id) in lanes.iter_mut().zip(owners) {
            if lane.work().is_none() {
                continue;
            }
            if let Err(why) = guarded(|| lane.settle(&mut self.engine, &output, item)) {
                failed.push((id, why));
            }
            item += 1;
        }
        drop(lanes);
        for (id, why) in failed {
            // Tokens and memory may disagree by now.
            let torn: Vec<usize> = (0..self.slots.len())
                .filter(|&i| self.slots[i].job() == Some(id))
                .collect();
            self.fail_job(id, why);
            for index in torn {
                self.forget_slot(index);
            }
        }
        Ok(n_sequences)
    }

    fn count_step(&mut self, chunks: &[Chunk], n_sequences: usize, time: Duration) {
        let (metrics, seconds) = (self.status.metrics(), time.as_secs_f64());
        metrics.n_decode.inc();
        metrics.busy_slots.inc_by(n_sequences as u64);
        let n_tokens: usize = chunks.iter().map(Chunk::len).sum();
        tracing::trace!(sequences = n_sequences, prompts = n_tokens, ?time, "step");
        if n_tokens > 0 {
            metrics.prompt_tokens.inc_by(n_tokens as u64);
            metrics.prompt_seconds.inc_by(seconds);
            if n_sequences > chunks.len() {
                metrics.prefill_stall.observe(seconds);
            }
        }
    }

    /// Fails everything that was in a step, and nothing else. Its sequences are empty: their states may be torn.
    fn fail_step(&mut self, chunks: &[Chunk], error: &EngineError) {
        let why = RequestError::Internal(error.to_string());
        for index in 0..self.slots.len() {
            let in_step = matches!(self.slots[index].task, Task::Choice(_))
                || chunks.iter().any(|c| c.slot == index);
            if !in_step {
                continue;
            }
            if let Some(id) = self.slots[index].job() {
                self.fail_job(id, why.clone());
            }
            self.forget_slot(index);
        }
    }

    /// Sees to it that the state is kept where a message ends, and begins to generate where the prompt ends.
    fn end_chunk(&mut self, chunk: &Chunk) {
        let Task::Prompt(prompt) = &mut self.slots[chunk.slot].task else {
            return;
        };
        let Some(job) = self.jobs.get(&chunk.job) else {
            return;
        };
        let (cache, len) = (job.request.cache_prompt, job.request.prompt.len());
        // Copies for other choices share what is kept by then.
        let copied = job.request.n > 1;
        job.report(chunk.end);
        let stop = prompt.stops.first() == Some(&chunk.end);
        if stop {
            prompt.stops.remove(0);
        }
        let done = chunk.end == len;
        if (stop || done) && cache {
            let (slot, n) = (chunk.slot, chunk.end);
            self.ends.push(End { slot, n });
        }
        if done {
            if copied {
                self.keep_ends();
            }
            self.end_prompt(chunk.slot);
        }
    }

    /// Keeps the states that the latest step came to.
    pub(super) fn keep_ends(&mut self) {
        for End { slot, n } in std::mem::take(&mut self.ends) {
            // Whoever failed meanwhile has none.
            if self.slots[slot].n_past() != n {
                continue;
            }
            if let Err(e) = self.keep_state(slot) {
                // What is not kept will be computed again.
                tracing::error!(slot, %e, "the state after a message cannot be kept");
            }
        }
    }
}

/// The lane of a slot that generates.
fn lane_of(slot: &mut Slot) -> Option<Lane<'_>> {
    let Task::Choice(choice) = &mut slot.task else {
        return None;
    };
    let choice = &mut **choice;
    Some(Lane {
        timeline: &mut slot.timeline,
        sampler: &mut choice.sampler,
        speculation: &mut choice.speculation,
        progress: &mut choice.progress,
        sink: &mut choice.voice,
    })
}

/// Does what belongs to one request. Should it panic, by a bug of a grammar say, only this request fails.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, RequestError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|e| failure(&e)),
        Err(_) => Err(RequestError::Internal(
            "the request met an internal error".to_owned(),
        )),
    }
}

/// What a client hears of an error. That its own biases leave no token is not the server's failure.
fn failure(error: &EngineError) -> RequestError {
    match error {
        EngineError::Sampling(SamplingError::NoCandidate { nan: 0, .. }) => {
            let hint = error.hint().unwrap_or_default();
            RequestError::Invalid(format!("{error}; {hint}"))
        }
        _ => RequestError::Internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use tokio::sync::mpsc;

    use super::*;
    use crate::engine::EngineConfig;
    use crate::engine::sampling::SamplingParams;
    use crate::engine::speculation::SpeculationParams;
    use crate::gguf::Gguf;
    use crate::model::{LoadOptions, Model};
    use crate::server::protocol::{Command, Embed, Event, Generate, Scope};
    use crate::server::status::Status;
    use crate::server::worker::WorkerConfig;

    fn worker(n_slots: u32) -> Worker {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let gguf = Gguf::open(&root.join("tests/models/tiny-ling-IQ4_NL.gguf"));
        let gguf = Arc::new(gguf.expect("demo model"));
        let model = Model::load(gguf, &LoadOptions::default(), &mut |_, _| {});
        let config = WorkerConfig {
            load: Box::new(|_| Err(String::new())),
            alias: None,
            engine: EngineConfig {
                n_ctx: 512 * n_slots,
                n_seq: n_slots,
                n_threads: 1,
                n_threads_batch: 1,
                ..EngineConfig::default()
            },
            sampling: SamplingParams::default(),
            speculation: SpeculationParams::default(),
            queue: 4,
            prefill_budget: None,
            cache_ram: 1 << 24,
            exact: false,
        };
        let status = Arc::new(Status::default());
        Worker::new(&model.expect("loads"), config, &status).expect("starts")
    }

    fn ask(worker: &mut Worker, prompt: Vec<u32>, n: u32) -> mpsc::UnboundedReceiver<Event> {
        let (events, receiver) = mpsc::unbounded_channel();
        worker.accept(Command::Generate(Box::new(Generate {
            id: "test".to_owned(),
            scope: Scope([0; 32]),
            prompt,
            boundaries: Vec::new(),
            sampling: SamplingParams {
                temp: 0.0,
                ignore_eos: true,
                ..SamplingParams::default()
            },
            n: 1,
            n_predict: Some(n),
            stop: Vec::new(),
            special: false,
            constrainer: None,
            speculation: None,
            logprobs: None,
            post_sampling: false,
            cache_prompt: true,
            slot: None,
            progress: false,
            max_time: None,
            events,
        })));
        receiver
    }

    fn tokens(receiver: &mut mpsc::UnboundedReceiver<Event>) -> (Vec<u32>, Option<RequestError>) {
        let (mut tokens, mut failed) = (Vec::new(), None);
        while let Ok(event) = receiver.try_recv() {
            match event {
                Event::Token(t) => tokens.push(t.token),
                Event::Failed(why) => failed = Some(why),
                _ => {}
            }
        }
        (tokens, failed)
    }

    #[test]
    fn a_failed_step_fails_its_requests_and_the_next_ones_are_served() {
        let mut worker = worker(2);
        let mut expected = ask(&mut worker, vec![3, 4, 5], 6);
        (0..12).for_each(|_| worker.advance());
        let expected = tokens(&mut expected).0;
        assert_eq!(expected.len(), 6);
        let mut first = ask(&mut worker, vec![3, 4, 5], 6);
        let mut second = ask(&mut worker, vec![7, 8], 6);
        (0..3).for_each(|_| worker.advance());
        worker.fail_step(&[], &EngineError::Empty);
        for receiver in [&mut first, &mut second] {
            let (some, failed) = tokens(receiver);
            assert!(!some.is_empty() && some.len() < 6);
            assert!(matches!(failed, Some(RequestError::Internal(_))));
        }
        assert!(worker.jobs.is_empty());
        assert!(worker.slots.iter().all(|s| s.is_idle() && s.n_past() == 0));
        let mut again = ask(&mut worker, vec![3, 4, 5], 6);
        (0..12).for_each(|_| worker.advance());
        assert_eq!(tokens(&mut again), (expected, None));
    }

    #[test]
    fn streams_wait_for_a_prompt_or_a_text_to_embed_but_not_for_both() {
        let mut worker = worker(3);
        let mut stream = ask(&mut worker, vec![3, 4, 5], 60);
        (0..3).for_each(|_| worker.advance());
        let _prompt = ask(&mut worker, (0..400).map(|i| 300 + i).collect(), 6);
        let (reply, mut embedded) = tokio::sync::oneshot::channel();
        worker.accept(Command::Embed(Box::new(Embed {
            id: "text".to_owned(),
            prompt: (0..400).map(|i| 700 + i).collect(),
            reply,
        })));
        let done = |worker: &Worker| worker.slots.iter().map(Slot::n_past).collect::<Vec<_>>();
        let (mut turns, mut before) = ([0, 0], vec![0; 3]);
        while embedded.try_recv().is_err() || worker.n_choices() < 2 {
            worker.advance();
            let now = done(&worker);
            let moved = |slot: usize| now[slot] > before[slot];
            assert!(!(moved(1) && moved(2)), "{before:?} {now:?}");
            (1..3).for_each(|slot| turns[slot - 1] += usize::from(moved(slot)));
            before = now;
            assert!(turns[0] + turns[1] < 60, "they come to an end");
        }
        assert!(turns.iter().all(|&n| n > 1), "in turn: {turns:?}");
        let (some, failed) = tokens(&mut stream);
        assert!(failed.is_none() && some.len() > turns[0] + turns[1]);
    }

    #[test]
    fn a_state_is_kept_after_streams_got_their_tokens() {
        let mut worker = worker(2);
        let mut first = ask(&mut worker, vec![3, 4, 5], 1);
        worker.advance();
        assert_eq!((worker.ends.len(), worker.slots[0].states.len()), (1, 0));
        assert!(tokens(&mut first).0.is_empty());
        worker.advance();
        assert_eq!((worker.ends.len(), worker.slots[0].states.len()), (0, 1));
        assert_eq!(tokens(&mut first).0.len(), 1);
        // One that failed between keeps nothing of what it lost.
        let _second = ask(&mut worker, vec![7, 8, 9], 1);
        worker.advance();
        assert_eq!(worker.ends.len(), 1);
        worker.fail_step(&[], &EngineError::Empty);
        worker.advance();
        assert!(worker.ends.is_empty() && worker.jobs.is_empty());
        assert!(worker.slots[1].states.is_empty());
    }
}
