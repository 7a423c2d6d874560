//! The kernels of each kind of machine, and the choice among them.

use std::ops::Range;
use std::sync::OnceLock;

use super::table::Table;
use super::vector::{Bf16, Element, F16, F32, Vector, Work, exp};
use super::{
    Attention, BLOCK_ROWS, Block, CHUNK, Latents, Sight, Stored, Vectors, Way, across, along,
    around, latents,
};

/// Attention for one kind of machine. Its functions may be called where [`Kernel::is_available`].
#[derive(Debug)]
pub struct Kernel {
    /// What the machine must have, in the makers' words.
    pub name: &'static str,
    available: fn() -> bool,
    /// The queries of a block times the scale, as [`Self::chunk`] reads them: [`queries_len`] numbers.
    pub(super) load_queries: unsafe fn(&Attention, &Block, &mut Room, *mut f32),
    /// The matrices of a head that make keys and values of latents, as [`Self::chunk`] reads them:
    /// [`latents::matrices_len`] numbers.
    pub(super) load_matrices: unsafe fn(&Attention, &Latents, usize, *mut f32),
    /// What the rows of some blocks get from the keys of one chunk: a state for each block that sees any.
    pub(super) chunk: unsafe fn(&Chunk, &mut Room, &mut [f32]),
    /// Adds a block's state to that of the chunks before it.
    pub(super) join: unsafe fn(&Attention, &mut [f32], &[f32]),
    #[cfg(test)]
    pub(super) exp: unsafe fn(f32) -> f32,
}

impl Kernel {
    /// That of machines with registers `V`.
    pub(in crate::kernels) const fn of<V: Vector>(
        name: &'static str,
        available: fn() -> bool,
    ) -> Self {
        Self {
            name,
            available,
            load_queries: load_queries::<V>,
            load_matrices: latents::load_matrices::<V>,
            chunk: chunk::<V>,
            join: join::<V>,
            #[cfg(test)]
            exp: exp_of::<V>,
        }
    }

    /// Whether this machine has what it uses.
    pub fn is_available(&self) -> bool {
        (self.available)()
    }
}

/// All kernels built for this architecture, the fastest first.
#[cfg(target_arch = "x86_64")]
const ALL: &[&Kernel] = &[
    &crate::kernels::avx512::ATTENTION,
    &crate::kernels::avx2::ATTENTION,
];
/// All kernels built for this architecture, the fastest first.
#[cfg(target_arch = "aarch64")]
const ALL: &[&Kernel] = &[&crate::kernels::neon::ATTENTION];
/// None are built for this architecture: ggml's attention computes everything.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ALL: &[&Kernel] = &[];

/// All kernels built for this architecture, the fastest first.
pub fn all() -> &'static [&'static Kernel] {
    ALL
}

/// The fastest kernel this machine can run.
pub fn best() -> Option<&'static Kernel> {
    static BEST: OnceLock<Option<&Kernel>> = OnceLock::new();
    *BEST.get_or_init(|| ALL.iter().find(|kernel| kernel.is_available()).copied())
}

/// A register's worth of numbers, aligned as one.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Aligned room, kept between calls.
#[derive(Debug, Default)]
pub(super) struct Buffer(Vec<Line>);

impl Buffer {
    /// Room for `n` numbers, with whatever was there before.
    pub(super) fn room(&mut self, n: usize) -> *mut f32 {
        let n = n.div_ceil(16).max(self.0.len());
        self.0.resize(n, Line([0.0; 16]));
        self.0.as_mut_ptr().cast()
    }
}

/// Room for a chunk.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) keys: Buffer,
    pub(super) values: Buffer,
    pub(super) weights: Buffer,
    /// Keys made of latents.
    pub(super) made: Buffer,
}

/// One chunk of keys for some blocks of one head of keys.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    pub a: &'a Attention,
    pub blocks: &'a [Block],
    /// What each block sees of it.
    pub sights: &'a [Sight],
    pub keys: Range<usize>,
    /// Queries of all blocks, as [`Kernel::load_queries`] left them.
    pub queries: *const f32,
    /// Matrices of the head, as [`Kernel::load_matrices`] left them, if its rows are latents.
    pub matrices: *const f32,
}

