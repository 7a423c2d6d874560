//! Texts that are really generated, without guesses ahead and with them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::Test;
use super::runs::Tokens;
use crate::engine::sampling::{Sampler, SamplingParams, VocabView};
use crate::engine::speculation::{
    DraftStats, DraftType, Lane, Progress, Speculation, SpeculationParams, round,
};
use crate::engine::{Engine, EngineConfig, EngineError, Timeline, vocab_of};
use crate::ggml::Profile;
use crate::memory::{Checkpoint, SeqId};
use crate::model::Model;

/// What tests read and continue: prose, since guesses at noise are never right.
const TEXT: &str = include_str!("text.txt");
/// Tokens between the places of the text where two repetitions begin.
const STRIDE: usize = 211;
/// Least number of tokens that a text is continued from.
const LEAD: u32 = 16;
/// Tokens of an untimed generation before the first repetition: guesses, and a step that checks them, come within these.
const WARM_UP: u32 = 8;

/// How tokens are drawn.
pub struct Draw {
    /// Parameters; the seed must be set where two texts are compared.
    pub params: SamplingParams,
    /// The model's vocabulary.
    pub vocab: Arc<dyn VocabView>,
}

impl Draw {
    /// The likeliest token; where acceptance is faked, random ones, as models of random weights would repeat themselves.
    /// Nothing ends a text.
    pub fn for_tests(model: &Model, params: &SpeculationParams) -> Self {
        let defaults = SamplingParams::default();
        let fake = !params.synth_rates.is_empty();
        Self {
            params: SamplingParams {
                seed: Some(0),
                temp: if fake { defaults.temp } else { 0.0 },
                ignore_eos: true,
                ..defaults
            },
            vocab: vocab_of(model),
        }
    }
}

/// An engine whose sequences continue texts, all by one way of guessing.
pub struct Generator {
    engine: Engine,
    timelines: Vec<Timeline>,
    speculations: Vec<Speculation>,
    /// The state that every repetition of a test starts from; none is an empty memory.
    start: Option<Checkpoint>,
}

