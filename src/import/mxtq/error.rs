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
    /// A row cannot become planes.
    #[error(transparent)]
    Planes(#[from] crate::planes::RowError),
}

impl MxtqError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bits { .. } => Some("known widths are 1, 2, 3, 4 and 8 bits".to_owned()),
            Self::Norm { .. } => Some("the bundle is damaged; download it again".to_owned()),
            Self::Planes(e) => e.hint(),
            _ => None,
        }
    }
}
