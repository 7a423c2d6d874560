//! Many columns with an 8-bit dot product: 16 unpacked rows times 4 columns at a time.
//!
//! `vpdpbusd` has two encodings, which are two features to the compiler: the rest is the same.

use std::arch::x86_64::*;

use super::tile::{PANEL_ROWS, Scales, add, subtract};
use crate::kernels::panel::{PANEL_RECORDS, Panel, STEPS, step};
use crate::kernels::{Record, Scaling};

/// A panel's weights, too large by the first of its digits' numbers.
type Codes = [[[__m256i; 2]; STEPS]; PANEL_RECORDS];

macro_rules! tile_with {
    ($name:ident, $features:literal, $dot:ident) => {
        pub mod $name {
            use super::*;

            /// Adds the panel's products with up to four columns to `sums`. A column starts at the panel's first record.
            ///
            /// # Safety
            /// Each column has as many records as the panel, and the CPU has the features.
            pub unsafe fn tile(panel: &Panel, columns: &[*const Record], sums: &mut [f32]) {
                // SAFETY: the caller's word.
                unsafe {
                    match *columns {
                        [a] => by_groups(panel, [a], sums),
                        [a, b] => by_groups(panel, [a, b], sums),
                        [a, b, c] => by_groups(panel, [a, b, c], sums),
                        [a, b, c, d] => by_groups(panel, [a, b, c, d], sums),
                        _ => {}
                    }
                }
            }

            unsafe fn by_groups<const C: usize>(
                panel: &Panel,
                columns: [*const Record; C],
                sums: &mut [f32],
            ) {
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
            #[target_feature(enable = $features)]
            unsafe fn multiply<const C: usize, const G: usize, const M: usize>(
                panel: &Panel,
                columns: &[*const Record; C],
                sums: &mut [f32],
            ) {
                // SAFETY: arrays of registers.
                let (codes, scales): (&Codes, &Scales) = unsafe { panel.parts() };
                let sums = sums.as_chunks_mut::<8>().0.as_chunks_mut::<2>().0;
                const { assert!(PANEL_ROWS == 16) };
                let Some(sums) = sums.first_chunk_mut::<C>() else {
                    return;
                };
                let base = i32::from(panel.digits.base);
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
                        let mut products =
                            x.map(|x| [_mm256_set1_epi32((x.sum::<G>(g) >> 7) * base); 2]);
                        for i in 0..STEPS / G {
                            let step = step::<G>(g, i);
                            for (products, x) in products.iter_mut().zip(x) {
                                // SAFETY: a record has 32 times four numbers.
                                let x = unsafe { x.q.as_ptr().cast::<i32>().add(step).read() };
                                for (sum, w) in products.iter_mut().zip(codes[k][step]) {
                                    *sum = $dot(*sum, w, _mm256_set1_epi32(x));
                                }
                            }
                        }
                        for m in 0..M {
                            let totals = std::array::from_fn(|c| x[c].total::<M>(&halves[c], g, m));
                            subtract::<C>(&mut sums[..], &scales[k][4 + M * g + m], totals);
                        }
                        let weights = &scales[k][g];
                        for ((sums, products), x) in sums.iter_mut().zip(products).zip(x) {
                            for ((to, p), w) in sums.iter_mut().zip(products).zip(weights) {
                                add(to, p, *w, x.scales[g % 4]);
                            }
                        }
                    }
                }
            }
        }
    };
}

tile_with!(short, "avx2,fma,f16c,avxvnni", _mm256_dpbusd_avx_epi32);
tile_with!(
    long,
    "avx2,fma,f16c,avx512f,avx512vl,avx512vnni",
    _mm256_dpbusd_epi32
);
