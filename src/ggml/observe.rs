//! Looking at matrix products while a graph computes: what importance matrices are collected from.

use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use ggml_sys as sys;

use super::DType;
use super::graph::dtype_of;
use super::store::{name_of, nbytes};

/// A product of a matrix with rows of activations that has just been computed.
#[derive(Debug)]
pub struct Product<'a> {
    /// Name of the matrix.
    pub weight: &'a str,
    /// Its extents: row length, rows, matrices.
    pub weight_ne: [usize; 4],
    /// Rows that it was multiplied with.
    pub input: &'a Activations,
    /// Which matrix of the stack each row went through; `None` if all did, or one each by position.
    pub chosen: Option<&'a Chosen>,
}

/// F32 rows with up to three outer dimensions.
#[derive(Debug, Default)]
pub struct Activations {
    ne: [usize; 4],
    /// Strides in elements.
    strides: [usize; 4],
    values: Vec<f32>,
}

impl Activations {
    /// Extents, row length first.
    pub fn ne(&self) -> [usize; 4] {
        self.ne
    }

    /// A row; empty if there is none at these indices.
    pub fn row(&self, i1: usize, i2: usize, i3: usize) -> &[f32] {
        let start = i1 * self.strides[1] + i2 * self.strides[2] + i3 * self.strides[3];
        self.values.get(start..start + self.ne[0]).unwrap_or(&[])
    }
}

/// Numbers of matrices: so many per token, for each token.
#[derive(Debug, Default)]
pub struct Chosen {
    /// Matrices per token, tokens.
    pub ne: [usize; 2],
    strides: [usize; 2],
    values: Vec<i32>,
}

impl Chosen {
    /// The `slot`-th matrix of a token.
    pub fn matrix(&self, slot: usize, token: usize) -> Option<usize> {
        let at = slot * self.strides[0] + token * self.strides[1];
        usize::try_from(*self.values.get(at)?).ok()
    }
}

/// Hears of products.
pub trait Observe: Send {
    /// Whether products with this matrix should be shown. Names are those of stored tensors and of intermediate ones.
    fn wants(&self, weight: &str) -> bool;

    /// Looks at a product. Must not panic: the caller is C.
    fn see(&mut self, product: &Product<'_>);
}

/// An observer that its owner keeps a hand on.
pub type Observer = Arc<Mutex<dyn Observe>>;

/// An observer with its buffers, at a fixed address.
pub(super) struct Watch {
    observer: Observer,
    input: Activations,
    chosen: Chosen,
}

impl Watch {
    pub(super) fn new(observer: Observer) -> Self {
        Self {
            observer,
            input: Activations::default(),
            chosen: Chosen::default(),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// Called by the scheduler before (`ask`) and after each node that was asked for.
pub(super) unsafe extern "C" fn on_product(
    node: *mut sys::ggml_tensor,
    ask: bool,
    data: *mut c_void,
) -> bool {
    let (Some(node), Some(mut watch)) = (NonNull::new(node), NonNull::new(data.cast::<Watch>()))
    else {
        return true;
    };
    // SAFETY: `data` is the boxed watch of this scheduler; computing holds `&mut Scheduler`, so access is exclusive.
    let watch = unsafe { watch.as_mut() };
    // SAFETY: the node is valid while the graph computes.
    let tensor = unsafe { node.as_ref() };
    let by_choice = tensor.op == sys::GGML_OP_MUL_MAT_ID;
    if !by_choice && tensor.op != sys::GGML_OP_MUL_MAT {
        return !ask;
    }
    let (Some(weight), Some(input)) = (NonNull::new(tensor.src[0]), NonNull::new(tensor.src[1]))
    else {
        return !ask;
    };
    let name = name_of(weight);
    let name = own_name(&name);
    let mut observer = watch
        .observer
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if ask {
        return observer.wants(name);
    }
    // SAFETY: sources of a valid node are valid.
    let weight_ne = extents(unsafe { weight.as_ref() });
    let chosen = if by_choice {
        match NonNull::new(tensor.src[2]).map(|ids| watch.chosen.read(ids)) {
            Some(true) => Some(&watch.chosen),
            _ => return true,
        }
    } else {
        None
    };
    if watch.input.read(input) {
        observer.see(&Product {
            weight: name,
            weight_ne,
            input: &watch.input,
            chosen,
        });
    }
    true
}

/// A weight's name in the file: the scheduler calls a copy on another device `DEVICE#NAME#PART`.
pub(super) fn own_name(name: &str) -> &str {
    match name.split_once('#') {
        Some((_, rest)) => rest.split_once('#').map_or(rest, |(name, _)| name),
        None => name,
    }
}

fn extents(tensor: &sys::ggml_tensor) -> [usize; 4] {
    tensor.ne.map(|n| usize::try_from(n).unwrap_or(0))
}

/// Strides in elements of `size` bytes; `None` if they are no whole elements.
fn strides(tensor: &sys::ggml_tensor, size: usize) -> Option<[usize; 4]> {
    let whole = tensor.nb.iter().all(|nb| nb.is_multiple_of(size));
    whole.then(|| tensor.nb.map(|nb| nb / size))
}

/// Copies a tensor's bytes, gaps of a view included.
fn copy<T: bytemuck::Pod>(tensor: NonNull<sys::ggml_tensor>, out: &mut Vec<T>) {
    let bytes = nbytes(tensor);
    out.resize(bytes / size_of::<T>(), T::zeroed());
    let out: &mut [u8] = bytemuck::cast_slice_mut(out);
    // SAFETY: the tensor was just computed, or is an input of what was: it has memory of `bytes` bytes at least, and
    // `out` holds no more than that.
    unsafe { sys::ggml_backend_tensor_get(tensor.as_ptr(), out.as_mut_ptr().cast(), 0, out.len()) };
}

impl Activations {
    /// Reads F32 rows without gaps between elements; `false` for anything else.
    fn read(&mut self, tensor: NonNull<sys::ggml_tensor>) -> bool {
        // SAFETY: sources of a valid node are valid.
        let t = unsafe { tensor.as_ref() };
        match strides(t, size_of::<f32>()) {
            Some(strides) if strides[0] == 1 && dtype_of(t) == Some(DType::F32) => {
                (self.ne, self.strides) = (extents(t), strides);
                copy(tensor, &mut self.values);
                true
            }
            _ => false,
        }
    }
}

impl Chosen {
    /// Reads I32 numbers; `false` for anything else.
    fn read(&mut self, tensor: NonNull<sys::ggml_tensor>) -> bool {
        // SAFETY: sources of a valid node are valid.
        let t = unsafe { tensor.as_ref() };
        match strides(t, size_of::<i32>()) {
            Some(strides) if dtype_of(t) == Some(DType::I32) => {
                let ne = extents(t);
                self.ne = [ne[0], ne[1]];
                self.strides = [strides[0], strides[1]];
                copy(tensor, &mut self.values);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::own_name;

    #[test]
    fn copies_on_other_devices_keep_their_name() {
        assert_eq!(own_name("blk.0.ffn_up.weight"), "blk.0.ffn_up.weight");
        assert_eq!(
            own_name("CUDA0#blk.0.ffn_up.weight#0"),
            "blk.0.ffn_up.weight"
        );
    }
}
