//! Blocks of 256 weights, whose groups have scales of a few bits.

use std::arch::aarch64::*;

use super::codes::{Codes, number};
use crate::kernels::Scaling;
use crate::kernels::k_quants::{four_or_five, six, three, two};

/// The `n` bits of every byte from bit `at` on.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn bits(x: uint8x16_t, at: usize, n: usize) -> uint8x16_t {
    let down = vdupq_n_s8(-(at as i8));
    vandq_u8(vshlq_u8(x, down), vdupq_n_u8((1 << n) - 1))
}

/// Numbers of 2 bits, with scales and minimums of 4.
pub struct Two;

impl Codes for Two {
    const UNIT_BYTES: usize = two::BYTES;
    const RECORDS: usize = 2;
    const SCALING: Scaling = Scaling::HalfMinimums;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn block(p: *const u8, b: usize) -> (int8x16_t, int8x16_t) {
        let half = |half: usize| {
            let codes = p.wrapping_add(two::CODES + 32 * (b / 4) + 16 * half);
            // SAFETY: the caller's word: 16 bytes of scales, 64 of codes.
            let (scale, codes) = unsafe { (*p.add(2 * b + half) & 15, vld1q_u8(codes)) };
            let products = vmulq_u8(bits(codes, 2 * (b % 4), 2), vdupq_n_u8(scale));
            vreinterpretq_s8_u8(products)
        };
        (half(0), half(1))
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn scales(p: *const u8, _: usize) -> [float32x4_t; 2] {
        // SAFETY: the caller's word.
        let factor = unsafe { two::factors(p) } as u16;
        [vdupq_n_f32(number(factor)), vdupq_n_f32(0.0)]
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn half_minimums(p: *const u8, i: usize) -> [float32x4_t; 2] {
        // SAFETY: the caller's word: a block begins with 16 bytes, minimums above scales.
        let (minimums, factors) = unsafe { (vld1_u8(p.add(8 * i)), two::factors(p)) };
        let minimums = vmovl_u8(vshr_n_u8::<4>(minimums));
        let times = |x| vmulq_n_f32(vcvtq_f32_u32(vmovl_u16(x)), number((factors >> 16) as u16));
        [
            times(vget_low_u16(minimums)),
            times(vget_high_u16(minimums)),
        ]
    }
}

/// Numbers of 3 bits, less 4, with scales of 6, less 32.
pub struct Three;

impl Codes for Three {
    const UNIT_BYTES: usize = three::BYTES;
    const RECORDS: usize = 2;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn block(p: *const u8, b: usize) -> (int8x16_t, int8x16_t) {
        // SAFETY: the caller's word.
        let scales = unsafe { three::scales(p, b / 4) }.to_le_bytes();
        let half = |half: usize| {
            let codes = p.wrapping_add(three::CODES + 32 * (b / 4) + 16 * half);
            // SAFETY: the caller's word: 32 bytes of third bits, 64 of codes.
            let (third, codes) = unsafe { (vld1q_u8(p.add(16 * half)), vld1q_u8(codes)) };
            let third = vshlq_n_u8::<2>(bits(third, b, 1));
            let code = vorrq_u8(bits(codes, 2 * (b % 4), 2), third);
            let less = vsubq_s8(vdupq_n_s8(4), vreinterpretq_s8_u8(code));
            let scale = scales[2 * (b % 4) + half].cast_signed() - 32;
            vmulq_s8(less, vdupq_n_s8(scale))
        };
        (half(0), half(1))
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn scales(p: *const u8, _: usize) -> [float32x4_t; 2] {
        // SAFETY: the caller's word.
        let factor = number(unsafe { three::factor(p) });
        [vdupq_n_f32(-factor), vdupq_n_f32(0.0)]
    }
}

/// Numbers of 4 bits, or of 5, with scales and minimums of 6.
pub struct FourOrFive<const FIVE: bool>;

impl<const FIVE: bool> Codes for FourOrFive<FIVE> {
    const UNIT_BYTES: usize = four_or_five::codes(FIVE) + 128;
    const RECORDS: usize = 2;
    const SCALING: Scaling = Scaling::Minimums;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn block(p: *const u8, b: usize) -> (int8x16_t, int8x16_t) {
        let half = |at: usize| {
            // 32 bytes hold two blocks, in lower and upper bits.
            let codes = p.wrapping_add(four_or_five::codes(FIVE) + 32 * (b / 2) + at);
            // SAFETY: the caller's word: four times 32 bytes of codes.
            let codes = bits(unsafe { vld1q_u8(codes) }, 4 * (b % 2), 4);
            if !FIVE {
                return vreinterpretq_s8_u8(codes);
            }
            // SAFETY: as above: 32 bytes of fifth bits.
            let fifth = bits(unsafe { vld1q_u8(p.add(four_or_five::FIFTH + at)) }, b, 1);
            vreinterpretq_s8_u8(vorrq_u8(codes, vshlq_n_u8::<4>(fifth)))
        };
        (half(0), half(16))
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn scales(p: *const u8, i: usize) -> [float32x4_t; 2] {
        // SAFETY: the caller's word.
        let (factors, numbers) = unsafe { four_or_five::scales(p, i) };
        let numbers = vmovl_u8(vcreate_u8(numbers));
        let scales = vcvtq_f32_u32(vmovl_u16(vget_low_u16(numbers)));
        let minimums = vcvtq_f32_u32(vmovl_u16(vget_high_u16(numbers)));
        [
            vmulq_n_f32(scales, number(factors as u16)),
            vmulq_n_f32(minimums, number((factors >> 16) as u16)),
        ]
    }
}

/// Numbers of 6 bits, less 32, with scales of 8.
pub struct Six;

impl Codes for Six {
    const UNIT_BYTES: usize = six::BYTES;
    const RECORDS: usize = 2;
    const SCALING: Scaling = Scaling::Halves;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn block(p: *const u8, b: usize) -> (int8x16_t, int8x16_t) {
        let (i, b) = (b / 4, b % 4);
        let half = |at: usize| {
            // The first two blocks of a record in lower bits, the others in upper ones.
            let lower = p.wrapping_add(64 * i + 32 * (b % 2) + at);
            let upper = p.wrapping_add(six::UPPER + 32 * i + at);
            // SAFETY: the caller's word: 64 bytes of a record's lower bits, 32 of upper ones.
            let (lower, upper) = unsafe { (vld1q_u8(lower), vld1q_u8(upper)) };
            let upper = vshlq_n_u8::<4>(bits(upper, 2 * b, 2));
            let both = vorrq_u8(bits(lower, 4 * (b / 2), 4), upper);
            vsubq_s8(vreinterpretq_s8_u8(both), vdupq_n_s8(32))
        };
        (half(0), half(16))
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn scales(p: *const u8, i: usize) -> [float32x4_t; 2] {
        // SAFETY: the caller's word.
        let (factor, numbers) = unsafe { six::scales(p, i) };
        let numbers = vmovl_s8(vcreate_s8(numbers));
        let first = vmovl_s16(vget_low_s16(numbers));
        let last = vmovl_s16(vget_high_s16(numbers));
        let times = |x| vmulq_n_f32(vcvtq_f32_s32(x), number(factor));
        [
            times(vuzp1q_s32(first, last)),
            times(vuzp2q_s32(first, last)),
        ]
    }
}
