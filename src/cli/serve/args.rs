//! Flags of `oxling serve`, by llama-server's names.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use crate::cli::hub_args::Secret;
use crate::cli::model_args::{ComputeArgs, ModelArgs};
use crate::cli::sampling_args::SamplingArgs;
use crate::cli::spec_args::SpecArgs;
use crate::cli::template_args::TemplateArgs;
use crate::cli::values::{switch, threads};

const EXAMPLES: &str = "\
Clients of OpenAI use http://HOST:PORT/v1, clients of Anthropic http://HOST:PORT; a browser finds a page to chat with
at /. The context (-c) is shared out among the slots (-np): `-c 32768 -np 4` gives each conversation 8192 tokens.
What was computed is kept: a conversation that goes on, or that starts like another one, computes only what is new
(--cache-ram says how much memory that may take). Flags of sampling set what requests get that do not say otherwise.

Examples:
  oxling serve                                              # the built-in demo model on http://127.0.0.1:8080
  oxling serve -m model.gguf -c 32768 -np 4                 # four conversations at once, 8192 tokens each
  oxling serve -m model.gguf --host 0.0.0.0 --api-key KEY   # for others; clients send the key
  oxling serve -m model.gguf --slot-save-path slots         # keep conversations over a restart
  oxling serve -m model.gguf --metrics --log-format json    # for Prometheus and log collectors

  curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}'";

/// Serve a model over HTTP, as OpenAI, Anthropic and llama-server do.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub server: HttpArgs,
    #[command(flatten)]
    pub template: TemplateArgs,
    #[command(flatten)]
    pub chat: ChatArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub spec: SpecArgs,
    #[command(flatten)]
    pub ignored: IgnoredArgs,
}

impl ServeArgs {
    /// Whether log lines are JSON.
    pub fn logs_json(&self) -> bool {
        self.server.log_format == LogFormat::Json
    }
}

