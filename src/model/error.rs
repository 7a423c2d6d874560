//! Why a model file cannot be loaded.

use std::path::PathBuf;

use crate::ggml::{DType, GgmlError};
use crate::gguf::{GgufError, MetadataError};
use crate::planes::PlanesError;
use crate::tokenizer::TokenizerError;

/// One thing that keeps a model from loading, with the file, key or tensor it is about.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The container is broken.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A key is missing or has another type.
    #[error("{}: {source}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key's problem.
        source: MetadataError,
    },
    /// A key's value makes no sense for the architecture.
    #[error("{}: {key}: expected {expected}, found {found}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What the architecture allows.
        expected: String,
        /// The value.
        found: String,
    },
    /// No graph for this architecture.
    #[error("{}: general.architecture: `{arch}` is not supported{about}", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// The file's architecture.
        arch: String,
        /// What is known of it, starting with `: `, or nothing.
        about: String,
        /// Architectures that run.
        supported: String,
    },
    /// Tensors are missing or have other shapes or types.
    #[error("{}: {first}{}", path.display(), and_more(*more))]
    Tensors {
        /// The file.
        path: PathBuf,
        /// The first problem.
        first: TensorProblem,
        /// How many others there are.
        more: usize,
    },
    /// Planes are declared that cannot be read.
    #[error("{}: {source}", path.display())]
    Planes {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PlanesError,
    },
    /// The tokenizer cannot be built.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: TokenizerError,
    },
    /// The file holds a vocabulary but no weights.
    #[error("{}: the file holds {n_tensors} tensors: a vocabulary, not a model", path.display())]
    VocabOnly {
        /// The file.
        path: PathBuf,
        /// Tensors in it.
        n_tensors: usize,
    },
    /// Memory or device trouble.
    #[error("{}: {source}", path.display())]
    Ggml {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: GgmlError,
    },
}

/// What is wrong with one tensor.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TensorProblem {
    /// Not in the file.
    #[error("tensor `{name}` is missing (expected shape {expected:?})")]
    Missing {
        /// The tensor.
        name: String,
        /// Shape the hyper-parameters ask for.
        expected: Vec<u64>,
    },
    /// Another shape.
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Shape the hyper-parameters ask for.
        expected: Vec<u64>,
        /// Shape in the file.
        found: Vec<u64>,
    },
    /// A type that cannot be computed with.
    #[error("tensor `{name}` has type {found}, which cannot be used as {role}")]
    Type {
        /// The tensor.
        name: String,
        /// Type in the file.
        found: DType,
        /// What the tensor is for.
        role: &'static str,
    },
    /// Values that cannot be used.
    #[error("tensor `{name}`: {problem}")]
    Content {
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

impl TensorProblem {
    /// Rows of twice the expected length: the mark of planes.
    fn looks_like_planes(&self) -> bool {
        let Self::Shape {
            name,
            expected,
            found,
        } = self
        else {
            return false;
        };
        let twice = |e: &u64, f: &u64| e.checked_mul(2) == Some(*f);
        name.contains("_exps.")
            && expected
                .first()
                .zip(found.first())
                .is_some_and(|(e, f)| twice(e, f))
            && expected.get(1..) == found.get(1..)
    }
}

fn and_more(more: usize) -> String {
    if more == 0 {
        String::new()
    } else {
        format!(" (and {more} more problems with tensors)")
    }
}

impl LoadError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Gguf(e) => e.hint(),
            Self::Metadata { source, .. } => source.hint(),
            Self::Architecture { supported, .. } => Some(format!("these run: {supported}")),
            Self::Planes { source, .. } => source.hint(),
            Self::Tensors { first, .. } if first.looks_like_planes() => Some(
                "the tensor looks like planes, but the file does not list it in planes.tensors"
                    .into(),
            ),
            Self::Tensors { .. } => {
                Some("`oxling inspect FILE` lists the tensors of the file".into())
            }
            Self::Tokenizer { source, .. } => source.hint(),
            Self::VocabOnly { .. } => Some("such files serve `oxling tokenize` only".into()),
            Self::Ggml { source, .. } => source.hint(),
            Self::Value { .. } => None,
        }
    }
}
