//! A text in chunks, and the logits that score it.

use super::EvalError;
use crate::engine::Engine;
use crate::memory::{SeqId, Work};

/// A chunk's second half is scored, from its second token on.
const MIN_CONTEXT: usize = 4;

/// Tokens of a text, cut into chunks of one context; what is left over at the end is not scored.
#[derive(Debug, Clone)]
pub struct Chunks {
    tokens: Vec<u32>,
    n_ctx: usize,
    bos: Option<u32>,
}

impl Chunks {
    /// Cuts `tokens` into at most `most` chunks. `bos` replaces the first token of each, if the model wants it.
    ///
    /// # Errors
    /// Fewer tokens than two contexts.
    pub fn new(
        mut tokens: Vec<u32>,
        n_ctx: usize,
        bos: Option<u32>,
        most: Option<usize>,
    ) -> Result<Self, EvalError> {
        if n_ctx < MIN_CONTEXT {
            return Err(EvalError::ShortContext { n_ctx });
        }
        if tokens.len() < 2 * n_ctx {
            return Err(EvalError::ShortText {
                found: tokens.len(),
                n_ctx,
            });
        }
        let count = (tokens.len() / n_ctx).min(most.unwrap_or(usize::MAX).max(1));
        tokens.truncate(count * n_ctx);
        Ok(Self { tokens, n_ctx, bos })
    }

    /// Chunks of a file of saved predictions.
    pub(super) fn of_base(tokens: Vec<u32>, n_ctx: usize, bos: Option<u32>) -> Self {
        Self { tokens, n_ctx, bos }
    }

    /// Keeps the first `most` chunks.
    #[must_use]
    pub fn first(mut self, most: Option<usize>) -> Self {
        let count = self.len().min(most.unwrap_or(usize::MAX).max(1));
        self.tokens.truncate(count * self.n_ctx);
        self
    }

    /// Tokens of one chunk.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.tokens.len() / self.n_ctx
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All tokens, as in the text.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions in a chunk whose predictions are scored.
    pub fn scored(&self) -> std::ops::Range<usize> {
        self.n_ctx / 2..self.n_ctx - 1
    }

    /// What should be predicted at the scored positions of chunk `index`.
    pub fn targets(&self, index: usize) -> &[u32] {
        let start = index * self.n_ctx;
        let scored = self.scored();
        &self.tokens[start + scored.start + 1..start + scored.end + 1]
    }

    /// Tokens of chunk `index` as the model sees them.
    pub fn input(&self, index: usize) -> Vec<u32> {
        let mut tokens = self.tokens[index * self.n_ctx..(index + 1) * self.n_ctx].to_vec();
        if let Some(bos) = self.bos {
            tokens[0] = bos;
        }
        tokens
    }
}

/// Logits at the scored positions of one chunk.
#[derive(Debug)]
pub struct ChunkLogits<'a> {
    /// Index of the chunk.
    pub index: usize,
    /// One row of logits per scored position.
    pub rows: Vec<&'a [f32]>,
}

/// Computes all chunks, as many at once as the engine has sequences. `each` hears of them in order, and may fail.
///
/// # Errors
/// The engine's or those of `each`.
pub fn compute<E: From<EvalError>>(
    engine: &mut Engine,
    chunks: &Chunks,
    each: &mut dyn FnMut(ChunkLogits<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let n_seq = engine.config().n_seq as usize;
    let outputs: Vec<u32> = chunks.scored().map(|t| t as u32).collect();
    let indices: Vec<usize> = (0..chunks.len()).collect();
    for batch in indices.chunks(n_seq.max(1)) {
        let inputs: Vec<Vec<u32>> = batch.iter().map(|&index| chunks.input(index)).collect();
        let mut work = Vec::with_capacity(batch.len());
        for (i, tokens) in inputs.iter().enumerate() {
            let seq = SeqId(i as u32);
            engine.clear(seq).map_err(EvalError::from)?;
            work.push(Work {
                seq,
                tokens,
                outputs: outputs.clone(),
            });
        }
        let output = engine.step(&work, false).map_err(EvalError::from)?;
        for (item, &index) in batch.iter().enumerate() {
            let rows = outputs
                .iter()
                .filter_map(|&t| output.logits(item, t))
                .collect();
            each(ChunkLogits { index, rows })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_of_each_chunk_is_scored() {
        let chunks = Chunks::new((0..21).collect(), 8, Some(99), None).unwrap();
        assert_eq!((chunks.len(), chunks.scored()), (2, 4..7));
        assert_eq!(chunks.targets(1), [13, 14, 15]);
        assert_eq!(chunks.input(1), [99, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(chunks.tokens()[8], 8, "the text itself keeps its token");
    }

    #[test]
    fn short_texts_are_refused_and_long_ones_cut() {
        assert!(matches!(
            Chunks::new(vec![0; 15], 8, None, None),
            Err(EvalError::ShortText {
                found: 15,
                n_ctx: 8
            })
        ));
        assert_eq!(Chunks::new(vec![0; 80], 8, None, Some(3)).unwrap().len(), 3);
    }
}
