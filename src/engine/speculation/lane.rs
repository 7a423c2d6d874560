//! A sequence that generates, and the steps of several of them together.

#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::time::Instant;

use super::governor::{Candidate, lengths};
use super::{DraftType, Speculation, ngram};
use crate::engine::sampling::{Constraint, Sampler};
use crate::engine::{Engine, EngineError, Finish, StepOutput, Timeline};
use crate::memory::{DraftWork, Work};

/// Who receives the tokens of a generation, and may say which come next.
pub trait Sink {
    /// Takes a token of the text. A break ends the generation: the token is part of the text, but not of memory.
    fn token(&mut self, token: u32) -> ControlFlow<()>;

    /// Sees the logits that a token was drawn from, and the sampler that drew it, before the token is taken.
    fn drawn(&mut self, _token: u32, _logits: &[f32], _sampler: &Sampler) {}

    /// What may come next, if not everything; it knows the tokens received so far.
    fn constraint(&mut self) -> Option<&mut dyn Constraint> {
        None
    }
}

impl<F: FnMut(u32) -> ControlFlow<()>> Sink for F {
    fn token(&mut self, token: u32) -> ControlFlow<()> {
        self(token)
    }
}

/// How far a generation is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Tokens of the text, the ending one not included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Option<Finish>,
    /// When the first token was drawn.
    pub first: Option<Instant>,
    /// Most tokens; `None` until the context is full.
    pub n_predict: Option<u32>,
    /// A token that was drawn and not taken yet.
    drawn: Option<u32>,
    /// Tokens for the next step: the one taken last, and guesses.
    pending: Vec<u32>,
}

impl Progress {
    /// A generation of at most `n_predict` tokens that has not begun.
    pub fn new(n_predict: Option<u32>) -> Self {
        Self {
            n_predict,
            ..Self::default()
        }
    }

    /// Tokens that may still come.
    fn left(&self) -> usize {
        let all = self.n_predict.map_or(usize::MAX, |n| n as usize);
        all.saturating_sub(self.tokens.len())
    }
}

/// One generating sequence. Everything is borrowed from whoever keeps the sequence between steps.
pub struct Lane<'a> {
    /// Its tokens in memory, with logits after the last one.
    pub timeline: &'a mut Timeline,
    /// How tokens are drawn.
    pub sampler: &'a mut Sampler,
    /// How they are guessed.
    pub speculation: &'a mut Speculation,
    /// How far it is.
    pub progress: &'a mut Progress,
    /// Who gets the tokens.
    pub sink: &'a mut dyn Sink,
}

