//! Blocks of 256 weights, whose groups have scales of a few bits.

use std::arch::x86_64::*;

use super::codes::{Codes, number, two};
use crate::kernels::Scaling;
use crate::kernels::k_quants::{four_or_five, six, three, two};

/// Numbers of 2 bits, with scales and minimums of 4.
pub struct Two;

impl Codes for Two {
    const UNIT_BYTES: usize = two::BYTES;
    const RECORDS: usize = 2;
    const SCALING: Scaling = Scaling::HalfMinimums;
    const BASE: Option<u8> = Some(0);
    // Products with scales: up to 45.
    const FIT: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pair(p: *const u8, pair: usize) -> (__m256i, __m256i) {
        // Of each of the pair's four scales the products with 0 to 3.
        // SAFETY: the caller's word: a block begins with 16 bytes of scales.
        let scales = unsafe { p.add(4 * pair).cast::<i32>().read_unaligned() };
        let scales = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(scales & 0x0f0f_0f0f));
        let products = _mm_mullo_epi32(scales, _mm_set1_epi32(0x0302_0100));
        let products = _mm256_broadcastsi128_si256(products);
        let shift = _mm256_add_epi64(
            _mm256_setr_epi64x(0, 0, 2, 2),
            _mm256_set1_epi64x(4 * (pair % 2) as i64),
        );
        let half = |half: usize| {
            let group = _mm256_set_m128i(_mm_set1_epi8(8), _mm_setzero_si128());
            let group = _mm256_add_epi8(group, _mm256_set1_epi8(4 * half as i8));
            // SAFETY: the caller's word: 64 bytes of codes.
            let codes =
                unsafe { _mm_loadu_si128(p.add(two::CODES + 32 * (pair / 2) + 16 * half).cast()) };
            let codes = _mm256_srlv_epi64(_mm256_broadcastsi128_si256(codes), shift);
            let codes = _mm256_and_si256(codes, _mm256_set1_epi8(3));
            _mm256_shuffle_epi8(products, _mm256_or_si256(codes, group))
        };
        (half(0), half(1))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(p: *const u8, _: usize) -> __m256 {
        // SAFETY: the caller's word.
        let factor = unsafe { two::factors(p) } as u16;
        _mm256_set1_ps(number(factor))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn half_minimums(p: *const u8, i: usize) -> __m256 {
        // SAFETY: the caller's word: a block begins with 16 bytes, minimums above scales.
        let (minimums, factors) =
            unsafe { (p.add(8 * i).cast::<i64>().read_unaligned(), two::factors(p)) };
        let minimums = _mm_cvtsi64_si128(minimums >> 4 & 0x0f0f_0f0f_0f0f_0f0f);
        let minimums = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(minimums));
        _mm256_mul_ps(minimums, _mm256_set1_ps(number((factors >> 16) as u16)))
    }
}

/// Numbers of 3 bits, less 4, with scales of 6, less 32.
pub struct Three;

