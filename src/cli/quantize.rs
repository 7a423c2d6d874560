//! `oxling quantize`: a model file in other types.

mod report;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;
use oxling::convert::{Control, ConvertError, ConvertOptions, Progress};
use oxling::gguf::{GgmlType, Gguf};
use oxling::imatrix::ImportanceMatrix;
use oxling::quantize::{Override, QuantizeError, QuantizePlan, Request};

use super::interrupt::{Interrupt, exit_code};
use super::model_args::read_text;
use super::outputs::refuse_same_file;
use super::progress::tensor_bar;
use super::sizes::parse_size;
use super::table::human_bytes;
use super::values::{chosen, threads};

/// Make a smaller model file: weights in types of fewer bits.
///
/// The names are llama.cpp's, and so are the choices behind them: a mix gives most matrices one type and delicate ones
/// more bits. Norms, routers and other small tensors stay as they are. Rows that do not fit a type's blocks get the
/// nearest type that they fit, and the command says so. An importance matrix (see `oxling imatrix`) tells the encoder
/// which columns matter: types below 3 bits need one, all below 6 bits gain by it.
///
/// IN may be any file of a split model, and OUT may be IN itself: the new file takes its name when it is complete. All
/// cores work, memory stays at a few hundred megabytes for any model, and Ctrl-C leaves nothing behind.
#[derive(Debug, Args)]
#[command(
    override_usage = "oxling quantize [OPTIONS] <IN> [OUT] <TYPE> [THREADS]",
    after_long_help = report::types_help(),
    after_help = "`oxling quantize --help` lists the types, and has examples."
)]
pub struct QuantizeArgs {
    /// The model, the file to write (without it: beside the model, with the type in its name), the type, and the
    /// number of threads.
    #[arg(value_names = ["IN", "OUT", "TYPE", "THREADS"], num_args = 2..=4, required = true)]
    target: Vec<PathBuf>,
    /// Importance matrix, of `oxling imatrix` or llama-imatrix in either of its forms.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Use the importances of these tensors only, by parts of their names; may be given several times.
    #[arg(long, value_name = "PART", requires = "imatrix")]
    include_weights: Vec<String>,
    /// Use no importances for these tensors, by parts of their names; may be given several times.
    #[arg(
        long,
        value_name = "PART",
        requires = "imatrix",
        conflicts_with = "include_weights"
    )]
    exclude_weights: Vec<String>,
    /// Type of the tensors whose names match a regular expression; may be given several times, the first match counts.
    #[arg(long, value_name = "REGEX=TYPE")]
    tensor_type: Vec<Override>,
    /// File of REGEX=TYPE, one after the other; --tensor-type goes before it.
    #[arg(long, value_name = "FILE")]
    tensor_type_file: Option<PathBuf>,
    /// Type of the output matrix.
    #[arg(long, value_name = "TYPE")]
    output_tensor_type: Option<GgmlType>,
    /// Type of the token embedding.
    #[arg(long, value_name = "TYPE")]
    token_embedding_type: Option<GgmlType>,
    /// One type throughout, without the exceptions of a mix.
    #[arg(long)]
    pure: bool,
    /// Leave the output matrix as it is.
    #[arg(long)]
    leave_output_tensor: bool,
    /// Quantise what is quantised already: rounds twice, and loses more than starting from F16.
    #[arg(long)]
    allow_requantize: bool,
    /// Write files of at most this size, such as 20G or 500M.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    split_max_size: Option<u64>,
    /// Print what would be done, tensor by tensor, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Threads; default, and -1: one per core.
    #[arg(short = 't', long, value_name = "N", value_parser = threads, env = "LLAMA_ARG_THREADS")]
    threads: Option<usize>,
    /// Print the plan and the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &QuantizeArgs) -> Result<ExitCode> {
    let target = target::Target::parse(&args.target)?;
    let gguf = Gguf::open(&target.input)?;
    let imatrix = importances(args)?;
    let request = Request {
        file_type: target.file_type,
        overrides: overrides(args)?,
        output_ty: args.output_tensor_type,
        embedding_ty: args.token_embedding_type,
        pure: args.pure,
        leave_output: args.leave_output_tensor,
        allow_requantize: args.allow_requantize,
    };
    let others = [&args.imatrix, &args.tensor_type_file].into_iter();
    refuse_same_file(&target.output, others.flatten().map(PathBuf::as_path))?;
    let plan = QuantizePlan::new(&gguf, &request, imatrix.as_ref())?;
    for pattern in plan.unused_patterns() {
        anstream::eprintln!("no tensor matches `{pattern}`");
    }
    if args.dry_run {
        report::plan(&plan, &target, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    report::summary(&plan, &target);
    let report = report::Report::new(&plan, &target);
    let options = ConvertOptions {
        split_max_bytes: args.split_max_size,
        n_threads: chosen(args.threads).or(target.threads),
    };
    match write(plan, &target, &options) {
        Ok((files, seconds)) => {
            report.done(files, seconds, args.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(QuantizeError::Convert(ConvertError::Cancelled)) => {
            anstream::eprintln!("stopped; nothing was written");
            Ok(exit_code())
        }
        Err(e) => Err(e.into()),
    }
}

/// The importance matrix, as far as it is wanted.
fn importances(args: &QuantizeArgs) -> Result<Option<ImportanceMatrix>> {
    let Some(path) = &args.imatrix else {
        return Ok(None);
    };
    let mut imatrix = ImportanceMatrix::open(path)?;
    let named = |parts: &[String], name: &str| parts.iter().any(|part| name.contains(part));
    imatrix.retain(|name| {
        (args.include_weights.is_empty() || named(&args.include_weights, name))
            && !named(&args.exclude_weights, name)
    });
    Ok(Some(imatrix))
}

/// Types by pattern, in the order in which they count.
fn overrides(args: &QuantizeArgs) -> Result<Vec<Override>> {
    let mut all = args.tensor_type.clone();
    if let Some(path) = &args.tensor_type_file {
        for item in read_text(path)?.split_whitespace() {
            let one = item.parse();
            all.push(one.with_context(|| format!("{}: {item}", path.display()))?);
        }
    }
    Ok(all)
}

/// Writes with a progress bar, until Ctrl-C.
fn write(
    plan: QuantizePlan<'_>,
    target: &target::Target,
    options: &ConvertOptions,
) -> Result<(Vec<PathBuf>, f64), QuantizeError> {
    let start = Instant::now();
    let bar = tensor_bar("quantising", plan.bytes(), plan.tensors().len() as u64);
    let progress = |step: Progress<'_>| match step {
        Progress::Bytes(n) => bar.bytes(n),
        Progress::Tensor(_) => bar.tensor(),
    };
    // Without a listener Ctrl-C ends the program at once; the next run overwrites what that leaves.
    let interrupt = Interrupt::listen().ok();
    let busy = interrupt.as_ref().map(Interrupt::busy);
    let never = std::sync::atomic::AtomicBool::new(false);
    let control = Control {
        progress: &progress,
        cancel: busy.as_ref().map_or(&never, |busy| busy.stop()),
    };
    let files = plan.write(&target.output, options, &control);
    bar.finish();
    let seconds = start.elapsed().as_secs_f64();
    let files = files?;
    let written: u64 = files
        .iter()
        .filter_map(|f| std::fs::metadata(f).ok())
        .map(|a| a.len())
        .sum();
    let rate = human_bytes((written as f64 / seconds.max(1e-3)) as u64);
    anstream::eprintln!("{seconds:.1} s, {rate}/s");
    Ok((files, seconds))
}
