//! Our CPU kernels: products of quantised weights with activations in 8 bits, and [`attention`].
//!
//! Weights are read where the file was mapped, in the file's own layout: nothing is repacked and nothing held twice.
//! Activations are quantised once per tensor, by all threads, into [`Record`]s that every kernel reads with plain loads.
//!
//! - **Few columns** (decode, checks of guesses): every weight is read once and multiplied with all columns. A column's
//!   bits do not depend on how many there are, nor on the number of threads.
//!   AVX-512 does so for formats in blocks up to [`SOME_DOZENS`]: all that a server's streams and most experts ever have.
//! - **Many columns** (prefill): 16 or 32 rows at a time are unpacked into the order of the machine's dot product and
//!   multiplied with tiles of a few columns.
//!
//! Each kind of machine has a module and an entry in [`all`]; [`best`] is the first that this machine can run. A graph is
//! built and computed by the same machine, so records need not be alike between kinds.
//!
//! What a kernel may be asked for is checked when a graph is built ([`crate::ggml`]); these functions trust it.

#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_variables, reason = "no kernel asks")
)]

mod activation;
pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod experts;
mod few;
mod format;
mod isa;
mod k_quants;
mod levels;
mod lists;
mod matmul;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod panel;
mod prefetch;
mod prepare;
mod router;
mod scan;
#[cfg(test)]
mod tests;

pub use activation::{Layout, RECORD_WEIGHTS, Record, quantize_bytes, record_stride};
pub use experts::Experts;
pub use format::{Format, Rows, Scaling};
pub use isa::{Isa, all, available, best};
pub use lists::Lists;
pub use matmul::{Columns, Rounding, Share};
pub use norm::GatedNorm;
pub use router::{Choice, MIN_WEIGHT_SUM, SCORE_BOUND, Weighing};
pub use scan::{Heads, Scan, scan};

/// Up to this many columns are few: unpacking would cost more than it saves.
pub const FEW_COLUMNS: usize = 8;
/// Up to so many columns a row in every lane beats tiles, where a machine has kernels of that kind.
pub const SOME_DOZENS: usize = 64;
