//! The engine thread's loop: commands, the queue, and one step after the other.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::budget::{Budget, STEP_TIME};
use super::cache::Cache;
use super::choices::count_drafts;
use super::files::Files;
use super::job::Job;
use super::queue::Waiting;
use super::slot::{Slot, Task};
use super::step::End;
use super::{Loader, WorkerConfig};
use crate::engine::sampling::VocabView;
use crate::engine::speculation::{DraftType, Speculation, SpeculationParams};
use crate::engine::{Engine, EngineError, vocab_of};
use crate::memory::{SeqId, Work};
use crate::model::Model;
use crate::server::protocol::{Command, EngineState, Event, Loading, RequestError, SlotView};
use crate::server::status::{ModelInfo, Status};

/// How often files are looked at while nothing else happens.
const FILE_POLL: Duration = Duration::from_millis(1);

/// The engine thread.
pub(super) struct Worker {
    pub engine: Engine,
    pub vocab: Arc<dyn VocabView>,
    pub status: Arc<Status>,
    pub slots: Vec<Slot>,
    pub cache: Cache,
    pub jobs: BTreeMap<u64, Job>,
    pub files: Files,
    pub speculation: SpeculationParams,
    pub budget: Budget,
    /// The same for texts to embed, which are computed beside a step.
    pub embed_budget: Budget,
    /// States to be kept.
    pub ends: Vec<End>,
    pub exact: bool,
    /// Counts steps: who gets what does not divide evenly.
    pub turn: usize,
    pub queue: VecDeque<Waiting>,
    pub next_job: u64,
    pub stopping: bool,
}

/// Loads the model, then serves until the end.
pub(super) fn run(
    mut config: WorkerConfig,
    mut commands: mpsc::UnboundedReceiver<Command>,
    status: Arc<Status>,
) {
    let weights = Loading::stage("weights", 0);
    let mut progress = |done: u64, total: u64| {
        let what = Arc::clone(&weights.what);
        status.set_loading(Loading { what, done, total });
    };
    let nothing: Loader = Box::new(|_| Err("loaded already".to_owned()));
    let load = std::mem::replace(&mut config.load, nothing);
    let model = match load(&mut progress) {
        Ok(model) => model,
        Err(why) => return status.set_state(EngineState::Failed(why)),
    };
    status.set_loading(Loading::stage("first step", 0));
    let worker = match Worker::new(&model, config, &status) {
        Ok(worker) => worker,
        Err(e) => {
            let hint = e.hint().map(|h| format!(" ({h})")).unwrap_or_default();
            return status.set_state(EngineState::Failed(format!("{e}{hint}")));
        }
    };
    status.set_state(EngineState::Ready);
    worker.serve(&mut commands);
    status.set_state(EngineState::Stopped);
}

impl Worker {
    pub(super) fn new(
        model: &Model,
        settings: WorkerConfig,
        status: &Arc<Status>,
    ) -> Result<Self, EngineError> {
        let mut config = settings.engine;
        let n_slots = config.n_seq.max(1);
        config.n_seq = n_slots;
        config.n_ctx = match config.n_ctx {
            0 => model.sizes().n_ctx_train,
            all => (all / n_slots).max(1),
        };
        config.n_snapshots = config.n_snapshots.max(settings.speculation.n_snapshots());
        let engine = Engine::new(model, config)?;
        // Wrong parameters are better said before the first request.
        Speculation::new(settings.speculation.clone(), &engine)?;
        let n_ctx = engine.n_ctx();
        let mut info = ModelInfo::of(model, settings.alias.as_deref(), n_ctx, n_slots);
        info.has_mtp = engine.config().mtp;
        info.sampling = settings.sampling;
        info.speculation = settings.speculation.clone();
        status.set_info(info);
        let n_ubatch = engine.config().n_ubatch;
        let mut worker = Self {
            vocab: vocab_of(model),
            status: Arc::clone(status),
            slots: (0..n_slots).map(Slot::new).collect(),
            cache: Cache::new(settings.cache_ram),
            jobs: BTreeMap::new(),
            files: Files::new(&engine),
            speculation: settings.speculation,
            budget: Budget::new(settings.prefill_budget, n_ubatch),
            embed_budget: Budget::new(settings.prefill_budget, n_ubatch),
            ends: Vec::new(),
            exact: settings.exact,
            turn: 0,
            queue: VecDeque::new(),
            next_job: 0,
            stopping: false,
            engine,
        };
        worker.warm_up()?;
        worker.publish();
        Ok(worker)
    }

    /// Computes a step that nobody waits for: weights get into memory, and exact steps find out what they need.
    fn warm_up(&mut self) -> Result<(), EngineError> {
        let work = [Work {
            seq: SeqId(0),
            tokens: &[0],
            outputs: vec![0],
        }];
        if self.exact || self.speculation.draft != DraftType::None {
            self.engine.step_exact(&work)?;
        } else {
            self.engine.step(&work, false)?;
        }
        self.engine.clear(SeqId(0))
    }

