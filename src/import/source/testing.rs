//! Small checkpoints for tests, sound or broken.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Checkpoint, SourceError};

/// A tensor to be written: name, dtype, shape, bytes.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn new(name: &str, dtype: &'static str, shape: &[u64], bytes: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        }
    }

    pub(crate) fn f32(name: &str, shape: &[u64], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(name, "F32", shape, bytes)
    }

    pub(crate) fn f16(name: &str, shape: &[u64], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes());
        Self::new(name, "F16", shape, bytes.collect())
    }

    pub(crate) fn bf16(name: &str, shape: &[u64], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes());
        Self::new(name, "BF16", shape, bytes.collect())
    }

    pub(crate) fn u32(name: &str, shape: &[u64], words: &[u32]) -> Self {
        let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        Self::new(name, "U32", shape, bytes)
    }

    pub(crate) fn i32(name: &str, shape: &[u64], words: &[u32]) -> Self {
        let unsigned = Self::u32(name, shape, words);
        Self {
            dtype: "I32",
            ..unsigned
        }
    }

    pub(crate) fn i64(name: &str, shape: &[u64], values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(name, "I64", shape, bytes)
    }
}

/// The bytes of a sound safetensors file.
pub(crate) fn shard(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        let entry = json!({
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]
        });
        header.insert(tensor.name.clone(), entry);
    }
    raw_shard(&Value::Object(header).to_string(), &data)
}

/// A file with that header and data, whether they fit or not.
pub(crate) fn raw_shard(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// A checkpoint's folder that is removed in the end.
pub(crate) struct Folder {
    dir: TempDir,
}

impl Folder {
    /// A folder with `{}` as its settings.
    pub(crate) fn new() -> Self {
        let folder = Self::empty();
        folder.file("config.json", b"{}");
        folder
    }

    pub(crate) fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// A folder with these tensors in one shard.
    pub(crate) fn with(tensors: &[Tensor]) -> Self {
        let folder = Self::new();
        folder.file("model.safetensors", &shard(tensors));
        folder
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) {
        fs::write(self.join(name), bytes).expect("a file of the test");
    }

    pub(crate) fn config(&self, config: &Value) {
        self.file("config.json", config.to_string().as_bytes());
    }

    pub(crate) fn index(&self, entries: &[(&str, &str)]) {
        let map: serde_json::Map<_, _> = entries
            .iter()
            .map(|(tensor, shard)| ((*tensor).to_owned(), json!(shard)))
            .collect();
        let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
        self.file("model.safetensors.index.json", index.to_string().as_bytes());
    }

    pub(crate) fn open(&self) -> Result<Checkpoint, SourceError> {
        Checkpoint::open(self.path())
    }
}

/// Fails unless the error's message has all of these parts and there is a hint.
pub(crate) fn assert_says(case: &str, error: &SourceError, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(
            message.contains(part),
            "{case}: `{part}` is not in `{message}`"
        );
    }
    assert!(error.hint().is_some(), "{case}: no hint for `{message}`");
    assert!(!message.contains('\n'), "{case}: `{message}`");
}