impl Generator {
    /// An engine that keeps the states these guesses need.
    ///
    /// # Errors
    /// As [`Engine::new`] and [`Speculation::new`].
    pub fn new(
        model: &Model,
        params: &SpeculationParams,
        config: &EngineConfig,
    ) -> Result<Self, EngineError> {
        let config = EngineConfig {
            n_snapshots: params.n_snapshots(),
            mtp: params.draft == DraftType::Mtp,
            ..config.clone()
        };
        let engine = Engine::new(model, config)?;
        let n = engine.config().n_seq;
        Ok(Self {
            timelines: (0..n).map(|s| Timeline::new(SeqId(s), 0)).collect(),
            speculations: (0..n)
                .map(|_| Speculation::new(params.clone(), &engine))
                .collect::<Result<_, _>>()?,
            engine,
            start: None,
        })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Sequences.
    pub fn n_seq(&self) -> usize {
        self.timelines.len()
    }

    /// What guesses brought so far, by sequence.
    pub fn stats(&self) -> impl Iterator<Item = &DraftStats> {
        self.speculations.iter().map(Speculation::stats)
    }

    /// Empties all sequences.
    ///
    /// # Errors
    /// Those of [`Engine::clear`].
    pub fn forget(&mut self) -> Result<(), EngineError> {
        let mut timelines = self.timelines.iter_mut();
        timelines.try_for_each(|timeline| timeline.clear(&mut self.engine))
    }

    /// Lets the engine's threads sleep. Before another engine is measured they must: they spin for a while.
    pub fn rest(&mut self) {
        self.engine.rest();
    }

    /// Makes each sequence hold exactly its prompt, what memory holds of it already not computed again.
    ///
    /// # Errors
    /// As [`Timeline::sync`].
    pub fn read(&mut self, prompts: &[&[u32]]) -> Result<(), EngineError> {
        let cancel = AtomicBool::new(false);
        for (timeline, prompt) in self.timelines.iter_mut().zip(prompts) {
            timeline.sync(&mut self.engine, prompt, &cancel, &mut |_, _| {})?;
        }
        Ok(())
    }

    /// Continues the first `n_texts` sequences by at most `n_predict` tokens each, all together, and gives these.
    ///
    /// # Errors
    /// As [`round`]; a sequence without tokens cannot be continued.
    pub fn write(
        &mut self,
        n_texts: usize,
        n_predict: u32,
        draw: &Draw,
    ) -> Result<Vec<Vec<u32>>, EngineError> {
        let n_ctx = self.engine.n_ctx() as usize;
        let mut samplers = Vec::new();
        for timeline in self.timelines.iter().take(n_texts) {
            let mut sampler = Sampler::new(&draw.params, &draw.vocab, n_ctx)?;
            sampler.accept_prompt(timeline.tokens());
            samplers.push(sampler);
        }
        let mut progress = vec![Progress::new(Some(n_predict)); samplers.len()];
        while progress.iter().any(|p| p.finish.is_none()) {
            let mut sinks = vec![|_: u32| ControlFlow::Continue(()); samplers.len()];
            let parts = self.timelines.iter_mut().zip(&mut self.speculations);
            let parts = parts.zip(&mut samplers).zip(&mut progress).zip(&mut sinks);
            let mut lanes = Vec::with_capacity(n_texts);
            for ((((timeline, speculation), sampler), progress), sink) in parts {
                lanes.push(Lane {
                    timeline,
                    sampler,
                    speculation,
                    progress,
                    sink,
                });
            }
            round(&mut self.engine, &mut lanes)?;
        }
        Ok(progress.into_iter().map(|p| p.tokens).collect())
    }

    /// Goes back to the start of repetitions and reads what of a text is not timed.
    fn place(&mut self, untimed: &[u32]) -> Result<(), EngineError> {
        match &self.start {
            Some(start) => self.timelines[0].restore(&mut self.engine, None, start, None)?,
            None => self.forget()?,
        }
        if untimed.is_empty() {
            return Ok(());
        }
        self.read(&[untimed])
    }

    /// Computes a prompt, of which the start is in memory, and as many steps of one token as `n_gen` tokens take.
    fn compute(&mut self, prompt: &[u32], n_gen: u32, draw: &Draw) -> Result<(), EngineError> {
        self.read(&[prompt])?;
        // The first token costs no step: it comes with the prompt.
        self.write(1, n_gen + 1, draw).map(drop)
    }

    /// One repetition: the time of its prompt and its tokens.
    fn repeat(
        &mut self,
        test: Test,
        text: &Text,
        run: u32,
        draw: &Draw,
    ) -> Result<Duration, EngineError> {
        let (untimed, prompt) = text.of_run(test, run);
        self.place(&prompt[..untimed])?;
        let start = Instant::now();
        self.compute(&prompt, test.n_gen, draw)?;
        let time = start.elapsed();
        self.rest();
        Ok(time)
    }

    /// Reads the tokens that all repetitions share and keeps the state after them, then generates once, untimed.
    fn prepare(
        &mut self,
        test: Test,
        text: &Text,
        draw: &Draw,
        warm_up: bool,
    ) -> Result<(), EngineError> {
        self.forget()?;
        let shared = text.shared(test);
        self.start = None;
        if !shared.is_empty() {
            self.read(&[&shared])?;
            self.start = Some(self.engine.checkpoint(SeqId(0))?);
        }
        if warm_up {
            let short = Test {
                n_prompt: test.n_prompt.min(self.engine.config().n_ubatch),
                n_gen: test.n_gen.min(WARM_UP),
                ..test
            };
            self.repeat(short, text, 0, draw)?;
        }
        self.rest();
        Ok(())
    }
}

/// The tokens of [`TEXT`], again and again; random ones where a vocabulary has none for it.
struct Text {
    start: Option<u32>,
    tokens: Vec<u32>,
}

impl Text {
    fn new(engine: &Engine) -> Self {
        let tokenizer = engine.model().tokenizer();
        let mut tokens = tokenizer.encode(TEXT, Default::default());
        if tokens.is_empty() {
            tokens = Tokens::new(engine).take(TEXT.len() as u32);
        }
        let start = tokenizer.bos().filter(|_| tokenizer.add_bos());
        Self { start, tokens }
    }

    /// Tokens in memory before all repetitions. The last ones of a depth differ, so that each continues another text.
    fn shared(&self, test: Test) -> Vec<u32> {
        let n = test.n_depth.saturating_sub(LEAD) as usize;
        let tokens = self.tokens.iter().cycle().copied();
        self.start.into_iter().chain(tokens).take(n).collect()
    }

