//! Instructions that the standard library has not, or not in the oldest Rust we build with.

use std::arch::aarch64::{float32x4_t, int8x16_t, int32x4_t, uint16x4_t};
use std::arch::asm;

/// Adds to each lane of `sum` four products of neighbouring bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// The same, with the four bytes of lane `LANE` of `b` for every lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn dot_lane<const LANE: usize>(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as above.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{lane}]",
            inout(vreg) sum, in(vreg) a, in(vreg) b, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Adds the products of two rows of eight bytes in `a` with two in `b`: those of the first row of `a` come first.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
pub fn mmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as above.
    unsafe {
        asm!(
            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Numbers of 16 bits.
#[inline]
#[target_feature(enable = "neon")]
pub fn numbers(halves: uint16x4_t) -> float32x4_t {
    let out;
    // SAFETY: as above.
    unsafe {
        asm!(
            "fcvtl {0:v}.4s, {1:v}.4h",
            out(vreg) out, in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}