impl Lane<'_> {
    /// Draws the next token from the logits after the last one and gives it to the sink. Afterwards the generation has
    /// ended, or waits for a step with [`Lane::work`].
    pub fn take(&mut self, engine: &Engine) -> Result<(), EngineError> {
        if self.progress.finish.is_some() {
            return Ok(());
        }
        if self.progress.left() == 0 {
            self.progress.finish = Some(Finish::Length);
            return Ok(());
        }
        let logits = self.timeline.logits().ok_or(EngineError::Empty)?;
        let token = match self.progress.drawn.take() {
            Some(token) => token,
            None => self.sampler.sample(logits, self.sink.constraint())?.token,
        };
        self.sink.drawn(token, logits, self.sampler);
        self.progress.pending.clear();
        if self.receive(engine, token) {
            if self.timeline.tokens().len() + 1 > engine.n_ctx() as usize {
                self.progress.finish = Some(Finish::ContextFull);
            } else if self.progress.left() == 0 {
                self.progress.finish = Some(Finish::Length);
            } else {
                self.progress.pending.push(token);
            }
        }
        Ok(())
    }

    /// What the next step must compute: the token taken last and its guesses, with logits after each. `None` once the
    /// generation has ended.
    pub fn work(&self) -> Option<Work<'_>> {
        let tokens = self.progress.pending.as_slice();
        (!tokens.is_empty()).then(|| Work {
            seq: self.timeline.seq(),
            tokens,
            outputs: (0..tokens.len() as u32).collect(),
        })
    }

    /// Compares what the step computed with the guesses, gives the right ones to the sink and forgets the rest.
    /// `item` is the place of [`Lane::work`] in the step.
    pub fn settle(
        &mut self,
        engine: &mut Engine,
        output: &StepOutput,
        item: usize,
    ) -> Result<(), EngineError> {
        let pending = std::mem::take(&mut self.progress.pending);
        if pending.is_empty() {
            return Ok(());
        }
        let (right, kept, checked) = self.check(engine, &pending, output, item);
        self.speculation.count(pending.len() - 1, right);
        let row = output
            .logits(item, kept as u32 - 1)
            .ok_or(EngineError::Empty)?;
        // Also after an error, so that tokens and memory agree.
        self.timeline.append_checked(engine, &pending, kept, row)?;
        checked
    }

    /// Takes the guesses that are right: how many are, and how many of the step's tokens memory keeps.
    fn check(
        &mut self,
        engine: &Engine,
        pending: &[u32],
        output: &StepOutput,
        item: usize,
    ) -> (usize, usize, Result<(), EngineError>) {
        for (right, &guess) in pending[1..].iter().enumerate() {
            let Some(row) = output.logits(item, right as u32) else {
                return (right, right + 1, Err(EngineError::Empty));
            };
            if self.speculation.fake(right) != Some(true) {
                match self.sampler.sample(row, self.sink.constraint()) {
                    Err(e) => return (right, right + 1, Err(e.into())),
                    Ok(drawn) if drawn.token == guess && self.speculation.synth.is_none() => {}
                    Ok(drawn) => {
                        self.progress.drawn = Some(drawn.token);
                        return (right, right + 1, Ok(()));
                    }
                }
            }
            self.sink.drawn(guess, row, self.sampler);
            // A token that ends the text is not kept in memory, as without guesses.
            if !self.receive(engine, guess) {
                return (right + 1, right + 1, Ok(()));
            }
            if self.progress.left() == 0 {
                self.progress.finish = Some(Finish::Length);
                return (right + 1, right + 1, Ok(()));
            }
        }
        (pending.len() - 1, pending.len(), Ok(()))
    }

    /// Counts a drawn token as part of the text, unless it ends it; gives whether the text goes on.
    fn receive(&mut self, engine: &Engine, token: u32) -> bool {
        let progress = &mut *self.progress;
        progress.first.get_or_insert_with(Instant::now);
        self.sampler.accept(token);
        if engine.model().tokenizer().is_eog(token) {
            progress.finish = Some(Finish::EndOfGeneration(token));
            return false;
        }
        progress.tokens.push(token);
        if self.sink.token(token).is_break() {
            progress.finish = Some(Finish::Stopped);
            return false;
        }
        true
    }

    /// Most guesses that memory, context and the text's limit have room for.
    fn room(&self, engine: &Engine) -> u32 {
        if self.progress.pending.is_empty() {
            return 0;
        }
        let context = engine.n_ctx() as usize - self.timeline.tokens().len() - 1;
        let room = context.min(self.progress.left().saturating_sub(1));
        let most = self.speculation.most(engine);
        let room = most.min(u32::try_from(room).unwrap_or(u32::MAX));
        if room < self.speculation.params().n_min {
            0
        } else {
            room
        }
    }

    /// Takes a guess from the head's logits; gives whether another may follow.
    fn guess(&mut self, engine: &Engine, logits: &[f32], ahead: u32) -> Result<bool, EngineError> {
        // With the random number of its own place: where head and trunk agree, so do their draws.
        let token = self.sampler.guess(logits, u64::from(ahead))?.token;
        let p_min = self.speculation.params().p_min;
        if p_min > 0.0 && probability(logits, token) < p_min {
            return Ok(false);
        }
        self.progress.pending.push(token);
        Ok(!engine.model().tokenizer().is_eog(token))
    }
}

