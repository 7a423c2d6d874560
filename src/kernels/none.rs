//! Machines without kernels: ggml's own compute everything.

use std::ops::Range;

use super::{Layout, Record, Rows};

pub const PANEL_ROWS: usize = 32;
pub const TILE_COLUMNS: usize = 1;

/// Never made.
pub enum Panel {}

impl Panel {
    pub fn new() -> Box<Self> {
        unreachable!("available() is false")
    }

    pub fn n_records(&self) -> usize {
        match *self {}
    }

    pub unsafe fn unpack(&mut self, _: &Rows, _: usize, _: usize) {
        match *self {}
    }
}

/// Nothing is asked of this module.
pub fn available() -> bool {
    false
}

pub unsafe fn tile(panel: &Panel, _: &[*const Record], _: &mut [[f32; PANEL_ROWS]]) {
    match *panel {}
}

pub unsafe fn dot(
    _: &Rows,
    _: Range<usize>,
    _: &[*const Record],
    _: &mut impl FnMut(usize, usize, f32),
) {
}

pub unsafe fn fill_records(_: Layout, _: &[f32], _: &mut [Record]) {}

pub unsafe fn rotate(_: &mut [f32], _: &[f32]) {}

pub unsafe fn swiglu(_: &mut [f32], _: &[f32]) {}
