//! The scheduler: the only way to compute. It places operations on devices and owns intermediate memory.

use std::collections::HashSet;
use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytemuck::{AnyBitPattern, NoUninit};
use ggml_sys as sys;

use super::device::{Backend, text};
use super::graph::{SlotKind, dtype_of};
use super::observe::{Observer, Watch, on_product, own_name};
use super::store::{check_range, name_of};
use super::{DType, Device, DeviceKind, GgmlError, Graph, Slot};

static NEXT_SCHED: AtomicU64 = AtomicU64::new(1);

/// ggml's scheduler has room for this many backends.
const MAX_DEVICES: usize = 16;

/// Computes graphs over a list of devices; earlier devices are preferred, the CPU comes last.
pub struct Scheduler {
    raw: NonNull<sys::ggml_backend_sched>,
    id: u64,
    /// Counts allocations: only the latest graph has memory.
    epoch: u64,
    /// Slots set since the last computation.
    indices_set: HashSet<usize>,
    capacity: usize,
    profile: Option<Box<Recorder>>,
    watch: Option<Box<Watch>>,
    // Dropped after `raw`, which refers to them (see Drop).
    backends: Arc<Mutex<Vec<Backend>>>,
}

// SAFETY: a scheduler may move between threads; all its methods that touch C take `&mut self`, and those that use the
// backends, which it may share with others, hold their lock.
unsafe impl Send for Scheduler {}

impl Scheduler {
    /// Starts every device and makes a scheduler for graphs of up to `capacity` tensors.
    /// A CPU device is appended when the list has none.
    pub fn new(devices: &[Device], capacity: usize) -> Result<Self, GgmlError> {
        if devices.len() >= MAX_DEVICES || capacity > super::arena::MAX_TENSORS {
            return Err(super::GraphError::TooLarge {
                capacity: super::arena::MAX_TENSORS,
            }
            .into());
        }
        let mut list = devices.to_vec();
        if !list.iter().any(|d| d.kind() == DeviceKind::Cpu) {
            list.push(Device::cpu()?);
        }
        list.sort_by_key(|d| d.kind() == DeviceKind::Cpu);
        let backends = list
            .iter()
            .map(Device::start)
            .collect::<Result<Vec<_>, _>>()?;
        Self::over(Arc::new(Mutex::new(backends)), capacity)
    }

    /// Another scheduler over the same running devices and threads, with graphs and intermediate memory of its own:
    /// graphs of both stay allocated side by side. They compute one at a time.
    pub fn beside(&self) -> Result<Self, GgmlError> {
        Self::over(Arc::clone(&self.backends), self.capacity)
    }

    fn over(shared: Arc<Mutex<Vec<Backend>>>, capacity: usize) -> Result<Self, GgmlError> {
        let backends = lock(&shared);
        let mut raws: Vec<_> = backends.iter().map(Backend::raw).collect();
        let mut bufts: Vec<_> = backends
            .iter()
            .map(|b| b.device().buffer_type().raw)
            .collect();
        let count = i32::try_from(raws.len()).unwrap_or(i32::MAX);
        // SAFETY: both arrays hold `count` valid entries; ggml copies them; the backends outlive the scheduler.
        let raw = unsafe {
            sys::ggml_backend_sched_new(
                raws.as_mut_ptr(),
                bufts.as_mut_ptr(),
                count,
                capacity,
                false,
                true,
            )
        };
        let raw = NonNull::new(raw).ok_or(GgmlError::DeviceInit {
            device: "scheduler".into(),
        })?;
        drop(backends);
        Ok(Self {
            raw,
            id: NEXT_SCHED.fetch_add(1, Ordering::Relaxed),
            epoch: 0,
            indices_set: HashSet::new(),
            capacity,
            profile: None,
            watch: None,
            backends: shared,
        })
    }

    /// Devices in order of preference.
    pub fn devices(&self) -> Vec<Device> {
        lock(&self.backends).iter().map(Backend::device).collect()
    }

    /// Sets the number of threads of every backend that has threads.
    pub fn set_n_threads(&mut self, n: usize) {
        for backend in lock(&self.backends).iter_mut() {
            backend.set_n_threads(n);
        }
    }

    /// Lets worker threads sleep until the next graph.
    pub fn rest(&mut self) {
        lock(&self.backends).iter_mut().for_each(Backend::rest);
    }

