//! Up to some dozens of columns of formats in blocks: a row in every lane.
//!
//! Blocks of 16 rows are turned as they are read, and meet every column before the next ones come. A dot product then adds
//! up a whole block of each row: a column costs ten operations for 512 products, where it costs 16 in [`super::quads`].
//! Both add up the same numbers in the same order, so bits do not depend on how many columns there are.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::codes::Blocks;
use super::sixteen::{Even, LANES, Sixteen};
use crate::kernels::few::{Rest, rests};
use crate::kernels::format::with_blocks;
use crate::kernels::{RECORD_WEIGHTS, Record, Rows, prefetch};

/// Columns that share the reading of a block: their records stay in the first cache.
const GROUP: usize = 32;
/// Blocks of a record.
const BLOCKS: usize = 4;
/// Bytes of a line of the caches.
const LINE: usize = 64;

/// Products of 16 rows with each column of a group.
type Products = [[f32; LANES]; GROUP];

/// Products of rows `range` with `columns`: `out[column * range.len() + row - range.start]`.
///
/// # Safety
/// As [`crate::kernels::few::dot`]; the format is in blocks.
pub unsafe fn dot(rows: &Rows, range: Range<usize>, columns: &[*const Record], out: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe {
        with_blocks!(avx512, rows.format, F => blocks::<F>(rows, range, columns, out), ());
    }
}

unsafe fn blocks<F: Blocks>(
    rows: &Rows,
    range: Range<usize>,
    columns: &[*const Record],
    out: &mut [f32],
) {
    let n = range.len();
    // Rather than fewer than 16 rows, some once more; of a matrix with fewer, one in all lanes.
    let few = rows.n_rows < LANES;
    let mut first = range.start;
    while first < range.end {
        let (begin, stride, count) = if few {
            (first, 0, 1)
        } else {
            let begin = first.min(rows.n_rows - LANES);
            let count = (begin + LANES).min(range.end) - first;
            (begin, rows.stride, count)
        };
        let sixteen = Even::new(rows.row(begin), stride);
        for (g, group) in columns.chunks(GROUP).enumerate() {
            let mut products = [[0.0; LANES]; GROUP];
            // SAFETY: the caller's word.
            unsafe { whole_rows::<F>(sixteen, rows.width, group, &mut products) };
            for (c, products) in products.iter().enumerate().take(group.len()) {
                let to = (GROUP * g + c) * n + first - range.start;
                out[to..to + count].copy_from_slice(&products[first - begin..][..count]);
            }
        }
        first += count;
    }
}

/// Sets a group's products.
unsafe fn whole_rows<F: Blocks>(
    rows: Even,
    width: usize,
    columns: &[*const Record],
    products: &mut Products,
) {
    let n_records = width / RECORD_WEIGHTS;
    let all = std::array::from_fn(|r| rows.row(r));
    // SAFETY: the caller's word; what is left of rows is copied to where a whole record can be read.
    unsafe {
        records::<F>(rows, n_records, columns, products);
        let rests: Option<[Rest; LANES]> = rests(&all, width, F::BYTES);
        if let Some(rests) = rests {
            let rows = Even::new(rests.as_ptr().cast(), size_of::<Rest>());
            let mut last = [std::ptr::null(); GROUP];
            for (last, column) in last.iter_mut().zip(columns) {
                *last = column.wrapping_add(n_records);
            }
            let mut rest = [[0.0; LANES]; GROUP];
            records::<F>(rows, 1, &last[..columns.len()], &mut rest);
            for (product, rest) in products.iter_mut().flatten().zip(rest.iter().flatten()) {
                *product += rest;
            }
        }
    }
}

unsafe fn records<F: Blocks>(
    rows: Even,
    n_records: usize,
    columns: &[*const Record],
    products: &mut Products,
) {
    macro_rules! by_number {
        ($($n:literal)*) => {
            match columns.len() {
                $($n => {
                    let columns = std::array::from_fn(|c| columns[c]);
                    // SAFETY: the caller's word.
                    unsafe { few::<F, $n>(rows, n_records, &columns, products) };
                })*
                _ => {
                    // SAFETY: the caller's word.
                    unsafe { many::<F>(rows, n_records, columns, products) };
                }
            }
        };
    }
    by_number!(1 2 3 4 5 6 7 8);
}

/// Asks for the next 16 rows while these are in use, line by line in the order of memory.
struct Ahead {
    next: *const u8,
    lines: usize,
}

impl Ahead {
    /// Of rows, of which a record is so many bytes.
    fn new(rows: Even, bytes: usize) -> Self {
        Self {
            next: rows.row(0).wrapping_add(LANES * rows.stride),
            lines: (LANES * bytes).div_ceil(LINE),
        }
    }

