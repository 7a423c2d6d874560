//! Which products our own kernels compute, and the activations they share.

use std::cell::RefCell;

use super::loader::WeightId;
use super::step::Step;
use crate::ggml::{GraphError, Matrix, Quantized, Tensor};
use crate::kernels::{Layout, Rounding};

/// Steps of this many tokens are worth sending weights to a GPU for, which ggml's scheduler then does.
const WORTH_A_GPU: i64 = 32;

/// Activations of a step that were quantised already: the query and key projections have one input, as gate and up have.
#[derive(Default)]
pub struct Shared<'g>(RefCell<Vec<(Source<'g>, Quantized<'g>)>>);

/// What was quantised, and how.
#[derive(Clone, Copy, PartialEq)]
struct Source<'g> {
    x: Tensor<'g>,
    layout: Layout,
    signs: Option<Tensor<'g>>,
}

impl<'g> Step<'g, '_> {
    /// The weight as a matrix, or one per expert, if one of our kernels is to compute its products. `planes` says that it
    /// holds binary planes.
    pub fn matrix(&self, id: WeightId, planes: bool) -> Result<Option<Matrix<'g>>, GraphError> {
        Ok(self.matrix_of(self.weight(id)?, planes))
    }

    /// As [`Self::matrix`], of a weight or part of one.
    pub(super) fn matrix_of(&self, w: Tensor<'g>, planes: bool) -> Option<Matrix<'g>> {
        self.wants_own().then(|| Matrix::new(w, planes)).flatten()
    }

    /// Whether our own kernels are to compute what they can of this step on the CPU.
    pub fn wants_own(&self) -> bool {
        let for_gpu = self.weights().has_gpu() && self.n_tokens() >= WORTH_A_GPU;
        self.own_kernels() && !for_gpu
    }

    /// `x` for matrices that want `layout`; `signs` are those of the rotation in front of planes.
    pub fn quantized(
        &self,
        x: Tensor<'g>,
        layout: Layout,
        signs: Option<Tensor<'g>>,
    ) -> Result<Quantized<'g>, GraphError> {
        let source = Source { x, layout, signs };
        let shared = &self.shared().0;
        if let Some((_, known)) = shared.borrow().iter().find(|(s, _)| *s == source) {
            return Ok(*known);
        }
        let new = match signs {
            Some(signs) => self.g().rotate_and_quantize(x, signs)?,
            None => self.g().quantize(x, layout)?,
        };
        shared.borrow_mut().push((source, new));
        Ok(new)
    }

    /// How products of this step may be rounded.
    pub fn rounding(&self) -> Rounding {
        if self.is_exact() {
            Rounding::Alone
        } else {
            Rounding::Fast
        }
    }
}
