//! The randomised Hadamard rotation: signs drawn like numpy's, then an orthonormal Hadamard transform.

#![forbid(unsafe_code)]

/// Multiplier of the 128-bit congruential generator of PCG64.
const PCG_MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

/// Constants of numpy's `SeedSequence`.
const INIT_A: u32 = 0x43B0_D7E5;
const MULT_A: u32 = 0x931E_8875;
const INIT_B: u32 = 0x8B51_F9DD;
const MULT_B: u32 = 0x58F3_8DED;
const MIX_LEFT: u32 = 0xCA01_F9DD;
const MIX_RIGHT: u32 = 0x4973_F715;
const XOR_SHIFT: u32 = 16;
const POOL_WORDS: usize = 4;

/// The hash of `SeedSequence`, whose multiplier moves on with every word.
struct Hash {
    constant: u32,
    multiplier: u32,
}

impl Hash {
    fn next(&mut self, word: u32) -> u32 {
        let word = word ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        let word = word.wrapping_mul(self.constant);
        word ^ (word >> XOR_SHIFT)
    }
}

/// The first four 64-bit words that numpy's `SeedSequence(seed)` generates.
fn seed_words(seed: u64) -> [u64; 4] {
    let mut hash = Hash {
        constant: INIT_A,
        multiplier: MULT_A,
    };
    let entropy = [seed as u32, (seed >> 32) as u32, 0, 0];
    let mut pool = entropy.map(|word| hash.next(word));
    for source in 0..POOL_WORDS {
        for target in (0..POOL_WORDS).filter(|&target| target != source) {
            let left = pool[target].wrapping_mul(MIX_LEFT);
            let mixed = left.wrapping_sub(hash.next(pool[source]).wrapping_mul(MIX_RIGHT));
            pool[target] = mixed ^ (mixed >> XOR_SHIFT);
        }
    }
    let mut hash = Hash {
        constant: INIT_B,
        multiplier: MULT_B,
    };
    std::array::from_fn(|word| {
        let low = hash.next(pool[2 * word % POOL_WORDS]);
        let high = hash.next(pool[(2 * word + 1) % POOL_WORDS]);
        u64::from(low) | u64::from(high) << 32
    })
}

/// numpy's default generator, PCG64 with the XSL-RR output.
struct Pcg64 {
    state: u128,
    increment: u128,
}

impl Pcg64 {
    fn new(seed: u64) -> Self {
        let [state_high, state_low, stream_high, stream_low] = seed_words(seed).map(u128::from);
        let increment = (stream_high << 64 | stream_low) << 1 | 1;
        let start = increment.wrapping_add(state_high << 64 | state_low);
        let mut generator = Self {
            state: start,
            increment,
        };
        generator.advance();
        generator
    }

    fn advance(&mut self) {
        self.state = self
            .state
            .wrapping_mul(PCG_MULTIPLIER)
            .wrapping_add(self.increment);
    }

    fn next(&mut self) -> u64 {
        self.advance();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }
}

/// What `numpy.random.default_rng(seed).choice([-1.0, 1.0], size=n)` gives.
///
/// Every 64-bit draw makes two signs, from bit 31 and then bit 63. A longer list starts with the shorter one.
pub fn signs(n: usize, seed: u64) -> Vec<f32> {
    let mut generator = Pcg64::new(seed);
    let mut signs = Vec::with_capacity(n + 1);
    while signs.len() < n {
        let draw = generator.next();
        signs.extend([31, 63].map(|bit| if draw >> bit & 1 == 1 { 1.0 } else { -1.0 }));
    }
    signs.truncate(n);
    signs
}

/// The orthonormal Hadamard transform in natural order, in place. It is its own inverse.
///
/// A length that is no power of two is cut into blocks of decreasing powers of two (1536 = 1024 + 512), each
/// transformed by itself.
pub fn hadamard(x: &mut [f32]) {
    let mut rest = x;
    while !rest.is_empty() {
        let (block, tail) = rest.split_at_mut(1 << rest.len().ilog2());
        hadamard_block(block);
        rest = tail;
    }
}

/// Butterflies below this width are done on values in registers.
const SMALL: usize = 8;

fn hadamard_block(x: &mut [f32]) {
    let scale = (1.0 / (x.len() as f64).sqrt()) as f32;
    let (octets, odd) = x.as_chunks_mut::<SMALL>();
    octets
        .iter_mut()
        .for_each(|octet| *octet = hadamard_8(*octet));
    // Only blocks shorter than eight leave a rest.
    let mut half = if odd.is_empty() { SMALL } else { 1 };
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    x.iter_mut().for_each(|value| *value *= scale);
}

