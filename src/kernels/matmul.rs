//! Products over many rows, columns and experts, divided among threads by rows.
//!
//! Every thread computes its own rows for all columns, so no sum ever depends on the number of threads, and none needs
//! a lock.

use std::cell::RefCell;
use std::ops::Range;

use super::activation::{Layout, Record, record_stride, records_per_row};
use super::experts::{Experts, Routes};
use super::isa::Isa;
use super::panel::Panel;
use super::{FEW_COLUMNS, Rows, SOME_DOZENS};

/// One thread of several.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Which, from 0.
    pub index: usize,
    /// Of how many.
    pub of: usize,
}

impl Share {
    /// The part of `0..n` that is this thread's, in whole multiples of `unit`.
    pub fn range(self, n: usize, unit: usize) -> Range<usize> {
        let units = n.div_ceil(unit);
        let at = |i: usize| (units * i / self.of * unit).min(n);
        at(self.index)..at(self.index + 1)
    }
}

/// Columns of the widest tile of any machine.
const MAX_TILE_COLUMNS: usize = 6;

/// A panel and the sums of its products.
#[derive(Default)]
struct Tiles {
    panel: Option<Box<Panel>>,
    sums: Vec<f32>,
}

/// Room a thread keeps between products.
#[derive(Default)]
struct Scratch {
    tiles: Tiles,
    columns: Vec<*const Record>,
    first: Vec<f32>,
    second: Vec<f32>,
    routes: Routes,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// How columns may be rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// As is fastest for their number.
    Fast,
    /// Each as if it were alone.
    Alone,
}

/// How a matrix is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// [`Isa::dot`] for all rows of a thread, which follow each other in memory.
    Few,
    /// The same for a few rows at a time: what it gives stays in the first cache.
    Some,
    /// Panels and tiles.
    Tiles,
}

/// What a matrix is multiplied with: columns of activations one after another.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// The first record.
    pub data: *const Record,
    /// Columns.
    pub n: usize,
    /// Numbers in each.
    pub width: usize,
    /// How their products may be rounded.
    pub rounding: Rounding,
}

impl Columns {
    fn at(&self, index: usize) -> *const Record {
        self.data.wrapping_add(index * record_stride(self.width))
    }
}

