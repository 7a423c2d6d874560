//! `oxling inspect`: what is in a GGUF file, whether it runs, and what that takes.

mod cost;
mod report;
mod text;
mod values;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use oxling::gguf::Gguf;

use super::model_args::CacheType;
use report::{Report, Wishes};

/// Show what is in a GGUF file, whether it runs here, how much memory it needs, and what a token reads of it.
///
/// Reads the header, never the weights. Works on files of any architecture, on split models (name any part) and on
/// vocabularies. A file that is a valid GGUF gives exit code 0 even if its architecture does not run; a broken file
/// gives 1.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling inspect model.gguf
  oxling inspect model.gguf -c 8192,131072 -np 4 -ctk q8_0   # memory for these contexts
  oxling inspect model.gguf --bandwidth 46                   # tokens per second that reading allows
  oxling inspect model.gguf --tensors                        # every tensor
  oxling inspect model.gguf --json | jq '.memory'")]
pub struct InspectArgs {
    /// GGUF file; any file of a split model will do.
    file: PathBuf,
    /// Context lengths to state the memory for, comma-separated.
    #[arg(
        short = 'c',
        long = "ctx-size",
        value_name = "N,N",
        value_delimiter = ','
    )]
    contexts: Vec<u32>,
    /// Sequences at the same time [-np].
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    parallel: u32,
    /// Element type of the attention memory: f32, f16, bf16 or q8_0 [-ctk].
    #[arg(long = "cache-type-k", value_name = "TYPE", default_value = "f16")]
    cache_type_k: CacheType,
    /// Speed at which memory is read, in GB/s: also says how many tokens per second that allows at most.
    #[arg(long, value_name = "GB/s", value_parser = parse_bandwidth)]
    bandwidth: Option<f64>,
    /// List the tensors, and nothing else unless asked for.
    #[arg(long)]
    tensors: bool,
    /// List the metadata, and nothing else unless asked for.
    #[arg(long)]
    metadata: bool,
    /// Long arrays and texts in full.
    #[arg(long)]
    full: bool,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

fn parse_bandwidth(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|n: &f64| *n > 0.0 && n.is_finite());
    number.ok_or_else(|| "expected a number of GB/s above 0".to_owned())
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Result<()> {
    let gguf = std::sync::Arc::new(Gguf::open(&args.file)?);
    let wishes = Wishes {
        contexts: args.contexts.clone(),
        n_seq: args.parallel,
        row_type: args.cache_type_k.0,
        bandwidth: args.bandwidth,
        full: args.full,
    };
    let report = Report::of(&gguf, &wishes);
    if args.json {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(());
    }
    let mut out = anstream::stdout().lock();
    match (args.tensors, args.metadata) {
        (false, false) => text::overview(&mut out, &report)?,
        (tensors, metadata) => {
            if metadata {
                text::metadata(&mut out, &report)?;
            }
            if tensors {
                text::tensors(&mut out, &report)?;
            }
        }
    }
    Ok(())
}
