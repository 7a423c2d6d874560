//! Many columns: 16 unpacked rows times 4 columns at a time.

use std::arch::aarch64::*;

use super::ops::dot_lane;
use crate::kernels::panel::{PANEL_RECORDS, Panel, SCALES, STEPS, step};
use crate::kernels::{Record, Scaling};

/// Rows of a panel: four registers.
pub const PANEL_ROWS: usize = 16;
/// Columns of a tile: 16 sums and what is multiplied fit the registers.
pub const TILE_COLUMNS: usize = 4;

/// A record of a panel's weights.
pub type RecordCodes = [[int8x16_t; 4]; STEPS];
/// A panel's weights.
pub type Codes = [RecordCodes; PANEL_RECORDS];
/// A panel's scales, record by record.
pub type Scales = [[[float32x4_t; 4]; SCALES]; PANEL_RECORDS];

/// Adds the panel's products with up to [`TILE_COLUMNS`] columns to `sums`. A column starts at the panel's first record.
///
/// # Safety
/// Each column has as many records as the panel, and the CPU has what [`super::DOT`] asks for.
pub unsafe fn tile(panel: &Panel, columns: &[*const Record], sums: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe {
        match *columns {
            [a] => by_groups(panel, [a], sums),
            [a, b] => by_groups(panel, [a, b], sums),
            [a, b, c] => by_groups(panel, [a, b, c], sums),
            [a, b, c, d] => by_groups(panel, [a, b, c, d], sums),
            _ => {}
        }
    }
}

unsafe fn by_groups<const C: usize>(panel: &Panel, columns: [*const Record; C], sums: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe {
        match panel.format.scaling() {
            Scaling::Whole => multiply::<C, 1, 0>(panel, &columns, sums),
            Scaling::Blocks => multiply::<C, 4, 0>(panel, &columns, sums),
            Scaling::Minimums => multiply::<C, 4, 1>(panel, &columns, sums),
            Scaling::Halves => multiply::<C, 8, 0>(panel, &columns, sums),
            Scaling::HalfMinimums => multiply::<C, 4, 2>(panel, &columns, sums),
        }
    }
}

/// `G` groups of weights with a scale of their own make a record, with `M` minimums each.
#[target_feature(enable = "neon,dotprod")]
unsafe fn multiply<const C: usize, const G: usize, const M: usize>(
    panel: &Panel,
    columns: &[*const Record; C],
    sums: &mut [f32],
) {
    // SAFETY: arrays of registers.
    let (codes, scales): (&Codes, &Scales) = unsafe { panel.parts() };
    let sums = sums.as_chunks_mut::<4>().0.as_chunks_mut::<4>().0;
    let Some(sums) = sums.first_chunk_mut::<C>() else {
        return;
    };
    for k in 0..panel.n_records {
        // SAFETY: the caller's word.
        let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
        let mut halves = [[0.0; 8]; C];
        if M == 2 {
            for (halves, x) in halves.iter_mut().zip(x) {
                *halves = x.half_totals();
            }
        }
        for g in 0..G {
            let products = group::<C, G>(&codes[k], g, &x);
            let weights = &scales[k][g];
            for c in 0..C {
                add_scaled(&mut sums[c], &products[c], weights, x[c].scales[g % 4]);
                for m in 0..M {
                    let total = x[c].total::<M>(&halves[c], g, m);
                    subtract(&mut sums[c], &scales[k][4 + M * g + m], total);
                }
            }
        }
    }
}

/// `to += products * weights * x`, for the rows of a panel and one column.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn add_scaled(
    to: &mut [[f32; 4]; 4],
    products: &[int32x4_t; 4],
    weights: &[float32x4_t; 4],
    x: f32,
) {
    for ((to, products), weights) in to.iter_mut().zip(products).zip(weights) {
        let (products, scale) = (vcvtq_f32_s32(*products), vmulq_n_f32(*weights, x));
        // SAFETY: four numbers.
        unsafe {
            let sum = vfmaq_f32(vld1q_f32(to.as_ptr()), products, scale);
            vst1q_f32(to.as_mut_ptr(), sum);
        }
    }
}

/// `to += minimums * x`, where `x` is less a sum of activations.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn subtract(to: &mut [[f32; 4]; 4], minimums: &[float32x4_t; 4], x: f32) {
    for (to, minimum) in to.iter_mut().zip(minimums) {
        // SAFETY: four numbers.
        unsafe {
            let sum = vfmaq_n_f32(vld1q_f32(to.as_ptr()), *minimum, x);
            vst1q_f32(to.as_mut_ptr(), sum);
        }
    }
}

/// The products of one group with its columns, as whole numbers.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn group<const C: usize, const G: usize>(
    codes: &RecordCodes,
    g: usize,
    x: &[&Record; C],
) -> [[int32x4_t; 4]; C] {
    let mut sums = [[vdupq_n_s32(0); 4]; C];
    for first in (0..STEPS / G).step_by(4).map(|i| step::<G>(g, i)) {
        let x = x.map(|x| {
            let numbers = &x.q[4 * first..4 * first + 16];
            // SAFETY: 16 bytes.
            unsafe { vld1q_s8(numbers.as_ptr()) }
        });
        add::<C, 0>(&mut sums, &codes[first], &x);
        add::<C, 1>(&mut sums, &codes[first + 1], &x);
        add::<C, 2>(&mut sums, &codes[first + 2], &x);
        add::<C, 3>(&mut sums, &codes[first + 3], &x);
    }
    sums
}

/// Four weights of every row, times lane `LANE` of the columns.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add<const C: usize, const LANE: usize>(
    sums: &mut [[int32x4_t; 4]; C],
    codes: &[int8x16_t; 4],
    x: &[int8x16_t; C],
) {
    for (sums, x) in sums.iter_mut().zip(x) {
        for (sum, w) in sums.iter_mut().zip(codes) {
            *sum = dot_lane::<LANE>(*sum, *w, *x);
        }
    }
}
