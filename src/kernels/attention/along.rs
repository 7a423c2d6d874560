//! Few rows: a register holds neighbouring numbers of one key or value, which is read as it is stored.
//!
//! A row's scores and sums are its own, whatever rows are computed beside it.

use std::ops::Range;

use super::sums::weigh;
use super::table::{Table, Weights};
use super::vector::{Element, F32, Vector, Work, exp};
use super::{Attention, Block, CHUNK, Chunk, Room};

/// Keys whose sums are totalled together.
const KEYS: usize = 4;

/// `queries[row][column]`, times the scale; columns that fill 16 are zero.
///
/// # Safety
/// As [`super::Kernel::load_queries`].
pub(super) unsafe fn load_queries<V: Vector>(a: &Attention, block: &Block, to: *mut f32) {
    // SAFETY: the caller's word.
    unsafe { V::run::<F32, _>(Load { a, block, to }) }
}

struct Load<'a> {
    a: &'a Attention,
    block: &'a Block,
    to: *mut f32,
}

impl Work for Load<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector, E: Element>(self) {
        let a = self.a;
        let width = a.q.width.next_multiple_of(16);
        for row in 0..self.block.n {
            let (token, head) = a.place(self.block, row);
            let from = a.q.at(token, head, self.block.seq);
            for column in (0..width).step_by(V::LANES) {
                let there = a.q.width.saturating_sub(column);
                // SAFETY: the caller's word; columns that are not there are not read.
                unsafe {
                    let q = V::load_some::<F32>(from.wrapping_add(column * F32::BYTES), there);
                    let q = q.mul(V::splat(a.scale));
                    q.store(self.to.add(row * width + column));
                }
            }
        }
    }
}

/// What the rows of some blocks get from a chunk.
///
/// # Safety
/// As [`super::Kernel::chunk`].
pub(super) unsafe fn chunk<V: Vector, E: Element>(c: &Chunk, room: &mut Room, states: &mut [f32]) {
    let (a, n_lanes) = (c.a, c.a.lanes());
    let weights = Weights {
        data: room.weights.room(n_lanes * CHUNK),
        row: CHUNK,
        key: 1,
    };
    let (k, v) = (c.table(&a.k), c.table(&a.v));
    let states = states.chunks_exact_mut(a.state_len());
    for (i, ((block, sight), state)) in c.blocks.iter().zip(c.sights).zip(states).enumerate() {
        let range = &sight.range;
        if range.is_empty() {
            continue;
        }
        let (most, rest) = state.split_at_mut(n_lanes);
        let (sum, values) = rest.split_at_mut(n_lanes);
        // Lanes without a row, too.
        most.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        // SAFETY: the caller's word; there is room for all.
        unsafe {
            scores::<V, E>(&k, c.queries(i), block.n, range, &weights);
            weights.add_mask(c, block, sight);
            for row in 0..block.n {
                let weights = weights.at(row, 0);
                (most[row], sum[row]) = V::run::<F32, _>(SoftMax { range, weights });
            }
            weigh::<V, E, false>(c, block, (&v, &weights), range, values);
        }
    }
}

/// The scores of all rows: as many share what is decoded as the registers have room for.
unsafe fn scores<V: Vector, E: Element>(
    k: &Table,
    queries: *const f32,
    n_rows: usize,
    range: &Range<usize>,
    out: &Weights,
) {
    let mut row = 0;
    while row < n_rows {
        let scores = Scores {
            k,
            queries: queries.wrapping_add(row * k.width.next_multiple_of(16)),
            range,
            out: out.below(row),
        };
        // SAFETY: the caller's word.
        unsafe {
            row += match (n_rows - row).min(V::REGISTERS / 8) {
                1 => V::run::<E, _>(Rows::<1>(scores)),
                2 => V::run::<E, _>(Rows::<2>(scores)),
                3 => V::run::<E, _>(Rows::<3>(scores)),
                _ => V::run::<E, _>(Rows::<4>(scores)),
            }
        }
    }
}

