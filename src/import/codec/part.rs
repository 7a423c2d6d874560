//! Helpers that all forms share: checks of one tensor, ranges of its rows, values that must be finite.

#![forbid(unsafe_code)]

use std::ops::Range;

use crate::import::source::{Dtype, FORM, SourceError, StoredTensor, TensorFiles};

use super::plain;

/// Bytes of a tensor that are read at once; memory beside the caller's own stays near this.
pub(super) const BATCH_BYTES: u64 = 4 << 20;

/// Elements of a row: the last dimension, or one for a scalar.
pub(super) fn row_len(shape: &[u64]) -> u64 {
    shape.last().copied().unwrap_or(1)
}

/// Rows: the product of all dimensions but the last. A tensor's size was counted without overflow before.
pub(super) fn n_rows(shape: &[u64]) -> u64 {
    let (_, outer) = shape.split_last().unwrap_or((&1, &[]));
    outer.iter().product()
}

/// The shape with another last dimension.
pub(super) fn with_row_len(shape: &[u64], len: u64) -> Vec<u64> {
    let (_, outer) = shape.split_last().unwrap_or((&1, &[]));
    outer.iter().copied().chain([len]).collect()
}

/// Splits a range of rows so that no part takes more than [`BATCH_BYTES`], or is one row.
pub(super) fn batches(rows: Range<u64>, row_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let step = (BATCH_BYTES / row_bytes.max(1)).max(1);
    let mut start = rows.start;
    std::iter::from_fn(move || {
        let end = start.saturating_add(step).min(rows.end);
        let batch = start..end;
        start = end;
        (!batch.is_empty()).then_some(batch)
    })
}

/// An error about a property of a tensor.
pub(super) fn wrong(
    files: &TensorFiles,
    tensor: &StoredTensor,
    field: &'static str,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> SourceError {
    SourceError::Tensor {
        path: files.path_of(tensor).to_owned(),
        tensor: tensor.name.clone(),
        field,
        expected: expected.into(),
        found: found.into(),
    }
}

/// An error about a form that is known but not read.
pub(super) fn unsupported(
    files: &TensorFiles,
    tensor: &StoredTensor,
    found: impl Into<String>,
) -> SourceError {
    let expected = "plain, affine, FP8 or symmetric packed integers";
    wrong(files, tensor, FORM, expected, found)
}

/// Refuses a tensor of another type.
pub(super) fn check_dtype(
    files: &TensorFiles,
    tensor: &StoredTensor,
    allowed: &[Dtype],
) -> Result<(), SourceError> {
    if allowed.contains(&tensor.dtype) {
        return Ok(());
    }
    let names: Vec<&str> = allowed.iter().map(|dtype| dtype.name()).collect();
    let found = tensor.dtype.name();
    Err(wrong(files, tensor, "dtype", names.join(" or "), found))
}

/// Refuses a tensor of another shape.
pub(super) fn check_shape(
    files: &TensorFiles,
    tensor: &StoredTensor,
    expected: &[u64],
) -> Result<(), SourceError> {
    if tensor.shape == expected {
        return Ok(());
    }
    let found = format!("{:?}", tensor.shape);
    Err(wrong(
        files,
        tensor,
        "shape",
        format!("{expected:?}"),
        found,
    ))
}

/// The part of a matrix that must be there beside `tensor`.
pub(super) fn beside<'a>(
    files: &'a TensorFiles,
    tensor: &StoredTensor,
    name: &str,
) -> Result<&'a StoredTensor, SourceError> {
    files.tensor(name).ok_or_else(|| SourceError::MissingPart {
        path: files.path_of(tensor).to_owned(),
        tensor: tensor.name.clone(),
        missing: name.to_owned(),
    })
}

/// Scales or offsets as f32: the given rows of `columns` values each, all finite.
pub(super) fn factors(
    files: &TensorFiles,
    tensor: &StoredTensor,
    rows: Range<u64>,
    columns: u64,
    out: &mut Vec<f32>,
) -> Result<(), SourceError> {
    out.clear();
    let start = rows.start;
    plain::append(files, tensor, rows.start * columns..rows.end * columns, out)?;
    check_finite(files, tensor, start, columns, out)
}

/// Refuses NaN and infinity; `values` are rows of `columns` values, the first of which is row `first`.
pub(super) fn check_finite(
    files: &TensorFiles,
    tensor: &StoredTensor,
    first: u64,
    columns: u64,
    values: &[f32],
) -> Result<(), SourceError> {
    // Whole blocks without an early exit, so that the test can run in vector registers.
    let finite = |block: &[f32]| block.iter().fold(true, |all, v| all & v.is_finite());
    if values.chunks(4096).all(finite) {
        return Ok(());
    }
    let place = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
    let (row, column) = match columns {
        0 => (0, 0),
        columns => (place as u64 / columns, place as u64 % columns),
    };
    Err(SourceError::Value {
        path: files.path_of(tensor).to_owned(),
        tensor: tensor.name.clone(),
        row: first + row,
        column,
        found: values.get(place).map(f32::to_string).unwrap_or_default(),
    })
}

/// Makes room for `more` values, or says that there is none.
pub(super) fn reserve(
    files: &TensorFiles,
    tensor: &StoredTensor,
    more: u64,
    out: &mut Vec<f32>,
) -> Result<(), SourceError> {
    let room = usize::try_from(more).ok();
    room.and_then(|more| out.try_reserve(more).ok())
        .ok_or_else(|| SourceError::Memory {
            path: files.path_of(tensor).to_owned(),
            tensor: tensor.name.clone(),
            bytes: more.saturating_mul(size_of::<f32>() as u64),
        })
}

/// Unpacks codes of `bits` bits (1 to 8) from a stream whose first code is in the lowest bits of the first byte.
pub(super) fn unpack(stream: &[u8], bits: u64, codes: &mut [u8]) {
    match bits {
        8 => codes
            .iter_mut()
            .zip(stream)
            .for_each(|(code, byte)| *code = *byte),
        4 => spread::<2>(stream, codes),
        2 => spread::<4>(stream, codes),
        _ => {
            let byte = |place: usize| u16::from(stream.get(place).copied().unwrap_or(0));
            let mask = (1u16 << bits) - 1;
            let starts = (0..).step_by(bits as usize);
            for (code, start) in codes.iter_mut().zip(starts) {
                let place: usize = start;
                let window = byte(place / 8) | byte(place / 8 + 1) << 8;
                *code = (window >> (place % 8) & mask) as u8;
            }
        }
    }
}

/// Unpacks bytes that hold `N` codes each.
fn spread<const N: usize>(stream: &[u8], codes: &mut [u8]) {
    let bits = 8 / N;
    let mask = 0xff >> (8 - bits);
    let (whole, rest) = codes.as_chunks_mut::<N>();
    let last = stream.get(whole.len()).copied().unwrap_or(0);
    for (codes, byte) in whole.iter_mut().zip(stream) {
        for (place, code) in codes.iter_mut().enumerate() {
            *code = byte >> (bits * place) & mask;
        }
    }
    for (place, code) in rest.iter_mut().enumerate() {
        *code = last >> (bits * place) & mask;
    }
}
