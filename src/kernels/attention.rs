//! Attention over stored keys and values, one pass over both: `softmax(scale * K q + mask) V`.
//!
//! Keys are taken in chunks of [`CHUNK`] at fixed places. What a chunk gives a query (its largest score, the sum of its
//! weights, the weighted values) depends on nothing else, and chunks are joined in order: a query's bits depend
//! neither on the number of threads, nor on the other queries, nor on rows it does not see.
//!
//! Queries that look at the same keys, several heads of several tokens, are rows of one matrix, in blocks of
//! [`BLOCK_ROWS`].

//!
//! The arithmetic is written once, over a register type (`vector.rs`), and compiled for each kind of machine ([`all`]).

mod across;
mod along;
mod kernel;
mod latents;
mod sums;
mod table;
#[cfg(test)]
mod tests;
mod vector;

use std::cell::RefCell;
use std::ops::Range;

use super::Share;
use kernel::{Buffer, Chunk, Room};
pub use kernel::{Kernel, all, best};
pub use latents::Latents;
pub(super) use vector::{Element, Vector, Work};

/// Keys of a chunk.
pub const CHUNK: usize = 256;
/// Rows of a block.
pub const BLOCK_ROWS: usize = 32;
/// Most blocks that share the decoding of a chunk.
const UNIT_BLOCKS: usize = 4;
/// Minus infinity in F16: what the mask hides.
const HIDDEN: u16 = 0xfc00;

/// Element type of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// IEEE half precision.
    F16,
    /// The upper half of an F32.
    Bf16,
    /// Single precision.
    F32,
}

impl Stored {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// What lies along a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Rows: a chunk is decoded once, then all is arithmetic on two registers of rows at a time. For many rows.
    Across,
    /// A row's numbers: keys are read as they are. For few rows, which wait for memory.
    Along,
}

/// Vectors by token, head and sequence; their elements are dense.
#[derive(Debug, Clone, Copy)]
pub struct Vectors {
    /// The first one.
    pub data: *const u8,
    /// Bytes from a token's to the next one's.
    pub token: usize,
    /// Bytes from a head's to the next one's.
    pub head: usize,
    /// Bytes from a sequence's to the next one's.
    pub seq: usize,
    /// Elements.
    pub width: usize,
}

impl Vectors {
    /// The vector of a token, head and sequence.
    fn at(&self, token: usize, head: usize, seq: usize) -> *const u8 {
        self.data
            .wrapping_add(token * self.token + head * self.head + seq * self.seq)
    }
}

/// One attention.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Queries, F32.
    pub q: Vectors,
    /// Keys; neighbouring heads of queries share one.
    pub k: Vectors,
    /// Values: as many as keys.
    pub v: Vectors,
    /// Type of keys and values.
    pub stored: Stored,
    /// F16, added to scores: `n_keys` for each token of each sequence.
    pub mask: *const u16,
    /// Keys of a head.
    pub n_keys: usize,
    /// Heads of queries.
    pub n_heads: usize,
    /// Heads of keys.
    pub n_key_heads: usize,
    /// Queries of a head.
    pub n_tokens: usize,
    /// Sequences.
    pub n_seqs: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// How.
    pub way: Way,
    /// What makes keys and values of rows that are latents; [`Way::Across`] then. All heads have the same rows, in `k`,
    /// and of `v` only the width counts.
    pub latents: Option<Latents>,
}

/// Up to [`BLOCK_ROWS`] queries of one sequence that look at the same keys. Row `i` is head `i % n` of token `i / n`, of
/// the `n` heads that share a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub seq: usize,
    pub key_head: usize,
    pub first: usize,
    pub n: usize,
}

impl Attention {
    /// Rows that look at the same keys.
    fn n_rows(&self) -> usize {
        self.sharing() * self.n_tokens
    }

    /// Heads that share a key.
    fn sharing(&self) -> usize {
        self.n_heads / self.n_key_heads
    }

    fn n_chunks(&self) -> usize {
        self.n_keys.div_ceil(CHUNK)
    }

    fn n_blocks(&self) -> usize {
        self.n_rows().div_ceil(BLOCK_ROWS)
    }

    /// Bundles of rows that look at the same keys: one for each head of keys of each sequence.
    fn n_bundles(&self) -> usize {
        self.n_seqs * self.n_key_heads
    }

    fn block(&self, bundle: usize, index: usize) -> Block {
        let first = index * BLOCK_ROWS;
        Block {
            seq: bundle / self.n_key_heads,
            key_head: bundle % self.n_key_heads,
            first,
            n: (self.n_rows() - first).min(BLOCK_ROWS),
        }
    }

    /// Blocks of all heads and sequences: what can be divided among threads without dividing the keys.
    pub fn all_blocks(&self) -> usize {
        self.n_bundles() * self.n_blocks()
    }

