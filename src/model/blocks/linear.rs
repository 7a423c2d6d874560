//! A matrix with an optional bias.

use crate::ggml::{GraphError, Tensor};
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
}
