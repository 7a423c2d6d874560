//! Memory of sequences: attention rows per token, and recurrent planes with room for snapshots.
//!
//! Each sequence slot owns rows for its context in every attention layer and `n_snapshots` planes of every recurrent
//! state. After a step, plane `j` of a slot holds the state `j` tokens before the newest; rolling back by `j`
//! tokens is a change of index. Plane 0 of the pool is all zeros and never written: a fresh sequence reads it.

#![forbid(unsafe_code)]

mod plan;
mod prefix;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use plan::{DraftFrom, DraftWork, Group, Plan, Run, StepKind, Topology, Work};
pub use prefix::Rows;

use crate::ggml::{DType, Device, GgmlError, Placement, Store, StoreBuilder, TensorId};

/// Index of a sequence slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u32);

/// What a model asks to be remembered.
#[derive(Debug, Clone, Default)]
pub struct MemorySpec {
    /// Attention rows, one per token and layer.
    pub rows: Vec<RowSpec>,
    /// Recurrent states, one plane per snapshot.
    pub planes: Vec<PlaneSpec>,
    /// Vectors that a slot keeps from one draft to the next. They are no part of its sequence's state.
    pub cells: Vec<CellSpec>,
    /// Constant vectors a graph needs, such as the time step of the scan.
    pub constants: Vec<ConstantSpec>,
}

/// Attention rows of one layer: keys, values, or both in one.
#[derive(Debug, Clone)]
pub struct RowSpec {
    /// Name, such as `blk.7.latent`.
    pub name: String,
    /// Heads that a row holds, one after the other: 1 if all share it.
    pub n_head: u64,
    /// Elements of one of them.
    pub head_width: u64,
    /// The attention that takes the rows for keys; `None` if they are values only.
    pub read_by: Option<Reader>,
    /// Device that holds the layer.
    pub device: Device,
}

impl RowSpec {
    /// Elements of one token's row.
    pub fn width(&self) -> u64 {
        self.n_head * self.head_width
    }
}

/// What an attention makes of rows.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    /// Heads that look.
    pub n_head: u64,
    /// Width of a value.
    pub value_width: u64,
    /// Whether the value is the start of the key (MLA's latent); otherwise values are rows of their own.
    pub value_in_row: bool,
}

/// A recurrent state, always F32.
#[derive(Debug, Clone)]
pub struct PlaneSpec {
    /// Name, such as `blk.0.state`.
    pub name: String,
    /// Elements of one plane.
    pub width: u64,
    /// Device that holds the layer.
    pub device: Device,
}

/// One vector per slot, always F32.
#[derive(Debug, Clone)]
pub struct CellSpec {
    /// Name, such as `mtp.draft`.
    pub name: String,
    /// Elements.
    pub width: u64,
    /// Device that uses it.
    pub device: Device,
}

/// A constant vector.
#[derive(Debug, Clone)]
pub struct ConstantSpec {
    /// Name by which the graph finds it.
    pub name: String,
    /// The value of every element.
    pub value: f32,
    /// Elements per token of a step.
    pub per_token: u64,
    /// Device that needs it.
    pub device: Device,
}

/// Sizes of a [`Memory`].
#[derive(Debug, Clone, Copy)]
pub struct MemoryConfig {
    /// Sequence slots.
    pub n_seq: u32,
    /// Tokens per slot.
    pub n_ctx_seq: u32,
    /// States kept per sequence: 1, plus one for each token that may be rolled back.
    pub n_snapshots: u32,
    /// Largest number of tokens in one graph.
    pub n_ubatch: u32,
    /// Element type of attention rows.
    pub row_type: DType,
    /// Rows that attention looks at come in multiples of this: graphs can be used again while a sequence grows, and
    /// some devices' kernels ask for it.
    pub row_step: u32,
}

impl MemoryConfig {
    /// Planes in the pool of each state: the zero plane, and every slot's own.
    pub fn n_planes(&self) -> u64 {
        1 + u64::from(self.n_seq) * u64::from(self.n_snapshots)
    }

    /// Rows a slot owns: `n_ctx_seq` in whole steps.
    pub fn rows_per_slot(&self) -> u32 {
        self.n_ctx_seq.next_multiple_of(self.row_step.max(1))
    }
}

