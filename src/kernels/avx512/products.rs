//! Blocks of 256 weights of 2 or 3 bits: their products with their groups' scales, looked up in tables of all there can be.

use std::arch::x86_64::*;

use super::units::{Codes, number, transpose_four};
use crate::kernels::Scaling;
use crate::kernels::k_quants::{three, two};
use crate::kernels::panel::{SCALES, STEPS};

/// For each byte of first halves of blocks, then of second ones, four times its group of `8 * i ..`: where a table of all
/// groups has its four products.
const GROUPS: [[[u64; 8]; 2]; 2] = {
    let mut places = [[[0; 8]; 2]; 2];
    let mut at = 0;
    while at < 32 {
        let (i, half, j) = (at / 16, at / 8 % 2, at % 8 / 2);
        places[i][half][at % 8] = 0x0101_0101_0101_0101 * 4 * (8 * i + 2 * j + half) as u64;
        at += 1;
    }
    places
};

/// A number times 0 to 3, in one multiplication: no product of up to 63 reaches the next byte.
const ZERO_TO_THREE: i32 = 0x0302_0100;

/// The place of a row's four products among those of four rows.
const ROWS_OF_FOUR: [i32; 4] = [0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c];

/// Numbers of 2 bits, with scales and minimums of 4.
pub struct Two;

