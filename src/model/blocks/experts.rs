//! One projection of all experts of a block: an ordinary matrix, or planes behind a rotation.

use std::cell::OnceCell;

use super::rotation::Rotation;
use crate::ggml::{GraphError, Tensor};
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
pub struct ExpertInput<'g> {
    plain: Tensor<'g>,
    rotated: OnceCell<Tensor<'g>>,
}

impl<'g> ExpertInput<'g> {
    /// Wraps the input of one or several matrices of the same width.
    pub fn new(x: Tensor<'g>) -> Self {
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
    pub fn build<'g>(
        &self,
        s: &Step<'g, '_>,
        x: &ExpertInput<'g>,
        chosen: Tensor<'g>,
    ) -> Result<Tensor<'g>, GraphError> {
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
}