/// What can go wrong with sequence memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A slot number that does not exist.
    #[error("sequence {seq} does not exist: there are {n_seq} slots")]
    NoSuchSequence {
        /// The slot asked for.
        seq: u32,
        /// Slots that exist.
        n_seq: u32,
    },
    /// A sequence has no room for more tokens.
    #[error("the context is full: {n_past} tokens are in it, {n_new} more do not fit into {n_ctx}")]
    ContextFull {
        /// Tokens in the sequence.
        n_past: u32,
        /// Tokens to be added.
        n_new: u32,
        /// Room for one sequence.
        n_ctx: u32,
    },
    /// More tokens in one graph than memory was made for.
    #[error("a step of {n_tokens} tokens exceeds the micro-batch of {n_ubatch}")]
    StepTooLarge {
        /// Tokens in the step.
        n_tokens: usize,
        /// The limit.
        n_ubatch: u32,
    },
    /// Guesses from the trunk's state beside guesses from the head's own.
    #[error("first and later drafts in one step")]
    MixedDrafts,
    /// The same sequence twice in one step.
    #[error("sequence {seq} occurs twice in one step")]
    DuplicateSequence {
        /// The slot.
        seq: u32,
    },
    /// A recurrent state cannot be rewound that far.
    #[error(
        "the recurrent state of sequence {seq} cannot go back to token {to}: it holds tokens {oldest} to {newest}"
    )]
    CannotRewind {
        /// The slot.
        seq: u32,
        /// The length asked for.
        to: u32,
        /// Oldest length with a kept state.
        oldest: u32,
        /// Current length.
        newest: u32,
    },
    /// A checkpoint of another model or configuration.
    #[error("the checkpoint holds {found} bytes of state, this memory needs {expected}")]
    ForeignCheckpoint {
        /// Bytes in the checkpoint.
        found: usize,
        /// Bytes this memory needs.
        expected: usize,
    },
    /// Rows or states from outside with values that are not numbers.
    #[error("the rows or states hold values that are not finite numbers")]
    NotFinite,
    /// A cache type whose blocks do not divide the heads of rows.
    #[error(
        "cache type {ty} packs {block} values per block, which does not divide heads of {width}"
    )]
    RowType {
        /// The type asked for.
        ty: DType,
        /// Its block size.
        block: u64,
        /// Width of the model's heads.
        width: u64,
    },
    /// A token identifier outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {n_vocab}")]
    BadToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        n_vocab: u32,
    },
    /// ggml failed.
    #[error(transparent)]
    Ggml(#[from] GgmlError),
}

impl MemoryError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ContextFull { .. } => Some("make the context larger with -c".into()),
            Self::RowType { .. } => Some("use -ctk f16, bf16 or f32".into()),
            Self::Ggml(e) => e.hint(),
            _ => None,
        }
    }
}

/// Bookkeeping of one sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sequence {
    /// Tokens whose rows and states are in memory.
    n_past: u32,
    /// Plane of the current state among the slot's own; `None` is the zero plane.
    plane: Option<u32>,
    /// Older planes that are still valid behind `plane`.
    older: u32,
}

/// The recurrent state of a sequence at one position, copied out of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Tokens the state has seen.
    pub n_past: u32,
    /// All planes one after the other, in the order of [`MemorySpec::planes`].
    pub state: Vec<u8>,
}

/// Rows, planes and bookkeeping of all sequences.
#[derive(Debug)]
pub struct Memory {
    config: MemoryConfig,
    store: Arc<Store>,
    rows: BTreeMap<String, (TensorId, u64)>,
    planes: BTreeMap<String, (TensorId, u64)>,
    plane_order: Vec<String>,
    cells: BTreeMap<String, TensorId>,
    constants: BTreeMap<String, (TensorId, f32)>,
    sequences: Vec<Sequence>,
}

impl Memory {
    /// Allocates memory for a model.
    pub fn new(spec: &MemorySpec, config: MemoryConfig) -> Result<Self, MemoryError> {
        let count = spec.rows.len() + spec.planes.len() + spec.cells.len() + spec.constants.len();
        let mut builder = StoreBuilder::new(count.max(1), true).map_err(GgmlError::from)?;
        let n_rows = u64::from(config.rows_per_slot()) * u64::from(config.n_seq);
        let n_planes = config.n_planes();
        let (mut rows, mut planes, mut constants) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for row in &spec.rows {
            let block = config.row_type.block_size();
            if !row.head_width.is_multiple_of(block) {
                return Err(MemoryError::RowType {
                    ty: config.row_type,
                    block,
                    width: row.head_width,
                });
            }
            let place = Placement::Alloc(row.device.buffer_type());
            let id = builder
                .tensor(&row.name, config.row_type, &[row.width(), n_rows], place)
                .map_err(GgmlError::from)?;
            rows.insert(row.name.clone(), (id, row.width()));
        }
        for plane in &spec.planes {
            let place = Placement::Alloc(plane.device.buffer_type());
            let id = builder
                .tensor(&plane.name, DType::F32, &[plane.width, n_planes], place)
                .map_err(GgmlError::from)?;
            planes.insert(plane.name.clone(), (id, plane.width));
        }
        let mut cells = BTreeMap::new();
        for cell in &spec.cells {
            let place = Placement::Alloc(cell.device.buffer_type());
            let shape = [cell.width, u64::from(config.n_seq)];
            let id = builder
                .tensor(&cell.name, DType::F32, &shape, place)
                .map_err(GgmlError::from)?;
            cells.insert(cell.name.clone(), id);
        }
        for constant in &spec.constants {
            let place = Placement::Alloc(constant.device.buffer_type());
            let n = constant.per_token * u64::from(config.n_ubatch);
            let id = builder
                .tensor(&constant.name, DType::F32, &[n], place)
                .map_err(GgmlError::from)?;
            constants.insert(constant.name.clone(), (id, constant.value));
        }
        let store = builder.build()?;
        let memory = Self {
            config,
            store,
            rows,
            planes,
            plane_order: spec.planes.iter().map(|p| p.name.clone()).collect(),
            cells,
            constants,
            sequences: vec![Sequence::default(); config.n_seq as usize],
        };
        memory.write_constants()?;
        Ok(memory)
    }

