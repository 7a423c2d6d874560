//! Rows of planes against their definition.

use super::*;

/// The best levels of a normal variable in two bits, as rows of `n` weights have them.
fn codebook(n: usize) -> Codebook {
    let deviation = 1.0 / (n as f32).sqrt();
    [-1.5104, -0.4528, 0.4528, 1.5104].map(|level: f32| level * deviation)
}

fn levels(n: usize) -> Levels {
    Levels::from_codebook(&codebook(n)).unwrap()
}

fn codes_of(packed: &[u8]) -> Vec<u8> {
    let code = |byte: u8| (0..4).map(move |i| byte >> (2 * i) & 3);
    packed.iter().flat_map(|&byte| code(byte)).collect()
}

fn packed(n: usize) -> Vec<u8> {
    (0..n as u32 / 4)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// `Q1_0` after ggml's definition: a set bit is plus the scale, a clear one minus.
fn q1_0(row: &[u8]) -> Vec<f32> {
    let mut weights = Vec::new();
    for block in row.chunks(18) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for i in 0..128 {
            let set = block[2 + i / 8] >> (i % 8) & 1 == 1;
            weights.push(if set { scale } else { -scale });
        }
    }
    weights
}

#[test]
fn the_planes_add_up_to_the_levels() {
    for n in [128, 256, 1024, 1536] {
        let packed = packed(n);
        let codes = codes_of(&packed);
        assert!((0..4).all(|code| codes.contains(&code)));
        let mut row = vec![0xee; row_bytes(n)];
        encode_row(&packed, f16::from_f32(1.3), &levels(n), &mut row).unwrap();
        let planes = q1_0(&row);
        let found = decode_row(&row).unwrap();
        assert_eq!(found.codes, codes);
        let values = found.scales.levels();
        for (i, &code) in codes.iter().enumerate() {
            assert_eq!(
                planes[i] + planes[n + i],
                values[usize::from(code)],
                "weight {i} of {n}"
            );
        }
    }
}

/// What f16 scales cost a level and a row of the usual mix of levels, at worst: a relative error each.
const WORST_LEVEL: f64 = 1.5e-3;
const WORST_ROW: f64 = 5.1e-4;

#[test]
fn scales_are_the_best_pair_and_stay_close() {
    for n in [128, 1024, 4096] {
        let book = codebook(n).map(f64::from);
        let (a, b) = (book[2], book[3]);
        let levels = levels(n);
        let small = n * 673 / 1000;
        let (inner, outer) = (small as f64, (n - small) as f64);
        for mantissa in 0..1024 {
            let norm = f16::from_bits(0x3c00 + mantissa);
            let exact = f64::from(norm.to_f32());
            let cost = |scales: Scales| {
                let found = scales.levels().map(f64::from);
                let errors = (found[2] - exact * a, found[3] - exact * b);
                inner * errors.0.powi(2) + outer * errors.1.powi(2)
            };
            let scales = levels.scales(norm, small, n).unwrap();
            let chosen = cost(scales);
            let around = |scale: f16| {
                (-4..=4).map(move |step| f16::from_bits(scale.to_bits().wrapping_add_signed(step)))
            };
            for sign in around(scales.sign) {
                for size in around(scales.size) {
                    assert!(
                        chosen <= cost(Scales { sign, size }) * (1.0 + 1e-9),
                        "{n} {norm}"
                    );
                }
            }
            let size = exact * exact * (inner * a * a + outer * b * b);
            assert!((chosen / size).sqrt() < WORST_ROW, "{n} {norm}");
            let found = scales.levels().map(f64::from);
            for (found, level) in [(found[2], a), (found[3], b)] {
                assert!(
                    (found / exact / level - 1.0).abs() < WORST_LEVEL,
                    "{n} {norm}"
                );
            }
        }
    }
}

#[test]
fn extreme_norms_stay_in_range() {
    let levels = levels(4096);
    // Steps of the smallest f16 numbers bound the error where scales become subnormal.
    let step = f64::from(f16::MIN_POSITIVE_SUBNORMAL.to_f32());
    for norm in [
        f16::MIN_POSITIVE_SUBNORMAL,
        f16::MIN_POSITIVE,
        f16::from_f32(0.001),
    ] {
        let scales = levels.scales(norm, 2700, 4096).unwrap();
        let exact = f64::from(norm.to_f32());
        assert!((f64::from(scales.sign.to_f32()) - exact * levels.sign).abs() <= step);
        assert!((f64::from(scales.size.to_f32()) - exact * levels.size).abs() <= step);
    }
    let scales = levels.scales(f16::MAX, 2700, 4096).unwrap();
    assert!(scales.sign.is_finite() && scales.size.is_finite());
    for norm in [f16::ZERO, f16::NEG_ZERO] {
        let scales = levels.scales(norm, 2700, 4096).unwrap();
        assert_eq!((scales.sign.to_bits(), scales.size.to_bits()), (0, 0));
    }
    for norm in [
        f16::NAN,
        f16::INFINITY,
        f16::NEG_INFINITY,
        f16::from_f32(-1.0),
    ] {
        let error = levels.scales(norm, 2700, 4096).unwrap_err();
        assert!(matches!(error, RowError::Norm { .. }));
    }
    let wide = Levels::from_codebook(&[-2.0, -1.0, 1.0, 2.0]).unwrap();
    let error = wide.scales(f16::MAX, 64, 128).unwrap_err();
    assert!(matches!(error, RowError::ScaleRange { .. }));
}

#[test]
fn other_codebooks_are_refused() {
    for book in [
        vec![],
        vec![-1.0, 1.0],
        vec![-2.0, -1.0, 1.0, 2.0, 3.0],
        vec![-2.0, -1.0, 1.0, 2.000_000_2],
        vec![-2.0, -1.0, 1.000_000_1, 2.0],
        vec![-1.0, -1.0, 1.0, 1.0],
        vec![-1.0, -2.0, 2.0, 1.0],
        vec![-2.0, 0.0, 0.0, 2.0],
        vec![f32::NEG_INFINITY, -1.0, 1.0, f32::INFINITY],
        vec![f32::NAN; 4],
    ] {
        assert!(Levels::from_codebook(&book).is_err(), "{book:?}");
    }
}

#[test]
fn damaged_rows_are_refused() {
    let n = 256;
    let mut row = vec![0; row_bytes(n)];
    let error = encode_row(&packed(n)[1..], f16::ONE, &levels(n), &mut row).unwrap_err();
    assert_eq!(
        error,
        RowError::Blocks {
            block: 128,
            found: 252
        }
    );
    let error = encode_row(&packed(n), f16::ONE, &levels(n), &mut row[1..]).unwrap_err();
    assert_eq!(
        error,
        RowError::Bytes {
            expected: 72,
            found: 71
        }
    );
    encode_row(&packed(n), f16::ONE, &levels(n), &mut row).unwrap();
    for length in [0, 1, 35, 54, 71] {
        assert!(decode_row(&row[..length]).is_err(), "{length}");
    }
    row[3 * BLOCK_BYTES] ^= 1;
    let error = decode_row(&row).unwrap_err();
    assert!(matches!(error, RowError::Scale { block: 3, .. }), "{error}");
}
