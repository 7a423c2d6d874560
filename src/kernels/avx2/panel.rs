//! Unpacking 16 rows for the tiles.

use std::arch::x86_64::*;

use super::codes::{Codes, number};
use super::planes::part as bits_of;
use super::tile::{self, PANEL_ROWS, Scales};
use crate::kernels::few::rests;
use crate::kernels::format::with_codes;
use crate::kernels::levels::Levels;
use crate::kernels::panel::{Ahead, Digits, Panel, SCALES};
use crate::kernels::{RECORD_WEIGHTS, Rows, Scaling};

/// Takes records `first ..` of rows `row ..`, as many as fit and are there. Rows past the end repeat the last one. `WHOLE`
/// for weights in one piece of 8 bits, else in digits.
///
/// # Safety
/// The rows are there, and the CPU has what [`super::PLAIN`] asks for.
pub unsafe fn unpack<const WHOLE: bool>(panel: &mut Panel, rows: &Rows, row: usize, first: usize) {
    panel.start(rows, first);
    let mut ahead = Ahead::new(rows, row + PANEL_ROWS, first, PANEL_ROWS, 2);
    for half in 0..PANEL_ROWS / 8 {
        let row = |r: usize| rows.row((row + 8 * half + r).min(rows.n_rows - 1));
        let part = Part {
            rows: std::array::from_fn(row),
            half,
            width: rows.width,
            first,
        };
        // SAFETY: the caller's word.
        unsafe {
            with_codes!(
                avx2, rows.format,
                F => blocks::<F, WHOLE>(panel, &part, &mut ahead),
                planes::<WHOLE>(panel, &Levels::new(rows), &part, &mut ahead)
            );
        }
    }
}

