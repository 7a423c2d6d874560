//! Sums of weighted values.

use std::ops::Range;

use super::table::{Table, Weights};
use super::vector::{Element, Vector, Work};
use super::{Block, Chunk, HIDDEN};

/// The sums of a block's rows: `out[row][column]`. `MANY` rows go together where reading values is cheap.
///
/// # Safety
/// Values, weights of the range and mask are there, `out` has room for all rows, and the machine has the instructions
/// of `V`.
pub(super) unsafe fn weigh<V: Vector, E: Element, const MANY: bool>(
    c: &Chunk,
    block: &Block,
    (v, weights): (&Table, &Weights),
    range: &Range<usize>,
    out: &mut [f32],
) {
    let room = c.a.value_room();
    let together = match (MANY, V::REGISTERS) {
        (false, n) => n / 8,
        (true, 32..) => 8,
        (true, _) => 6,
    };
    let mut row = 0;
    // SAFETY: the caller's word.
    unsafe {
        while row < block.n {
            let sums = Sums {
                v,
                weights: weights.below(row),
                range,
                out: out.as_mut_ptr().add(row * room),
                room,
            };
            row += match (block.n - row).min(together) {
                1 => V::run::<E, _>(Rows::<1>(sums)),
                2 => V::run::<E, _>(Rows::<2>(sums)),
                3 => V::run::<E, _>(Rows::<3>(sums)),
                4 | 5 => V::run::<E, _>(Rows::<4>(sums)),
                6 | 7 => V::run::<E, _>(Rows::<6>(sums)),
                _ => V::run::<E, _>(Rows::<8>(sums)),
            };
        }
        for (row, out) in out.chunks_exact_mut(room).take(block.n).enumerate() {
            V::run::<E, _>(Seen {
                v,
                weights: weights.below(row),
                mask: c.mask(block, row),
                range,
                out,
            });
        }
    }
}

/// Sums of some rows.
struct Sums<'a> {
    v: &'a Table,
    weights: Weights,
    range: &'a Range<usize>,
    out: *mut f32,
    /// Numbers from a row of `out` to the next one.
    room: usize,
}

/// As many.
struct Rows<'a, const R: usize>(Sums<'a>);

impl<const R: usize> Work for Rows<'_, R> {
    type Output = usize;

    /// In tiles that leave registers for operands; says how many rows.
    #[inline(always)]
    unsafe fn run<V: Vector, E: Element>(self) -> usize {
        let wide = if 2 * 4 * R <= V::REGISTERS { 4 } else { 2 };
        let (width, mut column) = (self.0.v.width, 0);
        // SAFETY: the caller's word.
        unsafe {
            while column + wide * V::LANES <= width {
                match wide {
                    4 => self.0.tile::<V, E, R, 4>(column),
                    _ => self.0.tile::<V, E, R, 2>(column),
                }
                column += wide * V::LANES;
            }
            while column < width {
                self.0.tile::<V, E, R, 1>(column);
                column += V::LANES;
            }
        }
        R
    }
}

impl Sums<'_> {
    /// `C` registers of columns for `R` rows. A single one may end in columns that are not there.
    #[inline(always)]
    unsafe fn tile<V: Vector, E: Element, const R: usize, const C: usize>(&self, column: usize) {
        let v = self.v;
        let there = if C == 1 { v.width - column } else { V::LANES };
        // SAFETY: the caller's word.
        unsafe {
            let from: [_; C] = std::array::from_fn(|c| v.column::<E>(column + c * V::LANES));
            let mut sums = [[V::splat(0.0); C]; R];
            for key in self.range.clone() {
                if column == 0 && v.next > 0 {
                    v.ask_for_next::<E>(key);
                }
                let mut x = [V::splat(0.0); C];
                for (x, from) in x.iter_mut().zip(from) {
                    *x = V::load_some::<E>(from.wrapping_add(key * v.row), there);
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let w = V::splat(*self.weights.at(row, key));
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum = x.fma(w, *sum);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (c, sum) in sums.into_iter().enumerate() {
                    sum.store(self.out.add(row * self.room + column + c * V::LANES));
                }
            }
        }
    }
}

/// A row's sums again if they are not finite: what the row does not see is left out instead of weighted with zero.
struct Seen<'a> {
    v: &'a Table,
    weights: Weights,
    mask: &'a [u16],
    range: &'a Range<usize>,
    out: &'a mut [f32],
}

impl Work for Seen<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector, E: Element>(self) {
        let columns = || (0..self.v.width).step_by(V::LANES);
        let out = self.out.as_mut_ptr();
        // SAFETY: the caller's word: `out` has room for whole registers.
        unsafe {
            let mut check = V::splat(0.0);
            for column in columns() {
                check = V::load(out.add(column)).fma(V::splat(0.0), check);
            }
            if check.numbers().iter().all(|x| *x == 0.0) {
                return;
            }
            for column in columns() {
                let from = self.v.column::<E>(column);
                let there = self.v.width - column;
                let mut sum = V::splat(0.0);
                for key in self.range.clone().filter(|key| self.mask[*key] != HIDDEN) {
                    let x = V::load_some::<E>(from.wrapping_add(key * self.v.row), there);
                    sum = x.fma(V::splat(*self.weights.at(0, key)), sum);
                }
                sum.store(out.add(column));
            }
        }
    }
}
