//! What an architecture builds its graph with: the step's inputs, weights, memory, and the operations on them.

mod recurrence;

use std::ops::Range;

use half::f16;

use super::loader::{WeightId, Weights};
use super::products::Shared;
use crate::ggml::{
    Builder, DType, Device, GgmlError, Graph, GraphError, Scheduler, Slot, Tensor, TensorId,
};
use crate::memory::{DraftFrom, Group, Memory, Plan, RowSpec, Run};

/// How attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttentionKernel {
    /// One fused operation.
    Flash,
    /// Matrix products around a softmax.
    Unfused,
}

/// Which of several ways to compute the same a step takes.
#[derive(Debug, Clone, Copy)]
pub struct Kernels<'a> {
    /// Attention, where our own kernel does not compute it.
    pub attention: AttentionKernel,
    /// Whether our own kernel computes the attention it can.
    pub own_attention: bool,
    /// Whether our own kernels compute the products they can.
    pub own: bool,
    /// Types of weights whose products round otherwise for several columns than for one: exact steps multiply them
    /// column by column.
    pub by_column: &'a [DType],
}

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

/// Largest F16.
const F16_MAX: f32 = 65504.0;

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

/// Index inputs of one group.
struct GroupInputs<'g> {
    plane_in: Tensor<'g>,
    plane_out: Tensor<'g>,
    masks: Vec<Tensor<'g>>,
    mtp_masks: Vec<Tensor<'g>>,
}

/// Slots of a step's inputs, to set them before each computation.
#[derive(Debug)]
pub struct StepInputs {
    tokens: Slot,
    positions: Slot,
    kv_rows: Slot,
    outputs: Option<Slot>,
    predecessors: Option<Slot>,
    snapshot_tokens: Option<Slot>,
    all_planes_in: Option<Slot>,
    all_planes_out: Option<Slot>,
    groups: Vec<GroupSlots>,
}

#[derive(Debug)]
struct GroupSlots {
    plane_in: Slot,
    plane_out: Slot,
    masks: Vec<Slot>,
    mtp_masks: Vec<Slot>,
}

impl StepInputs {
    /// Uploads the index inputs of a plan with the same topology as the graph's.
    pub fn upload(
        &self,
        sched: &mut Scheduler,
        graph: &Graph,
        plan: &Plan,
    ) -> std::result::Result<(), GgmlError> {
        sched.set(graph, self.tokens, &plan.tokens)?;
        sched.set(graph, self.positions, &plan.positions)?;
        sched.set(graph, self.kv_rows, &plan.kv_rows)?;
        if let Some(slot) = self.outputs {
            sched.set(graph, slot, &plan.outputs)?;
        }
        if let Some(slot) = self.predecessors {
            sched.set(graph, slot, &plan.predecessors())?;
        }
        if let Some(slot) = self.snapshot_tokens {
            sched.set(graph, slot, &plan.snapshot_tokens())?;
        }
        if let Some(slot) = self.all_planes_in {
            let all: Vec<i32> = plan
                .groups
                .iter()
                .flat_map(|g| g.plane_in.iter().copied())
                .collect();
            sched.set(graph, slot, &all)?;
        }
        if let Some(slot) = self.all_planes_out {
            let all: Vec<i64> = plan
                .groups
                .iter()
                .flat_map(|g| g.plane_out.iter().copied())
                .collect();
            sched.set(graph, slot, &all)?;
        }
        let mut mask: Vec<f16> = Vec::new();
        for (slots, group) in self.groups.iter().zip(&plan.groups) {
            sched.set(graph, slots.plane_in, &group.plane_in)?;
            sched.set(graph, slots.plane_out, &group.plane_out)?;
            for (slot, run) in slots.masks.iter().zip(&group.runs) {
                plan.mask(group, run, 0, &mut mask);
                sched.set(graph, *slot, &mask)?;
            }
            for (slot, run) in slots.mtp_masks.iter().zip(&group.runs) {
                plan.mask(group, run, 1, &mut mask);
                sched.set(graph, *slot, &mask)?;
            }
        }
        Ok(())
    }
}