impl Isa {
    /// Fills this thread's share of the records of `n` columns of `width` numbers; `x(i)` is column `i`.
    ///
    /// # Safety
    /// `out` has room for all records, [`Isa::is_available`], and no other thread has this share.
    pub unsafe fn quantize<'a>(
        &self,
        layout: Layout,
        width: usize,
        n: usize,
        x: impl Fn(usize) -> &'a [f32],
        out: *mut Record,
        share: Share,
    ) {
        let per_row = records_per_row(width);
        let range = share.range(n * per_row, 1);
        let mut at = range.start;
        while at < range.end {
            let (column, first) = (at / per_row, at % per_row);
            let to = column * record_stride(width) + first;
            let n = (per_row - first).min(range.end - at);
            let x = &x(column)[first * 128..((first + n) * 128).min(width)];
            // SAFETY: the records of this share, by the caller's word.
            unsafe {
                let records = std::slice::from_raw_parts_mut(out.add(to), n);
                (self.fill_records)(self.order, layout, x, records);
            }
            at += n;
        }
    }

    /// As [`Isa::quantize`] for binary planes: each column goes through the Hadamard transform of `x * signs` first.
    ///
    /// # Safety
    /// As [`Isa::quantize`]; `signs` has `width` numbers, a power of two.
    pub unsafe fn rotate_and_quantize<'a>(
        &self,
        signs: &[f32],
        n: usize,
        x: impl Fn(usize) -> &'a [f32],
        out: *mut Record,
        share: Share,
    ) {
        let (per_row, stride) = (records_per_row(signs.len()), record_stride(signs.len()));
        SCRATCH.with_borrow_mut(|scratch| {
            for column in share.range(n, 1) {
                scratch.first.clear();
                scratch.first.extend_from_slice(x(column));
                // SAFETY: as above.
                unsafe {
                    (self.rotate)(&mut scratch.first, signs);
                    let records = std::slice::from_raw_parts_mut(out.add(column * stride), per_row);
                    (self.fill_records)(self.order, Layout::Whole, &scratch.first, records);
                }
            }
        });
    }

    /// `out[column][row]` for this thread's rows.
    ///
    /// # Safety
    /// Rows, columns and room for the products are there, widths agree, [`Isa::is_available`], and no other
    /// thread has this share.
    pub unsafe fn linear(&self, rows: &Rows, x: &Columns, out: *mut f32, share: Share) {
        let n_rows = rows.n_rows;
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch {
                tiles,
                columns,
                first,
                ..
            } = scratch;
            columns.clear();
            columns.extend((0..x.n).map(|i| x.at(i)));
            let way = self.way(rows, x.rounding, x.n);
            for part in self.parts(n_rows, way, share) {
                // SAFETY: the caller's word.
                unsafe {
                    self.products(tiles, rows, part.clone(), way, columns, first);
                    for (column, values) in first.chunks_exact(part.len()).enumerate() {
                        let to = out.add(column * n_rows + part.start);
                        to.copy_from_nonoverlapping(values.as_ptr(), values.len());
                    }
                }
            }
        });
    }

    /// `out[token][choice][row] = silu(gate x) * (up x)` for this thread's rows of the chosen experts' matrices.
    ///
    /// # Safety
    /// As [`Isa::linear`], for every expert; `x` has a column per token.
    pub unsafe fn swiglu_experts(
        &self,
        gate: &Rows,
        up: &Rows,
        e: &Experts,
        x: &Columns,
        out: *mut f32,
        share: Share,
    ) {
        let n_rows = gate.n_rows;
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch {
                tiles,
                columns,
                first,
                second,
                routes,
            } = scratch;
            // SAFETY: the caller's word.
            unsafe { routes.sort(e) };
            for (expert, choices) in routes.each() {
                let (gate, up) = (e.rows(gate, expert), e.rows(up, expert));
                columns.clear();
                columns.extend(choices.iter().map(|(token, _)| x.at(*token as usize)));
                let way = self.way(&gate, x.rounding, choices.len());
                for part in self.parts(n_rows, way, share) {
                    // SAFETY: the caller's word.
                    unsafe {
                        self.products(tiles, &gate, part.clone(), way, columns, first);
                        self.products(tiles, &up, part.clone(), way, columns, second);
                        (self.swiglu)(first, second);
                        for ((token, slot), values) in
                            choices.iter().zip(first.chunks_exact(part.len()))
                        {
                            let column = *token as usize * e.n_used + *slot as usize;
                            let to = out.add(column * n_rows + part.start);
                            to.copy_from_nonoverlapping(values.as_ptr(), values.len());
                        }
                    }
                }
            }
        });
    }

    /// `out[token][choice][row]` for this thread's rows of the chosen experts' matrices. `x` has a column per token, or one
    /// per choice.
    ///
    /// # Safety
    /// As [`Isa::swiglu_experts`].
    pub unsafe fn experts(
        &self,
        rows: &Rows,
        e: &Experts,
        x: &Columns,
        out: *mut f32,
        share: Share,
    ) {
        // SAFETY: the caller's word.
        unsafe {
            self.each_product(rows, e, x, share, |column, _, part, values| {
                let to = out.add(column * rows.n_rows + part.start);
                to.copy_from_nonoverlapping(values.as_ptr(), values.len());
            });
        }
    }

    /// `out[token][row] = sum over choices of weight * (matrix x)`, in order of experts; `x` and `weights` have one column
    /// and one number per choice.
    ///
    /// # Safety
    /// As [`Isa::swiglu_experts`].
    pub unsafe fn experts_sum(
        &self,
        rows: &Rows,
        e: &Experts,
        x: &Columns,
        weights: *const f32,
        out: *mut f32,
        share: Share,
    ) {
        let n_rows = rows.n_rows;
        let mine = self.own_rows(n_rows, share);
        // SAFETY: the caller's word; this thread alone touches these rows.
        unsafe {
            for token in 0..e.n_tokens {
                out.add(token * n_rows + mine.start)
                    .write_bytes(0, mine.len());
            }
            self.each_product(rows, e, x, share, |column, token, part, values| {
                let weight = *weights.add(column);
                let to = out.add(token * n_rows + part.start);
                for (to, v) in std::slice::from_raw_parts_mut(to, values.len())
                    .iter_mut()
                    .zip(values)
                {
                    *to += weight * v;
                }
            });
        }
    }

    /// Calls `take(choice, token, rows, values)` for all choices and this thread's rows.
    unsafe fn each_product(
        &self,
        rows: &Rows,
        e: &Experts,
        x: &Columns,
        share: Share,
        mut take: impl FnMut(usize, usize, &Range<usize>, &[f32]),
    ) {
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch {
                tiles,
                columns,
                first,
                routes,
                ..
            } = scratch;
            // SAFETY: the caller's word.
            unsafe { routes.sort(e) };
            let by_choice = x.n == e.n_tokens * e.n_used;
            for (expert, choices) in routes.each() {
                let column = |(token, slot): (u32, u32)| token as usize * e.n_used + slot as usize;
                columns.clear();
                columns.extend(
                    choices
                        .iter()
                        .map(|c| x.at(if by_choice { column(*c) } else { c.0 as usize })),
                );
                let rows = e.rows(rows, expert);
                let way = self.way(&rows, x.rounding, choices.len());
                for part in self.parts(rows.n_rows, way, share) {
                    // SAFETY: the caller's word.
                    unsafe { self.products(tiles, &rows, part.clone(), way, columns, first) };
                    for (choice, values) in choices.iter().zip(first.chunks_exact(part.len())) {
                        take(column(*choice), choice.0 as usize, &part, values);
                    }
                }
            }
        });
    }

    /// The rows of a thread: whole panels, whatever the number of columns.
    fn own_rows(&self, n_rows: usize, share: Share) -> Range<usize> {
        share.range(n_rows, self.panel_rows)
    }

    /// How so many columns are multiplied.
    fn way(&self, rows: &Rows, rounding: Rounding, n_columns: usize) -> Way {
        let some_dozens = self.some_dozens.contains(&rows.format);
        match n_columns {
            ..=FEW_COLUMNS => Way::Few,
            ..=SOME_DOZENS if some_dozens => Way::Some,
            _ if rounding == Rounding::Alone => Way::Few,
            _ => Way::Tiles,
        }
    }

    /// The rows of a thread in the parts that [`products`] takes.
    fn parts(&self, n_rows: usize, way: Way, share: Share) -> impl Iterator<Item = Range<usize>> {
        let own = self.own_rows(n_rows, share);
        let size = match way {
            Way::Few => own.len().max(1),
            Way::Some | Way::Tiles => self.panel_rows,
        };
        own.clone()
            .step_by(size)
            .map(move |start| start..(start + size).min(own.end))
    }

    /// `out[column][row]` for the rows `part`.
    unsafe fn products(
        &self,
        tiles: &mut Tiles,
        rows: &Rows,
        part: Range<usize>,
        way: Way,
        columns: &[*const Record],
        out: &mut Vec<f32>,
    ) {
        out.clear();
        out.resize(columns.len() * part.len(), 0.0);
        if way != Way::Tiles {
            // SAFETY: the caller's word.
            unsafe { (self.dot)(rows, part, columns, out) };
            return;
        }
        let Tiles { panel, sums } = tiles;
        let panel = panel.get_or_insert_with(Panel::new);
        let (n_rows, n_columns) = (self.panel_rows, self.tile_columns);
        sums.clear();
        sums.resize(columns.len() * n_rows, 0.0);
        let mut first = 0;
        while first < records_per_row(rows.width) {
            // SAFETY: the caller's word.
            unsafe {
                (self.unpack)(panel, rows, part.start, first);
                let mut at = [std::ptr::null(); MAX_TILE_COLUMNS];
                for (columns, sums) in columns
                    .chunks(n_columns)
                    .zip(sums.chunks_mut(n_columns * n_rows))
                {
                    for (at, column) in at.iter_mut().zip(columns) {
                        *at = column.wrapping_add(first);
                    }
                    (self.tile)(panel, &at[..columns.len()], sums);
                }
            }
            first += panel.n_records;
        }
        for (out, sums) in out
            .chunks_exact_mut(part.len())
            .zip(sums.chunks_exact(n_rows))
        {
            out.copy_from_slice(&sums[..part.len()]);
        }
    }
}
