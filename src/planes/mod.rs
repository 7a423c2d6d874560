//! The planes format: 2-bit codebook matrices as pairs of binary matrices in ggml's `Q1_0`.
//!
//! `docs/gguf-planes.md` is its specification. This module holds what a reader and a writer share: the keys that declare
//! which tensors are planes, the checks, and the layout of a row.

#![forbid(unsafe_code)]

mod error;
mod row;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use error::{PlanesError, RowError};
pub use row::{
    BLOCK_BYTES, BLOCK_WEIGHTS, Codebook, Levels, PlaneRow, Scales, decode_row, encode_row,
    row_bytes,
};

use crate::gguf::{GgmlType, Gguf, Metadata, TensorInfo};

const VERSION_KEY: &str = "planes.version";
const TENSORS_KEY: &str = "planes.tensors";
const ROTATION_KEY: &str = "planes.rotation";
const SEED_KEY: &str = "planes.seed";
const CODEBOOK_PREFIX: &str = "planes.codebook.";
const SIGNS_PREFIX: &str = "planes.signs.";

/// The version this module reads and writes.
const VERSION: u32 = 1;
/// The only rotation there is: a Hadamard matrix after a change of signs.
const ROTATION: &str = "hadamard";

/// Weights in a block of `Q1_0`, and so the shortest row.
pub const MIN_WIDTH: u64 = 128;
/// Longest row: far above any model.
pub const MAX_WIDTH: u64 = 1 << 16;

/// Whether rows of `width` weights can be planes: a power of two in whole blocks.
pub fn is_width(width: u64) -> bool {
    width.is_power_of_two() && (MIN_WIDTH..=MAX_WIDTH).contains(&width)
}

/// Name of the tensor with the signs for rows of `width` weights: F32 `{width}`, each 1 or -1.
pub fn signs_name(width: u64) -> String {
    format!("{SIGNS_PREFIX}{width}")
}

/// What a file says about its planes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlaneLayout {
    /// Seed the signs were drawn with, for information; 0 if unknown.
    pub seed: u32,
    /// Codebooks by row length, for information: a row's scales already hold them.
    pub codebooks: BTreeMap<u32, Codebook>,
    /// Names of the tensors that are planes.
    pub tensors: BTreeSet<String>,
}

impl PlaneLayout {
    /// Declares the planes. The file needs the tensors of signs as well: see [`signs_name`].
    pub fn write(&self, metadata: &mut Metadata) {
        metadata.insert(VERSION_KEY, VERSION);
        metadata.insert(ROTATION_KEY, ROTATION);
        metadata.insert(SEED_KEY, self.seed);
        for (width, codebook) in &self.codebooks {
            metadata.insert(format!("{CODEBOOK_PREFIX}{width}"), codebook.to_vec());
        }
        let names: Vec<&str> = self.tensors.iter().map(String::as_str).collect();
        metadata.insert(TENSORS_KEY, names);
    }

    /// Reads the declaration; `None` if the file has none.
    ///
    /// # Errors
    /// A key that is missing, of another type, or of a value this version does not know.
    pub fn read(metadata: &Metadata) -> Result<Option<Self>, PlanesError> {
        if !metadata.iter().any(|(key, _)| key.starts_with("planes.")) {
            return Ok(None);
        }
        let version = metadata.require_u32(VERSION_KEY)?;
        if version != VERSION {
            return Err(PlanesError::Value {
                key: VERSION_KEY.into(),
                expected: VERSION.to_string(),
                found: version.to_string(),
            });
        }
        let rotation = metadata.require_str(ROTATION_KEY)?;
        if rotation != ROTATION {
            return Err(PlanesError::Value {
                key: ROTATION_KEY.into(),
                expected: format!("`{ROTATION}`"),
                found: format!("`{}`", rotation.escape_debug()),
            });
        }
        let mut layout = Self {
            seed: metadata.u32(SEED_KEY)?.unwrap_or(0),
            ..Self::default()
        };
        for name in metadata.require_string_array(TENSORS_KEY)? {
            let name = name.to_string();
            if let Some(twice) = layout.tensors.replace(name) {
                return Err(PlanesError::Tensor {
                    name: twice,
                    problem: "it is listed twice".into(),
                });
            }
        }
        for (key, _) in metadata.iter() {
            if let Some(width) = key.strip_prefix(CODEBOOK_PREFIX) {
                let (width, codebook) = codebook(metadata, key, width)?;
                layout.codebooks.insert(width, codebook);
            }
        }
        Ok(Some(layout))
    }

