//! Building graphs: branded tensor handles over one arena.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ggml_sys as sys;

use super::arena::Arena;
use super::error::ShapeFmt;
use super::store::{Store, TensorId, set_name};
use super::{DType, GgmlError, GraphError, ShapeError};

static NEXT_GRAPH: AtomicU64 = AtomicU64::new(1);

/// Makes `'g` invariant, so that handles of two graphs never unify.
type Brand<'g> = PhantomData<Cell<&'g ()>>;

/// A tensor of the graph being built: a result to come, an input, or a stored tensor.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    pub(super) raw: NonNull<sys::ggml_tensor>,
    brand: Brand<'g>,
}

/// The same tensor, not equal numbers.
impl PartialEq for Tensor<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl Tensor<'_> {
    /// Extents, innermost first, padded with ones.
    pub fn ne(&self) -> [i64; 4] {
        // SAFETY: the brand ties the handle to a live arena.
        unsafe { self.raw.as_ref() }.ne
    }

    /// Strides in bytes.
    pub fn nb(&self) -> [usize; 4] {
        // SAFETY: as above.
        unsafe { self.raw.as_ref() }.nb
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        // SAFETY: as above.
        dtype_of(unsafe { self.raw.as_ref() }).unwrap_or(DType::F32)
    }

    /// Bytes of one element, or of one block for quantised types.
    pub fn element_size(&self) -> usize {
        self.nb()[0]
    }

    /// `TYPE {ne0, ne1}` for error messages.
    pub(super) fn describe(&self) -> String {
        format!("{} {}", self.dtype().name(), ShapeFmt(self.ne()))
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

/// A tensor kept from building for use while computing: an input to set or an output to read.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    graph: u64,
    index: usize,
}

/// What a slot may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotKind {
    /// Set before computing.
    Input,
    /// Set before every computation, to indices below the bound.
    Indices(u64),
    /// Read after computing.
    Output,
    /// Neither: a stored tensor, or an intermediate result.
    Other,
}

/// Builds one graph.
pub struct Builder<'g> {
    arena: Arena,
    graph: NonNull<sys::ggml_cgraph>,
    id: u64,
    used: Cell<usize>,
    stores: RefCell<Vec<Arc<Store>>>,
    slots: RefCell<Vec<(NonNull<sys::ggml_tensor>, SlotKind)>>,
    /// Tensors of stores, which belong to others too: never renamed or flagged.
    stored: RefCell<HashSet<NonNull<sys::ggml_tensor>>>,
    /// Upper bounds of index tensors: ggml does not check indices before it follows them.
    bounds: RefCell<HashMap<NonNull<sys::ggml_tensor>, u64>>,
    brand: Brand<'g>,
}

