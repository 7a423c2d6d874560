//! Random numbers that depend on the seed and the output position only.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Words of one ChaCha block; each output position owns one block.
const BLOCK_WORDS: u128 = 16;

/// What a random number is used for. Each purpose has its own words in the block of a position,
/// so that switching one sampler on does not shift the numbers of another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// Choice of the token.
    Token = 0,
    /// Whether XTC acts.
    Xtc = 1,
    /// Choice of the token after a constraint refused the first one. A fresh number: the old one
    /// is known to have hit a refused token and would favour its neighbours.
    Retry = 2,
}

/// Random numbers of one seed, addressed by output position and purpose.
///
/// The generator is ChaCha8 with the seed (little-endian) in the first eight key bytes and the
/// position as block counter, and the mapping to floats is ours: a seed replays on every platform
/// and however the positions were batched.
#[derive(Clone, Debug)]
pub(super) struct Draws {
    seed: u64,
    rng: ChaCha8Rng,
}

impl Draws {
    /// The stream of `seed`; without one, of a random seed of 32 bits (short enough to retype).
    pub(super) fn new(seed: Option<u64>) -> Self {
        let seed = seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self {
            seed,
            rng: ChaCha8Rng::from_seed(key),
        }
    }

    /// The seed really used.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// A number in [0, 1) with 53 random bits.
    pub(super) fn uniform(&mut self, position: u64, purpose: Purpose) -> f64 {
        let word = u128::from(position) * BLOCK_WORDS + 2 * purpose as u128;
        self.rng.set_word_pos(word);
        let high = u64::from(self.rng.next_u32());
        let low = u64::from(self.rng.next_u32());
        let bits = (high << 32 | low) >> 11;
        bits as f64 / (1u64 << 53) as f64
    }
}
