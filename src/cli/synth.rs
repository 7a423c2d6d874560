//! `oxling synth`: a GGUF of random weights in the true shape of a model.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use oxling::gguf::GgmlType;
use oxling::synth::{Blueprint, Dims, ExpertType, PRESETS, Recipe};
use serde::Serialize;

use super::progress::byte_bar;
use super::sizes::parse_size;
use super::table::human_bytes;

/// Interval of MLA blocks for models cut down to fewer blocks than the known model's interval.
const SHORT_INTERVAL: u32 = 4;

/// Make a GGUF of random weights in the true shape of a model, to measure a machine before a download.
///
/// The file is deterministic from the seed. Weights are near-normal with variance 1/fan-in. A matrix is put together
/// from a pool of encoded rows, each use turned by another number of blocks: speed and memory are those of the real
/// model, but the text it writes is noise, and the file compresses well. The vocabulary has one token per byte, so
/// any text has tokens (more than with the real vocabulary). Rows that do not fit the wanted type get the nearest
/// type with smaller blocks, and the command says so.
///
/// Every 8th block is MLA, or every 4th if there are fewer than 8 blocks; --interval changes that. For ling-2.6-1t,
/// the ranks of MLA and the grouping of experts are those of ling-2.6-flash, as they are not published.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling synth --like ling-2.6-flash --layers 4 -o flash-4.gguf      # true widths, 8 GB
  oxling synth --like ling-2.6-flash -o flash.gguf                   # the whole 60 GB
  oxling synth --like tiny-ling --type F16 -o tiny.gguf
  oxling synth --like ling-2.6-flash --layers 4 --type Q8_0 --expert-type planes -o planes-4.gguf
  oxling synth --like ling-2.6-flash --hidden 2048 --heads 16 --layers 8 --experts 64 --vocab 32768 -o bench.gguf")]
pub struct SynthArgs {
    /// Model to imitate.
    #[arg(long, value_name = "MODEL", value_parser = preset_names())]
    like: String,
    /// Where to write the model.
    #[arg(
        short = 'o',
        long = "out",
        value_name = "FILE",
        required_unless_present = "dry_run"
    )]
    out: Option<PathBuf>,
    /// Type of matrices.
    #[arg(long = "type", value_name = "TYPE", default_value = "IQ4_NL")]
    ty: GgmlType,
    /// Type of the output matrix; default: as --type.
    #[arg(
        long = "output-tensor-type",
        alias = "type-output",
        value_name = "TYPE"
    )]
    output_ty: Option<GgmlType>,
    /// Type of the token embedding; default: as --type.
    #[arg(
        long = "token-embedding-type",
        alias = "type-embedding",
        value_name = "TYPE"
    )]
    embedding_ty: Option<GgmlType>,
    /// Type of the routed experts' matrices, or `planes` for 2-bit experts as an import of a JANGTQ bundle stores them;
    /// default: as --type.
    #[arg(long = "expert-type", value_name = "TYPE")]
    expert_ty: Option<ExpertType>,
    /// The same seed gives the same file.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Split the model into files of at most this size, such as 20G or 500M.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    split_max_size: Option<u64>,
    /// Leave the random weights out: they are zeros, and on disks with holes in files take no room. To measure how a model
    /// larger than the disk is loaded.
    #[arg(long)]
    sparse: bool,
    /// Print what would be made, and make nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sizes: SizeArgs,
}

/// Sizes to change.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sizes, if other than the model's")]
struct SizeArgs {
    /// Blocks, the MTP head's not counted.
    #[arg(long, value_name = "N")]
    layers: Option<u32>,
    /// Width of the residual stream.
    #[arg(long, value_name = "N")]
    hidden: Option<u32>,
    /// Attention heads.
    #[arg(long, value_name = "N")]
    heads: Option<u32>,
    /// Width of a head.
    #[arg(long, value_name = "N")]
    head_dim: Option<u32>,
    /// Rank of MLA's queries; 0 for a full matrix.
    #[arg(long, value_name = "N")]
    q_lora: Option<u32>,
    /// Rank of MLA's keys and values.
    #[arg(long, value_name = "N")]
    kv_lora: Option<u32>,
    /// Every N-th block is MLA.
    #[arg(long, value_name = "N")]
    interval: Option<u32>,
    /// Leading blocks without experts.
    #[arg(long, value_name = "N")]
    dense_layers: Option<u32>,
    /// Width of the feed-forward of blocks without experts.
    #[arg(long, value_name = "N")]
    ff: Option<u32>,
    /// Experts of a block.
    #[arg(long, value_name = "N")]
    experts: Option<u32>,
    /// Experts a token uses.
    #[arg(long, value_name = "N")]
    experts_used: Option<u32>,
    /// Groups of experts.
    #[arg(long, value_name = "N")]
    expert_groups: Option<u32>,
    /// Groups a token may choose from.
    #[arg(long, value_name = "N")]
    expert_groups_used: Option<u32>,
    /// Width of an expert.
    #[arg(long, value_name = "N")]
    expert_ff: Option<u32>,
    /// Tokens in the vocabulary.
    #[arg(long, value_name = "N")]
    vocab: Option<u32>,
    /// Context length the file states.
    #[arg(long, value_name = "N")]
    context: Option<u32>,
    /// Leave the MTP head out.
    #[arg(long)]
    no_mtp: bool,
}

