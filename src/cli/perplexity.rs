//! `oxling perplexity`: how well a model predicts a text, and how far it is from saved predictions.

mod summary;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Result, bail};
use clap::Args;
use oxling::engine::Engine;
use oxling::eval::{
    BaseReader, BaseWriter, ChunkLogits, Chunks, Divergence, EvalError, Mean, compute, nll,
};
use oxling::model::Model;
use oxling::tokenizer::EncodeOptions;
use serde_json::json;

use super::interrupt::Interrupt;
use super::model_args::{ComputeArgs, ModelArgs, read_text};
use super::outputs::{files_of, refuse_same_file};
use super::progress::count_bar;
use super::values::chunks as chunk_count;

/// Context of a chunk when -c does not say: what published figures use.
const DEFAULT_CONTEXT: u32 = 512;

/// Measure perplexity on a text, or divergence from saved logits.
///
/// The method is llama.cpp's: the text is cut into chunks of one context, and the second half of each is scored. Files
/// of saved logits are those of its --kl-divergence-base, in both directions.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling perplexity -m model.gguf -f wiki.test.raw
  oxling perplexity -m f16.gguf -f wiki.test.raw --save-logits f16.kld   # save the predictions of one model,
  oxling perplexity -m iq4.gguf --kl-base f16.kld                        # then measure how far another is from it")]
pub struct PerplexityArgs {
    /// Text to predict; `-` is stdin.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Most chunks to score; default, and -1: all.
    #[arg(long, value_name = "N", value_parser = chunk_count)]
    chunks: Option<usize>,
    /// Save the predictions to a file.
    #[arg(long, alias = "save-all-logits", value_name = "FILE", conflicts_with_all = ["kl_base", "kl_divergence_base"])]
    save_logits: Option<PathBuf>,
    /// Measure the divergence from predictions saved before, on the text that they were made from.
    #[arg(long, value_name = "FILE", conflicts_with = "kl_divergence_base")]
    kl_base: Option<PathBuf>,
    /// As --kl-base if --kl-divergence is given too, else as --save-logits.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    kl_divergence_base: Option<PathBuf>,
    /// See --kl-divergence-base.
    #[arg(long, hide_short_help = true, requires = "kl_divergence_base")]
    kl_divergence: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
pub fn run(args: &PerplexityArgs) -> Result<()> {
    let (compared, saved) = match &args.kl_divergence_base {
        Some(path) if args.kl_divergence => (Some(path), None),
        Some(path) => (None, Some(path)),
        None => (args.kl_base.as_ref(), args.save_logits.as_ref()),
    };
    match compared {
        Some(path) => divergence(args, path),
        None => perplexity(args, saved.map(PathBuf::as_path)),
    }
}

/// The token that starts each chunk, if the model wants one.
fn start_token(model: &Model) -> Option<u32> {
    let tokenizer = model.tokenizer();
    tokenizer.bos().filter(|_| tokenizer.add_bos())
}

/// An engine that computes as many chunks at once as fit into a batch.
fn engine(args: &PerplexityArgs, model: &Model, chunks: &Chunks) -> Result<Engine> {
    let mut config = args.compute.engine_config()?;
    config.n_ctx = chunks.n_ctx() as u32;
    config.n_seq = (config.n_batch / config.n_ctx).clamp(1, chunks.len().max(1) as u32);
    Ok(Engine::new(model, config)?)
}

fn perplexity(args: &PerplexityArgs, save: Option<&Path>) -> Result<()> {
    let Some(path) = &args.file else {
        bail!("no text: name a file with -f")
    };
    let text = read_text(path)?;
    let gguf = args.model.open()?;
    if let Some(save) = save {
        refuse_same_file(save, files_of(&gguf).chain([path.as_path()]))?;
    }
    let model = args.model.load_for(gguf, true)?;
    // Without a listener a signal ends the program at once, and leaves what it had written.
    let interrupt = Interrupt::listen().ok();
    let busy = interrupt.as_ref().map(Interrupt::busy);
    let tokens = model.tokenizer().encode(
        &text,
        EncodeOptions {
            add_special: true,
            parse_special: false,
        },
    );
    let n_ctx = if args.compute.ctx_size == 0 {
        DEFAULT_CONTEXT
    } else {
        args.compute.ctx_size
    };
    let chunks = Chunks::new(tokens, n_ctx as usize, start_token(&model), args.chunks)?;
    let mut engine = engine(args, &model, &chunks)?;
    let mut writer = save
        .map(|path| BaseWriter::create(path, &chunks, model.n_vocab()))
        .transpose()?;
    let mut all = Mean::default();
    let bar = count_bar("chunks", chunks.len() as u64);
    compute(&mut engine, &chunks, &mut |chunk: ChunkLogits<'_>| {
        if busy
            .as_ref()
            .is_some_and(|busy| busy.stop().load(Ordering::SeqCst))
        {
            return Err(EvalError::Cancelled);
        }
        for (row, &target) in chunk.rows.iter().zip(chunks.targets(chunk.index)) {
            all.add(nll(row, target));
        }
        if let Some(writer) = &mut writer {
            writer.write(&chunk.rows)?;
        }
        bar.inc(1);
        bar.suspend(|| anstream::eprint!("[{}]{:.4},", chunk.index + 1, all.perplexity().0));
        Ok::<(), EvalError>(())
    })?;
    bar.finish_and_clear();
    anstream::eprintln!();
    if let Some(writer) = writer {
        writer.finish()?;
    }
    let (value, error) = all.perplexity();
    let mut out = std::io::stdout().lock();
    if args.json {
        let report = json!({ "perplexity": value, "error": error, "chunks": chunks.len(), "context": n_ctx, "scored": all.count() });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        writeln!(out, "Final estimate: PPL = {value:.4} +/- {error:.5}")?;
    }
    Ok(())
}

fn divergence(args: &PerplexityArgs, path: &Path) -> Result<()> {
    let model = args.model.load()?;
    let mut base = BaseReader::open(path, start_token(&model))?;
    base.check_vocab(model.n_vocab())?;
    let chunks = base.chunks().clone().first(args.chunks);
    let mut engine = engine(args, &model, &chunks)?;
    let mut all = Divergence::default();
    let bar = count_bar("chunks", chunks.len() as u64);
    compute(&mut engine, &chunks, &mut |chunk: ChunkLogits<'_>| {
        all.add_chunk(
            &chunk.rows,
            &base.next_chunk()?,
            chunks.targets(chunk.index),
        );
        bar.inc(1);
        bar.suspend(|| anstream::eprint!("[{}]{:.5},", chunk.index + 1, all.kl().mean()));
        Ok::<(), EvalError>(())
    })?;
    bar.finish_and_clear();
    anstream::eprintln!();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(
            out,
            "{}",
            serde_json::to_string_pretty(&summary::json(&all))?
        )?;
    } else {
        summary::write(&mut out, &all)?;
    }
    Ok(())
}
