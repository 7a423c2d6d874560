//! Rows in, encoded tensors of a model file out: with all cores, in bounded memory, and all or nothing.
//!
//! A tensor is read, encoded and written in pieces of some rows. Each thread takes the next piece in the order of the
//! file, so that reading and writing stay sequential while all threads compute, and memory does not grow with the model.

#![forbid(unsafe_code)]

mod pieces;
#[cfg(test)]
mod tests;
mod workers;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::ggml::GgmlError;
use crate::gguf::{GgmlType, GgufError, Metadata, TensorPlan, Writer, WriterOptions};

/// A tensor to be written, and where its rows come from.
pub struct Conversion<'a> {
    /// Name, type and shape in the new file.
    pub plan: TensorPlan,
    /// Its rows. A row has `ne0` elements; rows are counted over all other dimensions.
    pub source: Source<'a>,
    /// Weights of the columns for encoders that use them: `ne0` values, or `ne0 * ne2` for one set per matrix.
    pub importance: Option<Arc<[f32]>>,
}

/// Where the rows of a tensor come from.
pub enum Source<'a> {
    /// Values, to be encoded to the tensor's type.
    Values(Box<dyn Values + 'a>),
    /// Bytes in the tensor's type already.
    Bytes(Box<dyn Bytes + 'a>),
}

/// Gives rows as values. Several threads ask at once, for different rows.
pub trait Values: Send + Sync {
    /// Replaces `out` by the values of `rows`.
    fn values(&self, rows: Range<u64>, out: &mut Vec<f32>) -> Result<(), SourceProblem>;

    /// Rows that are best asked for together; pieces are multiples of it.
    fn granule(&self) -> u64 {
        1
    }
}

/// Gives rows as they are to be stored. Several threads ask at once, for different rows.
pub trait Bytes: Send + Sync {
    /// Replaces `out` by the bytes of `rows`.
    fn bytes(&self, rows: Range<u64>, out: &mut Vec<u8>) -> Result<(), SourceProblem>;
}

/// Why rows could not be had, with a way out where there is one.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SourceProblem {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// How to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConvertOptions {
    /// Largest file, to get a split model.
    pub split_max_bytes: Option<u64>,
    /// Threads; all cores if unset.
    pub n_threads: Option<usize>,
}

/// What the caller sees and says while a model is written.
pub struct Control<'a> {
    /// Called from all threads.
    pub progress: &'a (dyn Fn(Progress<'_>) + Sync),
    /// Set to stop; nothing is left behind then.
    pub cancel: &'a AtomicBool,
}

/// A step ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// So many bytes more are written.
    Bytes(u64),
    /// A tensor is complete.
    Tensor(&'a str),
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The files cannot be written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor's rows cannot be had.
    #[error("tensor `{tensor}`: {problem}")]
    Source {
        /// Tensor in the new file.
        tensor: String,
        /// Why.
        #[source]
        problem: SourceProblem,
    },
    /// A tensor cannot be encoded.
    #[error("tensor `{tensor}`: {source}")]
    Encode {
        /// Tensor in the new file.
        tensor: String,
        /// Why.
        source: GgmlError,
    },
    /// A value is too large for the type.
    #[error("tensor `{tensor}`: value {value} does not fit {ty}, whose largest is {largest}")]
    Range {
        /// Tensor in the new file.
        tensor: String,
        /// Its type there.
        ty: GgmlType,
        /// The value.
        value: f32,
        /// The largest the type has.
        largest: f32,
    },
    /// A source gave another number of elements or bytes than its rows have.
    #[error("tensor `{tensor}`, rows {rows:?}: expected {expected} {unit}, found {found}")]
    Length {
        /// Tensor in the new file.
        tensor: String,
        /// Rows asked for.
        rows: Range<u64>,
        /// What was counted.
        unit: &'static str,
        /// What the rows have.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The caller asked to stop.
    #[error("stopped; nothing was written")]
    Cancelled,
}

impl ConvertError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Gguf(e) => e.hint(),
            Self::Source { problem, .. } => problem.hint.clone(),
            Self::Range { .. } => Some("choose BF16 or F32 for this tensor".into()),
            Self::Encode { .. } | Self::Length { .. } | Self::Cancelled => None,
        }
    }
}

/// Writes a model. The same input gives the same bytes, whatever the number of threads.
///
/// # Errors
/// The first thing that goes wrong; then no file is left behind, and one that was there before is as it was.
pub fn write(
    path: &Path,
    metadata: Metadata,
    tensors: &[Conversion<'_>],
    options: &ConvertOptions,
    control: &Control<'_>,
) -> Result<Vec<PathBuf>, ConvertError> {
    let writer_options = WriterOptions {
        split_max_bytes: options.split_max_bytes,
        alignment: None,
    };
    let plans = tensors.iter().map(|t| t.plan.clone()).collect();
    let writer = Writer::create(path, metadata, plans, &writer_options)?;
    let n_threads = options
        .n_threads
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    workers::run(&writer, tensors, n_threads, control)?;
    Ok(writer.finish()?)
}