impl<'g> Builder<'g> {
    /// A tensor of a store. Operations that write refuse it if the store is read-only.
    pub fn stored(&self, store: &Arc<Store>, id: TensorId) -> Result<Tensor<'g>, GraphError> {
        let raw = store.raw(id)?;
        self.claim(1)?;
        self.stored.borrow_mut().insert(raw);
        let mut stores = self.stores.borrow_mut();
        if !stores.iter().any(|s| Arc::ptr_eq(s, store)) {
            stores.push(Arc::clone(store));
        }
        Ok(self.wrap(raw))
    }

    /// An input whose bytes are set before each computation.
    pub fn input(&self, name: &str, ty: DType, shape: &[u64]) -> Result<Tensor<'g>, GraphError> {
        let ne = checked_shape("input", ty, shape)?;
        self.claim(1)?;
        // SAFETY: the shape was checked and the arena has room.
        let raw =
            unsafe { sys::ggml_new_tensor(self.ctx(), ty.id() as sys::ggml_type, 4, ne.as_ptr()) };
        let tensor = self.result(raw)?;
        set_name(tensor.raw, name);
        // SAFETY: the tensor is valid and only this thread knows it.
        unsafe { sys::ggml_set_input(tensor.raw.as_ptr()) };
        Ok(tensor)
    }

    /// An input of indices (I32 or I64), each below `bound`. They are checked when set, and must be set before every
    /// computation: ggml follows them unchecked.
    pub fn index_input(
        &self,
        name: &str,
        ty: DType,
        shape: &[u64],
        bound: u64,
    ) -> Result<Tensor<'g>, GraphError> {
        if !matches!(ty, DType::I32 | DType::I64) || bound == 0 {
            let operands = format!("{} {shape:?}, bound {bound}", ty.name());
            let rule = "indices are I32 or I64, below a positive bound";
            return Err(ShapeError {
                op: "index_input",
                rule,
                operands,
            }
            .into());
        }
        let tensor = self.input(name, ty, shape)?;
        self.set_bound(tensor, bound);
        self.slots
            .borrow_mut()
            .push((tensor.raw, SlotKind::Indices(bound)));
        Ok(tensor)
    }

    /// Keeps a handle for use after building: an input to set.
    pub fn keep(&self, tensor: Tensor<'g>) -> Slot {
        // SAFETY: the handle is valid.
        let flags = unsafe { tensor.raw.as_ref() }.flags;
        let is_input = flags & sys::GGML_TENSOR_FLAG_INPUT as i32 != 0;
        let mine = !self.stored.borrow().contains(&tensor.raw);
        self.slot(
            tensor,
            if is_input && mine {
                SlotKind::Input
            } else {
                SlotKind::Other
            },
        )
    }

    /// Marks a result as output (its bytes stay readable) and adds it to the graph.
    pub fn output(&self, name: &str, tensor: Tensor<'g>) -> Slot {
        self.expand(tensor);
        if self.stored.borrow().contains(&tensor.raw) {
            return self.slot(tensor, SlotKind::Other);
        }
        set_name(tensor.raw, name);
        // SAFETY: the tensor is of this graph's arena and only this thread knows it.
        unsafe { sys::ggml_set_output(tensor.raw.as_ptr()) };
        self.slot(tensor, SlotKind::Output)
    }

    fn slot(&self, tensor: Tensor<'g>, kind: SlotKind) -> Slot {
        let mut slots = self.slots.borrow_mut();
        let is_indices = |kind: &SlotKind| matches!(kind, SlotKind::Indices(_));
        let known = slots
            .iter()
            .position(|(raw, kind)| *raw == tensor.raw && is_indices(kind));
        let index = known.unwrap_or_else(|| {
            slots.push((tensor.raw, kind));
            slots.len() - 1
        });
        Slot {
            graph: self.id,
            index,
        }
    }

    /// The bound that every element of an index tensor is known to keep.
    pub(super) fn bound(&self, ids: Tensor<'g>) -> Option<u64> {
        self.bounds.borrow().get(&ids.raw).copied()
    }

    /// Takes note that every element of an index tensor is below `bound`.
    pub(super) fn set_bound(&self, ids: Tensor<'g>, bound: u64) {
        self.bounds.borrow_mut().insert(ids.raw, bound);
    }

    /// Adds a tensor and all it depends on to the graph, in the order of calls.
    pub fn expand(&self, tensor: Tensor<'g>) {
        // SAFETY: nodes and leafs number at most the claimed tensors, which is the size the graph was made for.
        unsafe { sys::ggml_build_forward_expand(self.graph.as_ptr(), tensor.raw.as_ptr()) };
    }

    /// Reserves room for `n` tensors: ggml aborts when an arena is full.
    pub(super) fn claim(&self, n: usize) -> Result<(), GraphError> {
        let used = self.used.get() + n;
        if used > self.arena.capacity() {
            return Err(GraphError::TooLarge {
                capacity: self.arena.capacity(),
            });
        }
        self.used.set(used);
        Ok(())
    }

    pub(super) fn ctx(&self) -> *mut sys::ggml_context {
        self.arena.raw()
    }

    /// Wraps what a ggml operation returned.
    pub(super) fn result(&self, raw: *mut sys::ggml_tensor) -> Result<Tensor<'g>, GraphError> {
        NonNull::new(raw)
            .map(|raw| self.wrap(raw))
            .ok_or(GraphError::Alloc { what: "a tensor" })
    }

    /// Fails if `tensor` is, or is a view of, a tensor of a read-only store.
    pub(super) fn check_writable(
        &self,
        op: &'static str,
        tensor: Tensor<'g>,
    ) -> Result<(), GraphError> {
        // SAFETY: a valid tensor's view_src is null or a valid tensor (ggml flattens view chains).
        let root = NonNull::new(unsafe { tensor.raw.as_ref() }.view_src).unwrap_or(tensor.raw);
        // SAFETY: as above; a tensor without buffer is an intermediate result of this graph.
        let buffer = unsafe { root.as_ref() }.buffer;
        // SAFETY: a non-null buffer is kept alive by its store.
        let read_only = !buffer.is_null()
            && unsafe { sys::ggml_backend_buffer_get_usage(buffer) }
                == sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
        if read_only {
            return Err(GraphError::ReadOnly {
                op,
                tensor: super::store::name_of(root),
            });
        }
        Ok(())
    }

    fn wrap(&self, raw: NonNull<sys::ggml_tensor>) -> Tensor<'g> {
        Tensor {
            raw,
            brand: PhantomData,
        }
    }
}

/// A built graph. A [`super::Scheduler`] allocates and computes it; it may be computed many times.
pub struct Graph {
    id: u64,
    raw: NonNull<sys::ggml_cgraph>,
    slots: Vec<(NonNull<sys::ggml_tensor>, SlotKind)>,
    stores: Vec<Arc<Store>>,
    /// Scheduler and allocation this graph's memory belongs to; stale after the scheduler allocated another.
    pub(super) allocation: Option<(u64, u64)>,
    n_tensors: usize,
    _arena: Arena,
}

// SAFETY: the graph owns its arena and keeps the stores it points into alive; nothing in it has thread affinity.
unsafe impl Send for Graph {}

