//! The chain: which samplers act on the candidates, and in which order.

use std::sync::Arc;

use super::candidates::Candidates;
use super::dry::Dry;
use super::filters;
use super::penalties::Penalties;
use super::rng::{Draws, Purpose};
use super::select::{Selector, Version};
use super::{SamplerKind, SamplingParams, VocabView};

/// One step before the choice of the token.
#[derive(Clone)]
enum Stage {
    Penalties(Penalties),
    Dry(Box<Dry>),
    TopNSigma(f32),
    TopK(usize),
    Typical {
        p: f32,
        min_keep: usize,
    },
    TopP {
        p: f32,
        min_keep: usize,
    },
    MinP {
        p: f32,
        min_keep: usize,
    },
    Xtc {
        probability: f32,
        threshold: f32,
        min_keep: usize,
    },
    Temperature(f32),
    DynamicTemperature {
        centre: f32,
        range: f32,
        exponent: f32,
    },
}

/// The steps and the final choice, with their state.
#[derive(Clone)]
pub(super) struct Chain {
    stages: Vec<Stage>,
    selector: Selector,
    description: Arc<str>,
}

impl Chain {
    /// Builds the chain of parameters that were validated. `n_ctx` stands for "-1" windows.
    pub(super) fn new(params: &SamplingParams, vocab: &Arc<dyn VocabView>, n_ctx: usize) -> Self {
        let mut names = String::from("logits");
        let mut add_name = |name: &str, on: bool| {
            names.push_str(if on { " -> " } else { " -> ?" });
            names.push_str(name);
        };
        if !params.logit_bias.is_empty() || params.ignore_eos {
            add_name("logit-bias", true);
        }
        let mut stages = Vec::new();
        if params.mirostat == 0 {
            for &kind in params
                .samplers
                .iter()
                .filter(|&&kind| kind != SamplerKind::AdaptiveP)
            {
                let stage = Stage::new(kind, params, vocab, n_ctx);
                add_name(chain_name(kind), stage.is_some());
                stages.extend(stage);
            }
        } else {
            stages.extend((params.temp != 1.0).then_some(Stage::Temperature(params.temp)));
            add_name("temp", !stages.is_empty());
        }
        let selector = selector(params, vocab.n_vocab());
        add_name(selector.name(), true);
        drop_idle_stages(&mut stages);
        Self {
            stages,
            selector,
            description: names.into(),
        }
    }

    /// The chain as llama.cpp prints it; a question mark stands before samplers that are off.
    pub(super) fn description(&self) -> &str {
        &self.description
    }

    /// Applies all steps and chooses a token; `None` if there is no candidate.
    pub(super) fn run(
        &mut self,
        candidates: &mut Candidates,
        draws: &mut Draws,
        position: u64,
        purpose: Purpose,
    ) -> Option<super::Candidate> {
        for stage in &mut self.stages {
            stage.apply(candidates, draws, position);
        }
        let u = draws.uniform(position, purpose);
        self.selector.select(candidates, u)
    }

    /// Takes a token of the prompt: part of the past, but not of what was drawn.
    pub(super) fn accept_prompt(&mut self, token: u32) {
        for stage in &mut self.stages {
            match stage {
                Stage::Penalties(penalties) => penalties.accept(token),
                Stage::Dry(dry) => dry.accept(token),
                _ => {}
            }
        }
    }

    /// Takes a token of the output.
    pub(super) fn accept(&mut self, token: u32) {
        self.accept_prompt(token);
        self.selector.accept(token);
    }

    /// Forgets the past.
    pub(super) fn reset(&mut self) {
        for stage in &mut self.stages {
            match stage {
                Stage::Penalties(penalties) => penalties.reset(),
                Stage::Dry(dry) => dry.reset(),
                _ => {}
            }
        }
        self.selector.reset();
    }
}

/// Name of a sampler in the description of a chain.
fn chain_name(kind: SamplerKind) -> &'static str {
    match kind {
        SamplerKind::Penalties => "penalties",
        SamplerKind::Dry => "dry",
        SamplerKind::TopNSigma => "top-n-sigma",
        SamplerKind::TopK => "top-k",
        SamplerKind::TypicalP => "typical",
        SamplerKind::TopP => "top-p",
        SamplerKind::MinP => "min-p",
        SamplerKind::Xtc => "xtc",
        SamplerKind::Temperature => "temp-ext",
        SamplerKind::AdaptiveP => "adaptive-p",
    }
}

/// The last step.
fn selector(params: &SamplingParams, n_vocab: usize) -> Selector {
    let mirostat = |version| Selector::mirostat(version, params.mirostat_tau, params.mirostat_eta);
    match params.mirostat {
        0 if params.samplers.contains(&SamplerKind::AdaptiveP) => {
            Selector::adaptive(params.adaptive_target, params.adaptive_decay)
        }
        0 => Selector::Draw,
        1 => mirostat(Version::One { n_vocab }),
        _ => mirostat(Version::Two),
    }
}

