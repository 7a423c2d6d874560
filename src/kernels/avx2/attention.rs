//! Attention's register with 256 bits.

use std::arch::x86_64::*;

use crate::kernels::attention::{Element, Kernel, Vector, Work};

/// Attention on this machine.
pub static ATTENTION: Kernel = Kernel::of::<__m256>("AVX2 with FMA and F16C", super::has_avx2);

impl Vector for __m256 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(never)]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run<E: Element, W: Work>(work: W) -> W::Output {
        // SAFETY: the caller's word.
        unsafe { work.run::<Self, E>() }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn splat(x: f32) -> Self {
        _mm256_set1_ps(x)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's word.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's word.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller's word.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's word.
        let x = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(from.cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add(self, b: Self) -> Self {
        _mm256_add_ps(self, b)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn mul(self, b: Self) -> Self {
        _mm256_mul_ps(self, b)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        _mm256_fmadd_ps(self, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn max(self, b: Self) -> Self {
        _mm256_max_ps(self, b)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn zero_below(self, x: Self, limit: Self) -> Self {
        _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, limit), self)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn power_of_two(self) -> Self {
        let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(self));
        let one = _mm256_castps_si256(_mm256_set1_ps(1.0));
        _mm256_castsi256_ps(_mm256_add_epi32(n, one))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store_totals(x: [Self; 4], to: *mut f32) {
        let x = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        // SAFETY: the caller's word.
        unsafe { _mm_storeu_ps(to, x) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        let mut x = [_mm256_setzero_ps(); 8];
        for (row, x) in x.iter_mut().enumerate() {
            // SAFETY: the caller's word.
            *x = unsafe { _mm256_loadu_ps(from.add(row * from_stride)) };
        }
        let mut y = x;
        for i in 0..4 {
            y[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
            y[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
        }
        // Half h of x[4i + c] becomes column 4h + c of rows 4i to 4i + 3.
        for i in [0, 4] {
            x[i] = _mm256_shuffle_ps::<0x44>(y[i], y[i + 2]);
            x[i + 1] = _mm256_shuffle_ps::<0xee>(y[i], y[i + 2]);
            x[i + 2] = _mm256_shuffle_ps::<0x44>(y[i + 1], y[i + 3]);
            x[i + 3] = _mm256_shuffle_ps::<0xee>(y[i + 1], y[i + 3]);
        }
        for c in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(x[c], x[4 + c]);
            let high = _mm256_permute2f128_ps::<0x31>(x[c], x[4 + c]);
            // SAFETY: the caller's word.
            unsafe {
                _mm256_storeu_ps(to.add(c * to_stride), low);
                _mm256_storeu_ps(to.add((4 + c) * to_stride), high);
            }
        }
    }
}
