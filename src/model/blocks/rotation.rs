//! The rotation in front of matrices stored as planes: `[X | X]` with `X = H (signs * x)`.
//!
//! `H` is the orthonormal Hadamard matrix in natural order. Backends compute a product with it as a fast transform, but
//! most only up to 512 wide. A wider one is the Kronecker product of two narrow ones: with `x` as a matrix of rows of
//! the inner width, the rows are transformed first, the columns then.

use crate::ggml::{Builder, DType, Device, DeviceKind, GraphError, Tensor};
use crate::model::loader::{Loader, WeightId};
use crate::model::step::Step;
use crate::planes::signs_name;

/// Every backend with a fast transform has it up to here.
const COMMON_WIDTH: u64 = 512;
/// Metal has it up to here; and beyond, the matrix would cost the CPU more than the transform saves.
const WHOLE_WIDTH: u64 = 8192;
/// Narrowest fast transform of CUDA, Vulkan and Metal.
const INNER_WIDTH: u64 = 64;

/// Weights of a rotation.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    signs: WeightId,
    form: Form<WeightId>,
}

/// How the Hadamard matrix is held: identifiers of weights, or tensors of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form<T> {
    /// All of it.
    Whole(T),
    /// Its two factors.
    Factored { inner: T, outer: T },
}

impl Rotation {
    /// Names the signs, and derives the matrices, for rows of `width` weights on `device`. All layers share them.
    pub fn load(loader: &mut Loader<'_>, device: Device, width: u64) -> Self {
        let signs = loader.shared_vector(device, &signs_name(width), width);
        let whole = width <= COMMON_WIDTH
            || width <= WHOLE_WIDTH && transforms_widely(device, loader.has_gpu());
        let mut matrix = |width: u64| {
            // The CPU never reads it, so there it is small: a binary matrix, exact for powers of four.
            let small = width > COMMON_WIDTH && device.kind() == DeviceKind::Cpu;
            let ty = if small { DType::Q1_0 } else { DType::F32 };
            let name = format!("hadamard.{width}");
            loader.constant(device, &name, ty, &[width, width], || bytes(ty, width))
        };
        let form = if whole {
            Form::Whole(matrix(width))
        } else {
            let inner = inner_width(width);
            Form::Factored {
                inner: matrix(inner),
                outer: matrix(width / inner),
            }
        };
        Self { signs, form }
    }

    /// The signs `{width}`.
    pub fn signs<'g>(&self, s: &Step<'g, '_>) -> Result<Tensor<'g>, GraphError> {
        s.weight(self.signs)
    }

    /// `x {width, a, b}` F32 to `{2 width, a, b}`.
    pub fn build<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<Tensor<'g>, GraphError> {
        let form = match self.form {
            Form::Whole(matrix) => Form::Whole(s.weight(matrix)?),
            Form::Factored { inner, outer } => Form::Factored {
                inner: s.weight(inner)?,
                outer: s.weight(outer)?,
            },
        };
        let signed = s.g().mul(s.g().dense(x)?, s.weight(self.signs)?)?;
        rotate_twice(s.g(), form, signed)
    }
}

/// Whether a device has a fast transform for wide rows. Where a GPU takes part, the scheduler may lend it products of
/// the CPU, and it would multiply.
fn transforms_widely(device: Device, has_gpu: bool) -> bool {
    match device.kind() {
        DeviceKind::Cpu => !has_gpu,
        _ => device.backend_name() == "MTL",
    }
}

/// Width of the inner factor: the other is at most as wide, and this one is wide enough for a fast transform.
fn inner_width(width: u64) -> u64 {
    let half = 1 << width.ilog2().div_ceil(2);
    INNER_WIDTH.max(half).min(width)
}

/// `[H x | H x]` for `x {n, a, b}`, contiguous: `{2n, a, b}`.
fn rotate_twice<'g>(
    g: &Builder<'g>,
    form: Form<Tensor<'g>>,
    x: Tensor<'g>,
) -> Result<Tensor<'g>, GraphError> {
    let [n, a, b, _] = x.ne();
    let columns = a * b;
    let twice = match form {
        Form::Whole(matrix) => {
            // Columns lie on axis 2, over which the CPU divides a concatenation among its threads.
            let y = g.reshape(g.hadamard(matrix, x)?, &[n, 1, columns])?;
            g.concat(y, y, 0)?
        }
        Form::Factored { inner, outer } => {
            let (rows, width) = (outer.ne()[0], inner.ne()[0]);
            let y = g.hadamard(inner, g.reshape(x, &[width, rows, columns])?)?;
            let y = g.hadamard(outer, g.cont(g.transpose(y)?)?)?;
            let y = g.transpose(y)?;
            g.concat(y, y, 1)?
        }
    };
    g.reshape(twice, &[2 * n, a, b])
}

