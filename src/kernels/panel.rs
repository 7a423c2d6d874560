//! Many columns: rows unpacked for the tiles. What is the same on all machines.

use super::{Format, RECORD_WEIGHTS, Rows};

/// Records of a panel: up to 16 KiB of weights, which stay in the first cache.
pub const PANEL_RECORDS: usize = 4;
/// Rows of the largest panel.
const MAX_ROWS: usize = 32;
/// Scales of a record and a row, in the order of [`Scaling`]'s blocks: of first halves or all, then of second halves, or
/// minimums, of which there may be two to a block.
pub const SCALES: usize = 12;
/// Weights of a record in steps of four, as 8-bit dot products take them.
pub const STEPS: usize = RECORD_WEIGHTS / 4;

/// How weights are made of digits, where a machine multiplies those: `first * digit + second * other - base`.
#[derive(Debug, Clone, Copy)]
pub struct Digits {
    /// What every weight is too large by.
    pub base: u8,
    /// What the first digit counts.
    pub first: u8,
    /// What the second one counts; 0 if there is none.
    pub second: u8,
}

/// Some rows of up to 512 weights, four weights of every row side by side: each machine knows in what order.
#[repr(C, align(64))]
pub struct Panel {
    codes: [u8; PANEL_RECORDS * RECORD_WEIGHTS * MAX_ROWS],
    scales: [f32; SCALES * PANEL_RECORDS * MAX_ROWS],
    /// Records it holds.
    pub n_records: usize,
    /// Of which format.
    pub format: Format,
    /// What the digits mean.
    pub digits: Digits,
}

impl Panel {
    /// An empty panel.
    pub fn new() -> Box<Self> {
        let mut panel = Box::<Self>::new_uninit();
        // SAFETY: numbers may be zero; the format is written.
        unsafe {
            let p = panel.as_mut_ptr();
            p.write_bytes(0, 1);
            (&raw mut (*p).format).write(Format::Q8_0);
            panel.assume_init()
        }
    }

    /// Makes room for records `first ..` of `rows`.
    pub fn start(&mut self, rows: &Rows, first: usize) {
        let n_records = rows.width.div_ceil(RECORD_WEIGHTS);
        self.n_records = (n_records - first).min(PANEL_RECORDS);
        self.format = rows.format;
    }

    /// Its weights and scales, as a machine arranges them.
    ///
    /// # Safety
    /// Any bits are a `C` and an `S`: arrays of numbers or registers.
    #[inline(always)]
    pub unsafe fn parts<C, S>(&self) -> (&C, &S) {
        const { fits::<C, S>() };
        // SAFETY: both are aligned and large enough; the caller's word for what they hold.
        unsafe { (&*self.codes.as_ptr().cast(), &*self.scales.as_ptr().cast()) }
    }

    /// The same to be written.
    ///
    /// # Safety
    /// As [`Self::parts`].
    #[inline(always)]
    pub unsafe fn parts_mut<C, S>(&mut self) -> (&mut C, &mut S) {
        const { fits::<C, S>() };
        // SAFETY: as above; the two do not overlap.
        unsafe {
            (
                &mut *self.codes.as_mut_ptr().cast(),
                &mut *self.scales.as_mut_ptr().cast(),
            )
        }
    }
}

const fn fits<C, S>() {
    assert!(align_of::<C>() <= align_of::<Panel>() && align_of::<S>() <= align_of::<Panel>());
    assert!(size_of::<C>() <= PANEL_RECORDS * RECORD_WEIGHTS * MAX_ROWS);
    assert!(size_of::<S>() <= size_of::<f32>() * SCALES * PANEL_RECORDS * MAX_ROWS);
}

/// Which four weights of a record come `i`-th in group `g` of `G`: first halves of all blocks precede the second halves.
#[inline(always)]
pub const fn step<const G: usize>(g: usize, i: usize) -> usize {
    match G {
        1 => i,
        4 => i / 4 * 16 + 4 * g + i % 4,
        // Halves of blocks.
        _ => 4 * g + i,
    }
}

/// Asks for the next panel's rows while this one's are unpacked, little by little. Rows that follow each other are one
/// stream of bytes; read as many streams no prefetcher follows them.
pub struct Ahead {
    next: *const u8,
    step: usize,
}

impl Ahead {
    /// From record `first` of a panel on, for the panel of `panel_rows` that begins with `row`, which need not be there;
    /// `calls` of [`Self::go_on`] per record.
    pub fn new(rows: &Rows, row: usize, first: usize, panel_rows: usize, calls: usize) -> Self {
        let n_records = rows.width.div_ceil(RECORD_WEIGHTS);
        let step = (panel_rows * rows.stride).div_ceil(n_records * calls);
        Self {
            next: rows.row(row).wrapping_add(calls * first * step),
            step,
        }
    }

    /// The next few bytes.
    #[inline(always)]
    pub fn go_on(&mut self) {
        for at in (0..self.step).step_by(64) {
            super::prefetch::far(self.next.wrapping_add(at));
        }
        self.next = self.next.wrapping_add(self.step);
    }
}
