//! Few columns: every weight is read once.
//!
//! How rows are walked decides the speed, and no bit: each row has sums of its own.
//! - **One column** is bound by memory. Two rows at a time, one from either half of the range, each asking for its own
//!   bytes a little ahead: two streams that the prefetcher of the machines measured follows best.
//! - **Several columns** compute long enough for it to lose sight. Strips of four neighbouring rows ask for the next strip,
//!   line by line in the order of memory, into the second cache: 2 columns of Q8_0 cost 1.3 times one, where two streams
//!   cost 1.5. Planes do so for one column already.

use std::arch::x86_64::*;
use std::ops::Range;

use super::codes::{Codes, EightBit, FourBit};
use super::planes::{Expand, Levels};
use crate::kernels::{Format, RECORD_WEIGHTS, Record, Rows};

/// How far ahead of the weights in use the next ones are asked for, where rows ask for their own.
const AHEAD: usize = 384;

/// Rows of a strip.
const STRIP: usize = 4;

/// Bytes of a line of the caches.
const LINE: usize = 64;

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
    // SAFETY: the caller's word.
    unsafe {
        match columns {
            [column] if levels.is_none() => streams(rows, range, *column, put),
            _ => strips(rows, levels.as_ref(), range, columns, put),
        }
    }
}

/// One column: rows in pairs from the two halves of the range.
unsafe fn streams(
    rows: &Rows,
    range: Range<usize>,
    column: *const Record,
    put: &mut impl FnMut(usize, usize, f32),
) {
    let half = range.len() / 2;
    // SAFETY: the caller's word, for all of it.
    unsafe {
        for i in range.start..range.start + half {
            let pair = [rows.row(i), rows.row(i + half)];
            by_format(rows, None, &pair, Next::Own, [column], |_, r, value| {
                put(0, i + r * half, value);
            });
        }
        if range.len() % 2 == 1 {
            let last = range.end - 1;
            let row = [rows.row(last)];
            by_format(rows, None, &row, Next::Own, [column], |_, _, value| {
                put(0, last, value);
            });
        }
    }
}

/// Strips of neighbouring rows, one after the other.
unsafe fn strips(
    rows: &Rows,
    levels: Option<&Levels>,
    range: Range<usize>,
    columns: &[*const Record],
    put: &mut impl FnMut(usize, usize, f32),
) {
    let next = if columns.len() == 1 {
        Next::StripNear
    } else {
        Next::Strip
    };
    let mut first = range.start;
    while first < range.end {
        let whole = range.end - first >= STRIP;
        for (g, group) in columns.chunks(GROUP).enumerate() {
            let put = |c: usize, r: usize, value| put(GROUP * g + c, first + r, value);
            // SAFETY: the caller's word.
            unsafe {
                if whole {
                    let strip: [_; STRIP] = std::array::from_fn(|r| rows.row(first + r));
                    by_columns(rows, levels, &strip, next, group, put);
                } else {
                    by_columns(rows, levels, &[rows.row(first)], next, group, put);
                }
            }
        }
        first += if whole { STRIP } else { 1 };
    }
}

/// What is asked of memory while rows are computed.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// Every row's own bytes, a little ahead.
    Own,
    /// The next strip, to the second cache.
    Strip,
    /// The next strip, to the first cache.
    StripNear,
}

impl Next {
    /// Asks for what comes next while record `k` of each row is in use; a record takes `BYTES` in a row.
    #[inline(always)]
    fn ask<const R: usize, const BYTES: usize>(
        self,
        rows: &[*const u8; R],
        stride: usize,
        k: usize,
    ) {
        // SAFETY: a prefetch never faults, and the CPU has what [`super::available`] asks for.
        unsafe {
            if let Self::Own = self {
                for row in rows {
                    let p = row.wrapping_add(k * BYTES + AHEAD);
                    for line in 0..BYTES.div_ceil(LINE + 8) {
                        _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(line * LINE).cast());
                    }
                }
                return;
            }
            let p = rows[0].wrapping_add(R * stride + k * R * BYTES);
            for line in 0..(R * BYTES).div_ceil(LINE) {
                let p = p.wrapping_add(line * LINE).cast();
                match self {
                    Self::StripNear => _mm_prefetch::<_MM_HINT_T0>(p),
                    _ => _mm_prefetch::<_MM_HINT_T1>(p),
                }
            }
        }
    }
}

