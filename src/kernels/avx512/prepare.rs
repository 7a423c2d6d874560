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
