//! Writes a JANGTQ bundle of random weights in the layer shapes of Ling-2.6-flash, to measure `oxling import` with.
//!
//! `cargo run --release --example synthetic-bundle -- DIR --layers 2`

use std::path::PathBuf;

use clap::Parser;

#[path = "../tests/common/bundle.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod bundle;

/// Write a JANGTQ bundle of random weights in the layer shapes of Ling-2.6-flash.
#[derive(Parser)]
struct Options {
    /// Folder to make.
    dir: PathBuf,
    /// Layers of the trunk; the first is dense.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    layers: u16,
    /// Add an MTP layer.
    #[arg(long)]
    mtp: bool,
    /// Width of the hidden state, a multiple of 128 like the other widths.
    #[arg(long, value_parser = width)]
    hidden: Option<usize>,
    /// Width of the dense feed-forward network.
    #[arg(long, value_parser = width)]
    dense_ff: Option<usize>,
    /// Width of an expert.
    #[arg(long, value_parser = width)]
    expert_ff: Option<usize>,
    /// Experts of a layer.
    #[arg(long, value_parser = experts)]
    experts: Option<usize>,
    /// Bits of a weight in gate and up projections of experts.
    #[arg(long, default_value_t = 2, value_parser = bits)]
    gate_up_bits: usize,
    /// Bits of a weight in down projections of experts.
    #[arg(long, default_value_t = 2, value_parser = bits)]
    down_bits: usize,
    /// Give every expert tensors of its own.
    #[arg(long)]
    per_expert: bool,
}

fn bits(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bits @ (1 | 2 | 3 | 4 | 8)) => Ok(bits),
        _ => Err("expected 1, 2, 3, 4 or 8".to_owned()),
    }
}

fn width(text: &str) -> Result<usize, String> {
    multiple(text, 128)
}

/// Experts come in eight groups.
fn experts(text: &str) -> Result<usize, String> {
    multiple(text, 8)
}

fn multiple(text: &str, of: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 && number % of == 0 => Ok(number),
        _ => Err(format!("expected a multiple of {of}")),
    }
}

fn main() -> std::io::Result<()> {
    let options = Options::parse();
    let flash = bundle::Dims::flash(usize::from(options.layers));
    let dims = bundle::Dims {
        mtp: options.mtp,
        hidden: options.hidden.unwrap_or(flash.hidden),
        dense_ff: options.dense_ff.unwrap_or(flash.dense_ff),
        expert_ff: options.expert_ff.unwrap_or(flash.expert_ff),
        experts: options.experts.unwrap_or(flash.experts),
        gate_up_bits: options.gate_up_bits,
        down_bits: options.down_bits,
        stacked: !options.per_expert,
        ..flash
    };
    bundle::synthetic(&options.dir, &dims)
}
