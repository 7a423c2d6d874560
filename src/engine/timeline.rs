//! One sequence as its user sees it: tokens that are extended, cut and continued.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::sampling::Sampler;
use super::speculation::{DraftStats, Lane, Progress, Sink, Speculation, round};
use super::{Engine, EngineError};
use crate::memory::{Checkpoint, MemoryError, Rows, SeqId, Work};

/// What bringing a timeline up to a prompt took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prefill {
    /// Tokens of the prompt that were in memory already.
    pub reused: usize,
    /// Tokens that were computed.
    pub computed: usize,
    /// Time it took.
    pub time: Duration,
    /// Whether it was stopped before the end.
    pub cancelled: bool,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn with this token.
    EndOfGeneration(u32),
    /// The limit of new tokens.
    Length,
    /// The context is full.
    ContextFull,
    /// The receiver of tokens wanted no more (a stop string, say).
    Stopped,
    /// Cancelled from outside.
    Cancelled,
}

/// Limits of one generation.
#[derive(Debug, Clone, Copy, Default)]
pub struct GenerateOptions {
    /// Most tokens to generate; `None` until the context is full.
    pub n_predict: Option<u32>,
}

/// What a generation did.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Tokens, the ending one not included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Time from the first sampled token on. The first token itself is free: its logits came with the prompt.
    pub time: Duration,
    /// What guesses ahead brought.
    pub drafts: DraftStats,
}

impl Generation {
    /// Tokens per second, by llama.cpp's rule that the first token does not count.
    pub fn tokens_per_second(&self) -> f64 {
        let n = self.tokens.len().saturating_sub(1) as f64;
        if self.time.is_zero() {
            0.0
        } else {
            n / self.time.as_secs_f64()
        }
    }
}

/// The tokens of one sequence, with states to go back to.
#[derive(Debug)]
pub struct Timeline {
    seq: SeqId,
    tokens: Vec<u32>,
    /// Logits after the last token, if they were computed.
    logits: Option<Vec<f32>>,
    checkpoints: Vec<Checkpoint>,
    max_checkpoints: usize,
}

impl Timeline {
    /// An empty timeline on a sequence slot. `max_checkpoints` states are kept to go back to, the oldest dropped first.
    pub fn new(seq: SeqId, max_checkpoints: usize) -> Self {
        Self {
            seq,
            tokens: Vec::new(),
            logits: None,
            checkpoints: Vec::new(),
            max_checkpoints,
        }
    }

    /// The sequence slot.
    pub fn seq(&self) -> SeqId {
        self.seq
    }

    /// Tokens in memory.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Logits after the last token.
    pub fn logits(&self) -> Option<&[f32]> {
        self.logits.as_deref()
    }

    /// Forgets everything.
    pub fn clear(&mut self, engine: &mut Engine) -> Result<(), EngineError> {
        engine.clear(self.seq)?;
        self.tokens.clear();
        self.logits = None;
        self.checkpoints.clear();
        Ok(())
    }

    /// Keeps the present state to come back to: at the end of a message, say.
    pub fn checkpoint(&mut self, engine: &Engine) -> Result<(), EngineError> {
        if self.max_checkpoints == 0 || self.tokens.is_empty() || !engine.memory().is_recurrent() {
            return Ok(());
        }
        let now = self.tokens.len() as u32;
        self.checkpoints.retain(|c| c.n_past != now);
        if self.checkpoints.len() >= self.max_checkpoints {
            self.checkpoints.remove(0);
        }
        self.checkpoints.push(engine.checkpoint(self.seq)?);
        Ok(())
    }

