//! From the bytes of a file to bytes for multiplication, 64 weights at a time.

use std::arch::x86_64::*;

use crate::kernels::Scaling;

/// A format's records: one, or the two of a block of 256, lie together as a unit.
pub trait Codes {
    /// Bytes of a unit.
    const UNIT_BYTES: usize;
    /// Records of a unit.
    const RECORDS: usize = 1;
    /// How weights are scaled.
    const SCALING: Scaling = Scaling::Blocks;
    /// What weights are too large by where they come as unsigned bytes of up to 6 bits, else with a sign.
    const BASE: Option<u8> = None;
    /// How many pairs of their products, without a sign, a sum of 16 bits holds. None if they are taken apart into digits
    /// instead, whose sums hold a whole block.
    const FIT: usize = 0;

    /// The weights of blocks `2 * pair ..` of a unit, two of 32: first halves, second halves.
    ///
    /// # Safety
    /// `UNIT_BYTES` bytes can be read at `p`, and the CPU has what [`super::PLAIN`] asks for.
    unsafe fn pair(p: *const u8, pair: usize) -> (__m256i, __m256i);

    /// The scales of record `i`: four, then what [`Scaling`] has beside them: minimums of blocks, or scales of second halves.
    ///
    /// # Safety
    /// As [`Self::pair`].
    unsafe fn scales(p: *const u8, i: usize) -> __m256;

    /// The minimums of the halves of its blocks. Only [`Scaling::HalfMinimums`] has them.
    ///
    /// # Safety
    /// As [`Self::pair`].
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn half_minimums(_: *const u8, _: usize) -> __m256 {
        _mm256_setzero_ps()
    }

    /// Weights that [`Self::pair`] gave without their sign, 128 too large if they had one.
    ///
    /// # Safety
    /// The CPU has what [`super::PLAIN`] asks for.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unsigned(weights: __m256i) -> __m256i {
        if Self::BASE.is_some() {
            return weights;
        }
        _mm256_xor_si256(weights, _mm256_set1_epi8(-128))
    }

    /// The two digits of these in base 16.
    ///
    /// # Safety
    /// The CPU has what [`super::PLAIN`] asks for.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn digits(weights: __m256i) -> [__m256i; 2] {
        let mask = _mm256_set1_epi8(15);
        // SAFETY: the caller's word.
        let all = unsafe { Self::unsigned(weights) };
        [
            _mm256_and_si256(_mm256_srli_epi16::<4>(all), mask),
            _mm256_and_si256(all, mask),
        ]
    }
}

/// 16 levels, or numbers less 8: 4 bits of index in either case.
pub struct FourBit<const LINEAR: bool>;

/// IQ4_NL's levels.
const NON_LINEAR: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

impl<const L: bool> Codes for FourBit<L> {
    const UNIT_BYTES: usize = 4 * 18;
    const BASE: Option<u8> = if L { Some(8) } else { None };
    const FIT: usize = if L { 8 } else { 0 };

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(p: *const u8, _: usize) -> __m256 {
        // SAFETY: the caller's word.
        unsafe { scales(p, 18) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pair(p: *const u8, pair: usize) -> (__m256i, __m256i) {
        // SAFETY: the caller's word.
        let nibbles = unsafe { two(p.add(36 * pair + 2), 18) };
        let mask = _mm256_set1_epi8(15);
        let low = _mm256_and_si256(nibbles, mask);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(nibbles), mask);
        if L {
            return (low, high);
        }
        // SAFETY: the table has 16 bytes.
        let table = unsafe { _mm_loadu_si128(NON_LINEAR.as_ptr().cast()) };
        let table = _mm256_broadcastsi128_si256(table);
        (
            _mm256_shuffle_epi8(table, low),
            _mm256_shuffle_epi8(table, high),
        )
    }
}

/// Signed bytes.
pub struct EightBit;

impl Codes for EightBit {
    const UNIT_BYTES: usize = 4 * 34;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(p: *const u8, _: usize) -> __m256 {
        // SAFETY: the caller's word.
        unsafe { scales(p, 34) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pair(p: *const u8, pair: usize) -> (__m256i, __m256i) {
        // SAFETY: the caller's word.
        unsafe {
            (
                two(p.add(68 * pair + 2), 34),
                two(p.add(68 * pair + 18), 34),
            )
        }
    }
}

/// 16 bytes at `p`, and 16 `stride` bytes further on.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn two(p: *const u8, stride: usize) -> __m256i {
    // SAFETY: the caller's word.
    unsafe { _mm256_loadu2_m128i(p.add(stride).cast(), p.cast()) }
}

/// The scales that four blocks of so many bytes begin with.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scales(p: *const u8, block_bytes: usize) -> __m256 {
    // SAFETY: the caller's word.
    let scale = |block| unsafe { p.add(block_bytes * block).cast::<i16>().read_unaligned() };
    _mm256_zextps128_ps256(_mm_cvtph_ps(_mm_setr_epi16(
        scale(0),
        scale(1),
        scale(2),
        scale(3),
        0,
        0,
        0,
        0,
    )))
}

/// Sums of four neighbouring products: weights with a sign, times activations from -127 to 127.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn fours(w: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// A number of 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn number(half: u16) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half.into())))
}
