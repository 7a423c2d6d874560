//! One column or a few more, of formats in blocks: four rows at a time.
//!
//! A dot product over a record of one row ends in 16 whole numbers, four of each block. Those of four rows are added up
//! crosswise until there is one for each block of each row, so that floating point has a quarter of the work. The same
//! numbers in the same order are what [`super::lanes`] adds up: a column's bits do not depend on how many there are.

use std::arch::x86_64::*;

use super::codes::Blocks;
use crate::kernels::few::Strip;
use crate::kernels::{RECORD_WEIGHTS, Record};

/// Up to so many columns of four bits are faster here than with a row in every lane.
pub const COLUMNS_OF_4_BITS: usize = 2;
/// The same of eight bits, whose lanes cost more.
pub const COLUMNS_OF_8_BITS: usize = 4;

/// Rows at a time.
const ROWS: usize = 4;

/// Products of up to four rows with `C` columns.
///
/// # Safety
/// As [`crate::kernels::few::Few::blocks`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub unsafe fn multiply<F: Blocks, const R: usize, const C: usize>(
    strip: &Strip<R>,
    columns: &[*const Record; C],
) -> [[f32; R]; C] {
    // A copy: what is behind a pointer is read again after every prefetch.
    let strip = *strip;
    let bytes = RECORD_WEIGHTS / 32 * F::BYTES;
    let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let mut sums = [_mm512_setzero_ps(); C];
    for k in 0..strip.n_records {
        strip.ask(k, bytes);
        // Where there are fewer than four, the last one comes again.
        let row = |r: usize| strip.rows[r.min(R - 1)].wrapping_add(k * bytes);
        let rows: [*const u8; ROWS] = std::array::from_fn(row);
        let mut weights = [(_mm512_setzero_si512(), _mm512_setzero_si512()); ROWS];
        for (row, weights) in rows.into_iter().zip(&mut weights) {
            // SAFETY: the caller's word: record `k` of every row and column is there.
            *weights = unsafe { F::record(row) };
        }
        // SAFETY: as above.
        let scales = unsafe { F::scales_of_four(rows) };
        for (column, sum) in columns.iter().zip(&mut sums) {
            // SAFETY: as above; a record is whole registers of numbers and sums, and four scales.
            let (first, second, init, by_x) = unsafe {
                let x = column.add(k);
                (
                    _mm512_load_si512((&raw const (*x).q).cast()),
                    _mm512_load_si512((&raw const (*x).q).cast::<i8>().add(64).cast()),
                    _mm512_load_si512((&raw const (*x).init).cast()),
                    _mm512_castps128_ps512(_mm_load_ps((&raw const (*x).scales).cast())),
                )
            };
            let mut lanes = [init; ROWS];
            for (lanes, (low, high)) in lanes.iter_mut().zip(weights) {
                *lanes = _mm512_dpbusd_epi32(*lanes, low, first);
                *lanes = _mm512_dpbusd_epi32(*lanes, high, second);
            }
            let scale = _mm512_mul_ps(scales, _mm512_permutexvar_ps(spread, by_x));
            *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(by_block(lanes)), scale, *sum);
        }
    }
    let mut products = [[0.0; R]; C];
    for (products, sum) in products.iter_mut().zip(sums) {
        let of_rows = by_row(sum);
        *products = std::array::from_fn(|r| of_rows[r]);
    }
    products
}

/// Four rows' four lanes for each block, added up: lane `4 * block + row`.
#[inline]
#[target_feature(enable = "avx512f")]
fn by_block([a, b, c, d]: [__m512i; ROWS]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// What the four blocks' sums of each row add up to.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn by_row(sums: __m512) -> [f32; ROWS] {
    let (low, high) = (
        _mm512_castps512_ps256(sums),
        _mm512_extractf32x8_ps::<1>(sums),
    );
    let (a, b) = (_mm256_castps256_ps128(low), _mm256_extractf128_ps::<1>(low));
    let (c, d) = (
        _mm256_castps256_ps128(high),
        _mm256_extractf128_ps::<1>(high),
    );
    let mut rows = [0.0; ROWS];
    // SAFETY: four numbers.
    unsafe {
        _mm_storeu_ps(
            rows.as_mut_ptr(),
            _mm_add_ps(_mm_add_ps(a, b), _mm_add_ps(c, d)),
        )
    };
    rows
}
