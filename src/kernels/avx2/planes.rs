//! Binary planes: bits are shifted down and masked, 16 bytes of both planes side by side.

use std::arch::x86_64::*;

use crate::kernels::panel::Digits;

/// The bits of a block of both planes: those of the first in the lower half.
///
/// # Safety
/// 16 bytes can be read at both addresses.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn bits(first: *const u8, second: *const u8) -> __m256i {
    // SAFETY: the caller's word.
    unsafe { _mm256_loadu2_m128i(second.cast(), first.cast()) }
}

/// Bit `K` of every byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn bit<const K: i32>(bits: __m256i) -> __m256i {
    _mm256_and_si256(_mm256_srli_epi16::<K>(bits), _mm256_set1_epi8(1))
}

/// What a bit of the first plane adds to a weight, in the lower half, and one of the second, as numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn factors(digits: Digits) -> __m256i {
    _mm256_set_m128i(
        _mm_set1_epi16(i16::from(digits.second)),
        _mm_set1_epi16(i16::from(digits.first)),
    )
}

/// The 16 bits at `2 * part` of each byte of a block, then those at the next bit, as bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn part(bits: __m128i, part: usize) -> __m256i {
    let at = |k: usize| _mm_set1_epi8((1u8 << (2 * part + k)) as i8);
    let chosen = _mm256_and_si256(
        _mm256_broadcastsi128_si256(bits),
        _mm256_set_m128i(at(1), at(0)),
    );
    _mm256_min_epu8(chosen, _mm256_set1_epi8(1))
}
