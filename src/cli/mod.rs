//! The command line: parses, calls the layers below, reports. Data goes to stdout, talk to stderr.

#![forbid(unsafe_code)]

mod argv;
mod batched_bench;
mod bench;
mod completions;
mod counts;
mod devices;
mod errors;
mod escapes;
mod grammar_args;
mod hub_args;
mod imatrix;
mod import;
mod inspect;
mod interrupt;
mod licenses;
mod log_json;
mod logits;
mod model_args;
mod perplexity;
mod outputs;
mod progress;
mod pull;
mod quantize;
mod run;
mod sampling_args;
mod serve;
mod sizes;
mod spec_args;
mod speculation;
mod synth;
mod table;
mod template_args;
mod tokenize;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

const LOGGING: &str = "Logging";

/// GGUF runtime for large hybrid-attention MoE models.
#[derive(Debug, Parser)]
#[command(name = "oxling", version, max_term_width = 110)]
#[command(after_help = "\
Flags have llama.cpp's names, so `-ngl 99` works as there. Exit codes: 0 done, 1 error, 130 stopped by Ctrl-C, 143 by SIGTERM.

Examples:
  oxling run -st -p \"The capital of France is\"   # the built-in demo model answers
  oxling run -m model.gguf                       # chat in the terminal
  oxling serve -m model.gguf                     # an OpenAI-compatible server, and a page to chat with
  oxling inspect model.gguf                      # what is in a file and what it needs")]
struct Cli {
    /// Show more of what happens, ggml's own messages included; twice for everything.
    #[arg(short = 'v', long, action = clap::ArgAction::Count, global = true, help_heading = LOGGING)]
    verbose: u8,
    /// What is shown: 0 nothing, 1 errors, 2 warnings, 3 information, 4 details, 5 everything [-lv].
    #[arg(long, alias = "verbosity", global = true, help_heading = LOGGING, value_name = "N",
          value_parser = clap::value_parser!(u8).range(0..=5), env = "LLAMA_ARG_LOG_VERBOSITY")]
    log_verbosity: Option<u8>,
    /// Append log lines to a file instead of writing them to stderr.
    #[arg(long, global = true, help_heading = LOGGING, value_name = "FILE", env = "LLAMA_ARG_LOG_FILE")]
    log_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Complete a prompt or chat.
    Run(Box<run::RunArgs>),
    #[command(alias = "server")]
    Serve(Box<serve::ServeArgs>),
    Pull(pull::PullArgs),
    Inspect(inspect::InspectArgs),
    Tokenize(tokenize::TokenizeArgs),
    Logits(logits::LogitsArgs),
    Perplexity(perplexity::PerplexityArgs),
    Quantize(quantize::QuantizeArgs),
    Imatrix(imatrix::ImatrixArgs),
    Import(import::ImportArgs),
    Bench(Box<bench::BenchArgs>),
    BatchedBench(Box<batched_bench::BatchedBenchArgs>),
    Speculation(Box<speculation::SpeculationArgs>),
    Synth(synth::SynthArgs),
    Licenses(licenses::LicensesArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
}

/// Runs the program on `args` (the program's name first) and gives its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut parser = parser();
    parser.build();
    let args = match argv::normalise(&parser, args) {
        Ok(args) => args,
        Err(e) => return errors::fail(&e),
    };
    let name = argv::subcommand(&parser, &args);
    let parsed = parser
        .try_get_matches_from_mut(args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => return errors::usage(&e, name.as_deref()),
    };
    match init_logging(&cli, &matches).and_then(|()| run_command(&cli.command)) {
        Ok(code) => code,
        Err(e) => errors::fail(&e),
    }
}

/// The parser; help names environment variables without their values.
fn parser() -> clap::Command {
    let hide = |arg: clap::Arg| arg.hide_env_values(true);
    Cli::command()
        .mut_args(hide)
        .mut_subcommands(|command| command.mut_args(hide))
}

fn run_command(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => return run::run(args),
        Command::Serve(args) => return serve::run(args),
        Command::Quantize(args) => return quantize::run(args),
        Command::Imatrix(args) => return imatrix::run(args),
        Command::Import(args) => return import::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Bench(args) => bench::run(args),
        Command::BatchedBench(args) => batched_bench::run(args),
        Command::Speculation(args) => speculation::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Licenses(args) => licenses::run(args),
        Command::Completions(args) => completions::run(args, parser()),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// The filter for log lines that `-v` and `-lv` ask for; without them warnings of our own.
fn log_filter(cli: &Cli) -> &'static str {
    match (cli.verbose, cli.log_verbosity) {
        // What a server does is read from its log.
        (0, None) if matches!(cli.command, Command::Serve(_)) => "warn,oxling=info,ggml=off",
        (0, Some(0)) => "off",
        (0, Some(1)) => "error,ggml=off",
        (0, Some(2) | None) => "warn,ggml=off",
        (0, Some(3)) => "info,ggml=off",
        (0, Some(4)) | (1, _) => "info,ggml=info,oxling=debug",
        _ => "trace",
    }
}

/// Sends log lines to stderr or to a file.
fn init_logging(cli: &Cli, matches: &ArgMatches) -> anyhow::Result<()> {
    use tracing_subscriber::filter::EnvFilter;
    let filter =
        EnvFilter::try_from_env("OXLING_LOG").unwrap_or_else(|_| EnvFilter::new(log_filter(cli)));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(true);
    let json = matches!(&cli.command, Command::Serve(args) if args.logs_json());
    match &cli.log_file {
        Some(path) if json => {
            let file = outputs::open_log(path, matches)?;
            let lines = lines.event_format(log_json::JsonLines);
            lines.with_writer(std::sync::Mutex::new(file)).init();
        }
        None if json => {
            let lines = lines.event_format(log_json::JsonLines);
            lines.with_writer(std::io::stderr).init();
        }
        Some(path) => {
            let file = outputs::open_log(path, matches)?;
            lines
                .with_ansi(false)
                .with_writer(std::sync::Mutex::new(file))
                .init();
        }
        None => {
            let colored =
                anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
            lines.with_ansi(colored).with_writer(std::io::stderr).init();
        }
    }
    oxling::ggml::route_logs_to_tracing();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        Cli::command().debug_assert();
    }
}