/// Addresses, keys, limits and endpoints.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct HttpArgs {
    /// Addresses to listen on, comma-separated, or one socket file that ends in `.sock`.
    #[arg(
        long,
        value_name = "HOST",
        value_delimiter = ',',
        default_value = "127.0.0.1",
        env = "LLAMA_ARG_HOST"
    )]
    pub host: Vec<String>,
    /// Port to listen on; 0 for a free one.
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 8080,
        env = "LLAMA_ARG_PORT"
    )]
    pub port: u16,
    /// Slots: conversations computed at once; -1 for 4 [-np].
    #[arg(
        long,
        value_name = "N",
        default_value_t = -1,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-1..=256),
        env = "LLAMA_ARG_N_PARALLEL"
    )]
    pub parallel: i32,
    /// Requests that may wait for a slot; more are answered with 429.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        env = "OXLING_ARG_QUEUE"
    )]
    pub queue: usize,
    /// Prompt tokens computed at once while others generate: less makes their streams smoother, more is faster [as -ub].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), env = "OXLING_ARG_PREFILL_BUDGET")]
    pub prefill_budget: Option<u32>,
    /// Compute answers side by side as if each were alone, to the bit, where the devices can: prompts one at a time and in
    /// steps of their own. Slower with many slots. A prompt that goes on from a kept prefix may round otherwise.
    #[arg(long, action = ArgAction::SetTrue, value_parser = switch, env = "OXLING_ARG_EXACT")]
    pub exact: bool,
    /// Memory for prefixes that are kept, in MiB; -1 for no limit, 0 for none [-cram].
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 8192,
        allow_negative_numbers = true,
        env = "LLAMA_ARG_CACHE_RAM"
    )]
    pub cache_ram: i64,
    /// Let clients with different keys share prefixes; otherwise none learns what another has asked.
    #[arg(long, action = ArgAction::SetTrue, value_parser = switch, env = "OXLING_ARG_CACHE_SHARED")]
    pub cache_shared: bool,
    /// Keys that clients send as `Authorization: Bearer KEY` or `X-Api-Key: KEY`, comma-separated.
    #[arg(
        long,
        value_name = "KEY",
        value_delimiter = ',',
        allow_hyphen_values = true,
        env = "LLAMA_API_KEY"
    )]
    pub api_key: Vec<Secret>,
    /// File with one key in a line.
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Origins whose pages may use the server, as in `https://chat.example`, comma-separated; `*` for all. By default
    /// only the server's own page may.
    #[arg(
        long,
        value_name = "ORIGIN",
        value_delimiter = ',',
        env = "LLAMA_ARG_CORS_ORIGINS"
    )]
    pub cors_origins: Vec<String>,
    /// Path before all others, as in `/llm`.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "",
        env = "LLAMA_ARG_API_PREFIX"
    )]
    pub api_prefix: String,
    /// Name of the model that clients see; by default its own [-a].
    #[arg(
        long,
        value_name = "NAME",
        allow_hyphen_values = true,
        env = "LLAMA_ARG_ALIAS"
    )]
    pub alias: Option<String>,
    /// Folder of files that `/slots/ID?action=save` writes.
    #[arg(long, value_name = "FOLDER", env = "LLAMA_ARG_SLOT_SAVE_PATH")]
    pub slot_save_path: Option<PathBuf>,
    /// Most tokens per answer; -1: until the model ends it or the context is full.
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", default_value_t = -1,
          allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-2..), env = "LLAMA_ARG_N_PREDICT")]
    pub predict: i32,
    /// Show counters at `/metrics`.
    #[arg(long, action = ArgAction::SetTrue, value_parser = switch, env = "LLAMA_ARG_ENDPOINT_METRICS")]
    pub metrics: bool,
    /// Accept `POST /props`.
    #[arg(long, action = ArgAction::SetTrue, value_parser = switch, env = "LLAMA_ARG_ENDPOINT_PROPS")]
    pub props: bool,
    /// Show the slots at `/slots`; the default.
    #[arg(long, overrides_with = "no_slots")]
    pub slots: bool,
    /// Do not show the slots.
    #[arg(long, overrides_with = "slots")]
    pub no_slots: bool,
    /// No page at `/`.
    #[arg(long, alias = "no-webui")]
    pub no_ui: bool,
    /// Seconds between pings on a silent stream; -1 for none.
    #[arg(
        long,
        value_name = "S",
        default_value_t = 30,
        allow_negative_numbers = true
    )]
    pub sse_ping_interval: i64,
    /// Largest body of a request in MiB.
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 32,
        env = "OXLING_ARG_MAX_BODY"
    )]
    pub max_body_mib: usize,
    /// Seconds in which a body must arrive [-to].
    #[arg(
        long,
        value_name = "S",
        default_value_t = 600,
        env = "LLAMA_ARG_TIMEOUT"
    )]
    pub timeout: u64,
    /// Seconds in which the head of a request must arrive, that a body or a connection may rest, and that a client may
    /// take nothing of its answer.
    #[arg(
        long,
        value_name = "S",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..),
        env = "OXLING_ARG_TIMEOUT_IDLE"
    )]
    pub timeout_idle: u64,
    /// Connections at once; more are answered with 503.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 512,
        env = "OXLING_ARG_MAX_CONNECTIONS"
    )]
    pub max_connections: usize,
    /// Seconds that running requests get when the server is told to end.
    #[arg(
        long,
        value_name = "S",
        default_value_t = 30,
        env = "OXLING_ARG_SHUTDOWN_TIMEOUT"
    )]
    pub shutdown_timeout: u64,
    /// Threads for HTTP; -1 for the default [2].
    #[arg(long, value_name = "N", value_parser = threads, env = "LLAMA_ARG_THREADS_HTTP")]
    pub threads_http: Option<usize>,
    /// Form of log lines.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, env = "OXLING_ARG_LOG_FORMAT")]
    pub log_format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The form of conversations.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Chat")]
pub struct ChatArgs {
    /// Continue a message of the assistant at the end of a conversation; the default.
    #[arg(long, overrides_with = "no_prefill_assistant")]
    pub prefill_assistant: bool,
    /// Answer it instead.
    #[arg(long, overrides_with = "prefill_assistant")]
    pub no_prefill_assistant: bool,
}

/// Flags of llama-server that ask for what is so anyway, or for what has no counterpart here. They are taken so that
/// command lines and scripts work.
#[derive(Debug, Clone, Args)]
pub struct IgnoredArgs {
    #[arg(long, hide = true)]
    cont_batching: bool,
    #[arg(long, hide = true)]
    no_cont_batching: bool,
    #[arg(long, hide = true)]
    kv_unified: bool,
    #[arg(long, hide = true)]
    no_kv_unified: bool,
    #[arg(long, hide = true)]
    no_warmup: bool,
    #[arg(long, hide = true)]
    warmup: bool,
    #[arg(long, hide = true, alias = "embeddings")]
    embedding: bool,
    #[arg(long, hide = true)]
    cache_idle_slots: bool,
    #[arg(long, hide = true)]
    no_cache_idle_slots: bool,
    #[arg(long, hide = true, value_name = "N")]
    cache_reuse: Option<i64>,
    #[arg(long, hide = true, value_name = "N")]
    ctx_checkpoints: Option<i64>,
    #[arg(long, hide = true, value_name = "N")]
    slot_prompt_similarity: Option<f32>,
    #[arg(long, hide = true)]
    swa_full: bool,
    #[arg(long, hide = true, alias = "webui")]
    ui: bool,
    #[arg(long, hide = true, value_name = "LIST")]
    tags: Option<String>,
}
