//! Few rows: a register holds 16 numbers of one key or value, which is read as it is stored.
//!
//! A row's scores and sums are its own, whatever rows are computed beside it.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Element, Queries, Room, exp, lanes, rescale};
use crate::kernels::attention::{Attention, Block, CHUNK, Sight, Vectors};

/// Rows that share what is decoded.
const ROWS: usize = 4;
/// Keys whose sums stay in registers.
const KEYS: usize = 4;
/// Registers of a value's columns whose sums stay in registers.
const COLUMNS: usize = 4;
/// `queries[row][column]`, times the scale; columns that fill a register are zero.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
pub unsafe fn load_queries(a: &Attention, block: &Block, to: *mut f32) {
    let scale = _mm512_set1_ps(a.scale);
    let stripes = a.q.width.div_ceil(16);
    for row in 0..block.n {
        let (token, head) = a.place(block, row);
        let from = a.q.at(token, head, block.seq);
        for stripe in 0..stripes {
            // SAFETY: the caller's word; columns that are not there are not read.
            unsafe {
                let from = from.wrapping_add(64 * stripe).cast();
                let q = _mm512_maskz_loadu_ps(lanes(a.q.width, stripe), from);
                let to = to.add((row * stripes + stripe) * 16);
                _mm512_store_ps(to, _mm512_mul_ps(q, scale));
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
    let (n_lanes, value_room) = (a.lanes(), a.value_room());
    let weights = room.weights.room(n_lanes * CHUNK);
    let states = states.chunks_exact_mut(n_lanes * (2 + value_room));
    for (i, ((block, sight), state)) in blocks.iter().zip(sights).zip(states).enumerate() {
        let range = &sight.range;
        if range.is_empty() {
            continue;
        }
        let stored = |x: &Vectors| Stored {
            data: x.at(keys.start, block.key_head, block.seq),
            stride: x.token,
            width: x.width,
            next: if keys.end < a.n_keys {
                CHUNK * x.token
            } else {
                0
            },
        };
        let (k, v) = (stored(&a.k), stored(&a.v));
        let (most, rest) = state.split_at_mut(n_lanes);
        let (sum, values) = rest.split_at_mut(n_lanes);
        // Lanes without a row, too.
        most.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        // SAFETY: the caller's word; there is room for all.
        unsafe {
            scores_of_block::<E>(&k, block.n, queries.of(a, i), range, weights);
            let mask = |row| a.mask(block.seq, a.place(block, row).0, keys.clone());
            for row in 0..block.n {
                (most[row], sum[row]) = soft_max(mask(row), range, weights.add(row * CHUNK));
            }
            values_of_block::<E>(&v, block.n, weights, range, values);
            let rows = values.chunks_exact_mut(value_room).enumerate();
            for (row, values) in rows.take(block.n) {
                if values.iter().fold(0.0, |all, x| all + x * 0.0).is_nan() {
                    values_seen::<E>(&v, weights.add(row * CHUNK), mask(row), range, values);
                }
            }
        }
    }
}

/// Rows of one head of keys or values.
struct Stored {
    data: *const u8,
    stride: usize,
    width: usize,
    /// Bytes to the same row of the next chunk, zero if there is none.
    next: usize,
}

impl Stored {
    /// Asks for the row of the next chunk, into the second cache: several rows' arithmetic takes so long that the
    /// machine's own prefetcher loses sight.
    #[inline(always)]
    fn ask_for_next<E: Element>(&self, row: *const u8) {
        for line in (0..self.width * E::BYTES).step_by(64) {
            // SAFETY: a prefetch never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(self.next + line).cast()) };
        }
    }
}

unsafe fn scores_of_block<E: Element>(
    k: &Stored,
    n_rows: usize,
    queries: *const f32,
    range: &Range<usize>,
    out: *mut f32,
) {
    for first in (0..n_rows).step_by(ROWS) {
        let q = queries.wrapping_add(first * k.width.next_multiple_of(16));
        let to = out.wrapping_add(first * CHUNK);
        // SAFETY: the caller's word.
        unsafe {
            match n_rows - first {
                1 => scores::<E, 1>(k, q, range, to),
                2 => scores::<E, 2>(k, q, range, to),
                3 => scores::<E, 3>(k, q, range, to),
                _ => scores::<E, ROWS>(k, q, range, to),
            }
        }
    }
}

/// `out[row][key] = key . query`, for whole groups of keys around the range.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
unsafe fn scores<E: Element, const R: usize>(
    k: &Stored,
    queries: *const f32,
    range: &Range<usize>,
    out: *mut f32,
) {
    let stripes = k.width.div_ceil(16);
    let last = range.end - 1;
    for first in (range.start / KEYS * KEYS..range.end).step_by(KEYS) {
        let keys: [*const u8; KEYS] =
            std::array::from_fn(|i| k.data.wrapping_add((first + i).min(last) * k.stride));
        for key in keys {
            k.ask_for_next::<E>(key);
        }
        let mut sums = [[_mm512_setzero_ps(); KEYS]; R];
        let mut add = |stripe: usize, x: [__m512; KEYS]| {
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's word.
                let q = unsafe { _mm512_load_ps(queries.add((row * stripes + stripe) * 16)) };
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = _mm512_fmadd_ps(x, q, *sum);
                }
            }
        };
        let at = |i: usize, stripe: usize| keys[i].wrapping_add(16 * stripe * E::BYTES);
        for stripe in 0..k.width / 16 {
            // SAFETY: the caller's word.
            add(
                stripe,
                std::array::from_fn(|i| unsafe { E::load_all(at(i, stripe)) }),
            );
        }
        if !k.width.is_multiple_of(16) {
            let (stripe, mask) = (stripes - 1, lanes(k.width, stripes - 1));
            // SAFETY: the caller's word; what the mask leaves out is not read.
            add(
                stripe,
                std::array::from_fn(|i| unsafe { E::load(at(i, stripe), mask) }),
            );
        }
        for (row, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's word: a row has room for whole groups of keys.
            unsafe { _mm_storeu_ps(out.add(row * CHUNK + first), totals(sums)) };
        }
    }
}

/// The sums over each of four registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
fn totals(x: &[__m512; 4]) -> __m128 {
    let pair = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (ab, cd) = (
        _mm512_castps_pd(pair(x[0], x[1])),
        _mm512_castps_pd(pair(x[2], x[3])),
    );
    let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    let high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
    let x = _mm512_add_ps(low, high);
    let x = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x))
}

