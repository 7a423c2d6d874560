//! What can go wrong with importance matrices.

use std::path::PathBuf;

use crate::engine::EngineError;
use crate::eval::EvalError;
use crate::gguf::GgufError;
use crate::planes::PlanesError;

/// Why an importance matrix cannot be read, made or written.
#[derive(Debug, thiserror::Error)]
pub enum ImatrixError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file cannot be read.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file that holds something else, or values that no measurement gives.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// Two matrices of different models.
    #[error("{}: `{tensor}` has {found} values, elsewhere it has {expected}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Values elsewhere.
        expected: usize,
        /// Values in the file.
        found: usize,
    },
    /// The model's inputs are not finite.
    #[error("`{tensor}` gets inputs that are not finite: the model or its precision is broken")]
    NotFinite {
        /// The tensor.
        tensor: String,
    },
    /// Nothing was collected.
    #[error("no product with a weight was seen: there is nothing to write")]
    Empty,
    /// The caller asked to stop.
    #[error("stopped")]
    Cancelled,
    /// The model declares planes that do not fit.
    #[error(transparent)]
    Planes(#[from] PlanesError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The text cannot be scored.
    #[error(transparent)]
    Eval(#[from] EvalError),
}

impl ImatrixError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Gguf(e) => e.hint(),
            Self::Planes(e) => e.hint(),
            Self::Engine(e) => e.hint(),
            Self::Eval(e) => e.hint(),
            Self::Invalid { .. } => Some(
                "make one with `oxling imatrix -m MODEL -f TEXT -o FILE`, or with llama-imatrix"
                    .into(),
            ),
            Self::Shape { .. } => Some("only files of the same model can be combined".into()),
            Self::NotFinite { .. } => {
                Some("try an F32 or BF16 file of the model, and -ctk f32".into())
            }
            Self::Io { .. } | Self::Empty | Self::Cancelled => None,
        }
    }
}
