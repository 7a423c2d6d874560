//! Formats in blocks of 32, each with a scale of its own: from the bytes of a file to bytes for the dot product.
//!
//! Four bytes of weights of one block and one row lie in a lane, which a dot product adds up. Kernels want them in two
//! orders: a record of one row, or a block of 16 rows, a lane for each.

use std::arch::x86_64::*;

use super::sixteen::{Sixteen, four_words, halves, transposed};

/// What is asked of a caller everywhere: as many bytes as are said can be read, and the CPU has what
/// [`super::super::ISA`] asks for.
pub trait Blocks {
    /// Bytes of a block.
    const BYTES: usize;

    /// A record of one row plus 128: first halves of its four blocks, then second halves.
    ///
    /// # Safety
    /// As said above: a record at `p`.
    unsafe fn record(p: *const u8) -> (__m512i, __m512i);

    /// The scales of a record of four rows: those of a block side by side.
    ///
    /// # Safety
    /// As said above: a record of each row.
    unsafe fn scales_of_four(rows: [*const u8; 4]) -> __m512;

    /// A block of 16 rows plus 128: first halves in four registers, then second halves, in each four of every row.
    ///
    /// # Safety
    /// As said above: a block of each row.
    unsafe fn block<S: Sixteen>(rows: S) -> [__m512i; 8];

    /// The scales of the four blocks of a record of 16 rows.
    ///
    /// # Safety
    /// As said above: a record of each row.
    unsafe fn scales<S: Sixteen>(rows: S) -> [__m512; 4];
}

/// 16 levels, or numbers less 8: 4 bits of index in either case.
pub struct FourBit<const LINEAR: bool>;

/// IQ4_NL's levels plus 128.
const NON_LINEAR: [u8; 16] = [
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
];
/// Q4_0's numbers plus 128.
const LINEAR: [u8; 16] = [
    120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135,
];

/// Where the 32 words of nibbles of four 18-byte blocks lie among 36.
const NIBBLES: [u16; 32] = {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 32 {
        index[i] = (9 * (i / 8) + 1 + i % 8) as u16;
        i += 1;
    }
    index
};

impl<const L: bool> FourBit<L> {
    /// The weights plus 128 of the lower four bits of every byte, and of the upper ones.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    fn levels(nibbles: __m512i) -> (__m512i, __m512i) {
        let table = if L { &LINEAR } else { &NON_LINEAR };
        // SAFETY: the table has 16 bytes.
        let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
        // An index has six bits. The table repeats, so what is above four does not matter.
        (
            _mm512_permutexvar_epi8(nibbles, table),
            _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(nibbles), table),
        )
    }
}

