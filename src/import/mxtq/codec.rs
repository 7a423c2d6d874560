//! Rows of one length, width of code and seed.

#![forbid(unsafe_code)]

use half::f16;

use super::codebook::codebook;
use super::error::MxtqError;
use super::pack::{Bits, spread};
use super::rotation::{signs, unrotate};

/// Levels and signs for rows of one length: made once per shape, shared by all rows.
#[derive(Debug, Clone)]
pub struct Codec {
    bits: Bits,
    book: Vec<f32>,
    signs: Vec<f32>,
}

impl Codec {
    /// The codec of rows of `n` weights.
    pub fn new(n: usize, bits: Bits, seed: u64) -> Self {
        Self {
            bits,
            book: codebook(n, bits),
            signs: signs(n, seed),
        }
    }

    /// Weights of a row.
    pub fn row_len(&self) -> usize {
        self.signs.len()
    }

    /// Bytes of the packed codes of a row.
    pub fn row_bytes(&self) -> usize {
        self.bits.bytes(self.row_len())
    }

    /// The width of a code.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// The `2^bits` levels, ascending.
    pub fn book(&self) -> &[f32] {
        &self.book
    }

    /// +1 or -1 for every weight of a row.
    pub fn signs(&self) -> &[f32] {
        &self.signs
    }

    /// The weights of a row as they are stored, before the rotation is undone: `norm * book[codes]`.
    ///
    /// # Errors
    ///
    /// A wrong size of `packed` or `out`, or a norm that is negative or not finite.
    pub fn rotated_row(&self, packed: &[u8], norm: f16, out: &mut [f32]) -> Result<(), MxtqError> {
        if out.len() != self.row_len() {
            return Err(MxtqError::RowLength {
                expected: self.row_len(),
                found: out.len(),
            });
        }
        self.bits.check(packed, out.len())?;
        let norm = checked_norm(norm)?;
        let mut levels = [0.0; 256];
        for (level, book) in levels.iter_mut().zip(&self.book) {
            *level = book * norm;
        }
        spread(packed, self.bits, out, |code| levels[usize::from(code)]);
        Ok(())
    }

    /// The weights of a row, in f32 arithmetic and in the order of the bundle's own decoder.
    ///
    /// # Errors
    ///
    /// Those of [`Codec::rotated_row`].
    pub fn decode_row(&self, packed: &[u8], norm: f16, out: &mut [f32]) -> Result<(), MxtqError> {
        self.rotated_row(packed, norm, out)?;
        unrotate(out, &self.signs);
        Ok(())
    }
}

/// A norm as a number that is finite and not negative.
pub(super) fn checked_norm(norm: f16) -> Result<f32, MxtqError> {
    let found = norm.to_f32();
    if found.is_finite() && found >= 0.0 {
        Ok(found)
    } else {
        Err(MxtqError::Norm { found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_row_is_refused() {
        let codec = Codec::new(64, Bits::new(2).unwrap(), 42);
        let mut out = [0.0; 64];
        for norm in [
            f16::NAN,
            f16::INFINITY,
            f16::NEG_INFINITY,
            f16::from_f32(-0.5),
        ] {
            let error = codec.decode_row(&[0; 16], norm, &mut out).unwrap_err();
            assert!(matches!(error, MxtqError::Norm { .. }), "{norm}: {error}");
        }
        let error = codec.decode_row(&[0; 15], f16::ONE, &mut out).unwrap_err();
        assert!(matches!(
            error,
            MxtqError::PackedBytes {
                expected: 16,
                found: 15,
                ..
            }
        ));
        let error = codec
            .decode_row(&[0; 16], f16::ONE, &mut out[1..])
            .unwrap_err();
        assert_eq!(
            error,
            MxtqError::RowLength {
                expected: 64,
                found: 63
            }
        );
    }

    #[test]
    fn a_row_without_norm_is_zero() {
        let codec = Codec::new(64, Bits::new(4).unwrap(), 42);
        let mut out = [1.0; 64];
        for norm in [f16::ZERO, f16::NEG_ZERO] {
            codec.decode_row(&[0xa5; 32], norm, &mut out).unwrap();
            assert!(out.iter().all(|&w| w == 0.0));
        }
    }
}
