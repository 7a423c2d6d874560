//! Prefixes that leave a slot: attention rows and states copied out, into another slot, and back.

#![forbid(unsafe_code)]

use half::{bf16, f16};

use super::{Checkpoint, Memory, MemoryError, SeqId, Sequence};
use crate::ggml::DType;

/// Attention rows of the first tokens of a sequence, copied out of the devices: per layer, one row per token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    n: u32,
    bytes: Vec<u8>,
}

impl Rows {
    /// Rows of `n` tokens as [`Rows::bytes`] gave them.
    pub fn new(n: u32, bytes: Vec<u8>) -> Self {
        Self { n, bytes }
    }

    /// Tokens.
    pub fn n(&self) -> u32 {
        self.n
    }

    /// The rows, layer after layer.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Memory {
    /// Bytes of one token's rows in all layers.
    pub fn row_bytes(&self) -> usize {
        self.row_sizes().sum()
    }

    /// Bytes of one state.
    pub fn state_bytes(&self) -> usize {
        self.planes.values().map(|p| p.1 as usize * 4).sum()
    }

    fn row_sizes(&self) -> impl Iterator<Item = usize> {
        let ty = self.config.row_type;
        self.rows
            .values()
            .map(move |r| ty.row_bytes(r.1).unwrap_or(0) as usize)
    }

    /// What rows and states look like, in words: prefixes fit memories of the same layout.
    pub fn layout(&self) -> String {
        let mut text = format!("rows {}", self.config.row_type);
        for (name, (_, width)) in &self.rows {
            text += &format!(" {name}:{width}");
        }
        text += " planes";
        for name in &self.plane_order {
            text += &format!(" {name}:{}", self.planes[name].1);
        }
        text
    }

    /// The shortest length that [`Memory::truncate`] can go back to, apart from 0.
    pub fn oldest(&self, seq: SeqId) -> Result<u32, MemoryError> {
        let s = self.sequence(seq)?;
        Ok(if self.is_recurrent() {
            s.n_past - s.older
        } else {
            0
        })
    }

    /// Copies the rows of the first `n` tokens out.
    ///
    /// # Errors
    /// The sequence is shorter than that, or a device fails.
    pub fn export_rows(&self, seq: SeqId, n: u32) -> Result<Rows, MemoryError> {
        self.check_length(seq, n)?;
        let mut bytes = Vec::with_capacity(self.row_bytes() * n as usize);
        for (&(id, _), size) in self.rows.values().zip(self.row_sizes()) {
            let start = bytes.len();
            bytes.resize(start + size * n as usize, 0);
            self.store
                .read(id, self.first_row(seq) * size, &mut bytes[start..])?;
        }
        Ok(Rows { n, bytes })
    }

    /// The first `n` tokens of rows.
    pub fn shorten_rows(&self, rows: &Rows, n: u32) -> Rows {
        let n = n.min(rows.n);
        let mut bytes = Vec::with_capacity(self.row_bytes() * n as usize);
        let mut rest = rows.bytes.as_slice();
        for size in self.row_sizes() {
            let (layer, later) = rest.split_at((size * rows.n as usize).min(rest.len()));
            bytes.extend_from_slice(&layer[..(size * n as usize).min(layer.len())]);
            rest = later;
        }
        Rows { n, bytes }
    }

    /// Makes a sequence the prefix that `rows` (or the first of them) and `checkpoint` hold.
    ///
    /// # Errors
    /// [`MemoryError::ForeignCheckpoint`] for rows or states of another layout, [`MemoryError::NotFinite`] for values
    /// that no computation leaves, [`MemoryError::ContextFull`] if there is no room. The sequence then is empty.
    pub fn import(
        &mut self,
        seq: SeqId,
        rows: &Rows,
        checkpoint: &Checkpoint,
    ) -> Result<(), MemoryError> {
        self.clear(seq)?;
        let n = checkpoint.n_past;
        let expected = self.row_bytes() * rows.n as usize;
        if rows.bytes.len() != expected || n > rows.n {
            return Err(MemoryError::ForeignCheckpoint {
                found: rows.bytes.len(),
                expected: expected.max(self.row_bytes() * n as usize),
            });
        }
        if n > self.config.n_ctx_seq {
            return Err(MemoryError::ContextFull {
                n_past: 0,
                n_new: n,
                n_ctx: self.config.n_ctx_seq,
            });
        }
        // Masked rows are multiplied by zero: one NaN would reach whoever uses the slot next.
        if !finite(self.config.row_type, &rows.bytes) {
            return Err(MemoryError::NotFinite);
        }
        self.check_state(checkpoint)?;
        self.write_planes(self.own_plane(seq, 0), &checkpoint.state)?;
        let mut rest = rows.bytes.as_slice();
        for (&(id, _), size) in self.rows.values().zip(self.row_sizes()) {
            let (layer, later) = rest.split_at(size * rows.n as usize);
            self.store
                .write(id, self.first_row(seq) * size, &layer[..size * n as usize])?;
            rest = later;
        }
        self.begin_at(seq, n)
    }

