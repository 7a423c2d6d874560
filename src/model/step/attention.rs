//! Attention over the rows of each sequence, by whatever computes it best.

use std::ops::Range;

use super::{AttentionKernel, Result, Step};
use crate::ggml::{DType, Device, Graph, GraphError, Tensor};
use crate::memory::{RowSpec, Run};
use crate::model::loader::WeightId;

/// Whether a device has the fused kernel for these keys, looked at `n_rows` at a time.
pub fn supports_flash(device: Device, row: &RowSpec, row_type: DType, n_rows: u32) -> bool {
    let Some(reader) = &row.read_by else {
        return true;
    };
    let probe = Graph::build::<_, GraphError>(PROBE_TENSORS, |g| {
        let n = u64::from(n_rows);
        let q = g.input("q", DType::F32, &[row.head_width, 1, reader.n_head, 1])?;
        let k = g.input("k", row_type, &[row.head_width, n, row.n_head, 1])?;
        let mask = g.input("mask", DType::F16, &[n, 1, 1, 1])?;
        let v = if reader.value_in_row {
            g.columns(k, 0, reader.value_width as i64)?
        } else {
            g.input("v", row_type, &[reader.value_width, n, row.n_head, 1])?
        };
        g.output("out", g.flash_attn(q, k, v, mask, 1.0)?);
        Ok(())
    });
    probe.is_ok_and(|(graph, ())| device.supports(&graph))
}

/// Room for the graph that asks a device about its kernels.
const PROBE_TENSORS: usize = 16;

/// Part of attention rows: their first `n * width` elements, as heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'r> {
    /// Name of the rows.
    pub rows: &'r str,
    /// Heads, one after the other.
    pub n: i64,
    /// Elements of a head.
    pub width: i64,
}

/// Which causal mask an attention uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// Every token sees itself and all before it.
    Causal,
    /// As `Causal`, without the sequence's first row: the MTP head has no entry there.
    FromSecond,
}

/// Neighbouring groups of a step, and their tokens.
#[derive(Debug, Clone)]
pub struct Span {
    groups: Range<usize>,
    first: i64,
    /// Tokens.
    pub n_tokens: i64,
    /// Which way they go.
    pub long: bool,
}

