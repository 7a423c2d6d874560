//! Rows stay in registers while a few tokens pass, and the sums of 16 rows become 16 results at once.
//!
//! The order of a row's additions is always the same: columns one after another in each of 16 lanes, then lanes 8, 4, 2
//! and 1 apart. It depends neither on the number of tokens nor on which rows are at work together.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Machine, Pass, Scan, Share, TOKENS};

/// Numbers of a register; as many rows have their results written at once.
const LANES: usize = 16;

/// Rows in registers: keys and queries are loaded once for them, and one's additions need not wait for the other's.
const TOGETHER: usize = 2;

/// The lanes of 16 rows' results at each token.
type Sums = [[__m512; LANES]; TOKENS];

/// As [`super::scan`].
#[target_feature(enable = "avx512f")]
pub unsafe fn own_rows(scan: &Scan, share: Share) {
    // SAFETY: the caller's word.
    unsafe { super::own_rows::<Wide>(scan, share) }
}

struct Wide;

impl Machine for Wide {
    const ROWS: usize = LANES;
    type Room = Sums;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn room() -> Sums {
        [[_mm512_setzero_ps(); LANES]; TOKENS]
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn rows(pass: &Pass, rows: Range<usize>, sums: &mut Sums) {
        let mut row = rows.start;
        while row < rows.end {
            let sums = &mut sums.as_flattened_mut()[row - rows.start..];
            // SAFETY: the caller's word.
            unsafe {
                row += match rows.end - row {
                    TOGETHER.. => columns::<TOGETHER>(pass, row, sums.as_mut_ptr()),
                    _ => columns::<1>(pass, row, sums.as_mut_ptr()),
                };
            }
        }
        let mask = mask(rows.len());
        for (t, sums) in pass.tokens.clone().zip(sums) {
            // SAFETY: as above; rows beyond are masked.
            unsafe {
                let y = pass.results(t).add(rows.start);
                _mm512_mask_storeu_ps(y, mask, totals(sums));
            }
        }
    }
}

/// Lets the tokens pass `R` rows, as many columns at a time as registers can hold. Gives `R`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn columns<const R: usize>(pass: &Pass, row: usize, sums: *mut __m512) -> usize {
    let mut at = 0;
    while at < pass.scan.d_k {
        // SAFETY: the caller's word.
        unsafe {
            at += match (pass.scan.d_k - at) / LANES {
                8.. => registers::<R, 8>(pass, row, at, sums),
                4.. => registers::<R, 4>(pass, row, at, sums),
                2.. => registers::<R, 2>(pass, row, at, sums),
                _ => registers::<R, 1>(pass, row, at, sums),
            };
        }
    }
    R
}

/// Lets the tokens pass the columns of `N` registers from `at` on of `R` rows; `sums` are the rows' at the first
/// token. Gives the number of columns.
#[target_feature(enable = "avx512f")]
unsafe fn registers<const R: usize, const N: usize>(
    pass: &Pass,
    row: usize,
    at: usize,
    sums: *mut __m512,
) -> usize {
    let d_k = pass.scan.d_k;
    let part = Part {
        offset: row * d_k + at,
        d_k,
        mask: mask(d_k - at),
    };
    // SAFETY: the caller's word; what is beyond a row is masked.
    unsafe {
        let mut s: [[__m512; R]; N] = part.load(pass.from);
        let a = _mm512_set1_ps(pass.a);
        for (i, t) in pass.tokens.clone().enumerate() {
            let v = pass.values(t).as_ptr().add(row);
            let k = pass.k.as_ptr().add(i * d_k + at);
            let q = pass.q.as_ptr().add(i * d_k + at);
            let sums = sums.add(i * LANES).cast::<[__m512; R]>();
            let mut y = if at == 0 {
                [_mm512_setzero_ps(); R]
            } else {
                *sums
            };
            for (c, s) in s.iter_mut().enumerate() {
                let k = load::<N>(k.add(c * LANES), part.mask);
                let q = load::<N>(q.add(c * LANES), part.mask);
                for (r, (s, y)) in s.iter_mut().zip(&mut y).enumerate() {
                    let v = _mm512_set1_ps(*v.add(r));
                    *s = _mm512_fmadd_ps(*s, a, _mm512_mul_ps(v, k));
                    *y = _mm512_fmadd_ps(*s, q, *y);
                }
            }
            *sums = y;
            if let Some(older) = pass.older(t) {
                part.store(&s, older);
            }
        }
        part.store(&s, pass.newest());
    }
    N * LANES
}