impl Graph {
    /// Builds a graph with room for `capacity` tensors (results, views, inputs and stored tensors together).
    ///
    /// Handles cannot leave the closure; keep what is needed later with [`Builder::keep`] or [`Builder::output`].
    pub fn build<R, E: From<GraphError>>(
        capacity: usize,
        build: impl for<'g> FnOnce(&Builder<'g>) -> Result<R, E>,
    ) -> Result<(Self, R), E> {
        let arena = Arena::new(capacity, capacity)?;
        // SAFETY: the arena was sized for one graph of this many nodes.
        let raw = unsafe { sys::ggml_new_graph_custom(arena.raw(), capacity, false) };
        let graph = NonNull::new(raw).ok_or(GraphError::Alloc { what: "a graph" })?;
        let builder = Builder {
            arena,
            graph,
            id: NEXT_GRAPH.fetch_add(1, Ordering::Relaxed),
            used: Cell::new(0),
            stores: RefCell::default(),
            slots: RefCell::default(),
            stored: RefCell::default(),
            bounds: RefCell::default(),
            brand: PhantomData,
        };
        let kept = build(&builder)?;
        let graph = Self {
            id: builder.id,
            raw: graph,
            slots: builder.slots.into_inner(),
            stores: builder.stores.into_inner(),
            allocation: None,
            n_tensors: builder.used.get(),
            _arena: builder.arena,
        };
        Ok((graph, kept))
    }

    /// Number of operations.
    pub fn n_nodes(&self) -> usize {
        // SAFETY: the graph is valid.
        usize::try_from(unsafe { sys::ggml_graph_n_nodes(self.raw.as_ptr()) }).unwrap_or(0)
    }

    /// Tensors in the graph's arena, stored ones included.
    pub fn n_tensors(&self) -> usize {
        self.n_tensors
    }

    pub(super) fn raw(&self) -> *mut sys::ggml_cgraph {
        self.raw.as_ptr()
    }

    pub(super) fn node(&self, index: usize) -> Option<NonNull<sys::ggml_tensor>> {
        let index = i32::try_from(index)
            .ok()
            .filter(|_| index < self.n_nodes())?;
        // SAFETY: the index is below the node count.
        NonNull::new(unsafe { sys::ggml_graph_node(self.raw.as_ptr(), index) })
    }

    pub(super) fn stores(&self) -> &[Arc<Store>] {
        &self.stores
    }

    pub(super) fn slot(
        &self,
        slot: Slot,
    ) -> Result<(NonNull<sys::ggml_tensor>, SlotKind), GgmlError> {
        if slot.graph != self.id {
            return Err(GgmlError::ForeignHandle);
        }
        self.slots
            .get(slot.index)
            .copied()
            .ok_or(GgmlError::ForeignHandle)
    }

    /// Inputs of indices, by slot number.
    pub(super) fn index_inputs(&self) -> impl Iterator<Item = (usize, NonNull<sys::ggml_tensor>)> {
        let all = self.slots.iter().enumerate();
        all.filter(|(_, (_, kind))| matches!(kind, SlotKind::Indices(_)))
            .map(|(i, (raw, _))| (i, *raw))
    }
}

impl Slot {
    /// Number of the slot in its graph.
    pub(super) fn index(self) -> usize {
        self.index
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({} nodes)", self.n_nodes())
    }
}

/// Element type of a tensor.
#[allow(
    clippy::unnecessary_cast,
    reason = "C enums are signed for some compilers"
)]
pub(super) fn dtype_of(tensor: &sys::ggml_tensor) -> Option<DType> {
    DType::from_id(tensor.type_ as u32)
}

/// Checks a shape as ggml would, without its abort: 1 to 4 extents, no overflow, whole blocks.
pub(super) fn checked_shape(
    op: &'static str,
    ty: DType,
    shape: &[u64],
) -> Result<[i64; 4], GraphError> {
    let fail = |rule| {
        GraphError::Shape(ShapeError {
            op,
            rule,
            operands: format!("{} {shape:?}", ty.name()),
        })
    };
    if shape.is_empty() || shape.len() > 4 {
        return Err(fail("a tensor has 1 to 4 dimensions"));
    }
    let mut ne = [1i64; 4];
    for (to, &from) in ne.iter_mut().zip(shape) {
        *to = i64::try_from(from)
            .ok()
            .filter(|&n| n > 0)
            .ok_or_else(|| fail("extents are positive"))?;
    }
    if !shape[0].is_multiple_of(ty.block_size()) {
        return Err(fail("a row holds whole blocks"));
    }
    let row = ty
        .row_bytes(shape[0])
        .ok_or_else(|| fail("the row is too large"))?;
    let bytes = shape[1..]
        .iter()
        .try_fold(row, |acc, &n| acc.checked_mul(n))
        .filter(|&b| b < i64::MAX as u64 / 2);
    let elements = shape
        .iter()
        .try_fold(1u64, |acc, &n| acc.checked_mul(n))
        .filter(|&n| n < i64::MAX as u64 / 2);
    bytes
        .and(elements)
        .ok_or_else(|| fail("the tensor is too large"))?;
    Ok(ne)
}
