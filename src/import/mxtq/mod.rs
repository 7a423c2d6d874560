//! The MXTQ codec of JANGTQ bundles: rotated weights as a few bits each, and a norm per row.
//!
//! A row `w` of `n` weights is stored as `w = signs * H(norm * book[codes])`, where `H` is the orthonormal Hadamard
//! transform, `signs` depends on the seed and `n` alone, and `book` on `n` and the bits of a code alone. Nothing here
//! reads a file or knows a tensor's name.

#![forbid(unsafe_code)]

mod codebook;
mod codec;
mod error;
#[cfg(test)]
mod goldens;
mod pack;
mod rotation;

pub use codebook::codebook;
pub use codec::Codec;
pub use error::MxtqError;
pub use pack::{Bits, unpack};
pub use rotation::{hadamard, rotate, signs, unrotate};
