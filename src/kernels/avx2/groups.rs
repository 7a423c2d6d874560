//! Few columns of formats that have a scale for every 16 weights, a whole number each.
//!
//! Multiplied with its scale, a sum of pairs of products is still a whole number: `vpmaddwd` does so while it adds up pairs,
//! and both halves of a block share what follows. Weights come without their sign; what they are too large by is taken back
//! with the sums of activations that records keep.

use std::arch::x86_64::*;

use super::codes::two;
use super::dot::{load, sum};
use super::k_quants::{Six, Three, Two};
use super::tile::pin;
use crate::kernels::Record;
use crate::kernels::few::Strip;
use crate::kernels::k_quants::{six, three, two};

/// Blocks of 256 weights, two records, each of eight groups.
pub trait Groups {
    /// Bytes of a block.
    const UNIT_BYTES: usize;

    /// The weights of record `i`, without scales and unsigned, two blocks of 32 at a time: their first halves, and second ones.
    ///
    /// # Safety
    /// `UNIT_BYTES` bytes can be read at `p`, and the CPU has what [`super::PLAIN`] asks for.
    unsafe fn weights(p: *const u8, i: usize) -> [[__m256i; 2]; 2];

    /// The scales of record `i`, and what each group's weights are too large by when they are scaled: 16 bits each, two groups
    /// to a block.
    ///
    /// # Safety
    /// As [`Self::weights`].
    unsafe fn scales(p: *const u8, i: usize) -> [__m128i; 2];

    /// What the two count, as F16 in the lower and upper half.
    ///
    /// # Safety
    /// As [`Self::weights`].
    unsafe fn factors(p: *const u8) -> u32;
}

