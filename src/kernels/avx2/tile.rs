//! Many columns: 16 unpacked rows times 4 columns at a time.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::kernels::panel::{Digits, PANEL_RECORDS, Panel, SCALES, STEPS, step};
use crate::kernels::{Format, Record};

/// Rows of a panel: two registers.
pub const PANEL_ROWS: usize = 16;
/// Columns of a tile: 8 sums and what is multiplied fit the registers.
pub const TILE_COLUMNS: usize = 4;

/// A panel's weights. Of one digit: both halves of the rows, record by record. Of two: both digits, for each record of a
/// half after the other.
pub type Codes = [[[__m256i; 2]; STEPS]; 2 * PANEL_RECORDS];
/// A panel's scales, record by record.
pub type Scales = [[[__m256; 2]; SCALES]; PANEL_RECORDS];

/// Adds the panel's products with up to [`TILE_COLUMNS`] columns to `sums`. A column starts at the panel's first record.
///
/// # Safety
/// Each column has as many records as the panel, and the CPU has what [`super::PLAIN`] asks for.
pub unsafe fn tile(panel: &Panel, columns: &[*const Record], sums: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe {
        match *columns {
            [a] => by_format(panel, [a], sums),
            [a, b] => by_format(panel, [a, b], sums),
            [a, b, c] => by_format(panel, [a, b, c], sums),
            [a, b, c, d] => by_format(panel, [a, b, c, d], sums),
            _ => {}
        }
    }
}

unsafe fn by_format<const C: usize>(panel: &Panel, columns: [*const Record; C], sums: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe {
        match panel.format {
            Format::Planes => multiply::<C, 1, 0, 0>(panel, &columns, sums),
            Format::Q4_0 => multiply::<C, 4, 8, 0>(panel, &columns, sums),
            Format::Iq4Nl | Format::Q8_0 | Format::Q3K => {
                multiply::<C, 4, 0, 0>(panel, &columns, sums)
            }
            Format::Q4K => multiply::<C, 4, 8, 1>(panel, &columns, sums),
            Format::Q5K => multiply::<C, 4, 4, 1>(panel, &columns, sums),
            Format::Q6K => multiply::<C, 8, 2, 0>(panel, &columns, sums),
            Format::Q2K => multiply::<C, 4, 2, 2>(panel, &columns, sums),
        }
    }
}

/// `G` groups of weights with a scale of their own make a record, with `M` minimums each. `FIT` steps of products fit a sum of
/// 16 bits ([`super::codes::Codes::FIT`]); 0 if weights have two digits.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<const C: usize, const G: usize, const FIT: usize, const M: usize>(
    panel: &Panel,
    columns: &[*const Record; C],
    sums: &mut [f32],
) {
    // SAFETY: arrays of registers.
    let (codes, scales): (&Codes, &Scales) = unsafe { panel.parts() };
    let sums = sums.as_chunks_mut::<8>().0.as_chunks_mut::<2>().0;
    let Some(sums) = sums.first_chunk_mut::<C>() else {
        return;
    };
    let Digits {
        base,
        first,
        second,
    } = panel.digits;
    let [first, second] = [first, second].map(|v| _mm256_set1_epi16(v.into()));
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
            // Records keep -128 times the sum.
            let without = x.map(|x| _mm256_set1_epi32((x.sum::<G>(g) >> 7) * i32::from(base)));
            for m in 0..M {
                let totals = std::array::from_fn(|c| x[c].total::<M>(&halves[c], g, m));
                subtract::<C>(&mut sums[..], &scales[k][4 + M * g + m], totals);
            }
            let scales = &scales[k][g];
            if FIT >= STEPS / G {
                let digits = digits::<C, G>(&codes[k], g, &x);
                for c in 0..C {
                    for half in 0..2 {
                        let all = _mm256_madd_epi16(digits[c][half], first);
                        let all = _mm256_add_epi32(all, without[c]);
                        add(&mut sums[c][half], all, scales[half], x[c].scales[g % 4]);
                    }
                }
                continue;
            }
            if FIT > 0 {
                for half in 0..2 {
                    let all = in_parts::<C, G, FIT>(&codes[k], half, g, &x, without);
                    for c in 0..C {
                        add(&mut sums[c][half], all[c], scales[half], x[c].scales[g % 4]);
                    }
                }
                continue;
            }
            for half in 0..2 {
                let digits = digits::<C, G>(&codes[2 * k + half], g, &x);
                for c in 0..C {
                    let upper = _mm256_madd_epi16(digits[c][0], first);
                    let lower = _mm256_madd_epi16(digits[c][1], second);
                    let all = _mm256_add_epi32(_mm256_add_epi32(upper, lower), without[c]);
                    add(&mut sums[c][half], all, scales[half], x[c].scales[g % 4]);
                }
            }
        }
    }
}

