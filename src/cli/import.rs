//! `oxling import`: a checkpoint becomes a model file.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use oxling::convert::{Control, ConvertError, ConvertOptions, Progress};
use oxling::gguf::{GgmlType, Gguf};
use oxling::import::{ClassError, Experts, Import, ImportError, PlanLine, Policy};
use serde::Serialize;

use super::interrupt::{Interrupt, exit_code};
use super::outputs::refuse_same_file;
use super::progress::tensor_bar;
use super::sizes::parse_size;
use super::table::{Align, Table, human_bytes};
use super::values::{chosen, threads};

/// No machine has use for more.
const MOST_THREADS: usize = 1024;

/// Turn a checkpoint into a GGUF.
///
/// SRC is a folder as published: safetensors shards, config.json, tokenizer files. Read are JANGTQ bundles (MLX) and
/// Hugging Face checkpoints (bf16, f16, f32, fp8 with block scales, int4 in compressed-tensors form) of
/// BailingMoeV2_5ForCausalLM: Ling 2.5 and 2.6.
///
/// The 2-bit experts of a JANGTQ bundle are kept bit for bit, as two binary planes per matrix in a type that every
/// backend has. 4-bit integers become Q4_0, which keeps each of them too. Everything else is decoded and encoded again:
/// by default 8-bit affine as Q8_0, 16-bit as it is.
///
/// Memory stays small whatever the size of the model. An interrupted import leaves no file and can be repeated.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling import Ling-2.6-flash-JANGTQ ling.gguf                      # 2-bit experts bit for bit, the rest Q8_0
  oxling import Ling-2.6-flash-JANGTQ ling.gguf --dense IQ4_NL       # fewer bytes per token: faster
  oxling import Ling-2.6-flash ling.gguf --outtype IQ4_NL            # from bf16 or fp8
  oxling import Ling-2.6-flash-JANGTQ --dry-run                      # what would be made
  oxling import tiny-ling-jangtq tiny.gguf --verify 16               # and compare it with the source")]
pub struct ImportArgs {
    /// Folder of the checkpoint.
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// File to write.
    #[arg(value_name = "OUT.gguf", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Routed experts: planes, or a type such as IQ4_NL, Q2_K, Q4_K, Q8_0, F16; for one matrix of the three:
    /// planes,down=Q8_0. Default: planes for 2-bit codes, IQ4_NL for 3 and 4 bits.
    #[arg(long, value_name = "planes|TYPE")]
    experts: Option<Experts>,
    /// All other matrices: F16 for exactness, Q8_0, Q6_K, Q5_K, IQ4_NL ... Default: Q8_0 for 8-bit affine.
    #[arg(long, value_name = "TYPE")]
    dense: Option<GgmlType>,
    /// Every matrix --experts and --dense do not speak of.
    #[arg(long, value_name = "TYPE")]
    outtype: Option<GgmlType>,
    /// Output matrix; default: as --dense.
    #[arg(long, value_name = "TYPE")]
    output_tensor_type: Option<GgmlType>,
    /// Token embedding; default: as --dense.
    #[arg(long, value_name = "TYPE")]
    token_embedding_type: Option<GgmlType>,
    /// Split the model into files of at most this size, such as 20G or 500M.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    split_max_size: Option<u64>,
    /// Name of the model in the file; default: the source's.
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    model_name: Option<String>,
    /// Threads; default, and -1: all cores.
    #[arg(short = 't', long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
    /// Print what would be made, and make nothing.
    #[arg(long)]
    dry_run: bool,
    /// Compare products of sampled rows with those of the source, for N tokens.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    verify: Option<u32>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What was made, or would be.
#[derive(Serialize)]
struct Report<'a> {
    files: Vec<PathBuf>,
    source_bytes: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    tensors: Vec<TensorReport<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ErrorReport>,
}

#[derive(Serialize)]
struct TensorReport<'a> {
    name: &'a str,
    from: &'a str,
    to: &'a str,
    bits_per_weight: f64,
    bytes: u64,
}

#[derive(Serialize)]
struct ErrorReport {
    class: String,
    from: String,
    to: String,
    rows: u64,
    mean: f64,
    worst: f64,
    worst_at: String,
}

/// Runs the command.
pub fn run(args: &ImportArgs) -> Result<ExitCode> {
    let policy = Policy {
        outtype: args.outtype,
        dense: args.dense,
        experts: args.experts.unwrap_or_default(),
        embedding: args.token_embedding_type,
        output: args.output_tensor_type,
    };
    let mut import = Import::open(&args.source, &policy)?;
    if let Some(name) = &args.model_name {
        import.set_name(name);
    }
    let plan = import.plan();
    let bytes = plan.iter().map(|line| line.bytes).sum();
    let mut report = Report {
        files: Vec::new(),
        source_bytes: import.source_bytes(),
        bytes,
        seconds: None,
        tensors: plan.iter().map(TensorReport::new).collect(),
        errors: Vec::new(),
    };
    summary(&plan, report.source_bytes, bytes);
    if let Some(out) = args.out.as_ref().filter(|_| !args.dry_run) {
        refuse_source(&args.source, out)?;
        let start = Instant::now();
        match write(args, &import, out, bytes) {
            Ok(files) => report.files = files,
            Err(ImportError::Convert(ConvertError::Cancelled)) => {
                anstream::eprintln!("stopped; nothing was written");
                return Ok(exit_code());
            }
            Err(e) => return Err(e.into()),
        }
        let seconds = start.elapsed().as_secs_f64();
        report.seconds = Some(seconds);
        let rate = human_bytes((bytes as f64 / seconds.max(1e-3)) as u64);
        anstream::eprintln!("{} in {seconds:.1} s, {rate}/s", human_bytes(bytes));
        if let Some(n) = args.verify {
            let verification = import.verify(&Gguf::open(&report.files[0])?, n)?;
            report.errors = verification.classes.iter().map(ErrorReport::new).collect();
        }
    }
    print(args, &report)?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses to write over a file of the checkpoint. A GGUF beside it may be an earlier result.
fn refuse_source(source: &Path, out: &Path) -> Result<()> {
    let entries = std::fs::read_dir(source)?.filter_map(Result::ok);
    let files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none_or(|ext| ext != "gguf"))
        .collect();
    refuse_same_file(out, files.iter().map(PathBuf::as_path))
}

