//! Activations: quantisation, rotation and the gate of a feed-forward. Plain loops, which each machine's module compiles for
//! its own registers.

use super::activation::Order;
use super::{Layout, RECORD_WEIGHTS, Record};

/// Fills records from numbers.
#[inline(always)]
pub fn fill_records(order: Order, layout: Layout, x: &[f32], out: &mut [Record]) {
    for (x, out) in x.chunks(RECORD_WEIGHTS).zip(out) {
        // Constants, so that each loop is compiled for what it does.
        match (layout, order) {
            (Layout::Blocks, _) => out.fill(Layout::Blocks, order, x),
            (Layout::Whole, Order::Straight) => out.fill(Layout::Whole, Order::Straight, x),
            (Layout::Whole, Order::ByBit) => out.fill(Layout::Whole, Order::ByBit, x),
        }
    }
}

/// The orthonormal Hadamard transform in natural order of `x * signs`, in place. Lengths are equal powers of two.
#[inline(always)]
pub fn rotate(x: &mut [f32], signs: &[f32]) {
    let scale = 1.0 / (x.len() as f32).sqrt();
    for (v, s) in x.iter_mut().zip(signs) {
        *v *= s * scale;
    }
    let mut half = x.len() / 2;
    while half >= 16 {
        butterfly(x, half);
        half /= 2;
    }
    // Narrow steps stay within 32 numbers, which the compiler keeps in registers.
    if half > 0 {
        for part in x.chunks_exact_mut(2 * half) {
            let mut h = half;
            while h > 0 {
                butterfly(part, h);
                h /= 2;
            }
        }
    }
}

#[inline(always)]
fn butterfly(x: &mut [f32], half: usize) {
    for block in x.chunks_exact_mut(2 * half) {
        let (left, right) = block.split_at_mut(half);
        for (a, b) in left.iter_mut().zip(right) {
            (*a, *b) = (*a + *b, *a - *b);
        }
    }
}

/// `gate = gate / (1 + exp(-gate)) * up`, number by number.
#[inline(always)]
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

/// `x = e^x`, number by number.
#[inline(always)]
pub fn exponentials(x: &mut [f32]) {
    for x in x {
        *x = exp(*x);
    }
}

/// Numbers that sums are kept apart for.
const LANES: usize = 32;

/// `out = y / rms(y) * w / (1 + exp(-gate))`, all equally long; `eps` goes to the mean of squares.
#[inline(always)]
pub fn gated_norm(y: &[f32], w: &[f32], gate: &[f32], eps: f32, out: &mut [f32]) {
    let mut sums = [0.0; LANES];
    let (whole, rest) = y.as_chunks::<LANES>();
    for y in whole {
        for (sum, y) in sums.iter_mut().zip(y) {
            *sum += y * y;
        }
    }
    let rest: f32 = rest.iter().map(|y| y * y).sum();
    let mean = (sums.iter().sum::<f32>() + rest) / y.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for (((out, y), w), gate) in out.iter_mut().zip(y).zip(w).zip(gate) {
        *out = y * scale * w / (1.0 + exp(-gate));
    }
}

/// `e^x` to 1e-7 of its value: a power of two times a polynomial (Cephes' coefficients) on half a binary order of magnitude.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p * r + c;
    }
    let p = p * r * r + r + 1.0;
    p * f32::from_bits(((n as i32 + 127) << 23) as u32)
}
