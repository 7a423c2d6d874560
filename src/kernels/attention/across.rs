//! Many rows: a register holds one number of many rows, and keys enter as single numbers.
//!
//! No score is ever summed across a register, so a row's bits depend on its own numbers only.

use std::ops::Range;

use super::sums::weigh;
use super::table::{Table, Weights};
use super::vector::{Element, F32, Vector, Work, exp};
use super::{Attention, BLOCK_ROWS, Block, CHUNK, Chunk, Room, Sight, along};

/// Rows beyond a chunk that a tile of keys may touch. Odd, so that stripes lie apart in the caches.
const BEYOND: usize = 9;
/// Numbers from 16 decoded columns of a chunk to the next 16.
pub(super) const STRIPE: usize = (CHUNK + BEYOND) * 16;
/// Numbers of a block's weights.
pub(super) const WEIGHTS: usize = (CHUNK + BEYOND) * BLOCK_ROWS;

/// Rows of a group: two registers.
pub(super) const fn group<V: Vector>() -> usize {
    2 * V::LANES
}

/// `queries[group][column][row]`, times the scale. Rows and columns that are not there are zero.
///
/// # Safety
/// As [`super::Kernel::load_queries`].
pub(super) unsafe fn load_queries<V: Vector>(
    a: &Attention,
    block: &Block,
    room: &mut Room,
    to: *mut f32,
) {
    let width = a.q.width.next_multiple_of(16);
    let all = block.n.next_multiple_of(group::<V>());
    let from = room.keys.room(all * width);
    // SAFETY: there is room for all rows of the groups; the caller's word.
    unsafe {
        along::load_queries::<V>(a, block, from);
        from.add(block.n * width)
            .write_bytes(0, (all - block.n) * width);
        V::run::<F32, _>(Transpose {
            from,
            width,
            all,
            to,
        });
    }
}

/// `to[group][column][row]` of `from[row][column]`, for whole registers of rows and columns.
pub(super) struct Transpose {
    pub from: *const f32,
    pub width: usize,
    pub all: usize,
    pub to: *mut f32,
}

impl Work for Transpose {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector, E: Element>(self) {
        let (rows, width) = (group::<V>(), self.width);
        for first in (0..self.all).step_by(V::LANES) {
            for column in (0..width).step_by(V::LANES) {
                let to = first / rows * rows * width + column * rows + first % rows;
                // SAFETY: the caller's word.
                unsafe {
                    let from = self.from.add(first * width + column);
                    V::transpose(from, width, self.to.add(to), rows);
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
    let a = c.a;
    let seen = c.seen();
    let weights = room.weights.room(c.blocks.len() * WEIGHTS);
    let weights = |i: usize| weights_at(weights.wrapping_add(i * WEIGHTS));
    let each = || {
        let each = c.blocks.iter().zip(c.sights).enumerate();
        each.filter(|(_, (_, sight))| !sight.range.is_empty())
    };
    let len = a.state_len();
    // SAFETY: the caller's word; there is room for all.
    unsafe {
        let to = room.keys.room(decoded_len(a.k.width));
        let k = decode::<V, E>(&c.table(&a.k), &seen, to);
        for (i, (block, sight)) in each() {
            let state = &mut states[i * len..(i + 1) * len];
            weights_of::<V>(c, (block, sight), (&k, c.queries(i)), &weights(i), state);
        }
        let v = if a.values_in_keys() {
            Table {
                width: a.v.width,
                ..k
            }
        } else {
            let to = room.values.room(decoded_len(a.v.width));
            decode::<V, E>(&c.table(&a.v), &seen, to)
        };
        for (i, (block, sight)) in each() {
            let out = &mut states[i * len + 2 * a.lanes()..(i + 1) * len];
            weigh::<V, F32, true>(c, block, (&v, &weights(i)), &sight.range, out);
        }
    }
}

/// Weights of a block, at [`WEIGHTS`] numbers.
pub(super) fn weights_at(data: *mut f32) -> Weights {
    Weights {
        data,
        row: 1,
        key: BLOCK_ROWS,
    }
}

/// The weights of a block's rows for decoded keys; the largest scores and the sums of weights to the block's state.
///
/// # Safety
/// As [`super::Kernel::chunk`]; there is room for [`WEIGHTS`].
pub(super) unsafe fn weights_of<V: Vector>(
    c: &Chunk,
    (block, sight): (&Block, &Sight),
    (keys, queries): (&Table, *const f32),
    weights: &Weights,
    state: &mut [f32],
) {
    let (range, n_lanes) = (&sight.range, c.a.lanes());
    let (most, rest) = state.split_at_mut(n_lanes);
    // Lanes without a row, too.
    most.fill(f32::NEG_INFINITY);
    rest[..n_lanes].fill(0.0);
    // SAFETY: the caller's word.
    unsafe {
        for first in (0..block.n).step_by(group::<V>()) {
            scores::<V>(Scores {
                keys,
                queries: queries.wrapping_add(first * keys.width),
                range,
                out: weights.below(first),
            });
        }
        weights.add_mask(c, block, sight);
        V::run::<F32, _>(SoftMax {
            range,
            weights: *weights,
            most: &mut most[..block.n],
            sum: &mut rest[..block.n],
        });
    }
}

/// Numbers of decoded rows.
pub(super) const fn decoded_len(width: usize) -> usize {
    width.div_ceil(16) * STRIPE
}

/// Decodes rows in stripes of 16 columns: `to[stripe][row][16]`.
///
/// # Safety
/// They are there, and so is room for [`decoded_len`].
pub(super) unsafe fn decode<V: Vector, E: Element>(
    from: &Table,
    range: &Range<usize>,
    to: *mut f32,
) -> Table {
    // SAFETY: the caller's word.
    unsafe { V::run::<E, _>(Decode { from, range, to }) };
    Table {
        data: to.cast(),
        row: 16 * F32::BYTES,
        stripe: STRIPE * F32::BYTES,
        width: from.width.next_multiple_of(16),
        next: 0,
    }
}

struct Decode<'a> {
    from: &'a Table,
    range: &'a Range<usize>,
    to: *mut f32,
}

impl Work for Decode<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector, E: Element>(self) {
        let width = self.from.width;
        for row in self.range.clone() {
            for column in (0..width.next_multiple_of(16)).step_by(V::LANES) {
                let there = width.saturating_sub(column);
                let at = column / 16 * STRIPE + row * 16 + column % 16;
                let from = self.from.column::<E>(column);
                // SAFETY: the caller's word.
                unsafe {
                    let x = V::load_some::<E>(from.wrapping_add(row * self.from.row), there);
                    x.store(self.to.add(at));
                }
            }
        }
    }
}

/// `out[key][row] = key . query` for one group.
pub(super) struct Scores<'a> {
    pub keys: &'a Table,
    pub queries: *const f32,
    pub range: &'a Range<usize>,
    pub out: Weights,
}

/// The scores of a group, in tiles that leave registers for operands.
///
/// # Safety
/// Keys and queries are there, `out` has room, and the machine has the instructions of `V`.
pub(super) unsafe fn scores<V: Vector>(scores: Scores<'_>) {
    // SAFETY: the caller's word.
    unsafe {
        match V::REGISTERS {
            32.. => V::run::<F32, _>(Tiles::<8>(scores)),
            _ => V::run::<F32, _>(Tiles::<6>(scores)),
        }
    }
}

/// So many keys go together. The last tile may go beyond the range.
struct Tiles<'a, const KEYS: usize>(Scores<'a>);

