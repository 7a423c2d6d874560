//! The safe layer over ggml: the only door to C in this crate, with `src/kernels`.
//!
//! Two lifetimes are kept apart, as ggml keeps them apart:
//!
//! - **tensor structs** live in an arena. A [`Tensor`] is a `Copy` handle branded with the
//!   graph it belongs to, so a handle can neither outlive its arena nor enter another graph.
//! - **tensor bytes** live in buffers. Weights and state own theirs through a [`Store`], which graphs keep alive
//!   by reference count; intermediate results get theirs from the [`Scheduler`] when a graph is allocated.
//!
//! ggml aborts the process on a wrong shape. Every operation of [`Builder`] therefore checks its operands first and
//! returns a [`ShapeError`]; every graph is checked against the devices before it is allocated.
//!
//! ```compile_fail
//! use oxling::ggml::{DType, Graph, GraphError};
//! // A tensor cannot leave the closure that builds its graph.
//! let mut leaked = None;
//! let _ = Graph::build::<(), GraphError>(8, |g| {
//!     leaked = Some(g.input("x", DType::F32, &[4])?);
//!     Ok(())
//! });
//! ```
//!
//! ```compile_fail
//! use oxling::ggml::{DType, Graph, GraphError};
//! // Tensors of two graphs do not mix: `a` and `b` carry different brands.
//! let _ = Graph::build::<(), GraphError>(8, |g| {
//!     let a = g.input("a", DType::F32, &[4])?;
//!     let _ = Graph::build::<(), GraphError>(8, |h| {
//!         let b = h.input("b", DType::F32, &[4])?;
//!         h.add(a, b)?;
//!         Ok(())
//!     });
//!     Ok(())
//! });
//! ```

mod allocator;
mod arena;
mod attention;
mod device;
mod error;
mod graph;
mod hadamard;
mod log;
mod norm;
mod observe;
mod ops;
mod products;
mod quant;
mod rope;
mod router;
mod scan;
mod sched;
mod store;
#[cfg(test)]
mod tests;

pub use allocator::give_memory_back;
pub use attention::attends;
pub use device::{Backend, BufferType, Device, DeviceKind, add_rpc_server, cpu_features, devices};
pub use error::{GgmlError, GraphError, ShapeError};
pub use graph::{Builder, Graph, Slot, Tensor};
pub use log::route_logs_to_tracing;
pub use observe::{Activations, Chosen, Observe, Observer, Product};
pub use products::{Matrix, Quantized};
pub use quant::{can_encode, dequantize, needs_importance, quantize, usable_as_matrix};
pub use rope::{Rope, RopeKind};
pub use sched::{Profile, Scheduler, Timed};
pub use store::{Placement, Store, StoreBuilder, TensorId};

/// Element type of a tensor: the same list as in a GGUF file.
pub use crate::gguf::GgmlType as DType;

/// Version of the ggml this binary was built with, such as `0.26.0`.
pub fn version() -> &'static str {
    ggml_sys::GGML_VERSION
}

/// Licence text of ggml and llama.cpp (MIT).
pub fn license() -> &'static str {
    ggml_sys::LICENSE
}
