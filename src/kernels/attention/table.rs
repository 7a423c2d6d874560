//! Where kernels find numbers: rows of keys and values, and weights.

use std::ops::Range;

use super::vector::Element;
use super::{Block, Chunk, HIDDEN, Sight};
use crate::kernels::{levels, prefetch};

/// Rows of keys or values, as they are stored or decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub data: *const u8,
    /// Bytes from a row to the next one.
    pub row: usize,
    /// Bytes from 16 columns to the next 16.
    pub stripe: usize,
    /// Columns.
    pub width: usize,
    /// Bytes to the same row of the next chunk; zero if there is none, or no need to ask for it.
    pub next: usize,
}

impl Table {
    /// Where a column of the first row is.
    #[inline(always)]
    pub fn column<E: Element>(&self, column: usize) -> *const u8 {
        let at = column / 16 * self.stripe + column % 16 * E::BYTES;
        self.data.wrapping_add(at)
    }

    /// Asks for the row of the next chunk, into the second cache: several rows' arithmetic takes so long that the
    /// machine's own prefetcher loses sight.
    #[inline(always)]
    pub fn ask_for_next<E: Element>(&self, row: usize) {
        let next = self.data.wrapping_add(row * self.row + self.next);
        for line in (0..self.width * E::BYTES).step_by(64) {
            prefetch::far(next.wrapping_add(line));
        }
    }
}

/// Scores of a block, which become weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    pub data: *mut f32,
    /// Numbers from a row's to the next one's.
    pub row: usize,
    /// Numbers from a key's to the next one's.
    pub key: usize,
}

impl Weights {
    /// Those from a row on.
    #[inline(always)]
    pub fn below(&self, row: usize) -> Self {
        Self {
            data: self.at(row, 0),
            ..*self
        }
    }

    #[inline(always)]
    pub fn at(&self, row: usize, key: usize) -> *mut f32 {
        self.data.wrapping_add(row * self.row + key * self.key)
    }

    /// Adds the mask to scores, over the range that any row sees. What a row does not see becomes minus infinity.
    ///
    /// # Safety
    /// Scores and mask are there.
    pub unsafe fn add_mask(&self, c: &Chunk, block: &Block, sight: &Sight) {
        let range = &sight.range;
        for row in 0..block.n {
            let hide = |keys: Range<usize>| {
                for key in keys {
                    // SAFETY: the caller's word.
                    unsafe { *self.at(row, key) = f32::NEG_INFINITY };
                }
            };
            let (first, end) = (sight.first[row], sight.end[row]);
            hide(range.start..first.min(range.end));
            hide(end.max(range.start)..range.end);
            if sight.plain {
                continue;
            }
            // SAFETY: the caller's word.
            let mask = unsafe { c.mask(block, row) };
            for (key, bias) in mask.iter().enumerate().take(end).skip(first) {
                if *bias == HIDDEN {
                    hide(key..key + 1);
                } else {
                    // SAFETY: the caller's word.
                    unsafe { *self.at(row, key) += levels::number(*bias) };
                }
            }
        }
    }
}

impl Chunk<'_> {
    /// The mask of a block's row.
    ///
    /// # Safety
    /// It is there.
    pub(super) unsafe fn mask(&self, block: &Block, row: usize) -> &[u16] {
        let (token, _) = self.a.place(block, row);
        // SAFETY: the caller's word.
        unsafe { self.a.mask(block.seq, token, self.keys.clone()) }
    }
}
