//! Tensors cut into pieces of rows.

use std::ops::Range;

use super::{Conversion, Source};

/// Elements of a piece: large enough that system calls cost nothing, small enough for caches and many threads.
const PIECE_ELEMENTS: u64 = 1 << 20;

/// Some rows of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index of the tensor.
    pub tensor: usize,
    /// Rows of it.
    pub rows: Range<u64>,
}

/// All pieces in the order of the file. Pieces of a source with a granule do not cut it.
pub(super) fn cut(tensors: &[Conversion<'_>]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (tensor, conversion) in tensors.iter().enumerate() {
        let shape = &conversion.plan.shape;
        let granule = match &conversion.source {
            Source::Values(values) => values.granule().max(1),
            Source::Bytes(_) => 1,
        };
        let rows = (PIECE_ELEMENTS / shape.ne()[0].max(1)).max(1);
        let step = rows.next_multiple_of(granule);
        let end = shape.rows();
        let mut start = 0;
        while start < end {
            let stop = (start + step).min(end);
            pieces.push(Piece {
                tensor,
                rows: start..stop,
            });
            start = stop;
        }
    }
    pieces
}
