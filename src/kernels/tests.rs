//! Every kernel against sums in f64 over the decoded weights, on ragged sizes.

use super::activation::record_stride;
use super::*;

/// F32 sums of up to a thousand products, relative to the sum of their sizes.
const TOLERANCE: f64 = 2e-6;
/// The same for planes, whose levels become whole numbers.
const PLANES_TOLERANCE: f64 = 1e-3;

const FORMATS: [Format; 9] = Format::ALL;
const ALONE: Share = Share { index: 0, of: 1 };
/// IQ4_NL's levels, from ggml's table.
const LEVELS: [i32; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// From -1 to 1.
    fn number(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }
}

/// All kernels this machine can run. Says which it cannot.
fn machines() -> impl Iterator<Item = &'static Isa> {
    all().iter().copied().filter(|isa| {
        let here = isa.is_available();
        let what = if here { "tested" } else { "NOT TESTED here" };
        eprintln!("{what}: {}", isa.name);
        here
    })
}

/// Random rows of a format.
fn weights(format: Format, width: usize, n_rows: usize, noise: &mut Noise) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..format.row_bytes(width) * n_rows)
        .map(|_| noise.next() as u8)
        .collect();
    for row in bytes.chunks_exact_mut(format.row_bytes(width)) {
        let norm = 0.01 + 0.01 * noise.number().abs();
        let n_blocks = row.len() / format.block_bytes();
        for (i, block) in row.chunks_exact_mut(format.block_bytes()).enumerate() {
            let scale = match format {
                Format::Planes if i < n_blocks / 2 => norm,
                Format::Planes => norm * 0.54,
                _ => 0.01 * noise.number(),
            };
            for at in scales(format) {
                block[*at..at + 2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
            }
        }
    }
    bytes
}

/// Where a block has its numbers of 16 bits.
fn scales(format: Format) -> &'static [usize] {
    match format {
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q6K => &[208],
        _ => &[0],
    }
}

/// A row as numbers.
fn decode(format: Format, row: &[u8]) -> Vec<f64> {
    let blocks = row.chunks_exact(format.block_bytes()).map(|b| {
        match format {
            Format::Q2K => return two(b),
            Format::Q3K => return three(b),
            Format::Q4K => return four_or_five(b, &b[16..], |_, _| 0),
            Format::Q5K => return four_or_five(b, &b[48..], |j, l| b[16 + l] >> j & 1),
            Format::Q6K => return six(b),
            _ => {}
        }
        let scale = half::f16::from_le_bytes([b[0], b[1]]).to_f64();
        let numbers: Vec<i32> = match format {
            Format::Iq4Nl => (0..32)
                .map(|i| LEVELS[usize::from(b[2 + i % 16] >> (i / 16 * 4) & 15)])
                .collect(),
            Format::Q4_0 => (0..32)
                .map(|i| i32::from(b[2 + i % 16] >> (i / 16 * 4) & 15) - 8)
                .collect(),
            Format::Q8_0 => b[2..].iter().map(|v| i32::from(*v as i8)).collect(),
            _ => (0..128)
                .map(|i| i32::from(b[2 + i / 8] >> (i % 8) & 1) * 2 - 1)
                .collect(),
        };
        numbers
            .into_iter()
            .map(move |n| f64::from(n) * scale)
            .collect::<Vec<_>>()
    });
    let all: Vec<f64> = blocks.flatten().collect();
    match format {
        Format::Planes => {
            let (s, u) = all.split_at(all.len() / 2);
            s.iter().zip(u).map(|(s, u)| s + u).collect()
        }
        _ => all,
    }
}

/// A block of Q2_K.
fn two(b: &[u8]) -> Vec<f64> {
    let factor = |at: usize| half::f16::from_le_bytes([b[at], b[at + 1]]).to_f64();
    let number = |i: usize| {
        let (half, j, l) = (i / 128, i % 128 / 32, i % 32);
        let code = b[16 + 32 * half + l] >> (2 * j) & 3;
        let (scale, minimum) = (b[i / 16] % 16, b[i / 16] / 16);
        factor(80) * f64::from(scale) * f64::from(code) - factor(82) * f64::from(minimum)
    };
    (0..256).map(number).collect()
}

