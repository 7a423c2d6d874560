//! Few columns: every weight is read once. What is the same on all machines.
//!
//! How rows are walked decides the speed, and no bit: each row has sums of its own.
//! - **One column** is bound by memory. Rows from equal parts of the range, each asking for its own bytes a little ahead:
//!   as many streams as the machines measured follow best.
//! - **Several columns** compute long enough for it to lose sight. Strips of neighbouring rows ask for the next strip,
//!   line by line in the order of memory, into the second cache: 2 columns of Q8_0 cost 1.3 times one, where two streams
//!   cost 1.5. Planes do so for one column already.

use std::ops::Range;

use super::levels::Levels;
use super::prefetch;
use super::{Format, RECORD_WEIGHTS, Record, Rows, Scaling};

/// How far ahead of the weights in use the next ones are asked for, where rows ask for their own.
const AHEAD: usize = 384;

/// Rows of a strip.
const STRIP: usize = 4;
/// The same where weights have more than one scale: the rest of what the registers must hold.
const SHORT_STRIP: usize = 2;

/// Bytes of a line of the caches.
const LINE: usize = 64;

/// Columns that share the unpacking of a row: their sums and a record of each fit the registers.
const GROUP: usize = 4;

/// The products of one kind of machine.
pub trait Few {
    /// Streams of one column's rows in formats whose records need few registers: 2 or 4. Others always have 2.
    const STREAMS: usize;

    /// Products of `R` rows with `C` columns, for a format in blocks.
    ///
    /// # Safety
    /// So many records of all rows and columns are there, and the CPU has what the machine's kernels ask for.
    unsafe fn blocks<const R: usize, const C: usize>(
        format: Format,
        strip: &Strip<R>,
        columns: &[*const Record; C],
    ) -> [[f32; R]; C];

    /// The same for planes.
    ///
    /// # Safety
    /// As [`Self::blocks`].
    unsafe fn planes<const R: usize, const C: usize>(
        levels: &Levels,
        strip: &Strip<R>,
        columns: &[*const Record; C],
    ) -> [[f32; R]; C];
}

/// Rows that are multiplied at once.
#[derive(Debug, Clone, Copy)]
pub struct Strip<const R: usize> {
    /// Where each begins.
    pub rows: [*const u8; R],
    /// Records of each.
    pub n_records: usize,
    /// Bytes from one row of the matrix to the next.
    stride: usize,
    next: Next,
}

/// What is asked of memory while rows are computed.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// Every row's own bytes, a little ahead.
    Own,
    /// The next strip, to the second cache.
    Strip,
    /// The next strip, to the first cache.
    StripNear,
}

impl<const R: usize> Strip<R> {
    fn new(of: &Rows, rows: [*const u8; R], next: Next) -> Self {
        Self {
            rows,
            n_records: of.width / RECORD_WEIGHTS,
            stride: of.stride,
            next,
        }
    }

    /// Asks for what comes next while record `k` of each row is in use; a record takes `bytes` in a row.
    #[inline(always)]
    pub fn ask(&self, k: usize, bytes: usize) {
        if let Next::Own = self.next {
            for row in self.rows {
                let p = row.wrapping_add(k * bytes + AHEAD);
                // One request for the 72 bytes of four-bit records, two for 136: the line left out is a neighbour,
                // which comes by itself.
                for line in 0..(bytes / LINE).max(1) {
                    prefetch::near(p.wrapping_add(line * LINE));
                }
            }
            return;
        }
        let p = self.rows[0].wrapping_add(R * self.stride + k * R * bytes);
        for line in 0..(R * bytes).div_ceil(LINE) {
            let p = p.wrapping_add(line * LINE);
            match self.next {
                Next::StripNear => prefetch::near(p),
                _ => prefetch::far(p),
            }
        }
    }
}

/// Products of rows `range` with `columns`: `out[column * range.len() + row - range.start]`.
///
/// # Safety
/// The rows are there, each column has a row's records, and the CPU has what `K` asks for.
pub unsafe fn dot<K: Few>(
    rows: &Rows,
    range: Range<usize>,
    columns: &[*const Record],
    out: &mut [f32],
) {
    // SAFETY: the caller's word, for all of it.
    unsafe {
        let levels = (rows.format == Format::Planes).then(|| Levels::new(rows));
        let levels = levels.as_ref();
        match columns {
            [column] if levels.is_none() => match (rows.format.scaling(), K::STREAMS) {
                (Scaling::Blocks | Scaling::HalfMinimums, 4) => {
                    streams::<K, 4>(rows, range, *column, out)
                }
                _ => streams::<K, 2>(rows, range, *column, out),
            },
            _ => match rows.format.scaling() {
                Scaling::Whole | Scaling::Blocks => {
                    strips::<K, STRIP>(rows, levels, range, columns, out)
                }
                Scaling::Minimums | Scaling::Halves | Scaling::HalfMinimums => {
                    strips::<K, SHORT_STRIP>(rows, levels, range, columns, out)
                }
            },
        }
    }
}

