//! Many columns: 32 unpacked rows times 6 columns at a time.

use std::arch::x86_64::*;

use crate::kernels::panel::{PANEL_RECORDS, Panel, SCALES, STEPS, step};
use crate::kernels::{Record, Scaling};

/// Rows of a panel: two registers.
pub const PANEL_ROWS: usize = 32;
/// Columns of a tile: 12 sums of whole numbers and 12 of floating point fit the registers.
pub const TILE_COLUMNS: usize = 6;

/// A panel's weights plus 128.
pub type Codes = [[[__m512i; 2]; STEPS]; PANEL_RECORDS];
/// A panel's scales, record by record.
pub type Scales = [[[__m512; 2]; SCALES]; PANEL_RECORDS];

/// Adds the panel's products with up to [`TILE_COLUMNS`] columns to `sums`. A column starts at the panel's first record.
///
/// # Safety
/// Each column has as many records as the panel, and the CPU has what [`super::super::ISA`] asks for.
pub unsafe fn tile(panel: &Panel, columns: &[*const Record], sums: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe {
        match *columns {
            [a] => by_groups(panel, [a], sums),
            [a, b] => by_groups(panel, [a, b], sums),
            [a, b, c] => by_groups(panel, [a, b, c], sums),
            [a, b, c, d] => by_groups(panel, [a, b, c, d], sums),
            [a, b, c, d, e] => by_groups(panel, [a, b, c, d, e], sums),
            [a, b, c, d, e, f] => by_groups(panel, [a, b, c, d, e, f], sums),
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
unsafe fn multiply<const C: usize, const G: usize, const M: usize>(
    panel: &Panel,
    columns: &[*const Record; C],
    sums: &mut [f32],
) {
    // SAFETY: arrays of registers.
    let (codes, scales): (&Codes, &Scales) = unsafe { panel.parts() };
    let sums = sums.as_chunks_mut::<PANEL_ROWS>().0;
    let mut total = [[_mm512_setzero_ps(); 2]; C];
    for (total, sums) in total.iter_mut().zip(&*sums) {
        // SAFETY: 32 numbers.
        *total = unsafe {
            [
                _mm512_loadu_ps(sums.as_ptr()),
                _mm512_loadu_ps(sums.as_ptr().add(16)),
            ]
        };
    }
    for k in 0..panel.n_records {
        // SAFETY: the caller's word.
        let x: [&Record; C] = std::array::from_fn(|c| unsafe { &*columns[c].add(k) });
        let (codes, scales) = (&codes[k], &scales[k]);
        let mut halves = [[0.0; 8]; C];
        if M == 2 {
            for (halves, x) in halves.iter_mut().zip(x) {
                *halves = x.half_totals();
            }
        }
        for g in 0..G {
            let mut t = [[_mm512_setzero_si512(); 2]; C];
            for (t, x) in t.iter_mut().zip(x) {
                *t = [_mm512_set1_epi32(x.sum::<G>(g)); 2];
            }
            for i in 0..STEPS / G {
                let step = step::<G>(g, i);
                let [a, b] = codes[step];
                for (t, x) in t.iter_mut().zip(x) {
                    // SAFETY: a record has 32 times four numbers.
                    let q = unsafe { x.q.as_ptr().cast::<i32>().add(step).read() };
                    let q = _mm512_set1_epi32(q);
                    t[0] = _mm512_dpbusd_epi32(t[0], a, q);
                    t[1] = _mm512_dpbusd_epi32(t[1], b, q);
                }
            }
            let [a, b] = scales[g];
            for ((t, x), total) in t.iter().zip(x).zip(&mut total) {
                let scale = _mm512_set1_ps(x.scales[g % 4]);
                total[0] =
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(t[0]), _mm512_mul_ps(a, scale), total[0]);
                total[1] =
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(t[1]), _mm512_mul_ps(b, scale), total[1]);
            }
            for m in 0..M {
                let [a, b] = scales[4 + M * g + m];
                for ((x, halves), total) in x.iter().zip(&halves).zip(&mut total) {
                    let x = _mm512_set1_ps(x.total::<M>(halves, g, m));
                    total[0] = _mm512_fmadd_ps(a, x, total[0]);
                    total[1] = _mm512_fmadd_ps(b, x, total[1]);
                }
            }
        }
    }
    for (total, sums) in total.iter().zip(sums) {
        // SAFETY: 32 numbers.
        unsafe {
            _mm512_storeu_ps(sums.as_mut_ptr(), total[0]);
            _mm512_storeu_ps(sums.as_mut_ptr().add(16), total[1]);
        }
    }
}
