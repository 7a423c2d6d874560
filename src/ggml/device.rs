//! Devices, their backends (streams) and buffer types.

use std::ffi::{CStr, c_char};
use std::fmt;
use std::ptr::NonNull;

use ggml_sys as sys;

use super::{GgmlError, Graph};

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor, with system memory.
    Cpu,
    /// A GPU with its own memory, or a remote one.
    Gpu,
    /// A GPU that shares system memory.
    IntegratedGpu,
    /// An accelerator that works on host memory beside the CPU (BLAS, AMX, our kernels).
    Accelerator,
}

/// A device ggml knows. Devices are registered once and live as long as the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Device {
    raw: sys::ggml_backend_dev_t,
}

// SAFETY: device objects are immutable statics of their backend's registry.
unsafe impl Send for Device {}
// SAFETY: as above; ggml's device queries take no locks of ours and mutate nothing.
unsafe impl Sync for Device {}

/// All registered devices, in ggml's order (GPUs first, the CPU last).
pub fn devices() -> Vec<Device> {
    super::route_logs_to_tracing();
    // SAFETY: the registry is initialised on first use; indices below the count are valid.
    let all = unsafe { (0..sys::ggml_backend_dev_count()).map(|i| sys::ggml_backend_dev_get(i)) };
    all.filter(|raw| !raw.is_null())
        .map(|raw| Device { raw })
        .collect()
}

impl Device {
    /// The CPU device, which every build has.
    pub fn cpu() -> Result<Self, GgmlError> {
        devices()
            .into_iter()
            .find(|d| d.kind() == DeviceKind::Cpu)
            .ok_or(GgmlError::MissingBackend { backend: "CPU" })
    }

    /// Finds a device by name, without regard to case.
    pub fn by_name(name: &str) -> Result<Self, GgmlError> {
        let all = devices();
        all.iter()
            .find(|d| d.name().eq_ignore_ascii_case(name))
            .copied()
            .ok_or_else(|| GgmlError::UnknownDevice {
                name: name.to_owned(),
                known: all.iter().map(Self::name).collect::<Vec<_>>().join(", "),
            })
    }

    /// Short name, such as `CPU` or `CUDA0`.
    pub fn name(&self) -> String {
        // SAFETY: the device is valid for the process; the string is owned by it.
        unsafe { text(sys::ggml_backend_dev_name(self.raw)) }
    }

    /// Name for people, such as the processor's model.
    pub fn description(&self) -> String {
        // SAFETY: as in `name`.
        unsafe { text(sys::ggml_backend_dev_description(self.raw)) }
    }

    /// Name of the device's backend, such as `CPU`, `CUDA` or `MTL`.
    pub fn backend_name(&self) -> String {
        // SAFETY: a device has a registry entry, whose name is a static string.
        unsafe {
            text(sys::ggml_backend_reg_name(
                sys::ggml_backend_dev_backend_reg(self.raw),
            ))
        }
    }

    /// What the device is.
    pub fn kind(&self) -> DeviceKind {
        // SAFETY: the device is valid for the process.
        match unsafe { sys::ggml_backend_dev_type(self.raw) } {
            sys::GGML_BACKEND_DEVICE_TYPE_GPU => DeviceKind::Gpu,
            sys::GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceKind::IntegratedGpu,
            sys::GGML_BACKEND_DEVICE_TYPE_CPU => DeviceKind::Cpu,
            _ => DeviceKind::Accelerator,
        }
    }

    /// Whether weights can be placed there by `-ngl`.
    pub fn is_gpu(&self) -> bool {
        matches!(self.kind(), DeviceKind::Gpu | DeviceKind::IntegratedGpu)
    }

    /// Free and total memory in bytes; zeros where the device does not say.
    pub fn memory(&self) -> (u64, u64) {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: both pointers are valid for the call.
        unsafe { sys::ggml_backend_dev_memory(self.raw, &mut free, &mut total) };
        (free as u64, total as u64)
    }

    /// Whether the device can use host memory (a mapped file) in place.
    pub fn maps_host_memory(&self) -> bool {
        // SAFETY: an all-zero props struct is a valid target (pointers and integers only).
        let mut props = unsafe { std::mem::zeroed::<sys::ggml_backend_dev_props>() };
        // SAFETY: `props` is valid for writes for the call.
        unsafe { sys::ggml_backend_dev_get_props(self.raw, &mut props) };
        props.caps.buffer_from_host_ptr
    }

