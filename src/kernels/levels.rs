//! Binary planes: two bits and two scales make a weight, `c1 s + c2 u` with `s, u` of -1 and 1.
//!
//! A row has four levels, `-h, -l, l, h` with `h = c1 + c2` and `l = c1 - c2`. For one dot product instead of two they
//! become whole numbers, the same for all rows of a matrix: the pair `n <= 127`, `m` with `m / n` nearest to `l / h`. At the ratio of Gaussian codebooks,
//! 0.2998, it is off by 7e-4 of `l`; nowhere between 0.2 and 0.4 by more than 3e-3. F16 scales cost up to 1.7e-3.

use std::sync::LazyLock;

use super::panel::Digits;
use super::{Format, RECORD_WEIGHTS, Rows};

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
    pub unsafe fn new(rows: &Rows) -> Self {
        let (mut c1, mut c2) = (0.0, 0.0);
        for i in 0..rows.n_rows.min(ASKED_ROWS) {
            // SAFETY: the caller's word.
            let (first, second) = unsafe { scales(rows.row(i), rows.width) };
            c1 += number(first);
            c2 += number(second);
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

    /// What a row's whole numbers are to be multiplied with; `number` is how the machine reads 16 bits.
    ///
    /// # Safety
    /// `row` is a row of planes of `width` weights.
    #[inline]
    pub unsafe fn scale(&self, row: *const u8, width: usize, number: impl Fn(u16) -> f32) -> f32 {
        // SAFETY: the caller's word.
        let (c1, c2) = unsafe { scales(row, width) };
        number(c1) * self.by_first + number(c2) * self.by_second
    }

    /// The bits of a weight as its digits.
    #[inline]
    pub fn digits(&self) -> Digits {
        Digits {
            base: self.n,
            first: self.n + self.m,
            second: self.n - self.m,
        }
    }
}

/// The scales of both halves of a row; all blocks of a half have the same.
#[inline]
unsafe fn scales(row: *const u8, width: usize) -> (u16, u16) {
    let second = row.wrapping_add(width / RECORD_WEIGHTS * Format::Planes.record_bytes());
    // SAFETY: the caller's word: both begin with a scale.
    unsafe {
        (
            row.cast::<u16>().read_unaligned(),
            second.cast::<u16>().read_unaligned(),
        )
    }
}

/// A number of 16 bits. The multiplication takes back that the exponent's bias is smaller.
#[inline]
pub fn number(half: u16) -> f32 {
    const BIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    let (sign, size) = (u32::from(half & 0x8000), u32::from(half & 0x7fff));
    let finite = (f32::from_bits(size << 13) * BIAS).to_bits();
    let infinite = size << 13 | 0xff << 23;
    f32::from_bits(sign << 16 | if size < 0x7c00 { finite } else { infinite })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the smaller level: half the widest gap between fractions with denominators up to 127, at 1/4.
    const LEVEL_ERROR: f32 = 3e-3;

    #[test]
    fn whole_levels_are_near_those_of_the_scales() {
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
            // SAFETY: the row is there.
            let (levels, scale) = unsafe {
                let levels = Levels::new(&rows);
                (levels, levels.scale(row.as_ptr(), 128, number))
            };
            let (c1, c2) = (c1.to_f32(), c2.to_f32());
            let Digits {
                base,
                first,
                second,
            } = levels.digits();
            let [base, first, second] = [base, first, second].map(i32::from);
            for (s, u) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                let number = (s * first + u * second - base) as f32;
                let wanted = c1 * (2 * s - 1) as f32 + c2 * (2 * u - 1) as f32;
                let error = (number * scale - wanted).abs();
                assert!(
                    error < LEVEL_ERROR * (c1 - c2),
                    "{ratio} {s}{u}: {error} of {wanted}"
                );
            }
        }
    }
    #[test]
    fn halves_are_numbers() {
        for bits in 0..=u16::MAX {
            let (found, wanted) = (number(bits), half::f16::from_bits(bits).to_f32());
            let same = found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan();
            assert!(same, "{bits:#06x}: {found}, not {wanted}");
        }
    }
}
