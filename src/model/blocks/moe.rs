//! Mixture of experts with a router, groups of experts and a shared expert.
//!
//! `s = sigmoid(W_r x)` or `softmax(W_r x)`; experts are chosen by `s + bias`, first the groups with the best two-expert
//! sums, then the best experts within them; the weights are those of `s` without the bias, normalised and scaled.

use std::fmt;

use super::decoder::FeedForward;
use super::experts::ExpertMatrix;
use super::ffn::SwiGlu;
use crate::ggml::{GraphError, Tensor};
use crate::kernels::{Choice, MIN_WEIGHT_SUM, SCORE_BOUND, Weighing};
use crate::model::loader::{Loader, Part, Role, WeightId};
use crate::model::step::Step;

/// How a router turns its products into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gating {
    /// Over all experts.
    Softmax,
    /// Each expert by itself.
    Sigmoid,
}

impl Gating {
    /// Its number in `expert_gating_func`.
    pub fn number(self) -> u32 {
        match self {
            Self::Softmax => 1,
            Self::Sigmoid => 2,
        }
    }

    /// What a number in `expert_gating_func` stands for, if it is known.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Softmax, Self::Sigmoid]
            .into_iter()
            .find(|g| g.number() == number)
    }
}

impl fmt::Display for Gating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// Sizes and rules of an MoE layer.
#[derive(Debug, Clone)]
pub struct MoeParams {
    /// Model width.
    pub n_embd: u32,
    /// Width of an expert.
    pub n_ff: u32,
    /// Experts.
    pub n_expert: u32,
    /// Experts per token.
    pub n_used: u32,
    /// Groups the experts fall into; 1 if there are none.
    pub n_group: u32,
    /// Groups a token may choose from.
    pub n_group_used: u32,
    /// How the router scores.
    pub gating: Gating,
    /// Whether chosen weights are divided by their sum.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f32,
    /// Width of the shared expert; `None` if there is none.
    pub n_ff_shared: Option<u32>,
}

/// Weights of an MoE layer.
#[derive(Debug, Clone)]
pub struct Moe {
    params: MoeParams,
    router: WeightId,
    bias: Option<WeightId>,
    gate: ExpertMatrix,
    up: ExpertMatrix,
    down: ExpertMatrix,
    shared: Option<SwiGlu>,
}

impl Moe {
    /// Names the tensors of block `layer`.
    pub fn load(loader: &mut Loader<'_>, params: &MoeParams, layer: u32) -> Self {
        let part = Part::Layer(layer);
        let (n_embd, n_ff, n_expert) = (
            u64::from(params.n_embd),
            u64::from(params.n_ff),
            u64::from(params.n_expert),
        );
        let name = |suffix: &str| format!("blk.{layer}.{suffix}");
        let experts = |loader: &mut Loader<'_>, which: &str, shape| {
            ExpertMatrix::load(
                loader,
                layer,
                &name(&format!("ffn_{which}_exps.weight")),
                shape,
            )
        };
        Self {
            params: params.clone(),
            router: loader.tensor(
                part,
                &name("ffn_gate_inp.weight"),
                &[n_embd, n_expert],
                Role::Matrix,
            ),
            bias: loader.optional(part, &name("exp_probs_b.bias"), &[n_expert], Role::Vector),
            gate: experts(loader, "gate", [n_embd, n_ff, n_expert]),
            up: experts(loader, "up", [n_embd, n_ff, n_expert]),
            down: experts(loader, "down", [n_ff, n_embd, n_expert]),
            shared: params
                .n_ff_shared
                .map(|n| SwiGlu::load(loader, layer, "_shexp", n_embd, u64::from(n))),
        }
    }
}

