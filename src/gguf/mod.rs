//! GGUF: the container format of model files. Reader, writer, splits, value and tensor types.
//!
//! Reading maps the file and parses only the header; tensor bytes stay in the file and are lent out as slices.
//! A model file is untrusted input: every count is checked against the bytes that remain before memory is taken,
//! and whatever is wrong becomes one [`GgufError`] that names the file and the field.
//!
//! This module knows bytes, keys and tensor types. It does not know what any key or tensor means to a model.

#![deny(unsafe_code)]

mod cursor;
mod encode;
mod error;
mod layout;
mod map;
mod metadata;
mod plan;
mod reader;
mod sniff;
mod split;
#[cfg(test)]
mod tests;
mod types;
mod value;
mod writer;

pub use error::GgufError;
pub use layout::{DEFAULT_ALIGNMENT, MAX_ARRAY_DEPTH, MAX_NAME_BYTES};
pub use metadata::{Metadata, MetadataError};
pub use plan::{TensorPlan, WriterOptions};
pub use reader::{Gguf, Shard};
pub use types::{GgmlType, Shape, ShapeError, TensorInfo, UnknownType};
pub use value::{Array, GgufString, Value, ValueType};
pub use writer::{TensorWriter, Writer};
