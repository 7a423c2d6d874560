//! `oxling imatrix`: which columns of a model's weights matter, measured on a text.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use oxling::engine::Engine;
use oxling::eval::Chunks;
use oxling::gguf::Gguf;
use oxling::imatrix::{
    CollectOptions, Collected, ImatrixError, ImportanceMatrix, collect, measurable,
};
use oxling::model::Model;
use oxling::tokenizer::EncodeOptions;
use serde_json::json;

use super::errors::hinted;
use super::interrupt::{Interrupt, exit_code};
use super::model_args::{ComputeArgs, ModelArgs, read_text};
use super::outputs::{files_of, refuse_same_file};
use super::progress::count_bar;
use super::values::chunks as chunk_count;

/// Context of a chunk when -c does not say: llama-imatrix's.
const DEFAULT_CONTEXT: u32 = 512;

/// Measure which columns of a model's weights matter, for `oxling quantize --imatrix`.
///
/// A text goes through the model, and the squares of the inputs of every matrix are summed up, column by column; of
/// mixtures of experts, for every expert by itself. Take a text like those the model will see: some hundred chunks of
/// mixed prose, code and chat. Every expert should be chosen now and then; the command says how many never were.
///
/// Files are llama.cpp's, in both directions. --in-file adds what was measured before, here or there; without -f, that
/// is all that is done.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling imatrix -m model-F16.gguf -f text.txt -o model.imatrix.gguf
  oxling imatrix -m model-Q8_0.gguf -f text.txt --chunks 100 -c 1024
  oxling imatrix --in-file a.gguf --in-file b.gguf -o both.gguf     # combine
  oxling imatrix --in-file old.dat -o new.gguf                      # to the newer form")]
pub struct ImatrixArgs {
    /// Text to measure on; `-` is stdin.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where to write the importance matrix.
    #[arg(
        short = 'o',
        long = "output-file",
        alias = "output",
        value_name = "FILE",
        default_value = "imatrix.gguf"
    )]
    out: PathBuf,
    /// Most chunks to measure; default, and -1: all.
    #[arg(long, value_name = "N", value_parser = chunk_count)]
    chunks: Option<usize>,
    /// Leave out the first N chunks of the text.
    #[arg(long, alias = "chunk", value_name = "N", default_value_t = 0)]
    from_chunk: usize,
    /// Save what was measured so far every N chunks; 0 saves at the end only.
    #[arg(long, value_name = "N", default_value_t = 10)]
    output_frequency: usize,
    /// Add an importance matrix of the same model; may be given several times.
    #[arg(long, value_name = "FILE")]
    in_file: Vec<PathBuf>,
    /// Measure the output matrix too; most mixes are better without.
    #[arg(long)]
    process_output: bool,
    /// Do not score the text on the way.
    #[arg(long)]
    no_ppl: bool,
    /// Take special tokens in the text for what they stand for.
    #[arg(long)]
    parse_special: bool,
    /// Leave the MTP head out.
    #[arg(long)]
    no_mtp: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
pub fn run(args: &ImatrixArgs) -> Result<ExitCode> {
    let known = args
        .in_file
        .iter()
        .map(|path| ImportanceMatrix::open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let Some(text) = &args.file else {
        return combine(args, &known);
    };
    let interrupt = Interrupt::listen()?;
    let busy = interrupt.busy();
    match measure(args, text, &known, busy.stop()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) => match e.downcast_ref() {
            Some(ImatrixError::Cancelled) => {
                anstream::eprintln!("stopped");
                Ok(exit_code())
            }
            _ => Err(e),
        },
    }
}

/// Writes the sum of files.
fn combine(args: &ImatrixArgs, known: &[ImportanceMatrix]) -> Result<ExitCode> {
    let Some((first, more)) = known.split_first() else {
        return Err(hinted(
            "no text: name a file with -f",
            "a few hundred kilobytes of what the model will see",
        ));
    };
    // The older form does not say, and counts chunks of llama-imatrix's usual size.
    let chunk_size = match first.chunk_size() {
        0 => DEFAULT_CONTEXT,
        known => known,
    };
    let mut matrix = ImportanceMatrix::new(chunk_size);
    matrix.merge(first)?;
    for other in more {
        matrix.merge(other)?;
    }
    matrix.save(&args.out)?;
    report(args, &matrix, None)?;
    Ok(ExitCode::SUCCESS)
}

