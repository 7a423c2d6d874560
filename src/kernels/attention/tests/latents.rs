//! Keys and values made of latents, against sums in f64 over keys and values that were made before.

use super::*;

/// Keys and values go through F32 on their way, relative to the largest value.
const TOLERANCE: f64 = 4e-6;

/// Sizes, and how rows are stored.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    latent: usize,
    /// A key's part that is made, its end, and a value.
    key: usize,
    end: usize,
    value: usize,
    heads: usize,
    tokens: usize,
    seqs: usize,
    keys: usize,
    stored: Stored,
}

const LING: Sizes = Sizes {
    latent: 512,
    key: 128,
    end: 64,
    value: 128,
    heads: 3,
    tokens: 40,
    seqs: 1,
    keys: 300,
    stored: Stored::F16,
};

const SIZES: [Sizes; 4] = [
    LING,
    Sizes {
        latent: 48,
        key: 16,
        end: 16,
        value: 80,
        heads: 5,
        tokens: 70,
        seqs: 2,
        keys: 257,
        ..LING
    },
    Sizes {
        latent: 128,
        key: 64,
        end: 32,
        value: 64,
        keys: 520,
        tokens: 130,
        stored: Stored::Bf16,
        ..LING
    },
    Sizes {
        latent: 16,
        key: 48,
        end: 0,
        value: 16,
        keys: 33,
        tokens: 33,
        stored: Stored::F32,
        ..LING
    },
];

/// Rows and matrices, beside what they make.
struct Rows {
    sizes: Sizes,
    rows: Vec<u8>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Queries, masks, and keys and values of each head.
    made: Data,
}

impl Rows {
    fn new(sizes: Sizes, seed: u64) -> Self {
        let Sizes {
            latent,
            key,
            end,
            value,
            heads,
            ..
        } = sizes;
        let mut noise = Noise(seed);
        let width = latent + end;
        let mut rows = Vec::new();
        for _ in 0..sizes.seqs * sizes.keys * width {
            encode(sizes.stored, noise.number(), &mut rows);
        }
        let mut matrix = |n: usize| -> Vec<f32> {
            let size = 1.0 / (latent as f32).sqrt();
            (0..heads * latent * n)
                .map(|_| noise.number() * size)
                .collect()
        };
        let (k, v) = (matrix(key), matrix(value));
        let case = Case {
            d_k: key + end,
            d_v: value,
            heads,
            key_heads: heads,
            tokens: sizes.tokens,
            seqs: sizes.seqs,
            keys: sizes.keys,
            stored: Stored::F32,
            latent: false,
        };
        let mut made = Data::new(case, seed + 1);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for row in 0..sizes.seqs * sizes.keys {
            let number = |i: usize| decode(sizes.stored, &rows, row * width + i);
            let sum = |of: &dyn Fn(usize) -> f32| -> f32 {
                let sum: f64 = (0..latent).map(|l| f64::from(of(l)) * number(l)).sum();
                sum as f32
            };
            for head in 0..heads {
                keys.extend((0..key).map(|j| sum(&|l| k[(head * latent + l) * key + j])));
                keys.extend((latent..width).map(|i| number(i) as f32));
                values.extend((0..value).map(|j| sum(&|l| v[(head * value + j) * latent + l])));
            }
        }
        made.k = keys.iter().flat_map(|x| x.to_le_bytes()).collect();
        made.v = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self {
            sizes,
            rows,
            k,
            v,
            made,
        }
    }

    fn run(&self, kernel: &Kernel, threads: usize) -> Vec<f32> {
        let Sizes {
            latent, key, end, ..
        } = self.sizes;
        let row = (latent + end) * self.sizes.stored.bytes();
        let made = self.made.attention(Way::Across);
        let a = Attention {
            k: Vectors {
                data: self.rows.as_ptr(),
                token: row,
                head: 0,
                seq: self.sizes.keys * row,
                width: latent + end,
            },
            stored: self.sizes.stored,
            latents: Some(Latents {
                k: self.k.as_ptr(),
                v: self.v.as_ptr(),
                width: latent,
                key,
            }),
            ..made
        };
        let mut out = vec![f32::NAN; self.made.out_len()];
        for index in 0..threads {
            // SAFETY: all is there; shares come one after the other.
            unsafe { attend(kernel, &a, out.as_mut_ptr(), Share { index, of: threads }) };
        }
        out
    }

    fn check(&self, kernel: &Kernel, what: &str) {
        let out = self.run(kernel, 1);
        for (i, (x, y)) in out.iter().zip(self.made.expected()).enumerate() {
            let same = match y.is_nan() {
                true => x.is_nan(),
                false => (f64::from(*x) - y).abs() < TOLERANCE,
            };
            let (name, sizes) = (kernel.name, self.sizes);
            assert!(same, "{name}: {what} {sizes:?}: {i}: {x} for {y}");
        }
        for threads in 2..5 {
            assert_bits(&out, &self.run(kernel, threads), what);
        }
    }
}

#[test]
fn what_is_made_of_latents_is_what_was_made_before() {
    for kernel in kernels() {
        for (i, sizes) in SIZES.into_iter().enumerate() {
            let mut rows = Rows::new(sizes, 21 + i as u64);
            rows.check(kernel, "causal");
            let mut noise = Noise(5);
            for mask in &mut rows.made.mask {
                *mask = match noise.number() {
                    x if x < -0.2 => NONE,
                    x if x > 0.7 => half::f16::from_f32(x).to_bits(),
                    _ => 0,
                };
            }
            rows.check(kernel, "holes");
            rows.made.mask.fill(NONE);
            assert!(rows.run(kernel, 2).iter().all(|x| *x == 0.0));
        }
    }
}

/// A token that sees a row which is no number gets none, and no other token does.
#[test]
fn hidden_latents_do_not_shine_through() {
    for kernel in kernels() {
        for sizes in SIZES {
            let mut rows = Rows::new(sizes, 3);
            let (bytes, nan) = (sizes.stored.bytes(), f32::NAN);
            let row = (sizes.latent + sizes.end) * bytes;
            let last = rows.rows.len() - row;
            let mut bad = Vec::new();
            (0..row / bytes).for_each(|_| encode(sizes.stored, nan, &mut bad));
            let good = rows.run(kernel, 1);
            rows.rows[last..].copy_from_slice(&bad);
            let out = rows.run(kernel, 1);
            let seen = out.len() - sizes.heads * sizes.value;
            assert_bits(&out[..seen], &good[..seen], "hidden");
            assert!(out[seen..].iter().all(|x| x.is_nan()), "{sizes:?}");
        }
    }
}
