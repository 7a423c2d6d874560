//! One projection of all experts of a block: an ordinary matrix, or planes behind a rotation.

use std::cell::OnceCell;

use super::rotation::Rotation;
use crate::ggml::{GraphError, Matrix, Quantized, Tensor};
use crate::model::loader::{Loader, Part, WeightId};
use crate::model::step::Step;

/// Matrices `{n_in, n_out, n_expert}`.
#[derive(Debug, Clone)]
pub struct ExpertMatrix {
    weight: WeightId,
    /// What the inputs of planes go through first.
    rotation: Option<Rotation>,
}

/// What experts are applied to: `{n_in, n_used | 1, tokens}`, rotated at most once.
struct ExpertInput<'g> {
    plain: Tensor<'g>,
    rotated: OnceCell<Tensor<'g>>,
}

impl<'g> ExpertInput<'g> {
    /// Wraps the input of one or several matrices of the same width.
    fn new(x: Tensor<'g>) -> Self {
        Self {
            plain: x,
            rotated: OnceCell::new(),
        }
    }
}

impl ExpertMatrix {
    /// Names the tensor `name` of block `layer`. Stored as planes, a row is twice as long.
    pub fn load(loader: &mut Loader<'_>, layer: u32, name: &str, shape: [u64; 3]) -> Self {
        let part = Part::Layer(layer);
        let (weight, is_planes) = loader.expert_matrix(part, name, shape);
        let rotation = is_planes.then(|| {
            let device = loader.weight_device(part, name);
            Rotation::load(loader, device, shape[0])
        });
        Self { weight, rotation }
    }

    /// The products with the chosen experts: `{n_out, n_used, tokens}`.
    fn build<'g>(
        &self,
        s: &Step<'g, '_>,
        x: &ExpertInput<'g>,
        chosen: Tensor<'g>,
    ) -> Result<Tensor<'g>, GraphError> {
        if let Some((matrix, x)) = self.own(s, x.plain)? {
            return s.g().expert_products(matrix, x, chosen, s.rounding());
        }
        let input = match (&self.rotation, x.rotated.get()) {
            (None, _) => x.plain,
            (Some(_), Some(rotated)) => *rotated,
            (Some(rotation), None) => {
                let rotated = rotation.build(s, x.plain)?;
                *x.rotated.get_or_init(|| rotated)
            }
        };
        s.g().mul_mat_id(s.weight(self.weight)?, input, chosen)
    }

    /// `silu(gate x) * (up x)` with the chosen experts: `{n_out, n_used, tokens}`. `x {n_in, 1, tokens}`.
    pub fn swiglu<'g>(
        gate: &Self,
        up: &Self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
        chosen: Tensor<'g>,
    ) -> Result<Tensor<'g>, GraphError> {
        if let (Some((g, x)), Some((u, _))) = (gate.own(s, x)?, up.own(s, x)?)
            && g.is_like(&u)
        {
            return s.g().expert_swiglu(g, u, x, chosen, s.rounding());
        }
        let x = ExpertInput::new(x);
        s.g()
            .swiglu(gate.build(s, &x, chosen)?, up.build(s, &x, chosen)?)
    }

    /// The products of each choice's column with its expert, times `weights {1, n_used, tokens}`, added up:
    /// `{n_out, tokens}`. `x {n_in, n_used, tokens}`.
    pub fn sum<'g>(
        &self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
        chosen: Tensor<'g>,
        weights: Tensor<'g>,
    ) -> Result<Tensor<'g>, GraphError> {
        let g = s.g();
        if let Some((matrix, x)) = self.own(s, x)? {
            return g.expert_sum(matrix, x, chosen, weights, s.rounding());
        }
        let out = g.mul(self.build(s, &ExpertInput::new(x), chosen)?, weights)?;
        let ([n_out, n_used, n, _], nb) = (out.ne(), out.nb());
        let mut sum = g.view(out, &[n_out, n], &[nb[2]], 0)?;
        for expert in 1..n_used as usize {
            sum = g.add(sum, g.view(out, &[n_out, n], &[nb[2]], expert * nb[1])?)?;
        }
        Ok(sum)
    }

    /// The matrices and their input, if our own kernels compute the products.
    fn own<'g>(
        &self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
    ) -> Result<Option<(Matrix<'g>, Quantized<'g>)>, GraphError> {
        let Some(matrix) = s.matrix(self.weight, self.rotation.is_some())? else {
            return Ok(None);
        };
        let signs = self.rotation.as_ref().map(|r| r.signs(s)).transpose()?;
        Ok(Some((matrix, s.quantized(x, matrix.layout(), signs)?)))
    }
}