impl<const KEYS: usize> Work for Tiles<'_, KEYS> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector, E: Element>(self) {
        let Scores {
            keys,
            queries,
            range,
            out,
        } = self.0;
        for first in range.clone().step_by(KEYS) {
            // SAFETY: the caller's word.
            unsafe {
                let mut sums = [[V::splat(0.0); 2]; KEYS];
                for stripe in 0..keys.width / 16 {
                    let k = keys.column::<F32>(16 * stripe).cast::<f32>();
                    let (k, q) = (k.add(first * 16), 16 * stripe * group::<V>());
                    for i in 0..16 {
                        let q = queries.add(q + i * group::<V>());
                        let (q0, q1) = (V::load(q), V::load(q.add(V::LANES)));
                        for (key, sums) in sums.iter_mut().enumerate() {
                            let k = V::splat(*k.add(key * 16 + i));
                            sums[0] = k.fma(q0, sums[0]);
                            sums[1] = k.fma(q1, sums[1]);
                        }
                    }
                }
                for (key, sums) in sums.into_iter().enumerate() {
                    sums[0].store(out.at(0, first + key));
                    sums[1].store(out.at(V::LANES, first + key));
                }
            }
        }
    }
}

/// Scores to weights, in place; says the largest score and the sum of weights by row.
struct SoftMax<'a> {
    range: &'a Range<usize>,
    weights: Weights,
    most: &'a mut [f32],
    sum: &'a mut [f32],
}

impl Work for SoftMax<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector, E: Element>(self) {
        let (most, sum) = (
            self.most.chunks_mut(V::LANES),
            self.sum.chunks_mut(V::LANES),
        );
        for (i, (most, sum)) in most.zip(sum).enumerate() {
            let weights = self.weights.below(i * V::LANES);
            // SAFETY: the caller's word.
            unsafe {
                let mut m = V::splat(f32::NEG_INFINITY);
                for key in self.range.clone() {
                    m = V::load(weights.at(0, key)).max(m);
                }
                // Finite where nothing is seen, so that weights there are zero.
                let shift = V::splat(f32::MIN).max(m).mul(V::splat(-1.0));
                let mut total = V::splat(0.0);
                for key in self.range.clone() {
                    let w = exp(V::load(weights.at(0, key)).add(shift));
                    w.store(weights.at(0, key));
                    total = total.add(w);
                }
                most.copy_from_slice(&m.numbers()[..most.len()]);
                sum.copy_from_slice(&total.numbers()[..sum.len()]);
            }
        }
    }
}