    /// Makes the timeline hold exactly `prompt`, with logits after its last token, reusing the longest common start
    /// that memory can go back to. `progress` hears of tokens done and tokens in all, after each batch.
    ///
    /// On cancellation the timeline holds the part that was computed.
    pub fn sync(
        &mut self,
        engine: &mut Engine,
        prompt: &[u32],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Prefill, EngineError> {
        let start = Instant::now();
        if prompt.is_empty() {
            return Err(EngineError::Empty);
        }
        let n_ctx = engine.n_ctx();
        if prompt.len() > n_ctx as usize {
            return Err(MemoryError::ContextFull {
                n_past: 0,
                n_new: prompt.len() as u32,
                n_ctx,
            }
            .into());
        }
        let common = self
            .tokens
            .iter()
            .zip(prompt)
            .take_while(|(a, b)| a == b)
            .count();
        if common == prompt.len() && common == self.tokens.len() && self.logits.is_some() {
            return Ok(Prefill {
                reused: common,
                ..Prefill::default()
            });
        }
        // The last token is computed again for its logits.
        let reused = self.rewind(engine, common.min(prompt.len() - 1))?;
        let mut cancelled = false;
        while self.tokens.len() < prompt.len() {
            if cancel.load(Ordering::Relaxed) {
                cancelled = true;
                break;
            }
            let done = self.tokens.len();
            let end = (done + engine.config().n_batch as usize).min(prompt.len());
            self.append(engine, &prompt[done..end], end == prompt.len())?;
            progress(end - reused, prompt.len() - reused);
        }
        Ok(Prefill {
            reused,
            computed: self.tokens.len() - reused,
            time: start.elapsed(),
            cancelled,
        })
    }

    /// Samples tokens until the model ends its turn, a limit is reached, `on_token` breaks or `cancel` is set.
    /// `sampler` sees every accepted token. With `speculation` several tokens may come from one step; they are the same.
    pub fn generate(
        &mut self,
        engine: &mut Engine,
        sampler: &mut Sampler,
        speculation: &mut Speculation,
        options: GenerateOptions,
        cancel: &AtomicBool,
        mut on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generation, EngineError> {
        self.generate_to(engine, sampler, speculation, options, cancel, &mut on_token)
    }

    /// [`Self::generate`] for a receiver that may also say which tokens can come next.
    pub fn generate_to(
        &mut self,
        engine: &mut Engine,
        sampler: &mut Sampler,
        speculation: &mut Speculation,
        options: GenerateOptions,
        cancel: &AtomicBool,
        sink: &mut dyn Sink,
    ) -> Result<Generation, EngineError> {
        let before = speculation.stats().clone();
        let mut progress = Progress::new(options.n_predict);
        let finish = loop {
            if cancel.load(Ordering::Relaxed) {
                break Finish::Cancelled;
            }
            let lane = Lane {
                timeline: self,
                sampler,
                speculation,
                progress: &mut progress,
                sink,
            };
            round(engine, &mut [lane])?;
            if let Some(finish) = progress.finish {
                break finish;
            }
        };
        Ok(Generation {
            tokens: progress.tokens,
            finish,
            time: progress.first.map(|f| f.elapsed()).unwrap_or_default(),
            drafts: speculation.stats().since(&before),
        })
    }

    /// Takes note of a step that computed `tokens` of which the first `kept` belong to the text, and goes back to
    /// these; `logits` are those after the last of them.
    pub(super) fn append_checked(
        &mut self,
        engine: &mut Engine,
        tokens: &[u32],
        kept: usize,
        logits: &[f32],
    ) -> Result<(), EngineError> {
        self.tokens.extend(&tokens[..kept]);
        match &mut self.logits {
            Some(row) if row.len() == logits.len() => row.copy_from_slice(logits),
            other => *other = Some(logits.to_vec()),
        }
        engine.truncate(self.seq, self.tokens.len() as u32)
    }

    /// Takes note of tokens that a step computed for this sequence beside other work; `logits` are those after the
    /// last of them, if they were asked for.
    pub fn extend(&mut self, tokens: &[u32], logits: Option<&[f32]>) {
        self.tokens.extend_from_slice(tokens);
        self.logits = logits.map(<[f32]>::to_vec);
    }

    /// Goes back to `to` tokens by the states that memory keeps.
    ///
    /// # Errors
    /// [`MemoryError::CannotRewind`] if it keeps none for that length; nothing has changed then.
    pub fn truncate(&mut self, engine: &mut Engine, to: usize) -> Result<(), EngineError> {
        if to < self.tokens.len() {
            engine.truncate(self.seq, to as u32)?;
            self.tokens.truncate(to);
            self.logits = None;
        }
        Ok(())
    }

    /// Makes this timeline the prefix of `from` that a checkpoint was taken of, with the logits after it where they
    /// are known. `from` may be this very timeline's sequence, then `None`.
    ///
    /// # Errors
    /// The timeline is empty afterwards.
    pub fn restore(
        &mut self,
        engine: &mut Engine,
        from: Option<&Timeline>,
        checkpoint: &Checkpoint,
        logits: Option<&[f32]>,
    ) -> Result<(), EngineError> {
        let n = checkpoint.n_past as usize;
        let done = match from {
            Some(from) => engine.copy_prefix(from.seq, self.seq, checkpoint),
            None => engine.restore(self.seq, checkpoint),
        };
        if let Err(e) = done {
            self.clear(engine)?;
            return Err(e);
        }
        match from {
            Some(from) => self.tokens = from.tokens[..n].to_vec(),
            None => self.tokens.truncate(n),
        }
        self.logits = logits.map(<[f32]>::to_vec);
        Ok(())
    }

    /// Makes this timeline a prefix that was copied out before: the tokens that `checkpoint` has seen, and rows for
    /// at least these.
    ///
    /// # Errors
    /// As [`Memory::import`](crate::memory::Memory::import). The timeline is empty afterwards.
    pub fn import(
        &mut self,
        engine: &mut Engine,
        tokens: &[u32],
        rows: &Rows,
        checkpoint: &Checkpoint,
        logits: Option<&[f32]>,
    ) -> Result<(), EngineError> {
        self.clear(engine)?;
        engine.import(self.seq, rows, checkpoint)?;
        self.tokens = tokens[..checkpoint.n_past as usize].to_vec();
        self.logits = logits.map(<[f32]>::to_vec);
        Ok(())
    }

    /// Makes this timeline a copy of another one, with its logits.
    pub fn copy_from(&mut self, engine: &mut Engine, from: &Timeline) -> Result<(), EngineError> {
        self.clear(engine)?;
        engine.copy(from.seq, self.seq)?;
        self.tokens = from.tokens.clone();
        self.logits = from.logits.clone();
        Ok(())
    }

    /// Goes back to at most `to` tokens, as near as memory allows, and gives the length reached.
    fn rewind(&mut self, engine: &mut Engine, to: usize) -> Result<usize, EngineError> {
        self.checkpoints.retain(|c| c.n_past as usize <= to);
        if to < self.tokens.len() {
            self.logits = None;
            match engine.truncate(self.seq, to as u32) {
                Ok(()) => self.tokens.truncate(to),
                Err(EngineError::Memory(MemoryError::CannotRewind { .. })) => {
                    let nearest = self.checkpoints.iter().max_by_key(|c| c.n_past);
                    match nearest {
                        Some(checkpoint) => {
                            engine.restore(self.seq, checkpoint)?;
                            self.tokens.truncate(checkpoint.n_past as usize);
                        }
                        None => {
                            engine.clear(self.seq)?;
                            self.tokens.clear();
                        }
                    }
                    tracing::info!(
                        wanted = to,
                        reused = self.tokens.len(),
                        "the recurrent state cannot go back to that token"
                    );
                }
                Err(e) => return Err(e),
            }
        }
        Ok(self.tokens.len())
    }

    fn append(
        &mut self,
        engine: &mut Engine,
        tokens: &[u32],
        wants_logits: bool,
    ) -> Result<(), EngineError> {
        let last = tokens.len() as u32 - 1;
        let work = Work {
            seq: self.seq,
            tokens,
            outputs: if wants_logits { vec![last] } else { Vec::new() },
        };
        let before = self.tokens.len();
        let result = engine.step(&[work], false);
        // A failed step may have been computed in part: memory knows how far.
        let n_past = engine.n_past(self.seq)? as usize;
        if n_past < before {
            self.tokens.clear();
            self.checkpoints.clear();
            self.logits = None;
            return result.map(drop);
        }
        self.tokens.extend_from_slice(&tokens[..n_past - before]);
        self.logits = result?.logits(0, last).map(<[f32]>::to_vec);
        Ok(())
    }
}
