use super::*;

/// Of the largest term: sums of up to 128 products in F32.
const ROUNDING: f64 = 1e-5;

#[derive(Clone, Copy)]
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

/// Operands of a case; a sequence reads one of the planes that it will write, the newest or an older one.
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
        let to =
            (0..c.n_kept).flat_map(|j| (0..c.n_seqs).map(move |s| (1 + s * c.n_kept + j) as i64));
        Self {
            q: noise(n * c.n_key_head * c.d_k, 1),
            k: noise(n * c.n_key_head * c.d_k, 2),
            v: noise(n * c.n_head * c.d_v, 3),
            decay: (0..c.n_head).map(|h| -0.1 - h as f32 / 8.0).collect(),
            states: noise(planes * c.n_head * c.d_v * c.d_k, 4),
            from: (0..c.n_seqs)
                .map(|s| (1 + s * c.n_kept + s % c.n_kept) as i32)
                .collect(),
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
        for (i, c) in CASES.iter().chain([&long(100)]).enumerate() {
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
        for c in CASES.iter().chain([&long(128)]) {
            let (mut one, mut three) = (Operands::new(c), Operands::new(c));
            let (a, b) = (one.run(c, way, 1), three.run(c, way, 3));
            assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
            assert!(one.states == three.states);
        }
    }
}

/// More tokens and rows than go together on any machine, and some left over; all states are kept.
fn long(d_k: usize) -> Case {
    Case {
        d_k,
        d_v: 19,
        n_head: 4,
        n_key_head: 2,
        n_tokens: 33,
        n_seqs: 2,
        n_kept: 33,
    }
}

#[test]
fn the_size_of_steps_changes_no_bit() {
    for (way, d_k) in ways()
        .into_iter()
        .flat_map(|way| [128, 37, 300].map(|d_k| (way, d_k)))
    {
        let c = long(d_k);
        let mut whole = Operands::new(&c);
        let before = whole.states.clone();
        let y = whole.run(&c, way, 1);
        let (plane, width) = (c.n_head * c.d_v * c.d_k, c.n_head * c.d_v);
        let is_same =
            |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        for seq in 0..c.n_seqs {
            // The sequence alone, in steps that keep one state.
            let start = whole.from[seq] as usize * plane;
            let mut state = before[start..start + plane].to_vec();
            for tokens in [0..1, 1..8, 8..33] {
                let step = Case {
                    n_tokens: tokens.len(),
                    n_seqs: 1,
                    n_kept: 1,
                    ..c
                };
                let of = |x: &[f32], width: usize| {
                    let first = seq * c.n_tokens;
                    x[(first + tokens.start) * width..(first + tokens.end) * width].to_vec()
                };
                let mut part = Operands {
                    q: of(&whole.q, c.n_key_head * d_k),
                    k: of(&whole.k, c.n_key_head * d_k),
                    v: of(&whole.v, width),
                    decay: whole.decay.clone(),
                    states: state,
                    from: vec![0],
                    to: vec![0],
                };
                let found = part.run(&step, way, 1);
                state = part.states;
                assert!(
                    is_same(&found, &of(&y, width)),
                    "d_k {d_k}, y of {tokens:?}"
                );
                let kept = whole.to[(c.n_tokens - tokens.end) * c.n_seqs + seq] as usize * plane;
                let kept = &whole.states[kept..kept + plane];
                assert!(is_same(&state, kept), "d_k {d_k}, state after {tokens:?}");
            }
        }
    }
}
