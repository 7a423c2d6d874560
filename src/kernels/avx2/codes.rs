//! From the bytes of a file to bytes for multiplication, two blocks of 32 weights at a time.

use std::arch::x86_64::*;

/// A format in blocks of 32, four of which make a record.
pub trait Codes {
    /// Bytes of a block.
    const BLOCK_BYTES: usize;
    /// Whether weights come as small unsigned bytes, 8 too large.
    const SMALL: bool;
    /// Bytes of a record.
    const BYTES: usize = 4 * Self::BLOCK_BYTES;

    /// The weights of two blocks: first halves, second halves.
    ///
    /// # Safety
    /// Two blocks can be read at `p`, and the CPU has what [`super::PLAIN`] asks for.
    unsafe fn pair(p: *const u8) -> (__m256i, __m256i);

    /// The two digits of weights that [`Self::pair`] gave, in base 16 and 128 too large.
    ///
    /// # Safety
    /// The CPU has what [`super::PLAIN`] asks for.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn digits(weights: __m256i) -> [__m256i; 2] {
        let mask = _mm256_set1_epi8(15);
        let all = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
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
    const BLOCK_BYTES: usize = 18;
    const SMALL: bool = L;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pair(p: *const u8) -> (__m256i, __m256i) {
        // SAFETY: the caller's word.
        let nibbles = unsafe { two(p.add(2), Self::BLOCK_BYTES) };
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
    const BLOCK_BYTES: usize = 34;
    const SMALL: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pair(p: *const u8) -> (__m256i, __m256i) {
        // SAFETY: the caller's word.
        unsafe {
            (
                two(p.add(2), Self::BLOCK_BYTES),
                two(p.add(18), Self::BLOCK_BYTES),
            )
        }
    }
}

/// 16 bytes at `p`, and 16 `stride` bytes further on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn two(p: *const u8, stride: usize) -> __m256i {
    // SAFETY: the caller's word.
    unsafe { _mm256_loadu2_m128i(p.add(stride).cast(), p.cast()) }
}

/// The scales of a record's four blocks.
///
/// # Safety
/// A record can be read at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn scales<F: Codes>(p: *const u8) -> __m128 {
    // SAFETY: the caller's word.
    let scale = |block| unsafe { p.add(F::BLOCK_BYTES * block).cast::<i16>().read_unaligned() };
    _mm_cvtph_ps(_mm_setr_epi16(
        scale(0),
        scale(1),
        scale(2),
        scale(3),
        0,
        0,
        0,
        0,
    ))
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