/// A block of Q3_K.
fn three(b: &[u8]) -> Vec<f64> {
    let factor = half::f16::from_le_bytes([b[108], b[109]]).to_f64();
    let number = |i: usize| {
        let (half, j, l) = (i / 128, i % 128 / 32, i % 32);
        let code = (b[32 + 32 * half + l] >> (2 * j) & 3) + 4 * (b[l] >> (4 * half + j) & 1);
        // The lower four bits of two scales in a byte, the upper two of four.
        let group = i / 16;
        let lower = b[96 + group % 8] >> (group / 8 * 4) & 15;
        let upper = b[104 + group % 4] >> (group / 4 * 2) & 3;
        let scale = i32::from(lower + 16 * upper) - 32;
        factor * f64::from(scale) * f64::from(i32::from(code) - 4)
    };
    (0..256).map(number).collect()
}

/// A block of Q4_K or Q5_K: `fifth(j, l)` is the fifth bit of number `l` of group `j`.
fn four_or_five(b: &[u8], codes: &[u8], fifth: impl Fn(usize, usize) -> u8) -> Vec<f64> {
    let number = |at: usize| half::f16::from_le_bytes([b[at], b[at + 1]]).to_f64();
    let packed = &b[4..16];
    let mut out = Vec::new();
    for j in 0..8 {
        // Six bits each; of the last four groups the upper two are kept with those of the first four.
        let (scale, minimum) = if j < 4 {
            (packed[j] % 64, packed[j + 4] % 64)
        } else {
            (
                packed[j + 4] % 16 + packed[j - 4] / 64 * 16,
                packed[j + 4] / 16 + packed[j] / 64 * 16,
            )
        };
        let (scale, minimum) = (number(0) * f64::from(scale), number(2) * f64::from(minimum));
        for l in 0..32 {
            let q = (codes[j / 2 * 32 + l] >> (j % 2 * 4) & 15) + 16 * fifth(j, l);
            out.push(scale * f64::from(q) - minimum);
        }
    }
    out
}

/// A block of Q6_K.
fn six(b: &[u8]) -> Vec<f64> {
    let scale = half::f16::from_le_bytes([b[208], b[209]]).to_f64();
    let number = |i: usize| {
        let (half, j, l) = (i / 128, i % 128 / 32, i % 32);
        let lower = b[64 * half + j % 2 * 32 + l] >> (j / 2 * 4) & 15;
        let upper = b[128 + 32 * half + l] >> (2 * j) & 3;
        let group = f64::from(b[192 + i / 16] as i8);
        scale * group * f64::from(i32::from(lower + 16 * upper) - 32)
    };
    (0..256).map(number).collect()
}

struct Case {
    format: Format,
    width: usize,
    n_rows: usize,
    n_expert: usize,
    bytes: Vec<u8>,
}

impl Case {
    fn new(
        format: Format,
        width: usize,
        n_rows: usize,
        n_expert: usize,
        noise: &mut Noise,
    ) -> Self {
        let bytes = weights(format, width, n_rows * n_expert, noise);
        Self {
            format,
            width,
            n_rows,
            n_expert,
            bytes,
        }
    }

    fn rows(&self) -> Rows {
        Rows {
            data: self.bytes.as_ptr(),
            stride: self.format.row_bytes(self.width),
            n_rows: self.n_rows,
            width: self.width,
            format: self.format,
        }
    }

    fn experts(&self, ids: &[i32], n_used: usize) -> Experts {
        Experts {
            n_expert: self.n_expert,
            n_used,
            n_tokens: ids.len() / n_used,
            ids: ids.as_ptr(),
            ids_stride: n_used,
            expert_stride: self.format.row_bytes(self.width) * self.n_rows,
        }
    }

