//! K-quants: from the bytes of a file to bytes for the dot product, 128 weights of a row at a time.

use std::arch::x86_64::*;

use crate::kernels::Scaling;
use crate::kernels::panel::{SCALES, STEPS};

/// Records of a unit.
pub const RECORDS: usize = 2;

/// A format in blocks of 256: units of two records.
///
/// What is asked of a caller everywhere: `UNIT_BYTES` bytes can be read at each address, and the CPU has what
/// [`super::super::ISA`] asks for.
pub trait Codes {
    /// Bytes of a unit.
    const UNIT_BYTES: usize;
    /// How weights are scaled.
    const SCALING: Scaling = Scaling::Blocks;
    /// Whether all scales of a unit are the same.
    const ONE_SCALE: bool = false;

    /// The weights of record `i` plus 128: first halves of the four blocks, then second halves.
    ///
    /// # Safety
    /// As said above.
    unsafe fn codes(p: *const u8, i: usize) -> (__m512i, __m512i);

    /// Its four scales, then what [`Scaling`] has beside them: minimums of blocks, or the scales of second halves.
    ///
    /// # Safety
    /// As said above.
    unsafe fn scales(p: *const u8, i: usize) -> __m256;

    /// The minimums of both records' halves of blocks. Only [`Scaling::HalfMinimums`] has them.
    ///
    /// # Safety
    /// As said above.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn half_minimums(_: *const u8) -> __m512 {
        _mm512_setzero_ps()
    }

    /// The weights of 16 rows, transposed: step `k` gets four of every row in its register `half`, in the order of a
    /// record's `q`.
    ///
    /// # Safety
    /// As said above.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn codes16(
        rows: &[*const u8; 16],
        i: usize,
        half: usize,
        out: &mut [[__m512i; 2]; STEPS],
    ) {
        let mut low = [_mm512_setzero_si512(); 16];
        let mut high = [_mm512_setzero_si512(); 16];
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: the caller's word.
            (low[r], high[r]) = unsafe { Self::codes(*row, i) };
        }
        transpose(&mut low);
        transpose(&mut high);
        for k in 0..16 {
            (out[k][half], out[16 + k][half]) = (low[k], high[k]);
        }
    }

    /// Their scales: one register each.
    ///
    /// # Safety
    /// As said above.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales16(
        rows: &[*const u8; 16],
        i: usize,
        half: usize,
        out: &mut [[__m512; 2]; SCALES],
    ) {
        let mut by_row = [[_mm_setzero_ps(); 16]; 2];
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: the caller's word.
            let scales = unsafe { Self::scales(*row, i) };
            by_row[0][r] = _mm256_castps256_ps128(scales);
            by_row[1][r] = _mm256_extractf128_ps::<1>(scales);
        }
        for (out, by_row) in out.chunks_exact_mut(4).zip(&by_row) {
            for (out, scale) in out.iter_mut().zip(transpose_four(by_row)) {
                out[half] = scale;
            }
        }
    }
}

/// Transposes 16 rows of 16 lanes of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn transpose(x: &mut [__m512i; 16]) {
    let mut y = *x;
    for i in 0..8 {
        y[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    }
    for i in 0..4 {
        let (a, b, c, d) = (y[4 * i], y[4 * i + 1], y[4 * i + 2], y[4 * i + 3]);
        x[4 * i] = _mm512_unpacklo_epi64(a, c);
        x[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
        x[4 * i + 2] = _mm512_unpacklo_epi64(b, d);
        x[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // Lane group j of x[4i + c] now holds column 4j + c of rows 4i to 4i + 3.
    for c in 0..4 {
        let (a, b, d, e) = (x[c], x[4 + c], x[8 + c], x[12 + c]);
        let low = _mm512_shuffle_i32x4::<0x44>(a, b);
        let high = _mm512_shuffle_i32x4::<0xee>(a, b);
        let low2 = _mm512_shuffle_i32x4::<0x44>(d, e);
        let high2 = _mm512_shuffle_i32x4::<0xee>(d, e);
        y[c] = _mm512_shuffle_i32x4::<0x88>(low, low2);
        y[4 + c] = _mm512_shuffle_i32x4::<0xdd>(low, low2);
        y[8 + c] = _mm512_shuffle_i32x4::<0x88>(high, high2);
        y[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high, high2);
    }
    *x = y;
}

/// Four lanes of each of 16 rows to 16 rows' lane of each kind.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub fn transpose_four(rows: &[__m128; 16]) -> [__m512; 4] {
    let four = |i: usize| {
        let x = _mm512_castps128_ps512(rows[i]);
        let x = _mm512_insertf32x4::<1>(x, rows[i + 4]);
        let x = _mm512_insertf32x4::<2>(x, rows[i + 8]);
        _mm512_insertf32x4::<3>(x, rows[i + 12])
    };
    let (a, b, c, d) = (four(0), four(1), four(2), four(3));
    let (ab0, ab1) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (cd0, cd1) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    [
        _mm512_shuffle_ps::<0x44>(ab0, cd0),
        _mm512_shuffle_ps::<0xee>(ab0, cd0),
        _mm512_shuffle_ps::<0x44>(ab1, cd1),
        _mm512_shuffle_ps::<0xee>(ab1, cd1),
    ]
}

/// A number of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub fn number(half: u16) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half.into())))
}
