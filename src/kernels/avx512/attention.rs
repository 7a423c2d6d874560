//! Attention on AVX-512, in single precision throughout.

mod across;
mod along;

use std::arch::x86_64::*;
use std::ops::Range;

use crate::kernels::attention::{Attention, BLOCK_ROWS, Block, HIDDEN, Sight, Stored, Way};

/// Whether this machine has what these kernels use.
pub fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
}

/// A register's worth of numbers, aligned as one.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Lanes([f32; 16]);

/// Aligned room, kept between calls.
#[derive(Default)]
struct Buffer(Vec<Lanes>);

impl Buffer {
    /// Room for `n` numbers, with whatever was there before.
    fn room(&mut self, n: usize) -> *mut f32 {
        let n = n.div_ceil(16).max(self.0.len());
        self.0.resize(n, Lanes([0.0; 16]));
        self.0.as_mut_ptr().cast()
    }

    fn numbers(&self) -> *const f32 {
        self.0.as_ptr().cast()
    }
}

/// Queries times the scale, as the kernels read them.
#[derive(Default)]
pub struct Queries(Buffer);

impl Queries {
    /// Takes the queries of some blocks.
    ///
    /// # Safety
    /// They are there, and [`available`] holds.
    pub unsafe fn load(&mut self, a: &Attention, blocks: &[Block]) {
        let len = Self::len(a);
        let to = self.0.room(len * blocks.len());
        for (i, block) in blocks.iter().enumerate() {
            // SAFETY: the caller's word; there is room for every block.
            unsafe {
                match a.way {
                    Way::Across => across::load_queries(a, block, to.add(i * len)),
                    Way::Along => along::load_queries(a, block, to.add(i * len)),
                }
            }
        }
    }

    /// Numbers of a block's queries.
    fn len(a: &Attention) -> usize {
        BLOCK_ROWS * a.k.width.next_multiple_of(16)
    }

    fn of(&self, a: &Attention, block: usize) -> *const f32 {
        self.0.numbers().wrapping_add(block * Self::len(a))
    }
}

/// Room for a chunk.
#[derive(Default)]
pub struct Room {
    keys: Buffer,
    values: Buffer,
    weights: Buffer,
    visible: Vec<u32>,
}

/// What the rows of some blocks get from the keys of one chunk.
///
/// # Safety
/// All that `a` names is there, `sights` and `queries` are of these blocks, `states` has room for as many, and
/// [`available`] holds.
pub unsafe fn chunk(
    a: &Attention,
    blocks: &[Block],
    sights: &[Sight],
    keys: Range<usize>,
    queries: &Queries,
    room: &mut Room,
    states: &mut [f32],
) {
    // SAFETY: the caller's word.
    unsafe {
        match (a.way, a.stored) {
            (Way::Across, Stored::F16) => {
                across::chunk::<F16>(a, blocks, sights, keys, queries, room, states);
            }
            (Way::Across, Stored::Bf16) => {
                across::chunk::<Bf16>(a, blocks, sights, keys, queries, room, states);
            }
            (Way::Across, Stored::F32) => {
                across::chunk::<F32>(a, blocks, sights, keys, queries, room, states);
            }
            (Way::Along, Stored::F16) => {
                along::chunk::<F16>(a, blocks, sights, keys, queries, room, states);
            }
            (Way::Along, Stored::Bf16) => {
                along::chunk::<Bf16>(a, blocks, sights, keys, queries, room, states);
            }
            (Way::Along, Stored::F32) => {
                along::chunk::<F32>(a, blocks, sights, keys, queries, room, states);
            }
        }
    }
}

/// Adds what a chunk gave a block to what the chunks before it gave.
///
/// # Safety
/// Both are states of `a`, and [`available`] holds.
pub unsafe fn join(a: &Attention, joined: &mut [f32], state: &[f32]) {
    // SAFETY: the caller's word.
    unsafe {
        match a.way {
            Way::Across => across::join(a.v.width, joined, state),
            Way::Along => along::join(a.lanes(), a.value_room(), joined, state),
        }
    }
}

/// Writes the results of a block: weighted values by the sum of weights, zero for rows that saw nothing.
///
/// # Safety
/// `state` is one of `a`, `out` has room for all results, and [`available`] holds.
pub unsafe fn finish(a: &Attention, block: &Block, state: &[f32], out: *mut f32) {
    // SAFETY: the caller's word.
    unsafe {
        match a.way {
            Way::Across => across::finish(a, block, state, out),
            Way::Along => along::finish(a, block, state, out),
        }
    }
}

/// Elements that become F32.
trait Element {
    const BYTES: usize;

    /// 16 of them; those that `mask` leaves out are zero and not read.
    ///
    /// # Safety
    /// The others are there, and [`available`] holds.
    unsafe fn load(from: *const u8, mask: __mmask16) -> __m512;

    /// 16 of them.
    ///
    /// # Safety
    /// As [`Self::load`].
    unsafe fn load_all(from: *const u8) -> __m512;
}

struct F16;
struct Bf16;
struct F32;

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn load(from: *const u8, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's word.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn load_all(from: *const u8) -> __m512 {
        // SAFETY: the caller's word.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn load(from: *const u8, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's word.
        let x = _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn load_all(from: *const u8) -> __m512 {
        // SAFETY: the caller's word.
        let x = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(from.cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
    }
}

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn load(from: *const u8, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's word.
        unsafe { _mm512_maskz_loadu_ps(mask, from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    unsafe fn load_all(from: *const u8) -> __m512 {
        // SAFETY: the caller's word.
        unsafe { _mm512_loadu_ps(from.cast()) }
    }
}

/// The lanes of register `index` that `n` numbers fill.
#[inline(always)]
fn lanes(n: usize, index: usize) -> __mmask16 {
    match n.saturating_sub(16 * index) {
        left if left >= 16 => 0xffff,
        left => (1 << left) - 1,
    }
}

/// `e^x` to 2e-7 of its value for `x` up to 0, zero far below. Not a number stays so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
fn exp(x: __m512) -> __m512 {
    // The second operand wins where one is not a number.
    let x = _mm512_max_ps(_mm512_set1_ps(-200.0), x);
    let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693_359_4), x);
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.121_944_4e-4), r);
    let mut p = _mm512_set1_ps(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, n)
}

/// What keeps two parts of a softmax on one scale: the larger of two largest scores, and the factors on either part.
/// A part that has seen nothing (minus infinity) has the factor 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
fn rescale(a: __m512, b: __m512) -> (__m512, __m512, __m512) {
    let most = _mm512_max_ps(a, b);
    let nothing = _mm512_set1_ps(f32::NEG_INFINITY);
    let factor = |x| {
        let seen = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(x, nothing);
        _mm512_maskz_mov_ps(seen, exp(_mm512_sub_ps(x, most)))
    };
    (most, factor(a), factor(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_near_the_one_in_f64() {
        /// Two units in the last place and a bit.
        const TOLERANCE: f64 = 2.5e-7;
        if !available() {
            eprintln!("not run: this machine has no AVX-512");
            return;
        }
        // SAFETY: the CPU has what it takes.
        let exp = |x: f32| unsafe { _mm512_cvtss_f32(exp(_mm512_set1_ps(x))) };
        for x in (0..80_000).map(|i| -0.001 * i as f32) {
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                (found / expected - 1.0).abs() < TOLERANCE,
                "{x}: {found} for {expected}"
            );
        }
        assert_eq!(
            (exp(0.0), exp(-150.0), exp(f32::NEG_INFINITY)),
            (1.0, 0.0, 0.0)
        );
        assert!(exp(f32::NAN).is_nan());
    }
}
