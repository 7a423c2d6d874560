//! Blocks of 256 weights, whose groups have scales of a few bits.

use std::arch::x86_64::*;

use super::units::{Codes, number, transpose, transpose_four};
use crate::kernels::Scaling;
use crate::kernels::k_quants::{four_or_five, six};
use crate::kernels::panel::{SCALES, STEPS, step};

pub use super::products::{Three, Two};

/// Numbers of 4 bits, or of 5, with scales and minimums of 6.
pub struct FourOrFive<const FIVE: bool>;

/// For each 16 bytes of a register, the bit that is the fifth of its block, in the first record and in the second.
const FIFTH_BITS: [[u64; 8]; 2] = {
    let mut bits = [[0; 8]; 2];
    let mut i = 0;
    while i < 16 {
        bits[i / 8][i % 8] = 0x0101_0101_0101_0101 << (i / 2);
        i += 1;
    }
    bits
};

impl<const FIVE: bool> FourOrFive<FIVE> {
    /// The lower four bits of every byte, with a fifth where `fifth` has one of `bits`, plus 128.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    fn plus_128(x: __m512i, fifth: __m512i, bits: __m512i) -> __m512i {
        // `x & 15 | 128`.
        let (nibble, offset) = (_mm512_set1_epi8(15), _mm512_set1_epi8(-128));
        let x = _mm512_ternarylogic_epi32::<0xea>(x, nibble, offset);
        if !FIVE {
            return x;
        }
        let set = _mm512_test_epi8_mask(fifth, bits);
        _mm512_mask_add_epi8(x, set, x, _mm512_set1_epi8(16))
    }
}

impl<const FIVE: bool> Codes for FourOrFive<FIVE> {
    const UNIT_BYTES: usize = four_or_five::codes(FIVE) + 128;
    const SCALING: Scaling = Scaling::Minimums;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn codes(p: *const u8, i: usize) -> (__m512i, __m512i) {
        // SAFETY: the caller's word: 64 bytes of a record's codes; the table is as long as a register.
        let (codes, bits) = unsafe {
            let codes = p.add(four_or_five::codes(FIVE) + 64 * i);
            (
                _mm512_loadu_si512(codes.cast()),
                _mm512_loadu_si512(FIFTH_BITS[i].as_ptr().cast()),
            )
        };
        // 32 bytes hold two blocks, in lower and upper bits.
        let shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
        let half = |x, at: usize| {
            // SAFETY: as above: 32 bytes of fifth bits, or of codes.
            let fifth = unsafe { _mm_loadu_si128(p.add(four_or_five::FIFTH + at).cast()) };
            let fifth = _mm512_broadcast_i32x4(fifth);
            Self::plus_128(_mm512_srlv_epi64(x, shift), fifth, bits)
        };
        (
            half(_mm512_shuffle_i64x2::<0b10_10_00_00>(codes, codes), 0),
            half(_mm512_shuffle_i64x2::<0b11_11_01_01>(codes, codes), 16),
        )
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales(p: *const u8, i: usize) -> __m256 {
        // SAFETY: the caller's word.
        let (factors, numbers) = unsafe { four_or_five::scales(p, i) };
        let numbers = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(numbers.cast_signed()));
        let factors = _mm_cvtph_ps(_mm_cvtsi32_si128(factors.cast_signed()));
        let each = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
        let factors = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(factors), each);
        _mm256_mul_ps(_mm256_cvtepi32_ps(numbers), factors)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn codes16(
        rows: &[*const u8; 16],
        i: usize,
        half: usize,
        out: &mut [[__m512i; 2]; STEPS],
    ) {
        let mut codes = [_mm512_setzero_si512(); 16];
        let mut fifth = codes;
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: the caller's word: 64 bytes of a record's codes, 32 of fifth bits.
            unsafe {
                let at = row.add(four_or_five::codes(FIVE) + 64 * i);
                codes[r] = _mm512_loadu_si512(at.cast());
                let at = row.add(four_or_five::FIFTH);
                fifth[r] = _mm512_castsi256_si512(_mm256_loadu_si256(at.cast()));
            }
        }
        transpose(&mut codes);
        if FIVE {
            transpose(&mut fifth);
        }
        for (k, x) in codes.into_iter().enumerate() {
            let (block, k) = (k / 8 * 2, k % 8);
            for (block, x) in [(block, x), (block + 1, _mm512_srli_epi16::<4>(x))] {
                let bit = _mm512_set1_epi8((1u8 << (4 * i + block)).cast_signed());
                out[step::<4>(block, k)][half] = Self::plus_128(x, fifth[k], bit);
            }
        }
    }

    /// As [`four_or_five::scales`], for all rows at once.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales16(
        rows: &[*const u8; 16],
        i: usize,
        half: usize,
        out: &mut [[__m512; 2]; SCALES],
    ) {
        let mut headers = [_mm_setzero_ps(); 16];
        for (row, header) in rows.iter().zip(&mut headers) {
            // SAFETY: the caller's word: a block begins with 16 bytes of scales.
            *header = unsafe { _mm_loadu_ps(row.cast()) };
        }
        let headers = transpose_four(&headers);
        let word = |k: usize| _mm512_castps_si512(headers[k]);
        let bits = |x, mask| _mm512_and_si512(x, _mm512_set1_epi8(mask));
        for kind in 0..2 {
            let shift = |by: usize| _mm_cvtsi32_si128((by * kind) as i32);
            let factor = _mm512_cvtepi32_epi16(_mm512_srl_epi32(word(0), shift(16)));
            let factor = _mm512_cvtph_ps(factor);
            let first = word(1 + kind);
            let mut numbers = if i == 0 {
                bits(first, 0x3f)
            } else {
                let low = bits(_mm512_srl_epi32(word(3), shift(4)), 0x0f);
                _mm512_or_si512(low, bits(_mm512_srli_epi32::<2>(first), 0x30))
            };
            for out in &mut out[4 * kind..4 * kind + 4] {
                let number = _mm512_and_si512(numbers, _mm512_set1_epi32(0x3f));
                out[half] = _mm512_mul_ps(_mm512_cvtepi32_ps(number), factor);
                numbers = _mm512_srli_epi32::<8>(numbers);
            }
        }
    }
}

