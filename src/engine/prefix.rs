//! Prefixes that leave a sequence slot: for caches and for files.

#![forbid(unsafe_code)]

use super::{Engine, EngineError};
use crate::memory::{Checkpoint, Rows, SeqId};

impl Engine {
    /// Copies the attention rows of a sequence's first `n` tokens out; see [`crate::memory::Memory::export_rows`].
    pub fn export_rows(&self, seq: SeqId, n: u32) -> Result<Rows, EngineError> {
        Ok(self.memory.export_rows(seq, n)?)
    }

    /// Makes a sequence the prefix that was copied out; see [`crate::memory::Memory::import`].
    pub fn import(
        &mut self,
        seq: SeqId,
        rows: &Rows,
        checkpoint: &Checkpoint,
    ) -> Result<(), EngineError> {
        Ok(self.memory.import(seq, rows, checkpoint)?)
    }

    /// Makes `to` a prefix of `from`; see [`crate::memory::Memory::copy_prefix`].
    pub fn copy_prefix(
        &mut self,
        from: SeqId,
        to: SeqId,
        checkpoint: &Checkpoint,
    ) -> Result<(), EngineError> {
        Ok(self.memory.copy_prefix(from, to, checkpoint)?)
    }
}