    /// Whether the device can run every operation of a graph.
    pub fn supports(&self, graph: &Graph) -> bool {
        // SAFETY: device and nodes are valid; the query mutates nothing.
        let runs = |node: NonNull<sys::ggml_tensor>| unsafe {
            sys::ggml_backend_dev_supports_op(self.raw, node.as_ptr())
        };
        (0..graph.n_nodes()).filter_map(|i| graph.node(i)).all(runs)
    }

    /// The device's usual buffer type.
    pub fn buffer_type(&self) -> BufferType {
        // SAFETY: every device has a buffer type, which lives as long as the device.
        let raw = unsafe { sys::ggml_backend_dev_buffer_type(self.raw) };
        BufferType { raw }
    }

    /// Starts a stream on the device.
    pub fn start(&self) -> Result<Backend, GgmlError> {
        // SAFETY: the device is valid; null parameters mean defaults.
        let raw = unsafe { sys::ggml_backend_dev_init(self.raw, std::ptr::null()) };
        let raw = NonNull::new(raw).ok_or_else(|| GgmlError::DeviceInit {
            device: self.name(),
        })?;
        Ok(Backend {
            raw,
            device: *self,
            pool: None,
        })
    }

    pub(super) fn raw(&self) -> sys::ggml_backend_dev_t {
        self.raw
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

/// Where buffers come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BufferType {
    pub(super) raw: sys::ggml_backend_buffer_type_t,
}

// SAFETY: buffer types are immutable statics of their backend.
unsafe impl Send for BufferType {}
// SAFETY: as above.
unsafe impl Sync for BufferType {}

impl BufferType {
    /// Name, such as `CPU` or `Metal`.
    pub fn name(&self) -> String {
        // SAFETY: the buffer type is valid for the process.
        unsafe { text(sys::ggml_backend_buft_name(self.raw)) }
    }

    /// Whether its bytes can be read by the CPU directly.
    pub fn is_host(&self) -> bool {
        // SAFETY: as above.
        unsafe { sys::ggml_backend_buft_is_host(self.raw) }
    }
}

impl fmt::Debug for BufferType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferType({})", self.name())
    }
}

/// A running stream on a device.
pub struct Backend {
    raw: NonNull<sys::ggml_backend>,
    device: Device,
    /// Worker threads of the CPU; without a pool ggml would start and join threads for every graph.
    pool: Option<ThreadPool>,
}

// SAFETY: a backend may move between threads; it is used by one thread at a time because `Backend` is not `Sync`.
unsafe impl Send for Backend {}

impl Backend {
    /// The device it runs on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Sets the number of threads, where the backend has threads (CPU, BLAS).
    pub fn set_n_threads(&mut self, n: usize) {
        let n = i32::try_from(n.clamp(1, sys::GGML_MAX_N_THREADS as usize)).unwrap_or(1);
        if self.device.kind() == DeviceKind::Cpu {
            self.set_cpu_threads(n);
            return;
        }
        // SAFETY: a device has a registry entry; the name is NUL-terminated.
        let found = unsafe {
            let reg = sys::ggml_backend_dev_backend_reg(self.device.raw);
            sys::ggml_backend_reg_get_proc_address(reg, c"ggml_backend_set_n_threads".as_ptr())
        };
        if found.is_null() {
            return;
        }
        // SAFETY: ggml documents this name to be of type ggml_backend_set_n_threads_t.
        let set: unsafe extern "C" fn(sys::ggml_backend_t, i32) =
            unsafe { std::mem::transmute(found) };
        // SAFETY: the backend belongs to that registry.
        unsafe { set(self.raw.as_ptr(), n) }
    }

    fn set_cpu_threads(&mut self, n: i32) {
        // SAFETY: the backend is a CPU backend, by its device's kind.
        unsafe { sys::ggml_backend_cpu_set_n_threads(self.raw.as_ptr(), n) };
        if n == 1 || self.pool.as_ref().is_some_and(|p| p.n_threads >= n) {
            return;
        }
        // Without a pool computing still works, only slower.
        let Some(pool) = ThreadPool::new(n) else {
            return;
        };
        // SAFETY: backend and pool are valid; the backend stops using its old pool here, before that is freed.
        unsafe { sys::ggml_backend_cpu_set_threadpool(self.raw.as_ptr(), pool.raw.as_ptr()) };
        self.pool = Some(pool);
    }

    /// Lets worker threads sleep until the next graph. Without it they spin for a tenth of a second after each.
    pub fn rest(&mut self) {
        if let Some(pool) = &mut self.pool {
            pool.rest();
        }
    }

    pub(super) fn raw(&self) -> sys::ggml_backend_t {
        self.raw.as_ptr()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: `raw` came from ggml_backend_dev_init and is freed once, before its pool.
        unsafe { sys::ggml_backend_free(self.raw.as_ptr()) }
    }
}