    /// The product of a row with a column as it was quantised, and the sum of the sizes of its terms.
    fn product(&self, isa: &Isa, expert: usize, row: usize, column: &[Record]) -> (f64, f64) {
        let bytes = self.format.row_bytes(self.width);
        let row = &self.bytes[(expert * self.n_rows + row) * bytes..][..bytes];
        let layout = self.format.layout();
        let term =
            |(i, w): (usize, f64)| w * f64::from(column[i / 128].value(layout, isa.order, i % 128));
        let terms: Vec<f64> = decode(self.format, row)
            .into_iter()
            .enumerate()
            .map(term)
            .collect();
        (terms.iter().sum(), terms.iter().map(|t| t.abs()).sum())
    }

    fn tolerance(&self) -> f64 {
        if self.format == Format::Planes {
            PLANES_TOLERANCE
        } else {
            TOLERANCE
        }
    }
}

/// Random columns.
fn columns(isa: &Isa, layout: Layout, width: usize, n: usize, noise: &mut Noise) -> Vec<Record> {
    let x: Vec<f32> = (0..width * n).map(|_| noise.number()).collect();
    quantized(isa, layout, width, &x)
}

fn quantized(isa: &Isa, layout: Layout, width: usize, x: &[f32]) -> Vec<Record> {
    let n = x.len() / width;
    let mut out = vec![Record::ZERO; record_stride(width) * n];
    // SAFETY: the machine has the features; there is room for all records.
    unsafe {
        isa.quantize(
            layout,
            width,
            n,
            |i| &x[i * width..(i + 1) * width],
            out.as_mut_ptr(),
            ALONE,
        )
    };
    for (i, x) in x.chunks_exact(width).enumerate() {
        for (k, v) in x.iter().enumerate() {
            let record = &out[i * record_stride(width) + k / 128];
            let error = (record.value(layout, isa.order, k % 128) - v).abs();
            assert!(
                error <= record.scales[k % 128 / 32] * 0.5001,
                "{layout:?} {k}: off by {error}"
            );
        }
    }
    out
}

fn check(isa: &Isa, case: &Case, expert: usize, row: usize, column: &[Record], found: f32) {
    let (wanted, size) = case.product(isa, expert, row, column);
    let error = (f64::from(found) - wanted).abs();
    assert!(
        error <= case.tolerance() * size.max(1e-9),
        "{}: {:?} {}x{} row {row} of expert {expert}: {found}, not {wanted}",
        isa.name,
        case.format,
        case.width,
        case.n_rows,
    );
}

/// Rows that are no whole panels, columns that are no whole tiles, widths that are no whole records.
#[test]
fn matrices_times_columns() {
    for isa in machines() {
        let mut noise = Noise(1);
        for format in FORMATS {
            for (width, n_rows) in [
                (128, 1),
                (160, 3),
                (512, 32),
                (608, 33),
                (1024, 70),
                (896, 64),
            ] {
                let width = usize::next_multiple_of(width, format.block());
                let case = Case::new(format, width, n_rows, 1, &mut noise);
                for n in [1, 2, 3, 4, 5, 9, 10, 13, 23, 40, 66] {
                    let records = columns(isa, format.layout(), width, n, &mut noise);
                    let x = Columns {
                        data: records.as_ptr(),
                        n,
                        width,
                        rounding: Rounding::Fast,
                    };
                    for of in [1, 2, 3] {
                        let mut out = vec![f32::NAN; n_rows * n];
                        for index in 0..of {
                            // SAFETY: all of it is there, and the features were asked for.
                            unsafe {
                                isa.linear(&case.rows(), &x, out.as_mut_ptr(), Share { index, of })
                            };
                        }
                        for (i, found) in out.iter().enumerate() {
                            let per_row = record_stride(width);
                            let column = &records[i / n_rows * per_row..][..per_row];
                            check(isa, &case, 0, i % n_rows, column, *found);
                        }
                    }
                }
            }
        }
    }
}

