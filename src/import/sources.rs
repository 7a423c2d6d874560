//! Rows of the new file's tensors, made from the checkpoint's.

#![forbid(unsafe_code)]

use std::ops::Range;

use half::f16;

use super::ImportError;
use super::codec::{PackedInt, Stored, StoredMatrix};
use super::source::Checkpoint;
use super::weights::Weight;
use crate::convert::{Bytes, SourceProblem, Values};
use crate::planes::{self, Levels};

/// Elements of a `Q4_0` block.
const Q4_BLOCK: usize = 32;

impl From<ImportError> for SourceProblem {
    fn from(error: ImportError) -> Self {
        Self {
            hint: error.hint(),
            message: error.to_string(),
        }
    }
}

/// Calls `f` with each part that `rows` touch and the rows within it; all parts have `each` rows.
fn by_part(
    parts: &[Weight],
    each: u64,
    rows: Range<u64>,
    mut f: impl FnMut(&Weight, Range<u64>) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let mut start = rows.start;
    while start < rows.end {
        let index = start / each;
        let end = rows.end.min((index + 1) * each);
        if let Some(part) = parts.get(index as usize) {
            f(part, start - index * each..end - index * each)?;
        }
        start = end;
    }
    Ok(())
}

/// The rows of several parts, one part after the other.
pub(super) struct Stack<'a> {
    pub checkpoint: &'a Checkpoint,
    pub parts: &'a [Weight],
    /// Rows of a part.
    pub each: u64,
}

impl Values for Stack<'_> {
    fn values(&self, rows: Range<u64>, out: &mut Vec<f32>) -> Result<(), SourceProblem> {
        out.clear();
        by_part(self.parts, self.each, rows, |part, rows| {
            part.append(self.checkpoint, rows, out)
        })
        .map_err(SourceProblem::from)
    }
}

/// The keys' part of MLA's fused matrix `[n_head * (nope + v_dim), latent]`: `[n_head, latent, nope]`, transposed head
/// by head.
pub(super) struct KeyHeads<'a> {
    pub checkpoint: &'a Checkpoint,
    pub fused: &'a Weight,
    pub nope: u64,
    pub v_dim: u64,
    pub latent: u64,
}

impl Values for KeyHeads<'_> {
    fn values(&self, rows: Range<u64>, out: &mut Vec<f32>) -> Result<(), SourceProblem> {
        out.clear();
        let (nope, latent) = (self.nope as usize, self.latent as usize);
        let mut keys = Vec::new();
        // The granule makes every range whole heads.
        for head in rows.start / self.latent..rows.end / self.latent {
            let first = head * (self.nope + self.v_dim);
            keys.clear();
            self.fused
                .append(self.checkpoint, first..first + self.nope, &mut keys)
                .map_err(SourceProblem::from)?;
            for column in 0..latent {
                out.extend((0..nope).map(|row| keys[row * latent + column]));
            }
        }
        Ok(())
    }

    fn granule(&self) -> u64 {
        self.latent
    }
}

/// The values' part of the same matrix: `[n_head, v_dim, latent]`.
pub(super) struct ValueHeads<'a> {
    pub checkpoint: &'a Checkpoint,
    pub fused: &'a Weight,
    pub nope: u64,
    pub v_dim: u64,
}

impl Values for ValueHeads<'_> {
    fn values(&self, rows: Range<u64>, out: &mut Vec<f32>) -> Result<(), SourceProblem> {
        out.clear();
        let mut start = rows.start;
        while start < rows.end {
            let head = start / self.v_dim;
            let end = rows.end.min((head + 1) * self.v_dim);
            // Each head's values come after as many keys as heads so far, this one's included.
            let shift = (head + 1) * self.nope;
            self.fused
                .append(self.checkpoint, start + shift..end + shift, out)
                .map_err(SourceProblem::from)?;
            start = end;
        }
        Ok(())
    }
}

/// MXTQ codes of 2 bits as two planes of `Q1_0`.
pub(super) struct Planes<'a> {
    pub checkpoint: &'a Checkpoint,
    pub parts: &'a [Weight],
    pub each: u64,
    pub levels: Levels,
}

impl Bytes for Planes<'_> {
    fn bytes(&self, rows: Range<u64>, out: &mut Vec<u8>) -> Result<(), SourceProblem> {
        out.clear();
        by_part(self.parts, self.each, rows, |part, rows| {
            let Weight::Mxtq(weight) = part else {
                return Ok(());
            };
            let size = planes::row_bytes(weight.codec.row_len());
            weight.each_row(self.checkpoint, rows, |packed, norm| {
                let start = out.len();
                out.resize(start + size, 0);
                planes::encode_row(packed, norm, &self.levels, &mut out[start..])?;
                Ok(())
            })
        })
        .map_err(SourceProblem::from)
    }
}

/// Packed integers of 4 bits in groups of 32 as `Q4_0`, which keeps every code; scales become f16.
pub(super) struct Int4<'a> {
    pub checkpoint: &'a Checkpoint,
    pub parts: &'a [Weight],
    pub each: u64,
}

/// The packed form of a weight, if `Q4_0` holds it as it is.
pub(super) fn as_q4_0(weight: &Weight) -> Option<&PackedInt> {
    let Weight::Stored(matrix) = weight else {
        return None;
    };
    match matrix.stored() {
        Stored::PackedInt(p)
            if p.bits == 4
                && p.zero_point.is_none()
                && p.group_size.is_multiple_of(Q4_BLOCK as u64)
                && matrix.row_len().is_multiple_of(Q4_BLOCK as u64) =>
        {
            Some(p)
        }
        _ => None,
    }
}

impl Bytes for Int4<'_> {
    fn bytes(&self, rows: Range<u64>, out: &mut Vec<u8>) -> Result<(), SourceProblem> {
        out.clear();
        let (mut words, mut scales) = (Vec::new(), Vec::new());
        by_part(self.parts, self.each, rows, |part, rows| {
            let Some(packed) = as_q4_0(part) else {
                return Ok(());
            };
            let stride = packed.packed.shape.last().copied().unwrap_or(0) * 4;
            let range = rows.start * stride..rows.end * stride;
            self.checkpoint.read(&packed.packed, range, &mut words)?;
            StoredMatrix::plain(&packed.scale).rows(self.checkpoint, rows, &mut scales)?;
            let per_group = packed.group_size as usize / Q4_BLOCK;
            let blocks = words.chunks_exact(Q4_BLOCK / 2);
            let scales = scales
                .iter()
                .flat_map(|s| std::iter::repeat_n(s, per_group));
            for (block, scale) in blocks.zip(scales) {
                push_q4_0(block, *scale, out);
            }
            Ok(())
        })
        .map_err(SourceProblem::from)
    }
}

/// Both forms hold `code + 8` in a nibble; `Q4_0` pairs element `j` with element `j + 16`, the source with its
/// neighbour.
fn push_q4_0(packed: &[u8], scale: f32, out: &mut Vec<u8>) {
    out.extend(f16::from_f32(scale).to_le_bytes());
    let code = |i: usize| packed[i / 2] >> (4 * (i % 2)) & 15;
    out.extend((0..Q4_BLOCK / 2).map(|j| code(j) | code(j + Q4_BLOCK / 2) << 4));
}