/// One step under construction. Activations are `{width, tokens}` in step order.
pub struct Step<'g, 'a> {
    g: &'a Builder<'g>,
    weights: &'a Weights,
    memory: &'a Memory,
    plan: &'a Plan,
    kernels: Kernels<'a>,
    tokens: Tensor<'g>,
    positions: Tensor<'g>,
    kv_rows: Tensor<'g>,
    outputs: Option<Tensor<'g>>,
    groups: Vec<GroupInputs<'g>>,
    mtp: Option<MtpInputs<'g>>,
    shared: Shared<'g>,
}

/// Index inputs that pair each token with its predecessor's hidden state.
struct MtpInputs<'g> {
    predecessors: Tensor<'g>,
    snapshot_tokens: Tensor<'g>,
    planes_in: Tensor<'g>,
    planes_out: Tensor<'g>,
}

type Result<T> = std::result::Result<T, GraphError>;

impl<'g, 'a> Step<'g, 'a> {
    /// Creates the inputs of a step.
    pub fn new(
        g: &'a Builder<'g>,
        weights: &'a Weights,
        memory: &'a Memory,
        plan: &'a Plan,
        kernels: Kernels<'a>,
        n_vocab: u32,
    ) -> Result<(Self, StepInputs)> {
        let n = plan.n_tokens() as u64;
        let n_vocab = u64::from(n_vocab);
        let tokens = g.index_input("tokens", DType::I32, &[n], n_vocab)?;
        let positions = g.input("positions", DType::I32, &[n])?;
        let config = memory.config();
        let n_rows = u64::from(config.rows_per_slot()) * u64::from(config.n_seq);
        let kv_rows = g.index_input("kv_rows", DType::I64, &[n], n_rows)?;
        let outputs = match plan.outputs.len() as u64 {
            0 => None,
            n_out => Some(g.index_input("outputs", DType::I32, &[n_out], n)?),
        };
        let drafts = plan.kind.draft.is_some();
        let mtp = if plan.kind.mtp && !drafts {
            Some(mtp_inputs(g, plan, config.n_planes())?)
        } else {
            None
        };
        let with_mtp = plan.kind.mtp || drafts;
        let groups = plan
            .groups
            .iter()
            .map(|group| group_inputs(g, group, with_mtp, plane_bounds(plan, memory)))
            .collect::<Result<Vec<_>>>()?;
        let inputs = StepInputs {
            tokens: g.keep(tokens),
            positions: g.keep(positions),
            kv_rows: g.keep(kv_rows),
            outputs: outputs.map(|t| g.keep(t)),
            predecessors: mtp.as_ref().map(|m| g.keep(m.predecessors)),
            snapshot_tokens: mtp.as_ref().map(|m| g.keep(m.snapshot_tokens)),
            all_planes_in: mtp.as_ref().map(|m| g.keep(m.planes_in)),
            all_planes_out: mtp.as_ref().map(|m| g.keep(m.planes_out)),
            groups: groups
                .iter()
                .map(|i| GroupSlots {
                    plane_in: g.keep(i.plane_in),
                    plane_out: g.keep(i.plane_out),
                    masks: i.masks.iter().map(|m| g.keep(*m)).collect(),
                    mtp_masks: i.mtp_masks.iter().map(|m| g.keep(*m)).collect(),
                })
                .collect(),
        };
        Ok((
            Self {
                g,
                weights,
                memory,
                plan,
                kernels,
                tokens,
                positions,
                kv_rows,
                outputs,
                groups,
                mtp,
                shared: Shared::default(),
            },
            inputs,
        ))
    }

    /// The operations.
    pub fn g(&self) -> &'a Builder<'g> {
        self.g
    }

    /// Tokens in the step.
    pub fn n_tokens(&self) -> i64 {
        self.plan.n_tokens() as i64
    }

