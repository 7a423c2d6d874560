//! Weight formats that have kernels.

use super::{Layout, RECORD_WEIGHTS};

/// A format of weights in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Blocks of 32: an F16 scale and 32 indices of 4 bits into 16 levels.
    Iq4Nl,
    /// Blocks of 32: an F16 scale and 32 numbers of 4 bits, less 8.
    Q4_0,
    /// Blocks of 32: an F16 scale and 32 signed bytes.
    Q8_0,
    /// Two binary matrices side by side (`docs/gguf-planes.md`).
    Planes,
}

impl Format {
    /// What its activations must look like.
    pub fn layout(self) -> Layout {
        match self {
            Self::Planes => Layout::Whole,
            _ => Layout::Blocks,
        }
    }

    /// Bytes of a record's worth of weights. Of planes: in each of the two halves of a row.
    pub fn record_bytes(self) -> usize {
        match self {
            Self::Planes => self.block_bytes(),
            _ => 4 * self.block_bytes(),
        }
    }

    /// Bytes of a block with a scale of its own.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            _ => 18,
        }
    }

    /// Rows are whole multiples of this many weights.
    pub fn block(self) -> usize {
        match self {
            Self::Planes => RECORD_WEIGHTS,
            _ => 32,
        }
    }

    /// Bytes of a row of `width` weights.
    pub fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::Planes => 2 * (width / RECORD_WEIGHTS) * self.record_bytes(),
            _ => width / 32 * self.block_bytes(),
        }
    }
}

/// Rows of one matrix, somewhere in memory.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// The first byte of the first row.
    pub data: *const u8,
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Rows.
    pub n_rows: usize,
    /// Weights in a row.
    pub width: usize,
    /// How they are stored.
    pub format: Format,
}

impl Rows {
    /// Address of row `index`.
    pub(super) fn row(&self, index: usize) -> *const u8 {
        self.data.wrapping_add(index * self.stride)
    }
}
