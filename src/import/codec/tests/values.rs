//! Decoded values, against MLX, against the definitions, and against themselves by other ranges.

#![forbid(unsafe_code)]

use half::f16;
use serde::Deserialize;
use serde_json::json;

use crate::import::source::testing::Tensor;

use super::super::part::{BATCH_BYTES, batches, unpack};
use super::super::{Fp8Scale, Stored, fp8, plain_values};
use super::{checkpoint, decode, find, found, mlx, nibbles};

/// What MLX 0.32 made of random weights, and what it decodes them to: words, halves and floats as their bits.
#[derive(Deserialize)]
struct MlxCase {
    bits: u64,
    group_size: u64,
    weight: Vec<u32>,
    scales: Vec<u16>,
    biases: Vec<u16>,
    values: Vec<u32>,
}

fn mlx_cases() -> Vec<MlxCase> {
    serde_json::from_str(include_str!("../testdata/mlx_affine.json")).expect("cases")
}

fn halves(name: &str, shape: &[u64], bits: &[u16]) -> Tensor {
    let bytes = bits.iter().flat_map(|half| half.to_le_bytes()).collect();
    Tensor::new(name, "F16", shape, bytes)
}

#[test]
fn affine_matrices_decode_as_mlx_decodes_them() {
    let cases = mlx_cases();
    let bits: Vec<u64> = cases.iter().map(|case| case.bits).collect();
    assert_eq!(bits, [2, 3, 4, 5, 6, 8]);
    for case in cases {
        let groups = 64 / case.group_size;
        let tensors = [
            Tensor::u32("m.weight", &[2, 2 * case.bits], &case.weight),
            halves("m.scales", &[2, groups], &case.scales),
            halves("m.biases", &[2, groups], &case.biases),
        ];
        let negative = |bits: &u16| f16::from_bits(*bits).is_sign_negative();
        assert!(case.scales.iter().any(negative), "no negative scale");
        let (_folder, ckpt) = checkpoint(&mlx(case.bits), &tensors);
        let matrix = found(&ckpt, "m");
        assert_eq!(matrix.shape(), [2, 64]);
        assert_eq!((matrix.n_rows(), matrix.row_len()), (2, 64));
        assert_eq!(matrix.form(), format!("affine {}-bit g32", case.bits));
        assert_eq!(matrix.tensor_names(), ["m.weight", "m.scales", "m.biases"]);
        let bytes: usize = tensors.iter().map(|t| t.bytes.len()).sum();
        assert_eq!(matrix.stored_bytes(), bytes as u64);
        let values = decode(&ckpt, &matrix);
        let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
        assert_eq!(bits, case.values, "{} bits", case.bits);
    }
}

#[test]
fn stacked_affine_matrices_and_settings_of_one_module() {
    let config = json!({"quantization": {
        "group_size": 64, "bits": 8, "a.b": {"group_size": 32, "bits": 4}, "a.c": false
    }});
    let codes: Vec<u8> = (0..128).map(|i| (i * 7 % 16) as u8).collect();
    let tensors = [
        Tensor::u32("a.b.weight", &[2, 2, 4], &nibbles(&codes)),
        Tensor::bf16("a.b.scales", &[2, 2, 1], &[1.0, -0.5, 0.25, 2.0]),
        Tensor::bf16("a.b.biases", &[2, 2, 1], &[-8.0, 4.0, 0.0, 1.0]),
    ];
    let (_folder, ckpt) = checkpoint(&config, &tensors);
    let matrix = found(&ckpt, "a.b");
    assert_eq!(matrix.shape(), [2, 2, 32]);
    let factors = [(1.0, -8.0), (-0.5, 4.0), (0.25, 0.0), (2.0, 1.0)];
    let by_definition =
        |(i, &q): (usize, &u8)| factors[i / 32].0 * f32::from(q) + factors[i / 32].1;
    let expected: Vec<f32> = codes.iter().enumerate().map(by_definition).collect();
    assert_eq!(decode(&ckpt, &matrix), expected);
}

