//! What can go wrong while a model is quantised.

use std::path::PathBuf;

use crate::convert::ConvertError;
use crate::gguf::{GgmlType, GgufError, MetadataError};
use crate::imatrix::ImatrixError;
use crate::planes::PlanesError;

/// Why a model is not quantised.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The model cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The metadata does not say what model it is.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The model declares planes that do not fit.
    #[error(transparent)]
    Planes(#[from] PlanesError),
    /// The importance matrix cannot be read.
    #[error(transparent)]
    Imatrix(#[from] ImatrixError),
    /// Rows cannot be read, encoded or written.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A type that weights are not stored in.
    #[error("weights cannot be encoded to type {ty}")]
    Unencodable {
        /// The type.
        ty: GgmlType,
    },
    /// Weights were rounded once and would be rounded again.
    #[error("tensor `{tensor}` is quantised already: {from} would become {to}")]
    Requantise {
        /// The first such tensor.
        tensor: String,
        /// Its type.
        from: GgmlType,
        /// The type it should get.
        to: GgmlType,
    },
    /// Types that are useless, or cannot be made, without an importance matrix.
    #[error(
        "{to} needs an importance matrix, but there is none for `{tensor}` and {more} other tensors"
    )]
    NeedsImportance {
        /// The first such tensor.
        tensor: String,
        /// The type it should get.
        to: GgmlType,
        /// How many more there are.
        more: usize,
        /// Whether a matrix was given at all.
        given: bool,
    },
    /// An importance matrix of another model.
    #[error(
        "{}: `{tensor}` has {found} values, but the model's tensor needs {expected}", path.display()
    )]
    ImportanceLength {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row length times matrices.
        expected: u64,
        /// Values in the file.
        found: usize,
    },
    /// An importance matrix that knows no tensor of this model.
    #[error("{}: none of its {entries} entries is a tensor of this model", path.display())]
    ForeignImportance {
        /// The file.
        path: PathBuf,
        /// Entries in the file.
        entries: usize,
    },
}

impl QuantizeError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Gguf(e) => e.hint(),
            Self::Metadata(e) => e.hint(),
            Self::Planes(e) => e.hint(),
            Self::Imatrix(e) => e.hint(),
            Self::Convert(e) => e.hint(),
            Self::Unencodable { .. } => {
                Some("types that always work: F16, BF16, Q8_0, Q6_K, Q4_K, IQ4_NL".into())
            }
            Self::Requantise { .. } => Some(
                "start from an F32, F16 or BF16 file, or accept the loss with --allow-requantize"
                    .into(),
            ),
            Self::NeedsImportance { given: false, .. } => Some(
                "make one with `oxling imatrix -m MODEL -f TEXT -o FILE`, and give it with --imatrix FILE"
                    .into(),
            ),
            Self::NeedsImportance { tensor, .. } => Some(format!(
                "collect with a longer text, or name another type for it: --tensor-type {}=Q4_K",
                fancy_regex::escape(tensor)
            )),
            Self::ImportanceLength { .. } | Self::ForeignImportance { .. } => {
                Some("the importance matrix must come from the same model".into())
            }
        }
    }
}
