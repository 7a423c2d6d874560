//! The bytes of a row.

use half::f16;

/// The values of the codes 0 to 3: `{-b, -a, a, b}` with `0 < a < b`.
pub type Codebook = [f32; 4];

const BLOCK: usize = super::MIN_WIDTH as usize;

/// A symmetric codebook as a sum of two binary values: `c1 s + c2 u` with `s` and `u` 1 or -1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// Level of the sign plane, `(a + b) / 2`.
    pub c1: f32,
    /// Level of the second plane, `(b - a) / 2`.
    pub c2: f32,
}

impl Levels {
    /// The levels of a codebook.
    pub fn of(codebook: &Codebook) -> Self {
        let (a, b) = (codebook[2], codebook[3]);
        Self {
            c1: (a + b) / 2.0,
            c2: (b - a) / 2.0,
        }
    }
}

/// Appends a row's two planes: `codes` are 0 to 3 (higher bits are ignored), in whole blocks of 128. Twice 18 bytes per
/// block; the scales are `norm c1` and `norm c2`, computed in F32 and rounded to F16.
pub fn encode_row(codes: &[u8], norm: f32, levels: Levels, out: &mut Vec<u8>) {
    debug_assert!(codes.len().is_multiple_of(BLOCK), "whole blocks");
    for (level, bit) in [(levels.c1, 1), (levels.c2, 0)] {
        let scale = f16::from_f32(norm * level).to_le_bytes();
        for block in codes.chunks(BLOCK) {
            out.extend(scale);
            let byte = |codes: &[u8]| {
                let bits = codes.iter().enumerate();
                bits.fold(0u8, |byte, (i, code)| byte | (code >> bit & 1) << i)
            };
            out.extend(block.chunks(8).map(byte));
        }
    }
}
