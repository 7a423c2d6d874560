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
    /// Blocks of 256: two F16 scales, 16 groups with a scale and a minimum of 4 bits, and numbers of 2 bits.
    Q2K,
    /// Blocks of 256: an F16 scale, 16 groups with a scale of 6 bits, less 32, and numbers of 3 bits, less 4.
    Q3K,
    /// Blocks of 256: two F16 scales, eight groups with a scale and a minimum of 6 bits, and numbers of 4 bits.
    Q4K,
    /// The same with numbers of 5 bits.
    Q5K,
    /// Blocks of 256: an F16 scale, 16 groups with a scale of 8 bits, and numbers of 6 bits, less 32.
    Q6K,
    /// Two binary matrices side by side (`docs/gguf-planes.md`).
    Planes,
}

/// Which of a record's weights are scaled together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// All.
    Whole,
    /// Each 32.
    Blocks,
    /// Each 32, less a number that is the same for them.
    Minimums,
    /// Each 16.
    Halves,
    /// Each 32, less a number that is the same for 16 of them.
    HalfMinimums,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Iq4Nl,
        Self::Q4_0,
        Self::Q8_0,
        Self::Planes,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

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
            _ => self.row_bytes(2 * RECORD_WEIGHTS) / 2,
        }
    }

    /// How its weights are scaled, once those of 2 and 3 bits are multiplied with their groups' scales.
    pub(super) fn scaling(self) -> Scaling {
        match self {
            Self::Iq4Nl | Self::Q4_0 | Self::Q8_0 | Self::Q3K => Scaling::Blocks,
            Self::Q2K => Scaling::HalfMinimums,
            Self::Q4K | Self::Q5K => Scaling::Minimums,
            Self::Q6K => Scaling::Halves,
            Self::Planes => Scaling::Whole,
        }
    }

    /// Bytes of a block. Of planes: of one of the two that make weights.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::Iq4Nl | Self::Q4_0 | Self::Planes => 18,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Rows are whole multiples of this many weights.
    pub fn block(self) -> usize {
        match self {
            Self::Planes => RECORD_WEIGHTS,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 2 * RECORD_WEIGHTS,
            _ => 32,
        }
    }

    /// Bytes of a row of `width` weights.
    pub fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::Planes => 2 * (width / RECORD_WEIGHTS) * self.record_bytes(),
            _ => width / self.block() * self.block_bytes(),
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

/// Calls `$then` with the codes `$F` that module `$isa` has for a format in blocks of 32; `$others` for others.
macro_rules! with_blocks {
    ($isa:ident, $format:expr, $F:ident => $then:expr, $others:expr) => {{
        use $crate::kernels::Format;
        use $crate::kernels::$isa::codes;
        match $format {
            Format::Iq4Nl => {
                type $F = codes::FourBit<false>;
                $then
            }
            Format::Q4_0 => {
                type $F = codes::FourBit<true>;
                $then
            }
            Format::Q8_0 => {
                type $F = codes::EightBit;
                $then
            }
            _ => $others,
        }
    }};
}
pub(super) use with_blocks;

/// The same for K-quants.
macro_rules! with_k_quants {
    ($isa:ident, $format:expr, $F:ident => $then:expr, $others:expr) => {{
        use $crate::kernels::Format;
        use $crate::kernels::$isa::k_quants;
        match $format {
            Format::Q2K => {
                type $F = k_quants::Two;
                $then
            }
            Format::Q3K => {
                type $F = k_quants::Three;
                $then
            }
            Format::Q4K => {
                type $F = k_quants::FourOrFive<false>;
                $then
            }
            Format::Q5K => {
                type $F = k_quants::FourOrFive<true>;
                $then
            }
            Format::Q6K => {
                type $F = k_quants::Six;
                $then
            }
            _ => $others,
        }
    }};
}
pub(super) use with_k_quants;

/// Both, where they are served alike; `$planes` for what is left.
macro_rules! with_codes {
    ($isa:ident, $format:expr, $F:ident => $then:expr, $planes:expr) => {
        $crate::kernels::format::with_blocks!($isa, $format, $F => $then,
            $crate::kernels::format::with_k_quants!($isa, $format, $F => $then, $planes))
    };
}
pub(super) use with_codes;
