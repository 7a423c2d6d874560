//! Planes by the letter of `docs/gguf-planes.md`, in f64; shares no code with the library.

use half::f16;

/// Bytes of a block of 128 weights of one plane.
const BLOCK_BYTES: usize = 18;

/// Pseudo-random signs.
pub fn signs(width: usize) -> Vec<f32> {
    let mut state = width as u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        if state >> 63 == 1 { 1.0 } else { -1.0 }
    };
    (0..width).map(|_| next()).collect()
}

/// The orthonormal Hadamard transform in natural order.
pub fn hadamard(x: &mut [f64]) {
    let n = x.len();
    let mut half = 1;
    while half < n {
        for start in (0..n).step_by(2 * half) {
            for i in start..start + half {
                (x[i], x[i + half]) = (x[i] + x[i + half], x[i] - x[i + half]);
            }
        }
        half *= 2;
    }
    x.iter_mut().for_each(|v| *v /= (n as f64).sqrt());
}

/// `H (signs * x)`.
fn rotate(x: &[f64], signs: &[f32]) -> Vec<f64> {
    let mut y: Vec<f64> = x
        .iter()
        .zip(signs)
        .map(|(x, &s)| x * f64::from(s))
        .collect();
    hadamard(&mut y);
    y
}

/// Encodes rows of `width` weights.
pub fn encode(weights: &[f32], width: usize) -> Vec<u8> {
    let signs = signs(width);
    // Levels of a normal variable in two bits.
    let (a, b) = (
        0.4528 / (width as f64).sqrt(),
        1.5104 / (width as f64).sqrt(),
    );
    let mut bytes = Vec::new();
    for row in weights.chunks(width) {
        let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        let row = rotate(&row, &signs);
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        let middle = (a + b) / 2.0;
        let high = |v: f64| v >= 0.0;
        let low =
            |v: f64| (v / norm).abs() > middle && v >= 0.0 || (v / norm).abs() <= middle && v < 0.0;
        for (level, bit) in [
            ((a + b) / 2.0, &high as &dyn Fn(f64) -> bool),
            ((b - a) / 2.0, &low),
        ] {
            for block in row.chunks(128) {
                bytes.extend(f16::from_f64(norm * level).to_le_bytes());
                bytes.extend(block.chunks(8).map(|values| {
                    let set = |(i, v): (usize, &f64)| u8::from(bit(*v)) << i;
                    values.iter().enumerate().map(set).sum::<u8>()
                }));
            }
        }
    }
    bytes
}

/// A row's weights before the rotation is taken back.
fn rotated_row(bytes: &[u8], width: usize) -> Vec<f64> {
    let value = |element: usize| {
        let block = &bytes[element / 128 * BLOCK_BYTES..][..BLOCK_BYTES];
        let scale = f64::from(f16::from_le_bytes([block[0], block[1]]));
        let bit = block[2 + element % 128 / 8] >> (element % 8) & 1;
        if bit == 1 { scale } else { -scale }
    };
    (0..width).map(|i| value(i) + value(width + i)).collect()
}

fn rows(bytes: &[u8], width: usize) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(2 * width / 128 * BLOCK_BYTES)
}

/// The weights of all rows.
pub fn decode(bytes: &[u8], width: usize) -> Vec<f32> {
    let signs = signs(width);
    let weights = |row: &[u8]| {
        let mut row = rotated_row(row, width);
        hadamard(&mut row);
        let signed = row
            .iter()
            .zip(&signs)
            .map(|(v, &s)| (v * f64::from(s)) as f32);
        signed.collect::<Vec<_>>()
    };
    rows(bytes, width).flat_map(weights).collect()
}

/// The product of expert `expert` with `x`, inputs rounded to 8 bits in blocks of 32 as the CPU does.
pub fn product(bytes: &[u8], expert: usize, x: &[f64], n_out: usize) -> Vec<f64> {
    let width = x.len();
    let mut rounded = rotate(x, &signs(width));
    for block in rounded.chunks_mut(32) {
        let largest = block.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let scale = f64::from(f16::from_f64(largest / 127.0));
        block
            .iter_mut()
            .for_each(|v| *v = (*v * inverse).round_ties_even() * scale);
    }
    let dot = |row: &[u8]| {
        let row = rotated_row(row, width);
        row.iter().zip(&rounded).map(|(w, x)| w * x).sum()
    };
    rows(bytes, width)
        .skip(expert * n_out)
        .take(n_out)
        .map(dot)
        .collect()
}