fn write(
    args: &ImportArgs,
    import: &Import,
    out: &Path,
    bytes: u64,
) -> Result<Vec<PathBuf>, ImportError> {
    let options = ConvertOptions {
        split_max_bytes: args.split_max_size,
        n_threads: chosen(args.threads).map(|n| n.min(MOST_THREADS)),
    };
    // Without a listener Ctrl-C ends the program at once; the next import overwrites what that leaves.
    let interrupt = Interrupt::listen().ok();
    let busy = interrupt.as_ref().map(Interrupt::busy);
    let never = std::sync::atomic::AtomicBool::new(false);
    let bar = tensor_bar("importing", bytes, import.plan().len() as u64);
    let progress = |step: Progress<'_>| match step {
        Progress::Bytes(n) => bar.bytes(n),
        Progress::Tensor(_) => bar.tensor(),
    };
    let control = Control {
        progress: &progress,
        cancel: busy.as_ref().map_or(&never, |busy| busy.stop()),
    };
    let written = import.write(out, &options, &control);
    bar.finish();
    written
}

/// What becomes of each kind of tensor, in a few lines.
fn summary(plan: &[PlanLine], source_bytes: u64, bytes: u64) {
    let mut kinds: BTreeMap<_, (u64, u64, u64)> = BTreeMap::new();
    for line in plan {
        let entry = kinds.entry((line.class, &line.from, &line.to)).or_default();
        *entry = (entry.0 + 1, entry.1 + line.n_weights, entry.2 + line.bytes);
    }
    let mut table = Table::new(&[
        ("tensors", Align::Right),
        ("kind", Align::Left),
        ("from", Align::Left),
        ("to", Align::Left),
        ("bits", Align::Right),
        ("size", Align::Right),
    ]);
    for ((class, from, to), (n, weights, bytes)) in kinds {
        table.row([
            n.to_string(),
            class.to_string(),
            from.clone(),
            to.clone(),
            format!("{:.2}", bytes as f64 * 8.0 / weights.max(1) as f64),
            human_bytes(bytes),
        ]);
    }
    let mut err = anstream::stderr().lock();
    // Talk: nobody is left to hear that stderr is closed.
    let _ = table.write(&mut err);
    let _ = writeln!(
        err,
        "{} to {}, {:.2} times the source",
        human_bytes(source_bytes),
        human_bytes(bytes),
        bytes as f64 / source_bytes.max(1) as f64
    );
}

fn print(args: &ImportArgs, report: &Report<'_>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
        return Ok(());
    }
    if args.dry_run {
        let mut table = Table::new(&[
            ("tensor", Align::Left),
            ("from", Align::Left),
            ("to", Align::Left),
            ("bits per weight", Align::Right),
            ("bytes", Align::Right),
        ]);
        for tensor in &report.tensors {
            table.row([
                tensor.name.to_owned(),
                tensor.from.to_owned(),
                tensor.to.to_owned(),
                format!("{:.2}", tensor.bits_per_weight),
                tensor.bytes.to_string(),
            ]);
        }
        table.write(&mut out)?;
    }
    if !report.errors.is_empty() {
        let mut table = Table::new(&[
            ("kind", Align::Left),
            ("from", Align::Left),
            ("to", Align::Left),
            ("rows", Align::Right),
            ("mean error", Align::Right),
            ("worst error", Align::Right),
            ("worst at", Align::Left),
        ]);
        for e in &report.errors {
            table.row([
                e.class.clone(),
                e.from.clone(),
                e.to.clone(),
                e.rows.to_string(),
                format!("{:.2e}", e.mean),
                format!("{:.2e}", e.worst),
                e.worst_at.clone(),
            ]);
        }
        table.write(&mut out)?;
    }
    for file in &report.files {
        writeln!(out, "{}", file.display())?;
    }
    Ok(())
}

impl<'a> TensorReport<'a> {
    fn new(line: &'a PlanLine) -> Self {
        Self {
            name: &line.name,
            from: &line.from,
            to: &line.to,
            bits_per_weight: line.bits(),
            bytes: line.bytes,
        }
    }
}

impl ErrorReport {
    fn new(e: &ClassError) -> Self {
        Self {
            class: e.class.to_string(),
            from: e.from.clone(),
            to: e.to.clone(),
            rows: e.n_rows,
            mean: e.mean,
            worst: e.worst,
            worst_at: e.worst_at.clone(),
        }
    }
}
