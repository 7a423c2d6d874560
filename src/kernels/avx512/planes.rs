//! Binary planes: two bits and two scales make a weight, `c1 s + c2 u` with `s, u` of -1 and 1.
//!
//! A row has four levels, `-h, -l, l, h` with `h = c1 + c2` and `l = c1 - c2`. For one dot product instead of two they
//! become whole numbers, the same for all rows of a matrix: the pair `n <= 127`, `m` with `m / n` nearest to `l / h`. At the ratio of Gaussian codebooks,
//! 0.2998, it is off by 7e-4 of `l`; nowhere between 0.2 and 0.4 by more than 3e-3. F16 scales cost up to 1.7e-3.

use std::arch::x86_64::*;
use std::sync::LazyLock;

use crate::kernels::{Format, RECORD_WEIGHTS, Rows};

/// Whole numbers for the levels of a matrix. They are those of its codebook; rows differ in their scale.
#[derive(Debug, Clone, Copy)]
pub struct Levels {
    /// The higher level.
    n: u8,
    /// The lower level.
    m: u8,
    /// A row's scale is `c1` times this ...
    by_first: f32,
    /// ... plus `c2` times this: the best in the sense of least squares.
    by_second: f32,
}

/// Rows that are asked for the ratio of levels, which rounding has moved a little in each.
const ASKED_ROWS: usize = 8;

/// Buckets of `l / h`, which lies in 0 to 1.
const BUCKETS: usize = 8192;
/// Largest whole number: `128 + n` must fit a byte.
const MAX_LEVEL: i32 = 127;

/// The best pair for the middle of each bucket.
static PAIRS: LazyLock<Vec<(u8, u8)>> = LazyLock::new(|| {
    let pair = |bucket: usize| {
        let ratio = (bucket as f32 + 0.5) / BUCKETS as f32;
        let error = |n: i32| {
            let m = nearest(ratio, n);
            (m as f32 / n as f32 - ratio).abs()
        };
        let n = (40..=MAX_LEVEL)
            .min_by(|a, b| error(*a).total_cmp(&error(*b)))
            .unwrap_or(MAX_LEVEL);
        (n as u8, nearest(ratio, n) as u8)
    };
    (0..=BUCKETS).map(pair).collect()
});

fn nearest(ratio: f32, n: i32) -> i32 {
    (ratio * n as f32).round() as i32
}

impl Levels {
    /// For a matrix in the form of planes.
    ///
    /// # Safety
    /// The rows are there.
    #[target_feature(enable = "f16c")]
    pub unsafe fn new(rows: &Rows) -> Self {
        let (mut c1, mut c2) = (0.0, 0.0);
        for i in 0..rows.n_rows.min(ASKED_ROWS) {
            // SAFETY: the caller's word.
            let (first, second) = unsafe { scales(rows.row(i), rows.width) };
            c1 += first;
            c2 += second;
        }
        let ratio = ((c1 - c2) / (c1 + c2)).clamp(0.0, 1.0);
        // Rows of zeros, or of nonsense, have no ratio: any will do.
        let bucket = if ratio.is_finite() {
            (ratio * BUCKETS as f32) as usize
        } else {
            0
        };
        let (n, m) = PAIRS[bucket];
        let (high, low) = (f32::from(n), f32::from(m));
        let size = high * high + low * low;
        Self {
            n,
            m,
            by_first: (high + low) / size,
            by_second: (high - low) / size,
        }
    }

    /// What a row's whole numbers are to be multiplied with.
    ///
    /// # Safety
    /// `row` is a row of planes of `width` weights.
    #[inline]
    #[target_feature(enable = "f16c")]
    pub unsafe fn scale(&self, row: *const u8, width: usize) -> f32 {
        // SAFETY: the caller's word.
        let (c1, c2) = unsafe { scales(row, width) };
        c1 * self.by_first + c2 * self.by_second
    }

    /// The weight plus 128 of no bits, and what a bit of the first and of the second plane adds.
    fn steps(&self) -> [u8; 3] {
        [128 - self.n, self.n + self.m, self.n - self.m]
    }
}

/// The scales of both halves of a row; all blocks of a half have the same.
#[inline]
#[target_feature(enable = "f16c")]
unsafe fn scales(row: *const u8, width: usize) -> (f32, f32) {
    let second = row.wrapping_add(width / RECORD_WEIGHTS * Format::Planes.record_bytes());
    // SAFETY: the caller's word: both begin with a scale.
    let (c1, c2) = unsafe {
        (
            row.cast::<u16>().read_unaligned(),
            second.cast::<u16>().read_unaligned(),
        )
    };
    let both = _mm_cvtph_ps(_mm_set1_epi32(i32::from(c1) | i32::from(c2) << 16));
    (
        _mm_cvtss_f32(both),
        _mm_cvtss_f32(_mm_shuffle_ps::<1>(both, both)),
    )
}

/// The levels of a matrix as registers.
#[derive(Clone, Copy)]
pub struct Expand {
    base: __m512i,
    first: __m512i,
    second: __m512i,
}

impl Expand {
    /// For a matrix.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn new(levels: &Levels) -> Self {
        let [base, first, second] = levels.steps().map(|v| _mm512_set1_epi8(v as i8));
        Self {
            base,
            first,
            second,
        }
    }

    /// 64 weights plus 128, from 64 bits of each plane.
    ///
    /// # Safety
    /// 8 bytes can be read at both addresses.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn weights(&self, first: *const u8, second: *const u8) -> __m512i {
        // SAFETY: the caller's word.
        let (s, u) = unsafe { (_load_mask64(first.cast()), _load_mask64(second.cast())) };
        let w = _mm512_mask_add_epi8(self.base, s, self.base, self.first);
        _mm512_mask_add_epi8(w, u, w, self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the smaller level: half the widest gap between fractions with denominators up to 127, at 1/4.
    const LEVEL_ERROR: f32 = 3e-3;

    #[test]
    fn whole_levels_are_near_those_of_the_scales() {
        if !super::super::available() {
            return;
        }
        for ratio in 150..220 {
            let f16 = half::f16::from_f32;
            let (c1, c2) = (f16(0.01 * ratio as f32 / 100.0), f16(0.01));
            let mut row = [0u8; 36];
            row[..2].copy_from_slice(&c1.to_le_bytes());
            row[18..20].copy_from_slice(&c2.to_le_bytes());
            let rows = Rows {
                data: row.as_ptr(),
                stride: 36,
                n_rows: 1,
                width: 128,
                format: Format::Planes,
            };
            // SAFETY: the features were asked for, the row is there.
            let (levels, scale) = unsafe {
                let levels = Levels::new(&rows);
                (levels, levels.scale(row.as_ptr(), 128))
            };
            let (c1, c2) = (c1.to_f32(), c2.to_f32());
            let [base, first, second] = levels.steps().map(i32::from);
            for (s, u) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                let number = (base - 128 + s * first + u * second) as f32;
                let wanted = c1 * (2 * s - 1) as f32 + c2 * (2 * u - 1) as f32;
                let error = (number * scale - wanted).abs();
                assert!(
                    error < LEVEL_ERROR * (c1 - c2),
                    "{ratio} {s}{u}: {error} of {wanted}"
                );
            }
        }
    }
}
