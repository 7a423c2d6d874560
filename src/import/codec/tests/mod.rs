//! What the forms decode to, and what is refused.

#![forbid(unsafe_code)]

mod broken;
mod values;

use serde_json::{Value, json};

use crate::import::source::testing::{Folder, Tensor};
use crate::import::source::{Checkpoint, SourceError};

use super::{CodecOptions, StoredMatrix};

/// Settings of an MLX checkpoint with groups of 32 weights and codes of `bits` bits.
fn mlx(bits: u64) -> Value {
    json!({"quantization": {"group_size": 32, "bits": bits, "mode": "affine"}})
}

/// A checkpoint of these tensors; the folder goes with it.
fn checkpoint(config: &Value, tensors: &[Tensor]) -> (Folder, Checkpoint) {
    let folder = Folder::with(tensors);
    folder.config(config);
    let ckpt = folder.open().expect("a sound checkpoint");
    (folder, ckpt)
}

fn find(ckpt: &Checkpoint, base: &str) -> Result<Option<StoredMatrix>, SourceError> {
    StoredMatrix::find(ckpt, base, &CodecOptions::from_config(ckpt)?)
}

fn found(ckpt: &Checkpoint, base: &str) -> StoredMatrix {
    find(ckpt, base).expect("sound").expect("there")
}

fn all_rows(ckpt: &Checkpoint, matrix: &StoredMatrix) -> Result<Vec<f32>, SourceError> {
    let mut out = vec![f32::NAN; 3];
    matrix.rows(ckpt, 0..matrix.n_rows(), &mut out)?;
    Ok(out)
}

/// Decodes a matrix at once and row by row, and fails if the two differ.
fn decode(ckpt: &Checkpoint, matrix: &StoredMatrix) -> Vec<f32> {
    let all = all_rows(ckpt, matrix).expect("readable");
    let mut by_row = Vec::new();
    let mut row = Vec::new();
    for number in 0..matrix.n_rows() {
        matrix
            .rows(ckpt, number..number + 1, &mut row)
            .expect("readable");
        by_row.extend_from_slice(&row);
    }
    assert_eq!(all, by_row);
    all
}

/// Codes of eight nibbles in a word, written from the definition: the first in the lowest four bits.
fn nibbles(codes: &[u8]) -> Vec<u32> {
    codes
        .chunks(8)
        .map(|codes| {
            let placed = codes.iter().enumerate();
            placed.map(|(i, &code)| u32::from(code) << (4 * i)).sum()
        })
        .collect()
}
