//! Every kernel against sums in f64, on ragged sizes, masks and thread counts.

mod latents;

use super::*;

/// Sums of a few hundred products in F32 and an exponential, relative to the largest value.
const TOLERANCE: f64 = 1e-6;
const NONE: u16 = HIDDEN;
const NAN16: u16 = 0x7e00;

struct Noise(u64);

impl Noise {
    /// From -1 to 1.
    fn number(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as f32 / (1u32 << 30) as f32 - 1.0
    }
}

/// Sizes of a case.
#[derive(Debug, Clone, Copy)]
struct Case {
    d_k: usize,
    d_v: usize,
    heads: usize,
    key_heads: usize,
    tokens: usize,
    seqs: usize,
    keys: usize,
    stored: Stored,
    /// Values are the starts of the keys.
    latent: bool,
}

const GQA: Case = Case {
    d_k: 128,
    d_v: 128,
    heads: 8,
    key_heads: 2,
    tokens: 3,
    seqs: 1,
    keys: 320,
    stored: Stored::F16,
    latent: false,
};
const MLA: Case = Case {
    d_k: 576,
    d_v: 512,
    heads: 32,
    key_heads: 1,
    latent: true,
    ..GQA
};

const CASES: [Case; 12] = [
    GQA,
    MLA,
    Case {
        heads: 2,
        tokens: 40,
        ..GQA
    },
    Case {
        d_k: 24,
        d_v: 40,
        heads: 3,
        key_heads: 3,
        keys: 17,
        seqs: 3,
        ..GQA
    },
    Case {
        d_k: 160,
        d_v: 160,
        heads: 5,
        key_heads: 1,
        keys: 257,
        tokens: 9,
        ..GQA
    },
    Case {
        d_k: 7,
        d_v: 3,
        heads: 6,
        key_heads: 2,
        keys: 1,
        tokens: 1,
        ..GQA
    },
    Case {
        d_k: 64,
        d_v: 64,
        heads: 4,
        key_heads: 4,
        keys: 1024,
        tokens: 1,
        seqs: 2,
        ..GQA
    },
    Case {
        d_k: 96,
        d_v: 80,
        heads: 20,
        key_heads: 4,
        keys: 600,
        stored: Stored::F32,
        ..GQA
    },
    Case {
        d_k: 33,
        d_v: 48,
        stored: Stored::Bf16,
        tokens: 70,
        ..GQA
    },
    Case {
        d_k: 72,
        d_v: 64,
        heads: 48,
        tokens: 5,
        seqs: 2,
        stored: Stored::Bf16,
        ..MLA
    },
    Case {
        d_k: 48,
        d_v: 32,
        heads: 17,
        tokens: 2,
        stored: Stored::F32,
        keys: 513,
        ..MLA
    },
    Case {
        d_k: 256,
        d_v: 256,
        heads: 16,
        key_heads: 1,
        tokens: 12,
        keys: 300,
        ..GQA
    },
];

/// A case with numbers.
#[derive(Clone)]
struct Data {
    case: Case,
    q: Vec<f32>,
    k: Vec<u8>,
    v: Vec<u8>,
    mask: Vec<u16>,
}

fn encode(stored: Stored, x: f32, to: &mut Vec<u8>) {
    match stored {
        Stored::F16 => to.extend(half::f16::from_f32(x).to_le_bytes()),
        Stored::Bf16 => to.extend(half::bf16::from_f32(x).to_le_bytes()),
        Stored::F32 => to.extend(x.to_le_bytes()),
    }
}

fn decode(stored: Stored, bytes: &[u8], index: usize) -> f64 {
    let n = stored.bytes();
    let at = &bytes[index * n..(index + 1) * n];
    f64::from(match stored {
        Stored::F16 => half::f16::from_le_bytes([at[0], at[1]]).to_f32(),
        Stored::Bf16 => half::bf16::from_le_bytes([at[0], at[1]]).to_f32(),
        Stored::F32 => f32::from_le_bytes([at[0], at[1], at[2], at[3]]),
    })
}

