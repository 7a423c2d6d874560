//! Machines without an attention kernel: ggml's own computes it.

use std::ops::Range;

use super::{Attention, Block, Sight};

/// Never filled.
#[derive(Default)]
pub struct Queries;

impl Queries {
    pub unsafe fn load(&mut self, _: &Attention, _: &[Block]) {}
}

/// Never filled.
#[derive(Default)]
pub struct Room;

/// Nothing is asked of this module.
pub fn available() -> bool {
    false
}

pub unsafe fn chunk(
    _: &Attention,
    _: &[Block],
    _: &[Sight],
    _: Range<usize>,
    _: &Queries,
    _: &mut Room,
    _: &mut [f32],
) {
}

pub unsafe fn join(_: &Attention, _: &mut [f32], _: &[f32]) {}

pub unsafe fn finish(_: &Attention, _: &Block, _: &[f32], _: *mut f32) {}
