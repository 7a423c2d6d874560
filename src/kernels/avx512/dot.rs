//! Few columns: every weight is read once.
//!
//! Rows are taken in pairs from the two halves of the range: two streams in one page would confuse the prefetcher of
//! the machines measured, which halves the speed. Each row has sums of its own, so pairing changes no bit.

use std::arch::x86_64::*;
use std::ops::Range;

use super::codes::{Codes, EightBit, FourBit};
use super::planes::{Expand, Levels};
use crate::kernels::{Format, RECORD_WEIGHTS, Record, Rows};

/// How far ahead of the weights in use the next ones are asked for.
const AHEAD: usize = 384;

/// Columns that share the unpacking of a row: their sums and a record of each fit the registers.
const GROUP: usize = 4;

/// Products of rows `range` with `columns`: `put(column, row, value)`.
///
/// # Safety
/// The rows are there, each column has a row's records, and the CPU has what [`super::available`] asks for.
pub unsafe fn dot(
    rows: &Rows,
    range: Range<usize>,
    columns: &[*const Record],
    put: &mut impl FnMut(usize, usize, f32),
) {
    let levels = match rows.format {
        // SAFETY: the caller's word.
        Format::Planes => Some(unsafe { Levels::new(rows) }),
        _ => None,
    };
    let half = range.len() / 2;
    for i in range.start..range.start + half {
        let pair = [rows.row(i), rows.row(i + half)];
        for (g, group) in columns.chunks(GROUP).enumerate() {
            let put = |c: usize, r: usize, value| put(GROUP * g + c, i + r * half, value);
            // SAFETY: the caller's word.
            unsafe { by_columns(rows, levels.as_ref(), &pair, group, put) };
        }
    }
    if range.len() % 2 == 1 {
        let last = range.end - 1;
        for (g, group) in columns.chunks(GROUP).enumerate() {
            let put = |c: usize, _, value| put(GROUP * g + c, last, value);
            // SAFETY: as above.
            unsafe { by_columns(rows, levels.as_ref(), &[rows.row(last)], group, put) };
        }
    }
}

unsafe fn by_columns<const R: usize>(
    of: &Rows,
    levels: Option<&Levels>,
    rows: &[*const u8; R],
    columns: &[*const Record],
    put: impl FnMut(usize, usize, f32),
) {
    // SAFETY: the caller's word.
    unsafe {
        match *columns {
            [a] => by_format(of, levels, rows, [a], put),
            [a, b] => by_format(of, levels, rows, [a, b], put),
            [a, b, c] => by_format(of, levels, rows, [a, b, c], put),
            [a, b, c, d] => by_format(of, levels, rows, [a, b, c, d], put),
            _ => {}
        }
    }
}

unsafe fn by_format<const R: usize, const C: usize>(
    of: &Rows,
    levels: Option<&Levels>,
    rows: &[*const u8; R],
    columns: [*const Record; C],
    mut put: impl FnMut(usize, usize, f32),
) {
    let mut out = [[0.0; 2]; C];
    // SAFETY: the caller's word.
    unsafe {
        match levels {
            Some(levels) => planes(levels, rows, of.width, &columns, &mut out),
            None => blocks(of.format, rows, of.width, &columns, &mut out),
        }
    }
    for (c, out) in out.iter().enumerate() {
        for (r, value) in out[..R].iter().enumerate() {
            put(c, r, *value);
        }
    }
}

unsafe fn blocks<const R: usize, const C: usize>(
    format: Format,
    rows: &[*const u8; R],
    width: usize,
    columns: &[*const Record; C],
    out: &mut [[f32; 2]; C],
) {
    // SAFETY: the caller's word.
    unsafe {
        match format {
            Format::Iq4Nl => coded::<FourBit<false>, R, C>(rows, width, columns, out),
            Format::Q4_0 => coded::<FourBit<true>, R, C>(rows, width, columns, out),
            Format::Q8_0 => coded::<EightBit, R, C>(rows, width, columns, out),
            Format::Planes => {}
        }
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
    rows: &[*const u8; R],
    width: usize,
    columns: &[*const Record; C],
    out: &mut [[f32; 2]; C],
) {
    let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    let mut add = |k: usize, rows: [*const u8; R]| {
        // SAFETY: the caller's word: record `k` of every row and column is there.
        let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
        let loaded = Loaded::new(&x);
        for r in 0..R {
            // SAFETY: as above; a prefetch never faults.
            let (low, high, scales) = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(rows[r].wrapping_add(AHEAD).cast());
                F::load(rows[r])
            };
            for c in 0..C {
                // SAFETY: four numbers.
                let scale = _mm_mul_ps(scales, unsafe { _mm_loadu_ps(x[c].scales.as_ptr()) });
                let scale = _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(scale));
                sums[r][c] = _mm512_fmadd_ps(loaded.dot(c, low, high), scale, sums[r][c]);
            }
        }
    };
    let whole = width / RECORD_WEIGHTS;
    for k in 0..whole {
        add(
            k,
            std::array::from_fn(|r| rows[r].wrapping_add(k * F::BYTES)),
        );
    }
    let left = width % RECORD_WEIGHTS / 32 * F::BLOCK_BYTES;
    if left > 0 {
        // The rest of a record may lie past the end of the tensor.
        let mut rest = [[0u8; 4 * 34]; R];
        for (row, rest) in rows.iter().zip(&mut rest) {
            let from = row.wrapping_add(whole * F::BYTES);
            // SAFETY: the caller's word: so much is left of each row.
            unsafe { rest.as_mut_ptr().copy_from_nonoverlapping(from, left) };
        }
        add(whole, std::array::from_fn(|r| rest[r].as_ptr()));
    }
    for r in 0..R {
        for c in 0..C {
            out[c][r] = _mm512_reduce_add_ps(sums[r][c]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn planes<const R: usize, const C: usize>(
    levels: &Levels,
    rows: &[*const u8; R],
    width: usize,
    columns: &[*const Record; C],
    out: &mut [[f32; 2]; C],
) {
    const BLOCK: usize = 18;
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    let expand = Expand::new(levels);
    let n_records = width / RECORD_WEIGHTS;
    for k in 0..n_records {
        // SAFETY: the caller's word: record `k` of every column is there.
        let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
        let loaded = Loaded::new(&x);
        for r in 0..R {
            let first = rows[r].wrapping_add(BLOCK * k + 2);
            let second = first.wrapping_add(BLOCK * n_records);
            // SAFETY: the caller's word: 16 bytes of bits in each block. A prefetch never faults.
            let (low, high) = unsafe {
                if k % 2 == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(AHEAD).cast());
                    _mm_prefetch::<_MM_HINT_T0>(second.wrapping_add(AHEAD).cast());
                }
                let low = expand.weights(first, second);
                (
                    low,
                    expand.weights(first.wrapping_add(8), second.wrapping_add(8)),
                )
            };
            for c in 0..C {
                let scale = _mm512_set1_ps(x[c].scales[0]);
                sums[r][c] = _mm512_fmadd_ps(loaded.dot(c, low, high), scale, sums[r][c]);
            }
        }
    }
    for r in 0..R {
        // SAFETY: the caller's word.
        let scale = unsafe { levels.scale(rows[r], width) };
        for c in 0..C {
            out[c][r] = _mm512_reduce_add_ps(sums[r][c]) * scale;
        }
    }
}
