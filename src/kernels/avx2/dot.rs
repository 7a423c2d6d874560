//! Few columns with 256 bits.

use std::arch::x86_64::*;
use std::ops::Range;

use super::codes::{Codes, fours, number};
use super::groups::grouped;
use super::k_quants::{FourOrFive, Six, Three, Two};
use super::planes::{bit, bits, factors};
use crate::kernels::few::{self, Few, Strip};
use crate::kernels::format::with_blocks;
use crate::kernels::levels::Levels;
use crate::kernels::{Format, RECORD_WEIGHTS, Record, Rows, Scaling};

/// [`few::dot`] of this machine.
///
/// # Safety
/// As there.
pub unsafe fn dot(rows: &Rows, range: Range<usize>, columns: &[*const Record], out: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe { few::dot::<Narrow>(rows, range, columns, out) }
}

struct Narrow;

impl Few for Narrow {
    const STREAMS: usize = 2;

    unsafe fn blocks<const R: usize, const C: usize>(
        format: Format,
        strip: &Strip<R>,
        columns: &[*const Record; C],
    ) -> [[f32; R]; C] {
        // SAFETY: the caller's word; K-quants have two records to a block.
        unsafe {
            match format {
                Format::Q2K => grouped::<Two, R, C>(strip, columns),
                Format::Q3K => grouped::<Three, R, C>(strip, columns),
                Format::Q6K => grouped::<Six, R, C>(strip, columns),
                Format::Q4K => coded::<FourOrFive<false>, R, C>(strip, columns),
                Format::Q5K => coded::<FourOrFive<true>, R, C>(strip, columns),
                _ => {
                    with_blocks!(avx2, format, F => coded::<F, R, C>(strip, columns), [[0.0; R]; C])
                }
            }
        }
    }

    unsafe fn planes<const R: usize, const C: usize>(
        levels: &Levels,
        strip: &Strip<R>,
        columns: &[*const Record; C],
    ) -> [[f32; R]; C] {
        // SAFETY: the caller's word.
        unsafe { planes(levels, strip, columns) }
    }
}

/// 32 bytes of a record.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn load<T, const N: usize>(numbers: &[T; N], at: usize) -> __m256i {
    assert!(at + 32 <= size_of::<[T; N]>());
    // SAFETY: they are inside the numbers.
    unsafe { _mm256_loadu_si256(numbers.as_ptr().cast::<u8>().add(at).cast()) }
}

/// `sum` and the products of two blocks with blocks `2 * pair ..` of a record; `scales` are weights' times activations'.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add<F: Codes>(
    sum: __m256,
    (low, high): (__m256i, __m256i),
    x: &Record,
    pair: usize,
    scales: __m256,
) -> __m256 {
    let spread = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    let spread = _mm256_add_epi32(spread, _mm256_set1_epi32(2 * pair as i32));
    let by_block = _mm256_permutevar8x32_ps(scales, spread);
    let (x_low, x_high) = (load(&x.q, 32 * pair), load(&x.q, 64 + 32 * pair));
    let sums = if let Some(base) = F::BASE {
        let low = _mm256_maddubs_epi16(low, x_low);
        let pairs = _mm256_add_epi16(low, _mm256_maddubs_epi16(high, x_high));
        let sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        if base == 0 {
            sums
        } else {
            // Of -128 times the activations, what the base takes.
            let shift = _mm_cvtsi32_si128((128 / i32::from(base)).ilog2() as i32);
            _mm256_add_epi32(sums, _mm256_sra_epi32(load(&x.init, 32 * pair), shift))
        }
    } else {
        _mm256_add_epi32(fours(low, x_low), fours(high, x_high))
    };
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), by_block, sum)
}

