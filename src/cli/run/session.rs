//! One sequence of a model: from a prompt to an answer on the screen.

#![forbid(unsafe_code)]

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::Result;
use oxling::chat::ReasoningTags;
use oxling::constrain::{Constrainer, GrammarSpec, Grammars, Start};
use oxling::engine::sampling::{Constraint, Sampler, SamplingParams, VocabView};
use oxling::engine::speculation::{Sink, Speculation};
use oxling::engine::{Engine, Finish, GenerateOptions, Generation, Prefill, Timeline, vocab_of};
use oxling::memory::SeqId;
use oxling::tokenizer::EncodeOptions;

use super::screen::{Screen, note};
use super::stream::{Answer, Stream};
use crate::cli::errors::hinted;
use crate::cli::interrupt::{Busy, Interrupt};
use crate::cli::progress::count_bar;

/// Host memory for states to go back to: enough for two of the largest models.
const CHECKPOINT_BYTES: usize = 1 << 30;
const MOST_CHECKPOINTS: usize = 32;

/// How answers end and what of them is shown.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    /// Most tokens; `None` until the model ends or the context is full.
    pub n_predict: Option<u32>,
    /// Texts that end an answer.
    pub stops: Vec<String>,
    /// Show structural tokens.
    pub special: bool,
    /// Show the prompt's tokens on stderr.
    pub verbose_prompt: bool,
    /// Show tokens per second.
    pub timings: bool,
}

/// What an answer follows.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// How many of them another answer, or the next turn, will start with for certain.
    pub stable: usize,
    /// Whether the model was told not to think.
    pub thoughtless: bool,
}

/// Takes the tokens of an answer, and says which may come.
struct Voice<'a> {
    stream: Stream<'a>,
    constrainer: Option<Box<dyn Constrainer>>,
    failed: Option<io::Error>,
}

impl Voice<'_> {
    /// Why the answer cannot go on, if that is not the engine's fault.
    fn failure(&mut self) -> Option<anyhow::Error> {
        if let Some(e) = self.failed.take() {
            return Some(e.into());
        }
        let why = self.constrainer.as_ref()?.failure()?;
        Some(hinted(
            format!("the grammar cannot go on: {why}"),
            "a simpler grammar or schema takes less work",
        ))
    }
}

impl Sink for Voice<'_> {
    fn token(&mut self, token: u32) -> ControlFlow<()> {
        let mut flow = match self.stream.push(token) {
            Ok(flow) => flow,
            Err(e) => {
                self.failed = Some(e);
                ControlFlow::Break(())
            }
        };
        if let Some(grammar) = &mut self.constrainer {
            if !grammar.advance(token) || grammar.is_complete() {
                flow = ControlFlow::Break(());
            }
            grammar.prepare();
        }
        flow
    }

    fn constraint(&mut self) -> Option<&mut dyn Constraint> {
        let grammar = self.constrainer.as_mut()?;
        Some(&mut **grammar)
    }
}

/// A model with one sequence.
pub struct Session {
    engine: Engine,
    timeline: Timeline,
    vocab: Arc<dyn VocabView>,
    interrupt: Interrupt,
    options: AnswerOptions,
    speculation: Speculation,
    /// What answers must be.
    grammar: Option<(Grammars, GrammarSpec)>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
}

impl Session {
    /// A session with an empty sequence.
    pub fn new(
        engine: Engine,
        interrupt: Interrupt,
        sampling: SamplingParams,
        speculation: Speculation,
        options: AnswerOptions,
    ) -> Result<Self> {
        let vocab = vocab_of(engine.model());
        // A wrong bias is better said before the first prompt is computed.
        Sampler::new(&sampling, &vocab, engine.n_ctx() as usize)?;
        let state = if engine.memory().is_recurrent() {
            engine.checkpoint(SeqId(0))?.state.len()
        } else {
            0
        };
        let n_checkpoints = (CHECKPOINT_BYTES / state.max(1)).clamp(2, MOST_CHECKPOINTS);
        Ok(Self {
            engine,
            timeline: Timeline::new(SeqId(0), n_checkpoints),
            vocab,
            interrupt,
            options,
            speculation,
            grammar: None,
            sampling,
        })
    }

    /// Constrains all answers.
    ///
    /// # Errors
    /// A grammar that cannot be compiled.
    pub fn constrain(&mut self, spec: GrammarSpec) -> Result<()> {
        let grammars = Grammars::new(self.engine.model().tokenizer())?;
        // Better said before the first prompt is computed.
        grammars.compile(&spec, Start::Now)?;
        self.grammar = Some((grammars, spec));
        Ok(())
    }

    /// The grammar of the answer to `prompt`; thoughts between `tags` are free, unless there should be none.
    fn constrainer(
        &self,
        prompt: &Prompt,
        tags: Option<&ReasoningTags>,
    ) -> Result<Option<Box<dyn Constrainer>>> {
        let Some((grammars, spec)) = &self.grammar else {
            return Ok(None);
        };
        let start = match tags.map(|tags| Start::for_prompt(tags.clone(), &prompt.text)) {
            // A model that was told not to think does not get around a grammar by thinking.
            Some(Start::AfterReasoning(_)) if prompt.thoughtless => Start::Now,
            Some(start) => start,
            None => Start::Now,
        };
        Ok(Some(grammars.compile(spec, start)?))
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// How answers end.
    pub fn options_mut(&mut self) -> &mut AnswerOptions {
        &mut self.options
    }

    /// Tokens of a text that a template rendered, or (`typed`) of one to be completed. A start token comes first where
    /// the model wants one, and only once; an end token never: the text goes on.
    pub fn encode(&self, text: &str, typed: bool) -> Vec<u32> {
        let tokenizer = self.engine.model().tokenizer();
        let mut tokens = tokenizer.encode(
            text,
            EncodeOptions {
                add_special: false,
                parse_special: !typed,
            },
        );
        if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos())
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        tokens
    }

