//! A gated norm that our own kernel computes on the CPU: one custom node.

use std::ffi::{c_int, c_void};

use super::graph::{Builder, Tensor};
use super::ops::{contiguous, ensure, is};
use super::products::{Raw, is_host, lists, numbers, share};
use super::{DType, GraphError};
use crate::kernels::{self, GatedNorm};

type Result<T> = std::result::Result<T, GraphError>;

impl<'g> Builder<'g> {
    /// Whether our kernel can compute a norm with these weights: they are in memory that the CPU sees.
    pub fn can_norm(&self, w: Tensor<'g>) -> bool {
        kernels::available() && is_host(w)
    }

    /// `y / rms(y) * w * sigmoid(gate)`, all F32: `y` and `gate {width, tokens}`, `w {width}`; the mean of squares is
    /// taken over each of `n_group` groups of channels.
    pub fn gated_norm(
        &self,
        y: Tensor<'g>,
        w: Tensor<'g>,
        gate: Tensor<'g>,
        n_group: u32,
        eps: f32,
    ) -> Result<Tensor<'g>> {
        const OP: &str = "gated_norm";
        let [width, n, a, b] = y.ne();
        ensure(
            [y, w, gate]
                .iter()
                .all(|t| is(*t, DType::F32) && contiguous(*t))
                && gate.ne() == y.ne()
                && w.ne() == [width, 1, 1, 1]
                && a * b == 1
                && width > 0
                && n_group > 0
                && width % i64::from(n_group) == 0
                && eps >= 0.0
                && kernels::available(),
            OP,
            "operands are F32 and contiguous, a number each for every channel, and groups divide the channels",
            &[y, w, gate],
        )?;
        // The count of groups is not zero, so neither is the number.
        let info = (u64::from(eps.to_bits()) << 32 | u64::from(n_group)) as usize;
        let mut sources = [y, w, gate].map(|t| t.raw.as_ptr());
        let out = (DType::F32, [width, n, 1, 1]);
        self.node("GATED_NORM", out, &mut sources, gated_norm_node, info)
    }
}

unsafe extern "C" fn gated_norm_node(to: Raw, index: c_int, of: c_int, info: *mut c_void) {
    // SAFETY: ggml computes this node; its operands were checked when it was made, and each thread has its share.
    unsafe {
        let (to, Some(isa)) = (&*to, kernels::best()) else {
            return;
        };
        let [y, w, gate] = std::array::from_fn(|i| &*to.src[i]);
        let width = y.ne[0];
        let info = info.addr() as u64;
        let norm = GatedNorm {
            y: lists(y, width),
            w: numbers(w),
            gate: lists(gate, width),
            n_group: info as u32 as usize,
            eps: f32::from_bits((info >> 32) as u32),
            n_tokens: y.ne[1] as usize,
        };
        isa.norm_and_gate(&norm, lists(to, width), share(index, of));
    }
}