/// `to += minimums * x`, where `x` is less a sum of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn subtract<const C: usize>(to: &mut [[[f32; 8]; 2]], minimums: &[__m256; 2], x: [f32; C]) {
    for (to, x) in to.iter_mut().zip(x) {
        for (to, minimum) in to.iter_mut().zip(minimums) {
            // SAFETY: eight numbers.
            unsafe {
                let sum = _mm256_loadu_ps(to.as_ptr());
                let sum = _mm256_fmadd_ps(*minimum, _mm256_set1_ps(x), sum);
                _mm256_storeu_ps(to.as_mut_ptr(), sum);
            }
        }
    }
}

/// Sums of pairs of a group's products with each of its two registers of digits, in 16 bits: 8 steps of two products of
/// at most 15 * 127, or 32 of bits, fit.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn digits<const C: usize, const G: usize>(
    codes: &[[__m256i; 2]; STEPS],
    g: usize,
    x: &[&Record; C],
) -> [[__m256i; 2]; C] {
    let mut sums = [[_mm256_setzero_si256(); 2]; C];
    let mut add = |step: usize| {
        for (sums, x) in sums.iter_mut().zip(x) {
            // SAFETY: a record has 32 times four numbers.
            let x = _mm256_set1_epi32(unsafe { x.q.as_ptr().cast::<i32>().add(step).read() });
            for (sum, digit) in sums.iter_mut().zip(codes[step]) {
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(digit, x));
                pin(sum);
            }
        }
    };
    // By hand: loops with pins in them the compiler does not unroll.
    for first in (0..STEPS / G).step_by(4).map(|i| step::<G>(g, i)) {
        add(first);
        add(first + 1);
        add(first + 2);
        add(first + 3);
    }
    sums
}

/// `sums` and a group's products with half of the rows, of which `FIT` steps, 2 or 4, fit sums of 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn in_parts<const C: usize, const G: usize, const FIT: usize>(
    codes: &[[__m256i; 2]; STEPS],
    half: usize,
    g: usize,
    x: &[&Record; C],
    mut sums: [__m256i; C],
) -> [__m256i; C] {
    let product = |step: usize, x: &Record| {
        // SAFETY: a record has 32 times four numbers.
        let x = _mm256_set1_epi32(unsafe { x.q.as_ptr().cast::<i32>().add(step).read() });
        _mm256_maddubs_epi16(codes[step][half], x)
    };
    for first in (0..STEPS / G).step_by(FIT).map(|i| step::<G>(g, i)) {
        for (sum, x) in sums.iter_mut().zip(x) {
            let mut pairs = _mm256_add_epi16(product(first, x), product(first + 1, x));
            if FIT == 4 {
                let more = _mm256_add_epi16(product(first + 2, x), product(first + 3, x));
                pairs = _mm256_add_epi16(pairs, more);
            }
            let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            *sum = _mm256_add_epi32(*sum, fours);
        }
    }
    sums
}

/// Has a sum added up step by step: as a tree of all steps, as the compiler would have it, a tile does not fit the
/// registers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn pin(sum: &mut __m256i) {
    // SAFETY: there is no instruction.
    unsafe {
        asm!(
            "/* {} */",
            inout(ymm_reg) * sum,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
}

/// `to += products * weights * x`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn add(to: &mut [f32; 8], products: __m256i, weights: __m256, x: f32) {
    let scale = _mm256_mul_ps(weights, _mm256_set1_ps(x));
    // SAFETY: eight numbers.
    unsafe {
        let sum = _mm256_loadu_ps(to.as_ptr());
        let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scale, sum);
        _mm256_storeu_ps(to.as_mut_ptr(), sum);
    }
}
