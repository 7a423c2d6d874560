//! Reading 16 rows at once, so that each has a lane.

use std::arch::x86_64::*;

/// Rows.
pub const LANES: usize = 16;

/// 16 rows somewhere in memory.
pub trait Sixteen: Copy {
    /// Where row `r` is.
    fn row(self, r: usize) -> *const u8;

    /// The same rows some bytes further on.
    fn at(self, bytes: usize) -> Self;
}

/// Rows that lie evenly spaced.
#[derive(Clone, Copy)]
pub struct Even {
    /// The first one and the ninth: two addresses and few multiples of the stride fit the registers.
    eights: [*const u8; 2],
    /// Bytes from one to the next.
    pub stride: usize,
}

impl Even {
    /// From `data` on.
    pub fn new(data: *const u8, stride: usize) -> Self {
        Self {
            eights: [data, data.wrapping_add(LANES / 2 * stride)],
            stride,
        }
    }
}

impl Sixteen for Even {
    #[inline(always)]
    fn row(self, r: usize) -> *const u8 {
        self.eights[r / 8].wrapping_add(r % 8 * self.stride)
    }

    #[inline(always)]
    fn at(self, bytes: usize) -> Self {
        let [a, b] = self.eights;
        Self {
            eights: [a.wrapping_add(bytes), b.wrapping_add(bytes)],
            ..self
        }
    }
}

/// Rows anywhere.
#[derive(Clone, Copy)]
pub struct Anywhere<'a> {
    /// Where each is.
    pub rows: &'a [*const u8; LANES],
    /// Bytes from there.
    pub at: usize,
}

impl Sixteen for Anywhere<'_> {
    #[inline(always)]
    fn row(self, r: usize) -> *const u8 {
        self.rows[r].wrapping_add(self.at)
    }

    #[inline(always)]
    fn at(self, bytes: usize) -> Self {
        Self {
            at: self.at + bytes,
            ..self
        }
    }
}

/// 16 bytes from each address.
///
/// Insertions need the pipes that shuffle, of which there are too few: masked loads merge without.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub unsafe fn merged(p: [*const u8; 4]) -> __m512i {
    // SAFETY: the caller's word; what a mask leaves out is not read.
    unsafe {
        let first = _mm256_castsi128_si256(_mm_loadu_si128(p[0].cast()));
        let first = _mm256_mask_loadu_epi32(first, 0xf0, p[1].wrapping_sub(16).cast());
        let second = _mm256_castsi128_si256(_mm_loadu_si128(p[2].cast()));
        let second = _mm256_mask_loadu_epi32(second, 0xf0, p[3].wrapping_sub(16).cast());
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
    }
}

/// The first 16 bytes of each row: four of every row in each register.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub unsafe fn transposed<S: Sixteen>(rows: S) -> [__m512i; 4] {
    let mut x = [_mm512_setzero_si512(); 4];
    for (r, x) in x.iter_mut().enumerate() {
        // SAFETY: the caller's word.
        *x = unsafe { merged([0, 4, 8, 12].map(|i| rows.row(i + r))) };
    }
    let [a, b, c, d] = x;
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab2, cd2) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab2, cd2),
        _mm512_unpackhi_epi64(ab2, cd2),
    ]
}

/// A word from each address, side by side: with whole numbers, whose pipes have nothing else to do.
///
/// # Safety
/// They can be read.
#[inline(always)]
pub unsafe fn four_words(p: [*const u8; 4]) -> u64 {
    // SAFETY: the caller's word.
    let word = |i: usize| u64::from(unsafe { p[i].cast::<u16>().read_unaligned() });
    word(0) | word(1) << 16 | word(2) << 32 | word(3) << 48
}

/// 16 numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
pub fn halves(words: [u64; 4]) -> __m512 {
    let [a, b, c, d] = words.map(u64::cast_signed);
    _mm512_cvtph_ps(_mm256_set_epi64x(d, c, b, a))
}