    /// What lies a record further on.
    #[inline(always)]
    fn go_on(&mut self) {
        for _ in 0..self.lines {
            prefetch::far(self.next);
            self.next = self.next.wrapping_add(LINE);
        }
    }
}

/// Hides from LLVM that rows are spaced alike everywhere: it would keep all their places on the stack, and read what
/// comes next long before there is a register for it.
#[inline(always)]
fn forget(rows: &mut Even) {
    // SAFETY: no instruction.
    unsafe { asm!("/* {} */", inout(reg) rows.stride, options(nostack, preserves_flags)) };
}

/// A number of columns that is known, whose sums have registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn few<F: Blocks, const C: usize>(
    mut rows: Even,
    n_records: usize,
    columns: &[*const Record; C],
    products: &mut Products,
) {
    let mut ahead = Ahead::new(rows, BLOCKS * F::BYTES);
    let mut sums = [[_mm512_setzero_ps(); C]; BLOCKS];
    for k in 0..n_records {
        ahead.go_on();
        // SAFETY: the caller's word: record `k` of every row and column is there.
        let scales = unsafe { F::scales(rows) };
        // Not a loop, whose sums would go through memory.
        macro_rules! block {
            ($b:literal) => {
                forget(&mut rows);
                // SAFETY: as above.
                unsafe {
                    let weights = F::block(rows.at($b * F::BYTES));
                    add::<C>(&weights, scales[$b], columns, k, $b, &mut sums[$b]);
                }
            };
        }
        block!(0);
        block!(1);
        block!(2);
        block!(3);
        rows = rows.at(BLOCKS * F::BYTES);
    }
    for (c, products) in products.iter_mut().enumerate().take(C) {
        *products = total([0, 1, 2, 3].map(|b| sums[b][c]));
    }
}

/// Any number up to [`GROUP`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn many<F: Blocks>(
    mut rows: Even,
    n_records: usize,
    columns: &[*const Record],
    products: &mut Products,
) {
    let mut ahead = Ahead::new(rows, BLOCKS * F::BYTES);
    let mut sums = [[_mm512_setzero_ps(); GROUP]; BLOCKS];
    let (fours, rest) = columns.as_chunks::<4>();
    for k in 0..n_records {
        ahead.go_on();
        // SAFETY: the caller's word: record `k` of every row and column is there.
        let scales = unsafe { F::scales(rows) };
        for b in 0..BLOCKS {
            forget(&mut rows);
            let (of_fours, of_rest) = sums[b].split_at_mut(4 * fours.len());
            // SAFETY: as above.
            unsafe {
                let weights = F::block(rows.at(b * F::BYTES));
                for (x, sums) in fours.iter().zip(of_fours.as_chunks_mut().0) {
                    add::<4>(&weights, scales[b], x, k, b, sums);
                }
                for (x, sum) in rest.iter().zip(of_rest.as_chunks_mut().0) {
                    add::<1>(&weights, scales[b], &[*x], k, b, sum);
                }
            }
        }
        rows = rows.at(BLOCKS * F::BYTES);
    }
    for (c, products) in products.iter_mut().enumerate().take(columns.len()) {
        *products = total([0, 1, 2, 3].map(|b| sums[b][c]));
    }
}

/// Adds the products of block `b` of 16 rows with that of record `k` of each column.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn add<const C: usize>(
    weights: &[__m512i; 8],
    scales: __m512,
    columns: &[*const Record; C],
    k: usize,
    b: usize,
    sums: &mut [__m512; C],
) {
    for (x, sum) in columns.iter().zip(sums) {
        let x = x.wrapping_add(k);
        // A record has as many lines as blocks.
        prefetch::near(x.wrapping_add(1).cast::<u8>().wrapping_add(LINE * b));
        // SAFETY: the caller's word.
        let x = unsafe { &*x };
        let mut t = _mm512_set1_epi32(x.sums[b]);
        for (i, weights) in weights.iter().enumerate() {
            let step = i / 4 * 16 + 4 * b + i % 4;
            // SAFETY: a record has 32 times four numbers.
            let q = unsafe { x.q.as_ptr().cast::<i32>().add(step).read() };
            t = _mm512_dpbusd_epi32(t, *weights, _mm512_set1_epi32(q));
        }
        let scale = _mm512_mul_ps(scales, _mm512_set1_ps(x.scales[b]));
        *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(t), scale, *sum);
    }
}

/// What the sums of a record's four blocks add up to.
#[inline]
#[target_feature(enable = "avx512f")]
fn total([a, b, c, d]: [__m512; BLOCKS]) -> [f32; LANES] {
    let mut total = [0.0; LANES];
    let sum = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
    // SAFETY: 16 numbers.
    unsafe { _mm512_storeu_ps(total.as_mut_ptr(), sum) };
    total
}
