//! Checkpoints as they come from their makers: a folder with settings in JSON and weights in safetensors files.
//!
//! This module knows files, names, types and bytes. What the bytes mean is for [`crate::import::codec`] to say.

#![forbid(unsafe_code)]

mod dtype;
mod error;
mod files;
mod folder;
mod header;
mod sniff;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use dtype::Dtype;
pub(crate) use error::FORM;
pub use error::SourceError;
pub use files::{Shard, StoredTensor, TensorFiles};

/// The file of the model's settings.
pub(crate) const CONFIG: &str = "config.json";

/// A checkpoint's folder, its headers read and checked. Many threads may read from it at once.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    config: Value,
    files: TensorFiles,
}

impl Checkpoint {
    /// Reads `config.json`, the index and the header of every shard, and checks that they agree.
    ///
    /// Shards are the files the index names and all other `model-*.safetensors`, which an index may leave out (an MTP
    /// layer for example); without an index all `model*.safetensors`, or else all `*.safetensors`. The sidecar of a
    /// JANGTQ bundle is no shard. Where two shards hold a tensor of one name, the index decides.
    ///
    /// # Errors
    /// See [`SourceError`]; nothing but headers is read, so values are not checked yet.
    pub fn open(folder: &Path) -> Result<Self, SourceError> {
        folder::check_is_folder(folder)?;
        let path = folder.join(CONFIG);
        let Some(config) = folder::read_json::<Value>(&path)? else {
            let purpose = "the model's settings";
            return Err(SourceError::MissingFile { path, purpose });
        };
        if !config.is_object() {
            return Err(SourceError::Text {
                path,
                expected: "a JSON object".to_owned(),
                found: "another kind of JSON value".to_owned(),
            });
        }
        let scan = folder::scan(folder)?;
        let chosen = |name: &str| scan.index.as_ref()?.shard_of.get(name).cloned();
        let files = TensorFiles::open(scan.shards, chosen)?;
        if let Some(index) = &scan.index {
            check_index(index, &files)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            config,
            files,
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `config.json`; always an object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// A JSON file of the folder, or None where there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is not JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>, SourceError> {
        folder::read_json(&self.folder.join(name))
    }

    /// A text file of the folder, or None where there is none.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, or is far too large.
    pub fn text(&self, name: &str) -> Result<Option<String>, SourceError> {
        folder::read_text(&self.folder.join(name))
    }

    /// The shards' tensors and bytes.
    pub fn files(&self) -> &TensorFiles {
        &self.files
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> &[StoredTensor] {
        self.files.tensors()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.files.tensor(name)
    }

    /// The shards, sorted by name.
    pub fn shards(&self) -> &[Shard] {
        self.files.shards()
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.files.total_bytes()
    }

    /// Reads the given bytes of a tensor, counted from its first one, in place of what `out` holds.
    ///
    /// # Errors
    /// As [`TensorFiles::read`].
    pub fn read(
        &self,
        tensor: &StoredTensor,
        bytes: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        self.files.read(tensor, bytes, out)
    }

    /// The sidecar of a JANGTQ bundle (signs and codebooks), or None where there is none.
    ///
    /// # Errors
    /// The file is there and cannot be read as safetensors.
    pub fn sidecar(&self) -> Result<Option<TensorFiles>, SourceError> {
        let path = self.folder.join(folder::SIDECAR);
        if !path.exists() {
            return Ok(None);
        }
        TensorFiles::open(vec![path], |_| None).map(Some)
    }
}

/// Every tensor that the index lists is where it says.
fn check_index(index: &folder::Index, files: &TensorFiles) -> Result<(), SourceError> {
    let wrong = index.shard_of.iter().filter(|(name, shard)| {
        let tensor = files.tensor(name);
        tensor.is_none_or(|tensor| files.path_of(tensor) != **shard)
    });
    // The smallest name, so that the same folder always gives the same message.
    match wrong.min() {
        None => Ok(()),
        Some((tensor, shard)) => Err(SourceError::AbsentTensor {
            index: index.path.clone(),
            tensor: tensor.clone(),
            shard: shard.clone(),
        }),
    }
}