/// What weights' scales are multiplied with, in their order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales(x: &Record, scaling: Scaling) -> __m256 {
    // SAFETY: four numbers each.
    let (scales, totals) = unsafe {
        (
            _mm_loadu_ps(x.scales.as_ptr()),
            _mm_loadu_ps(x.totals.as_ptr()),
        )
    };
    match scaling {
        Scaling::Minimums => _mm256_set_m128(totals, scales),
        _ => _mm256_set_m128(scales, scales),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn coded<F: Codes, const R: usize, const C: usize>(
    strip: &Strip<R>,
    columns: &[*const Record; C],
) -> [[f32; R]; C] {
    // A copy: what is behind a pointer is read again after every prefetch.
    let strip = *strip;
    let mut sums = [[_mm256_setzero_ps(); C]; R];
    for unit in 0..strip.n_records / F::RECORDS {
        // SAFETY: the caller's word: all records of every row and column are there.
        unsafe {
            record::<F, 0, R, C>(&strip, unit, columns, &mut sums);
            if F::RECORDS == 2 {
                record::<F, 1, R, C>(&strip, unit, columns, &mut sums);
            }
        }
    }
    std::array::from_fn(|c| std::array::from_fn(|r| sum(sums[r][c])))
}

/// Record `I` of a unit: where it lies in one decides shifts and masks, which so are constants.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn record<F: Codes, const I: usize, const R: usize, const C: usize>(
    strip: &Strip<R>,
    unit: usize,
    columns: &[*const Record; C],
    sums: &mut [[__m256; C]; R],
) {
    let k = unit * F::RECORDS + I;
    // SAFETY: the caller's word: record `k` of every row and column is there.
    let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
    strip.ask(k, F::UNIT_BYTES / F::RECORDS);
    for (row, sums) in strip.rows.iter().zip(sums) {
        let row = row.wrapping_add(unit * F::UNIT_BYTES);
        // SAFETY: as above.
        let by_row = unsafe { F::scales(row, I) };
        let mut by = [by_row; C];
        for c in 0..C {
            by[c] = _mm256_mul_ps(by_row, scales(x[c], F::SCALING));
            if F::SCALING == Scaling::Minimums {
                let minimums = _mm256_blend_ps::<0xf0>(_mm256_setzero_ps(), by[c]);
                sums[c] = _mm256_add_ps(sums[c], minimums);
            }
        }
        for pair in 0..2 {
            // SAFETY: as above.
            let weights = unsafe { F::pair(row, 2 * I + pair) };
            for c in 0..C {
                sums[c] = add::<F>(sums[c], weights, x[c], pair, by[c]);
            }
        }
    }
}

/// Sums of the activations that meet set bits, in pairs: those of the first plane in the lower half.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn at_bits<const C: usize>(bits: __m256i, x: &[&Record; C]) -> [__m256i; C] {
    let mut sums = [_mm256_setzero_si256(); C];
    let mut add = |k: usize, bit: __m256i| {
        for (sum, x) in sums.iter_mut().zip(x) {
            // SAFETY: a record has eight times 16 numbers.
            let x = unsafe { _mm_load_si128(x.q.as_ptr().add(16 * k).cast()) };
            let pairs = _mm256_maddubs_epi16(bit, _mm256_broadcastsi128_si256(x));
            *sum = _mm256_add_epi16(*sum, pairs);
        }
    };
    add(0, bit::<0>(bits));
    add(1, bit::<1>(bits));
    add(2, bit::<2>(bits));
    add(3, bit::<3>(bits));
    add(4, bit::<4>(bits));
    add(5, bit::<5>(bits));
    add(6, bit::<6>(bits));
    add(7, bit::<7>(bits));
    sums
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn planes<const R: usize, const C: usize>(
    levels: &Levels,
    strip: &Strip<R>,
    columns: &[*const Record; C],
) -> [[f32; R]; C] {
    // A copy: what is behind a pointer is read again after every prefetch.
    let strip = *strip;
    const BLOCK: usize = 18;
    let mut sums = [[_mm256_setzero_ps(); C]; R];
    let factors = factors(levels.digits());
    let base = i32::from(levels.digits().base);
    for k in 0..strip.n_records {
        // SAFETY: the caller's word: record `k` of every column is there.
        let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
        // The lowest level, less its sign, times the sum of all: records keep -128 times that.
        let without = x.map(|x| base * (x.sums[0] >> 7));
        strip.ask(k, 2 * BLOCK);
        for (row, sums) in strip.rows.iter().zip(&mut sums) {
            let first = row.wrapping_add(BLOCK * k + 2);
            let second = first.wrapping_add(BLOCK * strip.n_records);
            // SAFETY: the caller's word: 16 bytes of bits in each block.
            let pairs = at_bits(unsafe { bits(first, second) }, &x);
            for c in 0..C {
                let fours = _mm256_madd_epi16(pairs[c], factors);
                let without = _mm256_zextsi128_si256(_mm_cvtsi32_si128(without[c]));
                let all = _mm256_cvtepi32_ps(_mm256_add_epi32(fours, without));
                sums[c] = _mm256_fmadd_ps(all, _mm256_set1_ps(x[c].scales[0]), sums[c]);
            }
        }
    }
    let mut out = [[0.0; R]; C];
    for r in 0..R {
        // SAFETY: the caller's word.
        let scale = unsafe {
            levels.scale(strip.rows[r], RECORD_WEIGHTS * strip.n_records, |h| {
                number(h)
            })
        };
        for c in 0..C {
            out[c][r] = sum(sums[r][c]) * scale;
        }
    }
    out
}

/// The sum of eight numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn sum(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}