/// `out[row][key] = key . query`, for whole groups of keys around the range.
struct Scores<'a> {
    k: &'a Table,
    queries: *const f32,
    range: &'a Range<usize>,
    out: Weights,
}

/// As many of them.
struct Rows<'a, const R: usize>(Scores<'a>);

impl<const R: usize> Work for Rows<'_, R> {
    type Output = usize;

    /// Says how many rows.
    #[inline(always)]
    unsafe fn run<V: Vector, E: Element>(self) -> usize {
        let Scores {
            k,
            queries,
            range,
            out,
        } = self.0;
        let last = range.end - 1;
        for first in (range.start / KEYS * KEYS..range.end).step_by(KEYS) {
            let mut keys = [k.data; KEYS];
            for (i, at) in keys.iter_mut().enumerate() {
                let key = (first + i).min(last);
                k.ask_for_next::<E>(key);
                *at = k.data.wrapping_add(key * k.row);
            }
            // SAFETY: the caller's word: a row has room for whole groups of keys.
            unsafe {
                let sums = dots::<V, E, R>(&keys, k.width, queries);
                for (row, sums) in sums.into_iter().enumerate() {
                    V::store_totals(sums, out.at(row, first));
                }
            }
        }
        R
    }
}

/// Products of keys with rows of queries, summed to registers.
#[inline(always)]
unsafe fn dots<V: Vector, E: Element, const R: usize>(
    keys: &[*const u8; KEYS],
    width: usize,
    queries: *const f32,
) -> [[V; KEYS]; R] {
    let whole = width / V::LANES * V::LANES;
    // SAFETY: the caller's word; columns that are not there are not read.
    unsafe {
        let mut sums = [[V::splat(0.0); KEYS]; R];
        for column in (0..whole).step_by(V::LANES) {
            let mut x = [V::splat(0.0); KEYS];
            for (x, key) in x.iter_mut().zip(keys) {
                *x = E::load(key.wrapping_add(column * E::BYTES));
            }
            add_products(&mut sums, x, queries.add(column), width);
        }
        if whole < width {
            let mut x = [V::splat(0.0); KEYS];
            for (x, key) in x.iter_mut().zip(keys) {
                *x = V::load_some::<E>(key.wrapping_add(whole * E::BYTES), width - whole);
            }
            add_products(&mut sums, x, queries.add(whole), width);
        }
        sums
    }
}

#[inline(always)]
unsafe fn add_products<V: Vector, const R: usize>(
    sums: &mut [[V; KEYS]; R],
    x: [V; KEYS],
    queries: *const f32,
    width: usize,
) {
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's word.
        unsafe {
            let q = V::load(queries.add(row * width.next_multiple_of(16)));
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = x.fma(q, *sum);
            }
        }
    }
}

/// A row's scores to weights, in place: the largest score and the sum of weights.
struct SoftMax<'a> {
    range: &'a Range<usize>,
    weights: *mut f32,
}

impl Work for SoftMax<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    unsafe fn run<V: Vector, E: Element>(self) -> (f32, f32) {
        let (range, weights) = (self.range, self.weights);
        // Registers lie at fixed places of the chunk, so that sums do not depend on where the range begins.
        let first = range.start / V::LANES * V::LANES;
        let end = range.end.next_multiple_of(V::LANES);
        // SAFETY: the caller's word: there is room for a whole chunk.
        unsafe {
            for key in (first..range.start).chain(range.end..end) {
                *weights.add(key) = f32::NEG_INFINITY;
            }
            let mut m = V::splat(f32::NEG_INFINITY);
            for key in (first..end).step_by(V::LANES) {
                m = V::load(weights.add(key)).max(m);
            }
            let lanes = &m.numbers()[..V::LANES];
            let most = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // Finite where nothing is seen, so that weights there are zero.
            let shift = V::splat(-most.max(f32::MIN));
            let mut total = V::splat(0.0);
            for key in (first..end).step_by(V::LANES) {
                let w = exp(V::load(weights.add(key)).add(shift));
                w.store(weights.add(key));
                total = total.add(w);
            }
            (most, total.numbers().iter().sum())
        }
    }
}