/// Worker threads that wait between graphs.
struct ThreadPool {
    raw: NonNull<sys::ggml_threadpool>,
    n_threads: i32,
}

impl ThreadPool {
    fn new(n_threads: i32) -> Option<Self> {
        // SAFETY: plain functions; the parameters live for the call; null is checked.
        let raw = unsafe {
            let mut params = sys::ggml_threadpool_params_default(n_threads);
            sys::ggml_threadpool_new(&mut params)
        };
        NonNull::new(raw).map(|raw| Self { raw, n_threads })
    }

    fn rest(&mut self) {
        // SAFETY: the pool is valid; computing a graph wakes it up.
        unsafe { sys::ggml_threadpool_pause(self.raw.as_ptr()) }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: `raw` came from ggml_threadpool_new; no backend uses it any more.
        unsafe { sys::ggml_threadpool_free(self.raw.as_ptr()) }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({})", self.device.name())
    }
}

/// Instruction sets the CPU backend was compiled for and found, such as `AVX512_VNNI`.
pub fn cpu_features() -> Vec<String> {
    let Ok(cpu) = Device::cpu() else {
        return Vec::new();
    };
    // SAFETY: a device has a registry entry; the name is NUL-terminated.
    let found = unsafe {
        let reg = sys::ggml_backend_dev_backend_reg(cpu.raw);
        (
            reg,
            sys::ggml_backend_reg_get_proc_address(reg, c"ggml_backend_get_features".as_ptr()),
        )
    };
    let (reg, get) = found;
    if get.is_null() {
        return Vec::new();
    }
    // SAFETY: ggml documents this name to be of type ggml_backend_get_features_t.
    let get: unsafe extern "C" fn(sys::ggml_backend_reg_t) -> *const sys::ggml_backend_feature =
        unsafe { std::mem::transmute(get) };
    let mut out = Vec::new();
    // SAFETY: the list is static and ends with a null name.
    unsafe {
        let mut entry = get(reg);
        while !entry.is_null() && !(*entry).name.is_null() {
            if text((*entry).value) != "0" {
                out.push(text((*entry).name));
            }
            entry = entry.add(1);
        }
    }
    out
}

/// How long an RPC server may take to answer.
#[cfg(feature = "rpc")]
const RPC_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Connects to a ggml RPC server and registers its devices. Needs the `rpc` feature.
///
/// A server that goes away later, or speaks another protocol, makes ggml abort the process: it has no other answer.
#[cfg(feature = "rpc")]
pub fn add_rpc_server(endpoint: &str) -> Result<Vec<Device>, GgmlError> {
    use std::ffi::CString;
    use std::net::{TcpStream, ToSocketAddrs};

    super::route_logs_to_tracing();
    let fail = || GgmlError::Rpc {
        endpoint: endpoint.to_owned(),
    };
    let c = CString::new(endpoint).map_err(|_| fail())?;
    // ggml aborts the process when nobody answers, so knock first.
    let mut addresses = endpoint.to_socket_addrs().map_err(|_| fail())?;
    if !addresses.any(|a| TcpStream::connect_timeout(&a, RPC_TIMEOUT).is_ok()) {
        return Err(fail());
    }
    // SAFETY: the string is NUL-terminated; null means no connection.
    let reg = unsafe { sys::ggml_backend_rpc_add_server(c.as_ptr()) };
    if reg.is_null() {
        return Err(fail());
    }
    // SAFETY: `reg` was just returned by ggml and is valid; registering twice is harmless.
    let found: Vec<Device> = unsafe {
        sys::ggml_backend_register(reg);
        (0..sys::ggml_backend_reg_dev_count(reg))
            .map(|i| Device {
                raw: sys::ggml_backend_reg_dev_get(reg, i),
            })
            .collect()
    };
    if found.is_empty() {
        Err(fail())
    } else {
        Ok(found)
    }
}

/// Connects to a ggml RPC server and registers its devices. Needs the `rpc` feature.
#[cfg(not(feature = "rpc"))]
pub fn add_rpc_server(_endpoint: &str) -> Result<Vec<Device>, GgmlError> {
    Err(GgmlError::MissingBackend { backend: "RPC" })
}

/// Copies a C string; null gives an empty one.
///
/// # Safety
/// `raw` is null or points to a NUL-terminated string that lives for the call.
pub(super) unsafe fn text(raw: *const c_char) -> String {
    if raw.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(raw) }
        .to_string_lossy()
        .into_owned()
}
