//! Latents: what all heads share becomes keys and values of each head, a chunk at a time.
//!
//! A head's key is `k latent | rest of the row`, its value `v latent`. That takes products for every key, and saves more
//! for every token that looks at it: keys and values of a head are far narrower than the latent.

use std::ops::Range;

use super::across::{self, STRIPE, Scores, Transpose, WEIGHTS, decode, group, scores};
use super::sums::weigh;
use super::table::{Table, Weights};
use super::vector::{Element, F32, Vector, Work};
use super::{Attention, Chunk, Room};

/// Matrices of all heads. All widths are multiples of 16.
#[derive(Debug, Clone, Copy)]
pub struct Latents {
    /// Makes keys: `[head][latent][key]`, F32.
    pub k: *const f32,
    /// Makes values: `[head][value][latent]`, F32.
    pub v: *const f32,
    /// Numbers of a row that are the latent. The others are the ends of every head's key.
    pub width: usize,
    /// Numbers of a key that are made of it.
    pub key: usize,
}

/// Rows of the widest group of any machine.
const GROUP: usize = 32;

/// Numbers of a head's matrices.
pub(super) fn matrices_len(a: &Attention, l: &Latents) -> usize {
    keys_len(l) + l.width * a.v.width.next_multiple_of(GROUP)
}

/// Numbers of the matrix that makes keys.
fn keys_len(l: &Latents) -> usize {
    l.width * l.key.next_multiple_of(GROUP)
}

/// `[group][latent][row]` of both matrices of a head. Rows that are not there are zero.
///
/// # Safety
/// As [`super::Kernel::load_matrices`].
pub(super) unsafe fn load_matrices<V: Vector>(
    a: &Attention,
    l: &Latents,
    head: usize,
    to: *mut f32,
) {
    // SAFETY: the caller's word.
    unsafe {
        to.write_bytes(0, matrices_len(a, l));
        V::run::<F32, _>(LoadKeys { l, head, to });
        V::run::<F32, _>(Transpose {
            from: l.v.add(head * a.v.width * l.width),
            width: l.width,
            all: a.v.width,
            to: to.add(keys_len(l)),
        });
    }
}

struct LoadKeys<'a> {
    l: &'a Latents,
    head: usize,
    to: *mut f32,
}

impl Work for LoadKeys<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector, E: Element>(self) {
        let Latents { k, width, key, .. } = *self.l;
        let rows = group::<V>();
        for column in 0..width {
            for first in (0..key).step_by(V::LANES) {
                let to = first / rows * rows * width + column * rows + first % rows;
                // SAFETY: the caller's word.
                unsafe {
                    let from = k.add((self.head * width + column) * key + first);
                    V::load(from).store(self.to.add(to));
                }
            }
        }
    }
}

/// What the rows of some blocks get from a chunk.
///
/// # Safety
/// As [`super::Kernel::chunk`].
pub(super) unsafe fn chunk<V: Vector, E: Element>(
    c: &Chunk,
    l: &Latents,
    room: &mut Room,
    states: &mut [f32],
) {
    let a = c.a;
    let seen = c.seen();
    let weights = across::weights_at(room.weights.room(WEIGHTS));
    // SAFETY: the caller's word; there is room for all.
    unsafe {
        let to = room.keys.room(across::decoded_len(a.k.width));
        let rows = decode::<V, E>(&c.table(&a.k), &seen, to);
        let to = room.made.room(made_len(a.q.width));
        let k = make::<V>(&rows, l, (c.matrices, l.key), &seen, to);
        let k = with_ends(k, &rows, l, &seen);
        let to = room.values.room(made_len(a.v.width));
        let matrix = c.matrices.add(keys_len(l));
        let v = make::<V>(&rows, l, (matrix, a.v.width), &seen, to);
        let states = states.chunks_exact_mut(a.state_len());
        for (i, ((block, sight), state)) in c.blocks.iter().zip(c.sights).zip(states).enumerate() {
            if sight.range.is_empty() {
                continue;
            }
            across::weights_of::<V>(c, (block, sight), (&k, c.queries(i)), &weights, state);
            let out = &mut state[2 * a.lanes()..];
            weigh::<V, F32, true>(c, block, (&v, &weights), &sight.range, out);
        }
    }
}

/// Room for what is made in whole groups.
const fn made_len(width: usize) -> usize {
    across::decoded_len(width.next_multiple_of(GROUP))
}

/// A matrix of `n` rows times the latents, in stripes as decoded rows are.
unsafe fn make<V: Vector>(
    rows: &Table,
    l: &Latents,
    (matrix, n): (*const f32, usize),
    range: &Range<usize>,
    to: *mut f32,
) -> Table {
    let latents = Table {
        width: l.width,
        ..*rows
    };
    for first in (0..n).step_by(group::<V>()) {
        // A group's second register lies in the next stripe, or in the same one.
        let to_second = if group::<V>() > 16 { STRIPE / 16 } else { 1 };
        let out = Weights {
            data: to.wrapping_add(first / 16 * STRIPE + first % 16),
            row: to_second,
            key: 16,
        };
        // SAFETY: the caller's word.
        unsafe {
            scores::<V>(Scores {
                keys: &latents,
                queries: matrix.wrapping_add(first * l.width),
                range,
                out,
            });
        }
    }
    Table {
        data: to.cast(),
        width: n,
        ..*rows
    }
}

/// Keys with the ends of the rows.
unsafe fn with_ends(keys: Table, rows: &Table, l: &Latents, range: &Range<usize>) -> Table {
    let ends = rows.width - l.width;
    for column in (0..ends).step_by(16) {
        let from = rows.column::<F32>(l.width + column).cast::<f32>();
        let to = keys
            .column::<F32>(keys.width + column)
            .cast_mut()
            .cast::<f32>();
        // SAFETY: the caller's word: both have these columns, and all rows of the range.
        unsafe {
            let (from, to) = (from.add(range.start * 16), to.add(range.start * 16));
            to.copy_from_nonoverlapping(from, range.len() * 16);
        }
    }
    Table {
        width: keys.width + ends,
        ..keys
    }
}