    /// The tokens of a repetition, and how many of them are not timed: those of the depth, or of a lead where there
    /// would be nothing to continue.
    fn of_run(&self, test: Test, run: u32) -> (usize, Vec<u32>) {
        let mut all = self.shared(test);
        let before = match test.n_prompt {
            0 => test.n_depth.max(LEAD),
            _ => test.n_depth,
        };
        let n = before as usize + test.n_prompt as usize;
        all.extend(self.start.filter(|_| all.is_empty()));
        let place = run as usize * STRIDE % self.tokens.len();
        let tokens = self.tokens.iter().cycle().skip(place);
        all.extend(tokens.take(n - all.len()));
        (before as usize, all)
    }
}

/// Tokens that the sequence of a [`Comparison`] has to hold.
pub fn n_ctx_speculated(test: Test) -> u64 {
    test.n_ctx() + u64::from(LEAD) + 1
}

/// The same test without guesses and with them.
pub struct Comparison {
    plain: Generator,
    guessing: Generator,
    draw: Draw,
}

/// What the repetitions of a [`Comparison`] took.
#[derive(Debug, Default)]
pub struct Compared {
    /// Time of each repetition without guesses.
    pub plain: Vec<Duration>,
    /// Time of each with guesses.
    pub guessing: Vec<Duration>,
    /// What the guesses brought.
    pub stats: DraftStats,
}

impl Comparison {
    /// Engines for both ways; `config` must have a context of [`n_ctx_speculated`] tokens.
    ///
    /// # Errors
    /// As [`Generator::new`].
    pub fn new(
        model: &Model,
        params: &SpeculationParams,
        config: &EngineConfig,
    ) -> Result<Self, EngineError> {
        let plain = SpeculationParams::default();
        Ok(Self {
            plain: Generator::new(model, &plain, config)?,
            guessing: Generator::new(model, params, config)?,
            draw: Draw::for_tests(model, params),
        })
    }

    /// The engine that guesses.
    pub fn engine(&self) -> &Engine {
        self.guessing.engine()
    }

    /// Repeats a test of both ways by turns: a repetition reads and continues the same text in both, and the next one
    /// another. `on_run` hears when all is ready (0) and how many repetitions are done.
    ///
    /// # Errors
    /// Those of [`Generator::read`] and [`Generator::write`].
    pub fn run(
        &mut self,
        test: Test,
        repetitions: u32,
        warm_up: bool,
        on_run: &mut dyn FnMut(u32),
    ) -> Result<Compared, EngineError> {
        let text = Text::new(self.engine());
        let draw = &self.draw;
        self.plain.prepare(test, &text, draw, warm_up)?;
        self.guessing.prepare(test, &text, draw, warm_up)?;
        let before = self.guessing.speculations[0].stats().clone();
        on_run(0);
        let mut times = Compared::default();
        for run in 1..=repetitions {
            let plain = self.plain.repeat(test, &text, run - 1, draw)?;
            times.plain.push(plain);
            let guessing = self.guessing.repeat(test, &text, run - 1, draw)?;
            times.guessing.push(guessing);
            on_run(run);
        }
        times.stats = self.guessing.speculations[0].stats().since(&before);
        Ok(times)
    }

    /// One repetition with guesses and a clock around each operation; what comes before it is not counted.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn profile(&mut self, test: Test) -> Result<Profile, EngineError> {
        let (untimed, prompt) = Text::new(self.engine()).of_run(test, 0);
        let generator = &mut self.guessing;
        generator.place(&prompt[..untimed])?;
        generator.engine.set_profiling(true);
        let result = generator.compute(&prompt, test.n_gen, &self.draw);
        let profile = generator.engine.take_profile();
        generator.engine.set_profiling(false);
        result.map(|()| profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_has_as_many_tokens_as_its_test_and_a_text_of_its_own() {
        let text = Text {
            start: Some(1000),
            tokens: (0..500).collect(),
        };
        // Prompt, depth; untimed tokens, all tokens, those that repetitions share.
        let cases = [
            ((0, 0), (16, 16, 0)),
            ((8, 0), (0, 8, 0)),
            ((0, 5), (16, 16, 0)),
            ((8, 5), (5, 13, 0)),
            ((0, 40), (40, 40, 24)),
            ((8, 40), (40, 48, 24)),
            ((600, 700), (700, 1300, 684)),
        ];
        for ((n_prompt, n_depth), expected) in cases {
            let test = Test {
                n_prompt,
                n_gen: 1,
                n_depth,
            };
            let (untimed, first) = text.of_run(test, 0);
            let (_, second) = text.of_run(test, 1);
            let shared = text.shared(test);
            assert_eq!((untimed, first.len(), shared.len()), expected, "{test}");
            assert_eq!((first.len(), first[0]), (second.len(), 1000), "{test}");
            assert_eq!(first[..shared.len()], shared, "{test}");
            assert_ne!(first.last(), second.last(), "{test}");
            let fits = n_ctx_speculated(test) >= first.len() as u64 + 2;
            assert!(fits, "{test}");
        }
    }
}
