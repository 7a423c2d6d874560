//! MLX's affine form: codes of a few bits, with a scale and an offset for each group of a row. `w = scale * q + offset`.

#![forbid(unsafe_code)]

use std::ops::Range;

use crate::import::source::{CONFIG, Checkpoint, Dtype, SourceError, StoredTensor, TensorFiles};

use super::options::{AffineSpec, CodecOptions};
use super::part::{self, beside, check_dtype, check_shape, wrong};

/// Sizes of a code that MLX has.
const BITS: [u64; 6] = [2, 3, 4, 5, 6, 8];

/// Bits of the words that codes are stored in.
const WORD_BITS: u64 = 32;

/// A matrix of codes with scales and offsets. Scales may be negative.
#[derive(Clone, Debug)]
pub struct Affine {
    /// Codes, `[.., out, in * bits / 32]` u32: one stream of bits per row, the lowest bits first.
    pub weight: StoredTensor,
    /// `[.., out, in / group_size]`.
    pub scales: StoredTensor,
    /// Offsets, `[.., out, in / group_size]`. Not the bias of a layer.
    pub biases: StoredTensor,
    /// Bits of a code.
    pub bits: u64,
    /// Weights of a row that share a scale and an offset.
    pub group_size: u64,
}

impl Affine {
    /// The affine matrix of that module, and its logical shape.
    pub(super) fn find(
        ckpt: &Checkpoint,
        weight: &StoredTensor,
        base: &str,
        options: &CodecOptions,
    ) -> Result<(Self, Vec<u64>), SourceError> {
        let files = ckpt.files();
        check_dtype(files, weight, &[Dtype::U32, Dtype::I32])?;
        let spec = spec(ckpt, base, options)?;
        if spec.mode != "affine" {
            let found = format!("MLX mode `{}`", spec.mode);
            return Err(part::unsupported(files, weight, found));
        }
        let scales = beside(files, weight, &format!("{base}.scales"))?;
        let biases = beside(files, weight, &format!("{base}.biases"))?;
        for factors in [scales, biases] {
            check_dtype(files, factors, &[Dtype::F16, Dtype::BF16, Dtype::F32])?;
        }
        check_shape(files, biases, &scales.shape)?;
        let groups = part::row_len(&scales.shape);
        check_shape(files, scales, &part::with_row_len(&weight.shape, groups))?;
        let (len, bits) = row(files, weight, groups, spec)?;
        let shape = part::with_row_len(&weight.shape, len);
        let affine = Self {
            weight: weight.clone(),
            scales: scales.clone(),
            biases: biases.clone(),
            bits,
            group_size: spec.group_size,
        };
        Ok((affine, shape))
    }

    /// Appends rows as f32. NaN and infinity in scales and offsets are errors.
    pub(super) fn append(
        &self,
        files: &TensorFiles,
        rows: Range<u64>,
        row_len: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), SourceError> {
        let row_bytes = part::row_len(&self.weight.shape) * self.weight.dtype.bytes();
        let groups = part::row_len(&self.scales.shape);
        // A group fits a row, whose length is a usize.
        let (group, stride) = (self.group_size as usize, row_bytes as usize);
        let (mut bytes, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        let mut codes = vec![0; row_len];
        for batch in part::batches(rows, row_bytes) {
            let range = batch.start * row_bytes..batch.end * row_bytes;
            files.read(&self.weight, range, &mut bytes)?;
            part::factors(files, &self.scales, batch.clone(), groups, &mut scales)?;
            part::factors(files, &self.biases, batch, groups, &mut biases)?;
            let mut factors = scales.iter().zip(&biases);
            for row in bytes.chunks_exact(stride) {
                part::unpack(row, self.bits, &mut codes);
                for (codes, (&scale, &bias)) in codes.chunks_exact(group).zip(factors.by_ref()) {
                    out.extend(codes.iter().map(|&q| scale * f32::from(q) + bias));
                }
            }
        }
        Ok(())
    }
}

fn spec<'a>(
    ckpt: &Checkpoint,
    base: &str,
    options: &'a CodecOptions,
) -> Result<&'a AffineSpec, SourceError> {
    options.affine(base).ok_or_else(|| SourceError::Setting {
        path: ckpt.folder().join(CONFIG),
        key: "quantization.group_size".to_owned(),
        expected: format!("the group size of `{base}.weight`, which is quantised"),
        found: "nothing".to_owned(),
    })
}

/// Weights of a row and bits of a code. Shapes give bits and group size only together, so the settings must fit.
fn row(
    files: &TensorFiles,
    weight: &StoredTensor,
    groups: u64,
    spec: &AffineSpec,
) -> Result<(u64, u64), SourceError> {
    let stored = part::row_len(&weight.shape).checked_mul(WORD_BITS);
    let len = groups.checked_mul(spec.group_size);
    let by_shape = match (stored, len) {
        (Some(stored), Some(len)) if len > 0 && stored.is_multiple_of(len) => {
            Some((len, stored / len))
        }
        _ => None,
    };
    let fits = |bits| BITS.contains(&bits) && spec.bits.is_none_or(|said| said == bits);
    match by_shape {
        Some((len, bits)) if fits(bits) => Ok((len, bits)),
        _ => {
            let bits = spec
                .bits
                .map_or("2, 3, 4, 5, 6 or 8".to_owned(), |bits| bits.to_string());
            let expected = format!(
                "rows of {groups} groups of {} codes of {bits} bits",
                spec.group_size
            );
            let found = match by_shape {
                Some((_, bits)) => format!("{:?}, which gives {bits} bits", weight.shape),
                None => format!("{:?}", weight.shape),
            };
            Err(wrong(files, weight, "shape", expected, found))
        }
    }
}
