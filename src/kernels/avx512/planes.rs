//! Binary planes: masks choose what is added to a weight.

use std::arch::x86_64::*;

use crate::kernels::levels::Levels;

/// The levels of a matrix as registers.
#[derive(Clone, Copy)]
pub struct Expand {
    base: __m512i,
    first: __m512i,
    second: __m512i,
}

impl Expand {
    /// For a matrix.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn new(levels: &Levels) -> Self {
        let digits = levels.digits();
        let all = |v: u8| _mm512_set1_epi8(v as i8);
        Self {
            base: all(128 - digits.base),
            first: all(digits.first),
            second: all(digits.second),
        }
    }

    /// 64 weights plus 128, from 64 bits of each plane.
    ///
    /// # Safety
    /// 8 bytes can be read at both addresses.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn weights(&self, first: *const u8, second: *const u8) -> __m512i {
        // SAFETY: the caller's word.
        let (s, u) = unsafe { (_load_mask64(first.cast()), _load_mask64(second.cast())) };
        let w = _mm512_mask_add_epi8(self.base, s, self.base, self.first);
        _mm512_mask_add_epi8(w, u, w, self.second)
    }
}