/// A row's scores to weights, in place: the largest score and the sum of weights.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
unsafe fn soft_max(mask: &[u16], range: &Range<usize>, weights: *mut f32) -> (f32, f32) {
    let nothing = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut m = nothing;
    let mut sees = [0; CHUNK / 16];
    // Registers lie at fixed places of the chunk, so that sums do not depend on where the range begins.
    let first = range.start / 16;
    let registers = first..range.end.div_ceil(16);
    for i in registers.clone() {
        let inside = lanes(range.end, i) & !lanes(range.start, i);
        // SAFETY: lanes outside the range are not read; the caller's word.
        unsafe {
            let at = weights.add(16 * i);
            let bias = _mm256_maskz_loadu_epi16(inside, mask.as_ptr().wrapping_add(16 * i).cast());
            let bias = _mm512_cvtph_ps(bias);
            sees[i] = inside & _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(bias, nothing);
            let s = _mm512_add_ps(_mm512_load_ps(at), bias);
            _mm512_store_ps(at, s);
            // The second operand wins where one is not a number.
            m = _mm512_mask_max_ps(m, sees[i], s, m);
        }
    }
    let most = _mm512_reduce_max_ps(m);
    let mut total = _mm512_setzero_ps();
    for i in registers {
        // SAFETY: as above.
        unsafe {
            let at = weights.add(16 * i);
            let w = exp(_mm512_sub_ps(_mm512_load_ps(at), _mm512_set1_ps(most)));
            let w = _mm512_maskz_mov_ps(sees[i], w);
            _mm512_store_ps(at, w);
            total = _mm512_add_ps(total, w);
        }
    }
    (most, _mm512_reduce_add_ps(total))
}

unsafe fn values_of_block<E: Element>(
    v: &Stored,
    n_rows: usize,
    weights: *const f32,
    range: &Range<usize>,
    out: &mut [f32],
) {
    let room = v.width.next_multiple_of(16);
    for (group, out) in out.chunks_mut(ROWS * room).enumerate() {
        let first = group * ROWS;
        let w = weights.wrapping_add(first * CHUNK);
        // SAFETY: the caller's word.
        unsafe {
            match n_rows.saturating_sub(first) {
                0 => {}
                1 => values::<E, 1>(v, w, range, out),
                2 => values::<E, 2>(v, w, range, out),
                3 => values::<E, 3>(v, w, range, out),
                _ => values::<E, ROWS>(v, w, range, out),
            }
        }
    }
}

