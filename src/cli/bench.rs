//! `oxling bench`: repeated speed tests, as llama-bench runs and prints them.

#![forbid(unsafe_code)]

mod compare;
mod measure;
mod output;
mod plan;
mod profile;
mod record;

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use oxling::bench::Test;
use oxling::hub::{FileName, Reference};
use oxling::model::Model;

use super::counts::{Counts, thread_counts};
use super::devices::list_devices;
use super::hub_args::HubArgs;
use super::model_args::{CacheType, GpuLayers, KernelChoice, LoadMode, OnOffAuto};
use super::spec_args::SpecType;
use super::values::switch;
use compare::Other;
use measure::Measured;
use output::{Format, Printer};
use plan::{Plan, PromptGen, Setup};
use record::Record;

/// Measure speed of prompts and generation: the tests, flags and outputs of llama-bench.
///
/// Each list of values is tried with each other one. A test is a prompt (`pp512`), generation (`tg128`) or one after
/// the other (`pp512+tg128`), after -d tokens in memory (`@ d4096`). Numbers may be ranges: 1-4, 128-512+128, 128-4096*2.
/// Tokens are random. With --spec-type, tests that generate read prose instead, again and again where it is too short, and
/// 16 tokens of it that are not timed where there would be nothing to continue. The model goes on by its likeliest token,
/// or with --spec-synth-rates by a drawn one; nothing ends the text. `t/s` are those with guesses, `plain` those without,
/// `ratio` their quotient, `right` the share of guesses that were, `len` the tokens of a step that had guesses.
/// `oxling speculation` measures given prompts, several at once, and guesses by position.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling bench -m model.gguf
  oxling bench -m model.gguf -p 512,2048 -n 64 -d 0,4096 -t 1-8*2 -o json > mine.json
  oxling bench -m model.gguf --compare mine.json      # or a file of llama-bench -o json
  oxling bench -m model.gguf -p 512 -n 32 --profile   # time by operation
  oxling bench -m model.gguf -p 0 -n 64 --spec-type mtp --spec-draft-n-max 1-3")]
pub struct BenchArgs {
    /// Tokens of the prompt; 0 for none.
    #[arg(
        short = 'p',
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "512"
    )]
    n_prompt: Vec<Counts>,
    /// Tokens to generate; 0 for none.
    #[arg(
        short = 'n',
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "128"
    )]
    n_gen: Vec<Counts>,
    /// A prompt and generation in one test; may be repeated [-pg].
    #[arg(long, value_name = "PP,TG")]
    pg: Vec<PromptGen>,
    /// Tokens in memory before each test.
    #[arg(
        short = 'd',
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "0"
    )]
    n_depth: Vec<Counts>,
    /// Times each test is repeated.
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repetitions: u32,
    /// Seconds to rest before each test but the first, so that the machine cools down.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=86_400))]
    delay: u64,
    /// Say on stderr which test runs, also where stderr is no terminal.
    #[arg(long)]
    progress: bool,
    /// List the devices of this machine and leave.
    #[arg(long)]
    list_devices: bool,
    /// Leave out the untimed micro-batch and token before each test.
    #[arg(long)]
    no_warmup: bool,
    /// What is printed.
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Format::Md)]
    output: Format,
    /// Print to stderr too, in another format [-oe].
    #[arg(long, value_name = "FORMAT", value_enum)]
    output_err: Option<Format>,
    /// Also print the ratio to the results in a JSON file of this command or of llama-bench.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Also print time by operation and by part of the network, from one more run of each test. The clock slows steps of one
    /// token down.
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    setups: SetupArgs,
}

/// Lists of models and settings.
#[derive(Debug, Args)]
#[command(next_help_heading = "Models and settings (lists)")]
struct SetupArgs {
    /// GGUF files. Without any, the built-in demo model.
    #[arg(
        short = 'm',
        long,
        value_name = "FILES",
        value_delimiter = ',',
        env = "LLAMA_ARG_MODEL"
    )]
    model: Vec<PathBuf>,
    /// Model of a hub, downloaded unless it is here; QUANT is Q4_K_M if not named [-hf, -hfr].
    #[arg(long, value_name = "REPO[:QUANT]", env = "LLAMA_ARG_HF_REPO")]
    hf_repo: Option<Reference>,
    /// The very file of that repository [-hff].
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_HF_FILE")]
    hf_file: Option<FileName>,
    #[command(flatten)]
    hub: HubArgs,
    /// Threads, for prompts and generation; default, and -1: one per core.
    #[arg(
        short = 't',
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = thread_counts,
        env = "LLAMA_ARG_THREADS"
    )]
    threads: Vec<Counts>,
    /// Batch sizes; only as a limit of -ub.
    #[arg(
        short = 'b',
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "2048"
    )]
    batch_size: Vec<Counts>,
    /// Largest numbers of tokens computed at once [-ub].
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "512"
    )]
    ubatch_size: Vec<Counts>,
    /// Element types of the attention memory [-ctk].
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "f16"
    )]
    cache_type_k: Vec<CacheType>,
    /// As -ctk, and the same types: keys and values have one type here [-ctv].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cache_type_v: Vec<CacheType>,
    /// Fused attention: on, off, auto [-fa].
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "auto"
    )]
    flash_attn: Vec<OnOffAuto>,
    /// Who multiplies with weights on the CPU: `own` kernels, or `ggml`'s; `own,ggml` compares them.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "own",
        env = "OXLING_KERNELS"
    )]
    kernels: Vec<KernelChoice>,
    /// Blocks on GPUs: numbers, `all` or `auto` [-ngl].
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "auto",
        allow_negative_numbers = true
    )]
    n_gpu_layers: Vec<GpuLayers>,
    /// Blocks whose experts stay on the CPU [-ncmoe].
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0")]
    n_cpu_moe: Vec<Counts>,
    /// How weights get into memory [-lm].
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "auto"
    )]
    load_mode: Vec<LoadMode>,
    /// llama-bench's way to say it: 1 is `auto`, 0 is `none` [-mmp].
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = switch,
        conflicts_with = "load_mode"
    )]
    mmap: Vec<bool>,
    /// Devices to offload to in all tests, comma-separated; `none` for the CPU alone [-dev].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    device: Vec<String>,
    /// ggml RPC servers to offload to in all tests, host:port, comma-separated.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rpc: Vec<String>,
    #[command(flatten)]
    guesses: GuessArgs,
}

