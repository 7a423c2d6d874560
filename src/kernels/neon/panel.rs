//! Unpacking 16 rows for the tiles.

use std::arch::aarch64::*;

use super::codes::{self, at_bit, number};
use super::tile::{PANEL_ROWS, Scales};
use crate::kernels::few::rests;
use crate::kernels::format::with_codes;
use crate::kernels::levels::Levels;
use crate::kernels::panel::{Ahead, PANEL_RECORDS, Panel, SCALES};
use crate::kernels::{RECORD_WEIGHTS, Rows, Scaling};

/// Takes records `first ..` of rows `row ..`, as many as fit and are there. Rows past the end repeat the last one. `PAIRS`
/// for products of matrices: eight weights of two rows side by side, else four of four.
///
/// # Safety
/// The rows are there, and the CPU has what [`super::DOT`] asks for.
pub unsafe fn unpack<const PAIRS: bool>(panel: &mut Panel, rows: &Rows, row: usize, first: usize) {
    panel.start(rows, first);
    let mut ahead = Ahead::new(rows, row + PANEL_ROWS, first, PANEL_ROWS, PANEL_ROWS / 4);
    for quarter in 0..PANEL_ROWS / 4 {
        let row = |r: usize| rows.row((row + 4 * quarter + r).min(rows.n_rows - 1));
        let part = Part {
            rows: std::array::from_fn(row),
            quarter,
            width: rows.width,
            first,
        };
        // SAFETY: the caller's word.
        unsafe {
            with_codes!(
                neon, rows.format,
                F => blocks::<F, PAIRS>(panel, &part, &mut ahead),
                planes::<PAIRS>(panel, &Levels::new(rows), &part, &mut ahead)
            );
        }
    }
}

