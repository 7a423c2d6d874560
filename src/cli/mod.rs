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
mod outputs;
mod perplexity;
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
mod values;

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
        .try_get_matches_from_mut(&args)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(e) => {
            let variable = argv::variable_behind(&parser, &args, &e);
            return errors::usage(&e, name.as_deref(), variable.as_deref());
        }
    };
    match init_logging(&cli, &matches).and_then(|()| run_command(&cli.command)) {
        Ok(code) => code,
        Err(e) => errors::fail(&e),
    }
}

/// The parser. Help names environment variables without their values. As in llama.cpp, the last of a repeated flag counts
/// (lists go on), and a negative number is a value like others, which the flag's own range may refuse.
fn parser() -> clap::Command {
    let adapt = |arg: clap::Arg| {
        let takes_number = arg.get_action().takes_values() && !arg.is_positional();
        let arg = arg.hide_env_values(true);
        match takes_number {
            true => arg.allow_negative_numbers(true),
            false => arg,
        }
    };
    Cli::command()
        .args_override_self(true)
        .mut_args(adapt)
        .mut_subcommands(|command| command.args_override_self(true).mut_args(adapt))
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
        parser().debug_assert();
    }

    #[test]
    fn the_last_of_a_flag_counts_and_lists_go_on() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("run -t 1 -t 2", "threads", &["2"]),
            ("run -p a -p b", "prompt", &["b"]),
            ("run -st -st", "single_turn", &["true"]),
            ("serve --port 1 --port 2", "port", &["2"]),
            ("bench -m A -m B,C", "model", &["A", "B", "C"]),
            ("bench -pg 1,2 -pg 3,4", "pg", &["1,2", "3,4"]),
            ("bench -t 1 -t 2", "threads", &["1", "2"]),
            ("run -r a -r b", "reverse_prompt", &["a", "b"]),
            ("run -l 1+1 -l 2-1", "logit_bias", &["1+1", "2-1"]),
            ("imatrix --in-file a --in-file b", "in_file", &["a", "b"]),
            (
                "quantize a b Q8_0 --tensor-type a=F16 --tensor-type b=F16",
                "tensor_type",
                &["a=F16", "b=F16"],
            ),
            (
                "serve --api-key a --api-key b,c",
                "api_key",
                &["a", "b", "c"],
            ),
        ];
        let mut parser = parser();
        parser.build();
        for (line, id, expected) in cases {
            let words = ["oxling"].into_iter().chain(line.split(' '));
            let args = argv::normalise(&parser, words.map(OsString::from)).expect(line);
            let matches = parser.clone().try_get_matches_from(args).expect(line);
            let (_, command) = matches.subcommand().expect(line);
            let found: Vec<_> = command.get_raw(id).expect(line).collect();
            assert_eq!(found, *expected, "{line}");
        }
    }

    #[test]
    fn every_flag_with_a_number_takes_a_negative_one() {
        let parser = parser();
        for command in parser.get_subcommands() {
            let mut flags = command.get_arguments().filter(|arg| !arg.is_positional());
            let refusing = flags.find(|arg| {
                arg.get_action().takes_values()
                    && !arg.is_allow_negative_numbers_set()
                    && !arg.is_allow_hyphen_values_set()
            });
            assert!(refusing.is_none(), "{}: {refusing:?}", command.get_name());
        }
    }
}