/// The Hadamard matrix in natural order: element `(i, j)` is negative if `i & j` has an odd number of bits.
fn bytes(ty: DType, width: u64) -> Vec<u8> {
    let scale = 1.0 / (width as f32).sqrt();
    let is_negative = |i: u64, j: u64| (i & j).count_ones() % 2 == 1;
    let mut out = Vec::new();
    for i in 0..width {
        if ty != DType::Q1_0 {
            let value = |j| if is_negative(i, j) { -scale } else { scale };
            out.extend((0..width).flat_map(|j| value(j).to_le_bytes()));
            continue;
        }
        for first in (0..width).step_by(ty.block_size() as usize) {
            out.extend(half::f16::from_f32(scale).to_le_bytes());
            let byte = |start: u64| {
                (0..8).fold(0u8, |byte, bit| {
                    byte | u8::from(!is_negative(i, start + bit)) << bit
                })
            };
            let starts = (first..first + ty.block_size()).step_by(8);
            out.extend(starts.map(byte));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::{Graph, Scheduler};

    /// F32 sums of up to 4096 terms in another order, on values of size 1.
    const TOLERANCE: f32 = 1e-5;

    /// The definition: neighbours at distance 1, 2, 4 .. become sum and difference, in f64.
    fn butterfly(x: &[f32]) -> Vec<f32> {
        let mut y: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        let mut half = 1;
        while half < y.len() {
            for block in y.chunks_mut(2 * half) {
                let (left, right) = block.split_at_mut(half);
                for (a, b) in left.iter_mut().zip(right) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        let scale = 1.0 / (x.len() as f64).sqrt();
        y.iter().map(|v| (v * scale) as f32).collect()
    }

    fn input(len: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 504.0)
            .collect()
    }

    /// Rotates `{n, 3, 2}` on the CPU with the matrices given by type and width.
    fn rotated(x: &[f32], n: u64, parts: &[(DType, u64)]) -> Vec<f32> {
        let (mut graph, (slots, x_slot, out)) = Graph::build::<_, GraphError>(64, |g| {
            let matrices = parts
                .iter()
                .map(|&(ty, width)| g.input("h", ty, &[width, width]))
                .collect::<Result<Vec<_>, _>>()?;
            let form = match matrices[..] {
                [whole] => Form::Whole(whole),
                [inner, outer] => Form::Factored { inner, outer },
                _ => unreachable!("one matrix or two"),
            };
            let x = g.input("x", DType::F32, &[n, 3, 2])?;
            let out = g.output("y", rotate_twice(g, form, x)?);
            let slots: Vec<_> = matrices.iter().map(|m| g.keep(*m)).collect();
            Ok((slots, g.keep(x), out))
        })
        .unwrap();
        let mut sched = Scheduler::new(&[Device::cpu().unwrap()], 64).unwrap();
        sched.set_n_threads(1);
        sched.allocate(&mut graph).unwrap();
        for (slot, &(ty, width)) in slots.iter().zip(parts) {
            sched.set(&graph, *slot, &bytes(ty, width)).unwrap();
        }
        sched.set(&graph, x_slot, x).unwrap();
        sched.compute(&graph).unwrap();
        let mut y = vec![0f32; 2 * x.len()];
        sched.get(&graph, out, 0, &mut y).unwrap();
        y
    }

    #[test]
    fn both_forms_are_the_butterfly_twice() {
        for n in [128, 256, 1024, 2048, 4096] {
            let x = input(6 * n as usize);
            let inner = inner_width(n);
            let mut forms = vec![
                vec![(DType::Q1_0, n)],
                vec![(DType::F32, inner), (DType::F32, n / inner)],
            ];
            if n <= COMMON_WIDTH {
                forms.push(vec![(DType::F32, n)]);
            }
            for form in forms {
                let y = rotated(&x, n, &form);
                for (column, x) in x.chunks(n as usize).enumerate() {
                    let expected = butterfly(x);
                    let found = &y[column * 2 * n as usize..][..2 * n as usize];
                    for (i, v) in found.iter().enumerate() {
                        let wanted = expected[i % n as usize];
                        assert!(
                            (v - wanted).abs() < TOLERANCE,
                            "{n} as {form:?}: element {i} of column {column} is {v}, not {wanted}"
                        );
                    }
                }
            }
        }
    }

    /// What a backend without the transform would multiply with.
    #[test]
    fn the_matrices_are_the_butterfly_of_unit_vectors() {
        for (ty, n) in [(DType::F32, 64), (DType::Q1_0, 256), (DType::Q1_0, 1024)] {
            let mut values = Vec::new();
            crate::ggml::dequantize(ty, &bytes(ty, n), n, &mut values).unwrap();
            for i in [0, 1, 5, n as usize - 1] {
                let mut unit = vec![0.0; n as usize];
                unit[i] = 1.0;
                assert_eq!(values[i * n as usize..][..n as usize], butterfly(&unit));
            }
        }
    }

    #[test]
    fn factors_are_wide_enough_for_fast_transforms() {
        for (width, inner) in [
            (1024, 64),
            (2048, 64),
            (4096, 64),
            (8192, 128),
            (16384, 128),
            (65536, 256),
        ] {
            assert_eq!(inner_width(width), inner);
        }
    }

    /// The transform would read past rows that are not what it takes them for.
    #[test]
    fn operands_that_do_not_fit_are_refused() {
        Graph::build::<(), GraphError>(64, |g| {
            let f32s = |shape: &[u64]| g.input("x", DType::F32, shape);
            let h = f32s(&[64, 64])?;
            let wide = f32s(&[128, 4])?;
            let strided = g.columns(wide, 0, 64)?;
            for (matrix, x) in [
                (h, wide),
                (h, strided),
                (f32s(&[96, 96])?, f32s(&[96, 2])?),
                (f32s(&[64, 32])?, f32s(&[64, 2])?),
                (h, g.input("x", DType::F16, &[64, 2])?),
            ] {
                assert!(g.hadamard(matrix, x).is_err(), "{matrix:?} and {x:?}");
            }
            Ok(())
        })
        .unwrap();
    }
}
