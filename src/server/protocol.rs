//! What HTTP workers and the engine thread say to each other. No JSON and no tensor passes here.
//!
//! A worker sends a [`Command`]; answers come as [`Event`]s on the channel inside it. **A dropped receiver is a
//! cancelled request**: the engine looks at [`Events::is_closed`] before every step, in the queue and in prefill too.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::constrain::Constrainer;
use crate::engine::sampling::{LogProbs, SamplingParams};
use crate::engine::speculation::{DraftStats, SpeculationParams};

/// Where the events of one request go. Unbounded: the engine never waits for a client.
pub type Events = mpsc::UnboundedSender<Event>;

/// Who may share a prefix with whom: one scope per API key, or one for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(pub [u8; 32]);

/// A message to the engine thread.
#[derive(Debug)]
pub enum Command {
    /// Compute a prompt and continue it.
    Generate(Box<Generate>),
    /// Compute a prompt and give its embedding.
    Embed(Box<Embed>),
    /// Something about one slot.
    Slot(SlotCommand),
    /// Finish what runs, take nothing new, then end.
    Shutdown,
}

/// One request for text.
#[derive(Debug)]
pub struct Generate {
    /// Request id, for log lines.
    pub id: String,
    /// Whose prefixes it may use.
    pub scope: Scope,
    /// Tokens of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Positions in `prompt`, rising, where a message ends: states are kept there.
    pub boundaries: Vec<usize>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Choices; the prompt is computed once. Choice `i` draws with `seed + i`.
    pub n: u32,
    /// Most tokens per choice; `None` until the context is full.
    pub n_predict: Option<u32>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Whether special tokens become text.
    pub special: bool,
    /// What may be said, if not everything.
    pub constrainer: Option<Box<dyn Constrainer>>,
    /// Speculation for this request; `None` takes the server's.
    pub speculation: Option<SpeculationParams>,
    /// Log probabilities of this many alternatives with each token.
    pub logprobs: Option<u32>,
    /// Whether log probabilities are those after the sampling chain (`post_sampling_probs`).
    pub post_sampling: bool,
    /// Whether tokens in memory may be used again.
    pub cache_prompt: bool,
    /// The slot asked for.
    pub slot: Option<u32>,
    /// Whether prefill reports each step.
    pub progress: bool,
    /// Most time for generation after the first token (`t_max_predict_ms`).
    pub max_time: Option<Duration>,
    /// Where the answer goes.
    pub events: Events,
}

/// One text to embed.
#[derive(Debug)]
pub struct Embed {
    /// Request id, for log lines.
    pub id: String,
    /// Tokens, at least one.
    pub prompt: Vec<u32>,
    /// The mean over tokens of the hidden states after the final norm, not normalised; `n_embd` values.
    pub reply: oneshot::Sender<Result<Vec<f32>, RequestError>>,
}

/// What a request hears. Order: `Started`, `Progress`*, then tokens of all choices, and one `Finished` per choice; or
/// `Failed` at any time, after which nothing comes.
#[derive(Debug)]
pub enum Event {
    /// It left the queue.
    Started {
        /// Slot of the first choice.
        slot: u32,
        /// Prompt tokens that were in memory already.
        n_cached: usize,
    },
    /// A part of the prompt was computed.
    Progress(PrefillProgress),
    /// A token of a choice. `text` is what can be shown now: whole UTF-8, with what may begin a stop text held back.
    Token(Box<TokenEvent>),
    /// A choice is complete.
    Finished(Box<Finished>),
    /// The request failed.
    Failed(RequestError),
}

/// Prompt tokens in all, from memory, and done so far (those from memory included).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrefillProgress {
    /// Tokens of the prompt.
    pub total: usize,
    /// Of these, in memory before.
    pub cached: usize,
    /// Of these, in memory now.
    pub processed: usize,
    /// Time since the prompt was begun.
    pub time: Duration,
}

/// One token.
#[derive(Debug, Clone)]
pub struct TokenEvent {
    /// Which choice, from 0.
    pub choice: u32,
    /// Its id.
    pub token: u32,
    /// Text that became complete with it, perhaps none.
    pub text: String,
    /// Its log probability and the alternatives', if asked for.
    pub logprobs: Option<LogProbs>,
    /// Times until now.
    pub timings: Timings,
}

/// The end of a choice.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Which choice, from 0.
    pub choice: u32,
    /// Why.
    pub reason: StopReason,
    /// Text that was held back and belongs to the answer after all.
    pub text: String,
    /// Seed that was used.
    pub seed: u64,
    /// Slot it ran on.
    pub slot: u32,
    /// Times and counts.
    pub timings: Timings,
}

