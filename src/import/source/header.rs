//! The header of a safetensors file: eight bytes of length, then JSON that names each tensor's type, shape and place.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::dtype::Dtype;
use super::error::SourceError;

/// Bytes of the length before the header.
pub(super) const LENGTH_BYTES: u64 = 8;

/// Longest header that is read; the format's own library has the same limit.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Dimensions that a tensor may have. A model has at most five.
const MAX_DIMS: usize = 8;

/// The key that holds free text instead of a tensor.
const METADATA: &str = "__metadata__";

/// A tensor as the header describes it, found to be consistent in itself.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    /// First byte, counted from the end of the header.
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// The tensors of a header, in the order of their bytes, and the bytes of the whole file.
///
/// Checked: names are unique, types are known, shapes fit their bytes, the bytes follow each other without gap or overlap.
pub(super) fn parse(path: &Path, header: &[u8]) -> Result<(Vec<Entry>, u64), SourceError> {
    let Entries(raw) = serde_json::from_slice(header).map_err(|error| SourceError::Header {
        path: path.to_owned(),
        expected: "JSON that describes tensors",
        found: error.to_string(),
    })?;
    let mut entries = Vec::with_capacity(raw.len());
    for (name, raw) in raw {
        entries.push(check(path, name, raw)?);
    }
    entries.sort_by_key(|entry| (entry.start, entry.bytes));
    let mut end = 0;
    for entry in &entries {
        if entry.start != end {
            return Err(tensor_error(
                path,
                &entry.name,
                "data_offsets",
                format!("a start at {end}, where the tensor before it ends"),
                format!("a start at {}", entry.start),
            ));
        }
        end = entry.start + entry.bytes;
    }
    // Cannot overflow for any file: the header is in memory and `end` was compared with a sum of tensors.
    let total = end.saturating_add(LENGTH_BYTES + header.len() as u64);
    Ok((entries, total))
}

fn check(path: &Path, name: String, raw: RawEntry) -> Result<Entry, SourceError> {
    let Some(dtype) = Dtype::from_name(&raw.dtype) else {
        let known: Vec<&str> = Dtype::ALL.iter().map(|dtype| dtype.name()).collect();
        let expected = format!("one of {}", known.join(", "));
        return Err(tensor_error(path, &name, "dtype", expected, raw.dtype));
    };
    let shape = raw.shape.0;
    let bytes = shape
        .iter()
        .try_fold(dtype.bytes(), |bytes, &dim| bytes.checked_mul(dim));
    let Some(bytes) = bytes else {
        return Err(tensor_error(
            path,
            &name,
            "shape",
            "one whose bytes can be counted in 64 bits".to_owned(),
            format!("{shape:?}"),
        ));
    };
    let [start, end] = raw.data_offsets;
    if end.checked_sub(start) != Some(bytes) {
        return Err(tensor_error(
            path,
            &name,
            "data_offsets",
            format!("{bytes} bytes for {dtype} {shape:?}"),
            format!("[{start}, {end}]"),
        ));
    }
    Ok(Entry {
        name,
        dtype,
        shape,
        start,
        bytes,
    })
}

fn tensor_error(
    path: &Path,
    tensor: &str,
    field: &'static str,
    expected: String,
    found: String,
) -> SourceError {
    SourceError::Tensor {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        field,
        expected,
        found,
    }
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Dims,
    data_offsets: [u64; 2],
}

/// At most [`MAX_DIMS`] numbers, so that a hostile shape cannot take much memory.
struct Dims(Vec<u64>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DimsVisitor;
        impl<'de> Visitor<'de> for DimsVisitor {
            type Value = Dims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_DIMS} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dims, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if dims.len() == MAX_DIMS {
                        return Err(de::Error::invalid_length(MAX_DIMS + 1, &self));
                    }
                    dims.push(dim);
                }
                Ok(Dims(dims))
            }
        }
        deserializer.deserialize_seq(DimsVisitor)
    }
}

/// All entries of a header but its free text. A name that comes twice is an error, which a plain map would hide.
struct Entries(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut names = HashSet::new();
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom(format!("tensor `{name}` twice")));
                    }
                    let entry = map.next_value()?;
                    entries.push((name, entry));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}