#[test]
fn plain_numbers_of_every_type() {
    let values = [0.0, -1.0, 2.5, -0.15625, 65504.0, 6.103_515_6e-5];
    let shape = [2, 3];
    let f64s = values.iter().flat_map(|&v| f64::from(v).to_le_bytes());
    let tensors = [
        Tensor::f32("a.weight", &shape, &values),
        Tensor::f16("b.weight", &shape, &values),
        Tensor::new("c.weight", "F64", &shape, f64s.collect()),
        Tensor::bf16("d", &[4], &[0.0, -1.0, 2.5, -0.15625]),
        Tensor::i64("e", &[], &[-16_777_216]),
        Tensor::i32("f", &[2], &[7, u32::MAX]),
        Tensor::new("g", "I8", &[3], vec![1, 128, 255]),
        Tensor::new("h", "BOOL", &[2], vec![0, 1]),
        Tensor::new("i", "U8", &[2], vec![0, 255]),
        Tensor::new("j", "I16", &[2], vec![255, 255, 0, 128]),
        Tensor::new("k", "U16", &[2], vec![255, 255, 0, 128]),
        Tensor::u32("l", &[2], &[0, 16_777_216]),
        Tensor::new("m", "U64", &[1], vec![9, 0, 0, 0, 0, 0, 0, 0]),
        Tensor::f32("n", &[0, 4], &[]),
        Tensor::f32("o", &[4, 0], &[]),
    ];
    let cases: [(&str, &[f32], &str); 15] = [
        ("a", &values, "f32"),
        ("b", &values, "f16"),
        ("c", &values, "f64"),
        ("d", &values[..4], "bf16"),
        ("e", &[-16_777_216.0], "i64"),
        ("f", &[7.0, -1.0], "i32"),
        ("g", &[1.0, -128.0, -1.0], "i8"),
        ("h", &[0.0, 1.0], "bool"),
        ("i", &[0.0, 255.0], "u8"),
        ("j", &[-1.0, -32768.0], "i16"),
        ("k", &[65535.0, 32768.0], "u16"),
        ("l", &[0.0, 16_777_216.0], "u32"),
        ("m", &[9.0], "u64"),
        ("n", &[], "f32"),
        ("o", &[], "f32"),
    ];
    let (_folder, ckpt) = checkpoint(&json!({}), &tensors);
    for (base, expected, form) in cases {
        let matrix = found(&ckpt, base);
        assert_eq!(decode(&ckpt, &matrix), expected, "{base}");
        assert_eq!(matrix.form(), form);
        let tensor = ckpt.tensor(matrix.tensor_names()[0]).expect("there");
        let mut whole = vec![1.0];
        plain_values(ckpt.files(), tensor, &mut whole).expect("readable");
        assert_eq!(whole, expected, "{base}");
    }
    assert!(find(&ckpt, "absent").expect("no error").is_none());
}

/// All finite bf16 and f16 values, beside the widening that the definitions give.
#[test]
fn every_half_is_widened_exactly() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for (dtype, mantissa_bits, bias) in [("BF16", 7, 127), ("F16", 10, 15)] {
        let finite: Vec<u16> = (0..=u16::MAX)
            .filter(|code| code & 0x7fff < (0x7fff >> mantissa_bits) << mantissa_bits)
            .collect();
        let bytes = finite.iter().flat_map(|code| code.to_le_bytes()).collect();
        let tensor = Tensor::new("a", dtype, &[finite.len() as u64], bytes);
        let (_folder, ckpt) = checkpoint(&json!({}), &[tensor]);
        let values = decode(&ckpt, &found(&ckpt, "a"));
        for (code, value) in finite.iter().zip(values) {
            let expected = by_definition(u32::from(*code), 16, mantissa_bits, bias);
            assert_eq!(f64::from(value), expected, "{dtype} {code:#x}");
        }
        let tensor = Tensor::new("a", dtype, &[1 << 16], all.clone());
        let (_folder, ckpt) = checkpoint(&json!({}), &[tensor]);
        assert!(super::all_rows(&ckpt, &found(&ckpt, "a")).is_err());
    }
}

