//! compressed-tensors' `pack-quantized` form: integers packed into i32 words, with a scale for each group of a row.
//!
//! A word holds its first integer in the lowest bits. Integers are stored with half their range added, zero points
//! too, so that `w = scale * (code - zero)` with the code of zero where none is stored. Zero points are packed down the
//! rows of a matrix instead of along them.

#![forbid(unsafe_code)]

use std::ops::Range;

use crate::import::source::{Dtype, SourceError, StoredTensor, TensorFiles};

use super::part::{self, beside, check_dtype, check_shape, wrong};

/// Sizes that never straddle two words. Others were packed in two ways by different versions of the library.
/// 4 comes first: a row of very few weights fits more than one size.
const BITS: [u64; 3] = [4, 8, 2];

/// Bits of the words.
const WORD_BITS: u64 = 32;

/// A matrix of packed integers.
#[derive(Clone, Debug)]
pub struct PackedInt {
    /// Codes, `[.., out, in * bits / 32]` rounded up, i32.
    pub packed: StoredTensor,
    /// `[.., out, groups]`.
    pub scale: StoredTensor,
    /// Packed zero points, `[.., out * bits / 32, groups]` rounded up, i32; None where the form is symmetric.
    pub zero_point: Option<StoredTensor>,
    /// The tensor that holds the logical shape.
    pub shape: StoredTensor,
    /// Bits of a code.
    pub bits: u64,
    /// Weights of a row that share a scale.
    pub group_size: u64,
    /// Rows of a matrix; tensors of three dimensions are several of them.
    out: u64,
}

impl PackedInt {
    /// The matrix of that module, and its logical shape.
    pub(super) fn find(
        files: &TensorFiles,
        packed: &StoredTensor,
        base: &str,
    ) -> Result<(Self, Vec<u64>), SourceError> {
        if let Some(order) = files.tensor(&format!("{base}.weight_g_idx")) {
            return Err(part::unsupported(
                files,
                order,
                "groups in another order than the columns",
            ));
        }
        check_dtype(files, packed, &[Dtype::I32])?;
        let shape_tensor = beside(files, packed, &format!("{base}.weight_shape"))?;
        let shape = read_shape(files, shape_tensor, packed)?;
        let len = part::row_len(&shape);
        let words = part::row_len(&packed.shape);
        let fits =
            |bits: &u64| len.checked_mul(*bits).map(|b| b.div_ceil(WORD_BITS)) == Some(words);
        let Some(bits) = BITS.into_iter().find(fits) else {
            let expected = format!("rows of {len} codes of 2, 4 or 8 bits");
            let found = format!("{:?}", packed.shape);
            return Err(wrong(files, packed, "shape", expected, found));
        };
        let scale = beside(files, packed, &format!("{base}.weight_scale"))?;
        check_dtype(files, scale, &[Dtype::BF16, Dtype::F16, Dtype::F32])?;
        let groups = part::row_len(&scale.shape);
        check_shape(files, scale, &part::with_row_len(&shape, groups))?;
        if groups == 0 || !len.is_multiple_of(groups) {
            let expected = format!("a number of groups that divides rows of {len}");
            return Err(wrong(files, scale, "shape", expected, format!("{groups}")));
        }
        let [outer @ .., out, _] = shape.as_slice() else {
            let found = format!("{shape:?}");
            return Err(wrong(files, shape_tensor, "values", "a matrix", found));
        };
        let zero_point = files.tensor(&format!("{base}.weight_zero_point"));
        if let Some(zero) = zero_point {
            check_dtype(files, zero, &[Dtype::I32])?;
            let rows = zero_rows(*out, bits);
            check_shape(files, zero, &[outer, &[rows, groups]].concat())?;
        }
        let matrix = Self {
            packed: packed.clone(),
            scale: scale.clone(),
            zero_point: zero_point.cloned(),
            shape: shape_tensor.clone(),
            bits,
            group_size: len / groups,
            out: *out,
        };
        Ok((matrix, shape))
    }

