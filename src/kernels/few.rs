//! Few columns: every weight is read once. What is the same on all machines.
//!
//! Rows are taken in pairs from the two halves of the range: two streams in one page would confuse the prefetcher of
//! the machines measured, which halves the speed. Each row has sums of its own, so pairing changes no bit.

use std::ops::Range;

use super::levels::Levels;
use super::{Format, RECORD_WEIGHTS, Record, Rows};

/// How far ahead of the weights in use the next ones are asked for.
pub const AHEAD: usize = 384;

/// Columns that share the unpacking of a row: their sums and a record of each fit the registers.
const GROUP: usize = 4;

/// The products of one kind of machine.
pub trait Few {
    /// Products of `R` rows with `C` columns, for a format in blocks.
    ///
    /// # Safety
    /// The rows are there, each column has a row's records, and the CPU has what the machine's kernels ask for.
    unsafe fn blocks<const R: usize, const C: usize>(
        format: Format,
        rows: &[*const u8; R],
        width: usize,
        columns: &[*const Record; C],
    ) -> [[f32; R]; C];

    /// The same for planes.
    ///
    /// # Safety
    /// As [`Self::blocks`].
    unsafe fn planes<const R: usize, const C: usize>(
        levels: &Levels,
        rows: &[*const u8; R],
        width: usize,
        columns: &[*const Record; C],
    ) -> [[f32; R]; C];
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
    // SAFETY: the caller's word.
    let levels = (rows.format == Format::Planes).then(|| unsafe { Levels::new(rows) });
    let levels = levels.as_ref();
    let n = range.len();
    let half = n / 2;
    for i in 0..half {
        let pair = [i, i + half].map(|r| rows.row(range.start + r));
        for (g, group) in columns.chunks(GROUP).enumerate() {
            let put = |c: usize, r: usize, v| out[(GROUP * g + c) * n + i + r * half] = v;
            // SAFETY: the caller's word.
            unsafe { by_columns::<K, 2>(rows, levels, &pair, group, put) };
        }
    }
    if n % 2 == 1 {
        let last = [rows.row(range.end - 1)];
        for (g, group) in columns.chunks(GROUP).enumerate() {
            let put = |c: usize, _, v| out[(GROUP * g + c) * n + n - 1] = v;
            // SAFETY: as above.
            unsafe { by_columns::<K, 1>(rows, levels, &last, group, put) };
        }
    }
}

unsafe fn by_columns<K: Few, const R: usize>(
    of: &Rows,
    levels: Option<&Levels>,
    rows: &[*const u8; R],
    columns: &[*const Record],
    put: impl FnMut(usize, usize, f32),
) {
    // SAFETY: the caller's word.
    unsafe {
        match *columns {
            [a] => by_form::<K, R, 1>(of, levels, rows, &[a], put),
            [a, b] => by_form::<K, R, 2>(of, levels, rows, &[a, b], put),
            [a, b, c] => by_form::<K, R, 3>(of, levels, rows, &[a, b, c], put),
            [a, b, c, d] => by_form::<K, R, 4>(of, levels, rows, &[a, b, c, d], put),
            _ => {}
        }
    }
}

unsafe fn by_form<K: Few, const R: usize, const C: usize>(
    of: &Rows,
    levels: Option<&Levels>,
    rows: &[*const u8; R],
    columns: &[*const Record; C],
    mut put: impl FnMut(usize, usize, f32),
) {
    // SAFETY: the caller's word.
    let products = unsafe {
        match levels {
            Some(levels) => K::planes(levels, rows, of.width, columns),
            None => K::blocks(of.format, rows, of.width, columns),
        }
    };
    for (c, rows) in products.iter().enumerate() {
        for (r, value) in rows.iter().enumerate() {
            put(c, r, *value);
        }
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
