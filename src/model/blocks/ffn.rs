//! SwiGLU feed-forward: `down(silu(gate x) * up x)`.

use crate::ggml::{GraphError, Tensor};
use crate::model::loader::{Loader, Part, Role, WeightId};
use crate::model::step::Step;

/// Weights of a SwiGLU.
#[derive(Debug, Clone)]
pub struct SwiGlu {
    gate: WeightId,
    up: WeightId,
    down: WeightId,
}

impl SwiGlu {
    /// Names the tensors `blk.{layer}.ffn_{gate,up,down}{suffix}.weight`, `n_embd` to `n_ff` and back.
    pub fn load(loader: &mut Loader<'_>, layer: u32, suffix: &str, n_embd: u64, n_ff: u64) -> Self {
        let part = Part::Layer(layer);
        let mut matrix = |name: &str, shape: [u64; 2]| {
            loader.tensor(
                part,
                &format!("blk.{layer}.ffn_{name}{suffix}.weight"),
                &shape,
                Role::Matrix,
            )
        };
        Self {
            gate: matrix("gate", [n_embd, n_ff]),
            up: matrix("up", [n_embd, n_ff]),
            down: matrix("down", [n_ff, n_embd]),
        }
    }

    /// `{n_embd, tokens}` to the same.
    pub fn build<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<Tensor<'g>, GraphError> {
        let hidden = s
            .g()
            .swiglu(s.linear(self.gate, x)?, s.linear(self.up, x)?)?;
        s.linear(self.down, hidden)
    }
}