/// Four of a panel's rows.
struct Part {
    rows: [*const u8; 4],
    quarter: usize,
    width: usize,
    first: usize,
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn blocks<F: codes::Codes, const PAIRS: bool>(
    panel: &mut Panel,
    part: &Part,
    ahead: &mut Ahead,
) {
    let n_records = panel.n_records;
    // SAFETY: arrays of registers.
    let (codes, by_block): (&mut [RecordCodes; PANEL_RECORDS], &mut Scales) =
        unsafe { panel.parts_mut() };
    for k in 0..n_records {
        let at = part.first + k;
        let left = part.width - at * RECORD_WEIGHTS;
        ahead.go_on();
        // SAFETY: the caller's word; what is left of a record is copied to where a whole one can be read.
        unsafe {
            let to = (&mut codes[k], &mut by_block[k]);
            let (unit, i) = (at / F::RECORDS, at % F::RECORDS);
            if left >= RECORD_WEIGHTS {
                let here = part.rows.map(|row| row.wrapping_add(unit * F::UNIT_BYTES));
                record::<F, PAIRS>(&here, i, part.quarter, to);
            } else {
                let rests = rests(&part.rows, part.width, F::UNIT_BYTES / 4).unwrap_or([[0; _]; _]);
                let here = std::array::from_fn(|r| rests[r].as_ptr());
                record::<F, PAIRS>(&here, 0, part.quarter, to);
            }
        }
    }
}

/// Record `i` of a unit of four rows.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn record<F: codes::Codes, const PAIRS: bool>(
    rows: &[*const u8; 4],
    i: usize,
    quarter: usize,
    (codes, by_block): (&mut RecordCodes, &mut [[float32x4_t; 4]; SCALES]),
) {
    for block in 0..4 {
        // SAFETY: the caller's word.
        let halves = rows.map(|row| unsafe { F::block(row, 4 * i + block) });
        put::<PAIRS>(codes, block, quarter, halves.map(|(low, _)| low));
        put::<PAIRS>(codes, 4 + block, quarter, halves.map(|(_, high)| high));
    }
    // SAFETY: the caller's word.
    let scales = rows.map(|row| unsafe { F::scales(row, i) });
    let n = match F::SCALING {
        Scaling::Minimums | Scaling::Halves => 2,
        _ => 1,
    };
    for (kind, to) in by_block.chunks_exact_mut(4).take(n).enumerate() {
        let scales = scales.map(|scales| vreinterpretq_s8_f32(scales[kind]));
        for (to, scales) in to.iter_mut().zip(transpose(scales)) {
            to[quarter] = vreinterpretq_f32_s8(scales);
        }
    }
    if F::SCALING == Scaling::HalfMinimums {
        // SAFETY: the caller's word.
        let minimums = rows.map(|row| unsafe { F::half_minimums(row, i) });
        for (part, to) in by_block[4..].chunks_exact_mut(4).enumerate() {
            let minimums = minimums.map(|minimums| vreinterpretq_s8_f32(minimums[part]));
            for (to, minimum) in to.iter_mut().zip(transpose(minimums)) {
                to[quarter] = vreinterpretq_f32_s8(minimum);
            }
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn planes<const PAIRS: bool>(
    panel: &mut Panel,
    levels: &Levels,
    part: &Part,
    ahead: &mut Ahead,
) {
    const BLOCK: usize = 18;
    let n_records = panel.n_records;
    // SAFETY: arrays of registers.
    let (codes, scales): (&mut [RecordCodes; PANEL_RECORDS], &mut Scales) =
        unsafe { panel.parts_mut() };
    // SAFETY: the caller's word; four numbers.
    let by_row = unsafe {
        let by_row = part
            .rows
            .map(|row| levels.scale(row, part.width, |h| number(h)));
        vld1q_f32(by_row.as_ptr())
    };
    let digits = levels.digits();
    let [base, first, second] = [digits.base.wrapping_neg(), digits.first, digits.second]
        .map(|v| vdupq_n_s8(v.cast_signed()));
    let second_plane = part.width / RECORD_WEIGHTS * BLOCK;
    for k in 0..n_records {
        ahead.go_on();
        let bits = part.rows.map(|row| {
            let bits = row.wrapping_add(BLOCK * (part.first + k) + 2);
            // SAFETY: the caller's word: 16 bytes of bits in each block of both halves.
            unsafe { (vld1q_u8(bits), vld1q_u8(bits.wrapping_add(second_plane))) }
        });
        for bit in 0..8 {
            let weights = bits.map(|(bits, others)| {
                let w = vaddq_s8(base, vandq_s8(at_bit(bits, bit), first));
                vaddq_s8(w, vandq_s8(at_bit(others, bit), second))
            });
            put::<PAIRS>(&mut codes[k], bit, part.quarter, weights);
        }
        scales[k][0][part.quarter] = by_row;
    }
}

/// A record of 16 rows.
type RecordCodes = [int8x16_t; RECORD_WEIGHTS];

/// Puts down the `at`-th 16 weights of four rows.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn put<const PAIRS: bool>(
    codes: &mut RecordCodes,
    at: usize,
    quarter: usize,
    rows: [int8x16_t; 4],
) {
    if PAIRS {
        let [a, b, c, d] = rows.map(|row| vreinterpretq_s64_s8(row));
        let first = [vzip1q_s64(a, b), vzip1q_s64(c, d)];
        let second = [vzip2q_s64(a, b), vzip2q_s64(c, d)];
        for (i, two) in [first, second].into_iter().enumerate() {
            for (p, pair) in two.into_iter().enumerate() {
                codes[8 * (2 * at + i) + 2 * quarter + p] = vreinterpretq_s8_s64(pair);
            }
        }
    } else {
        for (i, weights) in transpose(rows).into_iter().enumerate() {
            codes[4 * (4 * at + i) + quarter] = weights;
        }
    }
}

/// Transposes four rows of four lanes of 32 bits.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn transpose(rows: [int8x16_t; 4]) -> [int8x16_t; 4] {
    let [a, b, c, d] = rows.map(|row| vreinterpretq_s32_s8(row));
    let pair = |x, y| (vreinterpretq_s64_s32(x), vreinterpretq_s64_s32(y));
    let (ab0, cd0) = pair(vtrn1q_s32(a, b), vtrn1q_s32(c, d));
    let (ab1, cd1) = pair(vtrn2q_s32(a, b), vtrn2q_s32(c, d));
    [
        vreinterpretq_s8_s64(vtrn1q_s64(ab0, cd0)),
        vreinterpretq_s8_s64(vtrn1q_s64(ab1, cd1)),
        vreinterpretq_s8_s64(vtrn2q_s64(ab0, cd0)),
        vreinterpretq_s8_s64(vtrn2q_s64(ab1, cd1)),
    ]
}