    /// Position of each token: I32 `{tokens}`.
    pub fn positions(&self) -> Tensor<'g> {
        self.positions
    }

    /// Whether the MTP head runs in this step.
    pub fn runs_mtp(&self) -> bool {
        self.mtp.is_some()
    }

    /// Whether the MTP head's logits are wanted.
    pub fn wants_mtp_logits(&self) -> bool {
        self.plan.kind.mtp_logits
    }

    /// Tokens the head chooses among when it guesses: so many of the vocabulary's first.
    pub fn draft_vocab(&self) -> i64 {
        match self.plan.kind.draft_vocab {
            0 => i64::MAX,
            n => i64::from(n),
        }
    }

    /// Whether hidden states are wanted instead of logits.
    pub fn wants_hidden(&self) -> bool {
        self.plan.kind.hidden
    }

    /// Whether any token's logits are wanted.
    pub fn has_outputs(&self) -> bool {
        self.outputs.is_some()
    }

    /// Number of tokens whose logits are wanted.
    pub fn n_outputs(&self) -> usize {
        self.plan.outputs.len()
    }

    /// The model's weights.
    pub fn weights(&self) -> &'a Weights {
        self.weights
    }

    /// Whether our own kernels compute the products they can.
    pub(super) fn own_kernels(&self) -> bool {
        self.kernels.own
    }

    /// Activations that are in 8 bits already.
    pub(super) fn shared(&self) -> &Shared<'g> {
        &self.shared
    }

    /// Whether every token must get the bits it would get in a step of its own.
    pub fn is_exact(&self) -> bool {
        self.plan.kind.exact && self.plan.n_tokens() > 1
    }

    /// Whether ggml's products with `w` must be asked for column by column, with tokens on an axis of their own.
    pub fn by_column(&self, w: Tensor<'g>) -> bool {
        self.is_exact() && self.kernels.by_column.contains(&w.dtype())
    }

    /// A weight.
    pub fn weight(&self, id: WeightId) -> Result<Tensor<'g>> {
        self.g.stored(self.weights.store(), self.weights.id(id))
    }

    /// `W x`, `x {width, n}`.
    pub fn linear(&self, w: WeightId, x: Tensor<'g>) -> Result<Tensor<'g>> {
        self.product(self.weight(w)?, x)
    }

    /// The first `n_rows` rows of `W x`, or all if there are fewer.
    pub fn linear_first(&self, w: WeightId, x: Tensor<'g>, n_rows: i64) -> Result<Tensor<'g>> {
        let w = self.weight(w)?;
        let [width, rows, ..] = w.ne();
        if n_rows >= rows {
            return self.product(w, x);
        }
        let first = self.g.view(w, &[width, n_rows], &[w.nb()[1]], 0)?;
        self.product(first, x)
    }

    fn product(&self, w: Tensor<'g>, x: Tensor<'g>) -> Result<Tensor<'g>> {
        if let Some(matrix) = self.matrix_of(w, false) {
            let x = self.quantized(x, matrix.layout(), None)?;
            return self.g.product(matrix, x, self.rounding());
        }
        let ([width, n, ..], nb) = (x.ne(), x.nb());
        if n == 1 || !self.by_column(w) {
            return self.g.mul_mat(w, x);
        }
        // Each column is a matrix of its own, which takes the kernel for one column; rows of W stay in cache meanwhile.
        let columns = self.g.view(x, &[width, 1, n], &[nb[1], nb[1]], 0)?;
        let out = self.g.mul_mat(w, columns)?;
        self.g.reshape(out, &[w.ne()[1], n])
    }

    /// `x / rms(x) * w`, over the innermost dimension.
    pub fn norm(&self, w: WeightId, x: Tensor<'g>, eps: f32) -> Result<Tensor<'g>> {
        self.g.mul(self.g.rms_norm(x, eps)?, self.weight(w)?)
    }

    /// Embeddings of the step's tokens: `{n_embd, tokens}`.
    pub fn embed(&self, table: WeightId) -> Result<Tensor<'g>> {
        self.g.get_rows(self.weight(table)?, self.tokens)
    }

    /// The columns of `x` whose logits are wanted, or `None` if none are.
    pub fn output_rows(&self, x: Tensor<'g>) -> Result<Option<Tensor<'g>>> {
        self.outputs.map(|ids| self.g.get_rows(x, ids)).transpose()
    }

    /// Writes one row per token into attention memory: `x {width, tokens}`.
    pub fn store_rows(&self, rows: &str, x: Tensor<'g>) -> Result<()> {
        // Rows outlive their sequence behind a mask, and 0 times NaN or infinity would shine through it.
        let x = self.g.clamp(self.g.dense(x)?, -F16_MAX, F16_MAX)?;
        let written = self.g.set_rows(self.rows(rows)?, x, self.kv_rows)?;
        self.g.expand(written);
        Ok(())
    }

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
    /// [`Builder::attend_latents`]. `q` has axes (width, token, head). Gives `{value, heads, tokens}`.
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

    fn rows(&self, name: &str) -> Result<Tensor<'g>> {
        self.memory_tensor(self.memory.rows(name))
    }

    fn planes(&self, name: &str) -> Result<Tensor<'g>> {
        self.memory_tensor(self.memory.planes(name))
    }

    fn cells(&self, name: &str) -> Result<Tensor<'g>> {
        self.memory_tensor(self.memory.cells(name))
    }

    fn constant(&self, name: &str) -> Result<Tensor<'g>> {
        self.memory_tensor(self.memory.constant(name))
    }

    fn memory_tensor(&self, id: Option<TensorId>) -> Result<Tensor<'g>> {
        let id = id.ok_or(GraphError::Alloc {
            what: "memory the architecture did not ask for",
        })?;
        self.g.stored(self.memory.store(), id)
    }
}

