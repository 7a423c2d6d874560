//! Activations, compiled for 512 bits.

use crate::kernels::activation::Order;
use crate::kernels::{Layout, Record, prepare};

/// [`prepare::fill_records`].
///
/// # Safety
/// The CPU has what [`super::ISA`] asks for.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub unsafe fn fill_records(order: Order, layout: Layout, x: &[f32], out: &mut [Record]) {
    prepare::fill_records(order, layout, x, out);
}

/// [`prepare::rotate`].
///
/// # Safety
/// The CPU has what [`super::ISA`] asks for.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub unsafe fn rotate(x: &mut [f32], signs: &[f32]) {
    prepare::rotate(x, signs);
}

/// [`prepare::swiglu`].
///
/// # Safety
/// The CPU has what [`super::ISA`] asks for.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub unsafe fn swiglu(gate: &mut [f32], up: &[f32]) {
    prepare::swiglu(gate, up);
}

/// [`prepare::exponentials`].
///
/// # Safety
/// The CPU has what [`super::ISA`] asks for.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub unsafe fn exponentials(x: &mut [f32]) {
    prepare::exponentials(x);
}

/// [`prepare::gated_norm`].
///
/// # Safety
/// The CPU has what [`super::ISA`] asks for.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub unsafe fn gated_norm(y: &[f32], w: &[f32], gate: &[f32], eps: f32, out: &mut [f32]) {
    prepare::gated_norm(y, w, gate, eps, out);
}
