//! Unpacking 32 rows for the tiles.

use std::arch::x86_64::*;

use super::codes::{Codes, EightBit, FourBit, transpose};
use super::planes::{Expand, Levels};
use super::tile::{PANEL_RECORDS, PANEL_ROWS, Panel};
use crate::kernels::{Format, RECORD_WEIGHTS, Rows};

impl Panel {
    /// Takes records `first ..` of rows `row ..`, as many as fit and are there. Rows past the end repeat the last one.
    ///
    /// # Safety
    /// The rows are there, and the CPU has what [`super::available`] asks for.
    pub unsafe fn unpack(&mut self, rows: &Rows, row: usize, first: usize) {
        let n_records = rows.width.div_ceil(RECORD_WEIGHTS);
        self.n_records = (n_records - first).min(PANEL_RECORDS);
        self.per_record = if rows.format == Format::Planes { 1 } else { 4 };
        let mut ahead = Ahead::new(rows, row + PANEL_ROWS, first);
        for half in 0..PANEL_ROWS / 16 {
            let row = |r: usize| rows.row((row + 16 * half + r).min(rows.n_rows - 1));
            let sixteen: [*const u8; 16] = std::array::from_fn(row);
            // SAFETY: the caller's word.
            unsafe {
                match rows.format {
                    Format::Iq4Nl => {
                        self.blocks::<FourBit<false>>(&sixteen, half, rows.width, first, &mut ahead)
                    }
                    Format::Q4_0 => {
                        self.blocks::<FourBit<true>>(&sixteen, half, rows.width, first, &mut ahead)
                    }
                    Format::Q8_0 => {
                        self.blocks::<EightBit>(&sixteen, half, rows.width, first, &mut ahead)
                    }
                    Format::Planes => self.planes(
                        &Levels::new(rows),
                        &sixteen,
                        half,
                        rows.width,
                        first,
                        &mut ahead,
                    ),
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    unsafe fn blocks<F: Codes>(
        &mut self,
        rows: &[*const u8; 16],
        half: usize,
        width: usize,
        first: usize,
        ahead: &mut Ahead,
    ) {
        for k in 0..self.n_records {
            let at = (first + k) * F::BYTES;
            let left = width - (first + k) * RECORD_WEIGHTS;
            let codes = &mut self.codes[k];
            ahead.go_on();
            // SAFETY: the caller's word; what is left of a record is copied to where a whole one can be read.
            let scales = unsafe {
                if left >= RECORD_WEIGHTS {
                    let here: [_; 16] = std::array::from_fn(|r| rows[r].wrapping_add(at));
                    F::load16(&here, half, codes)
                } else {
                    let mut rest = [[0u8; 4 * 34]; 16];
                    for (row, rest) in rows.iter().zip(&mut rest) {
                        let from = row.wrapping_add(at);
                        rest.as_mut_ptr()
                            .copy_from_nonoverlapping(from, left / 32 * F::BLOCK_BYTES);
                    }
                    let here: [_; 16] = std::array::from_fn(|r| rest[r].as_ptr());
                    F::load16(&here, half, codes)
                }
            };
            for (b, s) in scales.iter().enumerate() {
                self.scales[4 * k + b][half] = *s;
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    unsafe fn planes(
        &mut self,
        levels: &Levels,
        rows: &[*const u8; 16],
        half: usize,
        width: usize,
        first: usize,
        ahead: &mut Ahead,
    ) {
        const BLOCK: usize = 18;
        // SAFETY: the caller's word; 16 numbers.
        let scales = unsafe {
            let scales: [f32; 16] = std::array::from_fn(|r| levels.scale(rows[r], width));
            _mm512_loadu_ps(scales.as_ptr())
        };
        let expand = Expand::new(levels);
        let second_plane = width / RECORD_WEIGHTS * BLOCK;
        for k in 0..self.n_records {
            ahead.go_on();
            for part in 0..2 {
                let mut codes = [_mm512_setzero_si512(); 16];
                for (to, row) in codes.iter_mut().zip(rows) {
                    let bits = row.wrapping_add(BLOCK * (first + k) + 2 + 8 * part);
                    // SAFETY: the caller's word: 16 bytes of bits in each block of both halves.
                    *to = unsafe { expand.weights(bits, bits.wrapping_add(second_plane)) };
                }
                transpose(&mut codes);
                for (step, codes) in self.codes[k][16 * part..].iter_mut().zip(codes) {
                    step[half] = codes;
                }
            }
            self.scales[k][half] = scales;
        }
    }
}

/// Asks for the next panel's rows while this one's are unpacked, little by little. Rows that follow each other are one
/// stream of bytes; read as 32 streams no prefetcher follows them.
struct Ahead {
    next: *const u8,
    step: usize,
}

impl Ahead {
    /// From record `first` of a panel on, for the panel that begins with `row`, which need not be there.
    fn new(rows: &Rows, row: usize, first: usize) -> Self {
        let n_records = rows.width.div_ceil(RECORD_WEIGHTS);
        let step = (PANEL_ROWS / 2 * rows.stride).div_ceil(n_records);
        Self {
            next: rows.row(row).wrapping_add(2 * first * step),
            step,
        }
    }

    #[inline(always)]
    fn go_on(&mut self) {
        for at in (0..self.step).step_by(64) {
            // SAFETY: a prefetch never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next.wrapping_add(at).cast()) };
        }
        self.next = self.next.wrapping_add(self.step);
    }
}
