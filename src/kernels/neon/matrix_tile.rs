//! Many columns: 16 unpacked rows times 4 columns at a time, in products of two by eight with eight by two.

use std::arch::aarch64::*;

use super::ops::mmla;
use super::tile::{Scales, add_scaled, subtract};
use crate::kernels::panel::{PANEL_RECORDS, Panel};
use crate::kernels::{RECORD_WEIGHTS, Record, Scaling};

/// Weights of a record in steps of eight.
const STEPS: usize = RECORD_WEIGHTS / 8;

/// A record of a panel's weights: eight of each row of eight pairs.
type RecordCodes = [[int8x16_t; 8]; STEPS];

/// Adds the panel's products with up to four columns to `sums`. A column starts at the panel's first record.
///
/// # Safety
/// Each column has as many records as the panel, and the CPU has what [`super::MATRIX`] asks for.
pub unsafe fn tile(panel: &Panel, columns: &[*const Record], sums: &mut [f32]) {
    // A column without a partner is its own.
    // SAFETY: the caller's word.
    unsafe {
        match *columns {
            [a] => by_groups(panel, [[a, a]], sums),
            [a, b] => by_groups(panel, [[a, b]], sums),
            [a, b, c] => by_groups(panel, [[a, b], [c, c]], sums),
            [a, b, c, d] => by_groups(panel, [[a, b], [c, d]], sums),
            _ => {}
        }
    }
}

unsafe fn by_groups<const P: usize>(
    panel: &Panel,
    columns: [[*const Record; 2]; P],
    sums: &mut [f32],
) {
    // SAFETY: the caller's word.
    unsafe {
        match panel.format.scaling() {
            Scaling::Whole => multiply::<P, 1, 0>(panel, &columns, sums),
            Scaling::Blocks => multiply::<P, 4, 0>(panel, &columns, sums),
            Scaling::Minimums => multiply::<P, 4, 1>(panel, &columns, sums),
            Scaling::Halves => multiply::<P, 8, 0>(panel, &columns, sums),
            Scaling::HalfMinimums => multiply::<P, 4, 2>(panel, &columns, sums),
        }
    }
}

/// `G` groups of weights with a scale of their own make a record, with `M` minimums each.
#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn multiply<const P: usize, const G: usize, const M: usize>(
    panel: &Panel,
    columns: &[[*const Record; 2]; P],
    sums: &mut [f32],
) {
    // SAFETY: arrays of registers.
    let (codes, scales): (&[RecordCodes; PANEL_RECORDS], &Scales) = unsafe { panel.parts() };
    let sums = sums.as_chunks_mut::<4>().0.as_chunks_mut::<4>().0;
    // With room for the partner of a last column without one.
    let mut room = [[[[0.0; 4]; 4]; 2]; P];
    for (to, from) in room.as_flattened_mut().iter_mut().zip(&*sums) {
        *to = *from;
    }
    for k in 0..panel.n_records {
        // SAFETY: the caller's word.
        let x = columns.map(|pair| pair.map(|x| unsafe { &*x.add(k) }));
        let mut halves = [[[0.0; 8]; 2]; P];
        if M == 2 {
            for (halves, x) in halves.as_flattened_mut().iter_mut().zip(x.as_flattened()) {
                *halves = x.half_totals();
            }
        }
        for g in 0..G {
            let products = group::<P, G>(&codes[k], g, &x);
            let weights = &scales[k][g];
            for p in 0..P {
                for c in 0..2 {
                    let (to, x) = (&mut room[p][c], x[p][c]);
                    add_scaled(to, &products[p][c], weights, x.scales[g % 4]);
                    for m in 0..M {
                        let total = x.total::<M>(&halves[p][c], g, m);
                        subtract(to, &scales[k][4 + M * g + m], total);
                    }
                }
            }
        }
    }
    for (to, from) in sums.iter_mut().zip(room.as_flattened()) {
        *to = *from;
    }
}

/// The products of one group with its pairs of columns, as whole numbers: by column, then by row.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn group<const P: usize, const G: usize>(
    codes: &RecordCodes,
    g: usize,
    x: &[[&Record; 2]; P],
) -> [[[int32x4_t; 4]; 2]; P] {
    let mut sums = [[vdupq_n_s32(0); 8]; P];
    for i in 0..8 / G {
        // Which 16 of a record's numbers: first halves of all blocks precede the second halves.
        let at = if G == 1 { i } else { 4 * i + g };
        let x = x.map(|pair| pair.map(|x| load(x, 16 * at)));
        for (sums, [a, b]) in sums.iter_mut().zip(x) {
            let first = vreinterpretq_s8_s64(vzip1q_s64(a, b));
            let second = vreinterpretq_s8_s64(vzip2q_s64(a, b));
            for (sum, w) in sums.iter_mut().zip(&codes[2 * at]) {
                *sum = mmla(*sum, *w, first);
            }
            for (sum, w) in sums.iter_mut().zip(&codes[2 * at + 1]) {
                *sum = mmla(*sum, *w, second);
            }
        }
    }
    sums.map(|pairs| {
        let by_rows = |q: usize| (pairs[2 * q], pairs[2 * q + 1]);
        [
            std::array::from_fn(|q| vuzp1q_s32(by_rows(q).0, by_rows(q).1)),
            std::array::from_fn(|q| vuzp2q_s32(by_rows(q).0, by_rows(q).1)),
        ]
    })
}

/// 16 of a record's numbers.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn load(x: &Record, at: usize) -> int64x2_t {
    let numbers = &x.q[at..at + 16];
    // SAFETY: 16 bytes.
    vreinterpretq_s64_s8(unsafe { vld1q_s8(numbers.as_ptr()) })
}
