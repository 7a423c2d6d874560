//! The decaying linear recurrence of Lightning attention: `S = a S + v k^T`, `y = S q`, a state per head.
//!
//! States are read where they are kept and written where they will be kept, row by row, instead of through a result that
//! is copied afterwards. Rows of a state do not depend on each other: they are what threads divide, and a thread has its
//! rows in all sequences, so that no two threads ever touch the same numbers. Tokens come one after the other, so the bits
//! of a token do not depend on how many a step has.

use std::cell::RefCell;

use super::Share;

/// Rows of a state that go through the tokens together.
const ROWS: usize = 8;

/// Numbers that sums are kept apart for.
const LANES: usize = 8;

/// A token's heads, dense; tokens lie `stride` numbers apart.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// The first token's first head.
    pub data: *const f32,
    /// Numbers from one token to the next.
    pub stride: usize,
}

impl Heads {
    /// # Safety
    /// The token has this head, of `width` numbers, and nobody writes it.
    unsafe fn head<'a>(&self, token: usize, head: usize, width: usize) -> &'a [f32] {
        // SAFETY: the caller's word.
        unsafe {
            std::slice::from_raw_parts(self.data.add(token * self.stride + head * width), width)
        }
    }
}

/// What to compute. A state has `n_head * d_v` rows of `d_k` numbers.
#[derive(Debug, Clone, Copy)]
pub struct Scan {
    /// Width of keys and queries.
    pub d_k: usize,
    /// Width of values.
    pub d_v: usize,
    /// Heads of values, states and results.
    pub n_head: usize,
    /// Heads of keys and queries, a divisor of `n_head`: neighbours share one.
    pub n_key_head: usize,
    /// Tokens of each sequence.
    pub n_tokens: usize,
    /// Sequences.
    pub n_seqs: usize,
    /// States to keep of each, the newest first; at most `n_tokens`.
    pub n_kept: usize,
    /// Queries.
    pub q: Heads,
    /// Keys.
    pub k: Heads,
    /// Values.
    pub v: Heads,
    /// Logarithm of `a` of each head.
    pub decay: *const f32,
    /// Planes, each a state.
    pub states: *mut f32,
    /// The plane each sequence's state is in.
    pub from: *const i32,
    /// The planes kept states go to: all newest ones, then all second newest, ...
    pub to: *const i64,
    /// `y`: `n_head * d_v` numbers a token.
    pub out: *mut f32,
}

/// Computes this thread's rows.
///
/// # Safety
/// Operands have the sizes that `scan` says, planes are there, and no other thread has this share.
pub unsafe fn scan(scan: &Scan, share: Share) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512; the caller's word.
            return unsafe { avx512::own_rows(scan, share) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has AVX2 and FMA; the caller's word.
            return unsafe { avx2(scan, share) };
        }
    }
    // SAFETY: the caller's word.
    unsafe { own_rows::<Plain<FUSED>>(scan, share) }
}

/// Every 64-bit Arm multiplies and adds in one instruction, not every x86.
const FUSED: bool = cfg!(target_arch = "aarch64");

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(scan: &Scan, share: Share) {
    // SAFETY: the caller's word.
    unsafe { own_rows::<Plain<true>>(scan, share) }
}

/// What happens to a row of a state at a token.
trait Step {
    /// `row = a row + v k`; gives `row q`. All three are equally long.
    ///
    /// # Safety
    /// The CPU has what this step is made for.
    unsafe fn step(row: &mut [f32], k: &[f32], q: &[f32], a: f32, v: f32) -> f32;
}