unsafe fn by_columns<const R: usize>(
    of: &Rows,
    levels: Option<&Levels>,
    rows: &[*const u8; R],
    next: Next,
    columns: &[*const Record],
    put: impl FnMut(usize, usize, f32),
) {
    // SAFETY: the caller's word.
    unsafe {
        match *columns {
            [a] => by_format(of, levels, rows, next, [a], put),
            [a, b] => by_format(of, levels, rows, next, [a, b], put),
            [a, b, c] => by_format(of, levels, rows, next, [a, b, c], put),
            [a, b, c, d] => by_format(of, levels, rows, next, [a, b, c, d], put),
            _ => {}
        }
    }
}

unsafe fn by_format<const R: usize, const C: usize>(
    of: &Rows,
    levels: Option<&Levels>,
    rows: &[*const u8; R],
    next: Next,
    columns: [*const Record; C],
    mut put: impl FnMut(usize, usize, f32),
) {
    let mut out = [[0.0; STRIP]; C];
    // SAFETY: the caller's word.
    unsafe {
        match levels {
            Some(levels) => planes(levels, of, rows, next, &columns, &mut out),
            None => blocks(of, rows, next, &columns, &mut out),
        }
    }
    for (c, out) in out.iter().enumerate() {
        for (r, value) in out[..R].iter().enumerate() {
            put(c, r, *value);
        }
    }
}

unsafe fn blocks<const R: usize, const C: usize>(
    of: &Rows,
    rows: &[*const u8; R],
    next: Next,
    columns: &[*const Record; C],
    out: &mut [[f32; STRIP]; C],
) {
    // SAFETY: the caller's word.
    unsafe {
        match of.format {
            Format::Iq4Nl => coded::<FourBit<false>, 72, R, C>(of, rows, next, columns, out),
            Format::Q4_0 => coded::<FourBit<true>, 72, R, C>(of, rows, next, columns, out),
            Format::Q8_0 => coded::<EightBit, 136, R, C>(of, rows, next, columns, out),
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
unsafe fn coded<F: Codes, const BYTES: usize, const R: usize, const C: usize>(
    of: &Rows,
    rows: &[*const u8; R],
    next: Next,
    columns: &[*const Record; C],
    out: &mut [[f32; STRIP]; C],
) {
    const { assert!(F::BYTES == BYTES) };
    let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let (first, width) = (rows, of.width);
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    let mut add = |k: usize, rows: [*const u8; R]| {
        // SAFETY: the caller's word: record `k` of every row and column is there.
        let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
        let loaded = Loaded::new(&x);
        next.ask::<R, BYTES>(first, of.stride, k);
        for r in 0..R {
            // SAFETY: as above.
            let (low, high, scales) = unsafe { F::load(rows[r]) };
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
    of: &Rows,
    rows: &[*const u8; R],
    next: Next,
    columns: &[*const Record; C],
    out: &mut [[f32; STRIP]; C],
) {
    const BLOCK: usize = 18;
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    let expand = Expand::new(levels);
    let n_records = of.width / RECORD_WEIGHTS;
    for k in 0..n_records {
        // SAFETY: the caller's word: record `k` of every column is there.
        let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
        let loaded = Loaded::new(&x);
        next.ask::<R, { 2 * BLOCK }>(rows, of.stride, k);
        for r in 0..R {
            let first = rows[r].wrapping_add(BLOCK * k + 2);
            let second = first.wrapping_add(BLOCK * n_records);
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
                sums[r][c] = _mm512_fmadd_ps(loaded.dot(c, low, high), scale, sums[r][c]);
            }
        }
    }
    for r in 0..R {
        // SAFETY: the caller's word.
        let scale = unsafe { levels.scale(rows[r], of.width) };
        for c in 0..C {
            out[c][r] = _mm512_reduce_add_ps(sums[r][c]) * scale;
        }
    }
}
