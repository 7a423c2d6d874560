//! A matrix with an optional bias.

use crate::ggml::{GraphError, Matrix, Tensor};
use crate::model::loader::{Loader, Part, Role, WeightId};
use crate::model::step::Step;

/// `W x + b`, without `b` where the file has none.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: WeightId,
    bias: Option<WeightId>,
}

impl Linear {
    /// Names `{name}.weight` of shape `{n_in, n_out}`, and `{name}.bias` if it is there.
    pub fn load(loader: &mut Loader<'_>, part: Part, name: &str, shape: [u64; 2]) -> Self {
        Self {
            weight: loader.tensor(part, &format!("{name}.weight"), &shape, Role::Matrix),
            bias: loader.optional(part, &format!("{name}.bias"), &shape[1..], Role::Vector),
        }
    }

    /// `{n_in, tokens}` to `{n_out, tokens}`.
    pub fn build<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<Tensor<'g>, GraphError> {
        let out = s.linear(self.weight, x)?;
        match self.bias {
            Some(bias) => s.g().add(out, s.weight(bias)?),
            None => Ok(out),
        }
    }

    /// `silu(gate x) * (up x)`, each with its bias.
    pub fn swiglu<'g>(
        gate: &Self,
        up: &Self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
    ) -> Result<Tensor<'g>, GraphError> {
        if let (Some(g), Some(u)) = (gate.own(s)?, up.own(s)?)
            && g.is_like(&u)
        {
            let x = s.quantized(x, g.layout(), None)?;
            return s.g().swiglu_product(g, u, x, s.rounding());
        }
        s.g().swiglu(gate.build(s, x)?, up.build(s, x)?)
    }

    /// The matrix, if our own kernels compute its products and it is all there is.
    fn own<'g>(&self, s: &Step<'g, '_>) -> Result<Option<Matrix<'g>>, GraphError> {
        match self.bias {
            Some(_) => Ok(None),
            None => s.matrix(self.weight, false),
        }
    }
}