impl<'g> Step<'g, '_> {
    /// Neighbouring groups that go one way, in order: `long` says which way a group of so many tokens goes.
    pub fn spans(&self, long: impl Fn(u32) -> bool) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for (i, group) in self.plan.groups.iter().enumerate() {
            let n = i64::from(group.n_tokens) * group.seqs.len() as i64;
            match spans.last_mut() {
                Some(last) if last.long == long(group.n_tokens) => {
                    last.groups.end = i + 1;
                    last.n_tokens += n;
                }
                _ => spans.push(Span {
                    groups: i..i + 1,
                    first: i64::from(group.first_token),
                    n_tokens: n,
                    long: long(group.n_tokens),
                }),
            }
        }
        spans
    }

    /// The tokens of a span: of `x {a, b, tokens}` a view.
    pub fn of_span(&self, x: Tensor<'g>, span: &Span) -> Result<Tensor<'g>> {
        let ([a, b, n, _], nb) = (x.ne(), x.nb());
        if n == span.n_tokens {
            return Ok(x);
        }
        let offset = span.first as usize * nb[2];
        self.g
            .view(x, &[a, b, span.n_tokens], &[nb[1], nb[2]], offset)
    }

    /// Attention over stored rows, of all tokens.
    ///
    /// `q` has axes (width, token, head) with any strides, and a multiple of the keys' heads: neighbours share one.
    /// There are as many values as keys. Gives (value width, token, head).
    /// Our own kernel computes it where it may and can, otherwise what the device is good at.
    pub fn attend(
        &self,
        q: Tensor<'g>,
        keys: Heads<'_>,
        values: Heads<'_>,
        scale: f32,
        mask: Mask,
    ) -> Result<Tensor<'g>> {
        let all = Span {
            groups: 0..self.plan.groups.len(),
            first: 0,
            n_tokens: self.n_tokens(),
            long: false,
        };
        self.attend_span(&all, q, (keys, values), scale, mask)
    }

    /// As [`Self::attend`], of a span's tokens, which are all that `q` has.
    pub fn attend_span(
        &self,
        span: &Span,
        q: Tensor<'g>,
        (keys, values): (Heads<'_>, Heads<'_>),
        scale: f32,
        mask: Mask,
    ) -> Result<Tensor<'g>> {
        let (k, v) = (self.rows(keys.rows)?, self.rows(values.rows)?);
        let own = self.kernels.own_attention && self.g.can_attend(k, v);
        let fused = own || self.kernels.attention == AttentionKernel::Flash;
        // Tokens are axis 2 of fused kernels' results and axis 1 of the others'.
        let axis = if fused { 2 } else { 1 };
        let all = self.by_run(span, q, mask, axis, |q, run, mask| {
            let (k, v) = (self.heads(keys, run)?, self.heads(values, run)?);
            if !fused {
                return self.unfused(q, k, v, mask, scale);
            }
            self.tokens_on_one_axis(match own {
                true => self.g.attend(q, k, v, mask, scale, self.rounding())?,
                false => self.g.flash_attn(q, k, v, mask, scale)?,
            })
        })?;
        match fused {
            true => self.g.permute(all, [0, 2, 1, 3]),
            false => Ok(all),
        }
    }

    /// Whether [`Self::attend_latents`] can be asked for: our own kernel can, and no token must round as it does alone.
    pub fn makes_keys(&self, rows: &str, (k, v): (WeightId, WeightId)) -> Result<bool> {
        let (rows, k, v) = (self.rows(rows)?, self.weight(k)?, self.weight(v)?);
        let can = || self.g.can_attend_latents(rows, k, v);
        Ok(self.kernels.own_attention && !self.plan.kind.exact && can())
    }

    /// Attention of a span's tokens over rows of latents, from which keys and values of every head are made: see
    /// [`crate::ggml::Builder::attend_latents`]. `q` has axes (width, token, head). Gives `{value, heads, tokens}`.
    pub fn attend_latents(
        &self,
        span: &Span,
        q: Tensor<'g>,
        rows: Heads<'_>,
        (k, v): (WeightId, WeightId),
        scale: f32,
        mask: Mask,
    ) -> Result<Tensor<'g>> {
        let matrices = (self.weight(k)?, self.weight(v)?);
        self.by_run(span, q, mask, 2, |q, run, mask| {
            let rows = self.heads(rows, run)?;
            let out = self.g.attend_latents(q, rows, matrices, mask, scale)?;
            self.tokens_on_one_axis(out)
        })
    }

    /// What `part(q, run, mask)` gives for each run of a span, with tokens on `axis`. A run's `q` has the axes (width,
    /// token, head, sequence).
    fn by_run(
        &self,
        span: &Span,
        q: Tensor<'g>,
        mask: Mask,
        axis: usize,
        part: impl Fn(Tensor<'g>, &Run, Tensor<'g>) -> Result<Tensor<'g>>,
    ) -> Result<Tensor<'g>> {
        let mut parts: Option<Tensor<'g>> = None;
        let groups = self.plan.groups.iter().zip(&self.groups);
        for (group, inputs) in groups.take(span.groups.end).skip(span.groups.start) {
            let masks = match mask {
                Mask::Causal => &inputs.masks,
                Mask::FromSecond => &inputs.mtp_masks,
            };
            for (run, mask) in group.runs.iter().zip(masks) {
                let (t, nb) = (group.n_tokens as usize, q.nb());
                let first = group.first_token as usize + run.first as usize * t;
                let q = self.g.view(
                    q,
                    &[q.ne()[0], t as i64, q.ne()[2], i64::from(run.n_seqs)],
                    &[nb[1], nb[2], nb[1] * t],
                    (first - span.first as usize) * nb[1],
                )?;
                let part = part(q, run, *mask)?;
                parts = Some(match parts {
                    None => part,
                    Some(before) => self.g.concat(before, part, axis)?,
                });
            }
        }
        parts.ok_or(GraphError::Alloc {
            what: "attention over no tokens",
        })
    }

    /// What a run looks at: (width, row, head, sequence).
    fn heads(&self, heads: Heads<'_>, run: &Run) -> Result<Tensor<'g>> {
        let memory = self.rows(heads.rows)?;
        let row = memory.nb()[1];
        let slot = row * self.memory.config().rows_per_slot() as usize;
        let head = memory.dtype().row_bytes(heads.width as u64);
        let head = head.map_or(usize::MAX, |bytes| bytes as usize);
        self.g.view(
            memory,
            &[
                heads.width,
                i64::from(run.n_kv),
                heads.n,
                i64::from(run.n_seqs),
            ],
            &[row, if heads.n == 1 { slot } else { head }, slot],
            run.first_slot as usize * slot,
        )
    }

    /// A fused kernel's result with all tokens on one axis: `{v_width, heads, tokens}`.
    fn tokens_on_one_axis(&self, out: Tensor<'g>) -> Result<Tensor<'g>> {
        let [width, heads, tokens, seqs] = out.ne();
        self.g.reshape(out, &[width, heads, tokens * seqs])
    }

    /// `{v_width, tokens, heads}`.
    fn unfused(
        &self,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        mask: Tensor<'g>,
        scale: f32,
    ) -> Result<Tensor<'g>> {
        let [d, t, heads, s] = q.ne();
        let [_, n_kv, shared, _] = k.ne();
        let v_width = v.ne()[0];
        if self.plan.kind.exact && heads == shared && t > 1 {
            return self.unfused_by_token(q, k, v, mask, scale);
        }
        // One key serves several heads: fold them into the columns, so that it is read once.
        let columns = t * heads / shared;
        let q = self.g.reshape(self.g.dense(q)?, &[d, columns, shared, s])?;
        let scores = self
            .g
            .reshape(self.g.mul_mat(k, q)?, &[n_kv, t, heads, s])?;
        let weights = self.g.soft_max(scores, Some(mask), scale)?;
        let weights = self.g.reshape(weights, &[n_kv, columns, shared, s])?;
        let v = self.g.cont(self.g.transpose(v)?)?;
        let out = self.g.mul_mat(v, weights)?;
        let out = self.g.reshape(out, &[v_width, t, heads, s])?;
        if s == 1 {
            return Ok(out);
        }
        let out = self.g.cont(self.g.permute(out, [0, 1, 3, 2])?)?;
        self.g.reshape(out, &[v_width, t * s, heads])
    }

    /// As [`Self::unfused`] where every head has keys of its own: a token is a single column there, and takes the kernel
    /// for one only if its neighbours lie on another axis.
    fn unfused_by_token(
        &self,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        mask: Tensor<'g>,
        scale: f32,
    ) -> Result<Tensor<'g>> {
        let g = self.g;
        let ([d, t, heads, s], nb) = (q.ne(), q.nb());
        let (n_kv, v_width) = (k.ne()[1], v.ne()[0]);
        let v = g.cont(g.transpose(v)?)?;
        let mut parts: Option<Tensor<'g>> = None;
        // Keys repeat along the last axis, which the tokens of one sequence take.
        for seq in 0..s as usize {
            let of = |x: Tensor<'g>| {
                let [a, b, c, _] = x.ne();
                g.view(x, &[a, b, c], &x.nb()[1..3], seq * x.nb()[3])
            };
            let q = g.view(q, &[d, 1, heads, t], &[nb[2], nb[2], nb[1]], seq * nb[3])?;
            let scores = g.mul_mat(of(k)?, q)?;
            let mask = g.view(
                mask,
                &[n_kv, 1, 1, t],
                &[mask.nb()[1], mask.nb()[1], mask.nb()[1]],
                seq * mask.nb()[3],
            )?;
            let weights = g.soft_max(scores, Some(mask), scale)?;
            let out = g.reshape(g.mul_mat(of(v)?, weights)?, &[v_width, heads, t])?;
            let out = g.cont(g.permute(out, [0, 2, 1, 3])?)?;
            parts = Some(match parts {
                None => out,
                Some(before) => g.concat(before, out, 1)?,
            });
        }
        parts.ok_or(GraphError::Alloc {
            what: "attention over no sequences",
        })
    }
}
