//! Our CPU kernels: products of quantised weights with activations in 8 bits, and [`attention`].
//!
//! Weights are read where the file was mapped, in the file's own layout: nothing is repacked and nothing held twice.
//! Activations are quantised once per tensor, by all threads, into [`Record`]s that every kernel reads with plain loads.
//!
//! - **Few columns** (decode, checks of guesses): every weight is read once and multiplied with all columns. A column's
//!   bits do not depend on how many there are, nor on the number of threads.
//! - **Many columns** (prefill): 32 rows at a time are unpacked into the order of the machine's dot product and multiplied
//!   with tiles of 6 columns.
//!
//! What a kernel may be asked for is checked when a graph is built ([`crate::ggml`]); these functions trust it.

mod activation;
pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod format;
mod matmul;
#[cfg(not(target_arch = "x86_64"))]
mod none;
mod scan;
#[cfg(test)]
mod tests;

pub use activation::{Layout, RECORD_WEIGHTS, Record, quantize_bytes, records_per_row};
#[cfg(target_arch = "x86_64")]
use avx512 as isa;
pub use format::{Format, Rows};
pub use isa::available;
pub use matmul::{
    Columns, Experts, Rounding, Share, experts, experts_sum, linear, quantize, rotate_and_quantize,
    swiglu_experts,
};
#[cfg(not(target_arch = "x86_64"))]
use none as isa;
pub use scan::{Heads, Scan, scan};

/// Up to this many columns are few: unpacking would cost more than it saves.
pub const FEW_COLUMNS: usize = 8;