/// Lists of ways to guess ahead, and what is the same in all of them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Speculation (lists)")]
struct GuessArgs {
    /// Where guesses come from, as in `oxling run`: mtp, ngram, none or auto. Unless it is none, a test that generates
    /// really writes: without guesses and with them, by turns, the same text, which every repetition begins elsewhere.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "none"
    )]
    spec_type: Vec<SpecType>,
    /// Most guesses per step.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "3")]
    spec_draft_n_max: Vec<Counts>,
    /// Always guess as many tokens as allowed, instead of as many as pay.
    #[arg(long)]
    no_spec_adapt: bool,
    /// Let the head choose among the first N tokens of the vocabulary only; 0: among all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    spec_draft_vocab: u32,
    /// Accept guesses with these probabilities, the first of a step with the first; for models of random weights. No
    /// list: it holds in all tests.
    #[arg(long, value_name = "P,P,...", value_delimiter = ',')]
    spec_synth_rates: Vec<f32>,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    if args.list_devices {
        return list_devices(&args.setups.rpc);
    }
    let plan = Plan::new(args)?;
    let other = args.compare.as_deref().map(Other::read).transpose()?;
    let mut out = std::io::stdout().lock();
    let mut printer = Printer::new(args.output, &plan);
    let mut printer_err = args.output_err.map(|format| Printer::new(format, &plan));
    let mut records = Vec::new();
    let mut profiles = Vec::new();
    let mut loaded: Option<(usize, Model)> = None;
    for (i, (setup, test)) in plan.runs().enumerate() {
        if i > 0 {
            std::thread::sleep(Duration::from_secs(args.delay));
        }
        let model = match loaded.take() {
            Some((load, model)) if load == setup.load => model,
            _ => {
                let head = plan.wants_head(setup.load);
                setup.model.load_for(setup.model.open()?, head)?
            }
        };
        let progress = Progress::new(args.progress, i + 1, plan.len(), &setup, test);
        let measured = Measured::new(args, &model, &setup, test, &progress)?;
        progress.clear();
        let record = Record::new(&model, &setup, test, &measured, plan.speculates())?;
        printer.record(&mut out, &record)?;
        if let Some(printer) = &mut printer_err {
            printer.record(&mut std::io::stderr().lock(), &record)?;
        }
        records.push(record);
        profiles.extend(measured.profile);
        loaded = Some((setup.load, model));
    }
    printer.finish(&mut out)?;
    if let Some(printer) = printer_err {
        printer.finish(&mut std::io::stderr().lock())?;
    }
    // Other formats are for programs: what is for people must not be among them.
    let mut err = std::io::stderr().lock();
    let people: &mut dyn Write = if args.output == Format::Md {
        &mut out
    } else {
        &mut err
    };
    if let Some(other) = other {
        other.write(people, &records)?;
    }
    for operations in profiles {
        operations.write(people)?;
    }
    Ok(())
}

/// A line on a terminal that says what is being measured; elsewhere lines, if they are wanted.
struct Progress {
    what: Option<String>,
    terminal: bool,
}

impl Progress {
    fn new(wanted: bool, index: usize, total: usize, setup: &Setup, test: Test) -> Self {
        let threads = setup
            .compute
            .threads
            .map_or(String::new(), |t| format!(", {t} threads"));
        let terminal = std::io::stderr().is_terminal();
        let shown = terminal || wanted;
        Self {
            what: shown.then(|| format!("test {index} of {total}: {test}{threads}")),
            terminal,
        }
    }

    fn say(&self, state: &str) {
        match &self.what {
            Some(what) if self.terminal => anstream::eprint!("\r\x1b[K{what}, {state}"),
            Some(what) => anstream::eprintln!("{what}, {state}"),
            None => {}
        }
    }

    fn clear(&self) {
        if self.terminal {
            anstream::eprint!("\r\x1b[K");
        }
    }
}
