//! Many rows: a register holds one number of 16 rows, and keys and values enter as single numbers.
//!
//! Nothing is ever summed across a register, so a row's bits depend on its own numbers only.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Element, Queries, Room, exp, lanes, rescale};
use crate::kernels::attention::{Attention, BLOCK_ROWS, Block, CHUNK, Sight, around};
use crate::kernels::avx512::codes::transpose;

/// Numbers from 16 decoded columns of a chunk to the next 16. The odd row keeps them apart in the caches.
const STRIPE: usize = (CHUNK + 1) * 16;
/// Keys, or columns of values, whose sums stay in registers.
const TILE: usize = 8;

/// `queries[column][row]`, times the scale. Rows and columns that are not there are zero.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
pub unsafe fn load_queries(a: &Attention, block: &Block, to: *mut f32) {
    let scale = _mm512_set1_ps(a.scale);
    for half in 0..BLOCK_ROWS / 16 {
        for stripe in 0..a.q.width.div_ceil(16) {
            let mut x = [_mm512_setzero_si512(); 16];
            let there = block.n.saturating_sub(16 * half).min(16);
            for (row, x) in x.iter_mut().enumerate().take(there) {
                let (token, head) = a.place(block, 16 * half + row);
                let from = a.q.at(token, head, block.seq).wrapping_add(64 * stripe);
                // SAFETY: the caller's word; columns that are not there are not read.
                let q = unsafe { _mm512_maskz_loadu_ps(lanes(a.q.width, stripe), from.cast()) };
                *x = _mm512_castps_si512(_mm512_mul_ps(q, scale));
            }
            transpose(&mut x);
            for (column, x) in x.iter().enumerate() {
                // SAFETY: the caller's word.
                unsafe {
                    let to = to.add((16 * stripe + column) * BLOCK_ROWS + 16 * half);
                    _mm512_store_ps(to, _mm512_castsi512_ps(*x));
                }
            }
        }
    }
}

/// As [`super::chunk`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
pub unsafe fn chunk<E: Element>(
    a: &Attention,
    blocks: &[Block],
    sights: &[Sight],
    keys: Range<usize>,
    queries: &Queries,
    room: &mut Room,
    states: &mut [f32],
) {
    let seen = sights.iter().fold(0..0, |all, s| around(&all, &s.range));
    let Block { seq, key_head, .. } = blocks[0];
    let stripes = |width: usize| width.div_ceil(16);
    let k = room.keys.room(stripes(a.k.width) * STRIPE);
    let v = if a.values_in_keys() {
        k
    } else {
        room.values.room(stripes(a.v.width) * STRIPE)
    };
    let weights = room.weights.room(blocks.len() * CHUNK * BLOCK_ROWS);
    room.visible.resize(blocks.len() * CHUNK, 0);
    let len = states.len() / blocks.len();
    let each = || {
        sights
            .iter()
            .enumerate()
            .filter(|(_, s)| !s.range.is_empty())
    };
    // SAFETY: the caller's word; there is room for all.
    unsafe {
        decode::<E>(
            a.k.at(keys.start, key_head, seq),
            a.k.token,
            a.k.width,
            &seen,
            k,
        );
        for (i, sight) in each() {
            let weights = weights.add(i * CHUNK * BLOCK_ROWS);
            let visible = &mut room.visible[i * CHUNK..(i + 1) * CHUNK];
            let range = whole_tiles(&sight.range);
            scores(
                k,
                queries.of(a, i),
                stripes(a.k.width),
                range.clone(),
                weights,
            );
            if !sight.plain {
                add_mask(a, &blocks[i], &keys, &sight.range, weights);
            }
            let (most, sum) = states[i * len..].split_at_mut(BLOCK_ROWS);
            soft_max(sight, range, weights, visible, most, &mut sum[..BLOCK_ROWS]);
        }
        if !a.values_in_keys() {
            decode::<E>(
                a.v.at(keys.start, key_head, seq),
                a.v.token,
                a.v.width,
                &seen,
                v,
            );
        }
        for (i, sight) in each() {
            let weights = weights.add(i * CHUNK * BLOCK_ROWS);
            let range = whole_tiles(&sight.range);
            let out = &mut states[i * len + 2 * BLOCK_ROWS..(i + 1) * len];
            if !values(
                v,
                weights,
                stripes(a.v.width),
                range.clone(),
                out.as_mut_ptr(),
            ) {
                let visible = &room.visible[i * CHUNK..(i + 1) * CHUNK];
                values_seen(v, weights, visible, range, out);
            }
        }
    }
}

fn whole_tiles(range: &Range<usize>) -> Range<usize> {
    range.start / TILE * TILE..range.end.next_multiple_of(TILE)
}

