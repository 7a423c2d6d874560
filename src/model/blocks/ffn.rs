//! SwiGLU feed-forward: `down(silu(gate x) * up x)`, each with a bias if the file has one.

use super::decoder::FeedForward;
use super::linear::Linear;
use crate::ggml::{GraphError, Tensor};
use crate::model::loader::{Loader, Part};
use crate::model::step::Step;

/// Weights of a SwiGLU.
#[derive(Debug, Clone)]
pub struct SwiGlu {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl SwiGlu {
    /// Names the tensors `blk.{layer}.ffn_{gate,up,down}{suffix}.weight`, `n_embd` to `n_ff` and back.
    pub fn load(loader: &mut Loader<'_>, layer: u32, suffix: &str, n_embd: u64, n_ff: u64) -> Self {
        let mut matrix = |name: &str, shape: [u64; 2]| {
            Linear::load(
                loader,
                Part::Layer(layer),
                &format!("blk.{layer}.ffn_{name}{suffix}"),
                shape,
            )
        };
        Self {
            gate: matrix("gate", [n_embd, n_ff]),
            up: matrix("up", [n_embd, n_ff]),
            down: matrix("down", [n_ff, n_embd]),
        }
    }
}

impl FeedForward for SwiGlu {
    fn build<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<Tensor<'g>, GraphError> {
        let hidden = Linear::swiglu(&self.gate, &self.up, s, x)?;
        self.down.build(s, hidden)
    }
}
