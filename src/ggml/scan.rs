//! The linear recurrence that our own kernel computes on the CPU: a custom node that keeps states in place.

use std::ffi::{c_int, c_void};

use ggml_sys as sys;

use super::graph::{Builder, Tensor};
use super::ops::{contiguous, ensure, is};
use super::products::{Raw, is_host, share};
use super::{DType, GraphError};
use crate::kernels::{self, Heads, Scan};

type Result<T> = std::result::Result<T, GraphError>;

/// What the node must know beyond its operands: nothing, as a number that is not zero.
const NOTHING: usize = 1;

impl<'g> Builder<'g> {
    /// Whether [`Self::scan_in_place`] can compute with these states: they lie in memory that the CPU sees.
    pub fn can_scan(&self, states: Tensor<'g>) -> bool {
        is_host(states)
    }

    /// `S = e^decay S + v k^T`, `y = S q` over each sequence's tokens.
    ///
    /// `q`, `k {d_k, key heads, tokens, sequences}` and `v {d_v, heads, tokens, sequences}` have dense heads, and
    /// sequences follow each other without a gap; `decay {1, heads}`. `states {d_k * d_v * heads, planes}` are read from
    /// the plane `from {sequences}` I32 and kept in the planes `to {sequences * kept}` I64, newest first: this happens
    /// when the node is computed, and nothing else of the graph may use those planes. Gives `{d_v * heads, tokens * sequences}`.
    #[expect(clippy::too_many_arguments, reason = "the operands of one formula")]
    pub fn scan_in_place(
        &self,
        states: Tensor<'g>,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        decay: Tensor<'g>,
        from: Tensor<'g>,
        to: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        const OP: &str = "scan_in_place";
        let all = [states, q, k, v, decay, from, to];
        let ([d_k, key_heads, t, s], [d_v, heads, ..]) = (k.ne(), v.ne());
        let kept = to.ne()[0] / s.max(1);
        let floats = [states, q, k, v, decay];
        ensure(
            floats.iter().all(|t| is(*t, DType::F32)) && contiguous(states) && contiguous(decay),
            OP,
            "operands are F32, states and decay are contiguous",
            &all,
        )?;
        let dense = |x: Tensor<'g>| {
            let (ne, nb) = (x.ne(), x.nb());
            nb[0] == 4
                && nb[1] == ne[0] as usize * 4
                && nb[2] % 4 == 0
                && (s == 1 || nb[3] == nb[2] * t as usize)
        };
        ensure(
            dense(q) && dense(k) && dense(v),
            OP,
            "heads of q, k and v are dense and tokens evenly spaced",
            &all,
        )?;
        ensure(
            q.ne() == k.ne()
                && v.ne()[2..] == [t, s]
                && key_heads > 0
                && heads % key_heads == 0
                && decay.ne() == [1, heads, 1, 1]
                && states.ne()[0] == d_k * d_v * heads
                && states.ne()[2..] == [1, 1],
            OP,
            "operands agree in head size, heads, tokens and sequences",
            &all,
        )?;
        ensure(
            is(from, DType::I32)
                && is(to, DType::I64)
                && contiguous(from)
                && contiguous(to)
                && from.ne() == [s, 1, 1, 1]
                && to.ne() == [kept * s, 1, 1, 1]
                && (1..=t).contains(&kept)
                && is_host(states),
            OP,
            "a plane to read and 1 to `tokens` planes to keep for each sequence, in the CPU's memory",
            &all,
        )?;
        self.ensure_bound(OP, from, states.ne()[1])?;
        self.ensure_bound(OP, to, states.ne()[1])?;
        let mut sources = [v, q, k, decay, states, from, to].map(|t| t.raw.as_ptr());
        let ne = [d_v * heads, t * s, 1, 1];
        self.node("SCAN", (DType::F32, ne), &mut sources, scan_node, NOTHING)
    }
}

unsafe extern "C" fn scan_node(to: Raw, index: c_int, of: c_int, _: *mut c_void) {
    // SAFETY: ggml computes this node, whose operands were checked when it was made; each thread has its share.
    unsafe {
        let [v, q, k, decay, states, from, into] = std::array::from_fn(|i| &*(*to).src[i]);
        let heads = |x: &sys::ggml_tensor| Heads {
            data: x.data.cast_const().cast(),
            stride: x.nb[2] / size_of::<f32>(),
        };
        let n_seqs = v.ne[3] as usize;
        let scan = Scan {
            d_k: k.ne[0] as usize,
            d_v: v.ne[0] as usize,
            n_head: v.ne[1] as usize,
            n_key_head: k.ne[1] as usize,
            n_tokens: v.ne[2] as usize,
            n_seqs,
            n_kept: into.ne[0] as usize / n_seqs,
            q: heads(q),
            k: heads(k),
            v: heads(v),
            decay: decay.data.cast_const().cast(),
            states: states.data.cast(),
            from: from.data.cast_const().cast(),
            to: into.data.cast_const().cast(),
            out: (*to).data.cast(),
        };
        let share = share(index, of);
        kernels::scan(&scan, share);
    }
}