    /// Computes the prompt, then an answer, which goes to the screen as it comes; with `tags`, thoughts are told from
    /// it. `attempt` counts the answers to this prompt: with a fixed seed, each has its own draws.
    pub fn answer(
        &mut self,
        prompt: &Prompt,
        tags: Option<ReasoningTags>,
        attempt: u64,
        screen: &mut Screen,
    ) -> Result<Answer> {
        if self.options.verbose_prompt {
            self.show_tokens(&prompt.tokens);
        }
        self.check_length(prompt.tokens.len())?;
        let busy = self.interrupt.busy();
        let prefill = self.prefill(prompt, &busy)?;
        if prefill.cancelled {
            return Ok(Answer::default());
        }
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(attempt));
        let mut sampler = Sampler::new(&sampling, &self.vocab, self.engine.n_ctx() as usize)?;
        sampler.accept_prompt(&prompt.tokens);
        tracing::info!(
            seed = sampler.seed(),
            chain = sampler.describe(),
            "sampling"
        );
        let tokenizer = Arc::clone(self.engine.model().tokenizer());
        let constrainer = self.constrainer(prompt, tags.as_ref())?;
        let stream = Stream::new(&tokenizer, &self.options, tags, &prompt.text, screen);
        let mut voice = Voice {
            stream,
            constrainer,
            failed: None,
        };
        let options = GenerateOptions {
            n_predict: self.options.n_predict,
        };
        let generation = self.timeline.generate_to(
            &mut self.engine,
            &mut sampler,
            &mut self.speculation,
            options,
            busy.stop(),
            &mut voice,
        );
        let generation = match voice.failure() {
            Some(why) => return Err(why),
            None => generation?,
        };
        let answer = voice.stream.finish(generation.finish)?;
        self.report(&prefill, &generation);
        Ok(answer)
    }

    fn check_length(&self, n_tokens: usize) -> Result<()> {
        let n_ctx = self.engine.n_ctx();
        if n_tokens == 0 {
            return Err(hinted(
                "the prompt is empty",
                "give it with -p TEXT or -f FILE",
            ));
        }
        if n_tokens > n_ctx as usize {
            return Err(hinted(
                format!("the prompt has {n_tokens} tokens, the context holds {n_ctx}"),
                "make the context larger with -c N; in a chat, /clear starts a new conversation",
            ));
        }
        Ok(())
    }

    /// Brings the sequence to the prompt, with a state to come back to where the stable part ends.
    fn prefill(&mut self, prompt: &Prompt, busy: &Busy) -> Result<Prefill> {
        let known = self
            .timeline
            .tokens()
            .iter()
            .zip(&prompt.tokens)
            .take_while(|(a, b)| a == b)
            .count();
        let mut total = Prefill::default();
        if (1..prompt.tokens.len()).contains(&prompt.stable) && known < prompt.stable {
            total = self.sync(&prompt.tokens[..prompt.stable], busy)?;
            if total.cancelled {
                return Ok(total);
            }
            self.timeline.checkpoint(&self.engine)?;
        }
        let rest = self.sync(&prompt.tokens, busy)?;
        let reused = if total.computed > 0 {
            total.reused
        } else {
            rest.reused
        };
        let (computed, time) = (total.computed + rest.computed, total.time + rest.time);
        tracing::info!(reused, computed, "prompt");
        Ok(Prefill {
            reused,
            computed,
            time,
            cancelled: rest.cancelled,
        })
    }

    fn sync(&mut self, tokens: &[u32], busy: &Busy) -> Result<Prefill> {
        let mut bar = None;
        let done = self
            .timeline
            .sync(&mut self.engine, tokens, busy.stop(), &mut |done, total| {
                if done < total {
                    bar.get_or_insert_with(|| count_bar("prompt", total as u64))
                        .set_position(done as u64);
                }
            });
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        Ok(done?)
    }

    fn show_tokens(&self, tokens: &[u32]) {
        let tokenizer = self.engine.model().tokenizer();
        note(&format!("prompt of {} tokens:", tokens.len()));
        for &token in tokens {
            note(&format!(
                "{token:>8} {:?}",
                String::from_utf8_lossy(tokenizer.token_bytes(token))
            ));
        }
    }

    fn report(&self, prefill: &Prefill, generation: &Generation) {
        if generation.finish == Finish::ContextFull {
            note(&format!(
                "the context of {} tokens is full; -c N makes it larger",
                self.engine.n_ctx()
            ));
        }
        if self.options.timings {
            let seconds = prefill.time.as_secs_f64();
            let prompt = if seconds > 0.0 {
                prefill.computed as f64 / seconds
            } else {
                0.0
            };
            let drafts = &generation.drafts;
            let guesses = match drafts.n_drafted() {
                0 => String::new(),
                n => format!(
                    " | Drafts: {} of {n} accepted, {:.2} tokens per step",
                    drafts.n_accepted(),
                    drafts.mean_length()
                ),
            };
            note(&format!(
                "[ Prompt: {prompt:.1} t/s | Generation: {:.1} t/s{guesses} ]",
                generation.tokens_per_second()
            ));
        }
    }
}
