//! The engine thread: it owns the model and all slots. Everybody else holds an [`EngineHandle`] and sends commands.

#![forbid(unsafe_code)]

mod budget;
mod cache;
mod choices;
mod embed;
mod files;
mod job;
mod place;
mod queue;
mod run;
mod slot;
mod slot_file;
mod step;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::metrics::Metrics;
use super::protocol::{Command, EngineState, Loading, RequestError, SlotView};
use super::status::{ModelInfo, Status};
use crate::engine::EngineConfig;
use crate::engine::sampling::SamplingParams;
use crate::engine::speculation::SpeculationParams;
use crate::model::Model;

/// Loads the model in the engine thread; hears of bytes done and bytes in all. The error is for people.
pub type Loader = Box<dyn FnOnce(&mut dyn FnMut(u64, u64)) -> Result<Model, String> + Send>;

/// How the engine thread works.
pub struct WorkerConfig {
    /// Gives the model.
    pub load: Loader,
    /// Name that clients see; `None` takes the model's.
    pub alias: Option<String>,
    /// Sizes and threads. `n_seq` is the number of slots; `n_ctx` is for all slots together and shared out evenly,
    /// 0 gives each the context length of training. `n_snapshots` grows to what `speculation` needs.
    pub engine: EngineConfig,
    /// Sampling parameters of requests that do not say.
    pub sampling: SamplingParams,
    /// Speculation of requests that do not say.
    pub speculation: SpeculationParams,
    /// Requests that may wait for a slot.
    pub queue: usize,
    /// Prompt tokens of one step while others generate; `None` takes as many as make a step of about 0.3 s, by what
    /// earlier ones took. Never more than the micro-batch.
    pub prefill_budget: Option<u32>,
    /// Bytes of host memory for prefixes that are kept.
    pub cache_ram: u64,
    /// Give each token of a step without prompts the bits it would get in a step of its own, where devices allow it
    /// (see [`crate::engine::Engine::step_exact`]). Steps with guesses always do.
    pub exact: bool,
}

/// How to talk to the engine thread.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    commands: mpsc::UnboundedSender<Command>,
    status: Arc<Status>,
    queue: usize,
}

impl EngineHandle {
    /// Sends a command.
    ///
    /// # Errors
    /// [`RequestError::QueueFull`] if too many requests wait, [`RequestError::Unavailable`] while the model is loaded
    /// and after the end was asked for.
    pub fn submit(&self, command: Command) -> Result<(), RequestError> {
        if matches!(command, Command::Shutdown) {
            self.status.set_stopping();
            // A thread that has ended needs no telling.
            let _ = self.commands.send(command);
            return Ok(());
        }
        let unavailable = |why: &str| Err(RequestError::Unavailable(why.to_owned()));
        match self.state() {
            EngineState::Ready if self.status.is_stopping() => {
                return unavailable("the server is shutting down");
            }
            EngineState::Ready => {}
            EngineState::Loading(now) => return unavailable(&now.to_string()),
            EngineState::Failed(why) => return Err(RequestError::Unavailable(why)),
            EngineState::Stopped => return unavailable("the server has stopped"),
        }
        let waits = !matches!(command, Command::Slot(_));
        if waits {
            let entered = self.status.enter_queue(self.queue);
            entered.map_err(|queued| RequestError::QueueFull { queued })?;
        }
        self.commands.send(command).map_err(|_| {
            if waits {
                self.status.leave_queue();
            }
            RequestError::Unavailable("the engine has ended".to_owned())
        })
    }

    /// What the engine does.
    pub fn state(&self) -> EngineState {
        self.status.state()
    }

    /// Hears of changes of the state: the end of loading, and `Stopped` after [`Command::Shutdown`].
    pub fn watch(&self) -> watch::Receiver<EngineState> {
        self.status.watch()
    }

    /// The model; `None` until it is loaded.
    pub fn info(&self) -> Option<Arc<ModelInfo>> {
        self.status.info()
    }

    /// The slots after the latest step.
    pub fn slots(&self) -> Vec<SlotView> {
        self.status.slots()
    }

    /// Counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.status.metrics()
    }

    /// Requests that wait for a slot.
    pub fn waiting(&self) -> usize {
        self.status.waiting()
    }
}

/// A handle whose commands arrive at the receiver, and the view it shows: for the engine thread, and for tests that
/// play it. Whoever receives a `Generate` or `Embed` calls [`Status::leave_queue`] when it stops waiting.
pub fn channel(queue: usize) -> (EngineHandle, mpsc::UnboundedReceiver<Command>, Arc<Status>) {
    let (commands, receiver) = mpsc::unbounded_channel();
    let status = Arc::new(Status::default());
    let handle = EngineHandle {
        commands,
        status: Arc::clone(&status),
        queue,
    };
    (handle, receiver, status)
}

/// Starts the engine thread, which first loads the model.
pub fn spawn(config: WorkerConfig) -> EngineHandle {
    spawn_after(config.queue, |_| Ok(config))
}

/// Starts the engine thread, which first finds out how it works: by a download, say, whose progress it tells. The
/// error is for people. `queue` is that of the configuration.
pub fn spawn_after(
    queue: usize,
    prepare: impl FnOnce(&dyn Fn(Loading)) -> Result<WorkerConfig, String> + Send + 'static,
) -> EngineHandle {
    let (handle, commands, status) = channel(queue);
    let failed = |status: &Status, why: String| status.set_state(EngineState::Failed(why));
    let work = {
        let status = Arc::clone(&status);
        move || {
            let shown = Arc::clone(&status);
            // A bug while loading must not look like loading for ever.
            let work = || match prepare(&|now| status.set_loading(now)) {
                Ok(config) => run::run(config, commands, Arc::clone(&status)),
                Err(why) => failed(&status, why),
            };
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                failed(&shown, "the engine met an internal error".to_owned());
            }
        }
    };
    let thread = std::thread::Builder::new().name("engine".to_owned());
    if let Err(e) = thread.spawn(work) {
        failed(&status, format!("no engine thread: {e}"));
    }
    handle
}