/// Why a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended its turn, or the constraint was complete.
    Eos,
    /// One of the request's stop texts.
    Word(String),
    /// `n_predict`, `max_time` or the context's end.
    Limit,
}

/// Times and counts of one choice, by llama-server's names.
#[derive(Debug, Clone, Default)]
pub struct Timings {
    /// Prompt tokens that were in memory already.
    pub cache_n: usize,
    /// Prompt tokens that were computed.
    pub prompt_n: usize,
    /// Time for them.
    pub prompt: Duration,
    /// Tokens generated.
    pub predicted_n: usize,
    /// Time from the end of prefill.
    pub predicted: Duration,
    /// Time in the queue.
    pub queued: Duration,
    /// Guesses made and right.
    pub drafts: DraftStats,
}

/// Why a request failed; the message is for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More tokens than the context holds. HTTP 400, `exceed_context_size_error`.
    #[error("the request has {n_prompt} tokens, but the context of a slot holds {n_ctx}")]
    PromptTooLong {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Size of the context.
        n_ctx: usize,
    },
    /// Something in the request cannot be. HTTP 400.
    #[error("{0}")]
    Invalid(String),
    /// Too many requests wait. HTTP 429 with Retry-After.
    #[error("{queued} requests wait already")]
    QueueFull {
        /// Requests in the queue.
        queued: usize,
    },
    /// The model is being loaded, or the server ends. HTTP 503.
    #[error("{0}")]
    Unavailable(String),
    /// No file or slot of that name. HTTP 404.
    #[error("{0}")]
    NotFound(String),
    /// The computation failed. HTTP 500.
    #[error("{0}")]
    Internal(String),
}

/// Something about one slot.
#[derive(Debug)]
pub struct SlotCommand {
    /// Slot number.
    pub slot: u32,
    /// Who asks.
    pub scope: Scope,
    /// What is to be done.
    pub action: SlotAction,
    /// The answer.
    pub reply: oneshot::Sender<Result<SlotReport, RequestError>>,
}

/// `?action=` of `/slots/{id}`. Paths have been checked to lie in the slot folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotAction {
    /// Write the slot's tokens and states to a file.
    Save(PathBuf),
    /// Read them back.
    Restore(PathBuf),
    /// Forget them.
    Erase,
}

/// What a slot action did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotReport {
    /// Tokens saved, restored or erased.
    pub n_tokens: usize,
    /// Bytes written or read.
    pub n_bytes: u64,
    /// Time it took.
    pub time: Duration,
}

/// What `/slots` shows of one slot; a snapshot of the last step.
#[derive(Debug, Clone, Default)]
pub struct SlotView {
    /// Slot number.
    pub id: u32,
    /// Tokens it can hold.
    pub n_ctx: u32,
    /// Request it works for.
    pub request: Option<String>,
    /// Whose request that is.
    pub scope: Option<Scope>,
    /// Tokens in memory.
    pub n_past: usize,
    /// Prompt tokens and how many of them are computed.
    pub n_prompt: usize,
    /// See `n_prompt`.
    pub n_prompt_done: usize,
    /// Tokens generated so far.
    pub n_decoded: usize,
}

/// How far loading is: one of several stages, each with its own bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loading {
    /// What is being done, as in `downloading model.gguf`; empty before anything is.
    pub what: Arc<str>,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 where there is nothing to count.
    pub total: u64,
}

impl Loading {
    /// The start of a stage.
    pub fn stage(what: impl Into<Arc<str>>, total: u64) -> Self {
        Self {
            what: what.into(),
            done: 0,
            total,
        }
    }

    /// Whole percents of this stage, if they can be told.
    pub fn percent(&self) -> Option<u64> {
        let done = self.done.min(self.total);
        (self.total > 0).then(|| (100.0 * (done as f64 / self.total as f64)) as u64)
    }
}

impl std::fmt::Display for Loading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Loading model")?;
        if !self.what.is_empty() {
            write!(f, ": {}", self.what)?;
        }
        match self.percent() {
            Some(percent) => write!(f, ", {percent} %"),
            None => Ok(()),
        }
    }
}

/// State of the engine thread, for `/health` and the first requests.
#[derive(Debug, Clone)]
pub enum EngineState {
    /// The model is on its way.
    Loading(Loading),
    /// Ready for commands.
    Ready,
    /// Loading failed.
    Failed(String),
    /// It has ended.
    Stopped,
}