/// Products as large as they can be: sums of 8-bit products must not be cut off at 16 bits.
#[test]
fn extreme_weights_times_extreme_columns() {
    for isa in machines() {
        let mut noise = Noise(7);
        for format in FORMATS {
            let (width, n_rows) = (256, 33);
            for byte in [0x00, 0x0f, 0xf0, 0xff, 0x80, 0x7f] {
                let mut case = Case::new(format, width, n_rows, 1, &mut noise);
                for block in case.bytes.chunks_exact_mut(format.block_bytes()) {
                    for (at, to) in block.iter_mut().enumerate() {
                        if scales(format).iter().all(|s| at / 2 != s / 2) {
                            *to = byte;
                        }
                    }
                }
                for n in [1, 11] {
                    let x: Vec<f32> = (0..width * n)
                        .map(|i| if i / width % 2 == 0 { 1.0 } else { -1.0 })
                        .collect();
                    let records = quantized(isa, format.layout(), width, &x);
                    let x = Columns {
                        data: records.as_ptr(),
                        n,
                        width,
                        rounding: Rounding::Fast,
                    };
                    let mut out = vec![f32::NAN; n_rows * n];
                    // SAFETY: as above.
                    unsafe { isa.linear(&case.rows(), &x, out.as_mut_ptr(), ALONE) };
                    for (i, found) in out.iter().enumerate() {
                        let column = &records[i / n_rows * record_stride(width)..][..2];
                        check(isa, &case, 0, i % n_rows, column, *found);
                    }
                }
            }
        }
    }
}

/// Columns that are computed in several groups, none of them whole.
const MANY: usize = 32 + 23;

/// What checks of guesses rely on: a column's bits are the same alone and in company, for any number of threads.
#[test]
fn few_columns_round_alike() {
    for isa in machines() {
        let mut noise = Noise(2);
        for format in FORMATS {
            let (width, n_rows) = (1024, 67);
            let case = Case::new(format, width, n_rows, 1, &mut noise);
            let many = MANY;
            let records = columns(isa, format.layout(), width, many, &mut noise);
            let product = |first: usize, n: usize, of: usize, rounding: Rounding| {
                let data = records[first * record_stride(width)..].as_ptr();
                let mut out = vec![f32::NAN; n_rows * n];
                for index in 0..of {
                    let x = Columns {
                        data,
                        n,
                        width,
                        rounding,
                    };
                    // SAFETY: as above.
                    unsafe { isa.linear(&case.rows(), &x, out.as_mut_ptr(), Share { index, of }) };
                }
                out
            };
            let mut cases = vec![(FEW_COLUMNS, Rounding::Fast), (many, Rounding::Alone)];
            if isa.some_dozens.contains(&format) {
                cases.push((many, Rounding::Fast));
            }
            for (n, rounding) in cases {
                let together = product(0, n, 2, rounding);
                for column in 0..n {
                    let alone = product(column, 1, 3, Rounding::Fast);
                    assert_eq!(
                        alone,
                        together[column * n_rows..][..n_rows],
                        "{format:?} {column} of {n}"
                    );
                }
            }
        }
    }
}

