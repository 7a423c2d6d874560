//! Graph operations. Each checks its operands by ggml's own rules before it calls ggml, which would abort.
//!
//! Shapes are in ggml's order: `{ne0, ne1, ne2, ne3}`, innermost first.

use ggml_sys as sys;

use super::error::ShapeError;
use super::graph::{Builder, Tensor, checked_shape};
use super::quant::usable_as_matrix;
use super::rope::{Rope, RopeKind};
use super::{DType, GraphError};

type Result<T> = std::result::Result<T, GraphError>;
type Raw = *mut sys::ggml_tensor;

fn fail(op: &'static str, rule: &'static str, operands: &[Tensor<'_>]) -> GraphError {
    let operands = operands
        .iter()
        .map(Tensor::describe)
        .collect::<Vec<_>>()
        .join(" and ");
    ShapeError { op, rule, operands }.into()
}

pub(super) fn ensure(
    holds: bool,
    op: &'static str,
    rule: &'static str,
    operands: &[Tensor<'_>],
) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(fail(op, rule, operands))
    }
}

fn elements(ne: [i64; 4]) -> i64 {
    ne.iter().product()
}

/// Whether rows, matrices and cubes follow each other without gaps.
pub(super) fn contiguous(t: Tensor<'_>) -> bool {
    contiguous_from(t, 0)
}

/// As ggml's `ggml_is_contiguous_n`: dimensions above `n` have no gaps, and elements are dense.
fn contiguous_from(t: Tensor<'_>, n: usize) -> bool {
    // SAFETY: the handle is valid; the queries mutate nothing.
    unsafe {
        match n {
            0 => sys::ggml_is_contiguous(t.raw.as_ptr()),
            _ => sys::ggml_is_contiguous_1(t.raw.as_ptr()),
        }
    }
}

pub(super) fn dense_rows(t: Tensor<'_>) -> bool {
    // SAFETY: as above.
    unsafe { sys::ggml_is_contiguous_rows(t.raw.as_ptr()) }
}

/// Whether `small` can be repeated to the shape of `large`.
fn repeats_to(small: [i64; 4], large: [i64; 4]) -> bool {
    small.iter().zip(large).all(|(&s, l)| s > 0 && l % s == 0)
}

pub(super) fn is(t: Tensor<'_>, ty: DType) -> bool {
    t.dtype() == ty
}