impl Codes for Two {
    const UNIT_BYTES: usize = two::BYTES;
    const SCALING: Scaling = Scaling::HalfMinimums;
    const ONE_SCALE: bool = true;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,f16c")]
    unsafe fn codes(p: *const u8, i: usize) -> (__m512i, __m512i) {
        // SAFETY: the caller's word: a block begins with 16 bytes of scales.
        let scales = unsafe { _mm_loadu_si128(p.cast()) };
        let scales = _mm512_cvtepu8_epi32(_mm_and_si128(scales, _mm_set1_epi8(15)));
        let products = _mm512_mullo_epi32(scales, _mm512_set1_epi32(ZERO_TO_THREE));
        let products = _mm512_or_si512(products, _mm512_set1_epi8(-128));
        let shift = _mm512_setr_epi64(0, 0, 2, 2, 4, 4, 6, 6);
        let half = |half: usize| {
            // SAFETY: as above: 32 bytes of a record's codes; the table is as long as a register.
            let (codes, group) = unsafe {
                (
                    _mm_loadu_si128(p.add(two::CODES + 32 * i + 16 * half).cast()),
                    _mm512_loadu_si512(GROUPS[i][half].as_ptr().cast()),
                )
            };
            let codes = _mm512_srlv_epi64(_mm512_broadcast_i32x4(codes), shift);
            // `codes & 3 | group`.
            let at = _mm512_ternarylogic_epi32::<0xea>(codes, _mm512_set1_epi8(3), group);
            _mm512_permutexvar_epi8(at, products)
        };
        (half(0), half(1))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales(p: *const u8, _: usize) -> __m256 {
        // SAFETY: the caller's word.
        let factors = _mm_cvtsi32_si128(unsafe { two::factors(p) }.cast_signed());
        _mm256_broadcastss_ps(_mm_cvtph_ps(factors))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn half_minimums(p: *const u8) -> __m512 {
        // SAFETY: the caller's word: a block begins with 16 bytes, minimums above scales.
        let (minimums, factors) = unsafe { (_mm_loadu_si128(p.cast()), two::factors(p)) };
        let minimums = _mm_and_si128(_mm_srli_epi16::<4>(minimums), _mm_set1_epi8(15));
        let minimums = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(minimums));
        let factors = _mm_cvtph_ps(_mm_cvtsi32_si128(factors.cast_signed()));
        let second = _mm512_set1_epi32(1);
        let factor = _mm512_permutexvar_ps(second, _mm512_castps128_ps512(factors));
        _mm512_mul_ps(minimums, factor)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn codes16(
        rows: &[*const u8; 16],
        i: usize,
        half: usize,
        out: &mut [[__m512i; 2]; STEPS],
    ) {
        // SAFETY: the caller's word: a block begins with 16 bytes of scales.
        let scales = unsafe { transposed(rows, 0) };
        let three = _mm512_set1_epi8(3);
        let row = _mm512_broadcast_i32x4(rows_of_four());
        for part in 0..2 {
            // SAFETY: the caller's word: 32 bytes of a record's codes.
            let mut codes = unsafe { transposed(rows, two::CODES + 32 * i + 16 * part) };
            for block in 0..4 {
                let group = 2 * block + part;
                let scale = _mm512_srl_epi32(scales[2 * i + group / 4], count(group % 4 * 8));
                let scale = _mm512_and_si512(scale, _mm512_set1_epi32(15));
                let products = _mm512_mullo_epi32(scale, _mm512_set1_epi32(ZERO_TO_THREE));
                let products = _mm512_or_si512(products, _mm512_set1_epi8(-128));
                for (k, codes) in codes.iter_mut().enumerate() {
                    let at = _mm512_ternarylogic_epi32::<0xea>(*codes, three, row);
                    out[16 * part + 4 * block + k][half] = _mm512_shuffle_epi8(products, at);
                    *codes = _mm512_srli_epi32::<2>(*codes);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales16(
        rows: &[*const u8; 16],
        i: usize,
        half: usize,
        out: &mut [[__m512; 2]; SCALES],
    ) {
        // SAFETY: the caller's word: a block begins with 16 bytes, minimums above scales.
        let minimums = unsafe { transposed(rows, 0) };
        let mut factors = [[0; 16]; 2];
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: as above.
            let both = unsafe { two::factors(*row) };
            (factors[0][r], factors[1][r]) = (both as u16, (both >> 16) as u16);
        }
        for scale in &mut out[..4] {
            scale[half] = numbers(&factors[0]);
        }
        let factor = numbers(&factors[1]);
        for (group, out) in out[4..].iter_mut().enumerate() {
            let minimum = _mm512_srl_epi32(minimums[2 * i + group / 4], count(group % 4 * 8 + 4));
            let minimum = _mm512_and_si512(minimum, _mm512_set1_epi32(15));
            out[half] = _mm512_mul_ps(_mm512_cvtepi32_ps(minimum), factor);
        }
    }
}

/// Numbers of 3 bits, less 4, with scales of 6, less 32.
pub struct Three;

impl Codes for Three {
    const UNIT_BYTES: usize = three::BYTES;
    const ONE_SCALE: bool = true;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,f16c")]
    unsafe fn codes(p: *const u8, i: usize) -> (__m512i, __m512i) {
        // SAFETY: the caller's word.
        let scales = unsafe { three::scales(p, i) };
        // Of a scale `s` the products with 4 to 1, then those with 0 to -3, plus 128: from `s + 32` and from `31 - s`.
        let both = [scales, scales ^ 0x3f3f_3f3f_3f3f_3f3f].map(u64::cast_signed);
        let both = _mm512_cvtepu8_epi32(_mm_set_epi64x(both[1], both[0]));
        let products = _mm512_mullo_epi32(both, first_or_second(0x0102_0304, ZERO_TO_THREE));
        let products = _mm512_add_epi8(products, first_or_second(0x6040_2000, MINUS_31));
        let shift = _mm512_setr_epi64(0, 0, 2, 2, 4, 4, 6, 6);
        // The third bits to where the second half of the table begins.
        let turn = [
            _mm512_setr_epi64(5, 5, 4, 4, 3, 3, 2, 2),
            _mm512_setr_epi64(1, 1, 0, 0, 63, 63, 62, 62),
        ][i];
        let half = |half: usize| {
            // SAFETY: as above: 32 bytes of a record's codes and of third bits; the table is as long as a register.
            let (codes, third, group) = unsafe {
                (
                    _mm_loadu_si128(p.add(three::CODES + 32 * i + 16 * half).cast()),
                    _mm_loadu_si128(p.add(16 * half).cast()),
                    _mm512_loadu_si512(GROUPS[0][half].as_ptr().cast()),
                )
            };
            let codes = _mm512_srlv_epi64(_mm512_broadcast_i32x4(codes), shift);
            let third = _mm512_rolv_epi64(_mm512_broadcast_i32x4(third), turn);
            // Bits of the one where the mask has them, else of the other; `both & 0x23 | group`.
            let both = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(3), codes, third);
            let at = _mm512_ternarylogic_epi32::<0xea>(both, _mm512_set1_epi8(0x23), group);
            _mm512_permutexvar_epi8(at, products)
        };
        (half(0), half(1))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales(p: *const u8, _: usize) -> __m256 {
        // SAFETY: the caller's word.
        _mm256_set1_ps(-number(unsafe { three::factor(p) }))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn codes16(
        rows: &[*const u8; 16],
        i: usize,
        half: usize,
        out: &mut [[__m512i; 2]; STEPS],
    ) {
        let mut scales = [0; 16];
        for (row, scales) in rows.iter().zip(&mut scales) {
            // SAFETY: the caller's word.
            *scales = unsafe { three::scales(*row, i) };
        }
        let scales = in_two_words(&scales);
        let mask = _mm512_set1_epi8(3);
        let row = _mm512_broadcast_i32x4(rows_of_four());
        for part in 0..2 {
            // SAFETY: the caller's word: 32 bytes of a record's codes and of third bits.
            let (mut codes, third) = unsafe {
                (
                    transposed(rows, three::CODES + 32 * i + 16 * part),
                    transposed(rows, 16 * part),
                )
            };
            for block in 0..4 {
                let group = 2 * block + part;
                let scale = _mm512_srl_epi32(scales[group / 4], count(group % 4 * 8));
                let scale = _mm512_and_si512(scale, _mm512_set1_epi32(0x3f));
                // The products with 0 to -3, plus 128; and what those with 4 to 1 are larger by.
                let turned = _mm512_xor_si512(scale, _mm512_set1_epi32(0x3f));
                let products = _mm512_mullo_epi32(turned, _mm512_set1_epi32(ZERO_TO_THREE));
                let products = _mm512_add_epi8(products, _mm512_set1_epi32(MINUS_31));
                let four = _mm512_mullo_epi32(scale, _mm512_set1_epi32(0x0404_0404));
                let four = _mm512_add_epi8(four, _mm512_set1_epi8(-128));
                let bit = _mm512_set1_epi8((1u8 << (4 * i + block)).cast_signed());
                for (k, codes) in codes.iter_mut().enumerate() {
                    let at = _mm512_ternarylogic_epi32::<0xea>(*codes, mask, row);
                    let product = _mm512_shuffle_epi8(products, at);
                    let unset = _mm512_testn_epi8_mask(third[k], bit);
                    out[16 * part + 4 * block + k][half] =
                        _mm512_mask_add_epi8(product, unset, product, four);
                    *codes = _mm512_srli_epi32::<2>(*codes);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn scales16(
        rows: &[*const u8; 16],
        _: usize,
        half: usize,
        out: &mut [[__m512; 2]; SCALES],
    ) {
        let mut factors = [0; 16];
        for (row, factor) in rows.iter().zip(&mut factors) {
            // SAFETY: the caller's word.
            *factor = unsafe { three::factor(*row) };
        }
        let factors = _mm512_sub_ps(_mm512_setzero_ps(), numbers(&factors));
        for scale in &mut out[..4] {
            scale[half] = factors;
        }
    }
}

/// `128 - 31 * n` for 0 to 3.
const MINUS_31: i32 = 0x2342_6180;

/// The one number in the first eight lanes, the other in the second.
#[inline]
#[target_feature(enable = "avx512f")]
fn first_or_second(first: i32, second: i32) -> __m512i {
    _mm512_mask_set1_epi32(_mm512_set1_epi32(first), 0xff00, second)
}

/// [`ROWS_OF_FOUR`] in a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn rows_of_four() -> __m128i {
    let [a, b, c, d] = ROWS_OF_FOUR;
    _mm_setr_epi32(a, b, c, d)
}

/// How far to shift.
#[inline]
#[target_feature(enable = "avx512f")]
fn count(bits: usize) -> __m128i {
    _mm_cvtsi32_si128(bits as i32)
}

/// The 16 bytes at `at` of each of 16 rows: four of every row in each register.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
unsafe fn transposed(rows: &[*const u8; 16], at: usize) -> [__m512i; 4] {
    let mut four = [_mm_setzero_ps(); 16];
    for (row, four) in rows.iter().zip(&mut four) {
        // SAFETY: the caller's word.
        *four = unsafe { _mm_loadu_ps(row.add(at).cast()) };
    }
    let [a, b, c, d] = transpose_four(&four);
    [
        _mm512_castps_si512(a),
        _mm512_castps_si512(b),
        _mm512_castps_si512(c),
        _mm512_castps_si512(d),
    ]
}

/// The lower halves of 16 numbers, and the upper ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_two_words(numbers: &[u64; 16]) -> [__m512i; 2] {
    // SAFETY: 16 numbers are two registers long.
    let (a, b) = unsafe {
        let p = numbers.as_ptr();
        (
            _mm512_loadu_si512(p.cast()),
            _mm512_loadu_si512(p.add(8).cast()),
        )
    };
    let lower = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let upper = _mm512_add_epi32(lower, _mm512_set1_epi32(1));
    [
        _mm512_permutex2var_epi32(a, lower, b),
        _mm512_permutex2var_epi32(a, upper, b),
    ]
}

/// Numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
fn numbers(halves: &[u16; 16]) -> __m512 {
    // SAFETY: 16 numbers are half a register long.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) })
}
