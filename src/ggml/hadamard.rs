//! Products with Hadamard matrices, which backends compute as fast transforms where they can.

use ggml_sys as sys;

use super::graph::{Builder, Tensor};
use super::ops::{contiguous, ensure, is};
use super::quant::usable_as_matrix;
use super::{DType, GraphError};

impl<'g> Builder<'g> {
    /// `H x` for the orthonormal Hadamard matrix `H {n, n}` in natural order and `x {n, ..}` F32, contiguous.
    ///
    /// The matrix must be that one: a backend with a fast transform never reads it, others multiply. In ggml 0.26.0 the
    /// CPU has one for every `n`, Metal for 64 to 8192, CUDA and Vulkan for 64 to 512.
    pub fn hadamard(&self, matrix: Tensor<'g>, x: Tensor<'g>) -> Result<Tensor<'g>, GraphError> {
        let n = x.ne()[0];
        // The CPU's transform aborts on other lengths.
        let power = u64::try_from(n).is_ok_and(u64::is_power_of_two);
        ensure(
            power && matrix.ne() == [n, n, 1, 1],
            "hadamard",
            "the matrix is square, its width that of x and a power of two",
            &[matrix, x],
        )?;
        ensure(
            usable_as_matrix(matrix.dtype())
                && contiguous(matrix)
                && is(x, DType::F32)
                && contiguous(x),
            "hadamard",
            "the matrix is a weight type, x is F32, both are contiguous",
            &[matrix, x],
        )?;
        // SAFETY: operands checked; the hint is set on the product just made, which is a mul_mat.
        self.call(1, || unsafe {
            let product = sys::ggml_mul_mat(self.ctx(), matrix.raw.as_ptr(), x.raw.as_ptr());
            sys::ggml_mul_mat_set_hint(product, sys::GGML_HINT_SRC0_IS_HADAMARD);
            product
        })
    }
}
