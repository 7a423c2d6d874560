//! Few columns with 512 bits.

use std::arch::x86_64::*;
use std::ops::Range;

use super::planes::Expand;
use super::units::{Codes, RECORDS, number};
use super::{lanes, quads};
use crate::kernels::few::{self, Few, Strip};
use crate::kernels::format::{with_blocks, with_k_quants};
use crate::kernels::levels::Levels;
use crate::kernels::{Format, RECORD_WEIGHTS, Record, Rows, Scaling};

/// [`few::dot`] of this machine.
///
/// # Safety
/// As there.
pub unsafe fn dot(rows: &Rows, range: Range<usize>, columns: &[*const Record], out: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe {
        match rows.format {
            Format::Iq4Nl | Format::Q4_0 if columns.len() > quads::COLUMNS_OF_4_BITS => {
                lanes::dot(rows, range, columns, out);
            }
            Format::Q8_0 if columns.len() > quads::COLUMNS_OF_8_BITS => {
                lanes::dot(rows, range, columns, out);
            }
            _ => few::dot::<Wide>(rows, range, columns, out),
        }
    }
}

struct Wide;

impl Few for Wide {
    const STREAMS: usize = 4;

    unsafe fn blocks<const R: usize, const C: usize>(
        format: Format,
        strip: &Strip<R>,
        columns: &[*const Record; C],
    ) -> [[f32; R]; C] {
        // SAFETY: the caller's word.
        unsafe {
            with_blocks!(avx512, format, F => quads::multiply::<F, R, C>(strip, columns),
                with_k_quants!(avx512, format, F => {
                    if F::ONE_SCALE {
                        units::<F, R, C>(strip, columns)
                    } else {
                        coded::<F, R, C>(strip, columns)
                    }
                }, [[0.0; R]; C]))
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

/// A record of each column, in registers.
struct Loaded<const C: usize> {
    low: [__m512i; C],
    high: [__m512i; C],
    init: [__m512i; C],
}

impl<const C: usize> Loaded<C> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    fn new(x: &[&Record; C]) -> Self {
        // SAFETY: a record has 128 bytes of numbers and 64 of sums, in whole registers.
        let load = |p: *const i8| unsafe { _mm512_load_si512(p.cast()) };
        Self {
            low: std::array::from_fn(|c| load(x[c].q.as_ptr())),
            high: std::array::from_fn(|c| load(x[c].q.as_ptr().wrapping_add(64))),
            init: std::array::from_fn(|c| load(x[c].init.as_ptr().cast())),
        }
    }

    /// What of `init` is for the low half of column `c`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    fn low_init(&self, c: usize) -> __m512i {
        let zero = _mm512_setzero_si512();
        let sums = _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(-128), self.low[c]);
        _mm512_sub_epi32(zero, sums)
    }

    /// The 16 sums of products of column `c` with weights plus 128.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    fn dot(&self, c: usize, low: __m512i, high: __m512i) -> __m512 {
        let t = _mm512_dpbusd_epi32(self.init[c], low, self.low[c]);
        _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(t, high, self.high[c]))
    }

    /// The same of each half.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    fn halves(&self, c: usize, low_init: __m512i, low: __m512i, high: __m512i) -> [__m512; 2] {
        let high_init = _mm512_sub_epi32(self.init[c], low_init);
        let low = _mm512_dpbusd_epi32(low_init, low, self.low[c]);
        let high = _mm512_dpbusd_epi32(high_init, high, self.high[c]);
        [_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high)]
    }
}

/// What the halves of blocks of two records add up to, less their sign.
///
/// # Safety
/// Both are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn half_totals(x: *const Record) -> __m512 {
    let each = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    // SAFETY: the caller's word; eight numbers, and four.
    let totals = |i: usize| unsafe {
        let x = x.add(i);
        let sums = _mm_loadu_si128((&raw const (*x).half_sums).cast());
        let scales = _mm256_castps128_ps256(_mm_loadu_ps((&raw const (*x).scales).cast()));
        let scales = _mm256_permutexvar_ps(each, scales);
        _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(sums)), scales)
    };
    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(totals(0)), totals(1))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn coded<F: Codes, const R: usize, const C: usize>(
    strip: &Strip<R>,
    columns: &[*const Record; C],
) -> [[f32; R]; C] {
    // A copy: what is behind a pointer is read again after every prefetch.
    let strip = *strip;
    let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let spread_second = _mm512_add_epi32(spread, _mm512_set1_epi32(4));
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    // Four lanes per column, one per block.
    let mut minimums = [_mm512_setzero_ps(); R];
    for unit in 0..strip.n_records / RECORDS {
        for i in 0..RECORDS {
            let k = RECORDS * unit + i;
            // SAFETY: the caller's word: record `k` of every row and column is there.
            let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
            let loaded = Loaded::new(&x);
            strip.ask(k, F::UNIT_BYTES / RECORDS);
            let mut totals = _mm512_setzero_ps();
            let mut low_init = [_mm512_setzero_si512(); C];
            for c in 0..C {
                if F::SCALING == Scaling::Minimums {
                    // SAFETY: four numbers.
                    let four = unsafe { _mm_loadu_ps(x[c].totals.as_ptr()) };
                    totals = _mm512_mask_broadcast_f32x4(totals, 0xf << (4 * c), four);
                }
                if F::SCALING == Scaling::Halves {
                    low_init[c] = loaded.low_init(c);
                }
            }
            for r in 0..R {
                let row = strip.rows[r].wrapping_add(unit * F::UNIT_BYTES);
                // SAFETY: as above.
                let ((low, high), scales) = unsafe { (F::codes(row, i), F::scales(row, i)) };
                if F::SCALING == Scaling::Minimums {
                    let four = _mm512_broadcast_f32x4(_mm256_extractf128_ps::<1>(scales));
                    minimums[r] = _mm512_fmadd_ps(four, totals, minimums[r]);
                }
                for c in 0..C {
                    // SAFETY: four numbers.
                    let by_x = unsafe { _mm_loadu_ps(x[c].scales.as_ptr()) };
                    if F::SCALING == Scaling::Halves {
                        let scale = _mm256_mul_ps(scales, _mm256_set_m128(by_x, by_x));
                        let scale = _mm512_castps256_ps512(scale);
                        let [low, high] = loaded.halves(c, low_init[c], low, high);
                        let by_block = _mm512_permutexvar_ps(spread, scale);
                        sums[r][c] = _mm512_fmadd_ps(low, by_block, sums[r][c]);
                        let by_block = _mm512_permutexvar_ps(spread_second, scale);
                        sums[r][c] = _mm512_fmadd_ps(high, by_block, sums[r][c]);
                    } else {
                        let scale = _mm_mul_ps(_mm256_castps256_ps128(scales), by_x);
                        let scale = _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(scale));
                        sums[r][c] = _mm512_fmadd_ps(loaded.dot(c, low, high), scale, sums[r][c]);
                    }
                }
            }
        }
    }
    let mut out = [[0.0; R]; C];
    for r in 0..R {
        for c in 0..C {
            out[c][r] = _mm512_reduce_add_ps(sums[r][c]);
            if F::SCALING == Scaling::Minimums {
                out[c][r] += _mm512_mask_reduce_add_ps(0xf << (4 * c), minimums[r]);
            }
        }
    }
    out
}