thread_local! {
    /// Rows on their way through the tokens.
    static STATE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[inline(always)]
unsafe fn own_rows<S: Step>(scan: &Scan, share: Share) {
    let (d_k, d_v) = (scan.d_k, scan.d_v);
    let blocks = d_v.div_ceil(ROWS);
    // Not in a closure: it would be compiled without the features of the function that this becomes part of.
    let mut state = STATE.take();
    state.resize(ROWS * d_k, 0.0);
    for unit in share.range(scan.n_head * blocks, 1) {
        let (head, first) = (unit / blocks, unit % blocks * ROWS);
        let n = ROWS.min(d_v - first);
        for seq in 0..scan.n_seqs {
            // SAFETY: the caller's word.
            unsafe { block::<S>(scan, seq, head, first, &mut state[..n * d_k]) };
        }
    }
    STATE.set(state);
}

/// Takes rows from `first` on of one head through a sequence's tokens.
#[inline(always)]
unsafe fn block<S: Step>(scan: &Scan, seq: usize, head: usize, first: usize, rows: &mut [f32]) {
    let Scan {
        d_k, d_v, n_head, ..
    } = *scan;
    let at = (head * d_v + first) * d_k;
    let plane = n_head * d_v * d_k;
    let key_head = head / (n_head / scan.n_key_head);
    // SAFETY: the caller's word: planes, tokens and heads are there; these rows are this thread's.
    unsafe {
        let a = (*scan.decay.add(head)).exp();
        let from = scan.states.add(*scan.from.add(seq) as usize * plane + at);
        rows.copy_from_slice(std::slice::from_raw_parts(from, rows.len()));
        for t in 0..scan.n_tokens {
            let token = seq * scan.n_tokens + t;
            let q = scan.q.head(token, key_head, d_k);
            let k = scan.k.head(token, key_head, d_k);
            let v = &scan.v.head(token, head, d_v)[first..];
            let y = scan.out.add((token * n_head + head) * d_v + first);
            for (i, (row, v)) in rows.chunks_exact_mut(d_k).zip(v).enumerate() {
                y.add(i).write(S::step(row, k, q, a, *v));
            }
            let age = scan.n_tokens - 1 - t;
            if age < scan.n_kept {
                let to = *scan.to.add(age * scan.n_seqs + seq) as usize;
                let to = scan.states.add(to * plane + at);
                to.copy_from_nonoverlapping(rows.as_ptr(), rows.len());
            }
        }
    }
}

/// For any machine, in loops that compilers turn into registers.
struct Plain<const FUSED: bool>;

impl<const FUSED: bool> Plain<FUSED> {
    /// `x y + z`; the fused form is one instruction only where the machine has it, and a call elsewhere.
    #[inline(always)]
    fn add(x: f32, y: f32, z: f32) -> f32 {
        if FUSED { x.mul_add(y, z) } else { x * y + z }
    }
}

impl<const FUSED: bool> Step for Plain<FUSED> {
    #[inline(always)]
    unsafe fn step(row: &mut [f32], k: &[f32], q: &[f32], a: f32, v: f32) -> f32 {
        let mut sums = [0.0f32; LANES];
        let (row, row_end) = row.as_chunks_mut::<LANES>();
        let (k, k_end) = k.as_chunks::<LANES>();
        let (q, q_end) = q.as_chunks::<LANES>();
        for ((row, k), q) in row.iter_mut().zip(k).zip(q) {
            // Whole registers: a loop that also wrote `row` would not become one.
            let new: [f32; LANES] = std::array::from_fn(|i| Self::add(row[i], a, v * k[i]));
            for (sum, (x, q)) in sums.iter_mut().zip(new.iter().zip(q)) {
                *sum = Self::add(*x, *q, *sum);
            }
            *row = new;
        }
        for (sum, ((row, k), q)) in sums
            .iter_mut()
            .zip(row_end.iter_mut().zip(k_end).zip(q_end))
        {
            *row = Self::add(*row, a, v * k);
            *sum = Self::add(*row, *q, *sum);
        }
        let sums: [f32; 4] = std::array::from_fn(|i| sums[i] + sums[i + 4]);
        (sums[0] + sums[2]) + (sums[1] + sums[3])
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Scan, Share, Step};

    struct Wide;

    impl Step for Wide {
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn step(row: &mut [f32], k: &[f32], q: &[f32], a: f32, v: f32) -> f32 {
            let (a, v) = (_mm512_set1_ps(a), _mm512_set1_ps(v));
            let mut sum = _mm512_setzero_ps();
            let mut at = 0;
            while at < row.len() {
                let left = row.len() - at;
                let mask = if left < 16 { (1 << left) - 1 } else { !0 };
                // SAFETY: lanes beyond the end of the row, which keys and queries are as long as, are masked.
                unsafe {
                    let to = row.as_mut_ptr().add(at);
                    let new = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, k.as_ptr().add(at)));
                    let new = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, to), a, new);
                    _mm512_mask_storeu_ps(to, mask, new);
                    let q = _mm512_maskz_loadu_ps(mask, q.as_ptr().add(at));
                    sum = _mm512_fmadd_ps(new, q, sum);
                }
                at += 16;
            }
            _mm512_reduce_add_ps(sum)
        }
    }

    /// As [`super::scan`].
    #[target_feature(enable = "avx512f")]
    pub unsafe fn own_rows(scan: &Scan, share: Share) {
        // SAFETY: the caller's word.
        unsafe { super::own_rows::<Wide>(scan, share) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the largest term: sums of up to 128 products in F32.
    const ROUNDING: f64 = 1e-5;

    struct Case {
        d_k: usize,
        d_v: usize,
        n_head: usize,
        n_key_head: usize,
        n_tokens: usize,
        n_seqs: usize,
        n_kept: usize,
    }

    const CASES: [Case; 4] = [
        Case {
            d_k: 128,
            d_v: 64,
            n_head: 4,
            n_key_head: 2,
            n_tokens: 5,
            n_seqs: 2,
            n_kept: 3,
        },
        Case {
            d_k: 24,
            d_v: 7,
            n_head: 3,
            n_key_head: 3,
            n_tokens: 1,
            n_seqs: 1,
            n_kept: 1,
        },
        Case {
            d_k: 16,
            d_v: 9,
            n_head: 2,
            n_key_head: 1,
            n_tokens: 33,
            n_seqs: 3,
            n_kept: 1,
        },
        Case {
            d_k: 5,
            d_v: 1,
            n_head: 1,
            n_key_head: 1,
            n_tokens: 4,
            n_seqs: 1,
            n_kept: 4,
        },
    ];

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    type Way = unsafe fn(&Scan, Share);

    /// What this machine has: the best it can do, and what others do.
    fn ways() -> Vec<Way> {
        #[cfg_attr(
            not(target_arch = "x86_64"),
            allow(unused_mut, reason = "nothing is added")
        )]
        let mut ways: Vec<Way> = vec![scan, own_rows::<Plain<false>>, own_rows::<Plain<true>>];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            ways.push(avx2);
        }
        ways
    }

    /// Operands of a case; a sequence reads the plane of its newest state of before.
    struct Operands {
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
        decay: Vec<f32>,
        states: Vec<f32>,
        from: Vec<i32>,
        to: Vec<i64>,
    }

    impl Operands {
        fn new(c: &Case) -> Self {
            let n = c.n_tokens * c.n_seqs;
            let planes = 1 + c.n_seqs * c.n_kept;
            let to = (0..c.n_kept)
                .flat_map(|j| (0..c.n_seqs).map(move |s| (1 + s * c.n_kept + j) as i64));
            Self {
                q: noise(n * c.n_key_head * c.d_k, 1),
                k: noise(n * c.n_key_head * c.d_k, 2),
                v: noise(n * c.n_head * c.d_v, 3),
                decay: (0..c.n_head).map(|h| -0.1 - h as f32 / 8.0).collect(),
                states: noise(planes * c.n_head * c.d_v * c.d_k, 4),
                from: (0..c.n_seqs).map(|s| 1 + (s * c.n_kept) as i32).collect(),
                to: to.collect(),
            }
        }

        fn run(&mut self, c: &Case, way: Way, n_threads: usize) -> Vec<f32> {
            let mut out = vec![f32::NAN; c.n_tokens * c.n_seqs * c.n_head * c.d_v];
            let all = Scan {
                d_k: c.d_k,
                d_v: c.d_v,
                n_head: c.n_head,
                n_key_head: c.n_key_head,
                n_tokens: c.n_tokens,
                n_seqs: c.n_seqs,
                n_kept: c.n_kept,
                q: Heads {
                    data: self.q.as_ptr(),
                    stride: c.n_key_head * c.d_k,
                },
                k: Heads {
                    data: self.k.as_ptr(),
                    stride: c.n_key_head * c.d_k,
                },
                v: Heads {
                    data: self.v.as_ptr(),
                    stride: c.n_head * c.d_v,
                },
                decay: self.decay.as_ptr(),
                states: self.states.as_mut_ptr(),
                from: self.from.as_ptr(),
                to: self.to.as_ptr(),
                out: out.as_mut_ptr(),
            };
            for index in 0..n_threads {
                let of = n_threads;
                // SAFETY: all operands have the sizes of the case; shares come one after the other.
                unsafe { way(&all, Share { index, of }) };
            }
            out
        }

        /// The recurrence in f64: `y`, and all planes afterwards.
        fn expected(&self, c: &Case) -> (Vec<f64>, Vec<f64>) {
            let plane = c.n_head * c.d_v * c.d_k;
            let mut planes: Vec<f64> = self.states.iter().map(|&x| x.into()).collect();
            let mut out = vec![0.0; c.n_tokens * c.n_seqs * c.n_head * c.d_v];
            for s in 0..c.n_seqs {
                let from = self.from[s] as usize * plane;
                let mut state: Vec<f64> = planes[from..from + plane].to_vec();
                for t in 0..c.n_tokens {
                    let token = s * c.n_tokens + t;
                    for row in 0..c.n_head * c.d_v {
                        let head = row / c.d_v;
                        let key = (token * c.n_key_head + head * c.n_key_head / c.n_head) * c.d_k;
                        let a = f64::from(self.decay[head]).exp();
                        let v = f64::from(self.v[token * c.n_head * c.d_v + row]);
                        for i in 0..c.d_k {
                            let x = &mut state[row * c.d_k + i];
                            *x = a * *x + v * f64::from(self.k[key + i]);
                            out[token * c.n_head * c.d_v + row] += *x * f64::from(self.q[key + i]);
                        }
                    }
                    let age = c.n_tokens - 1 - t;
                    if age < c.n_kept {
                        let to = self.to[age * c.n_seqs + s] as usize * plane;
                        planes[to..to + plane].copy_from_slice(&state);
                    }
                }
            }
            (out, planes)
        }
    }

    #[test]
    fn results_and_kept_states_are_those_of_the_definition() {
        for way in ways() {
            for (i, c) in CASES.iter().enumerate() {
                let mut operands = Operands::new(c);
                let (y, planes) = operands.expected(c);
                let out = operands.run(c, way, 1);
                let compare = |what: &str, found: &[f32], expected: &[f64]| {
                    let bound = ROUNDING * expected.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
                    for (j, (a, b)) in found.iter().zip(expected).enumerate() {
                        let error = (f64::from(*a) - b).abs();
                        assert!(error < bound, "case {i}, {what} {j}: {a} for {b}");
                    }
                };
                compare("y", &out, &y);
                compare("state", &operands.states, &planes);
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        for way in ways() {
            for c in &CASES {
                let (mut one, mut three) = (Operands::new(c), Operands::new(c));
                let (a, b) = (one.run(c, way, 1), three.run(c, way, 3));
                assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
                assert!(one.states == three.states);
            }
        }
    }
}
