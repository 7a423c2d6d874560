//! Few columns with 512 bits.

use std::arch::x86_64::*;
use std::ops::Range;

use super::codes::{Codes, EightBit, FourBit, number};
use super::planes::Expand;
use crate::kernels::few::{self, Few, Strip};
use crate::kernels::levels::Levels;
use crate::kernels::{Format, RECORD_WEIGHTS, Record, Rows};

/// [`few::dot`] of this machine.
///
/// # Safety
/// As there.
pub unsafe fn dot(rows: &Rows, range: Range<usize>, columns: &[*const Record], out: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe { few::dot::<Wide>(rows, range, columns, out) }
}

struct Wide;

impl Few for Wide {
    unsafe fn blocks<const R: usize, const C: usize>(
        format: Format,
        strip: &Strip<R>,
        columns: &[*const Record; C],
    ) -> [[f32; R]; C] {
        // SAFETY: the caller's word.
        unsafe {
            match format {
                Format::Iq4Nl => coded::<FourBit<false>, R, C>(strip, columns),
                Format::Q4_0 => coded::<FourBit<true>, R, C>(strip, columns),
                Format::Q8_0 => coded::<EightBit, R, C>(strip, columns),
                Format::Planes => [[0.0; R]; C],
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

    /// The 16 sums of products of column `c` with weights plus 128.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    fn dot(&self, c: usize, low: __m512i, high: __m512i) -> __m512 {
        let t = _mm512_dpbusd_epi32(self.init[c], low, self.low[c]);
        _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(t, high, self.high[c]))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn coded<F: Codes, const R: usize, const C: usize>(
    strip: &Strip<R>,
    columns: &[*const Record; C],
) -> [[f32; R]; C] {
    // A copy: what is behind a pointer is read again after every prefetch.
    let strip = *strip;
    let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    for k in 0..strip.n_records {
        // SAFETY: the caller's word: record `k` of every row and column is there.
        let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
        let loaded = Loaded::new(&x);
        strip.ask(k, F::BYTES);
        for (row, sums) in strip.rows.iter().zip(&mut sums) {
            let row = row.wrapping_add(k * F::BYTES);
            // SAFETY: as above.
            let (low, high, scales) = unsafe { F::load(row) };
            for c in 0..C {
                // SAFETY: four numbers.
                let scale = _mm_mul_ps(scales, unsafe { _mm_loadu_ps(x[c].scales.as_ptr()) });
                let scale = _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(scale));
                sums[c] = _mm512_fmadd_ps(loaded.dot(c, low, high), scale, sums[c]);
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