/// The value of a small float, from sign, exponent and mantissa.
fn by_definition(code: u32, width: u32, mantissa_bits: u32, bias: i32) -> f64 {
    let sign = if code >> (width - 1) == 1 { -1.0 } else { 1.0 };
    let magnitude = code & ((1 << (width - 1)) - 1);
    let exponent = (magnitude >> mantissa_bits) as i32;
    let fraction =
        f64::from(magnitude & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
    match exponent {
        0 => sign * fraction * 2f64.powi(1 - bias),
        _ => sign * (1.0 + fraction) * 2f64.powi(exponent - bias),
    }
}

#[test]
fn every_fp8_code_has_the_value_of_its_definition() {
    for code in 0..=u8::MAX {
        let wide = u32::from(code);
        let value = fp8::e4m3(code);
        match code & 0x7f {
            0x7f => assert!(value.is_nan(), "{code:#x}"),
            _ => assert_eq!(f64::from(value), by_definition(wide, 8, 3, 7), "{code:#x}"),
        }
        let value = fp8::e5m2(code);
        match code & 0x7f {
            0x7d.. => assert!(value.is_nan(), "{code:#x}"),
            0x7c => assert!(value.is_infinite(), "{code:#x}"),
            _ => assert_eq!(f64::from(value), by_definition(wide, 8, 2, 15), "{code:#x}"),
        }
        // E5M2 is the upper half of an f16, so this must hold for NaN and infinity too.
        let upper = f16::from_bits(u16::from(code) << 8).to_f32();
        assert!(value == upper || (value.is_nan() && upper.is_nan()));
        assert_eq!(value.is_sign_negative(), upper.is_sign_negative());
    }
    assert_eq!(fp8::e4m3(0x7e), 448.0);
    assert_eq!(fp8::e4m3(0x01), 0.001_953_125);
}

fn fp8_codes(n: usize) -> Vec<u8> {
    // All codes in turn, but for the two that are no numbers.
    (0..n)
        .map(|i| (i * 37 % 127 + 128 * (i % 2)) as u8)
        .collect()
}

#[test]
fn fp8_blocks_may_be_cut_at_the_edges() {
    let config =
        json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 3]}});
    // Two matrices of 6 x 7: blocks of 4 and 2 rows, of 3, 3 and 1 columns.
    let codes = fp8_codes(84);
    let scales: Vec<f32> = (0..12).map(|i| 0.5 + i as f32).collect();
    let stacked = [
        Tensor::new("m.weight", "F8_E4M3", &[2, 6, 7], codes.clone()),
        Tensor::f32("m.weight_scale_inv", &[2, 2, 3], &scales),
    ];
    let (_folder, ckpt) = checkpoint(&config, &stacked);
    let matrix = found(&ckpt, "m");
    assert_eq!(matrix.shape(), [2, 6, 7]);
    assert_eq!(matrix.form(), "fp8 e4m3 4x3");
    assert_eq!(matrix.tensor_names(), ["m.weight", "m.weight_scale_inv"]);
    let values = decode(&ckpt, &matrix);
    for (i, value) in values.iter().enumerate() {
        let (n, row, column) = (i / 42, i / 7 % 6, i % 7);
        let scale = scales[n * 6 + row / 4 * 3 + column / 3];
        assert_eq!(*value, fp8::e4m3(codes[i]) * scale, "{n} {row} {column}");
    }
    let mut middle = Vec::new();
    matrix.rows(&ckpt, 3..9, &mut middle).expect("readable");
    assert_eq!(middle, &values[21..63]);
}

