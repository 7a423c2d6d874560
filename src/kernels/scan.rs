//! The decaying linear recurrence of Lightning attention: `S = a S + v k^T`, `y = S q`, a state per head.
//!
//! States are read where they are kept and written where they will be kept, row by row, instead of through a result that
//! is copied afterwards. Rows of a state do not depend on each other: they are what threads divide, and a thread has its
//! rows in all sequences, so that no two threads ever touch the same numbers. Tokens come one after the other, so the bits
//! of a token do not depend on how many a step has.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod plain;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;

use super::Share;
use plain::Plain;

/// Tokens that pass before other rows' turn: their keys and queries fit in the nearest cache, beside rows and sums.
const TOKENS: usize = 8;

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
    /// States to keep of each, the newest first: 1 to `n_tokens`.
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

impl Scan {
    /// A head's state.
    ///
    /// # Safety
    /// The plane is there.
    unsafe fn state(&self, plane: usize, head: usize) -> *mut f32 {
        let rows = (plane * self.n_head + head) * self.d_v;
        // SAFETY: the caller's word.
        unsafe { self.states.add(rows * self.d_k) }
    }
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

/// How rows of a state go through tokens on a kind of machine.
trait Machine {
    /// Rows that go together.
    const ROWS: usize;
    /// What they need on the way.
    type Room;

    /// Room for any rows.
    ///
    /// # Safety
    /// The CPU is of this kind.
    unsafe fn room() -> Self::Room;

    /// Takes up to [`Self::ROWS`] rows through the tokens: `row = a row + v k`, `y = row q`.
    ///
    /// # Safety
    /// The CPU is of this kind, operands are there, and no other thread has these rows.
    unsafe fn rows(pass: &Pass, rows: Range<usize>, room: &mut Self::Room);
}

/// A few tokens of a sequence that go past a head's state. Its functions trust that operands are there.
struct Pass<'a> {
    scan: &'a Scan,
    seq: usize,
    head: usize,
    /// Of the sequence's tokens.
    tokens: Range<usize>,
    /// Their keys, one after the other.
    k: &'a [f32],
    /// Their queries, one after the other.
    q: &'a [f32],
    a: f32,
    /// The state before them.
    from: *const f32,
}

impl Pass<'_> {
    /// A token's values.
    unsafe fn values(&self, t: usize) -> &[f32] {
        let token = self.seq * self.scan.n_tokens + t;
        // SAFETY: the caller's word.
        unsafe { self.scan.v.head(token, self.head, self.scan.d_v) }
    }

    /// Where a token's results go.
    unsafe fn results(&self, t: usize) -> *mut f32 {
        let token = self.seq * self.scan.n_tokens + t;
        let at = (token * self.scan.n_head + self.head) * self.scan.d_v;
        // SAFETY: the caller's word.
        unsafe { self.scan.out.add(at) }
    }

    /// Where the state after the newest token goes. Between passes, the state is there, too.
    unsafe fn newest(&self) -> *mut f32 {
        // SAFETY: the caller's word: one state at least is kept.
        unsafe { self.kept(0) }
    }

    /// Where the state after a token goes, if it is kept though the token is not the newest.
    unsafe fn older(&self, t: usize) -> Option<*mut f32> {
        let age = self.scan.n_tokens - 1 - t;
        // SAFETY: the caller's word.
        (1..self.scan.n_kept)
            .contains(&age)
            .then(|| unsafe { self.kept(age) })
    }

    unsafe fn kept(&self, age: usize) -> *mut f32 {
        // SAFETY: the caller's word.
        unsafe {
            let plane = *self.scan.to.add(age * self.scan.n_seqs + self.seq);
            self.scan.state(plane as usize, self.head)
        }
    }
}

thread_local! {
    /// Keys and queries of a few tokens.
    static NEAR: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[inline(always)]
unsafe fn own_rows<M: Machine>(scan: &Scan, share: Share) {
    let per_head = scan.d_v.div_ceil(M::ROWS);
    // Not in a closure: it would be compiled without the features of the function that this becomes part of.
    let mut near = NEAR.take();
    near.resize(2 * TOKENS * scan.d_k, 0.0);
    // SAFETY: the caller's word.
    let mut room = unsafe { M::room() };
    let mut units = share.range(scan.n_head * per_head, 1);
    while !units.is_empty() {
        let head = units.start / per_head;
        let end = units.end.min((head + 1) * per_head);
        let row = |unit: usize| ((unit - head * per_head) * M::ROWS).min(scan.d_v);
        let rows = row(units.start)..row(end);
        for seq in 0..scan.n_seqs {
            // SAFETY: the caller's word.
            unsafe { sequence::<M>(scan, seq, head, rows.clone(), &mut near, &mut room) };
        }
        units.start = end;
    }
    NEAR.set(near);
}

/// Takes rows of one head through a sequence's tokens.
#[inline(always)]
unsafe fn sequence<M: Machine>(
    scan: &Scan,
    seq: usize,
    head: usize,
    rows: Range<usize>,
    near: &mut [f32],
    room: &mut M::Room,
) {
    let d_k = scan.d_k;
    let key_head = head / (scan.n_head / scan.n_key_head);
    let (k, q) = near.split_at_mut(TOKENS * d_k);
    // SAFETY: the caller's word: planes, tokens and heads are there; these rows are this thread's.
    unsafe {
        let a = (*scan.decay.add(head)).exp();
        let mut from = scan.state(*scan.from.add(seq) as usize, head);
        for first in (0..scan.n_tokens).step_by(TOKENS) {
            let tokens = first..scan.n_tokens.min(first + TOKENS);
            // Tokens lie so evenly far apart that they would drive each other out of the cache.
            for (i, t) in tokens.clone().enumerate() {
                let (token, to) = (seq * scan.n_tokens + t, i * d_k..(i + 1) * d_k);
                k[to.clone()].copy_from_slice(scan.k.head(token, key_head, d_k));
                q[to].copy_from_slice(scan.q.head(token, key_head, d_k));
            }
            let pass = Pass {
                scan,
                seq,
                head,
                tokens,
                k,
                q,
                a,
                from,
            };
            for first in rows.clone().step_by(M::ROWS) {
                M::rows(&pass, first..rows.end.min(first + M::ROWS), room);
            }
            from = pass.newest();
        }
    }
}