impl Chunk<'_> {
    /// Keys that any block sees.
    pub(super) fn seen(&self) -> Range<usize> {
        let ranges = self.sights.iter().map(|sight| &sight.range);
        ranges.fold(0..0, |all, range| around(&all, range))
    }

    /// The keys, or the values, as they are stored.
    pub(super) fn table(&self, x: &Vectors) -> Table {
        let bytes = self.a.stored.bytes();
        let Block { seq, key_head, .. } = self.blocks[0];
        let goes_on = self.keys.end < self.a.n_keys;
        Table {
            data: x.at(self.keys.start, key_head, seq),
            row: x.token,
            stripe: 16 * bytes,
            width: x.width,
            next: if goes_on { CHUNK * x.token } else { 0 },
        }
    }

    /// The queries of a block.
    pub(super) fn queries(&self, block: usize) -> *const f32 {
        self.queries.wrapping_add(block * queries_len(self.a))
    }
}

/// Numbers of a block's queries.
pub(super) fn queries_len(a: &Attention) -> usize {
    BLOCK_ROWS * a.q.width.next_multiple_of(16)
}

/// [`Kernel::load_queries`].
///
/// # Safety
/// They are there, `to` has room for them, and the machine has the instructions of `V`.
unsafe fn load_queries<V: Vector>(a: &Attention, block: &Block, room: &mut Room, to: *mut f32) {
    // SAFETY: the caller's word.
    unsafe {
        match a.way {
            Way::Across => across::load_queries::<V>(a, block, room, to),
            Way::Along => along::load_queries::<V>(a, block, to),
        }
    }
}

/// [`Kernel::chunk`].
///
/// # Safety
/// All that the chunk names is there, `states` has room for as many blocks, and the machine has the instructions of `V`.
unsafe fn chunk<V: Vector>(c: &Chunk, room: &mut Room, states: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe {
        match c.a.stored {
            Stored::F16 => chunk_of::<V, F16>(c, room, states),
            Stored::Bf16 => chunk_of::<V, Bf16>(c, room, states),
            Stored::F32 => chunk_of::<V, F32>(c, room, states),
        }
    }
}

unsafe fn chunk_of<V: Vector, E: Element>(c: &Chunk, room: &mut Room, states: &mut [f32]) {
    // SAFETY: the caller's word.
    unsafe {
        match (&c.a.latents, c.a.way) {
            (Some(l), _) => latents::chunk::<V, E>(c, l, room, states),
            (None, Way::Across) => across::chunk::<V, E>(c, room, states),
            (None, Way::Along) => along::chunk::<V, E>(c, room, states),
        }
    }
}

/// [`Kernel::join`].
///
/// # Safety
/// Both are states of `a`, and the machine has the instructions of `V`.
unsafe fn join<V: Vector>(a: &Attention, joined: &mut [f32], state: &[f32]) {
    // SAFETY: the caller's word.
    unsafe { V::run::<F32, _>(Join { a, joined, state }) }
}

/// Both parts come to one scale, that of the larger of two largest scores. A part that has seen nothing (minus infinity)
/// counts for nothing.
struct Join<'a> {
    a: &'a Attention,
    joined: &'a mut [f32],
    state: &'a [f32],
}

impl Work for Join<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector, E: Element>(self) {
        let n = self.a.lanes();
        let (most, rest) = self.joined.split_at_mut(n);
        let (sum, values) = rest.split_at_mut(n);
        let new = &self.state[2 * n..];
        for row in 0..n {
            let larger = most[row].max(self.state[row]);
            let zero = larger.max(f32::MIN);
            // SAFETY: the caller's word; rows of both have room for whole registers.
            unsafe {
                let old = exp(V::splat(most[row] - zero));
                let factor = exp(V::splat(self.state[row] - zero));
                most[row] = larger;
                sum[row] = sum[row] * old.numbers()[0] + self.state[n + row] * factor.numbers()[0];
                let at = row * self.a.value_room();
                for column in (0..self.a.v.width).step_by(V::LANES) {
                    let to = values.as_mut_ptr().add(at + column);
                    let part = V::load(new.as_ptr().add(at + column)).mul(factor);
                    V::load(to).fma(old, part).store(to);
                }
            }
        }
    }
}

/// [`exp`] of one number.
#[cfg(test)]
unsafe fn exp_of<V: Vector>(x: f32) -> f32 {
    struct Exp(f32);

    impl Work for Exp {
        type Output = f32;

        #[inline(always)]
        unsafe fn run<V: Vector, E: Element>(self) -> f32 {
            // SAFETY: the caller's word.
            unsafe { exp(V::splat(self.0)).numbers()[0] }
        }
    }
    // SAFETY: the caller's word.
    unsafe { V::run::<F32, _>(Exp(x)) }
}