    /// Gives a graph its memory. Any graph allocated before loses its own.
    pub fn allocate(&mut self, graph: &mut Graph) -> Result<(), GgmlError> {
        if graph.allocation.is_some() {
            return Err(GgmlError::AlreadyAllocated);
        }
        self.check_supported(graph)?;
        if graph.n_tensors() > self.capacity {
            return Err(super::GraphError::TooLarge {
                capacity: self.capacity,
            }
            .into());
        }
        // SAFETY: the scheduler is valid; graphs allocated earlier become unusable through `epoch`.
        unsafe { sys::ggml_backend_sched_reset(self.raw.as_ptr()) };
        let _running = lock(&self.backends);
        self.epoch += 1;
        self.indices_set.clear();
        // Also if this fails: the tensors may point to memory by now.
        graph.allocation = Some((self.id, 0));
        // SAFETY: the graph is valid and fits the scheduler's hash set (checked); supported ops were checked.
        let ok = unsafe { sys::ggml_backend_sched_alloc_graph(self.raw.as_ptr(), graph.raw()) };
        if !ok {
            return Err(GgmlError::OutOfMemory {
                bytes: 0,
                device: "the compute buffers".into(),
            });
        }
        graph.allocation = Some((self.id, self.epoch));
        Ok(())
    }

    /// Sets an input of the graph that was allocated last.
    pub fn set<T: NoUninit>(
        &mut self,
        graph: &Graph,
        slot: Slot,
        values: &[T],
    ) -> Result<(), GgmlError> {
        let (raw, kind) = self.slot(graph, slot)?;
        let bytes: &[u8] = bytemuck::cast_slice(values);
        match kind {
            SlotKind::Input => {}
            SlotKind::Indices(bound) => check_indices(raw, bytes, bound)?,
            _ => {
                return Err(GgmlError::WrongSlot {
                    tensor: name_of(raw),
                    what: "an input",
                });
            }
        }
        check_range(raw, 0, bytes.len())?;
        // An input that nothing depends on has no memory, and needs none.
        if has_memory(raw) {
            // SAFETY: the tensor has a buffer of this scheduler and the range lies inside it.
            unsafe {
                sys::ggml_backend_tensor_set(raw.as_ptr(), bytes.as_ptr().cast(), 0, bytes.len())
            };
        }
        self.indices_set.insert(slot.index());
        Ok(())
    }

