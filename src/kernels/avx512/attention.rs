//! Attention's register with 512 bits.

use std::arch::x86_64::*;

use super::units::transpose;
use crate::kernels::attention::{Element, Kernel, Vector, Work};

/// Attention on this machine.
pub static ATTENTION: Kernel = Kernel::of::<__m512>("AVX-512 (F, BW, DQ, VL)", available);

fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
}

impl Vector for __m512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn run<E: Element, W: Work>(work: W) -> W::Output {
        // SAFETY: the caller's word.
        unsafe { work.run::<Self, E>() }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn splat(x: f32) -> Self {
        _mm512_set1_ps(x)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's word.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's word.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller's word.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's word.
        let x = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(from.cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn add(self, b: Self) -> Self {
        _mm512_add_ps(self, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn mul(self, b: Self) -> Self {
        _mm512_mul_ps(self, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        _mm512_fmadd_ps(self, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn max(self, b: Self) -> Self {
        _mm512_max_ps(self, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn zero_below(self, x: Self, limit: Self) -> Self {
        _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), self)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn power_of_two(self) -> Self {
        let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(self));
        let one = _mm512_castps_si512(_mm512_set1_ps(1.0));
        _mm512_castsi512_ps(_mm512_add_epi32(n, one))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn store_totals(x: [Self; 4], to: *mut f32) {
        let pair = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (ab, cd) = (
            _mm512_castps_pd(pair(x[0], x[1])),
            _mm512_castps_pd(pair(x[2], x[3])),
        );
        let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
        let high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
        let x = _mm512_add_ps(low, high);
        let x = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        // SAFETY: the caller's word.
        unsafe { _mm_storeu_ps(to, x) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        let mut x = [_mm512_setzero_si512(); 16];
        for (row, x) in x.iter_mut().enumerate() {
            // SAFETY: the caller's word.
            *x = unsafe { _mm512_loadu_si512(from.add(row * from_stride).cast()) };
        }
        transpose(&mut x);
        for (column, x) in x.into_iter().enumerate() {
            // SAFETY: the caller's word.
            unsafe { _mm512_storeu_si512(to.add(column * to_stride).cast(), x) }
        }
    }
}
