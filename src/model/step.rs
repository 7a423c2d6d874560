//! What an architecture builds its graph with: the step's inputs, weights, memory, and the operations on them.

mod attention;
mod recurrence;

use half::f16;

use super::loader::{WeightId, Weights};
use super::products::Shared;
use crate::ggml::{
    Builder, DType, GgmlError, Graph, GraphError, Scheduler, Slot, Tensor, TensorId,
};
use crate::memory::{DraftFrom, Group, Memory, Plan, Run};

pub use attention::{Heads, Mask, Span, supports_flash};

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

/// Largest F16.
const F16_MAX: f32 = 65504.0;

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
