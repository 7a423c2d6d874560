//! What can be wrong with a GGUF file, on the way in and on the way out.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::types::GgmlType;

/// One thing that is wrong with a file: which file, which field, what was expected and what is there.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: `open the file`, `write the tensor data` ...
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The path is not a regular file.
    #[error("{}: expected a GGUF file, found {found}", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is: `a directory` ...
        found: &'static str,
    },
    /// The file starts with something else than `GGUF`.
    #[error("{}: magic: expected `GGUF`, found {found}", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// What the first bytes look like.
        found: String,
        /// What to do about it, where that is known.
        hint: Option<&'static str>,
    },
    /// A version or byte order this reader does not read.
    #[error("{}: version: expected 2 or 3 in little-endian order, found {found}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version, with its byte order if that is the problem.
        found: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The file ends too early.
    #[error("{}: {field}: needs the bytes up to {needed}, but the file ends at {size}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What could not be read.
        field: String,
        /// Fewest bytes the file would need.
        needed: u64,
        /// Bytes the file has.
        size: u64,
    },
    /// A field holds something the format does not allow.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What the format allows.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file in the program's memory starts where its tensors would not be aligned.
    #[error("{}: address: expected a multiple of {alignment}, found {excess} bytes past one", path.display())]
    Misaligned {
        /// The name given to the file.
        path: PathBuf,
        /// Alignment that the file asks for.
        alignment: u32,
        /// How far the start is past a multiple of it.
        excess: usize,
    },
    /// What was to be written breaks the format or is incomplete.
    #[error("{}: cannot write {field}: expected {expected}, found {found}", path.display())]
    CannotWrite {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What the format allows.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A tensor type id that ggml gave out and took back.
    #[error("{}: {field}: type id {id} ({name}) was removed from GGML", path.display())]
    RemovedType {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// The id.
        id: u32,
        /// The name the type had.
        name: &'static str,
    },
    /// A tensor type id that ggml does not know.
    #[error("{}: {field}: expected a type id of ggml (0 to {}), found {id}", path.display(), last_type_id())]
    UnknownType {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// The id.
        id: u32,
    },
    /// A file of a split model is not beside the others.
    #[error(
        "{}: split.count: expected {count} files side by side, found no {}{}",
        path.display(), shard.display(), and_others(*missing)
    )]
    MissingShard {
        /// The file that was opened.
        path: PathBuf,
        /// The first one that is missing.
        shard: PathBuf,
        /// How many are missing in all.
        missing: u64,
        /// How many there should be.
        count: u64,
    },
    /// A file of a split model has a name that does not say which part it is.
    #[error("{}: file name: expected one that ends in `{expected}`, as split.no and split.count say", path.display())]
    ShardName {
        /// The file.
        path: PathBuf,
        /// The ending that the metadata asks for.
        expected: String,
    },
}

impl GgufError {
    /// The file in question.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::NotAFile { path, .. }
            | Self::NotGguf { path, .. }
            | Self::Version { path, .. }
            | Self::Truncated { path, .. }
            | Self::Invalid { path, .. }
            | Self::Misaligned { path, .. }
            | Self::CannotWrite { path, .. }
            | Self::RemovedType { path, .. }
            | Self::UnknownType { path, .. }
            | Self::MissingShard { path, .. }
            | Self::ShardName { path, .. } => path,
        }
    }

    /// What the user can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => "check who may read and write there",
                io::ErrorKind::StorageFull => "free space on that disk, or write to another one",
                io::ErrorKind::AlreadyExists => {
                    "another program is writing this file, or was stopped while it did: if none runs, delete it"
                }
                _ => return None,
            },
            Self::NotAFile { found, .. } if *found == A_DIRECTORY => {
                "name the .gguf file inside it"
            }
            Self::NotAFile { .. } | Self::CannotWrite { .. } => return None,
            Self::NotGguf { hint, .. } => return hint.map(str::to_owned),
            Self::Version { hint, .. } => hint,
            // No disk holds a file of that length: the number itself is wrong.
            Self::Truncated { needed, .. } if i64::try_from(*needed).is_err() => DAMAGED,
            Self::Truncated { needed, size, .. } => {
                return Some(format!(
                    "the file is {size} bytes and should be at least {needed}: the download or copy is \
                     incomplete, fetch it again"
                ));
            }
            Self::Invalid { .. } => DAMAGED,
            Self::Misaligned { .. } => "embed the bytes in a type with `#[repr(align)]`",
            Self::RemovedType { .. } => "quantise the model again, for example to Q4_0 or IQ4_NL",
            Self::UnknownType { .. } => {
                "the file is damaged, or was made for a newer ggml than 0.26"
            }
            Self::MissingShard { .. } => "download every part of the model into one folder",
            Self::ShardName { .. } => {
                "the parts find each other by name: give the file its original name back"
            }
        };
        Some(hint.to_owned())
    }
}

const DAMAGED: &str =
    "the file is damaged or its maker broke the format: download or convert it again";

/// What [`GgufError::NotAFile`] calls a directory.
pub(super) const A_DIRECTORY: &str = "a directory";

fn last_type_id() -> u32 {
    GgmlType::ALL.iter().map(|ty| ty.id()).max().unwrap_or(0)
}

fn and_others(missing: u64) -> String {
    match missing {
        0 | 1 => String::new(),
        more => format!(" and {} more", more - 1),
    }
}

/// A place in a file. Turned into words only when something is wrong there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field<'a> {
    /// A field of the header.
    Header(&'static str),
    /// A part of the n-th metadata entry, before its key is known.
    Entry(u64, &'static str),
    /// A part of the entry with this key.
    Key(&'a str, &'static str),
    /// A part of an element of the array with this key.
    Element(&'a str, u64, &'static str),
    /// A part of the n-th tensor, before its name is known.
    TensorEntry(u64, &'static str),
    /// A part of the tensor with this name.
    Tensor(&'a str, &'static str),
    /// A dimension of the tensor with this name.
    Dimension(&'a str, usize),
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Header(part) => f.write_str(part),
            Self::Entry(index, part) => write!(f, "metadata entry {index} {part}"),
            Self::Key(key, part) => write!(f, "metadata {} {part}", Quoted(key)),
            Self::Element(key, index, part) => {
                write!(f, "metadata {} element {index} {part}", Quoted(key))
            }
            Self::TensorEntry(index, part) => write!(f, "tensor entry {index} {part}"),
            Self::Tensor(name, part) => write!(f, "tensor {} {part}", Quoted(name)),
            Self::Dimension(name, dim) => write!(f, "tensor {} dimension {dim}", Quoted(name)),
        }
    }
}

/// A name from a file, fit for one line of an error message: escaped, and cut when long.
pub(super) struct Quoted<'a>(pub(super) &'a str);

/// Characters of a name that an error message shows.
const QUOTED_CHARS: usize = 80;

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        let shown: String = chars.by_ref().take(QUOTED_CHARS).collect();
        let more = if chars.next().is_some() { "..." } else { "" };
        write!(f, "`{}{more}`", shown.escape_debug())
    }
}
