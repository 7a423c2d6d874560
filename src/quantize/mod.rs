//! A model file in other types: which tensor gets which type, and the conversion.
//!
//! [`QuantizePlan::new`] decides everything from the header, by llama.cpp's mixes, and refuses what cannot work before
//! any work is done. [`QuantizePlan::write`] reads, converts and writes with all cores in bounded memory.

#![forbid(unsafe_code)]

mod error;
mod file_type;
mod mixes;
mod overrides;
mod plan;
mod roles;
mod source;
#[cfg(test)]
mod tests;

pub use error::QuantizeError;
pub use file_type::{FileType, Mix, UnknownFileType};
pub use mixes::fitting;
pub use overrides::{Override, OverrideError};
pub use plan::{Planned, QuantizePlan, Reason, Request};
