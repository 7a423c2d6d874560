//! Activations in 8 bits: what weights are multiplied with.

/// Weights a record stands for.
pub const RECORD_WEIGHTS: usize = 128;

/// How a record's numbers are arranged and scaled: each weight format wants one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Four blocks of 32, each with its own scale. `q` holds the first halves of the four blocks, then the second
    /// halves: as formats that keep two weights in a byte yield them.
    Blocks,
    /// One scale for all, `q` in the order the machine reads planes in: for binary planes, whose activations are
    /// rotated and have no outliers.
    Whole,
}

/// Where the numbers of a record of [`Layout::Whole`] lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// One after another: for machines that read bits as masks.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "Arm shifts"))]
    Straight,
    /// Those that meet the lowest bit of each of a plane's 16 bytes, then the next bit: for machines that shift and mask.
    ByBit,
}

/// 128 activations of one column.
///
/// Where the dot product wants unsigned bytes, kernels multiply with `w + 128`; `init` and `sums` take the 128 back.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Record {
    /// The numbers, arranged by [`Layout`].
    pub q: [i8; RECORD_WEIGHTS],
    /// `-128` times the sum of those `q` that a 512-bit dot product adds up in this lane of 32 bits.
    pub init: [i32; 16],
    /// Scale of each block of 32: an activation is `q * scale`.
    pub scales: [f32; 4],
    /// What the activations of each block add up to, less its sign. Only in [`Layout::Blocks`].
    pub totals: [f32; 4],
    /// `-128` times the sum of `q` in each block of 32; in [`Layout::Whole`] the first is the sum of all.
    pub sums: [i32; 4],
    /// The sum of `q` in each half of a block, less its sign. Only in [`Layout::Blocks`].
    pub half_sums: [i16; 8],
}

impl Record {
    /// A record of zeros.
    pub const ZERO: Self = Self {
        q: [0; RECORD_WEIGHTS],
        init: [0; 16],
        scales: [0.0; 4],
        totals: [0.0; 4],
        sums: [0; 4],
        half_sums: [0; 8],
    };

    /// `-128` times the sum of `q` in group `g` of `G`: the whole record, its blocks, or first halves of blocks, then second ones.
    #[cfg_attr(
        target_arch = "aarch64",
        allow(dead_code, reason = "signed bytes need none")
    )]
    #[inline(always)]
    pub(super) fn sum<const G: usize>(&self, g: usize) -> i32 {
        if G < 8 {
            return self.sums[g];
        }
        128 * i32::from(self.half_sums[2 * (g % 4) + g / 4])
    }

    /// What the activations of each half of a block add up to, less its sign.
    #[inline(always)]
    pub(super) fn half_totals(&self) -> [f32; 8] {
        let mut totals = [0.0; 8];
        for (i, (total, sum)) in totals.iter_mut().zip(self.half_sums).enumerate() {
            *total = f32::from(sum) * self.scales[i / 2];
        }
        totals
    }

    /// What minimum `m` of `M` of block `b` is multiplied with; `halves` are [`Self::half_totals`] where there are two.
    #[inline(always)]
    pub(super) fn total<const M: usize>(&self, halves: &[f32; 8], b: usize, m: usize) -> f32 {
        if M == 1 {
            self.totals[b]
        } else {
            halves[M * b + m]
        }
    }

    /// The activation at `index` of 0 to 127, as the kernels see it.
    #[cfg(test)]
    pub(super) fn value(&self, layout: Layout, order: Order, index: usize) -> f32 {
        f32::from(self.q[place(layout, order, index)]) * self.scales[index / 32]
    }

    /// Quantises up to 128 numbers; those that are missing are zero. A number that is not finite makes its block's scale
    /// NaN, so that products say so: what must never be read is found by poisoning it.
    #[inline(always)]
    pub(super) fn fill(&mut self, layout: Layout, order: Order, x: &[f32]) {
        let mut full = [0.0f32; RECORD_WEIGHTS];
        for (to, from) in full.iter_mut().zip(x) {
            *to = *from;
        }
        let size = match layout {
            Layout::Blocks => 32,
            Layout::Whole => RECORD_WEIGHTS,
        };
        for (b, block) in full.chunks_exact(size).enumerate() {
            let (mut max, mut finite) = (0.0f32, true);
            for v in block {
                max = if v.abs() > max { v.abs() } else { max };
                finite &= v.is_finite();
            }
            let scale = if finite { max / 127.0 } else { f32::NAN };
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let inverse = if inverse.is_finite() { inverse } else { 0.0 };
            for (i, v) in block.iter().enumerate() {
                let q = (v * inverse).round_ties_even();
                self.q[place(layout, order, b * size + i)] = q as i8;
            }
            for s in &mut self.scales[b * size / 32..(b + 1) * size / 32] {
                *s = scale;
            }
        }
        self.add_up(layout);
    }

    #[inline(always)]
    fn add_up(&mut self, layout: Layout) {
        let four = |i: usize| {
            let four = &self.q[4 * i..4 * i + 4];
            -128 * four.iter().map(|&q| i32::from(q)).sum::<i32>()
        };
        let first: [i32; 16] = std::array::from_fn(four);
        self.init = std::array::from_fn(|i| first[i] + four(16 + i));
        if layout == Layout::Whole {
            self.sums = [self.init.iter().sum(), 0, 0, 0];
            return;
        }
        let by_block = |lanes: &[i32; 16]| -> [i32; 4] {
            std::array::from_fn(|b| lanes[4 * b..4 * b + 4].iter().sum())
        };
        self.sums = by_block(&self.init);
        let first = by_block(&first);
        self.half_sums = std::array::from_fn(|h| {
            let sum = if h % 2 == 0 {
                first[h / 2]
            } else {
                self.sums[h / 2] - first[h / 2]
            };
            (sum / 128) as i16
        });
        self.totals = std::array::from_fn(|b| self.scales[b] * (self.sums[b] as f32 / 128.0));
    }
}

/// Where number `index` of a record lies in `q`.
#[inline(always)]
fn place(layout: Layout, order: Order, index: usize) -> usize {
    match (layout, order) {
        (Layout::Whole, Order::Straight) => index,
        (Layout::Whole, Order::ByBit) => index % 8 * 16 + index / 8,
        (Layout::Blocks, _) => {
            let (block, i) = (index / 32, index % 32);
            i / 16 * 64 + block * 16 + i % 16
        }
    }
}

/// Records of a column of `width` numbers.
pub fn records_per_row(width: usize) -> usize {
    width.div_ceil(RECORD_WEIGHTS)
}

/// Records from one column of `width` numbers to the next: an odd number, so that those of many columns do not all want the
/// same places of a cache.
pub fn record_stride(width: usize) -> usize {
    records_per_row(width) | 1
}

/// Bytes for `columns` columns of `width` numbers, with room to align the first record.
pub fn quantize_bytes(width: usize, columns: usize) -> Option<usize> {
    record_stride(width)
        .checked_mul(size_of::<Record>())?
        .checked_mul(columns)?
        .checked_add(align_of::<Record>())
}
