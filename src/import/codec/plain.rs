//! Tensors whose elements are numbers, one beside the other.

#![forbid(unsafe_code)]

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::import::source::{Dtype, SourceError, StoredTensor, TensorFiles};

use super::fp8;
use super::part::{BATCH_BYTES, reserve, row_len};

/// Halves that are widened at once.
const BLOCK: usize = 1024;

/// Integers up to this are all exact in f32.
const MAX_EXACT: i128 = 1 << f32::MANTISSA_DIGITS;

/// Appends the given elements as f32. NaN and infinity pass; integers that f32 cannot hold are an error.
pub(super) fn append(
    files: &TensorFiles,
    tensor: &StoredTensor,
    elements: Range<u64>,
    out: &mut Vec<f32>,
) -> Result<(), SourceError> {
    let size = tensor.dtype.bytes();
    reserve(
        files,
        tensor,
        elements.end.saturating_sub(elements.start),
        out,
    )?;
    let step = BATCH_BYTES / size;
    let mut bytes = Vec::new();
    let mut start = elements.start;
    while start < elements.end {
        let end = start.saturating_add(step).min(elements.end);
        // Elements past the tensor give a range past its bytes, which the read refuses.
        let range = start.saturating_mul(size)..end.saturating_mul(size);
        files.read(tensor, range, &mut bytes)?;
        if let Err((place, found)) = decode(tensor.dtype, &bytes, out) {
            let element = start + place as u64;
            let columns = row_len(&tensor.shape).max(1);
            return Err(SourceError::Value {
                path: files.path_of(tensor).to_owned(),
                tensor: tensor.name.clone(),
                row: element / columns,
                column: element % columns,
                found: found.to_string(),
            });
        }
        start = end;
    }
    Ok(())
}

/// Appends little-endian elements. On failure, the place of the integer that f32 cannot hold, and the integer.
fn decode(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) -> Result<(), (usize, i128)> {
    match dtype {
        Dtype::F32 => out.extend(words(bytes).map(f32::from_le_bytes)),
        Dtype::F64 => out.extend(words(bytes).map(|word| f64::from_le_bytes(word) as f32)),
        Dtype::BF16 => {
            let widen = |half| f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16);
            out.extend(words(bytes).map(widen));
        }
        Dtype::F16 => decode_f16(bytes, out),
        Dtype::F8_E4M3 => out.extend(bytes.iter().map(|&code| fp8::e4m3(code))),
        Dtype::F8_E5M2 => out.extend(bytes.iter().map(|&code| fp8::e5m2(code))),
        Dtype::BOOL | Dtype::U8 => out.extend(bytes.iter().map(|&byte| f32::from(byte))),
        Dtype::I8 => out.extend(bytes.iter().map(|&byte| f32::from(byte.cast_signed()))),
        Dtype::U16 => out.extend(words(bytes).map(|word| f32::from(u16::from_le_bytes(word)))),
        Dtype::I16 => out.extend(words(bytes).map(|word| f32::from(i16::from_le_bytes(word)))),
        Dtype::U32 => integers(words(bytes).map(|w| u32::from_le_bytes(w).into()), out)?,
        Dtype::I32 => integers(words(bytes).map(|w| i32::from_le_bytes(w).into()), out)?,
        Dtype::U64 => integers(words(bytes).map(|w| u64::from_le_bytes(w).into()), out)?,
        Dtype::I64 => integers(words(bytes).map(|w| i64::from_le_bytes(w).into()), out)?,
    }
    Ok(())
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// In blocks, so that the processor's own conversion can be used.
fn decode_f16(bytes: &[u8], out: &mut Vec<f32>) {
    let mut halves = [f16::ZERO; BLOCK];
    for block in bytes.chunks(BLOCK * size_of::<f16>()) {
        let mut n = 0;
        for (half, word) in halves.iter_mut().zip(words(block)) {
            *half = f16::from_le_bytes(word);
            n += 1;
        }
        let start = out.len();
        out.resize(start + n, 0.0);
        halves[..n].convert_to_f32_slice(&mut out[start..]);
    }
}

fn integers(values: impl Iterator<Item = i128>, out: &mut Vec<f32>) -> Result<(), (usize, i128)> {
    for (place, value) in values.enumerate() {
        if value.abs() > MAX_EXACT {
            return Err((place, value));
        }
        out.push(value as f32);
    }
    Ok(())
}
