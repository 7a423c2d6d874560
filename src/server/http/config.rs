//! What a server is told at its start.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::keys::Keys;

/// Where the chat template comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TemplateChoice {
    /// From the model's file; ChatML where it has none.
    #[default]
    Model,
    /// A built-in one, by name.
    Builtin(String),
    /// This text.
    Source(String),
}

/// Bounds on what clients may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest body in bytes.
    pub body: usize,
    /// Most time for a body to arrive.
    pub body_time: Duration,
    /// Most time for the head of a request to arrive, between two requests, without a new part of a body, and without
    /// the client taking anything of its answer. A body that comes slower than a kilobyte per second gets this long
    /// beyond that.
    pub idle: Duration,
    /// Most connections at once; more are answered with 503.
    pub connections: usize,
    /// Most time that running requests get after the end was asked for.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 << 20,
            body_time: Duration::from_secs(600),
            idle: Duration::from_secs(30),
            connections: 512,
            shutdown: Duration::from_secs(30),
        }
    }
}

/// Settings of the HTTP side.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Keys that clients need; none if there are none.
    pub keys: Keys,
    /// Whether clients with different keys share prefixes.
    pub cache_shared: bool,
    /// Origins whose pages may use the server beside its own; `*` for all.
    pub origins: Vec<String>,
    /// Bounds on what clients may send.
    pub limits: Limits,
    /// Time between pings on a silent stream; zero for none.
    pub ping: Duration,
    /// Put before all paths, as in `/llm`; empty for nothing.
    pub prefix: String,
    /// Whether `/slots` shows the slots.
    pub slots: bool,
    /// Whether `/metrics` shows the counters.
    pub metrics: bool,
    /// Whether `POST /props` is taken.
    pub props: bool,
    /// Whether there is a page at `/`.
    pub page: bool,
    /// Folder of slot files; without it slots cannot be saved.
    pub slot_folder: Option<PathBuf>,
    /// Most tokens per answer.
    pub n_predict: Option<u32>,
    /// The chat template.
    pub template: TemplateChoice,
    /// Variables of the template.
    pub template_kwargs: Map<String, Value>,
    /// Whether the model thinks; `None` leaves it to the template.
    pub thinking: Option<bool>,
    /// Whether thoughts are told from the answer.
    pub split_thoughts: bool,
    /// Whether a trailing assistant message is continued.
    pub prefill_assistant: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            keys: Keys::default(),
            cache_shared: false,
            origins: Vec::new(),
            limits: Limits::default(),
            ping: Duration::from_secs(30),
            prefix: String::new(),
            slots: true,
            metrics: false,
            props: false,
            page: true,
            slot_folder: None,
            n_predict: None,
            template: TemplateChoice::default(),
            template_kwargs: Map::new(),
            thinking: None,
            split_thoughts: true,
            prefill_assistant: true,
        }
    }
}