impl<const L: bool> Blocks for FourBit<L> {
    const BYTES: usize = 18;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,f16c")]
    unsafe fn record(p: *const u8) -> (__m512i, __m512i) {
        // SAFETY: 72 bytes can be read, by the caller's word; the table is as long as a register.
        let nibbles = unsafe {
            let first = _mm512_loadu_si512(p.cast());
            let last = _mm512_castsi128_si512(_mm_loadl_epi64(p.add(64).cast()));
            let index = _mm512_loadu_si512(NIBBLES.as_ptr().cast());
            _mm512_permutex2var_epi16(first, index, last)
        };
        Self::levels(nibbles)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,f16c")]
    unsafe fn scales_of_four(rows: [*const u8; 4]) -> __m512 {
        let index = _mm512_castsi256_si512(_mm256_setr_epi16(
            0, 0, 0, 0, 9, 9, 9, 9, 18, 18, 18, 18, 27, 27, 27, 27,
        ));
        let mut words = _mm512_setzero_si512();
        for (r, row) in rows.into_iter().enumerate() {
            // SAFETY: 64 bytes can be read, by the caller's word.
            let row = unsafe { _mm512_loadu_si512(row.cast()) };
            words = _mm512_mask_permutexvar_epi16(words, 0x1111 << r, index, row);
        }
        _mm512_cvtph_ps(_mm512_castsi512_si256(words))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,f16c")]
    unsafe fn block<S: Sixteen>(rows: S) -> [__m512i; 8] {
        // SAFETY: the caller's word: 16 bytes of nibbles follow a scale.
        let [a, b, c, d] = unsafe { transposed(rows.at(2)) };
        let (a, e) = Self::levels(a);
        let (b, f) = Self::levels(b);
        let (c, g) = Self::levels(c);
        let (d, h) = Self::levels(d);
        [a, b, c, d, e, f, g, h]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,f16c")]
    unsafe fn scales<S: Sixteen>(rows: S) -> [__m512; 4] {
        let index = _mm512_set1_epi64(27 << 48 | 18 << 32 | 9 << 16);
        let zero = _mm512_setzero_si512();
        let mut eight = [zero; 2];
        for r in 0..16 {
            // SAFETY: 64 bytes can be read, by the caller's word.
            let row = unsafe { _mm512_loadu_si512(rows.row(r).cast()) };
            let words = &mut eight[r / 8];
            *words = _mm512_mask_permutexvar_epi16(*words, 0xf << (4 * (r % 8)), index, row);
        }
        // From four words of every row to those of each block.
        let first = _mm512_castsi256_si512(_mm256_setr_epi16(
            0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60,
        ));
        let mut scales = [_mm512_setzero_ps(); 4];
        for (b, scales) in scales.iter_mut().enumerate() {
            let index = _mm512_add_epi16(first, _mm512_set1_epi16(b as i16));
            let words = _mm512_permutex2var_epi16(eight[0], index, eight[1]);
            *scales = _mm512_cvtph_ps(_mm512_castsi512_si256(words));
        }
        scales
    }
}

/// Signed bytes.
pub struct EightBit;

impl EightBit {
    /// One half of each of four blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn half(p: *const u8) -> __m512i {
        // SAFETY: the caller's word: `p` points 2 or 18 bytes into four blocks.
        let half = unsafe {
            let load = |block: usize| _mm_loadu_si128(p.add(34 * block).cast());
            let half = _mm512_castsi128_si512(load(0));
            let half = _mm512_inserti32x4::<1>(half, load(1));
            let half = _mm512_inserti32x4::<2>(half, load(2));
            _mm512_inserti32x4::<3>(half, load(3))
        };
        unsigned(half)
    }
}

/// Signed bytes plus 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unsigned(x: __m512i) -> __m512i {
    _mm512_xor_si512(x, _mm512_set1_epi8(-128))
}

impl Blocks for EightBit {
    const BYTES: usize = 34;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn record(p: *const u8) -> (__m512i, __m512i) {
        // SAFETY: 136 bytes can be read, by the caller's word.
        unsafe { (Self::half(p.add(2)), Self::half(p.add(18))) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales_of_four(rows: [*const u8; 4]) -> __m512 {
        let mut words = [0; 4];
        for (b, words) in words.iter_mut().enumerate() {
            // SAFETY: 136 bytes of each row can be read, by the caller's word.
            *words = unsafe { four_words([0, 1, 2, 3].map(|r| rows[r].wrapping_add(34 * b))) };
        }
        halves(words)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn block<S: Sixteen>(rows: S) -> [__m512i; 8] {
        // SAFETY: the caller's word: 32 bytes follow a scale.
        let ([a, b, c, d], [e, f, g, h]) =
            unsafe { (transposed(rows.at(2)), transposed(rows.at(18))) };
        let mut weights = [a, b, c, d, e, f, g, h];
        for w in &mut weights {
            *w = unsigned(*w);
        }
        weights
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales<S: Sixteen>(rows: S) -> [__m512; 4] {
        let mut scales = [_mm512_setzero_ps(); 4];
        for (b, scales) in scales.iter_mut().enumerate() {
            let here = rows.at(34 * b);
            let mut words = [0; 4];
            for (i, words) in words.iter_mut().enumerate() {
                // SAFETY: a scale begins each block, by the caller's word.
                *words = unsafe { four_words([0, 1, 2, 3].map(|r| here.row(4 * i + r))) };
            }
            *scales = halves(words);
        }
        scales
    }
}