impl<'g> Builder<'g> {
    /// `a + b`, `b` repeated to the shape of `a`. Both F32.
    pub fn add(&self, a: Tensor<'g>, b: Tensor<'g>) -> Result<Tensor<'g>> {
        self.elementwise("add", a, b, sys::ggml_add)
    }

    /// `a * b`, `b` repeated to the shape of `a`. Both F32.
    pub fn mul(&self, a: Tensor<'g>, b: Tensor<'g>) -> Result<Tensor<'g>> {
        self.elementwise("mul", a, b, sys::ggml_mul)
    }

    /// `a / b`, `b` repeated to the shape of `a`. Both F32.
    pub fn div(&self, a: Tensor<'g>, b: Tensor<'g>) -> Result<Tensor<'g>> {
        self.elementwise("div", a, b, sys::ggml_div)
    }

    /// `a * factor`.
    pub fn scale(&self, a: Tensor<'g>, factor: f32) -> Result<Tensor<'g>> {
        ensure(
            is(a, DType::F32) && contiguous(a),
            "scale",
            "the operand is F32 and contiguous",
            &[a],
        )?;
        // SAFETY: operands checked; room claimed by `call`.
        self.call(1, || unsafe {
            sys::ggml_scale(self.ctx(), a.raw.as_ptr(), factor)
        })
    }

    /// Bounds every element. NaN becomes `max` on the CPU, which keeps sorting well defined.
    pub fn clamp(&self, a: Tensor<'g>, min: f32, max: f32) -> Result<Tensor<'g>> {
        ensure(
            is(a, DType::F32) && contiguous(a),
            "clamp",
            "the operand is F32 and contiguous",
            &[a],
        )?;
        // SAFETY: operands checked.
        self.call(1, || unsafe {
            sys::ggml_clamp(self.ctx(), a.raw.as_ptr(), min, max)
        })
    }

    /// A tensor of the shape of `a`, every element `value`.
    pub fn fill(&self, a: Tensor<'g>, value: f32) -> Result<Tensor<'g>> {
        ensure(
            is(a, DType::F32) && contiguous(a),
            "fill",
            "the operand is F32 and contiguous",
            &[a],
        )?;
        // SAFETY: operands checked.
        self.call(1, || unsafe {
            sys::ggml_fill(self.ctx(), a.raw.as_ptr(), value)
        })
    }

    /// `1 / (1 + exp(-a))`.
    pub fn sigmoid(&self, a: Tensor<'g>) -> Result<Tensor<'g>> {
        ensure(
            is(a, DType::F32) && dense_rows(a),
            "sigmoid",
            "the operand is F32 with dense rows",
            &[a],
        )?;
        // SAFETY: operands checked.
        self.call(1, || unsafe {
            sys::ggml_sigmoid(self.ctx(), a.raw.as_ptr())
        })
    }

    /// `silu(gate) * up`.
    pub fn swiglu(&self, gate: Tensor<'g>, up: Tensor<'g>) -> Result<Tensor<'g>> {
        let ok = contiguous_from(gate, 1)
            && contiguous_from(up, 1)
            && gate.ne() == up.ne()
            && is(gate, DType::F32)
            && is(up, DType::F32);
        ensure(
            ok,
            "swiglu",
            "gate and up are F32, dense and of one shape",
            &[gate, up],
        )?;
        // SAFETY: operands checked.
        self.call(1, || unsafe {
            sys::ggml_swiglu_split(self.ctx(), gate.raw.as_ptr(), up.raw.as_ptr())
        })
    }

    /// `x / sqrt(mean(x^2) + eps)` over the innermost dimension.
    pub fn rms_norm(&self, x: Tensor<'g>, eps: f32) -> Result<Tensor<'g>> {
        ensure(
            is(x, DType::F32) && dense_rows(x) && eps >= 0.0,
            "rms_norm",
            "the operand is F32 with dense rows, eps >= 0",
            &[x],
        )?;
        // SAFETY: operands checked.
        self.call(1, || unsafe {
            sys::ggml_rms_norm(self.ctx(), x.raw.as_ptr(), eps)
        })
    }

    /// `softmax(x * scale + mask)` over the innermost dimension. `mask` is F16 or F32 `{ne0, >= ne1, ..}`.
    pub fn soft_max(
        &self,
        x: Tensor<'g>,
        mask: Option<Tensor<'g>>,
        scale: f32,
    ) -> Result<Tensor<'g>> {
        ensure(
            is(x, DType::F32) && contiguous(x),
            "soft_max",
            "the operand is F32 and contiguous",
            &[x],
        )?;
        let mut raw_mask: Raw = std::ptr::null_mut();
        if let Some(m) = mask {
            let (a, b) = (x.ne(), m.ne());
            let ok = (is(m, DType::F16) || is(m, DType::F32)) && contiguous(m);
            let ok = ok && b[0] == a[0] && b[1] >= a[1] && a[2] % b[2] == 0 && a[3] % b[3] == 0;
            ensure(ok, "soft_max", "the mask covers the scores", &[x, m])?;
            raw_mask = m.raw.as_ptr();
        }
        // SAFETY: operands checked; a null mask is allowed.
        self.call(1, || unsafe {
            sys::ggml_soft_max_ext(self.ctx(), x.raw.as_ptr(), raw_mask, scale, 0.0)
        })
    }

    /// Sum over the innermost dimension: `{1, ne1, ne2, ne3}`.
    pub fn sum_rows(&self, a: Tensor<'g>) -> Result<Tensor<'g>> {
        ensure(
            is(a, DType::F32) && dense_rows(a),
            "sum_rows",
            "the operand is F32 with dense rows",
            &[a],
        )?;
        // SAFETY: operands checked.
        self.call(1, || unsafe {
            sys::ggml_sum_rows(self.ctx(), a.raw.as_ptr())
        })
    }

    /// `w^T x`: `w {k, m, a, b}` of any weight type, `x {k, n, A, B}` F32 with A, B multiples of a, b; gives `{m, n, A, B}`.
    pub fn mul_mat(&self, w: Tensor<'g>, x: Tensor<'g>) -> Result<Tensor<'g>> {
        let (a, b) = (w.ne(), x.ne());
        let ok = a[0] == b[0] && b[2] % a[2] == 0 && b[3] % a[3] == 0;
        ensure(
            ok,
            "mul_mat",
            "rows have one length and x repeats w",
            &[w, x],
        )?;
        ensure(
            dense_rows(w) && w.nb()[0] <= w.nb()[1],
            "mul_mat",
            "w is not transposed and has dense rows",
            &[w, x],
        )?;
        ensure(
            usable_as_matrix(w.dtype()) && is(x, DType::F32) && dense_rows(x),
            "mul_mat",
            "w is a weight type, x is F32",
            &[w, x],
        )?;
        // SAFETY: operands checked.
        self.call(1, || unsafe {
            sys::ggml_mul_mat(self.ctx(), w.raw.as_ptr(), x.raw.as_ptr())
        })
    }

    /// The matrix of each chosen expert: `w {k, m, n_expert}`, `x {k, n_used | 1, n}` F32, `ids {n_used, n}` I32; gives `{m, n_used, n}`.
    pub fn mul_mat_id(&self, w: Tensor<'g>, x: Tensor<'g>, ids: Tensor<'g>) -> Result<Tensor<'g>> {
        let (a, b, i) = (w.ne(), x.ne(), ids.ne());
        let ok = a[3] == 1
            && b[3] == 1
            && i[2] == 1
            && i[3] == 1
            && i[1] == b[2]
            && a[0] == b[0]
            && i[0] % b[1] == 0;
        ensure(
            ok,
            "mul_mat_id",
            "one list of experts per column of x",
            &[w, x, ids],
        )?;
        let ok = usable_as_matrix(w.dtype())
            && contiguous(w)
            && is(x, DType::F32)
            && is(ids, DType::I32);
        ensure(
            ok,
            "mul_mat_id",
            "w is a contiguous weight, x F32, ids I32",
            &[w, x, ids],
        )?;
        ensure(
            dense_rows(x) && dense_rows(ids),
            "mul_mat_id",
            "rows of x and ids are dense",
            &[w, x, ids],
        )?;
        self.ensure_bound("mul_mat_id", ids, a[2])?;
        // SAFETY: operands checked, indices bounded.
        self.call(1, || unsafe {
            sys::ggml_mul_mat_id(self.ctx(), w.raw.as_ptr(), x.raw.as_ptr(), ids.raw.as_ptr())
        })
    }

    /// Rows of `a {n, rows, B, C}` by `ids {k, B, C}` I32, as F32 (I32 stays I32): `{n, k, B, C}`.
    ///
    /// The ids must be bounded by `rows`: see [`Builder::index_input`].
    pub fn get_rows(&self, a: Tensor<'g>, ids: Tensor<'g>) -> Result<Tensor<'g>> {
        let (x, i) = (a.ne(), ids.ne());
        let ok = x[2] == i[1] && x[3] == i[2] && i[3] == 1 && is(ids, DType::I32);
        ensure(ok, "get_rows", "one list of I32 rows per matrix", &[a, ids])?;
        ensure(
            dense_rows(a) && (usable_as_matrix(a.dtype()) || is(a, DType::I32)),
            "get_rows",
            "rows are dense and can be decoded",
            &[a, ids],
        )?;
        self.ensure_bound("get_rows", ids, x[1])?;
        // SAFETY: operands checked, indices bounded.
        self.call(1, || unsafe {
            sys::ggml_get_rows(self.ctx(), a.raw.as_ptr(), ids.raw.as_ptr())
        })
    }

    /// Writes rows of `rows {n, k, B, C}` F32 into `into {n, m, B, C}` at `ids {k, ..}` (I32 or I64), converting to its type.
    ///
    /// The ids must be bounded by `m`: see [`Builder::index_input`].
    pub fn set_rows(
        &self,
        into: Tensor<'g>,
        rows: Tensor<'g>,
        ids: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let (a, b, c) = (into.ne(), rows.ne(), ids.ne());
        let ok = a[0] == b[0]
            && a[2] == b[2]
            && a[3] == b[3]
            && b[1] == c[0]
            && c[3] == 1
            && b[2] % c[1] == 0
            && b[3] % c[2] == 0;
        ensure(ok, "set_rows", "one row index per row", &[into, rows, ids])?;
        let ok = is(rows, DType::F32)
            && (is(ids, DType::I32) || is(ids, DType::I64))
            && dense_rows(into)
            && dense_rows(rows);
        ensure(
            ok,
            "set_rows",
            "rows are F32 and dense, ids I32 or I64",
            &[into, rows, ids],
        )?;
        // Types without an encoder would be a null call.
        let encodes = matches!(
            into.dtype(),
            DType::F32 | DType::F16 | DType::BF16 | DType::Q8_0
        );
        ensure(
            encodes,
            "set_rows",
            "the destination is F32, F16, BF16 or Q8_0",
            &[into],
        )?;
        self.ensure_bound("set_rows", ids, a[1])?;
        self.check_writable("set_rows", into)?;
        // SAFETY: operands checked; the destination belongs to a writable store or to this graph.
        self.call(1, || unsafe {
            sys::ggml_set_rows(
                self.ctx(),
                into.raw.as_ptr(),
                rows.raw.as_ptr(),
                ids.raw.as_ptr(),
            )
        })
    }

    /// Indices of the `k` largest of each row, largest first: I32 `{k, ne1, ne2, ne3}`, a strided view.
    pub fn top_k(&self, a: Tensor<'g>, k: i64) -> Result<Tensor<'g>> {
        let ok = is(a, DType::F32)
            && contiguous(a)
            && k > 0
            && k <= a.ne()[0]
            && a.ne()[0] <= i64::from(i32::MAX);
        ensure(
            ok,
            "top_k",
            "0 < k <= row length, the operand is F32 and contiguous",
            &[a],
        )?;
        // SAFETY: operands checked; argsort and view are two tensors.
        let ids = self.call(2, || unsafe {
            sys::ggml_argsort_top_k(self.ctx(), a.raw.as_ptr(), k as i32)
        })?;
        self.set_bound(ids, a.ne()[0] as u64);
        Ok(ids)
    }

    /// Rotates `x {n, heads, tokens}` by `pos {tokens}` I32; `factors {n_dims/2}` F32 divides each frequency.
    pub fn rope(
        &self,
        x: Tensor<'g>,
        pos: Tensor<'g>,
        factors: Option<Tensor<'g>>,
        rope: &Rope,
    ) -> Result<Tensor<'g>> {
        let n_dims = i64::from(rope.n_dims);
        let ok = is(x, DType::F32)
            && x.nb()[0] == 4
            && n_dims % 2 == 0
            // ggml copies what does not rotate in pairs, past the end of an odd row.
            && x.ne()[0] % 2 == 0
            && n_dims <= x.ne()[0]
            && x.ne()[3] == 1;
        ensure(
            ok,
            "rope",
            "an even number of dimensions, at most the head's, which is even too",
            &[x, pos],
        )?;
        let ok =
            is(pos, DType::I32) && pos.ne()[0] == x.ne()[2] && elements(pos.ne()) == pos.ne()[0];
        ensure(ok, "rope", "one I32 position per token", &[x, pos])?;
        let mut raw: Raw = std::ptr::null_mut();
        if let Some(f) = factors {
            ensure(
                is(f, DType::F32) && f.ne()[0] >= n_dims / 2,
                "rope",
                "one F32 factor per pair",
                &[x, f],
            )?;
            raw = f.raw.as_ptr();
        }
        let mode = match rope.kind {
            RopeKind::Norm => sys::GGML_ROPE_TYPE_NORMAL as i32,
            RopeKind::Neox => sys::GGML_ROPE_TYPE_NEOX as i32,
        };
        // SAFETY: operands checked; a null factor tensor is allowed.
        self.call(1, || unsafe {
            sys::ggml_rope_ext(
                self.ctx(),
                x.raw.as_ptr(),
                pos.raw.as_ptr(),
                raw,
                rope.n_dims as i32,
                mode,
                rope.n_ctx_orig as i32,
                rope.freq_base,
                rope.freq_scale,
                rope.ext_factor,
                rope.attn_factor,
                rope.beta_fast,
                rope.beta_slow,
            )
        })
    }

    /// Attention in one operation: `q {d, T, H, S}` F32, `k {d, n, Hk, S}`, `v {dv, n, Hk, S}`, `mask {n, T, 1|H, 1|S}` F16; gives `{dv, H, T, S}`.
    pub fn flash_attn(
        &self,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        mask: Tensor<'g>,
        scale: f32,
    ) -> Result<Tensor<'g>> {
        let (a, b, c, m) = (q.ne(), k.ne(), v.ne(), mask.ne());
        let ok = a[0] == b[0]
            && a[2] % b[2] == 0
            && a[2] % c[2] == 0
            && a[3] == b[3]
            && a[3] == c[3]
            && b[1] == c[1];
        ensure(
            ok,
            "flash_attn",
            "q, k and v agree in head size, heads, rows and sequences",
            &[q, k, v],
        )?;
        let ok = is(mask, DType::F16)
            && contiguous(mask)
            && m[0] == b[1]
            && m[1] >= a[1]
            && a[2] % m[2] == 0
            && a[3] % m[3] == 0;
        ensure(
            ok,
            "flash_attn",
            "the mask is F16 and covers the scores",
            &[q, k, mask],
        )?;
        ensure(
            is(q, DType::F32) && dense_rows(q) && dense_rows(k) && dense_rows(v),
            "flash_attn",
            "rows are dense, q is F32",
            &[q, k, v],
        )?;
        let readable = usable_as_matrix(k.dtype()) && usable_as_matrix(v.dtype());
        ensure(
            readable,
            "flash_attn",
            "keys and values can be decoded",
            &[k, v],
        )?;
        // SAFETY: operands checked.
        let out = self.call(1, || unsafe {
            sys::ggml_flash_attn_ext(
                self.ctx(),
                q.raw.as_ptr(),
                k.raw.as_ptr(),
                v.raw.as_ptr(),
                mask.raw.as_ptr(),
                scale,
                0.0,
                0.0,
            )
        })?;
        // SAFETY: sets a parameter of the operation just made.
        unsafe { sys::ggml_prec_set_acc(out.raw.as_ptr(), sys::GGML_PREC_F32) };
        Ok(out)
    }

    /// The linear recurrence `S = exp(softplus(dt) A) S + softplus(dt) x B^T`, `y = S C`.
    ///
    /// `state {d_k, d_v, H, planes}`, `x {d_v, H, T, S}`, `dt {H, T, S}`, `a {1, H}`, `b`, `c {d_k, G, T, S}`, all F32;
    /// `ids {S}` I32 picks each sequence's plane. The flat result holds y `{d_v, H, T, S}`, then the `k_states`
    /// newest states `{d_k, d_v, H, S}` each, newest first.
    #[expect(
        clippy::too_many_arguments,
        reason = "the operands of one ggml operation"
    )]
    pub fn ssm_scan(
        &self,
        state: Tensor<'g>,
        x: Tensor<'g>,
        dt: Tensor<'g>,
        a: Tensor<'g>,
        b: Tensor<'g>,
        c: Tensor<'g>,
        ids: Tensor<'g>,
        k_states: u32,
    ) -> Result<Tensor<'g>> {
        let all = [state, x, dt, a, b, c];
        ensure(
            all.iter().all(|t| is(*t, DType::F32)),
            "ssm_scan",
            "operands are F32",
            &all,
        )?;
        ensure(
            contiguous(state) && contiguous(dt) && contiguous(a),
            "ssm_scan",
            "state, dt and A are contiguous",
            &[state, dt, a],
        )?;
        let dense = |t: Tensor<'_>| t.nb()[0] == 4 && t.nb()[1] == t.ne()[0] as usize * 4;
        ensure(
            dense(x) && dense(b) && dense(c),
            "ssm_scan",
            "heads of x, B and C are dense",
            &[x, b, c],
        )?;
        let (s, x4, t4, a4, b4) = (state.ne(), x.ne(), dt.ne(), a.ne(), b.ne());
        let (heads, tokens, seqs) = (x4[1], x4[2], x4[3]);
        let ok = t4 == [heads, tokens, seqs, 1]
            && s[1] == x4[0]
            && s[2] == heads
            && a4 == [1, heads, 1, 1];
        let ok = ok
            && b4[0] == s[0]
            && b4[2] == tokens
            && b4[3] == seqs
            && c.ne() == b4
            && heads % b4[1] == 0;
        ensure(
            ok,
            "ssm_scan",
            "operands agree in head size, heads, tokens and sequences",
            &all,
        )?;
        ensure(
            is(ids, DType::I32) && ids.ne() == [seqs, 1, 1, 1],
            "ssm_scan",
            "one I32 plane per sequence",
            &[x, ids],
        )?;
        ensure(
            k_states >= 1 && i64::from(k_states) <= tokens,
            "ssm_scan",
            "1 <= kept states <= tokens",
            &[x],
        )?;
        self.ensure_bound("ssm_scan", ids, s[3])?;
        // SAFETY: operands checked by the rules of ggml_ssm_scan, indices bounded.
        self.call(1, || unsafe {
            sys::ggml_ssm_scan(
                self.ctx(),
                state.raw.as_ptr(),
                x.raw.as_ptr(),
                dt.raw.as_ptr(),
                a.raw.as_ptr(),
                b.raw.as_ptr(),
                c.raw.as_ptr(),
                ids.raw.as_ptr(),
                i64::from(k_states),
            )
        })
    }

    /// `a` and `b` one after the other along `dim`.
    pub fn concat(&self, a: Tensor<'g>, b: Tensor<'g>, dim: usize) -> Result<Tensor<'g>> {
        let (x, y) = (a.ne(), b.ne());
        let ok = dim < 4
            && a.dtype() == b.dtype()
            && !a.dtype().is_quantized()
            && (0..4).all(|d| d == dim || x[d] == y[d]);
        ensure(
            ok,
            "concat",
            "types and all other extents are equal",
            &[a, b],
        )?;
        // SAFETY: operands checked; dim < 4.
        self.call(1, || unsafe {
            sys::ggml_concat(self.ctx(), a.raw.as_ptr(), b.raw.as_ptr(), dim as i32)
        })
    }

    /// A contiguous copy.
    pub fn cont(&self, a: Tensor<'g>) -> Result<Tensor<'g>> {
        ensure(
            !a.dtype().is_quantized(),
            "cont",
            "the operand is not quantised",
            &[a],
        )?;
        // SAFETY: operands checked.
        self.call(1, || unsafe { sys::ggml_cont(self.ctx(), a.raw.as_ptr()) })
    }

    /// The numbers of a contiguous operand in F32, unless they are that already.
    pub fn decoded(&self, a: Tensor<'g>) -> Result<Tensor<'g>> {
        if is(a, DType::F32) {
            return Ok(a);
        }
        ensure(
            contiguous(a) && usable_as_matrix(a.dtype()),
            "decoded",
            "the operand is contiguous and can be decoded",
            &[a],
        )?;
        // SAFETY: operands checked.
        self.call(1, || unsafe {
            sys::ggml_cast(self.ctx(), a.raw.as_ptr(), sys::GGML_TYPE_F32)
        })
    }

    /// A contiguous copy, unless `a` is contiguous already.
    pub fn dense(&self, a: Tensor<'g>) -> Result<Tensor<'g>> {
        if contiguous(a) { Ok(a) } else { self.cont(a) }
    }

    /// The same elements in another shape; the operand must be contiguous.
    pub fn reshape(&self, a: Tensor<'g>, shape: &[i64]) -> Result<Tensor<'g>> {
        let ne = self.shape("reshape", a, shape)?;
        ensure(
            contiguous(a) && elements(ne) == elements(a.ne()),
            "reshape",
            "the operand is contiguous and keeps its size",
            &[a],
        )?;
        // SAFETY: operands checked.
        self.call(1, || unsafe {
            sys::ggml_reshape_4d(self.ctx(), a.raw.as_ptr(), ne[0], ne[1], ne[2], ne[3])
        })
    }

    /// Axis `i` of the operand becomes axis `axes[i]` of the result (ggml's convention).
    pub fn permute(&self, a: Tensor<'g>, axes: [usize; 4]) -> Result<Tensor<'g>> {
        let mut sorted = axes;
        sorted.sort_unstable();
        ensure(
            sorted == [0, 1, 2, 3],
            "permute",
            "axes are a permutation of 0..4",
            &[a],
        )?;
        let [i, j, k, l] = axes.map(|x| x as i32);
        // SAFETY: the axes are a permutation.
        self.call(1, || unsafe {
            sys::ggml_permute(self.ctx(), a.raw.as_ptr(), i, j, k, l)
        })
    }

    /// Swaps the first two axes.
    pub fn transpose(&self, a: Tensor<'g>) -> Result<Tensor<'g>> {
        // SAFETY: any tensor can be transposed.
        self.call(1, || unsafe {
            sys::ggml_transpose(self.ctx(), a.raw.as_ptr())
        })
    }

    /// A window: `shape` elements with byte strides `nb1..nb3` (for axes 1 to 3) from byte `offset` on.
    pub fn view(
        &self,
        a: Tensor<'g>,
        shape: &[i64],
        strides: &[usize],
        offset: usize,
    ) -> Result<Tensor<'g>> {
        let ne = self.shape("view", a, shape)?;
        let row = a.dtype().row_bytes(ne[0] as u64).unwrap_or(u64::MAX) as usize;
        let mut nb = [a.element_size(), row, 0, 0];
        for axis in 1..4 {
            nb[axis] = strides
                .get(axis - 1)
                .copied()
                .unwrap_or_else(|| nb[axis - 1].saturating_mul(ne[axis - 1] as usize).max(row));
        }
        let last = (1..4).try_fold(row, |end, axis| {
            nb[axis]
                .checked_mul(ne[axis] as usize - 1)
                .and_then(|skip| end.checked_add(skip))
        });
        let end = last.and_then(|e| e.checked_add(offset));
        let size = a.element_size().max(1);
        // ggml itself compares the product of extents with the source, whatever the strides.
        let product = ne[1..]
            .iter()
            .try_fold(row, |p, &n| p.checked_mul(n as usize));
        let inside = |end: Option<usize>| end.is_some_and(|e| e <= super::store::nbytes(a.raw));
        let ok = inside(end)
            && inside(product.and_then(|p| p.checked_add(offset)))
            && offset.is_multiple_of(size)
            && nb[1..].iter().all(|stride| stride.is_multiple_of(size));
        ensure(ok, "view", "the window lies inside the tensor", &[a])?;
        // SAFETY: the window and the product of its extents lie inside the tensor.
        self.call(1, || unsafe {
            sys::ggml_view_4d(
                self.ctx(),
                a.raw.as_ptr(),
                ne[0],
                ne[1],
                ne[2],
                ne[3],
                nb[1],
                nb[2],
                nb[3],
                offset,
            )
        })
    }

    /// Columns `start .. start + n` of the innermost dimension.
    pub fn columns(&self, a: Tensor<'g>, start: i64, n: i64) -> Result<Tensor<'g>> {
        let ne = a.ne();
        let block = a.dtype().block_size() as i64;
        let ok = start >= 0 && n > 0 && start + n <= ne[0] && start % block == 0 && n % block == 0;
        ensure(
            ok,
            "columns",
            "the range lies inside the row, in whole blocks",
            &[a],
        )?;
        let nb = a.nb();
        self.view(
            a,
            &[n, ne[1], ne[2], ne[3]],
            &nb[1..],
            (start / block) as usize * a.element_size(),
        )
    }

    fn shape(&self, op: &'static str, a: Tensor<'g>, shape: &[i64]) -> Result<[i64; 4]> {
        let positive: Vec<u64> = shape
            .iter()
            .map(|&n| u64::try_from(n).unwrap_or(0))
            .collect();
        checked_shape(op, a.dtype(), &positive)
    }

    fn elementwise(
        &self,
        op: &'static str,
        a: Tensor<'g>,
        b: Tensor<'g>,
        f: unsafe extern "C" fn(*mut sys::ggml_context, Raw, Raw) -> Raw,
    ) -> Result<Tensor<'g>> {
        ensure(
            repeats_to(b.ne(), a.ne()),
            op,
            "the second operand repeats to the first's shape",
            &[a, b],
        )?;
        let ok = is(a, DType::F32) && is(b, DType::F32) && dense_rows(a) && dense_rows(b);
        ensure(ok, op, "operands are F32 with dense rows", &[a, b])?;
        // SAFETY: operands checked.
        self.call(1, || unsafe {
            f(self.ctx(), a.raw.as_ptr(), b.raw.as_ptr())
        })
    }

    /// Fails unless every element of `ids` is known to be below `rows`.
    pub(super) fn ensure_bound(&self, op: &'static str, ids: Tensor<'g>, rows: i64) -> Result<()> {
        let bounded = self.bound(ids).is_some_and(|b| b <= rows.max(0) as u64);
        ensure(
            bounded,
            op,
            "indices are bounded by what they select from",
            &[ids],
        )
    }

    /// Claims room for the tensors an operation makes, then makes them.
    pub(super) fn call(&self, tensors: usize, make: impl FnOnce() -> Raw) -> Result<Tensor<'g>> {
        self.claim(tensors)?;
        let raw = make();
        self.result(raw)
    }
}