/// `out[row][column]`, the sums of weighted values.
unsafe fn values<E: Element, const R: usize>(
    v: &Stored,
    weights: *const f32,
    range: &Range<usize>,
    out: &mut [f32],
) {
    let (whole, mut stripe) = (v.width / 16, 0);
    // SAFETY: the caller's word.
    unsafe {
        while stripe + COLUMNS <= whole {
            value_columns::<E, R, COLUMNS>(v, weights, range, stripe, 0xffff, out);
            stripe += COLUMNS;
        }
        while stripe < v.width.div_ceil(16) {
            let mask = lanes(v.width, stripe);
            value_columns::<E, R, 1>(v, weights, range, stripe, mask, out);
            stripe += 1;
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
unsafe fn value_columns<E: Element, const R: usize, const C: usize>(
    v: &Stored,
    weights: *const f32,
    range: &Range<usize>,
    stripe: usize,
    mask: __mmask16,
    out: &mut [f32],
) {
    let room = v.width.next_multiple_of(16);
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    for key in range.clone() {
        if stripe == 0 {
            v.ask_for_next::<E>(v.data.wrapping_add(key * v.stride));
        }
        let from = v.data.wrapping_add(key * v.stride + 16 * stripe * E::BYTES);
        // SAFETY: the caller's word; what the mask leaves out is not read.
        let x: [__m512; C] = std::array::from_fn(|c| unsafe {
            let from = from.wrapping_add(16 * c * E::BYTES);
            if C > 1 {
                E::load_all(from)
            } else {
                E::load(from, mask)
            }
        });
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's word.
            let w = _mm512_set1_ps(unsafe { *weights.add(row * CHUNK + key) });
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = _mm512_fmadd_ps(x, w, *sum);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(room)) {
        for (sum, out) in sums.iter().zip(out[16 * stripe..].chunks_exact_mut(16)) {
            // SAFETY: 16 numbers.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}

/// A row's sums, but what it does not see is left out instead of weighted with zero: it may not be finite.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
unsafe fn values_seen<E: Element>(
    v: &Stored,
    weights: *const f32,
    mask: &[u16],
    range: &Range<usize>,
    out: &mut [f32],
) {
    for (stripe, out) in out.chunks_exact_mut(16).enumerate() {
        let columns = lanes(v.width, stripe);
        let mut sum = _mm512_setzero_ps();
        for key in range.clone().filter(|key| mask[*key] != super::HIDDEN) {
            // SAFETY: the caller's word; 16 numbers.
            unsafe {
                let from = v.data.wrapping_add(key * v.stride + 16 * stripe * E::BYTES);
                let w = _mm512_set1_ps(*weights.add(key));
                sum = _mm512_fmadd_ps(E::load(from, columns), w, sum);
            }
        }
        // SAFETY: 16 numbers.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
}

/// As [`super::join`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
pub unsafe fn join(n_lanes: usize, room: usize, joined: &mut [f32], state: &[f32]) {
    let (a, b) = (
        joined.split_at_mut(2 * n_lanes),
        state.split_at(2 * n_lanes),
    );
    let values = a.1.chunks_exact_mut(room).zip(b.1.chunks_exact(room));
    for (row, (to, from)) in values.enumerate() {
        let one = |x| _mm512_set1_ps(x);
        let (most, fa, fb) = rescale(one(a.0[row]), one(b.0[row]));
        a.0[row] = _mm512_cvtss_f32(most);
        let sum = &mut a.0[n_lanes + row];
        let (fa1, fb1) = (_mm512_cvtss_f32(fa), _mm512_cvtss_f32(fb));
        *sum = sum.mul_add(fa1, b.0[n_lanes + row] * fb1);
        for (to, from) in to.chunks_exact_mut(16).zip(from.chunks_exact(16)) {
            // SAFETY: 16 numbers each.
            unsafe {
                let new = _mm512_mul_ps(_mm512_loadu_ps(from.as_ptr()), fb);
                let old = _mm512_loadu_ps(to.as_ptr());
                _mm512_storeu_ps(to.as_mut_ptr(), _mm512_fmadd_ps(old, fa, new));
            }
        }
    }
}

/// As [`super::finish`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
pub unsafe fn finish(a: &Attention, block: &Block, state: &[f32], out: *mut f32) {
    let (n_lanes, room) = (a.lanes(), a.value_room());
    for row in 0..block.n {
        let sum = state[n_lanes + row];
        let factor = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        let values = &state[2 * n_lanes + row * room..][..a.v.width];
        // SAFETY: there is room for all results, by the caller's word.
        let to =
            unsafe { std::slice::from_raw_parts_mut(out.add(a.out_at(block, row)), a.v.width) };
        for (to, value) in to.iter_mut().zip(values) {
            *to = value * factor;
        }
    }
}