/// Decodes the rows `range` in stripes of 16 columns: `to[stripe][row][16]`. Rows beside them that fill a tile become
/// zero: nothing hidden from all gets into any sum.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
unsafe fn decode<E: Element>(
    from: *const u8,
    stride: usize,
    width: usize,
    range: &Range<usize>,
    to: *mut f32,
) {
    for row in whole_tiles(range) {
        let there = range.contains(&row);
        let from = from.wrapping_add(row * stride);
        for stripe in 0..width.div_ceil(16) {
            let mask = if there { lanes(width, stripe) } else { 0 };
            // SAFETY: the caller's word; what the mask leaves out is not read.
            unsafe {
                let x = E::load(from.wrapping_add(16 * stripe * E::BYTES), mask);
                _mm512_store_ps(to.add(stripe * STRIPE + row * 16), x);
            }
        }
    }
}

/// `out[key][row] = key . query`, for whole tiles of keys.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
unsafe fn scores(
    keys: *const f32,
    queries: *const f32,
    stripes: usize,
    range: Range<usize>,
    out: *mut f32,
) {
    for first in range.step_by(TILE) {
        let mut sums = [[_mm512_setzero_ps(); 2]; TILE];
        for stripe in 0..stripes {
            for i in 0..16 {
                // SAFETY: the caller's word.
                unsafe {
                    let q = queries.add((16 * stripe + i) * BLOCK_ROWS);
                    let (q0, q1) = (_mm512_load_ps(q), _mm512_load_ps(q.add(16)));
                    let k = keys.add(stripe * STRIPE + first * 16 + i);
                    for (key, sums) in sums.iter_mut().enumerate() {
                        let k = _mm512_set1_ps(*k.add(key * 16));
                        sums[0] = _mm512_fmadd_ps(k, q0, sums[0]);
                        sums[1] = _mm512_fmadd_ps(k, q1, sums[1]);
                    }
                }
            }
        }
        for (key, sums) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                let out = out.add((first + key) * BLOCK_ROWS);
                _mm512_store_ps(out, sums[0]);
                _mm512_store_ps(out.add(16), sums[1]);
            }
        }
    }
}

/// Adds masks that are not all zero where they show something.
unsafe fn add_mask(
    a: &Attention,
    block: &Block,
    keys: &Range<usize>,
    range: &Range<usize>,
    scores: *mut f32,
) {
    for row in 0..block.n {
        let (token, _) = a.place(block, row);
        // SAFETY: the caller's word.
        unsafe {
            let mask = a.mask(block.seq, token, keys.clone());
            for key in range.clone() {
                *scores.add(key * BLOCK_ROWS + row) += half::f16::from_bits(mask[key]).to_f32();
            }
        }
    }
}

/// Scores to weights, in place; says which rows see a key, the largest score and the sum of weights by row.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
unsafe fn soft_max(
    sight: &Sight,
    range: Range<usize>,
    weights: *mut f32,
    visible: &mut [u32],
    most: &mut [f32],
    sum: &mut [f32],
) {
    let nothing = _mm512_set1_ps(f32::NEG_INFINITY);
    for half in 0..BLOCK_ROWS / 16 {
        // SAFETY: 32 numbers each; the caller's word.
        unsafe {
            let first = _mm512_loadu_si512(sight.first.as_ptr().add(16 * half).cast());
            let end = _mm512_loadu_si512(sight.end.as_ptr().add(16 * half).cast());
            let mut m = nothing;
            for key in range.clone() {
                let s = _mm512_load_ps(weights.add(key * BLOCK_ROWS + 16 * half));
                let at = _mm512_set1_epi32(key as i32);
                let mut sees =
                    _mm512_cmple_epi32_mask(first, at) & _mm512_cmplt_epi32_mask(at, end);
                if !sight.plain {
                    // A hole in the mask; a score of minus infinity counts as one here, and for nothing anyway.
                    sees &= _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(s, nothing);
                }
                visible[key] = if half == 0 {
                    u32::from(sees)
                } else {
                    visible[key] | u32::from(sees) << 16
                };
                // The second operand wins where one is not a number.
                m = _mm512_mask_max_ps(m, sees, s, m);
            }
            let mut total = _mm512_setzero_ps();
            for key in range.clone() {
                let at = weights.add(key * BLOCK_ROWS + 16 * half);
                let sees = (visible[key] >> (16 * half)) as __mmask16;
                let w = exp(_mm512_sub_ps(_mm512_load_ps(at), m));
                let w = _mm512_maskz_mov_ps(sees, w);
                _mm512_store_ps(at, w);
                total = _mm512_add_ps(total, w);
            }
            _mm512_storeu_ps(most.as_mut_ptr().add(16 * half), m);
            _mm512_storeu_ps(sum.as_mut_ptr().add(16 * half), total);
        }
    }
}

