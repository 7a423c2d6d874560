//! The codec against jang's own, number by number. `tests/data/make_mxtq.py` writes what is compared with.

use std::path::Path;

use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::{Bits, Codec, codebook, signs};
use crate::ggml::{DType, dequantize};
use crate::planes::{Levels, decode_row, encode_row, row_bytes};

const ROW_SEED: u64 = 42;

fn file() -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read(folder.join("tests/data/mxtq/goldens.safetensors")).unwrap()
}

/// The data of every tensor called `{kind}.{first}.{second}{part}`, with the two numbers.
fn entries<'a>(file: &SafeTensors<'a>, kind: &str, part: &str) -> Vec<(u64, u64, &'a [u8])> {
    let numbers = |name: &str| {
        let inner = name.strip_prefix(kind)?.strip_prefix('.')?;
        let (first, second) = inner.strip_suffix(part)?.split_once('.')?;
        Some((first.parse().ok()?, second.parse().ok()?))
    };
    let entry = |(name, view): (String, TensorView<'a>)| {
        let (first, second) = numbers(&name)?;
        Some((first, second, view.data()))
    };
    file.tensors().into_iter().filter_map(entry).collect()
}

fn bits_of(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

fn f32_bits(bytes: &[u8]) -> Vec<u32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word))
        .collect()
}

#[test]
fn codebooks_are_jangs_to_the_last_bit() {
    let file = file();
    let books = entries(&SafeTensors::deserialize(&file).unwrap(), "codebook", "");
    assert_eq!(books.len(), 9 * 5);
    for (n, width, expected) in books {
        let found = codebook(n as usize, Bits::new(width).unwrap());
        assert_eq!(
            bits_of(&found),
            f32_bits(expected),
            "{n} weights, {width} bits"
        );
    }
}

#[test]
fn two_bit_codebooks_have_two_magnitudes() {
    for n in (128..=4096).step_by(128) {
        let book = codebook(n, Bits::new(2).unwrap());
        Levels::from_codebook(&book).unwrap();
    }
}

#[test]
fn signs_are_numpys() {
    let file = file();
    let lists = entries(&SafeTensors::deserialize(&file).unwrap(), "signs", "");
    assert_eq!(lists.len(), 4);
    for (n, seed, expected) in lists {
        assert_eq!(
            bits_of(&signs(n as usize, seed)),
            f32_bits(expected),
            "seed {seed}"
        );
    }
}

#[test]
fn rows_decode_to_jangs_to_the_last_bit() {
    let file = file();
    let file = SafeTensors::deserialize(&file).unwrap();
    let rows = entries(&file, "row", ".decoded");
    assert_eq!(rows.len(), 3 * 3);
    for (n, width, expected) in rows {
        let part = |part: &str| {
            file.tensor(&format!("row.{n}.{width}.{part}"))
                .unwrap()
                .data()
        };
        let norm = f16::from_le_bytes(part("norm").try_into().unwrap());
        let codec = Codec::new(n as usize, Bits::new(width).unwrap(), ROW_SEED);
        let mut found = vec![0.0; codec.row_len()];
        codec.decode_row(part("packed"), norm, &mut found).unwrap();
        assert_eq!(
            bits_of(&found),
            f32_bits(expected),
            "{n} weights, {width} bits"
        );
    }
}

#[test]
fn ggml_reads_the_planes_as_the_levels() {
    let file = file();
    let file = SafeTensors::deserialize(&file).unwrap();
    for (n, width, packed) in entries(&file, "row", ".packed") {
        if width != 2 {
            continue;
        }
        let n = n as usize;
        let book = codebook(n, Bits::new(2).unwrap());
        let mut row = vec![0; row_bytes(n)];
        let levels = Levels::from_codebook(&book).unwrap();
        encode_row(packed, f16::from_f32(0.7), &levels, &mut row).unwrap();
        let mut weights = Vec::new();
        dequantize(DType::Q1_0, &row, 2 * n as u64, &mut weights).unwrap();
        let (signs, sizes) = weights.split_at(n);
        let found = decode_row(&row).unwrap();
        let values = found.scales.levels();
        for (i, (sign, size)) in signs.iter().zip(sizes).enumerate() {
            assert_eq!(
                sign + size,
                values[usize::from(found.codes[i])],
                "weight {i} of {n}"
            );
        }
    }
}
