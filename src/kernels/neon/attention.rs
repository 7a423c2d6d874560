//! Attention's register of four lanes.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use super::ops::numbers;
use crate::kernels::attention::{Element, Kernel, Vector, Work};

/// Attention on this machine.
pub static ATTENTION: Kernel =
    Kernel::of::<float32x4_t>("NEON", || is_aarch64_feature_detected!("neon"));

impl Vector for float32x4_t {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(never)]
    #[target_feature(enable = "neon")]
    unsafe fn run<E: Element, W: Work>(work: W) -> W::Output {
        // SAFETY: the caller's word.
        unsafe { work.run::<Self, E>() }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn splat(x: f32) -> Self {
        vdupq_n_f32(x)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's word.
        unsafe { vld1q_f32(from) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's word.
        unsafe { vst1q_f32(to, self) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller's word.
        numbers(unsafe { vld1_u16(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's word.
        vreinterpretq_f32_u32(vshll_n_u16::<16>(unsafe { vld1_u16(from.cast()) }))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(self, b: Self) -> Self {
        vaddq_f32(self, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul(self, b: Self) -> Self {
        vmulq_f32(self, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        vfmaq_f32(c, self, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn max(self, b: Self) -> Self {
        vbslq_f32(vcgtq_f32(self, b), self, b)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn zero_below(self, x: Self, limit: Self) -> Self {
        vbslq_f32(vcltq_f32(x, limit), vdupq_n_f32(0.0), self)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn power_of_two(self) -> Self {
        let n = vshlq_n_s32::<23>(vreinterpretq_s32_f32(self));
        let one = vreinterpretq_s32_f32(vdupq_n_f32(1.0));
        vreinterpretq_f32_s32(vaddq_s32(n, one))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store_totals(x: [Self; 4], to: *mut f32) {
        let x = vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3]));
        // SAFETY: the caller's word.
        unsafe { vst1q_f32(to, x) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's word.
        unsafe {
            let row = |i: usize| vld1q_f32(from.add(i * from_stride));
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            let pairs = |a, b| {
                (
                    vreinterpretq_f64_f32(vtrn1q_f32(a, b)),
                    vreinterpretq_f64_f32(vtrn2q_f32(a, b)),
                )
            };
            let ((ab0, ab1), (cd0, cd1)) = (pairs(a, b), pairs(c, d));
            let columns = [
                vtrn1q_f64(ab0, cd0),
                vtrn1q_f64(ab1, cd1),
                vtrn2q_f64(ab0, cd0),
                vtrn2q_f64(ab1, cd1),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                vst1q_f32(to.add(i * to_stride), vreinterpretq_f32_f64(column));
            }
        }
    }
}