    /// Reads the declaration and checks the tensors it names: type, row length, signs. A file without one has no planes.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn of(gguf: &Gguf) -> Result<Self, PlanesError> {
        let layout = Self::read(gguf.metadata())?.unwrap_or_default();
        let mut widths = BTreeSet::new();
        for name in &layout.tensors {
            let fail = |problem: String| PlanesError::Tensor {
                name: name.clone(),
                problem,
            };
            let tensor = gguf
                .tensor(name)
                .ok_or_else(|| fail("the file has no such tensor".into()))?;
            if tensor.ty != GgmlType::Q1_0 {
                return Err(fail(format!(
                    "planes have type Q1_0, this one has {}",
                    tensor.ty
                )));
            }
            let row = tensor.shape.ne()[0];
            if !row.is_multiple_of(2) || !is_width(row / 2) {
                return Err(fail(format!(
                    "rows of planes hold twice a power of two from {MIN_WIDTH} to {MAX_WIDTH}, these hold {row}"
                )));
            }
            widths.insert(row / 2);
        }
        for width in widths {
            check_signs(gguf, width)?;
        }
        Ok(layout)
    }

    /// Whether a tensor is declared to be planes.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }

    /// Weights a tensor stands for: half its elements if it is planes, none if it is signs.
    pub fn n_weights(&self, tensor: &TensorInfo) -> u64 {
        match tensor.shape.elements() {
            n if self.contains(&tensor.name) => n / 2,
            _ if !self.tensors.is_empty() && tensor.name.starts_with(SIGNS_PREFIX) => 0,
            n => n,
        }
    }
}

fn codebook(metadata: &Metadata, key: &str, width: &str) -> Result<(u32, Codebook), PlanesError> {
    let wrong = |expected: &str, found: String| PlanesError::Value {
        key: key.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let width: u32 = width.parse().map_err(|_| {
        wrong(
            "a row length at the end of the key",
            format!("`{}`", width.escape_debug()),
        )
    })?;
    let values = metadata.require_f32_array(key)?;
    let symmetric = |c: &Codebook| c[0] == -c[3] && c[1] == -c[2] && 0.0 < c[2] && c[2] < c[3];
    Codebook::try_from(values.as_slice())
        .ok()
        .filter(|c| symmetric(c) && c[3].is_finite())
        .map(|c| (width, c))
        .ok_or_else(|| {
            wrong(
                "four values -b, -a, a, b with 0 < a < b",
                format!("{} values that are not", values.len()),
            )
        })
}

fn check_signs(gguf: &Gguf, width: u64) -> Result<(), PlanesError> {
    let name = signs_name(width);
    let fail = |problem: String| PlanesError::Tensor {
        name: name.clone(),
        problem,
    };
    let tensor = gguf.tensor(&name).ok_or_else(|| {
        fail(format!(
            "it is missing; planes of {width} weights per row need it"
        ))
    })?;
    if tensor.ty != GgmlType::F32 || tensor.shape.ne() != [width, 1, 1, 1] {
        return Err(fail(format!(
            "expected F32 of shape [{width}], found {} of shape {:?}",
            tensor.ty,
            tensor.shape.dims()
        )));
    }
    let values = gguf.data(tensor).chunks_exact(4);
    let is_sign = |b: &[u8]| b == 1f32.to_le_bytes() || b == (-1f32).to_le_bytes();
    match values.clone().position(|b| !is_sign(b)) {
        None => Ok(()),
        Some(index) => Err(fail(format!("value {index} is neither 1 nor -1"))),
    }
}
