//! The command line: parses, calls the layers below, reports. Data goes to stdout, talk to stderr.

#![forbid(unsafe_code)]

mod argv;
mod inspect;
mod licenses;
mod logits;
mod model_args;
mod perplexity;
mod progress;
mod run;
mod sampling_args;
mod synth;
mod tokenize;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// GGUF runtime for large hybrid-attention MoE models.
#[derive(Debug, Parser)]
#[command(name = "oxling", version, about, long_about = None, disable_help_subcommand = false, max_term_width = 110)]
struct Cli {
    /// Show more of what happens (ggml's own messages included); twice for everything.
    #[arg(short = 'v', long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Write log lines to a file instead of stderr.
    #[arg(long, global = true, value_name = "FILE")]
    log_file: Option<std::path::PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Complete a prompt or chat.
    Run(Box<run::RunArgs>),
    /// Show what is in a GGUF file and what running it takes.
    Inspect(inspect::InspectArgs),
    /// Show how a text becomes tokens.
    Tokenize(tokenize::TokenizeArgs),
    /// Write logits of prompts at every position, for comparison with a reference.
    Logits(logits::LogitsArgs),
    /// Measure perplexity on a text, or divergence from saved logits.
    Perplexity(perplexity::PerplexityArgs),
    /// Make a GGUF of random weights in the true shape of a model.
    Synth(synth::SynthArgs),
    /// Print the licences of what this program is made of.
    Licenses(licenses::LicensesArgs),
    /// Print a completion script for a shell.
    Completions(run::CompletionsArgs),
}

/// Runs the program on `args` (the program's name first) and gives its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match argv::normalise(args) {
        Ok(args) => args,
        Err(e) => return fail(&e),
    };
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 1 } else { 0 });
        }
    };
    if let Err(e) = init_logging(&cli) {
        return fail(&e);
    }
    let done = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Licenses(args) => licenses::run(args),
        Command::Completions(args) => run::completions(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

/// Prints an error and what to do about it; the program's exit code for both is 1.
fn fail(error: &anyhow::Error) -> ExitCode {
    use anstyle::{AnsiColor, Style};
    let (red, cyan) = (
        Style::new().bold().fg_color(Some(AnsiColor::Red.into())),
        Style::new().bold().fg_color(Some(AnsiColor::Cyan.into())),
    );
    let message = error.chain().map(ToString::to_string).collect::<Vec<_>>();
    anstream::eprintln!("{red}error:{red:#} {}", message.join(": "));
    if let Some(hint) = hint_of(error) {
        anstream::eprintln!("{cyan}hint:{cyan:#} {hint}");
    }
    ExitCode::FAILURE
}

/// The hint of the first error in the chain that has one.
fn hint_of(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|e| {
        None.or_else(|| e.downcast_ref::<oxling::model::LoadError>().and_then(oxling::model::LoadError::hint))
            .or_else(|| e.downcast_ref::<oxling::gguf::GgufError>().and_then(oxling::gguf::GgufError::hint))
            .or_else(|| e.downcast_ref::<oxling::engine::EngineError>().and_then(oxling::engine::EngineError::hint))
            .or_else(|| e.downcast_ref::<oxling::ggml::GgmlError>().and_then(oxling::ggml::GgmlError::hint))
    })
}

/// Log lines go to stderr or a file, as `-v` asks; without it only warnings.
fn init_logging(cli: &Cli) -> anyhow::Result<()> {
    use anyhow::Context;
    use tracing_subscriber::filter::EnvFilter;
    let level = match cli.verbose {
        0 => "warn,ggml=off",
        1 => "info,ggml=info,oxling=debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("OXLING_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(true);
    match &cli.log_file {
        Some(path) => {
            let file = std::fs::File::create(path).with_context(|| format!("cannot write log file {}", path.display()))?;
            builder.with_ansi(false).with_writer(std::sync::Mutex::new(file)).init();
        }
        None => builder.with_ansi(anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never).with_writer(std::io::stderr).init(),
    }
    oxling::ggml::route_logs_to_tracing();
    Ok(())
}
