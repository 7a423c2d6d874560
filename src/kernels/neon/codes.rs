//! From the bytes of a file to bytes for the dot product, one block of 32 weights at a time.

use std::arch::aarch64::*;

use super::ops::numbers;
use crate::kernels::Scaling;

/// A format's records: one, or the two of a block of 256, lie together as a unit.
pub trait Codes {
    /// Bytes of a unit.
    const UNIT_BYTES: usize;
    /// Records of a unit.
    const RECORDS: usize = 1;
    /// How weights are scaled.
    const SCALING: Scaling = Scaling::Blocks;

    /// Block `b` of 32 weights of a unit: first half, second half.
    ///
    /// # Safety
    /// `UNIT_BYTES` bytes can be read at `p`, and the CPU has what [`super::DOT`] asks for.
    unsafe fn block(p: *const u8, b: usize) -> (int8x16_t, int8x16_t);

    /// The scales of record `i`: four, then what [`Scaling`] has beside them: minimums of blocks, or scales of second halves.
    ///
    /// # Safety
    /// As [`Self::block`].
    unsafe fn scales(p: *const u8, i: usize) -> [float32x4_t; 2];

    /// The minimums of the halves of its blocks. Only [`Scaling::HalfMinimums`] has them.
    ///
    /// # Safety
    /// As [`Self::block`].
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn half_minimums(_: *const u8, _: usize) -> [float32x4_t; 2] {
        [vdupq_n_f32(0.0); 2]
    }
}

/// 16 levels, or numbers less 8: 4 bits of index in either case.
pub struct FourBit<const LINEAR: bool>;

/// IQ4_NL's levels.
const NON_LINEAR: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
/// Q4_0's numbers.
const LINEAR: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];

impl<const L: bool> Codes for FourBit<L> {
    const UNIT_BYTES: usize = 4 * 18;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn scales(p: *const u8, _: usize) -> [float32x4_t; 2] {
        // SAFETY: the caller's word.
        unsafe { scales(p, 18) }
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn block(p: *const u8, b: usize) -> (int8x16_t, int8x16_t) {
        let table = if L { &LINEAR } else { &NON_LINEAR };
        // SAFETY: the caller's word; the table has 16 bytes.
        let (nibbles, table) = unsafe { (vld1q_u8(p.add(18 * b + 2)), vld1q_s8(table.as_ptr())) };
        (
            vqtbl1q_s8(table, vandq_u8(nibbles, vdupq_n_u8(15))),
            vqtbl1q_s8(table, vshrq_n_u8::<4>(nibbles)),
        )
    }
}

/// Signed bytes.
pub struct EightBit;

impl Codes for EightBit {
    const UNIT_BYTES: usize = 4 * 34;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn scales(p: *const u8, _: usize) -> [float32x4_t; 2] {
        // SAFETY: the caller's word.
        unsafe { scales(p, 34) }
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn block(p: *const u8, b: usize) -> (int8x16_t, int8x16_t) {
        let p = p.wrapping_add(34 * b + 2).cast();
        // SAFETY: the caller's word.
        unsafe { (vld1q_s8(p), vld1q_s8(p.add(16))) }
    }
}

/// The scales that four blocks of so many bytes begin with.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn scales(p: *const u8, block_bytes: usize) -> [float32x4_t; 2] {
    let scale = |block| {
        let at = p.wrapping_add(block_bytes * block).cast::<u16>();
        // SAFETY: the caller's word.
        unsafe { at.read_unaligned() }
    };
    let scales: [u16; 4] = std::array::from_fn(scale);
    // SAFETY: four numbers.
    [
        numbers(unsafe { vld1_u16(scales.as_ptr()) }),
        vdupq_n_f32(0.0),
    ]
}

/// All bits set where a byte has bit `k`: -1.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn at_bit(bits: uint8x16_t, k: usize) -> int8x16_t {
    vreinterpretq_s8_u8(vtstq_u8(bits, vdupq_n_u8(1 << k)))
}

/// A number of 16 bits.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn number(half: u16) -> f32 {
    vgetq_lane_f32::<0>(numbers(vdup_n_u16(half)))
}
