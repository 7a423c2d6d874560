//! Blocks of 256 weights: where things lie, and scales of a few bits. What is the same on all machines.

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
