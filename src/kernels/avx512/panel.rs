//! Unpacking 32 rows for the tiles.

use std::arch::x86_64::*;

use super::codes::Blocks;
use super::planes::Expand;
use super::sixteen::Anywhere;
use super::tile::{self, PANEL_ROWS, Scales};
use super::units::{Codes, RECORDS, number, transpose};
use crate::kernels::few::rests;
use crate::kernels::format::{with_blocks, with_k_quants};
use crate::kernels::levels::Levels;
use crate::kernels::panel::{Ahead, Panel, SCALES, STEPS};
use crate::kernels::{RECORD_WEIGHTS, Rows};

/// Takes records `first ..` of rows `row ..`, as many as fit and are there. Rows past the end repeat the last one.
///
/// # Safety
/// The rows are there, and the CPU has what [`super::ISA`] asks for.
pub unsafe fn unpack(panel: &mut Panel, rows: &Rows, row: usize, first: usize) {
    panel.start(rows, first);
    let mut ahead = Ahead::new(rows, row + PANEL_ROWS, first, PANEL_ROWS, 2);
    for half in 0..PANEL_ROWS / 16 {
        let row = |r: usize| rows.row((row + 16 * half + r).min(rows.n_rows - 1));
        let part = Part {
            rows: std::array::from_fn(row),
            half,
            width: rows.width,
            first,
        };
        // SAFETY: the caller's word.
        unsafe {
            with_blocks!(avx512, rows.format, F => blocks::<F>(panel, &part, &mut ahead),
                with_k_quants!(avx512, rows.format, F => units::<F>(panel, &part, &mut ahead),
                    planes(panel, &Levels::new(rows), &part, &mut ahead)));
        }
    }
}

/// 16 of a panel's rows.
struct Part {
    rows: [*const u8; 16],
    half: usize,
    width: usize,
    first: usize,
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn blocks<F: Blocks>(panel: &mut Panel, part: &Part, ahead: &mut Ahead) {
    let Part {
        ref rows,
        half,
        width,
        first,
    } = *part;
    let n_records = panel.n_records;
    // SAFETY: arrays of registers.
    let (all_codes, all_scales): (&mut tile::Codes, &mut Scales) = unsafe { panel.parts_mut() };
    for k in 0..n_records {
        let left = width - (first + k) * RECORD_WEIGHTS;
        ahead.go_on();
        // SAFETY: the caller's word: so many weights of each row are there.
        let rests = (left < RECORD_WEIGHTS).then(|| unsafe { rests(rows, width, F::BYTES) });
        let rests = rests.flatten().unwrap_or([[0; _]; 16]);
        let (here, at) = if left >= RECORD_WEIGHTS {
            (*rows, 4 * (first + k) * F::BYTES)
        } else {
            (std::array::from_fn(|r| rests[r].as_ptr()), 0)
        };
        // SAFETY: as above; what is left of a record was copied to where a whole one can be read.
        unsafe { record::<F>(&here, at, half, &mut all_codes[k], &mut all_scales[k]) };
    }
}

/// Unpacks the record `at` bytes into 16 rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn record<F: Blocks>(
    rows: &[*const u8; 16],
    at: usize,
    half: usize,
    codes: &mut [[__m512i; 2]; STEPS],
    scales: &mut [[__m512; 2]; SCALES],
) {
    for b in 0..4 {
        let at = at + b * F::BYTES;
        // SAFETY: the caller's word.
        let weights = unsafe { F::block(Anywhere { rows, at }) };
        let (first, second) = weights.split_at(4);
        for i in 0..4 {
            codes[4 * b + i][half] = first[i];
            codes[16 + 4 * b + i][half] = second[i];
        }
    }
    // SAFETY: as above.
    let of_blocks = unsafe { F::scales(Anywhere { rows, at }) };
    for (to, scale) in scales.iter_mut().zip(of_blocks) {
        to[half] = scale;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn units<F: Codes>(panel: &mut Panel, part: &Part, ahead: &mut Ahead) {
    let Part {
        ref rows,
        half,
        first,
        ..
    } = *part;
    let n_records = panel.n_records;
    // SAFETY: arrays of registers.
    let (all_codes, all_scales): (&mut tile::Codes, &mut Scales) = unsafe { panel.parts_mut() };
    for k in 0..n_records {
        let (unit, i) = ((first + k) / RECORDS, (first + k) % RECORDS);
        let here = rows.map(|row| row.wrapping_add(unit * F::UNIT_BYTES));
        ahead.go_on();
        // SAFETY: the caller's word: rows are of whole units.
        unsafe {
            F::codes16(&here, i, half, &mut all_codes[k]);
            F::scales16(&here, i, half, &mut all_scales[k]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn planes(panel: &mut Panel, levels: &Levels, part: &Part, ahead: &mut Ahead) {
    let Part {
        ref rows,
        half,
        width,
        first,
    } = *part;
    let n_records = panel.n_records;
    // SAFETY: arrays of registers.
    let (all_codes, all_scales): (&mut tile::Codes, &mut Scales) = unsafe { panel.parts_mut() };
    const BLOCK: usize = 18;
    // SAFETY: the caller's word; 16 numbers.
    let scales = unsafe {
        let scales: [f32; 16] =
            std::array::from_fn(|r| levels.scale(rows[r], width, |h| number(h)));
        _mm512_loadu_ps(scales.as_ptr())
    };
    let expand = Expand::new(levels);
    let second_plane = width / RECORD_WEIGHTS * BLOCK;
    for k in 0..n_records {
        ahead.go_on();
        for part in 0..2 {
            let mut codes = [_mm512_setzero_si512(); 16];
            for (to, row) in codes.iter_mut().zip(rows) {
                let bits = row.wrapping_add(BLOCK * (first + k) + 2 + 8 * part);
                // SAFETY: the caller's word: 16 bytes of bits in each block of both halves.
                *to = unsafe { expand.weights(bits, bits.wrapping_add(second_plane)) };
            }
            transpose(&mut codes);
            for (step, codes) in all_codes[k][16 * part..].iter_mut().zip(codes) {
                step[half] = codes;
            }
        }
        all_scales[k][0][half] = scales;
    }
}