    /// Reads elements from byte `offset` on of an output of the graph that was computed last.
    pub fn get<T: NoUninit + AnyBitPattern>(
        &mut self,
        graph: &Graph,
        slot: Slot,
        offset: usize,
        values: &mut [T],
    ) -> Result<(), GgmlError> {
        let (raw, kind) = self.slot(graph, slot)?;
        if kind != SlotKind::Output || !has_memory(raw) {
            return Err(GgmlError::WrongSlot {
                tensor: name_of(raw),
                what: "an output",
            });
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
        check_range(raw, offset, bytes.len())?;
        // SAFETY: the tensor has a buffer and the range lies inside it.
        unsafe {
            sys::ggml_backend_tensor_get(
                raw.as_ptr(),
                bytes.as_mut_ptr().cast(),
                offset,
                bytes.len(),
            )
        };
        Ok(())
    }

    /// Computes a graph that [`Scheduler::allocate`] gave memory to and whose inputs are set.
    pub fn compute(&mut self, graph: &Graph) -> Result<(), GgmlError> {
        if graph.allocation != Some((self.id, self.epoch)) {
            return Err(GgmlError::NotAllocated);
        }
        // Inputs lose their memory to later results, so indices are asked for every time.
        let unset =
            |(i, raw): &(usize, NonNull<_>)| has_memory(*raw) && !self.indices_set.contains(i);
        if let Some((_, raw)) = graph.index_inputs().find(unset) {
            return Err(GgmlError::WrongSlot {
                tensor: name_of(raw),
                what: "a set input",
            });
        }
        self.indices_set.clear();
        // In one order for all graphs, so that two never wait for each other.
        let mut stores: Vec<_> = graph.stores().iter().collect();
        stores.sort_by_key(|s| std::sync::Arc::as_ptr(s));
        let _guards: Vec<_> = stores.iter().map(|s| s.lock_for_graph()).collect();
        let _running = lock(&self.backends);
        if let Some(recorder) = &mut self.profile {
            recorder.last = Instant::now();
        }
        // SAFETY: the graph was allocated by this scheduler and not invalidated since; stores are kept alive by it.
        let status =
            unsafe { sys::ggml_backend_sched_graph_compute(self.raw.as_ptr(), graph.raw()) };
        if status == sys::GGML_STATUS_SUCCESS {
            return Ok(());
        }
        // SAFETY: ggml returns a static string for any status.
        let status = unsafe { text(sys::ggml_status_to_string(status)) };
        Err(GgmlError::Compute { status })
    }

    /// Bytes of intermediate memory per device.
    pub fn compute_bytes(&self) -> Vec<(Device, u64)> {
        // SAFETY: both objects are valid and belong together.
        let size = |b: &Backend| unsafe {
            sys::ggml_backend_sched_get_buffer_size(self.raw.as_ptr(), b.raw())
        };
        lock(&self.backends)
            .iter()
            .map(|b| (b.device(), size(b) as u64))
            .collect()
    }

    /// Starts (or stops) timing each operation. Timing runs operations one by one, which costs a little. It takes the
    /// place of an observer.
    pub fn set_profiling(&mut self, on: bool) {
        self.watch = None;
        self.profile = on.then(|| {
            Box::new(Recorder {
                last: Instant::now(),
                entries: Vec::new(),
            })
        });
        let (callback, data): (sys::ggml_backend_sched_eval_callback, *mut c_void) =
            match &mut self.profile {
                Some(recorder) => (
                    Some(on_node),
                    std::ptr::from_mut::<Recorder>(recorder).cast(),
                ),
                None => (None, std::ptr::null_mut()),
            };
        // SAFETY: the recorder is boxed and lives until the callback is replaced here or the scheduler is dropped.
        unsafe { sys::ggml_backend_sched_set_eval_callback(self.raw.as_ptr(), callback, data) };
    }

    /// Shows products of later computations to an observer (or to none). It takes the place of profiling.
    pub fn set_observer(&mut self, observer: Option<Observer>) {
        self.set_profiling(false);
        self.watch = observer.map(|o| Box::new(Watch::new(o)));
        if let Some(watch) = &mut self.watch {
            let data = std::ptr::from_mut::<Watch>(watch).cast();
            // SAFETY: the watch is boxed and lives until the callback is replaced here or the scheduler is dropped.
            unsafe {
                sys::ggml_backend_sched_set_eval_callback(self.raw.as_ptr(), Some(on_product), data)
            };
        }
    }

    /// Takes what was timed since the last call.
    pub fn take_profile(&mut self) -> Profile {
        Profile {
            entries: self
                .profile
                .as_mut()
                .map(|p| std::mem::take(&mut p.entries))
                .unwrap_or_default(),
        }
    }

    /// A slot of the graph that has memory now.
    fn slot(
        &self,
        graph: &Graph,
        slot: Slot,
    ) -> Result<(NonNull<sys::ggml_tensor>, SlotKind), GgmlError> {
        if graph.allocation != Some((self.id, self.epoch)) {
            return Err(GgmlError::NotAllocated);
        }
        graph.slot(slot)
    }

    /// ggml aborts when no backend supports an operation, so ask first.
    fn check_supported(&self, graph: &Graph) -> Result<(), GgmlError> {
        let backends = lock(&self.backends);
        for node in (0..graph.n_nodes()).filter_map(|i| graph.node(i)) {
            // SAFETY: node and devices are valid; the query mutates nothing.
            let supported = backends.iter().any(|b| unsafe {
                sys::ggml_backend_dev_supports_op(b.device().raw(), node.as_ptr())
            });
            if !supported {
                // SAFETY: a valid node has a valid op and null-terminated sources.
                let (op, sources) =
                    unsafe { (text(sys::ggml_op_desc(node.as_ptr())), node.as_ref().src) };
                let operands = sources
                    .iter()
                    .filter_map(|s| NonNull::new(*s))
                    .map(describe)
                    .collect::<Vec<_>>()
                    .join(", ");
                let devices = backends
                    .iter()
                    .map(|b| b.device().name())
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(GgmlError::Unsupported {
                    op,
                    operands,
                    devices,
                });
            }
        }
        Ok(())
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: freed once, before the backends it refers to.
        unsafe { sys::ggml_backend_sched_free(self.raw.as_ptr()) }
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scheduler({:?})", self.devices())
    }
}

/// The devices, for one user at a time.
fn lock(backends: &Mutex<Vec<Backend>>) -> MutexGuard<'_, Vec<Backend>> {
    // A panic elsewhere leaves no half-changed backend: each call into C is complete.
    backends.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a tensor has bytes: an input that nothing depends on gets none.
fn has_memory(raw: NonNull<sys::ggml_tensor>) -> bool {
    // SAFETY: callers hold the graph, so the tensor is alive.
    let tensor = unsafe { raw.as_ref() };
    !tensor.buffer.is_null() || !tensor.view_src.is_null()
}

/// Checks uploaded indices: all of them, and each below the bound.
fn check_indices(
    raw: NonNull<sys::ggml_tensor>,
    bytes: &[u8],
    bound: u64,
) -> Result<(), GgmlError> {
    let expected = super::store::nbytes(raw);
    if bytes.len() != expected {
        return Err(GgmlError::Range {
            tensor: name_of(raw),
            expected,
            offset: 0,
            len: bytes.len(),
        });
    }
    // SAFETY: callers hold the graph, so the tensor is alive.
    let wide = dtype_of(unsafe { raw.as_ref() }) == Some(DType::I64);
    let read = |b: &[u8]| match *b {
        [a, b, c, d] => i64::from(i32::from_ne_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => -1,
    };
    let outside = |i: &i64| u64::try_from(*i).map_or(true, |i| i >= bound);
    match bytes
        .chunks_exact(if wide { 8 } else { 4 })
        .map(read)
        .find(outside)
    {
        None => Ok(()),
        Some(index) => Err(GgmlError::Index {
            tensor: name_of(raw),
            index,
            bound,
        }),
    }
}

fn describe(tensor: NonNull<sys::ggml_tensor>) -> String {
    // SAFETY: callers pass valid tensors.
    let t = unsafe { tensor.as_ref() };
    let ty = dtype_of(t).map_or("?", |t| t.name());
    format!("{} {}", ty, super::error::ShapeFmt(t.ne))
}

/// Time per operation.
#[derive(Debug, Default)]
pub struct Profile {
    /// Operations in the order in which they were computed.
    pub entries: Vec<Timed>,
}

/// An operation that was computed once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timed {
    /// The operation, by ggml's name or by ours.
    pub op: String,
    /// Name of the result.
    pub result: String,
    /// Type of the first operand; `-` if there is none.
    pub ty: String,
    /// Name of the first operand that is a stored tensor; empty if none is.
    pub weight: String,
    /// Time it took.
    pub time: Duration,
}

struct Recorder {
    last: Instant,
    entries: Vec<Timed>,
}

/// Called by the scheduler before (`ask`) and after each node.
unsafe extern "C" fn on_node(tensor: *mut sys::ggml_tensor, ask: bool, data: *mut c_void) -> bool {
    let (Some(tensor), Some(mut recorder)) =
        (NonNull::new(tensor), NonNull::new(data.cast::<Recorder>()))
    else {
        return true;
    };
    // SAFETY: `data` is the boxed recorder of this scheduler; computing holds `&mut Scheduler`, so access is exclusive.
    let recorder = unsafe { recorder.as_mut() };
    if ask {
        recorder.last = Instant::now();
        return true;
    }
    let time = recorder.last.elapsed();
    // SAFETY: the node is valid while the graph computes, and so are its sources.
    let (op, ty, weight) = unsafe {
        let node = tensor.as_ref();
        let ty = NonNull::new(node.src[0]).and_then(|s| dtype_of(s.as_ref()));
        let sources = node.src.iter().filter_map(|s| NonNull::new(*s));
        let weight = sources.map(weight_name).find(|name| !name.is_empty());
        // A node of ours says itself what it is.
        let op = match node.op {
            sys::GGML_OP_CUSTOM => name_of(tensor),
            _ => text(sys::ggml_op_desc(tensor.as_ptr())),
        };
        (op, ty, weight)
    };
    recorder.entries.push(Timed {
        op,
        result: name_of(tensor),
        ty: ty.map_or("-", |t| t.name()).to_owned(),
        weight: weight.unwrap_or_default(),
        time,
    });
    true
}

/// The name of a stored tensor, or of the one that this is a view of; empty for any other.
fn weight_name(tensor: NonNull<sys::ggml_tensor>) -> String {
    // SAFETY: callers pass a valid tensor; what it is a view of is valid with it.
    let root = NonNull::new(unsafe { tensor.as_ref() }.view_src).unwrap_or(tensor);
    let name = name_of(root);
    let name = own_name(&name);
    let is_stored = name.ends_with(".weight") || name.ends_with(".bias");
    if is_stored {
        name.to_owned()
    } else {
        String::new()
    }
}