    /// Whether a state from outside can be one of this memory.
    ///
    /// # Errors
    /// As [`Memory::import`].
    pub fn check_state(&self, checkpoint: &Checkpoint) -> Result<(), MemoryError> {
        let (found, expected) = (checkpoint.state.len(), self.state_bytes());
        if found != expected {
            return Err(MemoryError::ForeignCheckpoint { found, expected });
        }
        if !finite(DType::F32, &checkpoint.state) {
            return Err(MemoryError::NotFinite);
        }
        Ok(())
    }

    /// Makes `to` the prefix of `from` that `checkpoint` was taken of. `from` may have gone on since, but not back
    /// behind it: callers keep checkpoints with the tokens they belong to.
    pub fn copy_prefix(
        &mut self,
        from: SeqId,
        to: SeqId,
        checkpoint: &Checkpoint,
    ) -> Result<(), MemoryError> {
        if from == to {
            return self.restore(to, checkpoint);
        }
        let n = checkpoint.n_past;
        self.check_length(from, n)?;
        self.clear(to)?;
        self.write_planes(self.own_plane(to, 0), &checkpoint.state)?;
        self.copy_rows(from, to, n)?;
        self.begin_at(to, n)
    }

    /// Copies the rows of the first `n` tokens from slot to slot.
    pub(super) fn copy_rows(&self, from: SeqId, to: SeqId, n: u32) -> Result<(), MemoryError> {
        for (&(id, _), size) in self.rows.values().zip(self.row_sizes()) {
            let mut bytes = vec![0u8; size * n as usize];
            self.store
                .read(id, self.first_row(from) * size, &mut bytes)?;
            self.store.write(id, self.first_row(to) * size, &bytes)?;
        }
        Ok(())
    }

    fn first_row(&self, seq: SeqId) -> usize {
        seq.0 as usize * self.config.rows_per_slot() as usize
    }

    fn check_length(&self, seq: SeqId, n: u32) -> Result<(), MemoryError> {
        let newest = self.n_past(seq)?;
        if n <= newest {
            return Ok(());
        }
        Err(MemoryError::CannotRewind {
            seq: seq.0,
            to: n,
            oldest: newest,
            newest,
        })
    }

    fn begin_at(&mut self, seq: SeqId, n_past: u32) -> Result<(), MemoryError> {
        *self.sequence_mut(seq)? = Sequence {
            n_past,
            plane: Some(0),
            older: 0,
        };
        Ok(())
    }
}

/// Whether all values are finite. Types that cannot be checked here count as not.
fn finite(ty: DType, bytes: &[u8]) -> bool {
    /// Bytes of a Q8_0 block: an F16 scale and 32 weights.
    const Q8_0_BLOCK: usize = 34;
    let half = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match ty {
        DType::F32 => bytes
            .chunks_exact(4)
            .all(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()),
        DType::F16 => bytes
            .chunks_exact(2)
            .all(|b| f16::from_bits(half(b)).is_finite()),
        DType::BF16 => bytes
            .chunks_exact(2)
            .all(|b| bf16::from_bits(half(b)).is_finite()),
        DType::Q8_0 => bytes
            .chunks_exact(Q8_0_BLOCK)
            .all(|b| f16::from_bits(half(b)).is_finite()),
        _ => bytes.is_empty(),
    }
}
