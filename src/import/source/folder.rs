//! Which files of a folder are a checkpoint's shards.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{NOTHING, SourceError};
use super::sniff;

/// The file that says which shard holds which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// Ready-made signs and codebooks of a JANGTQ bundle.
pub(super) const SIDECAR: &str = "jangtq_runtime.safetensors";

/// Files that hold tensors but no weights of their own: the sidecar, and an old copy of the experts.
const NO_SHARDS: [&str; 2] = [SIDECAR, "jangtq_stacked.safetensors"];

const EXTENSION: &str = ".safetensors";

/// Longest text file that is read; vocabularies of real models have up to 40 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// The shards of a folder, and the index where there is one.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) shards: Vec<PathBuf>,
    pub(super) index: Option<Index>,
}

/// Which shard holds which tensor.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) path: PathBuf,
    pub(super) shard_of: HashMap<String, PathBuf>,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: HashMap<String, String>,
}

/// Finds the shards of a checkpoint's folder.
pub(super) fn scan(folder: &Path) -> Result<Folder, SourceError> {
    let names = names(folder)?;
    let index = read_index(folder)?;
    let present = |name: &str| names.contains(name);
    let shards: BTreeSet<String> = match &index {
        Some((index, listed)) => {
            let absent: Vec<&String> = listed.iter().filter(|name| !present(name)).collect();
            if let Some(first) = absent.first() {
                return Err(SourceError::AbsentShard {
                    path: folder.join(first),
                    named_by: file_name(&index.path),
                    missing: absent.len(),
                });
            }
            let unlisted = names.iter().filter(|name| is_shard(name, "model-"));
            listed.iter().chain(unlisted).cloned().collect()
        }
        None => {
            let shards = unindexed(&names);
            check_numbers(folder, &shards)?;
            shards
        }
    };
    if shards.is_empty() {
        return Err(no_weights(folder, &names));
    }
    Ok(Folder {
        shards: shards.iter().map(|name| folder.join(name)).collect(),
        index: index.map(|(index, _)| index),
    })
}

/// Refuses a path that is not a folder; says what it is.
pub(super) fn check_is_folder(path: &Path) -> Result<(), SourceError> {
    let found = match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => "a file",
        Err(error) if error.kind() == io::ErrorKind::NotFound => NOTHING,
        Err(source) => {
            return Err(SourceError::Io {
                path: path.to_owned(),
                action: "open the folder",
                source,
            });
        }
    };
    Err(SourceError::NotAFolder {
        path: path.to_owned(),
        found,
    })
}

/// The text of a file, or None where there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, SourceError> {
    let failed = |source| SourceError::Io {
        path: path.to_owned(),
        action: "read the file",
        source,
    };
    let wrong = |expected: String, found: String| SourceError::Text {
        path: path.to_owned(),
        expected,
        found,
    };
    let meta = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    if !meta.is_file() {
        let found = "something that is not a regular file".to_owned();
        return Err(wrong("a text file".to_owned(), found));
    }
    if meta.len() > MAX_TEXT_BYTES {
        let expected = format!("at most {MAX_TEXT_BYTES} bytes of text");
        return Err(wrong(expected, format!("{} bytes", meta.len())));
    }
    let bytes = fs::read(path).map_err(failed)?;
    if sniff::is_lfs_pointer(&bytes) {
        let path = path.to_owned();
        return Err(SourceError::LfsPointer { path });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        wrong("UTF-8 text".to_owned(), format!("other bytes at {at}"))
    })?;
    Ok(Some(text))
}

/// The parsed JSON of a file, or None where there is none.
pub(super) fn read_json<T: for<'de> Deserialize<'de>>(
    path: &Path,
) -> Result<Option<T>, SourceError> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    let json = serde_json::from_str(&text).map_err(|source| SourceError::Json {
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(json))
}