/// One column: `N` rows at a time, one from each of `N` equal parts of the range; what is left one by one.
unsafe fn streams<K: Few, const N: usize>(
    rows: &Rows,
    range: Range<usize>,
    column: *const Record,
    out: &mut [f32],
) {
    let part = range.len() / N;
    for i in 0..part {
        let which: [usize; N] = std::array::from_fn(|stream| i + stream * part);
        let strip = Strip::new(rows, which.map(|r| rows.row(range.start + r)), Next::Own);
        // SAFETY: the caller's word.
        let [products] = unsafe { by_form::<K, N, 1>(rows, None, &strip, &[column]) };
        for (r, product) in which.into_iter().zip(products) {
            out[r] = product;
        }
    }
    for (r, out) in out.iter_mut().enumerate().skip(N * part) {
        let last = Strip::new(rows, [rows.row(range.start + r)], Next::Own);
        // SAFETY: as above.
        [[*out]] = unsafe { by_form::<K, 1, 1>(rows, None, &last, &[column]) };
    }
}

/// Strips of `S` neighbouring rows, one after the other.
unsafe fn strips<K: Few, const S: usize>(
    rows: &Rows,
    levels: Option<&Levels>,
    range: Range<usize>,
    columns: &[*const Record],
    out: &mut [f32],
) {
    let next = if columns.len() == 1 {
        Next::StripNear
    } else {
        Next::Strip
    };
    let n = range.len();
    let mut first = 0;
    while first < n {
        let whole = n - first >= S;
        for (g, group) in columns.chunks(GROUP).enumerate() {
            let put = |c: usize, r: usize, v| out[(GROUP * g + c) * n + first + r] = v;
            let row = |r| rows.row(range.start + first + r);
            // SAFETY: the caller's word.
            unsafe {
                if whole {
                    let strip = Strip::<S>::new(rows, std::array::from_fn(row), next);
                    by_columns::<K, S>(rows, levels, &strip, group, put);
                } else {
                    let one = Strip::new(rows, [row(0)], next);
                    by_columns::<K, 1>(rows, levels, &one, group, put);
                }
            }
        }
        first += if whole { S } else { 1 };
    }
}

unsafe fn by_columns<K: Few, const R: usize>(
    of: &Rows,
    levels: Option<&Levels>,
    strip: &Strip<R>,
    columns: &[*const Record],
    put: impl FnMut(usize, usize, f32),
) {
    // SAFETY: the caller's word.
    unsafe {
        match *columns {
            [a] => each(by_form::<K, R, 1>(of, levels, strip, &[a]), put),
            [a, b] => each(by_form::<K, R, 2>(of, levels, strip, &[a, b]), put),
            [a, b, c] => each(by_form::<K, R, 3>(of, levels, strip, &[a, b, c]), put),
            [a, b, c, d] => each(by_form::<K, R, 4>(of, levels, strip, &[a, b, c, d]), put),
            _ => {}
        }
    }
}

fn each<const R: usize, const C: usize>(
    products: [[f32; R]; C],
    mut put: impl FnMut(usize, usize, f32),
) {
    for (c, rows) in products.iter().enumerate() {
        for (r, value) in rows.iter().enumerate() {
            put(c, r, *value);
        }
    }
}

unsafe fn by_form<K: Few, const R: usize, const C: usize>(
    of: &Rows,
    levels: Option<&Levels>,
    strip: &Strip<R>,
    columns: &[*const Record; C],
) -> [[f32; R]; C] {
    // SAFETY: the caller's word.
    unsafe {
        if let Some(levels) = levels {
            return K::planes(levels, strip, columns);
        }
        let mut products = K::blocks(of.format, strip, columns);
        if let Some(rests) = rests(&strip.rows, of.width, of.format.block_bytes()) {
            let rest = Strip {
                rows: std::array::from_fn(|r| rests[r].as_ptr()),
                n_records: 1,
                ..*strip
            };
            let columns = columns.map(|x| x.wrapping_add(strip.n_records));
            let rest = K::blocks(of.format, &rest, &columns);
            for (products, rest) in products.iter_mut().zip(rest) {
                for (product, rest) in products.iter_mut().zip(rest) {
                    *product += rest;
                }
            }
        }
        products
    }
}

/// Room for a record of any format in blocks.
pub type Rest = [u8; 4 * 34];

/// What is left of rows after their whole records, where a whole one can be read: the rest may lie past the end of the
/// tensor.
///
/// # Safety
/// `width` weights of each row are there.
#[inline]
pub unsafe fn rests<const R: usize>(
    rows: &[*const u8; R],
    width: usize,
    block_bytes: usize,
) -> Option<[Rest; R]> {
    let left = width % RECORD_WEIGHTS / 32 * block_bytes;
    if left == 0 {
        return None;
    }
    let mut rests = [[0; 4 * 34]; R];
    for (row, rest) in rows.iter().zip(&mut rests) {
        let from = row.wrapping_add(width / RECORD_WEIGHTS * 4 * block_bytes);
        // SAFETY: the caller's word: so much is left of each row.
        unsafe { rest.as_mut_ptr().copy_from_nonoverlapping(from, left) };
    }
    Some(rests)
}
