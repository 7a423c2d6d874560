use half::f16;

use super::*;

fn sample() -> PlaneLayout {
    PlaneLayout {
        seed: 42,
        codebooks: [(128, [-0.125, -0.0625, 0.0625, 0.125])].into(),
        tensors: ["a.weight", "b.weight"].map(str::to_owned).into(),
    }
}

/// The worked example of the specification.
#[test]
fn a_row_is_two_planes_of_blocks() {
    let levels = Levels::from_codebook(&sample().codebooks[&128]).unwrap();
    let codes: Vec<u8> = (0..256).map(|i| i as u8 % 4).collect();
    let mut bytes = vec![0; row_bytes(256)];
    // Codes 0 1 2 3, the first in the lowest bits.
    let packed = [0b1110_0100; 64];
    encode_row(&packed, f16::from_f32(2.0), &levels, &mut bytes).unwrap();
    // 0.1875 and 0.0625 in F16; codes 0 1 2 3 have the high bits 0 0 1 1 and the low bits 0 1 0 1, lowest bit first.
    let plane = |scale: u16, byte: u8| [&scale.to_le_bytes()[..], &[byte; 16]].concat().repeat(2);
    assert_eq!(
        bytes,
        [plane(0x3200, 0b1100_1100), plane(0x2c00, 0b1010_1010)].concat()
    );
    // ggml reads it as the same sum.
    let mut values = Vec::new();
    crate::ggml::dequantize(GgmlType::Q1_0, &bytes, 512, &mut values).unwrap();
    for (i, code) in codes.iter().enumerate() {
        let expected = 2.0 * sample().codebooks[&128][usize::from(*code)];
        assert_eq!(values[i] + values[256 + i], expected, "weight {i}");
    }
}

#[test]
fn a_declaration_reads_back_and_none_is_none() {
    let mut metadata = Metadata::new();
    metadata.insert("general.name", "x");
    assert_eq!(PlaneLayout::read(&metadata).unwrap(), None);
    sample().write(&mut metadata);
    assert_eq!(PlaneLayout::read(&metadata).unwrap(), Some(sample()));
    metadata.remove("planes.seed");
    metadata.remove("planes.codebook.128");
    let lean = PlaneLayout::read(&metadata).unwrap().unwrap();
    assert_eq!((lean.seed, lean.codebooks.len()), (0, 0));
    assert!(lean.contains("a.weight") && !lean.contains("c.weight"));
}

#[test]
fn declarations_that_cannot_be_followed_are_named() {
    type Change = fn(&mut Metadata);
    let cases: [(&str, Change, &str); 10] = [
        (
            "no version",
            |m| drop(m.remove(VERSION_KEY)),
            "planes.version",
        ),
        (
            "a later version",
            |m| drop(m.insert(VERSION_KEY, 2u32)),
            "planes.version: expected 1, found 2",
        ),
        (
            "no rotation",
            |m| drop(m.remove(ROTATION_KEY)),
            "planes.rotation",
        ),
        (
            "another rotation",
            |m| drop(m.insert(ROTATION_KEY, "dct")),
            "expected `hadamard`, found `dct`",
        ),
        ("no list", |m| drop(m.remove(TENSORS_KEY)), "planes.tensors"),
        (
            "a list of numbers",
            |m| drop(m.insert(TENSORS_KEY, vec![1u32])),
            "planes.tensors",
        ),
        (
            "a name twice",
            |m| drop(m.insert(TENSORS_KEY, vec!["a", "a"])),
            "listed twice",
        ),
        (
            "a short codebook",
            |m| drop(m.insert("planes.codebook.128", vec![1f32])),
            "planes.codebook.128",
        ),
        (
            "a lopsided codebook",
            |m| drop(m.insert("planes.codebook.128", vec![-2f32, -1., 1., 3.])),
            "-b, -a, a, b",
        ),
        (
            "a codebook for no length",
            |m| drop(m.insert("planes.codebook.x", vec![0f32; 4])),
            "planes.codebook.x",
        ),
    ];
    for (name, change, phrase) in cases {
        let mut metadata = Metadata::new();
        sample().write(&mut metadata);
        change(&mut metadata);
        let error = PlaneLayout::read(&metadata).expect_err(name);
        assert!(
            error.to_string().contains(phrase),
            "{name}: no `{phrase}` in `{error}`"
        );
        assert!(error.hint().is_some(), "{name}");
    }
}

#[test]
fn row_lengths_are_powers_of_two_in_whole_blocks() {
    let good: Vec<u64> = (0..70_000).filter(|&n| is_width(n)).collect();
    assert_eq!(
        good,
        [128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
    );
}