fn measure(
    args: &ImatrixArgs,
    text: &Path,
    known: &[ImportanceMatrix],
    cancel: &AtomicBool,
) -> Result<()> {
    let text_of = read_text(text)?;
    let gguf = args.model.open()?;
    refuse_same_file(&args.out, files_of(&gguf).chain([text]))?;
    let model = args.model.load_for(gguf.clone(), !args.no_mtp)?;
    let chunks = chunks(args, &model, &text_of)?;
    let mut config = args.compute.engine_config()?;
    config.n_ctx = chunks.n_ctx() as u32;
    config.n_seq = (config.n_batch / config.n_ctx).clamp(1, chunks.len().max(1) as u32);
    config.mtp = model.network().has_mtp();
    let mut engine = Engine::new(&model, config)?;
    let options = CollectOptions {
        process_output: args.process_output,
        perplexity: !args.no_ppl,
        cancel,
    };
    let dataset = text.file_name().unwrap_or(text.as_os_str());
    let dataset = dataset.to_string_lossy();
    let whole = |mut matrix: ImportanceMatrix, chunks: usize| {
        matrix.note(&dataset, u32::try_from(chunks).unwrap_or(u32::MAX));
        for other in known {
            matrix.merge(other)?;
        }
        Ok::<_, ImatrixError>(matrix)
    };
    let bar = count_bar("chunks", chunks.len() as u64);
    let (mut saved, mut scores) = (0, None);
    let matrix = collect(
        &mut engine,
        &gguf,
        &chunks,
        &options,
        &mut |so_far: Collected<'_>| {
            bar.set_position(so_far.chunks as u64);
            if !args.no_ppl {
                let (value, _) = so_far.scores.perplexity();
                bar.suspend(|| anstream::eprint!("[{}]{value:.4},", so_far.chunks));
                scores = Some(so_far.scores.perplexity());
            }
            if args.output_frequency > 0 && so_far.chunks - saved >= args.output_frequency {
                saved = so_far.chunks;
                whole(so_far.matrix()?, so_far.chunks)?.save(&args.out)?;
            }
            Ok(())
        },
    )?;
    bar.finish_and_clear();
    anstream::eprintln!();
    let matrix = whole(matrix, chunks.len())?;
    matrix.save(&args.out)?;
    if let Some((value, error)) = scores {
        anstream::eprintln!("Final estimate: PPL = {value:.4} +/- {error:.5}");
    }
    tell_gaps(&gguf, &matrix, args.process_output)?;
    report(args, &matrix, scores)
}

/// The text in chunks, from the one that was asked for on.
fn chunks(args: &ImatrixArgs, model: &Model, text: &str) -> Result<Chunks> {
    let tokenizer = model.tokenizer();
    let mut tokens = tokenizer.encode(
        text,
        EncodeOptions {
            add_special: true,
            parse_special: args.parse_special,
        },
    );
    let n_ctx = match args.compute.ctx_size {
        0 => DEFAULT_CONTEXT as usize,
        n => n as usize,
    };
    let skipped = args.from_chunk.saturating_mul(n_ctx).min(tokens.len());
    tokens.drain(..skipped);
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    Ok(Chunks::new(tokens, n_ctx, bos, args.chunks)?)
}

/// Names what the text did not reach.
fn tell_gaps(gguf: &Gguf, matrix: &ImportanceMatrix, process_output: bool) -> Result<()> {
    let unused: usize = matrix
        .entries()
        .map(|(_, entry)| entry.counts().iter().filter(|&&count| count == 0).count())
        .sum();
    if unused > 0 {
        anstream::eprintln!(
            "{unused} expert matrices were never chosen: their columns count alike; a longer text helps"
        );
    }
    let is_matrix = |name: &&str| gguf.tensor(name).is_some_and(|t| t.shape.n_dims() > 1);
    let missing: Vec<&str> = measurable(gguf, process_output)?
        .filter(is_matrix)
        .filter(|name| matrix.entry(name).is_none() && *name != "token_embd.weight")
        .collect();
    if let Some(first) = missing.first() {
        anstream::eprintln!("{} matrices were not seen, such as {first}", missing.len());
    }
    Ok(())
}

fn report(args: &ImatrixArgs, matrix: &ImportanceMatrix, scores: Option<(f64, f64)>) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    if args.json {
        let report = json!({
            "file": args.out,
            "entries": matrix.len(),
            "chunks": matrix.chunk_count(),
            "context": matrix.chunk_size(),
            "datasets": matrix.datasets(),
            "perplexity": scores.map(|s| s.0),
            "error": scores.map(|s| s.1),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        writeln!(out, "{}", args.out.display())?;
    }
    Ok(())
}