impl Data {
    /// Random numbers, and the mask of tokens that end the keys.
    fn new(case: Case, seed: u64) -> Self {
        let mut noise = Noise(seed);
        let c = case;
        let q = (0..c.seqs * c.tokens * c.heads * c.d_k)
            .map(|_| noise.number() * 2.0)
            .collect();
        let mut rows = |width: usize| {
            let mut bytes = Vec::new();
            for _ in 0..c.seqs * c.keys * c.key_heads * width {
                encode(c.stored, noise.number(), &mut bytes);
            }
            bytes
        };
        let (k, v) = (rows(c.d_k), rows(if c.latent { 0 } else { c.d_v }));
        let mut data = Self {
            case,
            q,
            k,
            v,
            mask: Vec::new(),
        };
        data.causal();
        data
    }

    fn causal(&mut self) {
        let c = self.case;
        self.mask.clear();
        for _ in 0..c.seqs {
            for token in 0..c.tokens {
                let end = (c.keys + token + 1).saturating_sub(c.tokens).max(1);
                self.mask
                    .extend((0..c.keys).map(|key| if key < end { 0 } else { NONE }));
            }
        }
    }

    fn attention(&self, way: Way) -> Attention {
        let c = self.case;
        let bytes = c.stored.bytes();
        let rows = |data: &[u8], width: usize| Vectors {
            data: data.as_ptr(),
            token: c.key_heads * width * bytes,
            head: width * bytes,
            seq: c.keys * c.key_heads * width * bytes,
            width,
        };
        let k = rows(&self.k, c.d_k);
        let v = if c.latent {
            Vectors { width: c.d_v, ..k }
        } else {
            rows(&self.v, c.d_v)
        };
        Attention {
            q: Vectors {
                data: self.q.as_ptr().cast(),
                token: c.heads * c.d_k * 4,
                head: c.d_k * 4,
                seq: c.tokens * c.heads * c.d_k * 4,
                width: c.d_k,
            },
            k,
            v,
            stored: c.stored,
            mask: self.mask.as_ptr(),
            n_keys: c.keys,
            n_heads: c.heads,
            n_key_heads: c.key_heads,
            n_tokens: c.tokens,
            n_seqs: c.seqs,
            scale: 1.7 / (c.d_k as f32).sqrt(),
            way,
            latents: None,
        }
    }

    fn out_len(&self) -> usize {
        let c = self.case;
        c.seqs * c.tokens * c.heads * c.d_v
    }

    /// By one node.
    fn whole(&self, kernel: &Kernel, way: Way, threads: usize) -> Vec<f32> {
        let a = self.attention(way);
        let mut out = vec![f32::NAN; self.out_len()];
        for index in (0..threads).rev() {
            // SAFETY: all is there; shares come one after the other.
            unsafe { attend(kernel, &a, out.as_mut_ptr(), Share { index, of: threads }) };
        }
        out
    }

    /// By chunks.
    fn parts(&self, kernel: &Kernel, way: Way, threads: usize) -> Vec<f32> {
        let a = self.attention(way);
        let mut parts = vec![f32::NAN; parts_len(&a).unwrap()];
        let mut out = vec![f32::NAN; self.out_len()];
        for index in 0..threads {
            // SAFETY: as above.
            unsafe { attend_parts(kernel, &a, parts.as_mut_ptr(), Share { index, of: threads }) };
        }
        for index in 0..threads {
            // SAFETY: as above.
            unsafe {
                join_parts(
                    kernel,
                    &a,
                    parts.as_ptr(),
                    out.as_mut_ptr(),
                    Share { index, of: threads },
                )
            };
        }
        out
    }

