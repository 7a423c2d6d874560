//! What is timed.

use std::fmt;
use std::time::{Duration, Instant};

use crate::engine::{Engine, EngineError};
use crate::ggml::Profile;
use crate::memory::{SeqId, Work};

/// One combination of a sweep over context and batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Tokens of each prompt.
    pub n_prompt: u32,
    /// Tokens generated after each.
    pub n_gen: u32,
    /// Sequences.
    pub n_seq: u32,
}

impl Cell {
    /// Tokens that one sequence has to hold.
    pub fn per_sequence(&self) -> u64 {
        u64::from(self.n_prompt) + u64::from(self.n_gen)
    }

    /// Tokens that all sequences have to hold. A shared prompt is computed once, but each sequence holds a copy.
    pub fn n_kv(&self) -> u64 {
        self.per_sequence().saturating_mul(u64::from(self.n_seq))
    }
}

/// How a [`Cell`] is computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct CellOptions {
    /// One prompt, of which the other sequences get a copy.
    pub shared_prompt: bool,
    /// One sequence generates after the other, instead of all in one step.
    pub separate: bool,
}

/// Time that a [`Cell`] took.
#[derive(Debug, Clone, Copy, Default)]
pub struct CellTimes {
    /// Prompts, copies of a shared one included.
    pub prompt: Duration,
    /// Generation.
    pub generation: Duration,
}

/// A test that is repeated: a prompt, then generation, after `n_depth` tokens that are not timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Tokens of the prompt.
    pub n_prompt: u32,
    /// Tokens generated one by one.
    pub n_gen: u32,
    /// Tokens in memory before.
    pub n_depth: u32,
}

impl Test {
    /// Tokens that the sequence has to hold.
    pub fn n_ctx(&self) -> u64 {
        u64::from(self.n_prompt) + u64::from(self.n_gen) + u64::from(self.n_depth)
    }

    /// Tokens that are timed.
    pub fn n_tokens(&self) -> u64 {
        u64::from(self.n_prompt) + u64::from(self.n_gen)
    }
}

/// llama-bench's name: `pp512`, `tg128`, `pp512+tg128 @ d4096`.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.n_prompt, self.n_gen) {
            (pp, 0) => write!(f, "pp{pp}")?,
            (0, tg) => write!(f, "tg{tg}")?,
            (pp, tg) => write!(f, "pp{pp}+tg{tg}")?,
        }
        if self.n_depth > 0 {
            write!(f, " @ d{}", self.n_depth)?;
        }
        Ok(())
    }
}

/// Random tokens, the same in every run.
pub(super) struct Tokens {
    state: u32,
    n_vocab: u32,
}

impl Tokens {
    pub(super) fn new(engine: &Engine) -> Self {
        Self {
            state: 1,
            n_vocab: engine.model().n_vocab().max(1),
        }
    }

    fn next(&mut self) -> u32 {
        self.state = self
            .state
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        (self.state >> 8) % self.n_vocab
    }

