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