/// Greedy decoding leaves one token, so nothing after it matters, and neither does a filter right
/// before it that always keeps the most probable token. Dropping them makes greedy one pass.
fn drop_idle_stages(stages: &mut Vec<Stage>) {
    let Some(greedy) = stages.iter().position(Stage::is_greedy) else {
        return;
    };
    stages.truncate(greedy + 1);
    let kept = stages[..greedy]
        .iter()
        .rposition(|stage| !stage.keeps_best());
    stages.drain(kept.map_or(0, |last| last + 1)..greedy);
}

impl Stage {
    /// The stage of a sampler; `None` if the parameters switch it off.
    fn new(
        kind: SamplerKind,
        params: &SamplingParams,
        vocab: &Arc<dyn VocabView>,
        n_ctx: usize,
    ) -> Option<Self> {
        let window = |last_n: i32| usize::try_from(last_n).unwrap_or(n_ctx);
        let min_keep = params.min_keep as usize;
        match kind {
            SamplerKind::Penalties => Penalties::new(
                window(params.penalty_last_n),
                params.penalty_repeat,
                params.penalty_freq,
                params.penalty_present,
            )
            .map(Self::Penalties),
            SamplerKind::Dry => Dry::new(params, window(params.dry_penalty_last_n), vocab)
                .map(|dry| Self::Dry(Box::new(dry))),
            SamplerKind::TopNSigma => {
                (params.top_n_sigma > 0.0).then_some(Self::TopNSigma(params.top_n_sigma))
            }
            SamplerKind::TopK => {
                let k = usize::try_from(params.top_k).ok()?;
                (k > 0).then_some(Self::TopK(k))
            }
            SamplerKind::TypicalP => (params.typ_p < 1.0).then_some(Self::Typical {
                p: params.typ_p,
                min_keep,
            }),
            SamplerKind::TopP => (params.top_p < 1.0).then_some(Self::TopP {
                p: params.top_p,
                min_keep,
            }),
            SamplerKind::MinP => (params.min_p > 0.0).then_some(Self::MinP {
                p: params.min_p,
                min_keep,
            }),
            SamplerKind::Xtc => {
                let on = params.xtc_probability > 0.0 && params.xtc_threshold <= 0.5;
                on.then_some(Self::Xtc {
                    probability: params.xtc_probability,
                    threshold: params.xtc_threshold,
                    min_keep,
                })
            }
            SamplerKind::Temperature if params.dynatemp_range > 0.0 => {
                Some(Self::DynamicTemperature {
                    centre: params.temp,
                    range: params.dynatemp_range,
                    exponent: params.dynatemp_exponent,
                })
            }
            SamplerKind::Temperature => {
                (params.temp != 1.0).then_some(Self::Temperature(params.temp))
            }
            SamplerKind::AdaptiveP => None,
        }
    }

    fn apply(&mut self, candidates: &mut Candidates, draws: &mut Draws, position: u64) {
        match *self {
            Self::Penalties(ref penalties) => penalties.apply(candidates),
            Self::Dry(ref mut dry) => dry.apply(candidates),
            Self::TopNSigma(n) => filters::top_n_sigma(candidates, n),
            Self::TopK(k) => filters::top_k(candidates, k),
            Self::Typical { p, min_keep } => filters::typical(candidates, p, min_keep),
            Self::TopP { p, min_keep } => filters::top_p(candidates, p, min_keep),
            Self::MinP { p, min_keep } => filters::min_p(candidates, p, min_keep),
            Self::Xtc {
                probability,
                threshold,
                min_keep,
            } => {
                if draws.uniform(position, Purpose::Xtc) < f64::from(probability) {
                    filters::xtc(candidates, threshold, min_keep);
                }
            }
            Self::Temperature(temperature) => filters::temperature(candidates, temperature),
            Self::DynamicTemperature {
                centre,
                range,
                exponent,
            } => {
                filters::dynamic_temperature(candidates, centre, range, exponent);
            }
        }
    }

    /// Leaves the most probable token alone.
    fn is_greedy(&self) -> bool {
        matches!(*self, Self::Temperature(temperature) if temperature <= 0.0)
    }

    /// Never drops the most probable token and does not change the order of the others.
    fn keeps_best(&self) -> bool {
        match *self {
            Self::TopNSigma(_)
            | Self::TopK(_)
            | Self::TopP { .. }
            | Self::MinP { .. }
            | Self::Temperature(_)
            | Self::DynamicTemperature { .. } => true,
            Self::Penalties(_) | Self::Dry(_) | Self::Typical { .. } | Self::Xtc { .. } => false,
        }
    }
}
