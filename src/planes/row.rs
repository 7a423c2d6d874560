//! The bytes of a row: two-bit codes as two binary planes, each of which ggml's `Q1_0` holds exactly.
//!
//! With levels `-b, -a, a, b` the value of a code is `c1 * s + c2 * u`: `c1 = (a + b) / 2`, `c2 = (b - a) / 2`, and `s`
//! and `u` are +1 or -1 as the high and the low bit of the code are set or clear. A row of `n` codes becomes a `Q1_0`
//! row of `2 n` weights: `n` times `s` with the scale `norm * c1`, then `n` times `u` with the scale `norm * c2`.
//! The codes survive; only the two scales are rounded, to f16.

use half::f16;

use super::RowError;

/// The values of the codes 0 to 3: `{-b, -a, a, b}` with `0 < a < b`.
pub type Codebook = [f32; 4];

/// Weights of a `Q1_0` block: an f16 scale, then one bit per weight from the lowest bit of the first byte on; a bit
/// that is set stands for plus the scale, a clear one for minus.
pub const BLOCK_WEIGHTS: usize = 128;
const SCALE_BYTES: usize = size_of::<f16>();
const SIGN_BYTES: usize = BLOCK_WEIGHTS / 8;
/// Bytes of a `Q1_0` block.
pub const BLOCK_BYTES: usize = SCALE_BYTES + SIGN_BYTES;
/// Bytes of as many two-bit codes as a block has weights.
const PACKED_BYTES: usize = BLOCK_WEIGHTS / 4;

/// Bytes of the two planes of a row of `n` weights. `n` must be made of whole blocks.
pub fn row_bytes(n: usize) -> usize {
    2 * (n / BLOCK_WEIGHTS) * BLOCK_BYTES
}

/// The factors of the two planes for one codebook.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    sign: f64,
    size: f64,
}

/// The scales of the two planes of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Scale of the plane of high bits, about `norm * (a + b) / 2`.
    pub sign: f16,
    /// Scale of the plane of low bits, about `norm * (b - a) / 2`.
    pub size: f16,
}

impl Scales {
    /// The values that the four codes have with these scales.
    pub fn levels(self) -> [f32; 4] {
        let (sign, size) = (self.sign.to_f32(), self.size.to_f32());
        let (small, large) = (sign - size, sign + size);
        [-large, -small, small, large]
    }
}

impl Levels {
    /// Levels of the form `-b, -a, a, b`, equal in magnitude bit for bit.
    ///
    /// # Errors
    ///
    /// [`RowError::Levels`] for any other codebook.
    pub fn from_codebook(book: &[f32]) -> Result<Self, RowError> {
        match *book {
            [low, inner, a, b] if -low == b && -inner == a && 0.0 < a && a < b && b.is_finite() => {
                let (a, b) = (f64::from(a), f64::from(b));
                Ok(Self {
                    sign: (a + b) / 2.0,
                    size: (b - a) / 2.0,
                })
            }
            _ => Err(RowError::Levels {
                found: book.to_vec(),
            }),
        }
    }

    /// The f16 scales that give a row of norm `norm` the smallest squared error, `small` of its `weights` being of the
    /// small magnitude.
    ///
    /// The errors of the two scales add in one level and cancel in the other, so rounding each by itself is not best.
    ///
    /// # Errors
    ///
    /// A norm that is negative or not finite, or a scale that f16 cannot hold.
    pub fn scales(&self, norm: f16, small: usize, weights: usize) -> Result<Scales, RowError> {
        let norm = checked_norm(norm)?;
        if norm == 0.0 {
            return Ok(Scales {
                sign: f16::ZERO,
                size: f16::ZERO,
            });
        }
        let signs = Candidates::around(norm, self.sign)?;
        let sizes = Candidates::around(norm, self.size)?;
        let (small, large) = (small as f64, weights.saturating_sub(small) as f64);
        let mut best = (f64::INFINITY, signs.bits[0], sizes.bits[0]);
        for (sign, sign_error) in signs.iter() {
            for (size, size_error) in sizes.iter() {
                let (inner, outer) = (sign_error - size_error, sign_error + size_error);
                let error = small * inner * inner + large * outer * outer;
                if error < best.0 {
                    best = (error, sign, size);
                }
            }
        }
        Ok(Scales {
            sign: f16::from_bits(best.1),
            size: f16::from_bits(best.2),
        })
    }
}

/// The f16 numbers nearest to a product and their errors, the nearest first.
struct Candidates {
    bits: [u16; 3],
    errors: [f64; 3],
}

impl Candidates {
    fn around(norm: f32, level: f64) -> Result<Self, RowError> {
        let exact = f64::from(norm) * level;
        let nearest = f16::from_f32(exact as f32);
        // The next number up must be finite too.
        if nearest >= f16::MAX {
            return Err(RowError::ScaleRange { norm, level });
        }
        let bits = nearest.to_bits();
        let bits = [bits, bits.saturating_sub(1), bits + 1];
        let error = |bits| f64::from(f16::from_bits(bits).to_f32()) - exact;
        Ok(Self {
            bits,
            errors: bits.map(error),
        })
    }

    fn iter(&self) -> impl Iterator<Item = (u16, f64)> {
        self.bits.into_iter().zip(self.errors)
    }
}

/// 64-bit words of packed codes per block.
const WORDS: usize = PACKED_BYTES / 8;