/// Guesses ahead for all lanes that wait for a step, as many tokens as pay by what the engine measured.
pub fn draft(engine: &mut Engine, lanes: &mut [Lane<'_>]) -> Result<(), EngineError> {
    let room: Vec<u32> = lanes.iter().map(|l| l.room(engine)).collect();
    let mut waiting: Vec<usize> = (0..lanes.len())
        .filter(|&i| !lanes[i].progress.pending.is_empty())
        .collect();
    if room.iter().all(|&n| n == 0) {
        return Ok(());
    }
    let mut candidates: Vec<Candidate<'_>> = lanes
        .iter_mut()
        .zip(&room)
        .filter(|(l, _)| !l.progress.pending.is_empty())
        .map(|(lane, &most)| Candidate {
            most,
            draft: lane.speculation.params.draft,
            adapt: lane.speculation.params.adapt,
            acceptance: &mut lane.speculation.acceptance,
        })
        .collect();
    let chosen = lengths(engine.costs(), &mut candidates);
    let mut wanted = vec![0u32; lanes.len()];
    for (&i, n) in waiting.iter().zip(chosen) {
        wanted[i] = n;
        if lanes[i].speculation.params.draft == DraftType::Ngram && n > 0 {
            let lane = &mut lanes[i];
            let mut text = lane.timeline.tokens().to_vec();
            text.extend(&lane.progress.pending);
            let guesses = ngram::continuation(&text, n as usize);
            lane.progress.pending.extend(guesses);
        }
    }
    waiting.retain(|&i| lanes[i].speculation.params.draft == DraftType::Mtp);
    for ahead in 0..wanted.iter().copied().max().unwrap_or(0) {
        waiting.retain(|&i| wanted[i] > ahead);
        if waiting.is_empty() {
            break;
        }
        let work: Vec<DraftWork> = waiting
            .iter()
            .map(|&i| DraftWork {
                seq: lanes[i].timeline.seq(),
                token: lanes[i].progress.pending[ahead as usize],
                ahead,
            })
            .collect();
        let output = engine.draft(&work)?;
        let mut next = Vec::with_capacity(waiting.len());
        for (item, &i) in waiting.iter().enumerate() {
            let logits = output.mtp_logits(item, 0).ok_or(EngineError::NoMtp)?;
            if lanes[i].guess(engine, logits, ahead)? {
                next.push(i);
            }
        }
        waiting = next;
    }
    for lane in lanes {
        let n_guesses = lane.progress.pending.len().saturating_sub(1);
        if n_guesses < lane.speculation.params.n_min as usize {
            lane.progress.pending.truncate(1);
        }
    }
    Ok(())
}

/// Takes every lane that has not ended one step further: at least one token each, more where guesses are right.
///
/// # Errors
/// If computing fails, the lanes' sequences are empty afterwards.
pub fn round(engine: &mut Engine, lanes: &mut [Lane<'_>]) -> Result<(), EngineError> {
    for lane in lanes.iter_mut() {
        lane.take(engine)?;
    }
    draft(engine, lanes)?;
    let waiting: Vec<usize> = (0..lanes.len())
        .filter(|&i| lanes[i].work().is_some())
        .collect();
    let work: Vec<Work<'_>> = waiting.iter().filter_map(|&i| lanes[i].work()).collect();
    if work.is_empty() {
        return Ok(());
    }
    let output = match engine.step_exact(&work) {
        Ok(output) => output,
        Err(e) => {
            drop(work);
            for i in waiting {
                lanes[i].timeline.clear(engine)?;
            }
            return Err(e);
        }
    };
    drop(work);
    for (item, &i) in waiting.iter().enumerate() {
        lanes[i].settle(engine, &output, item)?;
    }
    Ok(())
}

/// Probability of a token among all.
fn probability(logits: &[f32], token: u32) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|l| (l - largest).exp()).sum();
    logits
        .get(token as usize)
        .map_or(0.0, |l| (l - largest).exp() / sum)
}