    /// In f64, and how large a value may be.
    fn expected(&self) -> Vec<f64> {
        let c = self.case;
        let scale = f64::from(self.attention(Way::Along).scale);
        let value = |seq: usize, key: usize, head: usize, i: usize| {
            let row = (seq * c.keys + key) * c.key_heads + head;
            if c.latent {
                decode(c.stored, &self.k, row * c.d_k + i)
            } else {
                decode(c.stored, &self.v, row * c.d_v + i)
            }
        };
        let mut out = Vec::new();
        for row in 0..c.seqs * c.tokens * c.heads {
            let (seq, head) = (
                row / c.heads / c.tokens,
                row % c.heads / (c.heads / c.key_heads),
            );
            let mask = &self.mask[row / c.heads * c.keys..][..c.keys];
            let q = &self.q[row * c.d_k..(row + 1) * c.d_k];
            let seen: Vec<usize> = (0..c.keys).filter(|key| mask[*key] != NONE).collect();
            let scores: Vec<f64> = seen
                .iter()
                .map(|key| {
                    let at = ((seq * c.keys + key) * c.key_heads + head) * c.d_k;
                    let dot: f64 = (0..c.d_k)
                        .map(|i| f64::from(q[i]) * decode(c.stored, &self.k, at + i))
                        .sum();
                    dot * scale + half::f16::from_bits(mask[*key]).to_f64()
                })
                .collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..c.d_v).map(|i| {
                let all: f64 = seen
                    .iter()
                    .zip(&weights)
                    .map(|(key, w)| w * value(seq, *key, head, i))
                    .sum();
                if seen.is_empty() { 0.0 } else { all / sum }
            }));
        }
        out
    }

    /// Results of every way, which are the same for every division of the work.
    fn check(&self, kernel: &Kernel, what: &str) {
        let expected = self.expected();
        for way in [Way::Across, Way::Along] {
            let out = self.whole(kernel, way, 1);
            for (i, (x, y)) in out.iter().zip(&expected).enumerate() {
                let same = if y.is_nan() {
                    x.is_nan()
                } else {
                    (f64::from(*x) - y).abs() < TOLERANCE
                };
                let name = kernel.name;
                assert!(
                    same,
                    "{name}: {what} {way:?} {:?}: {i}: {x} for {y}",
                    self.case
                );
            }
            for threads in 1..4 {
                assert_bits(&out, &self.whole(kernel, way, threads), "whole");
                assert_bits(&out, &self.parts(kernel, way, threads), "parts");
            }
        }
    }
}

#[track_caller]
fn assert_bits(a: &[f32], b: &[f32], what: &str) {
    let same = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan();
    assert!(a.len() == b.len() && a.iter().zip(b).all(same), "{what}");
}

/// Every kernel that this machine can run.
fn kernels() -> impl Iterator<Item = &'static Kernel> {
    all().iter().copied().filter(|kernel| {
        if !kernel.is_available() {
            eprintln!("not run: {} is not here", kernel.name);
        }
        kernel.is_available()
    })
}

/// Every kernel with every case.
fn runs() -> impl Iterator<Item = (&'static Kernel, Case)> {
    kernels().flat_map(|kernel| CASES.into_iter().map(move |case| (kernel, case)))
}

#[test]
fn sums_in_f64_agree() {
    for (i, (kernel, case)) in runs().enumerate() {
        Data::new(case, 7 + i as u64).check(kernel, "causal");
    }
}

#[test]
fn masks_may_be_anything() {
    for (kernel, case) in runs() {
        let mut data = Data::new(case, 3);
        let mut noise = Noise(11);
        for mask in &mut data.mask {
            *mask = match noise.number() {
                x if x < -0.3 => NONE,
                x if x > 0.6 => half::f16::from_f32(x).to_bits(),
                _ => 0,
            };
        }
        data.check(kernel, "holes");
        // A window that starts late, and rows that see nothing.
        for (row, mask) in data.mask.chunks_exact_mut(case.keys).enumerate() {
            let window = (case.keys / 3 + row)..(case.keys * 3 / 4 + row / 2);
            for (key, mask) in mask.iter_mut().enumerate() {
                *mask = if row % 3 != 1 && window.contains(&key) {
                    0
                } else {
                    NONE
                };
            }
        }
        data.check(kernel, "window");
        data.mask.fill(NONE);
        data.check(kernel, "nothing");
        assert!(data.whole(kernel, Way::Across, 1).iter().all(|x| *x == 0.0));
    }
}