#[test]
fn fp8_scales_of_rows_and_of_all() {
    let codes = fp8_codes(12);
    let weight = |dtype| Tensor::new("m.weight", dtype, &[4, 3], codes.clone());
    let rows = [1.0, -2.0, 0.25, 8.0];
    let cases: [(Tensor, [f32; 4], Fp8Scale, &str); 5] = [
        (
            Tensor::f32("m.weight_scale", &[4, 1], &rows),
            rows,
            Fp8Scale::Row,
            "per row",
        ),
        (
            Tensor::bf16("m.weight_scale", &[4], &rows),
            rows,
            Fp8Scale::Row,
            "per row",
        ),
        (
            Tensor::f32("m.weight_scale", &[1], &[3.0]),
            [3.0; 4],
            Fp8Scale::Tensor,
            "per tensor",
        ),
        (
            Tensor::f32("m.weight_scale", &[], &[3.0]),
            [3.0; 4],
            Fp8Scale::Tensor,
            "per tensor",
        ),
        (
            Tensor::f32("m.weight_scale_inv", &[1, 1], &[3.0]),
            [3.0; 4],
            Fp8Scale::Block([128, 128]),
            "128x128",
        ),
    ];
    for (scale, expected, per, form) in cases {
        for (dtype, kind, value_of) in [
            ("F8_E4M3", "e4m3", fp8::e4m3 as fn(u8) -> f32),
            ("F8_E5M2", "e5m2", fp8::e5m2),
        ] {
            let tensors = [weight(dtype), scale.clone()];
            let (_folder, ckpt) = checkpoint(&json!({}), &tensors);
            let matrix = found(&ckpt, "m");
            assert!(matches!(matrix.stored(), Stored::Fp8(fp8) if fp8.per == per));
            assert_eq!(matrix.form(), format!("fp8 {kind} {form}"));
            let scaled = |(i, &code): (usize, &u8)| value_of(code) * expected[i / 3];
            let expected: Vec<f32> = codes.iter().enumerate().map(scaled).collect();
            assert_eq!(decode(&ckpt, &matrix), expected);
        }
    }
}

#[test]
fn block_sizes_come_from_either_kind_of_settings() {
    let weights = json!({"num_bits": 8, "block_structure": [2, 2]});
    let config = json!({"quantization_config": {
        "quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}
    }});
    let tensors = [
        Tensor::new("m.weight", "F8_E4M3", &[2, 4], vec![0x38; 8]),
        Tensor::f32("m.weight_scale", &[1, 2], &[2.0, 3.0]),
    ];
    let (_folder, ckpt) = checkpoint(&config, &tensors);
    let matrix = found(&ckpt, "m");
    assert_eq!(matrix.form(), "fp8 e4m3 2x2");
    assert_eq!(
        decode(&ckpt, &matrix),
        [2.0, 2.0, 3.0, 3.0, 2.0, 2.0, 3.0, 3.0]
    );
}

#[test]
fn packed_integers_stand_around_eight() {
    let codes: Vec<u8> = (0..3 * 64).map(|i| (i * 5 % 16) as u8).collect();
    let scales = [1.0, -2.0, 0.5, 4.0, 0.125, 3.0];
    let tensors = [
        Tensor::i32("m.weight_packed", &[3, 8], &nibbles(&codes)),
        Tensor::bf16("m.weight_scale", &[3, 2], &scales),
        Tensor::i64("m.weight_shape", &[2], &[3, 64]),
    ];
    let (_folder, ckpt) = checkpoint(&json!({}), &tensors);
    let matrix = found(&ckpt, "m");
    assert_eq!(matrix.shape(), [3, 64]);
    assert_eq!(matrix.form(), "int4 g32");
    assert_eq!(
        matrix.tensor_names(),
        ["m.weight_packed", "m.weight_scale", "m.weight_shape"]
    );
    let value = |(i, &q): (usize, &u8)| scales[i / 32] * (f32::from(q) - 8.0);
    let expected: Vec<f32> = codes.iter().enumerate().map(value).collect();
    assert_eq!(decode(&ckpt, &matrix), expected);
}

