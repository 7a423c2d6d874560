//! Matrices that are refused, with the tensor and both values.

#![forbid(unsafe_code)]

use std::fs;

use serde_json::{Value, json};

use crate::import::source::SourceError;
use crate::import::source::testing::{Tensor, assert_says};

use super::{all_rows, checkpoint, find, found, mlx};

/// What is wrong, the settings, the tensors of module `m`, and what the message must say.
type Broken = (&'static str, Value, Vec<Tensor>, &'static [&'static str]);

/// A sound affine matrix of 1 x 32 in 8 bits.
fn affine() -> Vec<Tensor> {
    vec![
        Tensor::u32("m.weight", &[1, 8], &[0x0403_0201; 8]),
        Tensor::f16("m.scales", &[1, 1], &[0.5]),
        Tensor::f16("m.biases", &[1, 1], &[-1.0]),
    ]
}

/// A sound FP8 matrix of 2 x 3.
fn fp8() -> Vec<Tensor> {
    vec![
        Tensor::new("m.weight", "F8_E4M3", &[2, 3], vec![0x38; 6]),
        Tensor::f32("m.weight_scale_inv", &[1, 1], &[0.5]),
    ]
}

/// A sound packed matrix of 1 x 64.
fn packed() -> Vec<Tensor> {
    vec![
        Tensor::i32("m.weight_packed", &[1, 8], &[0x7654_3210; 8]),
        Tensor::bf16("m.weight_scale", &[1, 2], &[1.0, 2.0]),
        Tensor::i64("m.weight_shape", &[2], &[1, 64]),
    ]
}

/// Without the tensor of that name.
fn without(tensors: Vec<Tensor>, name: &str) -> Vec<Tensor> {
    let n = tensors.len();
    let rest: Vec<Tensor> = tensors.into_iter().filter(|t| t.name != name).collect();
    assert_eq!(rest.len(), n - 1, "{name}");
    rest
}

/// With another tensor, in place of the one of its name if there is one.
fn with(tensors: Vec<Tensor>, tensor: Tensor) -> Vec<Tensor> {
    let rest = tensors.into_iter().filter(|t| t.name != tensor.name);
    rest.chain([tensor.clone()]).collect()
}

fn broken_affine() -> Vec<Broken> {
    let spec = |entry: Value| json!({"quantization": entry});
    vec![
        (
            "no scales",
            mlx(8),
            without(affine(), "m.scales"),
            &["tensor `m.weight`", "expected `m.scales`"],
        ),
        (
            "no biases",
            mlx(8),
            without(affine(), "m.biases"),
            &["tensor `m.weight`", "expected `m.biases`"],
        ),
        (
            "no weight",
            mlx(8),
            without(affine(), "m.weight"),
            &["tensor `m.scales`", "expected `m.weight`"],
        ),
        (
            "other bits than the settings say",
            mlx(4),
            affine(),
            &[
                "tensor `m.weight`: shape",
                "1 groups of 32 codes of 4 bits",
                "[1, 8], which gives 8 bits",
            ],
        ),
        (
            "bits that MLX does not have",
            spec(json!({"group_size": 32})),
            with(affine(), Tensor::u32("m.weight", &[1, 7], &[0; 7])),
            &[
                "tensor `m.weight`: shape",
                "2, 3, 4, 5, 6 or 8 bits",
                "gives 7 bits",
            ],
        ),
        (
            "rows that are not whole groups",
            spec(json!({"group_size": 48})),
            affine(),
            &["tensor `m.weight`: shape", "1 groups of 48", "found [1, 8]"],
        ),
        (
            "scales of other rows",
            mlx(8),
            with(
                with(affine(), Tensor::f16("m.scales", &[2, 1], &[1.0; 2])),
                Tensor::f16("m.biases", &[2, 1], &[1.0; 2]),
            ),
            &[
                "tensor `m.scales`: shape",
                "expected [1, 1]",
                "found [2, 1]",
            ],
        ),
        (
            "biases of another shape",
            mlx(8),
            with(affine(), Tensor::f16("m.biases", &[1], &[1.0])),
            &["tensor `m.biases`: shape", "expected [1, 1]", "found [1]"],
        ),
        (
            "scales of another type",
            mlx(8),
            with(affine(), Tensor::new("m.scales", "U8", &[1, 1], vec![7])),
            &["tensor `m.scales`: dtype", "F16 or BF16 or F32", "found U8"],
        ),
        (
            "weights of another type",
            mlx(8),
            with(affine(), Tensor::f32("m.weight", &[1, 8], &[0.0; 8])),
            &["tensor `m.weight`: dtype", "U32 or I32", "found F32"],
        ),
    ]
}

fn broken_settings() -> Vec<Broken> {
    let spec = |entry: Value| json!({"quantization": entry});
    vec![
        (
            "another mode",
            spec(json!({"group_size": 32, "bits": 4, "m": {"group_size": 32, "mode": "mxfp4"}})),
            affine(),
            &["tensor `m.weight`: form", "found MLX mode `mxfp4`"],
        ),
        (
            "no settings",
            json!({}),
            affine(),
            &[
                "config.json",
                "`quantization.group_size`",
                "m.weight",
                "found nothing",
            ],
        ),
        (
            "groups of nothing",
            spec(json!({"group_size": 0})),
            affine(),
            &[
                "config.json",
                "`quantization.group_size`",
                "a positive number",
                "found 0",
            ],
        ),
        (
            "bits that are no number",
            spec(json!({"group_size": 32, "m": {"bits": "8"}})),
            affine(),
            &[
                "config.json",
                "`quantization.m.bits`",
                "a positive number",
                "found \"8\"",
            ],
        ),
    ]
}

fn broken_fp8() -> Vec<Broken> {
    let block = |size: Value| json!({"quantization_config": {"weight_block_size": size}});
    vec![
        (
            "no scale",
            json!({}),
            without(fp8(), "m.weight_scale_inv"),
            &["tensor `m.weight`", "expected `m.weight_scale_inv`"],
        ),
        (
            "scales of another shape",
            block(json!([1, 2])),
            with(fp8(), Tensor::f32("m.weight_scale_inv", &[3, 2], &[1.0; 6])),
            &[
                "tensor `m.weight_scale_inv`: shape",
                "[2, 2] (blocks of 1 x 2)",
                "found [3, 2]",
            ],
        ),
        (
            "a scale of another type",
            json!({}),
            with(
                fp8(),
                Tensor::new("m.weight_scale_inv", "U8", &[1, 1], vec![1]),
            ),
            &["tensor `m.weight_scale_inv`: dtype", "found U8"],
        ),
        (
            "weights of another type",
            json!({}),
            with(fp8(), Tensor::bf16("m.weight", &[2, 3], &[1.0; 6])),
            &["tensor `m.weight`: dtype", "F8_E4M3", "found BF16"],
        ),
        (
            "a vector",
            json!({}),
            with(fp8(), Tensor::new("m.weight", "F8_E4M3", &[6], vec![0; 6])),
            &["tensor `m.weight`: shape", "a matrix", "found [6]"],
        ),
        (
            "a block of one number",
            block(json!(128)),
            fp8(),
            &[
                "`quantization_config.weight_block_size`",
                "two positive",
                "found 128",
            ],
        ),
        (
            "a block of nothing",
            block(json!([128, 0])),
            fp8(),
            &["`quantization_config.weight_block_size`", "found 0"],
        ),
    ]
}

fn broken_packed() -> Vec<Broken> {
    let none = || json!({});
    vec![
        (
            "no shape",
            none(),
            without(packed(), "m.weight_shape"),
            &["tensor `m.weight_packed`", "expected `m.weight_shape`"],
        ),
        (
            "no scale",
            none(),
            without(packed(), "m.weight_scale"),
            &["tensor `m.weight_packed`", "expected `m.weight_scale`"],
        ),
        (
            "groups in another order",
            none(),
            with(packed(), Tensor::i32("m.weight_g_idx", &[64], &[0; 64])),
            &["tensor `m.weight_g_idx`: form", "groups in another order"],
        ),
    ]
}

fn broken_packed_shapes() -> Vec<Broken> {
    let shape = |values: [i64; 2]| with(packed(), Tensor::i64("m.weight_shape", &[2], &values));
    let none = || json!({});
    vec![
        (
            "longer rows",
            none(),
            shape([1, 65]),
            &[
                "tensor `m.weight_packed`: shape",
                "rows of 65 codes",
                "found [1, 8]",
            ],
        ),
        (
            "other rows",
            none(),
            shape([2, 64]),
            &["tensor `m.weight_shape`: values", "[1, 8]", "found [2, 64]"],
        ),
        (
            "negative rows",
            none(),
            shape([1, -64]),
            &["tensor `m.weight_shape`: values", "found [1, -64]"],
        ),
        (
            "endless rows",
            none(),
            shape([1, i64::MAX]),
            &[
                "tensor `m.weight_packed`: shape",
                "rows of 9223372036854775807",
            ],
        ),
        (
            "three numbers of shape",
            none(),
            with(packed(), Tensor::i64("m.weight_shape", &[3], &[1, 1, 64])),
            &[
                "tensor `m.weight_shape`: shape",
                "expected [2]",
                "found [3]",
            ],
        ),
        (
            "groups that do not divide rows",
            none(),
            with(packed(), Tensor::bf16("m.weight_scale", &[1, 3], &[1.0; 3])),
            &[
                "tensor `m.weight_scale`: shape",
                "divides rows of 64",
                "found 3",
            ],
        ),
        (
            "zero points of another shape",
            none(),
            with(packed(), Tensor::i32("m.weight_zero_point", &[1, 1], &[0])),
            &[
                "tensor `m.weight_zero_point`: shape",
                "expected [1, 2]",
                "found [1, 1]",
            ],
        ),
    ]
}

fn broken_forms() -> Vec<Broken> {
    let none = || json!({});
    vec![
        (
            "two forms at once",
            none(),
            with(packed(), Tensor::bf16("m.weight", &[1], &[0.0])),
            &[
                "tensor `m.weight_packed`: parts",
                "one form",
                "`m.weight` beside it",
            ],
        ),
        (
            "GPTQ",
            none(),
            vec![Tensor::i32("m.qweight", &[1, 1], &[0])],
            &["tensor `m.qweight`: form", "GPTQ or AWQ"],
        ),
    ]
}

#[test]
fn broken_matrices_are_refused() {
    for module in [affine(), fp8(), packed()] {
        let (_folder, ckpt) = checkpoint(&mlx(8), &module);
        found(&ckpt, "m");
    }
    let cases = [
        broken_affine(),
        broken_settings(),
        broken_fp8(),
        broken_packed(),
        broken_packed_shapes(),
        broken_forms(),
    ];
    for (case, config, tensors, parts) in cases.into_iter().flatten() {
        let (_folder, ckpt) = checkpoint(&config, &tensors);
        let error = find(&ckpt, "m").expect_err(case);
        assert_says(case, &error, parts);
    }
}

/// Weights that are no numbers.
fn bad_weights() -> Vec<Broken> {
    let inf = f32::INFINITY;
    let zeros = Tensor::bf16("m.weight", &[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, f32::NAN]);
    vec![
        (
            "NaN",
            json!({}),
            vec![zeros],
            &[
                "model.safetensors",
                "tensor `m.weight`: row 2, column 1",
                "found NaN",
            ],
        ),
        (
            "infinity in f16",
            json!({}),
            vec![Tensor::f16("m.weight", &[3], &[1.0, -inf, 0.0])],
            &["tensor `m.weight`: row 0, column 1", "found -inf"],
        ),
        (
            "an f64 past f32",
            json!({}),
            vec![Tensor::new(
                "m",
                "F64",
                &[1],
                1e300f64.to_le_bytes().to_vec(),
            )],
            &["tensor `m`: row 0, column 0", "found inf"],
        ),
        (
            "an integer past f32",
            json!({}),
            vec![Tensor::i64("m", &[2, 2], &[1, 2, 3, 16_777_217])],
            &["tensor `m`: row 1, column 1", "found 16777217"],
        ),
    ]
}

/// Scales and offsets that are no numbers, and products.
fn bad_factors() -> Vec<Broken> {
    let inf = f32::INFINITY;
    let mut nan_code = fp8();
    nan_code[0].bytes[4] = 0xff;
    vec![
        (
            "an infinite scale",
            mlx(8),
            with(affine(), Tensor::f16("m.scales", &[1, 1], &[inf])),
            &["tensor `m.scales`: row 0, column 0", "found inf"],
        ),
        (
            "an offset that is NaN",
            mlx(8),
            with(affine(), Tensor::f16("m.biases", &[1, 1], &[f32::NAN])),
            &["tensor `m.biases`: row 0, column 0", "found NaN"],
        ),
        (
            "a product past f32",
            mlx(8),
            with(affine(), Tensor::f32("m.scales", &[1, 1], &[3e38])),
            &["tensor `m.weight`: row 0, column 1", "found inf"],
        ),
        (
            "an FP8 NaN",
            json!({}),
            nan_code,
            &["tensor `m.weight`: row 1, column 1", "found NaN"],
        ),
        (
            "an FP8 scale that is NaN",
            json!({}),
            with(
                fp8(),
                Tensor::f32("m.weight_scale_inv", &[1, 1], &[f32::NAN]),
            ),
            &["tensor `m.weight_scale_inv`: row 0, column 0", "found NaN"],
        ),
        (
            "an infinite scale of a group",
            json!({}),
            with(
                packed(),
                Tensor::bf16("m.weight_scale", &[1, 2], &[1.0, inf]),
            ),
            &["tensor `m.weight_scale`: row 0, column 1", "found inf"],
        ),
    ]
}

#[test]
fn values_that_are_no_numbers_are_refused() {
    for (case, config, tensors, parts) in bad_weights().into_iter().chain(bad_factors()) {
        let (_folder, ckpt) = checkpoint(&config, &tensors);
        let error = all_rows(&ckpt, &found(&ckpt, "m")).expect_err(case);
        assert_says(case, &error, parts);
    }
}

#[test]
fn rows_past_the_last_are_refused() {
    for (config, tensors) in [
        (mlx(8), affine()),
        (json!({}), fp8()),
        (json!({}), packed()),
    ] {
        let (_folder, ckpt) = checkpoint(&config, &tensors);
        let matrix = found(&ckpt, "m");
        let last = matrix.n_rows();
        for (start, end) in [
            (0, last + 1),
            (last + 1, last + 1),
            (last, 0),
            (0, u64::MAX),
        ] {
            let error = matrix.rows(&ckpt, start..end, &mut Vec::new());
            let [expected, found] = [
                format!("its {last} rows"),
                format!("found {start} to {end}"),
            ];
            assert_says("rows", &error.expect_err("refused"), &[&expected, &found]);
        }
        matrix
            .rows(&ckpt, last..last, &mut Vec::new())
            .expect("no rows");
    }
}

#[test]
fn a_matrix_that_is_cut_while_it_is_read_is_an_error() {
    for (config, tensors) in [
        (mlx(8), affine()),
        (json!({}), fp8()),
        (json!({}), packed()),
    ] {
        let (folder, ckpt) = checkpoint(&config, &tensors);
        let matrix = found(&ckpt, "m");
        all_rows(&ckpt, &matrix).expect("readable");
        let path = folder.join("model.safetensors");
        let file = fs::OpenOptions::new().write(true).open(path).expect("open");
        file.set_len(20).expect("cut");
        let error = all_rows(&ckpt, &matrix).expect_err("cut");
        assert!(matches!(error, SourceError::ShardSize { found: 20, .. }));
        assert_says("cut", &error, &["model.safetensors", "found 20"]);
    }
}

#[test]
fn a_bad_value_is_named_by_its_row_in_the_tensor() {
    let bad = Tensor::bf16(
        "m",
        &[2, 2, 2],
        &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN],
    );
    let (_folder, ckpt) = checkpoint(&json!({}), &[bad]);
    let error = found(&ckpt, "m").rows(&ckpt, 2..4, &mut Vec::new());
    let parts = ["tensor `m`: row 3, column 1", "found NaN"];
    assert_says("row", &error.expect_err("refused"), &parts);
}