/// A query's bits are those it has alone, whatever is computed beside it and however long the rows beyond are.
#[test]
fn a_query_is_not_changed_by_others() {
    for (kernel, case) in runs() {
        let together = Data::new(case, 5);
        for way in [Way::Across, Way::Along] {
            let all = together.whole(kernel, way, 1);
            let width = case.heads * case.d_v;
            for query in 0..case.seqs * case.tokens {
                let (seq, token) = (query / case.tokens, query % case.tokens);
                let end = (case.keys + token + 1).saturating_sub(case.tokens).max(1);
                let rows = |bytes: &[u8]| {
                    let per_key = bytes.len() / (case.seqs * case.keys);
                    let first = seq * case.keys * per_key;
                    bytes[first..first + end * per_key].to_vec()
                };
                let n = case.heads * case.d_k;
                let mut alone = Data {
                    case: Case {
                        tokens: 1,
                        seqs: 1,
                        keys: end,
                        ..case
                    },
                    q: together.q[query * n..(query + 1) * n].to_vec(),
                    k: rows(&together.k),
                    v: rows(&together.v),
                    mask: Vec::new(),
                };
                alone.causal();
                let expected = &all[query * width..(query + 1) * width];
                assert_bits(&alone.parts(kernel, way, 2), expected, "alone");
            }
        }
    }
}

/// Rows that are not numbers reach those who see them and no one else.
#[test]
fn what_is_hidden_does_not_shine_through() {
    for (kernel, case) in runs().filter(|(_, c)| c.keys > 16 && c.tokens > 1) {
        for seen_by_last in [false, true] {
            let mut data = Data::new(case, 9);
            // Poison the last token's own key, or, with that one hidden from all, what no one sees.
            let poisoned = case.keys - 1;
            if !seen_by_last {
                for mask in data.mask.chunks_exact_mut(case.keys) {
                    mask[poisoned] = NONE;
                }
            }
            let (bytes, nan) = (case.stored.bytes(), f32::NAN);
            for rows in [&mut data.k, &mut data.v] {
                let per_key = rows.len() / (case.seqs * case.keys);
                for seq in 0..case.seqs {
                    let mut bad = Vec::new();
                    (0..per_key / bytes).for_each(|_| encode(case.stored, nan, &mut bad));
                    let at = (seq * case.keys + poisoned) * per_key;
                    rows[at..at + per_key].copy_from_slice(&bad);
                }
            }
            data.check(kernel, "poison");
            for way in [Way::Across, Way::Along] {
                let out = data.whole(kernel, way, 1);
                let width = case.heads * case.d_v;
                for (query, out) in out.chunks_exact(width).enumerate() {
                    let hit = seen_by_last && query % case.tokens == case.tokens - 1;
                    assert!(out.iter().all(|x| x.is_nan() == hit), "{case:?} {query}");
                }
            }
        }
    }
}

/// Infinite scores, and masks that are not numbers, end as they do in the formula.
#[test]
fn extremes_stay_what_they_are() {
    let cases = || kernels().flat_map(|kernel| [GQA, MLA].map(|case| (kernel, case)));
    for (kernel, case) in cases() {
        let mut data = Data::new(case, 13);
        data.q[..case.d_k].fill(f32::INFINITY);
        data.q[case.d_k..2 * case.d_k].fill(f32::NAN);
        data.mask[case.keys + 5] = NAN16;
        for way in [Way::Across, Way::Along] {
            let out = data.whole(kernel, way, 1);
            let heads = |n: usize| &out[n * case.d_v..(n + 1) * case.d_v];
            assert!(heads(0).iter().all(|x| x.is_nan()));
            assert!(heads(1).iter().all(|x| x.is_nan()));
            assert!(heads(2).iter().all(|x| x.is_finite()));
            assert!(heads(case.heads).iter().all(|x| x.is_nan()));
            assert!(heads(2 * case.heads).iter().all(|x| x.is_finite()));
        }
    }
}

#[test]
fn the_exponential_is_near_the_one_in_f64() {
    /// Two units in the last place and a bit.
    const TOLERANCE: f64 = 2.5e-7;
    for kernel in kernels() {
        // SAFETY: the machine has what it takes.
        let exp = |x: f32| unsafe { (kernel.exp)(x) };
        for x in (0..87_300).map(|i| -0.001 * i as f32) {
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            let near = (found / expected - 1.0).abs() < TOLERANCE;
            assert!(near, "{}: {x}: {found} for {expected}", kernel.name);
        }
        let (one, zero) = (exp(0.0), [exp(-88.0), exp(-1e30), exp(f32::NEG_INFINITY)]);
        assert_eq!((one, zero), (1.0, [0.0; 3]), "{}", kernel.name);
        assert!(exp(f32::NAN).is_nan(), "{}", kernel.name);
    }
}