    /// Appends rows as f32. NaN and infinity in scales are errors.
    pub(super) fn append(
        &self,
        files: &TensorFiles,
        rows: Range<u64>,
        row_len: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), SourceError> {
        let row_bytes = part::row_len(&self.packed.shape) * self.packed.dtype.bytes();
        let groups = part::row_len(&self.scale.shape);
        // Both fit a row, which is in memory.
        let (group, stride) = (self.group_size as usize, row_bytes as usize);
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        let (mut codes, mut zeros) = (vec![0; row_len], vec![0.0; groups as usize]);
        for batch in part::batches(rows, row_bytes) {
            let range = batch.start * row_bytes..batch.end * row_bytes;
            files.read(&self.packed, range, &mut bytes)?;
            part::factors(files, &self.scale, batch.clone(), groups, &mut scales)?;
            let zero_words = self.zero_words(files, &batch)?;
            let by_row = bytes
                .chunks_exact(stride)
                .zip(scales.chunks_exact(zeros.len()));
            for (row, (bytes, scales)) in batch.zip(by_row) {
                zero_words.of_row(self, row, &mut zeros);
                part::unpack(bytes, self.bits, &mut codes);
                let factors = scales.iter().zip(&zeros);
                for (codes, (&scale, &zero)) in codes.chunks_exact(group).zip(factors) {
                    out.extend(codes.iter().map(|&code| scale * (f32::from(code) - zero)));
                }
            }
        }
        Ok(())
    }

    /// The row of packed zero points that holds those of this row of weights.
    fn zero_row(&self, row: u64) -> u64 {
        let out = self.out.max(1);
        row / out * zero_rows(out, self.bits) + row % out * self.bits / WORD_BITS
    }

    fn zero_words(&self, files: &TensorFiles, rows: &Range<u64>) -> Result<ZeroWords, SourceError> {
        let mut words = ZeroWords {
            first: self.zero_row(rows.start),
            bytes: Vec::new(),
        };
        if let Some(zero) = &self.zero_point {
            let row_bytes = part::row_len(&zero.shape) * zero.dtype.bytes();
            let end = self.zero_row(rows.end - 1) + 1;
            files.read(
                zero,
                words.first * row_bytes..end * row_bytes,
                &mut words.bytes,
            )?;
        }
        Ok(words)
    }
}

/// Packed zero points of some rows.
struct ZeroWords {
    first: u64,
    bytes: Vec<u8>,
}

impl ZeroWords {
    /// The codes of zero for the groups of a row.
    fn of_row(&self, matrix: &PackedInt, row: u64, zeros: &mut [f32]) {
        if matrix.zero_point.is_none() {
            zeros.fill((1u32 << (matrix.bits - 1)) as f32);
            return;
        }
        let (words, _) = self.bytes.as_chunks::<4>();
        let start = (matrix.zero_row(row) - self.first) as usize * zeros.len();
        let shift = row % matrix.out.max(1) * matrix.bits % WORD_BITS;
        for (zero, word) in zeros.iter_mut().zip(&words[start..]) {
            let code = u32::from_le_bytes(*word) >> shift & ((1 << matrix.bits) - 1);
            *zero = code as f32;
        }
    }
}

/// Rows of words that hold the zero points of so many rows.
fn zero_rows(out: u64, bits: u64) -> u64 {
    // Rows of a tensor in a file: far below 2^61.
    (out * bits).div_ceil(WORD_BITS)
}

/// The logical shape, which must have the outer dimensions of the packed tensor.
fn read_shape(
    files: &TensorFiles,
    tensor: &StoredTensor,
    packed: &StoredTensor,
) -> Result<Vec<u64>, SourceError> {
    check_dtype(files, tensor, &[Dtype::I64, Dtype::I32])?;
    check_shape(files, tensor, &[packed.shape.len() as u64])?;
    let mut bytes = Vec::new();
    files.read(tensor, 0..tensor.bytes, &mut bytes)?;
    let shape: Vec<i64> = match tensor.dtype {
        Dtype::I32 => {
            let words = bytes.as_chunks().0.iter();
            words.map(|word| i32::from_le_bytes(*word).into()).collect()
        }
        _ => {
            let words = bytes.as_chunks().0.iter();
            words.map(|word| i64::from_le_bytes(*word)).collect()
        }
    };
    let unsigned: Option<Vec<u64>> = shape.iter().map(|&dim| dim.try_into().ok()).collect();
    match unsigned {
        Some(dims) if part::with_row_len(&packed.shape, part::row_len(&dims)) == dims => Ok(dims),
        _ => {
            let expected = format!("those of packed rows {:?}", packed.shape);
            Err(wrong(
                files,
                tensor,
                "values",
                expected,
                format!("{shape:?}"),
            ))
        }
    }
}