impl Groups for Two {
    const UNIT_BYTES: usize = two::BYTES;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn weights(p: *const u8, i: usize) -> [[__m256i; 2]; 2] {
        let of = |half: usize| {
            // SAFETY: the caller's word: 32 bytes of codes for each record.
            let codes = unsafe { twice(p.add(two::CODES + 32 * i + 16 * half)) };
            two_bits(codes)
        };
        by_pair(of(0), of(1))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(p: *const u8, i: usize) -> [__m128i; 2] {
        // SAFETY: the caller's word: a block begins with 16 bytes, minimums above scales.
        let both = _mm_cvtepu8_epi16(unsafe { _mm_loadl_epi64(p.add(8 * i).cast()) });
        [
            _mm_and_si128(both, _mm_set1_epi16(15)),
            _mm_srli_epi16::<4>(both),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factors(p: *const u8) -> u32 {
        // SAFETY: the caller's word.
        unsafe { two::factors(p) }
    }
}

impl Groups for Three {
    const UNIT_BYTES: usize = three::BYTES;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn weights(p: *const u8, i: usize) -> [[__m256i; 2]; 2] {
        let of = |half: usize| {
            // SAFETY: the caller's word: 32 bytes of codes for each record, 32 of third bits for both.
            let (codes, third) = unsafe {
                (
                    twice(p.add(three::CODES + 32 * i + 16 * half)),
                    twice(p.add(16 * half)),
                )
            };
            let [first, last] = if i == 0 {
                [
                    _mm256_sllv_epi64(third, _mm256_setr_epi64x(2, 2, 1, 1)),
                    _mm256_srlv_epi64(third, _mm256_setr_epi64x(0, 0, 1, 1)),
                ]
            } else {
                [
                    _mm256_srlv_epi64(third, _mm256_setr_epi64x(2, 2, 3, 3)),
                    _mm256_srlv_epi64(third, _mm256_setr_epi64x(4, 4, 5, 5)),
                ]
            };
            let bit = _mm256_set1_epi8(4);
            let [a, b] = two_bits(codes);
            [
                _mm256_or_si256(a, _mm256_and_si256(first, bit)),
                _mm256_or_si256(b, _mm256_and_si256(last, bit)),
            ]
        };
        by_pair(of(0), of(1))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(p: *const u8, i: usize) -> [__m128i; 2] {
        // SAFETY: the caller's word.
        let numbers = unsafe { three::scales(p, i) };
        let numbers = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(numbers.cast_signed()));
        let scales = _mm_sub_epi16(numbers, _mm_set1_epi16(32));
        [scales, _mm_slli_epi16::<2>(scales)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factors(p: *const u8) -> u32 {
        // SAFETY: the caller's word.
        0x1_0001 * u32::from(unsafe { three::factor(p) })
    }
}

impl Groups for Six {
    const UNIT_BYTES: usize = six::BYTES;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn weights(p: *const u8, i: usize) -> [[__m256i; 2]; 2] {
        let of = |half: usize| {
            // SAFETY: the caller's word: 64 bytes of a record's lower bits, 32 of upper ones.
            let (lower, upper) = unsafe {
                (
                    two(p.add(64 * i + 16 * half), 32),
                    twice(p.add(six::UPPER + 32 * i + 16 * half)),
                )
            };
            // The first two blocks of a record in lower bits, the others in upper ones.
            let first = _mm256_sllv_epi64(upper, _mm256_setr_epi64x(4, 4, 2, 2));
            let last = _mm256_srlv_epi64(upper, _mm256_setr_epi64x(0, 0, 2, 2));
            let (four, bits) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
            [
                (_mm256_and_si256(lower, four), first),
                (_mm256_and_si256(_mm256_srli_epi16::<4>(lower), four), last),
            ]
            .map(|(lower, upper)| _mm256_or_si256(lower, _mm256_and_si256(upper, bits)))
        };
        by_pair(of(0), of(1))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(p: *const u8, i: usize) -> [__m128i; 2] {
        // SAFETY: the caller's word.
        let (_, numbers) = unsafe { six::scales(p, i) };
        let scales = _mm_cvtepi8_epi16(_mm_cvtsi64_si128(numbers.cast_signed()));
        [scales, _mm_slli_epi16::<5>(scales)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factors(p: *const u8) -> u32 {
        // SAFETY: the caller's word.
        0x1_0001 * u32::from(unsafe { six::scales(p, 0) }.0)
    }
}

/// 16 bytes at `p`, in both halves.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn twice(p: *const u8) -> __m256i {
    // SAFETY: the caller's word: they can be read.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(p.cast()) })
}

/// Of 16 bytes in both halves: their lowest two bits and the next two; then the upper ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn two_bits(codes: __m256i) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(3);
    let first = _mm256_srlv_epi64(codes, _mm256_setr_epi64x(0, 0, 2, 2));
    let last = _mm256_srlv_epi64(codes, _mm256_setr_epi64x(4, 4, 6, 6));
    [_mm256_and_si256(first, mask), _mm256_and_si256(last, mask)]
}

#[inline]
fn by_pair(first: [__m256i; 2], second: [__m256i; 2]) -> [[__m256i; 2]; 2] {
    [[first[0], second[0]], [first[1], second[1]]]
}

/// The products of `R` rows with `C` columns.
///
/// # Safety
/// As [`crate::kernels::few::Few::blocks`], and records come in pairs.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn grouped<F: Groups, const R: usize, const C: usize>(
    strip: &Strip<R>,
    columns: &[*const Record; C],
) -> [[f32; R]; C] {
    // A copy: what is behind a pointer is read again after every prefetch.
    let strip = *strip;
    let mut sums = [[_mm256_setzero_ps(); C]; R];
    for unit in 0..strip.n_records / 2 {
        // SAFETY: the caller's word: both records of every row and column are there.
        unsafe {
            let x = std::array::from_fn(|c| &*columns[c].add(2 * unit));
            strip.ask(2 * unit, F::UNIT_BYTES / 2);
            record::<F, 0, R, C>(&strip.rows, unit, x, &mut sums);
            let x = std::array::from_fn(|c| &*columns[c].add(2 * unit + 1));
            strip.ask(2 * unit + 1, F::UNIT_BYTES / 2);
            record::<F, 1, R, C>(&strip.rows, unit, x, &mut sums);
        }
    }
    std::array::from_fn(|c| std::array::from_fn(|r| sum(sums[r][c])))
}

/// Record `I` of a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn record<F: Groups, const I: usize, const R: usize, const C: usize>(
    rows: &[*const u8; R],
    unit: usize,
    x: [&Record; C],
    sums: &mut [[__m256; C]; R],
) {
    for (row, sums) in rows.iter().zip(sums) {
        let row = row.wrapping_add(unit * F::UNIT_BYTES);
        // SAFETY: the caller's word.
        let (weights, [scales, offsets], factors) =
            unsafe { (F::weights(row, I), F::scales(row, I), F::factors(row)) };
        let factors = _mm_cvtph_ps(_mm_cvtsi32_si128(factors.cast_signed()));
        let (factor, other) = (
            _mm_broadcastss_ps(factors),
            _mm_broadcastss_ps(_mm_movehdup_ps(factors)),
        );
        let scales = by_group(scales);
        for c in 0..C {
            // SAFETY: four numbers, and eight.
            let (x_scales, half_sums) = unsafe {
                (
                    _mm_loadu_ps(x[c].scales.as_ptr()),
                    _mm_loadu_si128(x[c].half_sums.as_ptr().cast()),
                )
            };
            let off = _mm_cvtepi32_ps(_mm_madd_epi16(offsets, half_sums));
            let off = _mm_mul_ps(off, _mm_mul_ps(other, x_scales));
            sums[c] = _mm256_add_ps(sums[c], _mm256_zextps128_ps256(off));
            let by = by_block(_mm_mul_ps(factor, x_scales));
            for pair in 0..2 {
                let scaled = |half: usize| {
                    let x = load(&x[c].q, 64 * half + 32 * pair);
                    let pairs = _mm256_maddubs_epi16(weights[pair][half], x);
                    _mm256_madd_epi16(pairs, scales[pair][half])
                };
                let all = _mm256_cvtepi32_ps(_mm256_add_epi32(scaled(0), scaled(1)));
                sums[c] = _mm256_fmadd_ps(all, by[pair], sums[c]);
            }
        }
    }
}

/// Eight scales of 16 bits, each in half a register, arranged as weights are.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn by_group(scales: __m128i) -> [[__m256i; 2]; 2] {
    // Groups 0, 1, 4 and 5 below, 2, 3, 6 and 7 above, each twice.
    let twice = _mm256_setr_epi64x(
        0x0302_0302_0100_0100,
        0x0b0a_0b0a_0908_0908,
        0x0706_0706_0504_0504,
        0x0f0e_0f0e_0d0c_0d0c,
    );
    let mut all = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(scales), twice);
    // Else the compiler has three shuffles for each of these.
    pin(&mut all);
    [
        [
            _mm256_shuffle_epi32::<0x00>(all),
            _mm256_shuffle_epi32::<0x55>(all),
        ],
        [
            _mm256_shuffle_epi32::<0xaa>(all),
            _mm256_shuffle_epi32::<0xff>(all),
        ],
    ]
}

/// Four scales, each in half a register, two blocks at a time.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn by_block(scales: __m128) -> [__m256; 2] {
    let halves = _mm256_set_m128(_mm_movehdup_ps(scales), _mm_moveldup_ps(scales));
    [
        _mm256_permute_ps::<0x00>(halves),
        _mm256_permute_ps::<0xaa>(halves),
    ]
}