    /// Rows that a state has room for.
    fn lanes(&self) -> usize {
        self.n_rows().min(BLOCK_ROWS)
    }

    /// Numbers of a row of a state: whole registers of any machine.
    fn value_room(&self) -> usize {
        self.v.width.next_multiple_of(16)
    }

    /// Numbers of a block's state: by row, the largest score and the sum of weights; then each row's weighted values.
    fn state_len(&self) -> usize {
        self.lanes() * (2 + self.value_room())
    }

    /// Token and head of a row.
    fn place(&self, block: &Block, row: usize) -> (usize, usize) {
        let (row, n) = (block.first + row, self.sharing());
        (row / n, block.key_head * n + row % n)
    }

    /// Where a row's result goes among all.
    fn out_at(&self, block: &Block, row: usize) -> usize {
        let (token, head) = self.place(block, row);
        ((block.seq * self.n_tokens + token) * self.n_heads + head) * self.v.width
    }

    /// Whether values are the starts of the keys.
    fn values_in_keys(&self) -> bool {
        let (k, v) = (&self.k, &self.v);
        (k.data, k.token, k.head, k.seq) == (v.data, v.token, v.head, v.seq) && v.width <= k.width
    }

    /// Keys of a chunk.
    fn keys(&self, chunk: usize) -> Range<usize> {
        chunk * CHUNK..((chunk + 1) * CHUNK).min(self.n_keys)
    }

    /// The mask of a token over a range of keys.
    ///
    /// # Safety
    /// The mask is there.
    unsafe fn mask(&self, seq: usize, token: usize, keys: Range<usize>) -> &[u16] {
        let at = (seq * self.n_tokens + token) * self.n_keys + keys.start;
        // SAFETY: the caller's word.
        unsafe { std::slice::from_raw_parts(self.mask.add(at), keys.len()) }
    }
}

/// What the rows of a block see of a chunk.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    /// By row, the first key it may see, and the end.
    pub first: [usize; BLOCK_ROWS],
    pub end: [usize; BLOCK_ROWS],
    /// All that is seen by any.
    pub range: Range<usize>,
    /// Whether the mask is zero in all of every row's range. Otherwise it is to be looked at.
    pub plain: bool,
}

impl Sight {
    /// # Safety
    /// The mask is there.
    unsafe fn new(a: &Attention, block: &Block, keys: &Range<usize>) -> Self {
        let mut sight = Self {
            first: [0; BLOCK_ROWS],
            end: [0; BLOCK_ROWS],
            range: 0..0,
            plain: true,
        };
        let mut last = None;
        let (mut range, mut plain) = (0..0, true);
        for row in 0..block.n {
            let (token, _) = a.place(block, row);
            if last != Some(token) {
                // SAFETY: the caller's word.
                let mask = unsafe { a.mask(block.seq, token, keys.clone()) };
                (range, plain) = seen(mask);
                last = Some(token);
            }
            (sight.first[row], sight.end[row]) = (range.start, range.end);
            sight.range = around(&sight.range, &range);
            sight.plain &= plain;
        }
        sight
    }

    fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// What holds both ranges; one that is empty counts for nothing.
fn around(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.clone(),
        (_, true) => a.clone(),
        _ => a.start.min(b.start)..a.end.max(b.end),
    }
}

/// The range outside which a mask hides all, and whether it is zero in all of it.
fn seen(mask: &[u16]) -> (Range<usize>, bool) {
    const STEP: usize = 32;
    let hides = |part: &[u16]| part.iter().fold(true, |all, m| all & (*m == HIDDEN));
    let Some(first) = mask.chunks(STEP).position(|part| !hides(part)) else {
        return (0..0, true);
    };
    let last = mask.chunks(STEP).rposition(|part| !hides(part));
    let inside = |part: usize| &mask[part * STEP..((part + 1) * STEP).min(mask.len())];
    let last = last.unwrap_or(first);
    let start = inside(first).iter().position(|m| *m != HIDDEN);
    let end = inside(last).iter().rposition(|m| *m != HIDDEN);
    let start = first * STEP + start.unwrap_or(0);
    let end = last * STEP + end.unwrap_or(0) + 1;
    let plain = mask[start..end]
        .iter()
        .fold(true, |all, m| all & (m & 0x7fff == 0));
    (start..end, plain)
}

