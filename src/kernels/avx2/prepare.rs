//! Activations, compiled for 256 bits.

use crate::kernels::activation::Order;
use crate::kernels::{Layout, Record, prepare};

/// [`prepare::fill_records`].
///
/// # Safety
/// The CPU has what [`super::PLAIN`] asks for.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn fill_records(order: Order, layout: Layout, x: &[f32], out: &mut [Record]) {
    prepare::fill_records(order, layout, x, out);
}

/// [`prepare::rotate`].
///
/// # Safety
/// The CPU has what [`super::PLAIN`] asks for.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn rotate(x: &mut [f32], signs: &[f32]) {
    prepare::rotate(x, signs);
}

/// [`prepare::swiglu`].
///
/// # Safety
/// The CPU has what [`super::PLAIN`] asks for.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn swiglu(gate: &mut [f32], up: &[f32]) {
    prepare::swiglu(gate, up);
}