    /// Bytes one memory of this shape would take, for planning.
    pub fn bytes_needed(spec: &MemorySpec, config: &MemoryConfig) -> Option<u64> {
        let n_rows = u64::from(config.rows_per_slot()).checked_mul(u64::from(config.n_seq))?;
        let n_planes = config.n_planes();
        let rows = spec.rows.iter().try_fold(0u64, |sum, r| {
            sum.checked_add(config.row_type.row_bytes(r.width())?.checked_mul(n_rows)?)
        })?;
        spec.planes.iter().try_fold(rows, |sum, p| {
            sum.checked_add(p.width.checked_mul(4 * n_planes)?)
        })
    }

    /// The sizes this memory was made with.
    pub fn config(&self) -> &MemoryConfig {
        &self.config
    }

    /// The tensors, for graphs.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Attention rows by name: tensor `{width, rows_per_slot * n_seq}`.
    pub fn rows(&self, name: &str) -> Option<TensorId> {
        self.rows.get(name).map(|r| r.0)
    }

    /// Recurrent planes by name: tensor `{width, planes}`.
    pub fn planes(&self, name: &str) -> Option<TensorId> {
        self.planes.get(name).map(|p| p.0)
    }

    /// Cells by name: tensor `{width, n_seq}`.
    pub fn cells(&self, name: &str) -> Option<TensorId> {
        self.cells.get(name).copied()
    }

    /// A constant vector by name.
    pub fn constant(&self, name: &str) -> Option<TensorId> {
        self.constants.get(name).map(|c| c.0)
    }

    /// Tokens in a sequence.
    pub fn n_past(&self, seq: SeqId) -> Result<u32, MemoryError> {
        self.sequence(seq).map(|s| s.n_past)
    }

    /// Whether the model keeps recurrent state.
    pub fn is_recurrent(&self) -> bool {
        !self.planes.is_empty()
    }

    /// Forgets a sequence. Its rows stay but are never read again.
    pub fn clear(&mut self, seq: SeqId) -> Result<(), MemoryError> {
        *self.sequence_mut(seq)? = Sequence::default();
        Ok(())
    }

    /// Shortens a sequence to `to` tokens without computing anything.
    ///
    /// # Errors
    /// [`MemoryError::CannotRewind`] if a recurrent state for that length is no longer kept.
    pub fn truncate(&mut self, seq: SeqId, to: u32) -> Result<(), MemoryError> {
        let recurrent = self.is_recurrent();
        let s = self.sequence_mut(seq)?;
        if to >= s.n_past {
            return Ok(());
        }
        let back = s.n_past - to;
        if to == 0 {
            *s = Sequence::default();
        } else if !recurrent {
            s.n_past = to;
        } else if back <= s.older {
            s.plane = s.plane.map(|p| p + back);
            s.older -= back;
            s.n_past = to;
        } else {
            return Err(MemoryError::CannotRewind {
                seq: seq.0,
                to,
                oldest: s.n_past - s.older,
                newest: s.n_past,
            });
        }
        Ok(())
    }

    /// Makes `to` an independent copy of `from`.
    pub fn copy(&mut self, from: SeqId, to: SeqId) -> Result<(), MemoryError> {
        if from == to {
            return Ok(());
        }
        let source = *self.sequence(from)?;
        self.sequence(to)?;
        self.copy_rows(from, to, source.n_past)?;
        let plane = if source.plane.is_some() {
            let state = self.read_planes(self.plane_index(from, &source))?;
            self.write_planes(self.own_plane(to, 0), &state)?;
            Some(0)
        } else {
            None
        };
        *self.sequence_mut(to)? = Sequence {
            n_past: source.n_past,
            plane,
            older: 0,
        };
        Ok(())
    }

