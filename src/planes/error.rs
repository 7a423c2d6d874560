//! What can be wrong with a declaration of planes.

use crate::gguf::MetadataError;

/// A file's declaration of planes cannot be followed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PlanesError {
    /// A key is missing or has another type.
    #[error(transparent)]
    Key(#[from] MetadataError),
    /// A key has a value that is not allowed, or not known yet.
    #[error("{key}: expected {expected}, found {found}")]
    Value {
        /// The key.
        key: String,
        /// What is allowed.
        expected: String,
        /// The value.
        found: String,
    },
    /// A tensor of planes, or one of signs, does not fit.
    #[error("tensor `{}`, declared in planes.tensors or needed by it: {problem}", name.escape_debug())]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

impl PlanesError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Value { key, .. } if key.ends_with("version") => {
                Some("the file was made by a newer program: update this one".into())
            }
            _ => Some("docs/gguf-planes.md describes the format: import the model again".into()),
        }
    }
}

/// What keeps a row from being planes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RowError {
    /// A norm that no row of weights can have.
    #[error("expected a norm that is finite and not negative, found {found}")]
    Norm {
        /// The norm.
        found: f32,
    },
    /// The codebook does not have the form `-b, -a, a, b`.
    #[error("expected a codebook of the form -b, -a, a, b with 0 < a < b, found {found:?}")]
    Levels {
        /// The codebook.
        found: Vec<f32>,
    },
    /// A row that is not made of whole blocks.
    #[error("a row of {found} weights is not made of blocks of {block}")]
    Blocks {
        /// Weights of a block.
        block: usize,
        /// Weights of the row.
        found: usize,
    },
    /// A row of two planes has the wrong size.
    #[error("expected {expected} bytes for a row of two planes, found {found}")]
    Bytes {
        /// Bytes that the row takes.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The product of a norm and a level does not fit f16.
    #[error("norm {norm} times level {level} is too large for f16")]
    ScaleRange {
        /// The norm of the row.
        norm: f32,
        /// The factor of the plane.
        level: f64,
    },
    /// The blocks of one plane differ in scale.
    #[error("block {block} has scale {found}, the first block of its plane {expected}")]
    Scale {
        /// Index of the block in the row of two planes.
        block: usize,
        /// Scale of the plane's first block.
        expected: f32,
        /// Scale of this block.
        found: f32,
    },
}

impl RowError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Norm { .. } => Some("the weights are damaged: fetch them again".into()),
            Self::Levels { .. } | Self::Blocks { .. } | Self::ScaleRange { .. } => {
                Some("these experts cannot become planes; choose another type for them".into())
            }
            Self::Bytes { .. } | Self::Scale { .. } => None,
        }
    }
}