/// Room a thread keeps between attentions.
#[derive(Default)]
struct Scratch {
    /// Queries of the unit's blocks, as the kernel wants them.
    queries: Buffer,
    /// Matrices of the unit's head.
    matrices: Buffer,
    /// What a chunk gives.
    states: Vec<f32>,
    /// What all chunks so far gave.
    joined: Vec<f32>,
    sights: Vec<Sight>,
    room: Room,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `out[seq][token][head]` for this thread's share of the queries, `v.width` numbers each.
///
/// # Safety
/// All that `a` names is there, there is room for the results, `kernel` is available, and no other thread has this share.
pub unsafe fn attend(kernel: &Kernel, a: &Attention, out: *mut f32, share: Share) {
    let per_unit = blocks_per_unit(a, a.n_bundles(), share);
    let units = a.n_blocks().div_ceil(per_unit);
    // Neighbours in this order take about equally long: later tokens see more.
    for unit in turns(units * a.n_bundles(), share) {
        let (bundle, unit) = (unit % a.n_bundles(), unit / a.n_bundles());
        let blocks = unit_blocks(a, bundle, unit, per_unit);
        // SAFETY: the caller's word.
        unsafe { whole(kernel, a, &blocks, out) };
    }
}

/// All chunks of some blocks.
unsafe fn whole(kernel: &Kernel, a: &Attention, blocks: &[Block], out: *mut f32) {
    let len = a.state_len();
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch {
            queries,
            matrices,
            states,
            joined,
            sights,
            room,
        } = scratch;
        states.resize(blocks.len() * len, 0.0);
        joined.clear();
        joined.resize(blocks.len() * len, 0.0);
        for state in joined.chunks_exact_mut(len) {
            state[..a.lanes()].fill(f32::NEG_INFINITY);
        }
        // SAFETY: the caller's word.
        unsafe {
            let queries = load_blocks(kernel, a, blocks, room, queries);
            let matrices = load_matrices(kernel, a, blocks, matrices);
            for chunk in 0..a.n_chunks() {
                let keys = a.keys(chunk);
                sights.clear();
                sights.extend(blocks.iter().map(|b| Sight::new(a, b, &keys)));
                if sights.iter().all(Sight::is_empty) {
                    continue;
                }
                let chunk = Chunk {
                    a,
                    blocks,
                    sights,
                    keys,
                    queries,
                    matrices,
                };
                (kernel.chunk)(&chunk, room, states);
                let each = joined.chunks_exact_mut(len).zip(states.chunks_exact(len));
                for ((joined, state), _) in
                    each.zip(&*sights).filter(|(_, sight)| !sight.is_empty())
                {
                    (kernel.join)(a, joined, state);
                }
            }
            for (block, state) in blocks.iter().zip(joined.chunks_exact(len)) {
                finish(a, block, state, out);
            }
        }
    });
}

/// Queries of some blocks, as the kernel reads them.
unsafe fn load_blocks(
    kernel: &Kernel,
    a: &Attention,
    blocks: &[Block],
    room: &mut Room,
    queries: &mut Buffer,
) -> *const f32 {
    let len = kernel::queries_len(a);
    let to = queries.room(blocks.len() * len);
    for (i, block) in blocks.iter().enumerate() {
        // SAFETY: the caller's word; there is room for every block.
        unsafe { (kernel.load_queries)(a, block, room, to.add(i * len)) };
    }
    to
}

/// The matrices of the head that some blocks belong to, if its rows are latents.
unsafe fn load_matrices(
    kernel: &Kernel,
    a: &Attention,
    blocks: &[Block],
    matrices: &mut Buffer,
) -> *const f32 {
    let Some(l) = &a.latents else {
        return std::ptr::null();
    };
    let to = matrices.room(latents::matrices_len(a, l));
    // SAFETY: the caller's word; there is room.
    unsafe { (kernel.load_matrices)(a, l, blocks[0].key_head, to) };
    to
}

/// Writes the results of a block: weighted values by the sum of weights, zero for rows that saw nothing.
unsafe fn finish(a: &Attention, block: &Block, state: &[f32], out: *mut f32) {
    let (n, width) = (a.lanes(), a.v.width);
    let values = state[2 * n..].chunks_exact(a.value_room());
    for (row, values) in values.enumerate().take(block.n) {
        let sum = state[n + row];
        let factor = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        // SAFETY: there is room for all results, by the caller's word.
        let to = unsafe { std::slice::from_raw_parts_mut(out.add(a.out_at(block, row)), width) };
        for (to, value) in to.iter_mut().zip(values) {
            *to = value * factor;
        }
    }
}

/// Numbers that [`attend_parts`] writes.
pub fn parts_len(a: &Attention) -> Option<usize> {
    let states = a.all_blocks().checked_mul(a.n_chunks())?;
    states.checked_mul(a.state_len())
}

