//! What the engine thread shows to everybody: its state, the model, the slots, and how many requests wait.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio::sync::watch;

use super::metrics::Metrics;
use super::protocol::{EngineState, Loading, SlotView};
use crate::engine::sampling::{SamplingParams, VocabView};
use crate::engine::speculation::SpeculationParams;
use crate::engine::vocab_of;
use crate::gguf::{Metadata, Value};
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// Facts about the loaded model, for templates, tokenising and the endpoints that show them.
#[derive(Clone)]
pub struct ModelInfo {
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// The vocabulary as samplers see it: for checking a request's parameters.
    pub vocab: Arc<dyn VocabView>,
    /// Path of the file, or a name for one that is built in.
    pub path: String,
    /// Name that clients see: the alias given, or the model's own.
    pub name: String,
    /// Tokens a slot can hold.
    pub n_ctx: u32,
    /// Context length of training.
    pub n_ctx_train: u32,
    /// Width of the residual stream, and of embeddings.
    pub n_embd: u32,
    /// Rows of logits.
    pub n_vocab: u32,
    /// Weights.
    pub n_params: u64,
    /// Bytes of all tensors.
    pub n_bytes: u64,
    /// Slots.
    pub n_slots: u32,
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Whether an MTP head runs with every step, so that requests may guess with it.
    pub has_mtp: bool,
    /// Sampling parameters of requests that do not say.
    pub sampling: SamplingParams,
    /// Speculation of requests that do not say.
    pub speculation: SpeculationParams,
    /// Source of the file's chat template.
    pub chat_template: Option<String>,
    /// All keys of the file but long arrays.
    pub metadata: Metadata,
}

impl std::fmt::Debug for ModelInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelInfo")
            .field("name", &self.name)
            .field("path", &self.path)
            .field("n_ctx", &self.n_ctx)
            .field("n_slots", &self.n_slots)
            .finish_non_exhaustive()
    }
}

impl ModelInfo {
    /// Facts about a model that serves `n_slots` slots of `n_ctx` tokens each.
    pub fn of(model: &Model, alias: Option<&str>, n_ctx: u32, n_slots: u32) -> Self {
        let all = model.gguf().metadata();
        let mut metadata = Metadata::new();
        for (key, value) in all.iter() {
            if !matches!(value, Value::Array(_)) {
                metadata.insert(key, value.clone());
            }
        }
        let template = all.str("tokenizer.chat_template").ok().flatten();
        let path = model.gguf().shards().first().map(|s| s.path().display());
        Self {
            tokenizer: Arc::clone(model.tokenizer()),
            vocab: vocab_of(model),
            path: path.map(|p| p.to_string()).unwrap_or_default(),
            name: alias.map_or_else(|| model.name(), str::to_owned),
            n_ctx,
            n_ctx_train: model.sizes().n_ctx_train,
            n_embd: model.sizes().n_embd,
            n_vocab: model.n_vocab(),
            n_params: model.n_params(),
            n_bytes: model.n_bytes(),
            n_slots,
            architecture: model.architecture().name,
            has_mtp: false,
            sampling: SamplingParams::default(),
            speculation: SpeculationParams::default(),
            chat_template: template.map(str::to_owned),
            metadata,
        }
    }
}

/// The shared view. The engine thread writes it, HTTP workers read it; nobody waits long for a lock.
#[derive(Debug)]
pub struct Status {
    state: watch::Sender<EngineState>,
    info: OnceLock<Arc<ModelInfo>>,
    slots: RwLock<Vec<SlotView>>,
    metrics: Arc<Metrics>,
    waiting: AtomicUsize,
    stopping: AtomicBool,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(EngineState::Loading(Loading::default())),
            info: OnceLock::new(),
            slots: RwLock::default(),
            metrics: Arc::default(),
            waiting: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        }
    }
}

impl Status {
    /// The engine's state.
    pub fn state(&self) -> EngineState {
        self.state.borrow().clone()
    }

    /// Hears of every later change of the state.
    pub fn watch(&self) -> watch::Receiver<EngineState> {
        self.state.subscribe()
    }

    /// Says how far loading is, unless it would say the same percent again.
    pub fn set_loading(&self, now: Loading) {
        self.state.send_if_modified(|state| {
            let same = matches!(state, EngineState::Loading(before)
                if before.what == now.what && before.percent() == now.percent());
            if !same {
                *state = EngineState::Loading(now);
            }
            !same
        });
    }

    /// Changes the state.
    pub fn set_state(&self, state: EngineState) {
        self.state.send_replace(state);
    }

    /// The model, once it is loaded.
    pub fn info(&self) -> Option<Arc<ModelInfo>> {
        self.info.get().cloned()
    }

    /// Says what the model is; the first word counts.
    pub fn set_info(&self, info: ModelInfo) {
        // A second model would be a bug of the caller, and changes nothing.
        let _ = self.info.set(Arc::new(info));
    }

    /// The slots after the latest step.
    pub fn slots(&self) -> Vec<SlotView> {
        let slots = self.slots.read();
        slots.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows the slots.
    pub fn set_slots(&self, views: Vec<SlotView>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        *slots = views;
    }

    /// Counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Requests that wait for a slot.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a place in a queue of this length; the number of those who wait if there is none.
    pub fn enter_queue(&self, limit: usize) -> Result<(), usize> {
        let entered = |n: usize| (n < limit).then_some(n + 1);
        let order = Ordering::Relaxed;
        self.waiting
            .fetch_update(order, order, entered)
            .map(|n| self.metrics.deferred.set(n as i64 + 1))
            .map(drop)
    }

    /// Gives a place in the queue back: the request has a slot, or wants none any more.
    pub fn leave_queue(&self) {
        let order = Ordering::Relaxed;
        let left = self
            .waiting
            .fetch_update(order, order, |n| n.checked_sub(1));
        if let Ok(n) = left {
            self.metrics.deferred.set(n as i64 - 1);
        }
    }

    /// Whether the end was asked for.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// From now on nothing new is taken.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_has_an_end_and_places_come_back() {
        let status = Status::default();
        assert_eq!(status.enter_queue(2), Ok(()));
        assert_eq!(status.enter_queue(2), Ok(()));
        assert_eq!(status.enter_queue(2), Err(2));
        status.leave_queue();
        assert_eq!(status.waiting(), 1);
        assert_eq!(status.enter_queue(2), Ok(()));
        assert_eq!(status.enter_queue(0), Err(2));
        for _ in 0..5 {
            status.leave_queue();
        }
        assert_eq!(status.waiting(), 0, "never below nothing");
    }
}
