//! From the bytes of a file to bytes for the dot product, 128 weights of a row at a time.

use std::arch::x86_64::*;

use crate::kernels::Scaling;
use crate::kernels::panel::{SCALES, STEPS};

/// A format's records: one, or the two of a block of 256, lie together as a unit.
///
/// What is asked of a caller everywhere: `UNIT_BYTES` bytes can be read at each address, and the CPU has what
/// [`super::super::ISA`] asks for.
pub trait Codes {
    /// Bytes of a unit.
    const UNIT_BYTES: usize;
    /// Records of a unit.
    const RECORDS: usize = 1;
    /// How weights are scaled.
    const SCALING: Scaling = Scaling::Blocks;
    /// Whether a unit is of two records and all its scales are the same.
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
        let kinds = if Self::SCALING == Scaling::Blocks {
            1
        } else {
            2
        };
        for (out, by_row) in out.chunks_exact_mut(4).zip(&by_row[..kinds]) {
            for (out, scale) in out.iter_mut().zip(transpose_four(by_row)) {
                out[half] = scale;
            }
        }
    }
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

/// Where their scales lie.
const SCALE_WORDS: [u16; 8] = [0, 9, 18, 27, 0, 0, 0, 0];

impl<const L: bool> FourBit<L> {
    /// The nibbles of four blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn nibbles(p: *const u8) -> __m512i {
        // SAFETY: 72 bytes can be read, by the caller's word; the table is as long as a register.
        unsafe {
            let first = _mm512_loadu_si512(p.cast());
            let last = _mm512_castsi128_si512(_mm_loadl_epi64(p.add(64).cast()));
            let index = _mm512_loadu_si512(NIBBLES.as_ptr().cast());
            _mm512_permutex2var_epi16(first, index, last)
        }
    }

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

impl<const L: bool> Codes for FourBit<L> {
    const UNIT_BYTES: usize = 4 * 18;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,f16c")]
    unsafe fn codes(p: *const u8, _: usize) -> (__m512i, __m512i) {
        // SAFETY: the caller's word.
        Self::levels(unsafe { Self::nibbles(p) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales(p: *const u8, _: usize) -> __m256 {
        // SAFETY: 64 bytes can be read, by the caller's word; the table is as long as a register.
        let (first, index) = unsafe {
            let index = _mm_loadu_si128(SCALE_WORDS.as_ptr().cast());
            (_mm512_loadu_si512(p.cast()), _mm512_castsi128_si512(index))
        };
        let scales = _mm512_castsi512_si128(_mm512_permutexvar_epi16(index, first));
        _mm256_zextps128_ps256(_mm_cvtph_ps(scales))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,f16c")]
    unsafe fn codes16(
        rows: &[*const u8; 16],
        _: usize,
        half: usize,
        out: &mut [[__m512i; 2]; STEPS],
    ) {
        let mut nibbles = [_mm512_setzero_si512(); 16];
        for (row, n) in rows.iter().zip(&mut nibbles) {
            // SAFETY: the caller's word.
            *n = unsafe { Self::nibbles(*row) };
        }
        transpose(&mut nibbles);
        for (k, n) in nibbles.iter().enumerate() {
            (out[k][half], out[16 + k][half]) = Self::levels(*n);
        }
    }
}

/// Signed bytes.
pub struct EightBit;

impl EightBit {
    /// One half of each of four 34-byte blocks, as unsigned bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn half(p: *const u8) -> __m512i {
        // SAFETY: the caller's word: `p` points 2 or 18 bytes into four blocks.
        unsafe {
            let load = |block: usize| _mm_loadu_si128(p.add(34 * block).cast());
            let x = _mm512_castsi128_si512(load(0));
            let x = _mm512_inserti32x4::<1>(x, load(1));
            let x = _mm512_inserti32x4::<2>(x, load(2));
            let x = _mm512_inserti32x4::<3>(x, load(3));
            _mm512_xor_si512(x, _mm512_set1_epi8(-128))
        }
    }
}

impl Codes for EightBit {
    const UNIT_BYTES: usize = 4 * 34;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn codes(p: *const u8, _: usize) -> (__m512i, __m512i) {
        // SAFETY: 136 bytes can be read, by the caller's word.
        unsafe { (Self::half(p.add(2)), Self::half(p.add(18))) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales(p: *const u8, _: usize) -> __m256 {
        // SAFETY: as above.
        let scale =
            |block: usize| i32::from(unsafe { p.add(34 * block).cast::<u16>().read_unaligned() });
        let scales = _mm_set_epi32(0, 0, scale(2) | scale(3) << 16, scale(0) | scale(1) << 16);
        _mm256_zextps128_ps256(_mm_cvtph_ps(scales))
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
