//! Blocks of 256 weights: where things lie, and scales of a few bits. What is the same on all machines.
//!
//! Numbers of 2 or 3 bits have a scale for each 16 of them, so small that number times scale fits a byte. The kernels take
//! these products for weights: what is left is one scale for all 256.

/// Numbers of 2 bits, with scales and minimums of 4: two blocks of 16 to each 32, as everywhere here.
pub mod two {
    /// Bytes of a block.
    pub const BYTES: usize = 84;
    /// Where the numbers begin, after 16 bytes of scales in the lower bits and minimums in the upper ones. 32 bytes of a
    /// record hold its four blocks.
    pub const CODES: usize = 16;
    const FACTORS: usize = 80;

    /// The F16 factors of scales and of minimums.
    ///
    /// # Safety
    /// A block can be read at `p`.
    #[inline(always)]
    pub unsafe fn factors(p: *const u8) -> u32 {
        // SAFETY: the caller's word.
        unsafe { p.add(FACTORS).cast::<u32>().read_unaligned() }
    }
}

/// Numbers of 3 bits, less 4, with scales of 6, less 32.
///
/// The largest scale is -32 in most blocks, and -4 times that is no byte with a sign. So kernels take the products less
/// their sign, and the factor less its own.
pub mod three {
    /// Bytes of a block.
    pub const BYTES: usize = 110;
    /// Where the lower two bits begin, after 32 bytes of third ones: 32 bytes of a record hold its four blocks. Bit `b` of
    /// the third ones is for block `b` of eight.
    pub const CODES: usize = 32;
    const SCALES: usize = 96;
    const FACTOR: usize = 108;

    /// The F16 factor of scales.
    ///
    /// # Safety
    /// A block can be read at `p`.
    #[inline(always)]
    pub unsafe fn factor(p: *const u8) -> u16 {
        // SAFETY: the caller's word.
        unsafe { p.add(FACTOR).cast::<u16>().read_unaligned() }
    }

    /// The eight scales of record `i`, two to each 32 weights, plus 32.
    ///
    /// # Safety
    /// A block can be read at `p`.
    #[inline(always)]
    pub unsafe fn scales(p: *const u8, i: usize) -> u64 {
        // SAFETY: the caller's word.
        let (lower, upper) = unsafe {
            (
                p.add(SCALES).cast::<u64>().read_unaligned(),
                p.add(SCALES + 8).cast::<u32>().read_unaligned(),
            )
        };
        let lower = lower >> (4 * i) & 0x0f0f_0f0f_0f0f_0f0f;
        // The second four have theirs two bits above the first four's.
        let upper = u64::from(upper) | u64::from(upper) << 30;
        lower | (upper >> (4 * i) & 0x0303_0303_0303_0303) << 4
    }
}

/// Numbers of 4 bits, or of 5, with scales and minimums of 6.
pub mod four_or_five {
    /// Where the fifth bits begin, after two F16 factors and 12 bytes of scales.
    pub const FIFTH: usize = 16;

    /// Where the first four bits begin.
    pub const fn codes(five: bool) -> usize {
        if five { FIFTH + 32 } else { FIFTH }
    }

    /// The F16 factors of scales and of minimums; four scales of record `i` and its four minimums, a byte each.
    ///
    /// # Safety
    /// A block can be read at `p`.
    #[inline(always)]
    pub unsafe fn scales(p: *const u8, i: usize) -> (u32, u64) {
        // SAFETY: the caller's word.
        let (factors, first, last) = unsafe {
            (
                p.cast::<u32>().read_unaligned(),
                p.add(4).cast::<u64>().read_unaligned(),
                p.add(12).cast::<u32>().read_unaligned(),
            )
        };
        if i == 0 {
            return (factors, first & 0x3f3f_3f3f_3f3f_3f3f);
        }
        // The second record's have their upper two bits above those of the first.
        let low = u64::from(last) | u64::from(last) << 28;
        let high = first >> 2 & 0x3030_3030_3030_3030;
        (factors, low & 0x0f0f_0f0f_0f0f_0f0f | high)
    }
}

/// Numbers of 6 bits, less 32, with scales of 8.
pub mod six {
    /// Bytes of a block.
    pub const BYTES: usize = 210;
    /// Where the upper two bits begin, after the lower four.
    pub const UPPER: usize = 128;
    const SCALES: usize = 192;
    const FACTOR: usize = 208;

    /// The F16 factor of scales; the eight signed ones of record `i`, two to each 32 weights.
    ///
    /// # Safety
    /// A block can be read at `p`.
    #[inline(always)]
    pub unsafe fn scales(p: *const u8, i: usize) -> (u16, u64) {
        // SAFETY: the caller's word.
        unsafe {
            (
                p.add(FACTOR).cast::<u16>().read_unaligned(),
                p.add(SCALES + 8 * i).cast::<u64>().read_unaligned(),
            )
        }
    }
}