/// Names of known models.
fn preset_names() -> clap::builder::PossibleValuesParser {
    PRESETS
        .iter()
        .map(|preset| preset.name)
        .collect::<Vec<_>>()
        .into()
}

/// What was made.
#[derive(Serialize)]
struct Report {
    files: Vec<PathBuf>,
    bytes: u64,
    parameters: u64,
    seconds: f64,
    fallbacks: Vec<String>,
}

/// Runs the command.
pub fn run(args: &SynthArgs) -> Result<()> {
    let preset = PRESETS
        .iter()
        .find(|preset| preset.name == args.like)
        .context("no such model")?;
    let recipe = Recipe {
        name: format!("{} (random weights)", args.like),
        dims: args.sizes.apply(preset.dims),
        ty: args.ty,
        output_ty: args.output_ty,
        embedding_ty: args.embedding_ty,
        experts: args.expert_ty,
        seed: args.seed,
        split_max_bytes: args.split_max_size,
        sparse: args.sparse,
    };
    let blueprint = Blueprint::new(&recipe)?;
    let (bytes, parameters) = (blueprint.bytes(), blueprint.n_params());
    let describe = |f: &oxling::synth::Fallback| {
        format!(
            "{}: {} instead of {}, for rows of {}",
            f.tensor, f.used, f.wanted, f.row
        )
    };
    let fallbacks: Vec<String> = blueprint.fallbacks().iter().map(describe).collect();
    let size = human_bytes(bytes);
    anstream::eprintln!("{:.2} billion weights, {size}", parameters as f64 / 1e9);
    for line in &fallbacks {
        anstream::eprintln!("{line}");
    }
    let Some(path) = args.out.as_ref().filter(|_| !args.dry_run) else {
        return report(
            args,
            &Report {
                files: Vec::new(),
                bytes,
                parameters,
                seconds: 0.0,
                fallbacks,
            },
        );
    };
    let start = Instant::now();
    let bar = byte_bar("writing", bytes);
    let files = blueprint.write(path, &|done| bar.inc(done))?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    anstream::eprintln!(
        "{seconds:.1} s, {}/s",
        human_bytes((bytes as f64 / seconds.max(1e-3)) as u64)
    );
    report(
        args,
        &Report {
            files,
            bytes,
            parameters,
            seconds,
            fallbacks,
        },
    )
}

fn report(args: &SynthArgs, report: &Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        for file in &report.files {
            writeln!(out, "{}", file.display())?;
        }
    }
    Ok(())
}

impl SizeArgs {
    fn apply(&self, mut dims: Dims) -> Dims {
        let set = |field: &mut u32, value: Option<u32>| *field = value.unwrap_or(*field);
        set(&mut dims.layers, self.layers);
        set(&mut dims.hidden, self.hidden);
        set(&mut dims.heads, self.heads);
        set(&mut dims.head_dim, self.head_dim);
        set(&mut dims.q_lora, self.q_lora);
        set(&mut dims.kv_lora, self.kv_lora);
        set(&mut dims.ff, self.ff);
        set(&mut dims.experts, self.experts);
        set(&mut dims.experts_used, self.experts_used);
        set(&mut dims.expert_ff, self.expert_ff);
        set(&mut dims.vocab, self.vocab);
        set(&mut dims.context, self.context);
        if self.experts.is_some() || self.experts_used.is_some() {
            dims.fit_groups();
        }
        set(&mut dims.groups, self.expert_groups);
        set(&mut dims.groups_used, self.expert_groups_used);
        if dims.layers < dims.interval {
            dims.interval = dims.interval.min(SHORT_INTERVAL);
        }
        set(&mut dims.interval, self.interval);
        dims.dense_layers = self
            .dense_layers
            .unwrap_or(dims.dense_layers.min(dims.layers));
        dims.rope_dims = dims.rope_dims.min(dims.head_dim);
        dims.mtp &= !self.no_mtp;
        dims
    }
}