    fn serve(mut self, commands: &mut mpsc::UnboundedReceiver<Command>) {
        loop {
            if self.is_idle() {
                if self.stopping {
                    break;
                }
                match commands.blocking_recv() {
                    Some(command) => self.accept(command),
                    None => break,
                }
            }
            while let Ok(command) = commands.try_recv() {
                self.accept(command);
            }
            // A bug met by one request must not end the others' server.
            if catch_unwind(AssertUnwindSafe(|| self.advance())).is_err() {
                tracing::error!("a step panicked; all running requests fail");
                let why = RequestError::Internal("the engine met an internal error".to_owned());
                self.fail_all(&why);
            }
            self.publish();
            if self.files.is_busy() && self.is_still() {
                std::thread::sleep(FILE_POLL);
            }
        }
        self.files.wait();
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.is_still() && !self.files.is_busy()
    }

    /// Whether no slot works.
    fn is_still(&self) -> bool {
        self.slots.iter().all(Slot::is_idle)
    }

    /// One step and all that belongs to it. Streams get their tokens first; what is done after that, copies of states
    /// say, takes from the time that the step may have.
    pub(super) fn advance(&mut self) {
        self.drop_cancelled();
        let heard = Instant::now();
        self.draw();
        self.keep_ends();
        self.slot_commands();
        self.begin_waiting();
        // Prompts that were in memory as a whole have logits already.
        self.draw();
        let planned = Instant::now();
        let time = STEP_TIME.saturating_sub(planned - heard);
        self.turn = self.turn.wrapping_add(1);
        self.step(time);
        self.embed(time, planned);
    }

    /// Forgets requests whose clients have left.
    fn drop_cancelled(&mut self) {
        let before = self.queue.len();
        self.queue.retain(|w| !w.is_cancelled());
        for _ in self.queue.len()..before {
            self.status.leave_queue();
            self.count_end("cancelled");
        }
        let left: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.is_cancelled())
            .map(|(&id, _)| id)
            .collect();
        for id in left {
            self.end_job(id, "cancelled");
        }
        for index in 0..self.slots.len() {
            if matches!(&self.slots[index].task, Task::Embed(e) if e.is_cancelled()) {
                self.slots[index].task = Task::Idle;
                self.forget_slot(index);
                self.count_end("cancelled");
            }
        }
    }

    pub(super) fn count_end(&self, how: &str) {
        let label = [("how", how.to_owned())];
        self.status.metrics().requests.get_or_create(&label).inc();
    }

    /// Takes a job out of its slots, which keep what they computed.
    pub(super) fn end_job(&mut self, id: u64, how: &str) {
        for slot in &mut self.slots {
            if slot.job() == Some(id) {
                if let Task::Choice(choice) = std::mem::take(&mut slot.task) {
                    count_drafts(self.status.metrics(), &choice.speculation);
                }
                slot.used = self.cache.tick();
            }
        }
        if let Some(job) = self.jobs.remove(&id) {
            tracing::info!(request = job.request.id, how, "request ended");
            self.count_end(how);
        }
    }

    /// Fails a job.
    pub(super) fn fail_job(&mut self, id: u64, why: RequestError) {
        if let Some(job) = self.jobs.get(&id) {
            tracing::error!(request = job.request.id, %why, "request failed");
            job.send(Event::Failed(why));
        }
        self.end_job(id, "failed");
    }

    /// Fails all that runs and empties all slots: after an error nobody knows what they hold.
    fn fail_all(&mut self, why: &RequestError) {
        for id in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.fail_job(id, why.clone());
        }
        for slot in &mut self.slots {
            slot.task = Task::Idle;
        }
        for index in 0..self.slots.len() {
            self.forget_slot(index);
        }
    }

    /// Shows the slots.
    fn publish(&self) {
        let n_ctx = self.engine.n_ctx();
        let view = |(i, slot): (usize, &Slot)| {
            let mut view = SlotView {
                id: i as u32,
                n_ctx,
                n_past: slot.n_past(),
                ..SlotView::default()
            };
            if let Some(job) = slot.job().and_then(|id| self.jobs.get(&id)) {
                view.request = Some(job.request.id.clone());
                view.scope = Some(job.request.scope);
                view.n_prompt = job.request.prompt.len();
                view.n_prompt_done = view.n_prompt.min(slot.n_past());
            }
            match &slot.task {
                Task::Choice(choice) => view.n_decoded = choice.progress.tokens.len(),
                Task::Embed(embedding) => {
                    view.request = Some(embedding.id().to_owned());
                    view.n_prompt = embedding.n_prompt();
                    view.n_prompt_done = slot.n_past();
                }
                _ => {}
            }
            view
        };
        let views: Vec<SlotView> = self.slots.iter().enumerate().map(view).collect();
        let metrics = self.status.metrics();
        let busy = self.slots.iter().filter(|s| !s.is_idle()).count();
        metrics.processing.set(busy as i64);
        let most = views.iter().map(|v| v.n_past as i64).max().unwrap_or(0);
        metrics
            .n_tokens_max
            .set(metrics.n_tokens_max.get().max(most));
        self.status.set_slots(views);
    }
}
