//! Flags of `oxling run`, by llama.cpp's names.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::cli::grammar_args::GrammarArgs;
use crate::cli::model_args::{ComputeArgs, ModelArgs, OnOffAuto};
use crate::cli::sampling_args::SamplingArgs;
use crate::cli::spec_args::SpecArgs;
use crate::cli::template_args::TemplateArgs;

const EXAMPLES: &str = "\
With a chat template in the model, -p is the first turn of a chat; add -st for a single answer. Without one, or with
-no-cnv, the model completes the text. Answers go to stdout, everything else to stderr. Without -m, a small built-in
demo model answers. Names in brackets are llama.cpp's short ones; an environment variable stands for its flag.

Examples:
  oxling run -m model.gguf                                   # chat; /help lists commands
  oxling run -m model.gguf -st -p \"Name three oxen.\"         # one answer
  oxling run -m model.gguf -st -f question.txt > answer.txt  # the same from and to files
  oxling run -m model.gguf -sys \"Answer in French.\" -c 8192  # system prompt and context
  oxling run -m model.gguf -no-cnv -p \"Once upon\" -n 64      # plain completion
  printf 'Hi\\nAnd now?\\n' | oxling run -m model.gguf         # one turn per line
  oxling run -m model.gguf -ngl 20 -ncmoe 8 -t 16            # blocks on GPUs, experts on the CPU";

/// Complete a prompt or chat.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, version, display_name = "oxling", disable_help_flag = true)]
pub struct RunArgs {
    /// Print help.
    #[arg(short = 'h', long, action = ArgAction::HelpShort)]
    help: Option<bool>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub prompt: PromptArgs,
    #[command(flatten)]
    pub chat: ChatArgs,
    #[command(flatten)]
    pub template: TemplateArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub grammar: GrammarArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub spec: SpecArgs,
}

/// What to answer or complete.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// Text to start from; `\n`, `\t`, `\\` and the like are replaced.
    #[arg(short = 'p', long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Take the text from a file, as it is but for a line end at its end; `-` is stdin.
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "prompt")]
    pub file: Option<PathBuf>,
    /// Most tokens to generate per answer; -1: until the model ends it, -2: until the context is full.
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", default_value_t = -1,
          allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-2..), env = "LLAMA_ARG_N_PREDICT")]
    pub predict: i32,
    /// End an answer before this text; may be given again.
    #[arg(short = 'r', long, value_name = "TEXT", allow_hyphen_values = true)]
    pub reverse_prompt: Vec<String>,
    /// Replace escape sequences in -p, -sys and -r; this is the default.
    #[arg(short = 'e', long, overrides_with = "no_escape")]
    pub escape: bool,
    /// Take backslashes as they are.
    #[arg(long, overrides_with = "escape")]
    pub no_escape: bool,
}

/// The form of the conversation.
#[derive(Debug, Args)]
#[command(next_help_heading = "Chat")]
pub struct ChatArgs {
    /// System prompt [-sys].
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system_prompt: Option<String>,
    /// System prompt from a file [-sysf].
    #[arg(long, value_name = "FILE", conflicts_with = "system_prompt")]
    pub system_prompt_file: Option<PathBuf>,
    /// Answer one turn and leave [-st].
    #[arg(long)]
    pub single_turn: bool,
    /// Chat, even if the model has no chat template (ChatML is used then) [-cnv].
    #[arg(long, overrides_with = "no_conversation")]
    pub conversation: bool,
    /// Complete the text without a chat template [-no-cnv].
    #[arg(long, overrides_with = "conversation")]
    pub no_conversation: bool,
    /// Enter starts a new line, a line that ends in `\` sends [-mli]. Otherwise the other way round.
    #[arg(long)]
    pub multiline_input: bool,
    /// Read lines without editing and history.
    #[arg(long)]
    pub simple_io: bool,
}

/// What is shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Do not repeat the prompt before the answer.
    #[arg(long, overrides_with = "display_prompt")]
    pub no_display_prompt: bool,
    #[arg(long, hide = true, overrides_with = "no_display_prompt")]
    pub display_prompt: bool,
    /// Show tokens per second after each answer; the default in a chat.
    #[arg(long, overrides_with = "no_show_timings")]
    pub show_timings: bool,
    /// Do not show them.
    #[arg(long, overrides_with = "show_timings")]
    pub no_show_timings: bool,
    /// Colours [-co]; auto: where the output is a terminal and NO_COLOR is not set.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = OnOffAuto::Auto)]
    pub color: OnOffAuto,
    /// Show structural tokens of the answer too [-sp].
    #[arg(long)]
    pub special: bool,
    /// Show the tokens of each prompt on stderr.
    #[arg(long)]
    pub verbose_prompt: bool,
    /// List the devices of this machine and leave.
    #[arg(long)]
    pub list_devices: bool,
    /// There is no warm-up to leave out; accepted for llama.cpp's sake.
    #[arg(long, action = ArgAction::SetTrue)]
    pub no_warmup: bool,
}

impl OutputArgs {
    /// Whether timings are shown, `default` unless a flag says so.
    pub fn timings(&self, default: bool) -> bool {
        self.show_timings || (default && !self.no_show_timings)
    }
}