fn hadamard_8(mut x: [f32; SMALL]) -> [f32; SMALL] {
    for half in [1, 2, 4] {
        x = std::array::from_fn(|i| {
            if i & half == 0 {
                x[i] + x[i + half]
            } else {
                x[i - half] - x[i]
            }
        });
    }
    x
}

/// `H(signs * x)` in place: what activations go through.
///
/// Elements beyond the shorter of the two lists keep their sign.
pub fn rotate(x: &mut [f32], signs: &[f32]) {
    apply_signs(x, signs);
    hadamard(x);
}

/// `signs * H(x)` in place: the inverse of [`rotate`].
pub fn unrotate(x: &mut [f32], signs: &[f32]) {
    hadamard(x);
    apply_signs(x, signs);
}

fn apply_signs(x: &mut [f32], signs: &[f32]) {
    x.iter_mut()
        .zip(signs)
        .for_each(|(value, sign)| *value *= sign);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 42;

    #[test]
    fn the_generator_is_seeded_like_numpys() {
        let words = [
            0x9f1e_2e6d_cd54_0ab7,
            0xd578_73dc_79fb_94b6,
            0x7d28_2a1b_64d4_20b7,
            0x3365_7971_4692_d5ff,
        ];
        assert_eq!(seed_words(SEED), words);
        let mut generator = Pcg64::new(SEED);
        assert_eq!(generator.state, 274674114334540486603088602300644985544);
        assert_eq!(generator.increment, 332724090758049132448979897138935081983);
        let draws = [
            0xc621_fbcd_16d9_2688,
            0x705a_5661_a791_ffc1,
            0xdbcd_12c2_6eda_1624,
            0xb286_b60e_1600_888d,
        ];
        assert_eq!(draws.map(|_| generator.next()), draws);
        let first = (draws[0] >> 11) as f64 / (1u64 << 53) as f64;
        assert_eq!(first, 0.773_956_048_555_963_3);
    }

    #[test]
    fn a_longer_list_of_signs_starts_with_the_shorter() {
        let long = signs(4096, SEED);
        for n in [0, 1, 2, 127, 1024] {
            assert_eq!(signs(n, SEED), long[..n]);
        }
    }

    /// The definition: entry (i, j) is the parity of the bits that i and j share.
    fn by_definition(x: &[f32]) -> Vec<f64> {
        let n = x.len();
        let entry = |i: usize, j: usize| {
            let sign = if (i & j).count_ones().is_multiple_of(2) {
                1.0
            } else {
                -1.0
            };
            sign / (n as f64).sqrt()
        };
        (0..n)
            .map(|i| (0..n).map(|j| entry(i, j) * f64::from(x[j])).sum())
            .collect()
    }

    /// Rounding of one f32 sum per stage, at values below 2.
    const TOLERANCE: f64 = 1e-5;

    #[test]
    fn the_transform_is_the_definition_block_by_block() {
        for blocks in [
            vec![1],
            vec![2, 1],
            vec![4],
            vec![8, 2],
            vec![128],
            vec![128, 64],
            vec![512, 4, 1],
            vec![1024, 512],
        ] {
            let n = blocks.iter().sum();
            let start: Vec<f32> = (0..n).map(|i| ((i * 37 + 11) % 97) as f32 / 97.0).collect();
            let mut expected = Vec::new();
            for length in &blocks {
                let from = expected.len();
                expected.extend(by_definition(&start[from..from + length]));
            }
            let mut found = start.clone();
            hadamard(&mut found);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < TOLERANCE, "{n}");
            }
            hadamard(&mut found);
            for (back, start) in found.iter().zip(&start) {
                assert!(f64::from(back - start).abs() < TOLERANCE, "{n}");
            }
        }
    }

    #[test]
    fn unrotate_undoes_rotate() {
        let start: Vec<f32> = (0..192).map(|i| (i as f32 * 0.7).sin()).collect();
        let signs = signs(192, 7);
        let mut x = start.clone();
        rotate(&mut x, &signs);
        let length = |x: &[f32]| x.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
        assert!((length(&x) - length(&start)).abs() < TOLERANCE);
        assert!(x.iter().zip(&start).any(|(a, b)| (a - b).abs() > 0.1));
        unrotate(&mut x, &signs);
        for (back, start) in x.iter().zip(&start) {
            assert!(f64::from(back - start).abs() < TOLERANCE);
        }
    }
}
