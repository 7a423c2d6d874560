//! Memory of tensor structs: a ggml context without data.

use std::ptr::NonNull;

use ggml_sys as sys;

use super::GraphError;

/// Tensors one arena can be asked to hold: far above any model, far below what overflows.
pub(super) const MAX_TENSORS: usize = 1 << 24;

/// Owner of tensor structs (and graph structs), never of tensor bytes.
pub(super) struct Arena {
    raw: NonNull<sys::ggml_context>,
    capacity: usize,
}

// SAFETY: a ggml context is plain memory with a bump pointer and has no thread affinity; `Arena` is not `Sync`,
// and everything that allocates from it takes `&mut` or happens inside the single-threaded graph builder.
unsafe impl Send for Arena {}

impl Arena {
    /// An arena for at most `capacity` tensors and, if `graph_nodes` is not zero, one graph of that many nodes.
    pub fn new(capacity: usize, graph_nodes: usize) -> Result<Self, GraphError> {
        if capacity > MAX_TENSORS || graph_nodes > MAX_TENSORS {
            return Err(GraphError::TooLarge {
                capacity: MAX_TENSORS,
            });
        }
        // SAFETY: pure size computations without preconditions.
        let (tensor, graph) = unsafe {
            (
                sys::ggml_tensor_overhead(),
                if graph_nodes > 0 {
                    sys::ggml_graph_overhead_custom(graph_nodes, false)
                } else {
                    0
                },
            )
        };
        let params = sys::ggml_init_params {
            mem_size: tensor * capacity + graph + 1024,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        };
        // SAFETY: ggml_init takes ownership of nothing and returns null on failure.
        let raw = unsafe { sys::ggml_init(params) };
        NonNull::new(raw)
            .map(|raw| Self { raw, capacity })
            .ok_or(GraphError::Alloc {
                what: "a tensor arena",
            })
    }

    /// The C context. Writes through it are allowed as long as nothing else uses the arena at that time.
    pub fn raw(&self) -> *mut sys::ggml_context {
        self.raw.as_ptr()
    }

    /// Tensors the arena has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: `raw` came from ggml_init and is freed once; handles into it cannot outlive the owner.
        unsafe { sys::ggml_free(self.raw.as_ptr()) }
    }
}
