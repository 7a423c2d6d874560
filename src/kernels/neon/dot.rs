//! Few columns with 128 bits.

use std::arch::aarch64::*;
use std::ops::Range;

use super::codes::{Codes, at_bit, number};
use super::ops;
use crate::kernels::few::{self, Few, Strip};
use crate::kernels::format::with_codes;
use crate::kernels::levels::Levels;
use crate::kernels::{Format, RECORD_WEIGHTS, Record, Rows, Scaling};

/// [`few::dot`] of this machine.
///
/// # Safety
/// As there.
pub unsafe fn dot(rows: &Rows, range: Range<usize>, columns: &[*const Record], out: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe { few::dot::<Neon>(rows, range, columns, out) }
}

struct Neon;

impl Few for Neon {
    const STREAMS: usize = 2;

    unsafe fn blocks<const R: usize, const C: usize>(
        format: Format,
        strip: &Strip<R>,
        columns: &[*const Record; C],
    ) -> [[f32; R]; C] {
        // SAFETY: the caller's word.
        unsafe { with_codes!(neon, format, F => coded::<F, R, C>(strip, columns), [[0.0; R]; C]) }
    }

    unsafe fn planes<const R: usize, const C: usize>(
        levels: &Levels,
        strip: &Strip<R>,
        columns: &[*const Record; C],
    ) -> [[f32; R]; C] {
        // SAFETY: the caller's word.
        unsafe { planes(levels, strip, columns) }
    }
}

/// 16 of a record's numbers.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn load(x: &Record, at: usize) -> int8x16_t {
    let numbers = &x.q[at..at + 16];
    // SAFETY: 16 bytes.
    unsafe { vld1q_s8(numbers.as_ptr()) }
}

/// The sum of four lanes of each block, as one lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn by_blocks([p, q, s, t]: [int32x4_t; 4]) -> float32x4_t {
    vcvtq_f32_s32(vpaddq_s32(vpaddq_s32(p, q), vpaddq_s32(s, t)))
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn coded<F: Codes, const R: usize, const C: usize>(
    strip: &Strip<R>,
    columns: &[*const Record; C],
) -> [[f32; R]; C] {
    // A copy: what is behind a pointer is read again after every prefetch.
    let strip = *strip;
    let mut sums = [[vdupq_n_f32(0.0); C]; R];
    for k in 0..strip.n_records {
        // SAFETY: the caller's word: record `k` of every row and column is there.
        let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
        strip.ask(k, F::UNIT_BYTES / F::RECORDS);
        let (unit, i) = (k / F::RECORDS, k % F::RECORDS);
        for (row, sums) in strip.rows.iter().zip(&mut sums) {
            let row = row.wrapping_add(unit * F::UNIT_BYTES);
            // SAFETY: as above.
            let [by_block, other] = unsafe { F::scales(row, i) };
            // Of first halves, and of second ones where they have scales of their own.
            let mut products = [[[vdupq_n_s32(0); 4]; 2]; C];
            let second = usize::from(F::SCALING == Scaling::Halves);
            for block in 0..4 {
                // SAFETY: as above.
                let (low, high) = unsafe { F::block(row, 4 * i + block) };
                for (products, x) in products.iter_mut().zip(x) {
                    let sum = &mut products[0][block];
                    *sum = ops::dot(*sum, low, load(x, 16 * block));
                    let sum = &mut products[second][block];
                    *sum = ops::dot(*sum, high, load(x, 64 + 16 * block));
                }
            }
            for c in 0..C {
                // SAFETY: four numbers each.
                let (scales, totals) = unsafe {
                    (
                        vld1q_f32(x[c].scales.as_ptr()),
                        vld1q_f32(x[c].totals.as_ptr()),
                    )
                };
                let all = by_blocks(products[c][0]);
                sums[c] = vfmaq_f32(sums[c], all, vmulq_f32(by_block, scales));
                match F::SCALING {
                    Scaling::Minimums => sums[c] = vfmaq_f32(sums[c], other, totals),
                    Scaling::Halves => {
                        let all = by_blocks(products[c][1]);
                        sums[c] = vfmaq_f32(sums[c], all, vmulq_f32(other, scales));
                    }
                    Scaling::HalfMinimums => {
                        // SAFETY: as above.
                        let minimums = unsafe { F::half_minimums(row, i) };
                        let totals = x[c].half_totals();
                        let totals = totals.as_chunks::<4>().0;
                        for (minimums, totals) in minimums.into_iter().zip(totals) {
                            // SAFETY: four numbers.
                            let totals = unsafe { vld1q_f32(totals.as_ptr()) };
                            sums[c] = vfmaq_f32(sums[c], minimums, totals);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    let mut out = [[0.0; R]; C];
    for r in 0..R {
        for c in 0..C {
            out[c][r] = vaddvq_f32(sums[r][c]);
        }
    }
    out
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn planes<const R: usize, const C: usize>(
    levels: &Levels,
    strip: &Strip<R>,
    columns: &[*const Record; C],
) -> [[f32; R]; C] {
    // A copy: what is behind a pointer is read again after every prefetch.
    let strip = *strip;
    const BLOCK: usize = 18;
    let mut sums = [[vdupq_n_f32(0.0); C]; R];
    let digits = levels.digits();
    let [base, first, second] = [digits.base, digits.first, digits.second].map(i32::from);
    for k in 0..strip.n_records {
        // SAFETY: the caller's word: record `k` of every column is there.
        let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
        strip.ask(k, 2 * BLOCK);
        for (row, sums) in strip.rows.iter().zip(&mut sums) {
            let bits = row.wrapping_add(BLOCK * k + 2);
            let others = bits.wrapping_add(BLOCK * strip.n_records);
            // SAFETY: the caller's word: 16 bytes of bits in each block.
            let (bits, others) = unsafe { (vld1q_u8(bits), vld1q_u8(others)) };
            // Of numbers that meet a set bit, less their sign.
            let mut met = [[vdupq_n_s32(0); 2]; C];
            for bit in 0..8 {
                let (bits, others) = (at_bit(bits, bit), at_bit(others, bit));
                for (met, x) in met.iter_mut().zip(x) {
                    let x = load(x, 16 * bit);
                    met[0] = ops::dot(met[0], bits, x);
                    met[1] = ops::dot(met[1], others, x);
                }
            }
            for c in 0..C {
                // The lowest level, less its sign, times the sum of all: records keep -128 times that.
                let all = vsetq_lane_s32::<0>(base * (x[c].sums[0] >> 7), vdupq_n_s32(0));
                let all = vmlsq_n_s32(all, met[c][0], first);
                let all = vcvtq_f32_s32(vmlsq_n_s32(all, met[c][1], second));
                sums[c] = vfmaq_n_f32(sums[c], all, x[c].scales[0]);
            }
        }
    }
    let mut out = [[0.0; R]; C];
    for r in 0..R {
        // SAFETY: the caller's word.
        let scale = unsafe {
            levels.scale(strip.rows[r], RECORD_WEIGHTS * strip.n_records, |h| {
                number(h)
            })
        };
        for c in 0..C {
            out[c][r] = vaddvq_f32(sums[r][c]) * scale;
        }
    }
    out
}