/// Bounds of the plane indices that a plan reads and writes: those of the pool, or of the slots' cells.
fn plane_bounds(plan: &Plan, memory: &Memory) -> (u64, u64) {
    let (pool, cells) = (memory.config().n_planes(), u64::from(memory.config().n_seq));
    match plan.kind.draft {
        None => (pool, pool),
        Some(DraftFrom::Trunk) => (pool, cells),
        Some(DraftFrom::Head) => (cells, cells),
    }
}

fn group_inputs<'g>(
    g: &Builder<'g>,
    group: &Group,
    mtp: bool,
    (planes_in, planes_out): (u64, u64),
) -> Result<GroupInputs<'g>> {
    let s = group.seqs.len() as u64;
    let mask = |name: &str| {
        let shape = |run: &Run| {
            [
                u64::from(run.n_kv),
                u64::from(group.n_tokens),
                1,
                u64::from(run.n_seqs),
            ]
        };
        group
            .runs
            .iter()
            .map(|run| g.input(name, DType::F16, &shape(run)))
            .collect::<Result<Vec<_>>>()
    };
    Ok(GroupInputs {
        plane_in: g.index_input("plane_in", DType::I32, &[s], planes_in)?,
        plane_out: g.index_input(
            "plane_out",
            DType::I64,
            &[s * u64::from(group.n_snapshots)],
            planes_out,
        )?,
        masks: mask("mask")?,
        mtp_masks: if mtp { mask("mtp_mask")? } else { Vec::new() },
    })
}

fn mtp_inputs<'g>(g: &Builder<'g>, plan: &Plan, n_planes: u64) -> Result<MtpInputs<'g>> {
    let n = plan.n_tokens() as u64;
    let n_seqs: u64 = plan
        .groups
        .iter()
        .map(|group| group.seqs.len() as u64)
        .sum();
    let n_snapshots: u64 = plan
        .groups
        .iter()
        .map(|group| group.plane_out.len() as u64)
        .sum();
    Ok(MtpInputs {
        predecessors: g.index_input("predecessors", DType::I32, &[n], n_seqs + n)?,
        snapshot_tokens: g.index_input("snapshot_tokens", DType::I32, &[n_snapshots], n)?,
        planes_in: g.index_input("planes_in", DType::I32, &[n_seqs], n_planes)?,
        planes_out: g.index_input("planes_out", DType::I64, &[n_snapshots], n_planes)?,
    })
}