/// Sorts the bits of 32 codes in each word: low bits into the lower half, high bits into the upper half.
fn unzip(mut words: [u64; WORDS]) -> [u64; WORDS] {
    for (shift, mask) in [
        (1, 0x2222_2222_2222_2222),
        (2, 0x0c0c_0c0c_0c0c_0c0c),
        (4, 0x00f0_00f0_00f0_00f0),
        (8, 0x0000_ff00_0000_ff00),
        (16, 0x0000_0000_ffff_0000),
    ] {
        words = words.map(|word| {
            let moved = (word ^ word >> shift) & mask;
            word ^ moved ^ moved << shift
        });
    }
    words
}

/// Writes the two planes of one row of two-bit codes.
///
/// `packed` holds the codes, 16 to a little-endian word; `planes` takes [`row_bytes`] bytes.
///
/// # Errors
///
/// A row that is not made of whole blocks, a wrong size of `planes`, a norm that is negative or not finite, or a scale
/// that f16 cannot hold.
pub fn encode_row(
    packed: &[u8],
    norm: f16,
    levels: &Levels,
    planes: &mut [u8],
) -> Result<(), RowError> {
    let weights = packed.len() * 4;
    let (blocks, []) = packed.as_chunks::<PACKED_BYTES>() else {
        return Err(RowError::Blocks {
            block: BLOCK_WEIGHTS,
            found: weights,
        });
    };
    check_planes(planes, row_bytes(weights))?;
    let (signs, _) = planes.as_chunks_mut::<BLOCK_BYTES>();
    let (signs, sizes) = signs.split_at_mut(blocks.len());

    let mut small = 0;
    for ((packed, sign), size) in blocks.iter().zip(&mut *signs).zip(&mut *sizes) {
        small += encode_block(packed, sign, size);
    }
    let scales = levels.scales(norm, small, weights)?;
    for (plane, scale) in [(signs, scales.sign), (sizes, scales.size)] {
        let scale = scale.to_le_bytes();
        plane
            .iter_mut()
            .for_each(|block| block[..SCALE_BYTES].copy_from_slice(&scale));
    }
    Ok(())
}

/// Fills in the bits of one block of each plane; returns how many of its codes have the small magnitude.
fn encode_block(
    packed: &[u8; PACKED_BYTES],
    sign: &mut [u8; BLOCK_BYTES],
    size: &mut [u8; BLOCK_BYTES],
) -> usize {
    let (words, _) = packed.as_chunks::<8>();
    let words = unzip(std::array::from_fn(|i| u64::from_le_bytes(words[i])));
    // The codes in the middle are those whose two bits differ.
    let differ = |word: u64| ((word >> 32) as u32 ^ word as u32).count_ones() as usize;
    let (signs, _) = sign[SCALE_BYTES..].as_chunks_mut::<4>();
    let (sizes, _) = size[SCALE_BYTES..].as_chunks_mut::<4>();
    for ((word, sign), size) in words.iter().zip(signs).zip(sizes) {
        *sign = ((word >> 32) as u32).to_le_bytes();
        *size = (*word as u32).to_le_bytes();
    }
    words.into_iter().map(differ).sum()
}

/// One row as its two planes hold it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlaneRow {
    /// The two-bit codes, one byte each.
    pub codes: Vec<u8>,
    /// The scales of the planes.
    pub scales: Scales,
}

/// Takes the codes and scales back out of a row that [`encode_row`] wrote.
///
/// # Errors
///
/// A size that no such row has, or a plane whose blocks differ in scale.
pub fn decode_row(planes: &[u8]) -> Result<PlaneRow, RowError> {
    let blocks = planes.len() / (2 * BLOCK_BYTES);
    check_planes(planes, row_bytes(blocks.max(1) * BLOCK_WEIGHTS))?;
    let (all, _) = planes.as_chunks::<BLOCK_BYTES>();
    let (signs, sizes) = all.split_at(blocks);
    let scales = Scales {
        sign: plane_scale(signs, 0)?,
        size: plane_scale(sizes, blocks)?,
    };
    let mut codes = Vec::with_capacity(blocks * BLOCK_WEIGHTS);
    for (sign, size) in signs.iter().zip(sizes) {
        let bytes = sign[SCALE_BYTES..].iter().zip(&size[SCALE_BYTES..]);
        let code = |(high, low): (&u8, &u8), bit: u32| (high >> bit & 1) << 1 | low >> bit & 1;
        codes.extend(bytes.flat_map(|pair| (0..8).map(move |bit| code(pair, bit))));
    }
    Ok(PlaneRow { codes, scales })
}

fn plane_scale(blocks: &[[u8; BLOCK_BYTES]], first: usize) -> Result<f16, RowError> {
    let scale = |block: &[u8; BLOCK_BYTES]| f16::from_le_bytes([block[0], block[1]]);
    let expected = scale(&blocks[0]);
    for (index, block) in blocks.iter().enumerate() {
        let found = scale(block);
        if found.to_bits() != expected.to_bits() {
            return Err(RowError::Scale {
                block: first + index,
                expected: expected.to_f32(),
                found: found.to_f32(),
            });
        }
    }
    Ok(expected)
}

fn check_planes(planes: &[u8], expected: usize) -> Result<(), RowError> {
    if planes.len() == expected {
        return Ok(());
    }
    Err(RowError::Bytes {
        expected,
        found: planes.len(),
    })
}

/// A norm as a number that is finite and not negative.
fn checked_norm(norm: f16) -> Result<f32, RowError> {
    let found = norm.to_f32();
    if found.is_finite() && found >= 0.0 {
        Ok(found)
    } else {
        Err(RowError::Norm { found })
    }
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
