//! For any machine: loops that compilers turn into registers.

use std::ops::Range;

use super::{Machine, Pass};

/// Numbers that sums are kept apart for.
const LANES: usize = 8;

/// Arithmetic of any machine.
pub struct Plain<const FUSED: bool>;

impl<const FUSED: bool> Plain<FUSED> {
    /// `x y + z`; the fused form is one instruction only where the machine has it, and a call elsewhere.
    #[inline(always)]
    fn add(x: f32, y: f32, z: f32) -> f32 {
        if FUSED { x.mul_add(y, z) } else { x * y + z }
    }

    /// `row = a row + v k`; gives `row q`. All three are equally long.
    #[inline(always)]
    fn step(row: &mut [f32], k: &[f32], q: &[f32], a: f32, v: f32) -> f32 {
        let mut sums = [0.0f32; LANES];
        let (row, row_end) = row.as_chunks_mut::<LANES>();
        let (k, k_end) = k.as_chunks::<LANES>();
        let (q, q_end) = q.as_chunks::<LANES>();
        for ((row, k), q) in row.iter_mut().zip(k).zip(q) {
            // Whole registers: a loop that also wrote `row` would not become one.
            let new: [f32; LANES] = std::array::from_fn(|i| Self::add(row[i], a, v * k[i]));
            for (sum, (x, q)) in sums.iter_mut().zip(new.iter().zip(q)) {
                *sum = Self::add(*x, *q, *sum);
            }
            *row = new;
        }
        for (sum, ((row, k), q)) in sums
            .iter_mut()
            .zip(row_end.iter_mut().zip(k_end).zip(q_end))
        {
            *row = Self::add(*row, a, v * k);
            *sum = Self::add(*row, *q, *sum);
        }
        let sums: [f32; 4] = std::array::from_fn(|i| sums[i] + sums[i + 4]);
        (sums[0] + sums[2]) + (sums[1] + sums[3])
    }
}

impl<const FUSED: bool> Machine for Plain<FUSED> {
    const ROWS: usize = 8;
    type Room = ();

    #[inline(always)]
    unsafe fn room() {}

    #[inline(always)]
    unsafe fn rows(pass: &Pass, rows: Range<usize>, (): &mut ()) {
        let d_k = pass.scan.d_k;
        let (at, n) = (rows.start * d_k, rows.len() * d_k);
        // SAFETY: the caller's word. Rows are computed where the newest state goes.
        unsafe {
            let state = pass.newest().add(at);
            state.copy_from(pass.from.add(at), n);
            let state = std::slice::from_raw_parts_mut(state, n);
            let keys_and_queries = pass.k.chunks_exact(d_k).zip(pass.q.chunks_exact(d_k));
            for (t, (k, q)) in pass.tokens.clone().zip(keys_and_queries) {
                let v = &pass.values(t)[rows.clone()];
                let y = pass.results(t).add(rows.start);
                for (r, (row, v)) in state.chunks_exact_mut(d_k).zip(v).enumerate() {
                    y.add(r).write(Self::step(row, k, q, pass.a, *v));
                }
                if let Some(older) = pass.older(t) {
                    older.add(at).copy_from(state.as_ptr(), n);
                }
            }
        }
    }
}