/// Eight of a panel's rows.
struct Part {
    rows: [*const u8; 8],
    half: usize,
    width: usize,
    first: usize,
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn blocks<F: Codes, const WHOLE: bool>(panel: &mut Panel, part: &Part, ahead: &mut Ahead) {
    let n_records = panel.n_records;
    let one = WHOLE || F::FIT > 0;
    panel.digits = Digits {
        base: F::BASE.unwrap_or(128),
        first: if one { 1 } else { 16 },
        second: u8::from(!one),
    };
    // SAFETY: arrays of registers.
    let (codes, by_block): (&mut tile::Codes, &mut Scales) = unsafe { panel.parts_mut() };
    for (k, by_block) in by_block.iter_mut().enumerate().take(n_records) {
        let at = part.first + k;
        let left = part.width - at * RECORD_WEIGHTS;
        ahead.go_on();
        // SAFETY: the caller's word; what is left of a record is copied to where a whole one can be read.
        unsafe {
            let to = (&mut *codes, k, by_block);
            let (unit, i) = (at / F::RECORDS, at % F::RECORDS);
            if left >= RECORD_WEIGHTS {
                let here = part.rows.map(|row| row.wrapping_add(unit * F::UNIT_BYTES));
                record::<F, WHOLE>(&here, i, part.half, to);
            } else {
                let rests = rests(&part.rows, part.width, F::UNIT_BYTES / 4).unwrap_or([[0; _]; _]);
                record::<F, WHOLE>(
                    &std::array::from_fn(|r| rests[r].as_ptr()),
                    0,
                    part.half,
                    to,
                );
            }
        }
    }
}

/// Record `i` of a unit of eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn record<F: Codes, const WHOLE: bool>(
    rows: &[*const u8; 8],
    i: usize,
    half: usize,
    (codes, k, by_block): (&mut tile::Codes, usize, &mut [[__m256; 2]; SCALES]),
) {
    for pair in 0..2 {
        let mut low = [_mm256_setzero_si256(); 8];
        let mut high = low;
        for ((row, low), high) in rows.iter().zip(&mut low).zip(&mut high) {
            // SAFETY: the caller's word.
            (*low, *high) = unsafe { F::pair(*row, 2 * i + pair) };
        }
        for (first, weights) in [(8 * pair, low), (16 + 8 * pair, high)] {
            for (step, weights) in (first..).zip(transpose(&weights)) {
                // SAFETY: the caller's word.
                unsafe {
                    if WHOLE || F::FIT > 0 {
                        codes[k][step][half] = F::unsigned(weights);
                    } else {
                        codes[2 * k + half][step] = F::digits(weights);
                    }
                }
            }
        }
    }
    // SAFETY: the caller's word.
    let scales = rows.map(|row| _mm256_castps_si256(unsafe { F::scales(row, i) }));
    let n = match F::SCALING {
        Scaling::Minimums | Scaling::Halves => 8,
        _ => 4,
    };
    for (to, scales) in by_block.iter_mut().zip(&transpose(&scales)[..n]) {
        to[half] = _mm256_castsi256_ps(*scales);
    }
    if F::SCALING == Scaling::HalfMinimums {
        // SAFETY: the caller's word.
        let minimums = rows.map(|row| _mm256_castps_si256(unsafe { F::half_minimums(row, i) }));
        for (to, minimum) in by_block[4..].iter_mut().zip(transpose(&minimums)) {
            to[half] = _mm256_castsi256_ps(minimum);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn planes<const WHOLE: bool>(
    panel: &mut Panel,
    levels: &Levels,
    part: &Part,
    ahead: &mut Ahead,
) {
    const BLOCK: usize = 18;
    let n_records = panel.n_records;
    let digits = levels.digits();
    panel.digits = digits;
    // SAFETY: arrays of registers.
    let (codes, scales): (&mut tile::Codes, &mut Scales) = unsafe { panel.parts_mut() };
    // SAFETY: the caller's word; eight numbers.
    let by_row = unsafe {
        let by_row = part
            .rows
            .map(|row| levels.scale(row, part.width, |h| number(h)));
        _mm256_loadu_ps(by_row.as_ptr())
    };
    let second_plane = part.width / RECORD_WEIGHTS * BLOCK;
    for k in 0..n_records {
        ahead.go_on();
        let bits = part.rows.map(|row| {
            let bits = row.wrapping_add(BLOCK * (part.first + k) + 2);
            // SAFETY: the caller's word: 16 bytes of bits in each block of both halves.
            unsafe {
                (
                    _mm_loadu_si128(bits.cast()),
                    _mm_loadu_si128(bits.wrapping_add(second_plane).cast()),
                )
            }
        });
        for i in 0..4 {
            let first = transpose(&bits.map(|(first, _)| bits_of(first, i)));
            let second = transpose(&bits.map(|(_, second)| bits_of(second, i)));
            for (step, bits) in (8 * i..).zip(first.into_iter().zip(second)) {
                if WHOLE {
                    codes[k][step][part.half] = weights(bits, digits);
                } else {
                    codes[2 * k + part.half][step] = [bits.0, bits.1];
                }
            }
        }
        scales[k][0][part.half] = by_row;
    }
}

/// Weights of two bits, in one piece.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn weights((first, second): (__m256i, __m256i), digits: Digits) -> __m256i {
    let times = |bits, factor: u8| {
        let all = _mm256_sub_epi8(_mm256_setzero_si256(), bits);
        _mm256_and_si256(all, _mm256_set1_epi8(factor.cast_signed()))
    };
    _mm256_add_epi8(times(first, digits.first), times(second, digits.second))
}

/// Transposes eight rows of eight lanes of 32 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose(x: &[__m256i; 8]) -> [__m256i; 8] {
    let low = |i: usize| _mm256_unpacklo_epi32(x[i], x[i + 1]);
    let high = |i: usize| _mm256_unpackhi_epi32(x[i], x[i + 1]);
    // Lane group j of four[c][i] holds column 4j + c of rows 4i to 4i + 3.
    let four = |i: usize| {
        let (a, b, c, d) = (low(i), high(i), low(i + 2), high(i + 2));
        [
            _mm256_unpacklo_epi64(a, c),
            _mm256_unpackhi_epi64(a, c),
            _mm256_unpacklo_epi64(b, d),
            _mm256_unpackhi_epi64(b, d),
        ]
    };
    let (upper, lower) = (four(0), four(4));
    std::array::from_fn(|i| {
        let (a, b) = (upper[i % 4], lower[i % 4]);
        if i < 4 {
            _mm256_permute2x128_si256::<0x20>(a, b)
        } else {
            _mm256_permute2x128_si256::<0x31>(a, b)
        }
    })
}