/// As [`coded`], for units of two records with one scale.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn units<F: Codes, const R: usize, const C: usize>(
    strip: &Strip<R>,
    columns: &[*const Record; C],
) -> [[f32; R]; C] {
    // A copy: what is behind a pointer is read again after every prefetch.
    let strip = *strip;
    let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    for unit in 0..strip.n_records / 2 {
        strip.ask(2 * unit, F::UNIT_BYTES / 2);
        strip.ask(2 * unit + 1, F::UNIT_BYTES / 2);
        let mut totals = [_mm512_setzero_ps(); C];
        let mut by_x = [[_mm512_setzero_ps(); C]; 2];
        for c in 0..C {
            // SAFETY: the caller's word: both records of every column are there; four numbers.
            unsafe {
                let x = columns[c].add(2 * unit);
                for (i, by_x) in by_x.iter_mut().enumerate() {
                    let four = _mm_loadu_ps((&raw const (*x.add(i)).scales).cast());
                    by_x[c] = _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(four));
                }
                if F::SCALING == Scaling::HalfMinimums {
                    totals[c] = half_totals(x);
                }
            }
        }
        for (row, sums) in strip.rows.iter().zip(&mut sums) {
            let row = row.wrapping_add(unit * F::UNIT_BYTES);
            let mut parts = [_mm512_setzero_ps(); C];
            for (i, by_x) in by_x.iter().enumerate() {
                // SAFETY: the caller's word: a unit of every row and its records of every column are there.
                unsafe {
                    let (low, high) = F::codes(row, i);
                    for c in 0..C {
                        let x = columns[c].add(2 * unit + i).cast::<i8>();
                        let load = |part: usize| _mm512_load_si512(x.add(64 * part).cast());
                        let t = _mm512_dpbusd_epi32(load(2), low, load(0));
                        let t = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(t, high, load(1)));
                        parts[c] = _mm512_fmadd_ps(t, by_x[c], parts[c]);
                    }
                }
            }
            // SAFETY: as above.
            let (scale, minimums) = unsafe { (F::scales(row, 0), F::half_minimums(row)) };
            let scale = _mm512_broadcastss_ps(_mm256_castps256_ps128(scale));
            for c in 0..C {
                sums[c] = _mm512_fmadd_ps(parts[c], scale, sums[c]);
                if F::SCALING == Scaling::HalfMinimums {
                    sums[c] = _mm512_fmadd_ps(minimums, totals[c], sums[c]);
                }
            }
        }
    }
    let mut out = [[0.0; R]; C];
    for r in 0..R {
        for c in 0..C {
            out[c][r] = _mm512_reduce_add_ps(sums[r][c]);
        }
    }
    out
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn planes<const R: usize, const C: usize>(
    levels: &Levels,
    strip: &Strip<R>,
    columns: &[*const Record; C],
) -> [[f32; R]; C] {
    // A copy: what is behind a pointer is read again after every prefetch.
    let strip = *strip;
    const BLOCK: usize = 18;
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    let expand = Expand::new(levels);
    for k in 0..strip.n_records {
        // SAFETY: the caller's word: record `k` of every column is there.
        let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
        let loaded = Loaded::new(&x);
        strip.ask(k, 2 * BLOCK);
        for (row, sums) in strip.rows.iter().zip(&mut sums) {
            let first = row.wrapping_add(BLOCK * k + 2);
            let second = first.wrapping_add(BLOCK * strip.n_records);
            // SAFETY: the caller's word: 16 bytes of bits in each block.
            let (low, high) = unsafe {
                let low = expand.weights(first, second);
                (
                    low,
                    expand.weights(first.wrapping_add(8), second.wrapping_add(8)),
                )
            };
            for c in 0..C {
                let scale = _mm512_set1_ps(x[c].scales[0]);
                sums[c] = _mm512_fmadd_ps(loaded.dot(c, low, high), scale, sums[c]);
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
            out[c][r] = _mm512_reduce_add_ps(sums[r][c]) * scale;
        }
    }
    out
}
