//! What can be wrong with a checkpoint that is read.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::path::PathBuf;

/// One thing that is wrong with a checkpoint: which file, which tensor, what was expected and what is there.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `open the file`, `list the folder` ...
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The path is not a folder.
    #[error("{}: expected the folder of a checkpoint, found {found}", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
        /// What it is: `a file`, `nothing` ...
        found: &'static str,
    },
    /// A file that every checkpoint has is not there.
    #[error("{}: expected the file of {purpose}, found nothing", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// What it holds: `the model's settings` ...
        purpose: &'static str,
    },
    /// The folder holds no weights that can be read.
    #[error("{}: expected *.safetensors files, found {found}", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// What it holds instead.
        found: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// A file is not the JSON it should be.
    #[error("{}: expected JSON, found {}", path.display(), OneLine(&source.to_string()))]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and how it goes wrong.
        source: serde_json::Error,
    },
    /// A file that should be text is not UTF-8, or is far too large.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The file is a Git LFS pointer: a few lines that stand for a large file that was not fetched.
    #[error("{}: expected the file itself, found a Git LFS pointer to it", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The file does not start like a safetensors file.
    #[error("{}: expected a safetensors file, found {found}", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What the first bytes look like.
        found: String,
        /// What to do about it, where that is known.
        hint: Option<&'static str>,
    },
    /// The header of a shard is not what the format asks for.
    #[error("{}: header: expected {expected}, found {}", path.display(), OneLine(found))]
    Header {
        /// The shard.
        path: PathBuf,
        /// What the format allows.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A shard is longer or shorter than its header says, or became so while it was read.
    #[error("{}: size: expected {expected} bytes, found {found}", path.display())]
    ShardSize {
        /// The shard.
        path: PathBuf,
        /// Bytes that the header accounts for.
        expected: u64,
        /// Bytes the file has.
        found: u64,
    },
    /// A property of a tensor is not what the format, or the form it is stored in, asks for.
    #[error(
        "{}: tensor {}: {field}: expected {expected}, found {}", path.display(), Quoted(tensor), OneLine(found)
    )]
    Tensor {
        /// The shard that holds it.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The property: `dtype`, `shape`, `data_offsets` ...
        field: &'static str,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Two shards hold a tensor of the same name, and no index says which one counts.
    #[error("tensor {}: expected it in one shard, found it in {} and in {}", Quoted(tensor), first.display(), second.display())]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// One shard.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A shard is named, by an index or by the numbers of the others, and is not there.
    #[error("{}: expected the shard, found nothing ({named_by} asks for it{})", path.display(), and_others(*missing))]
    AbsentShard {
        /// The first shard that is missing.
        path: PathBuf,
        /// What asks for it: a file's name.
        named_by: String,
        /// How many are missing in all.
        missing: usize,
    },
    /// The index says that a shard holds a tensor, and it does not.
    #[error("{}: tensor {}: expected it in {}, where it is not", index.display(), Quoted(tensor), shard.display())]
    AbsentTensor {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard that should hold it.
        shard: PathBuf,
    },
    /// A setting in a JSON file has a value that cannot be right.
    #[error("{}: {}: expected {expected}, found {}", path.display(), Quoted(key), OneLine(found))]
    Setting {
        /// The file.
        path: PathBuf,
        /// The key, with dots between the levels.
        key: String,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A tensor is stored in several parts, and one of them is not there.
    #[error("{}: tensor {}: expected {} beside it, found nothing", path.display(), Quoted(tensor), Quoted(missing))]
    MissingPart {
        /// The shard that holds the part that is there.
        path: PathBuf,
        /// The part that is there.
        tensor: String,
        /// The part that is not.
        missing: String,
    },
    /// A value is NaN, infinite, or too large for f32.
    #[error(
        "{}: tensor {}: row {row}, column {column}: expected a finite f32, found {found}", path.display(), Quoted(tensor)
    )]
    Value {
        /// The shard that holds it.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row, counted over all dimensions but the last.
        row: u64,
        /// Position in the row.
        column: u64,
        /// The value.
        found: String,
    },
    /// There is not enough memory for a piece of a tensor.
    #[error("{}: tensor {}: no memory for {bytes} bytes of it", path.display(), Quoted(tensor))]
    Memory {
        /// The shard that holds it.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Bytes that were asked for.
        bytes: u64,
    },
}

impl SourceError {
    /// What the user can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "check who may read it"
            }
            Self::Io { .. } => return None,
            Self::NotAFolder { found, .. } if *found == NOTHING => {
                "check the path: it should be the folder that holds config.json"
            }
            Self::NotAFolder { .. } => "name the folder that holds config.json and the shards",
            Self::MissingFile { .. } => {
                "name the folder of the model itself, and fetch all of its files"
            }
            Self::NoWeights { hint, .. } => hint,
            Self::LfsPointer { .. } => "run `git lfs pull` in that folder",
            Self::NotSafetensors { hint, .. } => return hint.map(str::to_owned),
            Self::Json { .. } | Self::Text { .. } | Self::Header { .. } => DAMAGED,
            Self::ShardSize {
                expected, found, ..
            } if found < expected => {
                "the download or copy is incomplete: fetch this file again, and let nothing write to it meanwhile"
            }
            Self::ShardSize { .. } => "the file is not what its header says: fetch it again",
            Self::Tensor { field, .. } if *field == FORM => {
                "import a checkpoint of plain bf16, f16 or f32 weights instead"
            }
            Self::Tensor { .. } => {
                "the file is damaged, or its maker stores this tensor in a way that is not known here"
            }
            Self::Duplicate { .. } => {
                "delete the shard that does not belong to the model, or fetch model.safetensors.index.json"
            }
            Self::AbsentShard { .. } => "fetch every shard into the same folder",
            Self::AbsentTensor { .. } => {
                "the index and the shards are of two models: fetch both again"
            }
            Self::Setting { .. } => "correct it, or fetch the file again",
            Self::MissingPart { .. } => "a shard is missing or of another model: fetch all of them",
            Self::Value { .. } => {
                "the weights are damaged: fetch the shard again, or ask its maker"
            }
            Self::Memory { .. } => "close other programs, or use fewer threads",
        };
        Some(hint.to_owned())
    }
}

const DAMAGED: &str = "the file is damaged or incomplete: fetch it again";

/// What [`SourceError::NotAFolder`] calls a path that leads nowhere.
pub(super) const NOTHING: &str = "nothing";

/// The field of [`SourceError::Tensor`] when the form itself is not supported.
pub(crate) const FORM: &str = "form";

fn and_others(missing: usize) -> String {
    match missing {
        0 | 1 => String::new(),
        more => format!("; {} more are missing", more - 1),
    }
}

/// Characters of a name that an error message shows.
const QUOTED_CHARS: usize = 120;

/// Characters of a found value that an error message shows.
const FOUND_CHARS: usize = 240;

/// A name from a file, fit for one line of an error message: escaped, and cut when long.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`")?;
        write_cut(f, self.0, QUOTED_CHARS)?;
        f.write_str("`")
    }
}

/// A text that may quote a file, fit for one line of an error message.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_cut(f, self.0, FOUND_CHARS)
    }
}

fn write_cut(f: &mut fmt::Formatter<'_>, text: &str, limit: usize) -> fmt::Result {
    let mut chars = text.chars();
    for c in chars.by_ref().take(limit) {
        if c.is_control() {
            write!(f, "{}", c.escape_default())?;
        } else {
            write!(f, "{c}")?;
        }
    }
    f.write_str(if chars.next().is_some() { "..." } else { "" })
}
