//! Models split into several files, `NAME-00001-of-000NN.gguf`.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::error::{Field, GgufError};
use super::metadata::{Metadata, MetadataError};
use super::reader::{Header, Shard, open_shard, parse};

/// Index of a part, from 0.
pub(super) const NO_KEY: &str = "split.no";
/// Number of parts. Joined files keep the key with the value 0.
pub(super) const COUNT_KEY: &str = "split.count";
/// Number of tensors in all parts together.
pub(super) const TENSORS_KEY: &str = "split.tensors.count";

/// Most parts of a model: the count is stored in 16 bits.
pub(super) const MAX_PARTS: u64 = u16::MAX as u64;

/// Which part of a split model a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Index, from 0.
    pub(super) no: u64,
    /// Number of parts, at least 2.
    pub(super) count: u64,
    /// Tensors in all parts, where the file says.
    pub(super) tensors: Option<u64>,
}

impl Part {
    /// What the metadata says; `None` for a model in one file.
    pub(super) fn of(metadata: &Metadata, path: &Path) -> Result<Option<Self>, GgufError> {
        let Some(count) = integer(metadata, COUNT_KEY, path)? else {
            return Ok(None);
        };
        if count < 2 {
            return Ok(None);
        }
        if count > MAX_PARTS {
            return Err(invalid(
                path,
                COUNT_KEY,
                format!("at most {MAX_PARTS}"),
                count.to_string(),
            ));
        }
        let Some(no) = integer(metadata, NO_KEY, path)? else {
            return Err(invalid(
                path,
                NO_KEY,
                format!("a value, as {COUNT_KEY} is {count}"),
                "no such key".to_owned(),
            ));
        };
        if no >= count {
            return Err(invalid(
                path,
                NO_KEY,
                format!("less than {COUNT_KEY}, {count}"),
                no.to_string(),
            ));
        }
        Ok(Some(Self {
            no,
            count,
            tensors: integer(metadata, TENSORS_KEY, path)?,
        }))
    }
}

fn integer(metadata: &Metadata, key: &str, path: &Path) -> Result<Option<u64>, GgufError> {
    metadata.u64(key).map_err(|error| match error {
        MetadataError::WrongType {
            expected, found, ..
        } => invalid(path, key, expected.to_owned(), found),
        MetadataError::Missing { expected, .. } => {
            invalid(path, key, expected.to_owned(), "no such key".to_owned())
        }
    })
}

fn invalid(path: &Path, key: &str, expected: String, found: String) -> GgufError {
    GgufError::Invalid {
        path: path.to_owned(),
        field: Field::Key(key, "value").to_string(),
        expected,
        found,
    }
}

/// What the name of a part ends in: `-00001-of-00003.gguf` for index 0 of 3.
pub(super) fn ending(no: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

/// What the names of all parts start with, or `None` if this file is not named as part `no`.
fn prefix(path: &Path, no: u64, count: u64) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(&ending(no, count))
}

/// The path of part `no` in the folder of `path`.
pub(super) fn part_path(path: &Path, prefix: &str, no: u64, count: u64) -> PathBuf {
    path.with_file_name(format!("{prefix}{}", ending(no, count)))
}

/// Opens the other parts beside the one already opened, and returns all in order.
pub(super) fn open_parts(
    path: &Path,
    part: Part,
    shard: Shard,
    header: Header,
) -> Result<Vec<(Shard, Header)>, GgufError> {
    let Part { no, count, .. } = part;
    let Some(prefix) = prefix(path, no, count) else {
        return Err(GgufError::ShardName {
            path: path.to_owned(),
            expected: ending(no, count),
        });
    };
    let others = || {
        (0..count)
            .filter(|&other| other != no)
            .map(|other| part_path(path, prefix, other, count))
    };
    let mut missing = others().filter(|other| !other.exists());
    if let Some(first) = missing.next() {
        return Err(GgufError::MissingShard {
            path: path.to_owned(),
            shard: first,
            missing: 1 + missing.count() as u64,
            count,
        });
    }
    let mut opened = Some((shard, header));
    let mut parts = Vec::new();
    for index in 0..count {
        let next = match opened.take_if(|_| index == no) {
            Some(opened) => opened,
            None => open_part(&part_path(path, prefix, index, count), index, part)?,
        };
        parts.push(next);
    }
    check_tensor_count(&parts, part)?;
    Ok(parts)
}

fn open_part(path: &Path, no: u64, first: Part) -> Result<(Shard, Header), GgufError> {
    let shard = open_shard(path)?;
    let header = parse(shard.bytes(), path)?;
    let expected =
        |key, value: u64, found: String| Err(invalid(path, key, value.to_string(), found));
    match Part::of(&header.metadata, path)? {
        None => expected(COUNT_KEY, first.count, "a model in one file".to_owned()),
        Some(part) if part.count != first.count => {
            expected(COUNT_KEY, first.count, part.count.to_string())
        }
        Some(part) if part.no != no => expected(NO_KEY, no, part.no.to_string()),
        Some(part) => match (first.tensors, part.tensors) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                expected(TENSORS_KEY, ours, theirs.to_string())
            }
            _ => Ok((shard, header)),
        },
    }
}

fn check_tensor_count(parts: &[(Shard, Header)], part: Part) -> Result<(), GgufError> {
    let found: u64 = parts
        .iter()
        .map(|(_, header)| header.tensors.len() as u64)
        .sum();
    match (part.tensors, parts.first()) {
        (Some(stated), Some((first, _))) if stated != found => {
            let expected = format!("{found}, the tensors in all parts");
            Err(invalid(
                first.path(),
                TENSORS_KEY,
                expected,
                stated.to_string(),
            ))
        }
        _ => Ok(()),
    }
}