/// Few and many tokens per expert; experts without tokens; a token twice at one expert; one column for all choices or
/// one for each.
#[test]
fn experts_times_their_tokens() {
    for isa in machines() {
        let mut noise = Noise(3);
        for format in FORMATS {
            let (width, n_rows, n_expert, n_used) = (256, 72, 5, 3);
            let case = Case::new(format, width, n_rows, n_expert, &mut noise);
            let other = Case::new(format, width, n_rows, n_expert, &mut noise);
            for n_tokens in [1, 2, 9, 60] {
                let mut ids: Vec<i32> = (0..n_tokens * n_used)
                    .map(|_| (noise.next() % 4) as i32)
                    .collect();
                ids[0] = ids[1];
                let e = case.experts(&ids, n_used);
                let per_row = record_stride(width);
                for n in [n_tokens, n_tokens * n_used] {
                    let records = columns(isa, format.layout(), width, n, &mut noise);
                    let x = Columns {
                        data: records.as_ptr(),
                        n,
                        width,
                        rounding: Rounding::Fast,
                    };
                    let column = |choice: usize| {
                        let i = if n == n_tokens {
                            choice / n_used
                        } else {
                            choice
                        };
                        &records[i * per_row..][..per_row]
                    };
                    let mut out = vec![f32::NAN; n_rows * ids.len()];
                    for index in 0..2 {
                        // SAFETY: as above.
                        unsafe {
                            isa.experts(
                                &case.rows(),
                                &e,
                                &x,
                                out.as_mut_ptr(),
                                Share { index, of: 2 },
                            )
                        };
                    }
                    for (i, found) in out.iter().enumerate() {
                        let choice = i / n_rows;
                        check(
                            isa,
                            &case,
                            ids[choice] as usize,
                            i % n_rows,
                            column(choice),
                            *found,
                        );
                    }
                    if n == n_tokens {
                        gated(isa, &case, &other, &e, &ids, &x, &column);
                    } else {
                        summed(isa, &case, &e, &ids, &x, &column, &mut noise);
                    }
                }
            }
        }
    }
}

fn gated<'a>(
    isa: &Isa,
    case: &Case,
    other: &Case,
    e: &Experts,
    ids: &[i32],
    x: &Columns,
    column: &dyn Fn(usize) -> &'a [Record],
) {
    let n_rows = case.n_rows;
    let mut out = vec![f32::NAN; n_rows * ids.len()];
    for index in 0..3 {
        let share = Share { index, of: 3 };
        // SAFETY: as above.
        unsafe { isa.swiglu_experts(&case.rows(), &other.rows(), e, x, out.as_mut_ptr(), share) };
    }
    for (i, found) in out.iter().enumerate() {
        let (choice, row) = (i / n_rows, i % n_rows);
        let expert = ids[choice] as usize;
        let (gate, size) = case.product(isa, expert, row, column(choice));
        let (up, up_size) = other.product(isa, expert, row, column(choice));
        let wanted = gate / (1.0 + (-gate).exp()) * up;
        let bound = 2.0 * case.tolerance() * size * up_size.max(1.0) + 1e-6;
        assert!(
            (f64::from(*found) - wanted).abs() <= bound,
            "{:?}: {found}, not {wanted}",
            case.format
        );
    }
}

fn summed<'a>(
    isa: &Isa,
    case: &Case,
    e: &Experts,
    ids: &[i32],
    x: &Columns,
    column: &dyn Fn(usize) -> &'a [Record],
    noise: &mut Noise,
) {
    let n_rows = case.n_rows;
    let weights: Vec<f32> = ids.iter().map(|_| noise.number()).collect();
    let mut out = vec![f32::NAN; n_rows * e.n_tokens];
    for index in 0..2 {
        let share = Share { index, of: 2 };
        // SAFETY: as above.
        unsafe {
            isa.experts_sum(
                &case.rows(),
                e,
                x,
                weights.as_ptr(),
                out.as_mut_ptr(),
                share,
            )
        };
    }
    for (i, found) in out.iter().enumerate() {
        let (token, row) = (i / n_rows, i % n_rows);
        let (mut wanted, mut size) = (0.0, 0.0);
        for choice in token * e.n_used..(token + 1) * e.n_used {
            let (v, s) = case.product(isa, ids[choice] as usize, row, column(choice));
            wanted += f64::from(weights[choice]) * v;
            size += s;
        }
        assert!(
            (f64::from(*found) - wanted).abs() <= case.tolerance() * size,
            "{:?}: {found}, not {wanted}",
            case.format
        );
    }
}