impl Codes for Three {
    const UNIT_BYTES: usize = three::BYTES;
    const RECORDS: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pair(p: *const u8, pair: usize) -> (__m256i, __m256i) {
        let (i, at) = (pair / 2, pair % 2);
        // SAFETY: the caller's word.
        let scales = unsafe { three::scales(p, i) };
        let scales = _mm_set_epi64x(32, scales.cast_signed());
        let scales = _mm256_broadcastsi128_si256(scales);
        // Of a scale `s` the products with 4 to -3: of `s + 32`, less those of 32.
        let products = |half: usize| {
            let both = |group: usize| _mm_set1_epi16((8 << 8 | group) as i16);
            let groups = _mm256_set_m128i(both(4 * at + 2 + half), both(4 * at + half));
            let factors = _mm_setr_epi8(4, -4, 3, -3, 2, -2, 1, -1, 0, 0, -1, 1, -2, 2, -3, 3);
            _mm256_maddubs_epi16(
                _mm256_shuffle_epi8(scales, groups),
                _mm256_broadcastsi128_si256(factors),
            )
        };
        let products = _mm256_packs_epi16(products(0), products(1));
        let shift = _mm256_add_epi64(
            _mm256_setr_epi64x(0, 0, 2, 2),
            _mm256_set1_epi64x(4 * at as i64),
        );
        let bits = _mm256_set_m128i(
            _mm_set1_epi8((2u8 << (2 * pair)).cast_signed()),
            _mm_set1_epi8((1u8 << (2 * pair)).cast_signed()),
        );
        let half = |half: usize| {
            // SAFETY: the caller's word: 64 bytes of codes, 32 of third bits.
            let (codes, third) = unsafe {
                (
                    _mm_loadu_si128(p.add(three::CODES + 32 * i + 16 * half).cast()),
                    _mm_loadu_si128(p.add(16 * half).cast()),
                )
            };
            let codes = _mm256_srlv_epi64(_mm256_broadcastsi128_si256(codes), shift);
            let codes = _mm256_and_si256(codes, _mm256_set1_epi8(3));
            let third = _mm256_and_si256(_mm256_broadcastsi128_si256(third), bits);
            let set = _mm256_and_si256(_mm256_cmpeq_epi8(third, bits), _mm256_set1_epi8(4));
            let group = _mm256_set1_epi8(8 * half as i8);
            let at = _mm256_or_si256(_mm256_or_si256(codes, set), group);
            _mm256_shuffle_epi8(products, at)
        };
        (half(0), half(1))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(p: *const u8, _: usize) -> __m256 {
        // SAFETY: the caller's word.
        _mm256_set1_ps(-number(unsafe { three::factor(p) }))
    }
}

/// Numbers of 4 bits, or of 5, with scales and minimums of 6.
pub struct FourOrFive<const FIVE: bool>;

impl<const FIVE: bool> Codes for FourOrFive<FIVE> {
    const UNIT_BYTES: usize = four_or_five::codes(FIVE) + 128;
    const RECORDS: usize = 2;
    const SCALING: Scaling = Scaling::Minimums;
    const BASE: Option<u8> = Some(0);
    const FIT: usize = if FIVE { 4 } else { 8 };

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pair(p: *const u8, pair: usize) -> (__m256i, __m256i) {
        // 32 bytes hold two blocks, in lower and upper bits.
        let shift = _mm256_setr_epi64x(0, 0, 4, 4);
        // Bits `2 * pair` and the next one become the fifth.
        let up = _mm256_sub_epi64(
            _mm256_setr_epi64x(4, 4, 3, 3),
            _mm256_set1_epi64x(2 * pair as i64),
        );
        let down = _mm256_sub_epi64(_mm256_setzero_si256(), up);
        let half = |at: usize| {
            // SAFETY: the caller's word: four times 32 bytes of codes, after those of fifth bits.
            let (codes, fifth) = unsafe {
                let codes = p.add(four_or_five::codes(FIVE) + 32 * pair + at);
                let fifth = p.add(four_or_five::FIFTH + at);
                (
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(codes.cast())),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(fifth.cast())),
                )
            };
            let low = _mm256_srlv_epi64(codes, shift);
            let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
            if !FIVE {
                return low;
            }
            let fifth = if pair < 2 {
                _mm256_sllv_epi64(fifth, up)
            } else {
                _mm256_srlv_epi64(fifth, down)
            };
            _mm256_or_si256(low, _mm256_and_si256(fifth, _mm256_set1_epi8(16)))
        };
        (half(0), half(16))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(p: *const u8, i: usize) -> __m256 {
        // SAFETY: the caller's word.
        let (factors, numbers) = unsafe { four_or_five::scales(p, i) };
        let numbers = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(numbers.cast_signed()));
        let factors = _mm_cvtph_ps(_mm_cvtsi32_si128(factors.cast_signed()));
        let each = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
        let factors = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(factors), each);
        _mm256_mul_ps(_mm256_cvtepi32_ps(numbers), factors)
    }
}

/// Numbers of 6 bits, less 32, with scales of 8.
pub struct Six;

impl Codes for Six {
    const UNIT_BYTES: usize = six::BYTES;
    const RECORDS: usize = 2;
    const SCALING: Scaling = Scaling::Halves;
    const BASE: Option<u8> = Some(32);
    const FIT: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pair(p: *const u8, pair: usize) -> (__m256i, __m256i) {
        let (i, pair) = (pair / 2, pair % 2);
        // The first two blocks of a record in lower bits, the others in upper ones.
        let turn = _mm_cvtsi64_si128(4 * pair as i64);
        let shift = _mm256_add_epi64(
            _mm256_setr_epi64x(0, 0, 2, 2),
            _mm256_set1_epi64x(4 * pair as i64),
        );
        let half = |at: usize| {
            // SAFETY: the caller's word: 64 bytes of a record's lower bits, 32 of upper ones.
            let (lower, upper) = unsafe {
                let upper = p.add(six::UPPER + 32 * i + at);
                (
                    two(p.add(64 * i + at), 32),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(upper.cast())),
                )
            };
            let lower = _mm256_and_si256(_mm256_srl_epi64(lower, turn), _mm256_set1_epi8(15));
            let upper = _mm256_and_si256(_mm256_srlv_epi64(upper, shift), _mm256_set1_epi8(3));
            _mm256_or_si256(lower, _mm256_slli_epi64::<4>(upper))
        };
        (half(0), half(16))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(p: *const u8, i: usize) -> __m256 {
        // SAFETY: the caller's word.
        let (factor, numbers) = unsafe { six::scales(p, i) };
        let firsts_first = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, -1, -1, -1, -1, -1, -1, -1, -1);
        let numbers = _mm_shuffle_epi8(_mm_cvtsi64_si128(numbers.cast_signed()), firsts_first);
        let numbers = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(numbers));
        _mm256_mul_ps(numbers, _mm256_set1_ps(number(factor)))
    }
}
