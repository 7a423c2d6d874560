//! The output file: tensors under the names of the reference scripts.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oxling::model::Model;
use oxling::publish::publish;
use safetensors::{Dtype, View};

use super::Answer;

/// A tensor of the output file.
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

impl Tensor {
    fn ids(ids: &[u32]) -> Self {
        let bytes = ids
            .iter()
            .flat_map(|&id| (id as i32).to_le_bytes())
            .collect();
        Self {
            dtype: Dtype::I32,
            shape: vec![ids.len()],
            bytes,
        }
    }

    fn rows(values: &[f32], n_vocab: usize) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self {
            dtype: Dtype::F32,
            shape: vec![values.len() / n_vocab, n_vocab],
            bytes,
        }
    }
}

/// Writes the tensors beside the target, then renames, so that a file under its name is always whole.
pub fn save(path: &Path, model: &Model, mtp: bool, answers: &[Answer]) -> Result<()> {
    let n_vocab = model.n_vocab() as usize;
    let mut tensors = Vec::new();
    for (i, answer) in answers.iter().enumerate() {
        tensors.push((format!("ids_{i}"), Tensor::ids(&answer.ids)));
        tensors.push((format!("logits_{i}"), Tensor::rows(&answer.logits, n_vocab)));
        if mtp {
            tensors.push((
                format!("mtp_logits_{i}"),
                Tensor::rows(&answer.mtp_logits, n_vocab),
            ));
        }
        tensors.push((format!("greedy_{i}"), Tensor::ids(&answer.greedy)));
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let info = [("model".to_owned(), model.name())].into_iter().collect();
    let views = tensors.iter().map(|(name, tensor)| (name, tensor));
    let written = safetensors::serialize_to_file(views, Some(info), &part)
        .with_context(|| format!("cannot write {}", part.display()))
        .and_then(|()| {
            publish(&part, path).with_context(|| format!("cannot write {}", path.display()))
        });
    if written.is_err() {
        // Nothing is left behind, and a failure to tidy up says nothing new.
        let _ = std::fs::remove_file(&part);
    }
    written
}
