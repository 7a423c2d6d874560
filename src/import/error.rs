//! What can go wrong on the way from a checkpoint to a model file.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::mxtq::MxtqError;
use super::source::SourceError;
use crate::convert::ConvertError;
use crate::gguf::{GgmlType, GgufError};
use crate::model::LoadError;
use crate::tokenizer::TokenizerError;

/// An import that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The checkpoint cannot be read, or is not what it should be.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A setting has a value this program does not compute with.
    #[error("{}: `{key}`: expected {expected}, found {found}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What would do.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A network this program cannot import.
    #[error("{}: `architectures`: expected one of {known}, found {found}", path.display())]
    Architecture {
        /// The `config.json`.
        path: PathBuf,
        /// Architectures that can be imported.
        known: &'static str,
        /// What the file names.
        found: String,
    },
    /// The checkpoint lacks tensors.
    #[error("{}: tensor `{tensor}`: expected one of shape {shape:?}, found nothing{}", folder.display(), more_missing(*more))]
    Missing {
        /// The checkpoint.
        folder: PathBuf,
        /// The first tensor that is missing.
        tensor: String,
        /// Its shape in the checkpoint's order, rows first.
        shape: Vec<u64>,
        /// Further tensors that are missing.
        more: usize,
    },
    /// A tensor has another shape than the settings say.
    #[error("{}: tensor `{tensor}`: shape: expected {expected:?}, found {found:?}", folder.display())]
    Shape {
        /// The checkpoint.
        folder: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape that follows from `config.json`.
        expected: Vec<u64>,
        /// Shape in the checkpoint.
        found: Vec<u64>,
    },
    /// The checkpoint has tensors that nothing is made from.
    #[error("{}: tensor `{tensor}`: expected a tensor of {architecture}, found one it does not have{}", folder.display(), more_unknown(*more))]
    Unknown {
        /// The checkpoint.
        folder: PathBuf,
        /// The network.
        architecture: &'static str,
        /// The first such tensor.
        tensor: String,
        /// Further ones.
        more: usize,
    },
    /// An MXTQ tensor is broken.
    #[error("{}: tensor `{tensor}`: {source}", folder.display())]
    Mxtq {
        /// The checkpoint.
        folder: PathBuf,
        /// The tensor, without its suffix.
        tensor: String,
        /// Why.
        source: MxtqError,
    },
    /// The sidecar's signs or codebook are not those that the seed and the width give.
    #[error("{}: `{tensor}`: element {index}: expected {expected}, found {found}", path.display())]
    Sidecar {
        /// The sidecar.
        path: PathBuf,
        /// Tensor of the sidecar.
        tensor: String,
        /// First element that differs.
        index: usize,
        /// What this program computes.
        expected: String,
        /// What the sidecar says.
        found: String,
    },
    /// The sidecar has signs, but those of other seeds.
    #[error("{}: signs of rows of {n_in}: expected those of seed {expected} (`mxtq_seed`), found seed {found}", path.display())]
    Seed {
        /// The sidecar.
        path: PathBuf,
        /// Length of the rows.
        n_in: usize,
        /// The seed that the bundle states.
        expected: u64,
        /// Seeds that the sidecar has.
        found: String,
    },
    /// The settings make a file that this program would not load.
    #[error("the new file would not run: {0}")]
    Keys(LoadError),
    /// The tokenizer cannot be turned into one of a model file.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Part of it.
        what: String,
        /// What would do.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The tokenizer that the new file would carry does not work.
    #[error("the tokenizer of the new file: {0}")]
    NewTokenizer(#[from] TokenizerError),
    /// A type was asked for that the tensors cannot have.
    #[error("tensor `{tensor}` as {ty}: {problem}")]
    Type {
        /// Tensor of the new file.
        tensor: String,
        /// The type.
        ty: GgmlType,
        /// Why not.
        problem: String,
    },
    /// Planes were asked for, and the experts cannot have them.
    #[error("tensor `{tensor}` as planes: expected {expected}, found {found}")]
    Planes {
        /// Tensor of the new file.
        tensor: String,
        /// What planes can be made from.
        expected: &'static str,
        /// What the checkpoint has.
        found: String,
    },
    /// The file cannot be written or read again.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Converting failed.
    #[error(transparent)]
    Convert(#[from] ConvertError),
}

impl ImportError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Source(e) => return e.hint(),
            Self::Gguf(e) => return e.hint(),
            Self::Convert(e) => return e.hint(),
            Self::NewTokenizer(e) => return e.hint(),
            Self::Config { .. } => {
                "this variant of the network is not known here; no released model has it"
            }
            Self::Architecture { .. } => {
                "files that are GGUF already need no import; other checkpoints are converted by llama.cpp's convert_hf_to_gguf.py"
            }
            Self::Missing { .. } | Self::Shape { .. } | Self::Unknown { .. } => {
                "config.json and the shards must be of one model: fetch all files of the repository again"
            }
            Self::Mxtq { .. } => "the bundle is damaged: fetch the shard again",
            Self::Sidecar { .. } => {
                "the bundle was made with another rotation or codebook, or is damaged; \
                 fetch jangtq_runtime.safetensors again, or ask the bundle's maker"
            }
            Self::Seed { .. } => {
                "jang_config.json and jangtq_runtime.safetensors must be of one bundle: fetch both again"
            }
            Self::Keys(_) => {
                "keys of the new file come from config.json: compare it with the one that was published"
            }
            Self::Tokenizer { .. } => {
                "fetch tokenizer.json and tokenizer_config.json of the model again"
            }
            Self::Type { .. } => {
                "types that always work: F16, BF16, F32, Q8_0, Q4_0, IQ4_NL; for types that need an importance \
                 matrix import as F16 first, then use `oxling quantize --imatrix`"
            }
            Self::Planes { .. } => "leave --experts out, or name a type such as IQ4_NL or Q2_K",
        };
        Some(hint.to_owned())
    }
}

fn more_missing(more: usize) -> String {
    match more {
        0 => String::new(),
        n => format!(" ({n} more are missing)"),
    }
}

fn more_unknown(more: usize) -> String {
    match more {
        0 => String::new(),
        n => format!(" ({n} more)"),
    }
}
