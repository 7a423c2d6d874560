//! Models of random weights in a true shape: to measure a machine before a download, and to test the engine.
//!
//! A model is deterministic from its [`Recipe`]. Its weights are near-normal with variance `1 / fan_in`, so that
//! activations stay finite through any number of blocks; norms are ones. Encoding billions of weights would take
//! hours, so a matrix is put together from a pool of encoded rows, each use turned by another number of blocks:
//! single rows are as random as they should be, but a file compresses well.

#![forbid(unsafe_code)]

mod content;
mod dims;
mod plan;
#[cfg(test)]
mod tests;
mod vocab;

use std::path::PathBuf;
use std::str::FromStr;

pub use dims::{Dims, PRESETS, Preset};
pub use plan::{Blueprint, Fallback};

use crate::ggml::GgmlError;
use crate::gguf::{GgmlType, GgufError, UnknownType};
use crate::planes::RowError;

/// What to make.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// `general.name` of the file.
    pub name: String,
    /// Sizes.
    pub dims: Dims,
    /// Type of matrices.
    pub ty: GgmlType,
    /// Type of the output matrix, if another.
    pub output_ty: Option<GgmlType>,
    /// Type of the token embedding, if another.
    pub embedding_ty: Option<GgmlType>,
    /// How matrices of routed experts are stored, if otherwise.
    pub experts: Option<ExpertType>,
    /// The same seed gives the same file.
    pub seed: u64,
    /// Largest file, to get a split model.
    pub split_max_bytes: Option<u64>,
    /// Leave the random weights out: zeros that take no room on disks which have holes in files.
    pub sparse: bool,
}

/// How matrices of routed experts are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertType {
    /// In a type of ggml.
    Plain(GgmlType),
    /// As planes, 2.25 bits per weight; see [`crate::planes`].
    Planes,
}

impl FromStr for ExpertType {
    type Err = UnknownType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name.eq_ignore_ascii_case("planes") {
            return Ok(Self::Planes);
        }
        name.parse().map(Self::Plain)
    }
}

/// What can go wrong while a model is made.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// Sizes that no model can have.
    #[error("{what}: expected {expected}, found {found}")]
    Size {
        /// The size.
        what: &'static str,
        /// What is possible.
        expected: String,
        /// What was asked for.
        found: u64,
    },
    /// A type that matrices cannot be encoded to.
    #[error("weights cannot be made in type {ty}: {source}")]
    Encode {
        /// The type.
        ty: GgmlType,
        /// Why.
        source: GgmlError,
    },
    /// Random planes cannot be made.
    #[error(transparent)]
    Planes(#[from] RowError),
    /// The file cannot be written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

impl SynthError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Size { .. } => None,
            Self::Encode { .. } => Some(
                "types that always work: F32, F16, BF16, Q8_0, Q4_0, IQ4_NL, Q4_K, Q6_K".into(),
            ),
            Self::Planes(e) => e.hint(),
            Self::Gguf(e) => e.hint(),
        }
    }
}

/// Files of a finished model.
pub type Written = Vec<PathBuf>;