/// What each chunk gives each block, for this thread's share of the chunks.
///
/// # Safety
/// As [`attend`]; `parts` has room for [`parts_len`].
pub unsafe fn attend_parts(kernel: &Kernel, a: &Attention, parts: *mut f32, share: Share) {
    let n_chunks = a.n_chunks();
    let per_unit = blocks_per_unit(a, a.n_bundles() * n_chunks, share);
    let units = a.n_blocks().div_ceil(per_unit);
    for unit in turns(units * a.n_bundles() * n_chunks, share) {
        let (bundle, rest) = (unit % a.n_bundles(), unit / a.n_bundles());
        let (unit, chunk) = (rest % units, rest / units);
        let blocks = unit_blocks(a, bundle, unit, per_unit);
        // SAFETY: the caller's word.
        unsafe {
            let at = state_at(a, bundle, chunk, unit * per_unit);
            let states =
                std::slice::from_raw_parts_mut(parts.add(at), blocks.len() * a.state_len());
            part(kernel, a, &blocks, chunk, states);
        }
    }
}

/// One chunk of some blocks.
unsafe fn part(kernel: &Kernel, a: &Attention, blocks: &[Block], chunk: usize, states: &mut [f32]) {
    let keys = a.keys(chunk);
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch {
            queries,
            matrices,
            sights,
            room,
            ..
        } = scratch;
        // SAFETY: the caller's word.
        unsafe {
            sights.clear();
            sights.extend(blocks.iter().map(|b| Sight::new(a, b, &keys)));
            if sights.iter().any(|s| !s.is_empty()) {
                let queries = load_blocks(kernel, a, blocks, room, queries);
                let matrices = load_matrices(kernel, a, blocks, matrices);
                let chunk = Chunk {
                    a,
                    blocks,
                    sights,
                    keys,
                    queries,
                    matrices,
                };
                (kernel.chunk)(&chunk, room, states);
            }
        }
        for (state, sight) in states.chunks_exact_mut(a.state_len()).zip(&*sights) {
            if sight.is_empty() {
                state[..a.lanes()].fill(f32::NEG_INFINITY);
                state[a.lanes()..2 * a.lanes()].fill(0.0);
            }
        }
    });
}

/// Joins the chunks of [`attend_parts`], for this thread's share of the queries.
///
/// # Safety
/// As [`attend`]; `parts` holds what [`attend_parts`] wrote for the same attention.
pub unsafe fn join_parts(
    kernel: &Kernel,
    a: &Attention,
    parts: *const f32,
    out: *mut f32,
    share: Share,
) {
    let len = a.state_len();
    for unit in share.range(a.all_blocks(), 1) {
        let (bundle, index) = (unit / a.n_blocks(), unit % a.n_blocks());
        SCRATCH.with_borrow_mut(|scratch| {
            let joined = &mut scratch.joined;
            joined.clear();
            joined.resize(len, 0.0);
            joined[..a.lanes()].fill(f32::NEG_INFINITY);
            for chunk in 0..a.n_chunks() {
                // SAFETY: the caller's word.
                unsafe {
                    let at = state_at(a, bundle, chunk, index);
                    let state = std::slice::from_raw_parts(parts.add(at), len);
                    let (largest, rest) = state.split_at(a.lanes());
                    // Of a chunk that no row sees nothing else was written.
                    let empty = largest.iter().all(|m| *m == f32::NEG_INFINITY)
                        && rest[..a.lanes()].iter().all(|sum| *sum == 0.0);
                    if !empty {
                        (kernel.join)(a, joined, state);
                    }
                }
            }
            // SAFETY: the caller's word.
            unsafe { finish(a, &a.block(bundle, index), joined, out) };
        });
    }
}

fn state_at(a: &Attention, bundle: usize, chunk: usize, block: usize) -> usize {
    ((bundle * a.n_chunks() + chunk) * a.n_blocks() + block) * a.state_len()
}

/// Blocks that go together: fewer if threads would wait. What is made of latents should serve many.
fn blocks_per_unit(a: &Attention, others: usize, share: Share) -> usize {
    let (enough, most) = match a.latents {
        None => (2 * share.of, UNIT_BLOCKS),
        Some(_) => (share.of, a.n_blocks()),
    };
    (a.n_blocks() * others / enough).clamp(1, most)
}

fn unit_blocks(a: &Attention, bundle: usize, unit: usize, per_unit: usize) -> Vec<Block> {
    let end = ((unit + 1) * per_unit).min(a.n_blocks());
    (unit * per_unit..end).map(|i| a.block(bundle, i)).collect()
}

/// A thread's among `n` units: there and back, so that none always has the longer one.
fn turns(n: usize, share: Share) -> impl Iterator<Item = usize> {
    (0..n.div_ceil(share.of))
        .map(move |round| {
            let index = if round % 2 == 0 {
                share.index
            } else {
                share.of - 1 - share.index
            };
            round * share.of + index
        })
        .filter(move |unit| *unit < n)
}
