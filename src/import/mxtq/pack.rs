//! Codes packed into 32-bit words.

#![forbid(unsafe_code)]

use super::error::MxtqError;

const WORD_BYTES: usize = size_of::<u32>();

/// The width of a code: 1, 2, 3, 4 or 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bits(u32);

impl Bits {
    /// # Errors
    ///
    /// [`MxtqError::Bits`] for a width that the format does not have.
    pub fn new(bits: u64) -> Result<Self, MxtqError> {
        match bits {
            1 | 2 | 3 | 4 | 8 => Ok(Self(bits as u32)),
            _ => Err(MxtqError::Bits { found: bits }),
        }
    }

    /// The width in bits.
    pub fn get(self) -> u32 {
        self.0
    }

    /// Codes in one word. Three-bit codes leave two bits of it unused.
    pub fn codes_per_word(self) -> usize {
        (u32::BITS / self.0) as usize
    }

    /// 32-bit words that `n` codes take; the last one may be part full.
    pub fn words(self, n: usize) -> usize {
        n.div_ceil(self.codes_per_word())
    }

    /// Bytes that `n` codes take.
    pub fn bytes(self, n: usize) -> usize {
        self.words(n) * WORD_BYTES
    }

    /// # Errors
    ///
    /// [`MxtqError::PackedBytes`] when `packed` is not what `n` codes take.
    pub(super) fn check(self, packed: &[u8], n: usize) -> Result<(), MxtqError> {
        let expected = self.bytes(n);
        if packed.len() == expected {
            return Ok(());
        }
        Err(MxtqError::PackedBytes {
            weights: n,
            bits: self.0,
            expected,
            found: packed.len(),
        })
    }
}

/// Hands each of `places` the code that belongs there. Codes fill little-endian words from the lowest bit on.
pub(super) fn spread<T>(packed: &[u8], bits: Bits, places: &mut [T], value: impl Fn(u8) -> T) {
    let mask = (1u32 << bits.get()) - 1;
    let (words, _) = packed.as_chunks::<WORD_BYTES>();
    for (word, places) in words.iter().zip(places.chunks_mut(bits.codes_per_word())) {
        let mut word = u32::from_le_bytes(*word);
        for place in places {
            *place = value((word & mask) as u8);
            word >>= bits.get();
        }
    }
}

/// The codes of one row, one byte each; `codes` says how many there are.
///
/// # Errors
///
/// [`MxtqError::PackedBytes`] when `packed` is not what so many codes take.
pub fn unpack(packed: &[u8], bits: Bits, codes: &mut [u8]) -> Result<(), MxtqError> {
    bits.check(packed, codes.len())?;
    spread(packed, bits, codes, |code| code);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes into words, by arithmetic instead of shifts.
    fn pack(codes: &[u8], bits: u32) -> Vec<u8> {
        let per_word = (32 / bits) as usize;
        let word = |codes: &[u8]| {
            let place = |(i, &code): (usize, &u8)| u64::from(code) * 2u64.pow(bits).pow(i as u32);
            codes.iter().enumerate().map(place).sum::<u64>() as u32
        };
        codes
            .chunks(per_word)
            .flat_map(|c| word(c).to_le_bytes())
            .collect()
    }

    #[test]
    fn codes_come_back() {
        for (width, n, bytes) in [
            (1, 64, 8),
            (2, 128, 32),
            (2, 17, 8),
            (3, 128, 52),
            (3, 120, 48),
            (4, 40, 20),
            (8, 12, 12),
        ] {
            let bits = Bits::new(width).unwrap();
            let codes: Vec<u8> = (0..n)
                .map(|i| (i * 73 + 5) as u8 & ((1u16 << width) - 1) as u8)
                .collect();
            let packed = pack(&codes, width as u32);
            assert_eq!(
                (packed.len(), bits.bytes(n)),
                (bytes, bytes),
                "{width} bits"
            );
            let mut found = vec![0; n];
            unpack(&packed, bits, &mut found).unwrap();
            assert_eq!(found, codes, "{width} bits");
        }
    }

    #[test]
    fn unused_bits_are_ignored() {
        let mut codes = [0; 10];
        unpack(&[0xff; 4], Bits::new(3).unwrap(), &mut codes).unwrap();
        assert_eq!(codes, [7; 10]);
        let mut codes = [0; 2];
        unpack(&[0xf1, 0xff, 0xff, 0xff], Bits::new(4).unwrap(), &mut codes).unwrap();
        assert_eq!(codes, [1, 15]);
    }

    #[test]
    fn other_sizes_and_widths_are_refused() {
        let two = Bits::new(2).unwrap();
        for bytes in [0, 28, 31, 33, 36] {
            let error = unpack(&vec![0; bytes], two, &mut [0; 128]).unwrap_err();
            let expected = MxtqError::PackedBytes {
                weights: 128,
                bits: 2,
                expected: 32,
                found: bytes,
            };
            assert_eq!(error, expected);
        }
        for width in [0, 5, 6, 7, 9, 16, 32, u64::MAX] {
            assert_eq!(Bits::new(width), Err(MxtqError::Bits { found: width }));
        }
    }
}