/// Columns of a few rows of a head's state.
struct Part {
    /// The first number's place.
    offset: usize,
    /// Numbers from one row to the next.
    d_k: usize,
    mask: __mmask16,
}

impl Part {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load<const R: usize, const N: usize>(&self, from: *const f32) -> [[__m512; R]; N] {
        let mut s = [[_mm512_setzero_ps(); R]; N];
        for (c, s) in s.iter_mut().enumerate() {
            for (r, s) in s.iter_mut().enumerate() {
                // SAFETY: the caller's word.
                *s = unsafe {
                    load::<N>(from.add(self.offset + r * self.d_k + c * LANES), self.mask)
                };
            }
        }
        s
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store<const R: usize, const N: usize>(&self, s: &[[__m512; R]; N], to: *mut f32) {
        for (c, s) in s.iter().enumerate() {
            for (r, s) in s.iter().enumerate() {
                // SAFETY: the caller's word.
                unsafe {
                    let to = to.add(self.offset + r * self.d_k + c * LANES);
                    if N == 1 {
                        _mm512_mask_storeu_ps(to, self.mask, *s);
                    } else {
                        _mm512_storeu_ps(to, *s);
                    }
                };
            }
        }
    }
}

/// The lanes that `left` numbers fill.
fn mask(left: usize) -> __mmask16 {
    !0 >> LANES.saturating_sub(left)
}

/// One of `N` registers of a row: only one that is alone may be cut.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load<const N: usize>(from: *const f32, mask: __mmask16) -> __m512 {
    // SAFETY: the caller's word.
    unsafe {
        if N == 1 {
            _mm512_maskz_loadu_ps(mask, from)
        } else {
            _mm512_loadu_ps(from)
        }
    }
}

/// The sum of each register's lanes. Every step halves the lanes of two registers, and puts them into one.
#[inline]
#[target_feature(enable = "avx512f")]
fn totals(x: &[__m512; LANES]) -> __m512 {
    let mut eights = [x[0]; 8];
    for (i, to) in eights.iter_mut().enumerate() {
        let first = i / 4 * 8 + i % 4;
        *to = quarters::<0x44, 0xee>(x[first], x[first + 4]);
    }
    let mut fours = [x[0]; 4];
    for (i, to) in fours.iter_mut().enumerate() {
        *to = quarters::<0x88, 0xdd>(eights[i], eights[i + 4]);
    }
    let mut twos = [x[0]; 2];
    for (i, to) in twos.iter_mut().enumerate() {
        *to = lanes::<0x44, 0xee>(fours[2 * i], fours[2 * i + 1]);
    }
    lanes::<0x88, 0xdd>(twos[0], twos[1])
}

/// Adds two choices among the quarters of both registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters<const A: i32, const B: i32>(x: __m512, y: __m512) -> __m512 {
    _mm512_add_ps(
        _mm512_shuffle_f32x4::<A>(x, y),
        _mm512_shuffle_f32x4::<B>(x, y),
    )
}

/// Adds two choices among the lanes of each quarter.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes<const A: i32, const B: i32>(x: __m512, y: __m512) -> __m512 {
    _mm512_add_ps(_mm512_shuffle_ps::<A>(x, y), _mm512_shuffle_ps::<B>(x, y))
}