/// `out[column][row]`, the sum of weighted values over whole tiles of keys; false if a sum is not finite.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
unsafe fn values(
    values: *const f32,
    weights: *const f32,
    stripes: usize,
    range: Range<usize>,
    out: *mut f32,
) -> bool {
    let mut check = _mm512_setzero_ps();
    for first in (0..16 * stripes).step_by(TILE) {
        let mut sums = [[_mm512_setzero_ps(); 2]; TILE];
        let column = values.wrapping_add(first / 16 * STRIPE + first % 16);
        for key in range.clone() {
            // SAFETY: the caller's word.
            unsafe {
                let w = weights.add(key * BLOCK_ROWS);
                let (w0, w1) = (_mm512_load_ps(w), _mm512_load_ps(w.add(16)));
                let v = column.add(key * 16);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let v = _mm512_set1_ps(*v.add(i));
                    sums[0] = _mm512_fmadd_ps(v, w0, sums[0]);
                    sums[1] = _mm512_fmadd_ps(v, w1, sums[1]);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                check = _mm512_fmadd_ps(*sum, _mm512_setzero_ps(), check);
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(out.add((first + i) * BLOCK_ROWS + 16 * half), *sum) };
            }
        }
    }
    _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(check, check) == 0
}

/// As [`values`], but what a row does not see is left out of its sums instead of weighted with zero: it may not be finite.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
unsafe fn values_seen(
    values: *const f32,
    weights: *const f32,
    visible: &[u32],
    range: Range<usize>,
    out: &mut [f32],
) {
    for (column, out) in out.chunks_exact_mut(BLOCK_ROWS).enumerate() {
        let values = values.wrapping_add(column / 16 * STRIPE + column % 16);
        for (row, out) in out.iter_mut().enumerate() {
            *out = 0.0;
            for key in range.clone().filter(|key| visible[*key] >> row & 1 == 1) {
                // SAFETY: the caller's word.
                let (v, w) =
                    unsafe { (*values.add(key * 16), *weights.add(key * BLOCK_ROWS + row)) };
                *out = v.mul_add(w, *out);
            }
        }
    }
}

/// As [`super::join`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
pub unsafe fn join(width: usize, joined: &mut [f32], state: &[f32]) {
    // SAFETY: both are states: two numbers by row, then those of each column by row.
    unsafe {
        for half in 0..BLOCK_ROWS / 16 {
            let a = joined.as_mut_ptr().add(16 * half);
            let b = state.as_ptr().add(16 * half);
            let (most, fa, fb) = rescale(_mm512_loadu_ps(a), _mm512_loadu_ps(b));
            _mm512_storeu_ps(a, most);
            for column in 1..2 + width {
                let (a, b) = (a.add(column * BLOCK_ROWS), b.add(column * BLOCK_ROWS));
                let new = _mm512_mul_ps(_mm512_loadu_ps(b), fb);
                _mm512_storeu_ps(a, _mm512_fmadd_ps(_mm512_loadu_ps(a), fa, new));
            }
        }
    }
}

/// As [`super::finish`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
pub unsafe fn finish(a: &Attention, block: &Block, state: &[f32], out: *mut f32) {
    let one = _mm512_set1_ps(1.0);
    for half in 0..BLOCK_ROWS / 16 {
        let there = block.n.saturating_sub(16 * half).min(16);
        // SAFETY: `state` is a state; `out` has room, by the caller's word.
        unsafe {
            let sum = _mm512_loadu_ps(state.as_ptr().add(BLOCK_ROWS + 16 * half));
            let any = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(sum, _mm512_setzero_ps());
            let factor = _mm512_maskz_div_ps(any, one, sum);
            for stripe in 0..a.v.width.div_ceil(16) {
                let mut x = [_mm512_setzero_si512(); 16];
                for (i, x) in x.iter_mut().enumerate() {
                    let at = (2 + 16 * stripe + i) * BLOCK_ROWS + 16 * half;
                    let value = _mm512_loadu_ps(state.as_ptr().add(at));
                    *x = _mm512_castps_si512(_mm512_mul_ps(value, factor));
                }
                transpose(&mut x);
                for (row, x) in x.iter().enumerate().take(there) {
                    let to = out.add(a.out_at(block, 16 * half + row) + 16 * stripe);
                    let mask = lanes(a.v.width, stripe);
                    _mm512_mask_storeu_ps(to, mask, _mm512_castsi512_ps(*x));
                }
            }
        }
    }
}