    pub(super) fn take(&mut self, n: u32) -> Vec<u32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// Appends `n` tokens to each sequence; the logits after the last of each are computed too, as one needs them to go on.
fn prefill(
    engine: &mut Engine,
    seqs: std::ops::Range<u32>,
    n: u32,
    tokens: &mut Tokens,
) -> Result<(), EngineError> {
    if n == 0 {
        return Ok(());
    }
    let texts: Vec<Vec<u32>> = seqs.clone().map(|_| tokens.take(n)).collect();
    let work: Vec<Work<'_>> = seqs
        .zip(&texts)
        .map(|(seq, tokens)| Work {
            seq: SeqId(seq),
            tokens,
            outputs: vec![n - 1],
        })
        .collect();
    engine.step(&work, false).map(drop)
}

/// Computes a micro-batch and a single token and forgets them: the first of each kind takes longer.
///
/// # Errors
/// Those of [`Engine::step`].
pub fn warm_up(engine: &mut Engine, n_prompt: u32, n_gen: u32) -> Result<(), EngineError> {
    let mut tokens = Tokens::new(engine);
    let n = n_prompt.min(engine.config().n_ubatch);
    prefill(engine, 0..1, n, &mut tokens)?;
    prefill(engine, 0..1, n_gen.min(1), &mut tokens)?;
    engine.clear(SeqId(0))
}

/// Computes a cell on sequences `0..n_seq`, which are forgotten first.
///
/// # Errors
/// Those of [`Engine::step`]: a context below [`Cell::per_sequence`], fewer sequences than the cell has.
pub fn run_cell(
    engine: &mut Engine,
    cell: Cell,
    options: CellOptions,
) -> Result<CellTimes, EngineError> {
    let mut tokens = Tokens::new(engine);
    for seq in 0..cell.n_seq {
        engine.clear(SeqId(seq))?;
    }
    let start = Instant::now();
    let prompts = if options.shared_prompt { 1 } else { cell.n_seq };
    prefill(engine, 0..prompts, cell.n_prompt, &mut tokens)?;
    for seq in prompts..cell.n_seq {
        engine.copy(SeqId(0), SeqId(seq))?;
    }
    let prompt = start.elapsed();
    let start = Instant::now();
    if options.separate {
        for seq in 0..cell.n_seq {
            for _ in 0..cell.n_gen {
                prefill(engine, seq..seq + 1, 1, &mut tokens)?;
            }
        }
    } else {
        for _ in 0..cell.n_gen {
            prefill(engine, 0..cell.n_seq, 1, &mut tokens)?;
        }
    }
    Ok(CellTimes {
        prompt,
        generation: start.elapsed(),
    })
}

/// Repeats a test on sequence 0 and gives the time of each repetition. `on_run` hears when the tokens before it are in
/// place (0) and how many repetitions are done.
///
/// # Errors
/// Those of [`Engine::step`]: a context below [`Test::n_ctx`].
pub fn run_test(
    engine: &mut Engine,
    test: Test,
    repetitions: u32,
    on_run: &mut dyn FnMut(u32),
) -> Result<Vec<Duration>, EngineError> {
    let seq = SeqId(0);
    let mut tokens = Tokens::new(engine);
    engine.clear(seq)?;
    prefill(engine, 0..1, test.n_depth, &mut tokens)?;
    let start = engine.checkpoint(seq)?;
    on_run(0);
    let mut times = Vec::new();
    for run in 1..=repetitions {
        if test.n_depth == 0 {
            engine.clear(seq)?;
        } else {
            engine.restore(seq, &start)?;
        }
        let start = Instant::now();
        prefill(engine, 0..1, test.n_prompt, &mut tokens)?;
        for _ in 0..test.n_gen {
            prefill(engine, 0..1, 1, &mut tokens)?;
        }
        times.push(start.elapsed());
        on_run(run);
    }
    Ok(times)
}

/// Computes a test once with a clock around each operation; what comes before it is not counted.
///
/// # Errors
/// As [`run_test`].
pub fn profile_test(engine: &mut Engine, test: Test) -> Result<Profile, EngineError> {
    let mut tokens = Tokens::new(engine);
    engine.clear(SeqId(0))?;
    prefill(engine, 0..1, test.n_depth, &mut tokens)?;
    engine.set_profiling(true);
    let mut result = prefill(engine, 0..1, test.n_prompt, &mut tokens);
    for _ in 0..test.n_gen {
        result = result.and_then(|()| prefill(engine, 0..1, 1, &mut tokens));
    }
    let profile = engine.take_profile();
    engine.set_profiling(false);
    result.map(|()| profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_have_llama_benchs_names() {
        let cases = [
            ((512, 0, 0), "pp512"),
            ((0, 128, 0), "tg128"),
            ((512, 128, 0), "pp512+tg128"),
            ((512, 0, 4096), "pp512 @ d4096"),
        ];
        for ((n_prompt, n_gen, n_depth), name) in cases {
            let test = Test {
                n_prompt,
                n_gen,
                n_depth,
            };
            assert_eq!(test.to_string(), name);
        }
    }

    #[test]
    fn a_cell_counts_what_its_sequences_hold() {
        let cell = Cell {
            n_prompt: 8,
            n_gen: 4,
            n_seq: 2,
        };
        assert_eq!((cell.per_sequence(), cell.n_kv()), (12, 24));
        let huge = Cell {
            n_prompt: u32::MAX,
            n_gen: u32::MAX,
            n_seq: u32::MAX,
        };
        assert_eq!(huge.n_kv(), u64::MAX);
    }
}