/// Numbers of 6 bits, less 32, with scales of 8.
pub struct Six;

impl Codes for Six {
    const UNIT_BYTES: usize = six::BYTES;
    const SCALING: Scaling = Scaling::Halves;

    /// The numbers come times 4: less 32 is then less 128.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn codes(p: *const u8, i: usize) -> (__m512i, __m512i) {
        // SAFETY: the caller's word: 64 bytes of a record's lower bits, 32 of upper ones.
        let (lower, upper) = unsafe {
            let upper = p.add(six::UPPER + 32 * i);
            (
                _mm512_loadu_si512(p.add(64 * i).cast()),
                [
                    _mm_loadu_si128(upper.cast()),
                    _mm_loadu_si128(upper.add(16).cast()),
                ],
            )
        };
        // The two blocks in lower bits, then those in upper ones, to bits 2 to 5; upper two bits to 6 and 7.
        let turn = _mm512_setr_epi64(2, 2, 2, 2, 62, 62, 62, 62);
        let shift = _mm512_setr_epi64(6, 6, 4, 4, 2, 2, 0, 0);
        let (kept, four) = (_mm512_set1_epi8(0x3c), _mm512_set1_epi8(-4));
        let whole = |lower, upper| {
            let lower = _mm512_rolv_epi64(lower, turn);
            let upper = _mm512_sllv_epi64(_mm512_broadcast_i32x4(upper), shift);
            // Bits of the one where `kept` has them, else of the other.
            let both = _mm512_ternarylogic_epi32::<0xca>(kept, lower, upper);
            _mm512_and_si512(both, four)
        };
        (
            whole(
                _mm512_shuffle_i64x2::<0b10_00_10_00>(lower, lower),
                upper[0],
            ),
            whole(
                _mm512_shuffle_i64x2::<0b11_01_11_01>(lower, lower),
                upper[1],
            ),
        )
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales(p: *const u8, i: usize) -> __m256 {
        // SAFETY: the caller's word.
        let (factor, numbers) = unsafe { six::scales(p, i) };
        let firsts_first = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, -1, -1, -1, -1, -1, -1, -1, -1);
        let numbers = _mm_shuffle_epi8(_mm_cvtsi64_si128(numbers.cast_signed()), firsts_first);
        let numbers = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(numbers));
        _mm256_mul_ps(numbers, _mm256_set1_ps(number(factor) * 0.25))
    }
}