    /// Copies the recurrent state out of the device. Attention rows need no copy: they are truncated.
    pub fn checkpoint(&self, seq: SeqId) -> Result<Checkpoint, MemoryError> {
        let s = self.sequence(seq)?;
        Ok(Checkpoint {
            n_past: s.n_past,
            state: self.read_planes(self.plane_index(seq, s))?,
        })
    }

    /// Puts a sequence back to a checkpoint taken from it. The rows up to that length must still be its own:
    /// callers keep checkpoints with the tokens they belong to.
    pub fn restore(&mut self, seq: SeqId, checkpoint: &Checkpoint) -> Result<(), MemoryError> {
        let n_past = self.sequence(seq)?.n_past;
        if checkpoint.n_past > n_past {
            return Err(MemoryError::CannotRewind {
                seq: seq.0,
                to: checkpoint.n_past,
                oldest: n_past,
                newest: n_past,
            });
        }
        self.write_planes(self.own_plane(seq, 0), &checkpoint.state)?;
        *self.sequence_mut(seq)? = Sequence {
            n_past: checkpoint.n_past,
            plane: Some(0),
            older: 0,
        };
        Ok(())
    }

    /// Takes note that a planned step was computed.
    pub fn commit(&mut self, plan: &Plan) {
        for group in &plan.groups {
            let kept = group.n_snapshots;
            for &seq in &group.seqs {
                if let Some(s) = self.sequences.get_mut(seq.0 as usize) {
                    s.n_past += group.n_tokens;
                    s.plane = Some(0);
                    s.older = kept - 1;
                }
            }
        }
    }

    /// Overwrites every plane but the zero plane with one byte value: tests look for reads of unwritten state with it.
    pub fn poison(&self, value: u8) -> Result<(), MemoryError> {
        for (id, width) in self.planes.values() {
            let (plane, all) = (
                *width as usize * 4,
                self.store.bytes_of(*id).map_err(GgmlError::from)?,
            );
            self.store.write(*id, plane, &vec![value; all - plane])?;
        }
        Ok(())
    }

    fn write_constants(&self) -> Result<(), MemoryError> {
        for (id, value) in self.constants.values() {
            let n = self.store.bytes_of(*id).map_err(GgmlError::from)? / 4;
            self.store
                .write(*id, 0, bytemuck::cast_slice(&vec![*value; n]))?;
        }
        Ok(())
    }

    fn sequence(&self, seq: SeqId) -> Result<&Sequence, MemoryError> {
        self.sequences
            .get(seq.0 as usize)
            .ok_or(MemoryError::NoSuchSequence {
                seq: seq.0,
                n_seq: self.config.n_seq,
            })
    }

    fn sequence_mut(&mut self, seq: SeqId) -> Result<&mut Sequence, MemoryError> {
        let n_seq = self.config.n_seq;
        self.sequences
            .get_mut(seq.0 as usize)
            .ok_or(MemoryError::NoSuchSequence { seq: seq.0, n_seq })
    }

    /// Index in the pool of a slot's own plane `j`.
    fn own_plane(&self, seq: SeqId, j: u32) -> u32 {
        1 + seq.0 * self.config.n_snapshots + j
    }

    /// Index in the pool of a sequence's current state.
    fn plane_index(&self, seq: SeqId, s: &Sequence) -> u32 {
        s.plane.map_or(0, |p| self.own_plane(seq, p))
    }

    fn read_planes(&self, plane: u32) -> Result<Vec<u8>, MemoryError> {
        let mut out = Vec::new();
        for name in &self.plane_order {
            let (id, width) = self.planes[name];
            let (start, bytes) = (out.len(), width as usize * 4);
            out.resize(start + bytes, 0);
            self.store
                .read(id, plane as usize * bytes, &mut out[start..])?;
        }
        Ok(out)
    }

    fn write_planes(&self, plane: u32, state: &[u8]) -> Result<(), MemoryError> {
        let expected = self.state_bytes();
        if state.len() != expected {
            return Err(MemoryError::ForeignCheckpoint {
                found: state.len(),
                expected,
            });
        }
        let mut rest = state;
        for name in &self.plane_order {
            let (id, width) = self.planes[name];
            let (now, later) = rest.split_at(width as usize * 4);
            self.store.write(id, plane as usize * now.len(), now)?;
            rest = later;
        }
        Ok(())
    }
}
