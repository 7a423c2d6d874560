//! FP8 matrices with a scale for each block, each row, or the whole matrix. `w = scale * value`.
//!
//! E4M3 has no infinity: its codes 0x7f and 0xff are NaN, all others are numbers (Micikevicius et al., 2022).

#![forbid(unsafe_code)]

use std::ops::Range;

use crate::import::source::{Dtype, SourceError, StoredTensor, TensorFiles};

use super::part::{self, check_dtype};

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fp8Scale {
    /// Blocks of so many rows and columns; those at the edges may be smaller.
    Block([u64; 2]),
    /// Rows.
    Row,
    /// All.
    Tensor,
}

/// A matrix of FP8 numbers with scales.
#[derive(Clone, Debug)]
pub struct Fp8 {
    /// The numbers, `[.., out, in]`.
    pub weight: StoredTensor,
    /// `[.., out / block, in / block]` rounded up, `[.., out, 1]`, `[out]`, `[1]` or `[]`.
    pub scale: StoredTensor,
    /// What a scale is for.
    pub per: Fp8Scale,
    /// Rows of a matrix; tensors of three dimensions are several of them.
    out: u64,
}

impl Fp8 {
    /// The FP8 matrix with this weight and scale. Its logical shape is the weight's.
    pub(super) fn new(
        files: &TensorFiles,
        weight: &StoredTensor,
        scale: &StoredTensor,
        block: [u64; 2],
    ) -> Result<Self, SourceError> {
        check_dtype(files, weight, &[Dtype::F8_E4M3, Dtype::F8_E5M2])?;
        check_dtype(files, scale, &[Dtype::F32, Dtype::BF16, Dtype::F16])?;
        let [outer @ .., out, columns] = weight.shape.as_slice() else {
            let found = format!("{:?}", weight.shape);
            return Err(part::wrong(files, weight, "shape", "a matrix", found));
        };
        let with = |rows, columns| [outer, &[rows, columns]].concat();
        let blocks = with(out.div_ceil(block[0]), columns.div_ceil(block[1]));
        let per = match scale.shape.as_slice() {
            shape if shape == blocks => Fp8Scale::Block(block),
            shape if shape == with(*out, 1) || (outer.is_empty() && shape == [*out]) => {
                Fp8Scale::Row
            }
            [] | [1] | [1, 1] => Fp8Scale::Tensor,
            shape => {
                let expected = format!(
                    "{blocks:?} (blocks of {} x {}), {:?} (rows) or [1]",
                    block[0],
                    block[1],
                    with(*out, 1)
                );
                let found = format!("{shape:?}");
                return Err(part::wrong(files, scale, "shape", expected, found));
            }
        };
        Ok(Self {
            weight: weight.clone(),
            scale: scale.clone(),
            per,
            out: *out,
        })
    }

    /// Appends rows as f32. NaN and infinity in scales are errors; in the weights they pass.
    pub(super) fn append(
        &self,
        files: &TensorFiles,
        rows: Range<u64>,
        row_len: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), SourceError> {
        let row_bytes = part::row_len(&self.weight.shape);
        let columns = match self.per {
            Fp8Scale::Block(_) => part::row_len(&self.scale.shape),
            Fp8Scale::Row | Fp8Scale::Tensor => 1,
        };
        // A block wider than the row covers all of it.
        let width = match self.per {
            Fp8Scale::Block([_, width]) => usize::try_from(width).unwrap_or(row_len),
            Fp8Scale::Row | Fp8Scale::Tensor => row_len,
        };
        let table = match self.weight.dtype {
            Dtype::F8_E5M2 => &E5M2,
            _ => &E4M3,
        };
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        for batch in part::batches(rows, row_bytes) {
            let range = batch.start * row_bytes..batch.end * row_bytes;
            files.read(&self.weight, range, &mut bytes)?;
            let first = self.scale_row(batch.start);
            let last = self.scale_row(batch.end - 1);
            part::factors(files, &self.scale, first..last + 1, columns, &mut scales)?;
            for (row, codes) in batch.zip(bytes.chunks_exact(row_len)) {
                let start = ((self.scale_row(row) - first) * columns) as usize;
                for (codes, &scale) in codes.chunks(width).zip(&scales[start..]) {
                    let values = codes.iter().map(|&code| table[usize::from(code)] * scale);
                    out.extend(values);
                }
            }
        }
        Ok(())
    }

    /// The row of scales that is for this row of weights. Never falls as rows rise.
    fn scale_row(&self, row: u64) -> u64 {
        match self.per {
            Fp8Scale::Tensor => 0,
            Fp8Scale::Row => row,
            Fp8Scale::Block([height, _]) => {
                let out = self.out.max(1);
                row / out * out.div_ceil(height) + row % out / height
            }
        }
    }
}

/// The value of an E4M3 code.
pub(super) fn e4m3(code: u8) -> f32 {
    E4M3[usize::from(code)]
}

/// The value of an E5M2 code.
pub(super) fn e5m2(code: u8) -> f32 {
    E5M2[usize::from(code)]
}

/// What is added to the exponent of an f32.
const F32_BIAS: u32 = 127;

static E4M3: [f32; 256] = table(3, 7, false);
static E5M2: [f32; 256] = table(2, 15, true);

/// All values of a format with so many mantissa bits. With `infinities`, the last exponent holds no numbers; without,
/// only its last mantissa is not a number.
const fn table(mantissa_bits: u32, bias: u32, infinities: bool) -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let magnitude = code as u32 & 0x7f;
        let exponent = magnitude >> mantissa_bits;
        let mantissa = magnitude & ((1 << mantissa_bits) - 1);
        let last = exponent == 0x7f >> mantissa_bits;
        let value = if last && infinities {
            if mantissa == 0 {
                f32::INFINITY
            } else {
                f32::NAN
            }
        } else if magnitude == 0x7f {
            f32::NAN
        } else if exponent == 0 {
            mantissa as f32 * power(1 - bias as i32 - mantissa_bits as i32)
        } else {
            ((1 << mantissa_bits) + mantissa) as f32
                * power(exponent as i32 - bias as i32 - mantissa_bits as i32)
        };
        values[code] = if code & 0x80 == 0 { value } else { -value };
        code += 1;
    }
    values
}

/// Two to the power of a small number.
const fn power(exponent: i32) -> f32 {
    f32::from_bits((F32_BIAS as i32 + exponent).cast_unsigned() << 23)
}