/// Names of the files in a folder. Names that are not Unicode belong to no checkpoint.
fn names(folder: &Path) -> Result<BTreeSet<String>, SourceError> {
    let failed = |source| SourceError::Io {
        path: folder.to_owned(),
        action: "list the folder",
        source,
    };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A link that leads nowhere counts as absent.
        if entry.path().exists()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.insert(name);
        }
    }
    Ok(names)
}

fn read_index(folder: &Path) -> Result<Option<(Index, BTreeSet<String>)>, SourceError> {
    let path = folder.join(INDEX);
    let Some(raw) = read_json::<RawIndex>(&path)? else {
        return Ok(None);
    };
    let mut listed = BTreeSet::new();
    let mut shard_of = HashMap::with_capacity(raw.weight_map.len());
    for (tensor, shard) in raw.weight_map {
        // A plain name of this folder; an index must not reach anywhere else.
        if Path::new(&shard).file_name() != Some(shard.as_ref()) || !shard.ends_with(EXTENSION) {
            return Err(SourceError::Setting {
                path,
                key: format!("weight_map.{tensor}"),
                expected: "the name of a *.safetensors file beside the index".to_owned(),
                found: format!("`{shard}`"),
            });
        }
        shard_of.insert(tensor, folder.join(&shard));
        listed.insert(shard);
    }
    Ok(Some((Index { path, shard_of }, listed)))
}

fn is_shard(name: &str, prefix: &str) -> bool {
    name.starts_with(prefix) && name.ends_with(EXTENSION) && !NO_SHARDS.contains(&name)
}

/// Without an index: files named after a model, or else all of them.
fn unindexed(names: &BTreeSet<String>) -> BTreeSet<String> {
    ["model", ""]
        .into_iter()
        .map(|prefix| {
            let shards = names.iter().filter(|name| is_shard(name, prefix));
            shards.cloned().collect::<BTreeSet<_>>()
        })
        .find(|shards| !shards.is_empty())
        .unwrap_or_default()
}

/// Without an index, only the numbers in their names can tell that a shard is missing.
fn check_numbers(folder: &Path, shards: &BTreeSet<String>) -> Result<(), SourceError> {
    let mut sets: BTreeMap<(&str, u32), BTreeSet<u32>> = BTreeMap::new();
    for name in shards {
        if let Some((stem, number, count)) = numbers(name) {
            sets.entry((stem, count)).or_default().insert(number);
        }
    }
    for ((stem, count), found) in sets {
        let mut absent = (1..=count).filter(|number| !found.contains(number));
        if let Some(first) = absent.next() {
            let name = format!("{stem}-{first:05}-of-{count:05}{EXTENSION}");
            return Err(SourceError::AbsentShard {
                path: folder.join(name),
                named_by: format!("the numbering `-of-{count:05}`"),
                missing: 1 + absent.count(),
            });
        }
    }
    Ok(())
}

/// Stem, number and count of `stem-00001-of-00004.safetensors`.
fn numbers(name: &str) -> Option<(&str, u32, u32)> {
    let number = |text: &str| match text.len() {
        5 => text.parse::<u32>().ok(),
        _ => None,
    };
    let (rest, count) = name.strip_suffix(EXTENSION)?.rsplit_once("-of-")?;
    let (stem, no) = rest.rsplit_once('-')?;
    Some((stem, number(no)?, number(count)?))
}

fn no_weights(folder: &Path, names: &BTreeSet<String>) -> SourceError {
    let any = |extension: &str| names.iter().any(|name| name.ends_with(extension));
    let (found, hint) = if any(".gguf") {
        (
            "GGUF files",
            "these need no import: run the .gguf file as it is",
        )
    } else if any(".bin") || any(".pt") || any(".pth") {
        (
            "only PyTorch files",
            "fetch the safetensors form of the model",
        )
    } else {
        ("none", "fetch the model's shards into this folder")
    };
    SourceError::NoWeights {
        folder: folder.to_owned(),
        found,
        hint,
    }
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