/// Choices that no expert answers to must neither be followed nor leave anything unwritten in a sum.
#[test]
fn ids_out_of_range_are_left_out() {
    for isa in machines() {
        let mut noise = Noise(4);
        let case = Case::new(Format::Q8_0, 128, 32, 2, &mut noise);
        let records = columns(isa, Layout::Blocks, 128, 2, &mut noise);
        let ids = [-1, i32::MAX];
        let x = Columns {
            data: records.as_ptr(),
            n: 2,
            width: 128,
            rounding: Rounding::Fast,
        };
        let mut out = vec![f32::NAN; 64];
        // SAFETY: as above.
        unsafe {
            isa.experts_sum(
                &case.rows(),
                &case.experts(&ids, 1),
                &x,
                [1.0, 1.0].as_ptr(),
                out.as_mut_ptr(),
                ALONE,
            )
        };
        assert!(out.iter().all(|v| *v == 0.0));
    }
}

#[test]
fn rotation_is_the_definition() {
    for isa in machines() {
        let mut noise = Noise(5);
        for n in [128usize, 256, 1024, 4096] {
            let x: Vec<f32> = (0..n).map(|_| noise.number()).collect();
            let signs: Vec<f32> = (0..n).map(|_| noise.number().signum()).collect();
            let mut out = vec![Record::ZERO; record_stride(n)];
            // SAFETY: as above.
            unsafe { isa.rotate_and_quantize(&signs, 1, |_| &x, out.as_mut_ptr(), ALONE) };
            for i in [0, 1, 77, n - 1] {
                let sum: f64 = (0..n)
                    .map(|j| {
                        let sign = if (i & j).count_ones() % 2 == 1 {
                            -1.0
                        } else {
                            1.0
                        };
                        sign * f64::from(x[j] * signs[j])
                    })
                    .sum();
                let wanted = sum / (n as f64).sqrt();
                let record = &out[i / 128];
                let found = f64::from(record.value(Layout::Whole, isa.order, i % 128));
                assert!(
                    (found - wanted).abs() <= f64::from(record.scales[0]) * 0.5001 + 1e-5,
                    "{n} {i}: {found}, not {wanted}"
                );
            }
        }
    }
}

/// A kernel must not make numbers of nonsense: tests that poison memory rely on it.
#[test]
fn what_is_not_finite_stays_so() {
    for isa in machines() {
        let mut noise = Noise(6);
        for format in FORMATS {
            let (width, n_rows) = (512, 40);
            let case = Case::new(format, width, n_rows, 1, &mut noise);
            for (poison, n) in [(f32::NAN, 1), (f32::INFINITY, 20)] {
                let mut x: Vec<f32> = (0..width * n).map(|_| noise.number()).collect();
                x[width - 1] = poison;
                let layout = format.layout();
                let mut records = vec![Record::ZERO; record_stride(width) * n];
                let mut out = vec![0f32; n_rows * n];
                // SAFETY: as above.
                unsafe {
                    let column = |i| &x[i * width..(i + 1) * width];
                    isa.quantize(layout, width, n, column, records.as_mut_ptr(), ALONE);
                    let x = Columns {
                        data: records.as_ptr(),
                        n,
                        width,
                        rounding: Rounding::Fast,
                    };
                    isa.linear(&case.rows(), &x, out.as_mut_ptr(), ALONE);
                }
                let (poisoned, rest) = out.split_at(n_rows);
                assert!(poisoned.iter().all(|v| v.is_nan()), "{format:?} {poison}");
                assert!(rest.iter().all(|v| v.is_finite()), "{format:?} {poison}");
            }
        }
    }
}

#[test]
fn numbers_too_small_for_a_scale_are_zero() {
    for isa in machines() {
        let x = [f32::MIN_POSITIVE / 4.0; 3];
        for layout in [Layout::Blocks, Layout::Whole] {
            let mut out = [Record::ZERO];
            // SAFETY: as above.
            unsafe { isa.quantize(layout, 3, 1, |_| &x, out.as_mut_ptr(), ALONE) };
            assert_eq!(
                [0, 1, 3].map(|i| out[0].value(layout, isa.order, i)),
                [0.0; 3]
            );
        }
    }
}