#[test]
fn packed_zero_points_run_down_the_rows() {
    // Two matrices of 10 rows, so that their zero points take two words each and the second starts anew.
    let (n, out, len, groups) = (2, 10, 20, 4);
    let codes: Vec<u8> = (0..n * out * len).map(|i| (i * 11 % 16) as u8).collect();
    let zeros: Vec<u8> = (0..n * out * groups)
        .map(|i| ((i * 3 + i / 16) % 16) as u8)
        .collect();
    let rows = codes.chunks(len).map(nibbles);
    let packed: Vec<u32> = rows.collect::<Vec<_>>().concat();
    let mut zero_words = vec![0; n * 2 * groups];
    for (i, zero) in zeros.iter().enumerate() {
        let (matrix, row, group) = (i / groups / out, i / groups % out, i % groups);
        zero_words[(matrix * 2 + row / 8) * groups + group] |= u32::from(*zero) << (row % 8 * 4);
    }
    let scales: Vec<f32> = (0..n * out * groups).map(|i| i as f32 - 30.0).collect();
    let tensors = [
        Tensor::i32("m.weight_packed", &[2, 10, 3], &packed),
        Tensor::f32("m.weight_scale", &[2, 10, 4], &scales),
        Tensor::i32("m.weight_zero_point", &[2, 2, 4], &zero_words),
        Tensor::i32("m.weight_shape", &[3], &[2, 10, 20]),
    ];
    let (_folder, ckpt) = checkpoint(&json!({}), &tensors);
    let matrix = found(&ckpt, "m");
    assert_eq!(matrix.shape(), [2, 10, 20]);
    assert_eq!(matrix.form(), "int4 g5 with zero points");
    assert_eq!(matrix.tensor_names().len(), 4);
    let values = decode(&ckpt, &matrix);
    for (i, value) in values.iter().enumerate() {
        let group = i / len * groups + i % len / 5;
        let expected = scales[group] * (f32::from(codes[i]) - f32::from(zeros[group]));
        assert_eq!(*value, expected, "element {i}");
    }
    let mut middle = Vec::new();
    matrix.rows(&ckpt, 9..13, &mut middle).expect("readable");
    assert_eq!(middle, &values[180..260]);
}

#[test]
fn packed_bytes_stand_around_128() {
    let tensors = [
        Tensor::i32("m.weight_packed", &[1, 2], &[0x8180_7f00, 0xff]),
        Tensor::f16("m.weight_scale", &[1, 1], &[2.0]),
        Tensor::i64("m.weight_shape", &[2], &[1, 5]),
    ];
    let (_folder, ckpt) = checkpoint(&json!({}), &tensors);
    let matrix = found(&ckpt, "m");
    assert_eq!(matrix.form(), "int8 g5");
    assert_eq!(decode(&ckpt, &matrix), [-256.0, -2.0, 0.0, 2.0, 254.0]);
}

#[test]
fn codes_unpack_as_a_stream_of_bits() {
    let stream: Vec<u8> = (0..24u32).map(|i| (i * 89 + 41) as u8).collect();
    for bits in 1..=8 {
        // All but one code: the last byte or word is used in part.
        let mut codes = vec![0; stream.len() * 8 / bits - 1];
        unpack(&stream, bits as u64, &mut codes);
        for (i, code) in codes.iter().enumerate() {
            let bit = |place: usize| u16::from(stream[place / 8]) >> (place % 8) & 1;
            let expected: u16 = (0..bits).map(|b| bit(i * bits + b) << b).sum();
            assert_eq!(u16::from(*code), expected, "{bits} bits, code {i}");
        }
    }
}

#[test]
fn batches_cover_the_rows_once() {
    for (rows, row_bytes) in [
        (0..10, BATCH_BYTES),
        (3..10, BATCH_BYTES / 3),
        (0..5, 1),
        (2..2, 1),
        (7..9, u64::MAX),
    ] {
        let mut next = rows.start;
        for batch in batches(rows.clone(), row_bytes) {
            assert_eq!(batch.start, next);
            let n = batch.end - batch.start;
            assert!(n == 1 || (n > 1 && n * row_bytes <= BATCH_BYTES));
            next = batch.end;
        }
        assert_eq!(next, rows.end);
    }
}

#[test]
fn tensors_larger_than_a_batch_are_whole() {
    let n = BATCH_BYTES / 2 + 1000;
    let bytes: Vec<u8> = (0..n)
        .flat_map(|i| f16::from_f32((i % 2039) as f32).to_le_bytes())
        .collect();
    let tensor = Tensor::new("a", "F16", &[n], bytes);
    let (_folder, ckpt) = checkpoint(&json!({}), &[tensor]);
    let values = super::all_rows(&ckpt, &found(&ckpt, "a")).expect("readable");
    assert_eq!(values.len() as u64, n);
    assert!(
        values
            .iter()
            .zip(0u64..)
            .all(|(v, i)| *v == (i % 2039) as f32)
    );
}
