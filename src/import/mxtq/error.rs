//! What can be wrong with encoded rows.

#![forbid(unsafe_code)]

/// One thing that is wrong with a row, a codebook or a plane.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MxtqError {
    /// The width of a code is none that the format has.
    #[error("codes of {found} bits are not known")]
    Bits {
        /// The width given.
        found: u64,
    },
    /// The packed codes of a row have the wrong size.
    #[error("{weights} codes of {bits} bits take {expected} bytes, found {found}")]
    PackedBytes {
        /// Codes in the row.
        weights: usize,
        /// Bits of a code.
        bits: u32,
        /// Bytes that so many codes take.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A row decodes to another number of weights than there is room for.
    #[error("a row of {expected} weights does not fit {found} places")]
    RowLength {
        /// Weights of a row of this codec.
        expected: usize,
        /// Places given.
        found: usize,
    },
    /// A norm that no row of weights can have.
    #[error("expected a norm that is finite and not negative, found {found}")]
    Norm {
        /// The norm.
        found: f32,
    },
    /// The codebook does not have the form `-b, -a, a, b`.
    #[error("expected a codebook of the form -b, -a, a, b with 0 < a < b, found {found:?}")]
    Levels {
        /// The codebook.
        found: Vec<f32>,
    },
    /// A row that is not made of whole blocks.
    #[error("a row of {found} weights is not made of blocks of {block}")]
    Blocks {
        /// Weights of a block.
        block: usize,
        /// Weights of the row.
        found: usize,
    },
    /// A row of two planes has the wrong size.
    #[error("expected {expected} bytes for a row of two planes, found {found}")]
    PlaneBytes {
        /// Bytes that the row takes.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The product of a norm and a level does not fit f16.
    #[error("norm {norm} times level {level} is too large for f16")]
    ScaleRange {
        /// The norm of the row.
        norm: f32,
        /// The factor of the plane.
        level: f64,
    },
    /// The blocks of one plane differ in scale.
    #[error("block {block} has scale {found}, the first block of its plane {expected}")]
    PlaneScale {
        /// Index of the block in the row of two planes.
        block: usize,
        /// Scale of the plane's first block.
        expected: f32,
        /// Scale of this block.
        found: f32,
    },
}

impl MxtqError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bits { .. } => Some("known widths are 1, 2, 3, 4 and 8 bits".to_owned()),
            Self::Norm { .. } => Some("the bundle is damaged; download it again".to_owned()),
            Self::Levels { .. } | Self::Blocks { .. } | Self::ScaleRange { .. } => {
                Some("these experts cannot become planes; choose another type for them".to_owned())
            }
            _ => None,
        }
    }
}