impl FeedForward for Moe {
    fn build<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<Tensor<'g>, GraphError> {
        let (g, p) = (s.g(), &self.params);
        let (n_embd, n) = (i64::from(p.n_embd), x.ne()[1]);
        let scores = s.linear(self.router, x)?;
        let (chosen, weights) = if s.wants_own() && g.can_route(s.weight(self.router)?) {
            self.route(s, scores)?
        } else {
            let probs = match p.gating {
                Gating::Sigmoid => g.sigmoid(scores)?,
                Gating::Softmax => g.soft_max(scores, None, 1.0)?,
            };
            let chosen = self.choose(s, probs)?;
            (chosen, self.weigh(s, probs, chosen)?)
        };

        let columns = g.reshape(x, &[n_embd, 1, n])?;
        let hidden = ExpertMatrix::swiglu(&self.gate, &self.up, s, columns, chosen)?;
        let sum = self.down.sum(s, hidden, chosen, weights)?;
        match &self.shared {
            Some(shared) => g.add(shared.build(s, x)?, sum),
            // A single expert's output is a window of a larger tensor.
            None => g.dense(sum),
        }
    }
}

impl Moe {
    /// What `choose` and `weigh` give, by our own kernel.
    fn route<'g>(
        &self,
        s: &Step<'g, '_>,
        scores: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>), GraphError> {
        let (g, p) = (s.g(), &self.params);
        let softmax = p.gating == Gating::Softmax;
        let bias = self.bias.map(|bias| s.weight(bias)).transpose()?;
        let choice = Choice {
            softmax,
            n_group: p.n_group as usize,
            n_group_used: p.n_group_used as usize,
        };
        let weighing = Weighing {
            softmax,
            normalise: p.normalise,
            scale: p.scale,
        };
        let chosen = g.choose_experts(scores, bias, p.n_used as usize, choice)?;
        Ok((chosen, g.weigh_experts(scores, chosen, weighing)?))
    }

    /// The experts of each token: I32 `{n_used, tokens}`.
    fn choose<'g>(&self, s: &Step<'g, '_>, probs: Tensor<'g>) -> Result<Tensor<'g>, GraphError> {
        let (g, p) = (s.g(), &self.params);
        let mut scores = match self.bias {
            Some(bias) => g.add(probs, s.weight(bias)?)?,
            None => probs,
        };
        scores = g.clamp(scores, -SCORE_BOUND, SCORE_BOUND)?;
        if p.n_group > 1 {
            let (groups, n) = (i64::from(p.n_group), scores.ne()[1]);
            let size = i64::from(p.n_expert) / groups;
            let by_group = g.reshape(scores, &[size, groups, n])?;
            let best_two = g.top_k(by_group, size.min(2))?;
            let best_two = g.get_rows(g.reshape(scores, &[1, size, groups, n])?, best_two)?;
            let group_scores = g.sum_rows(g.reshape(best_two, &[size.min(2), groups, n])?)?;
            let kept = g.top_k(
                g.reshape(group_scores, &[groups, n])?,
                i64::from(p.n_group_used),
            )?;
            let open = g.get_rows(by_group, kept)?;
            let closed = g.fill(by_group, f32::NEG_INFINITY)?;
            scores = g.reshape(g.set_rows(closed, open, kept)?, &[size * groups, n])?;
        }
        g.top_k(scores, i64::from(p.n_used))
    }

    /// The weight of each chosen expert: `{1, n_used, tokens}`.
    fn weigh<'g>(
        &self,
        s: &Step<'g, '_>,
        probs: Tensor<'g>,
        chosen: Tensor<'g>,
    ) -> Result<Tensor<'g>, GraphError> {
        let (g, p) = (s.g(), &self.params);
        let (n_used, n) = (i64::from(p.n_used), probs.ne()[1]);
        let weights = g.get_rows(g.reshape(probs, &[1, i64::from(p.n_expert), n])?, chosen)?;
        let mut weights = g.reshape(weights, &[n_used, n])?;
        if p.normalise {
            let sum = g.clamp(g.sum_rows(weights)?, MIN_WEIGHT_SUM, f32::INFINITY)?;
            weights = g.div(weights, sum)?;
        }
        if p.scale != 1.0 {
            weights = g.scale(weights, p.scale)?;
        }
        g.reshape(weights, &[1, n_used, n])
    }
}
