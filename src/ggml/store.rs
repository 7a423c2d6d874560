//! Tensors that outlive graphs: weights (read-only) and sequence memory (written by graphs).

use std::any::Any;
use std::ffi::CString;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ggml_sys as sys;

use super::arena::Arena;
use super::device::{BufferType, Device};
use super::{DType, GgmlError, GraphError};

/// Alignment ggml's CPU buffers demand of the memory they are made over, and we of each tensor mapped there.
const HOST_ALIGNMENT: usize = 32;

/// Index of a tensor in its [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorId(u32);

/// Where the bytes of a tensor go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Fresh memory of a buffer type.
    Alloc(BufferType),
    /// Bytes of a host region, in place.
    Mapped {
        /// Index of the region, as [`StoreBuilder::region`] returned it.
        region: usize,
        /// Offset of the tensor's first byte.
        offset: usize,
    },
}

/// Host memory that tensors point into, such as a mapped file.
struct Region {
    device: Device,
    base: NonNull<u8>,
    len: usize,
    owner: Arc<dyn Any + Send + Sync>,
}

/// Collects tensors; [`StoreBuilder::build`] gives them bytes.
pub struct StoreBuilder {
    arena: Arena,
    tensors: Vec<(NonNull<sys::ggml_tensor>, Placement)>,
    regions: Vec<Region>,
    writable: bool,
}

impl StoreBuilder {
    /// For at most `capacity` tensors. Graphs may write into them only if `writable`.
    pub fn new(capacity: usize, writable: bool) -> Result<Self, GraphError> {
        Ok(Self {
            arena: Arena::new(capacity, 0)?,
            tensors: Vec::with_capacity(capacity),
            regions: Vec::new(),
            writable,
        })
    }

    /// Registers host bytes for [`Placement::Mapped`]; `owner` keeps them alive and unmoved.
    pub fn region<T>(&mut self, device: Device, owner: Arc<T>) -> usize
    where
        T: AsRef<[u8]> + Send + Sync + 'static,
    {
        let bytes = (*owner).as_ref();
        let (base, len) = (NonNull::from(bytes).cast::<u8>(), bytes.len());
        self.regions.push(Region {
            device,
            base,
            len,
            owner,
        });
        self.regions.len() - 1
    }

    /// Whether a tensor at `offset` of `region` can be used in place.
    pub fn can_map(&self, region: usize, offset: usize) -> bool {
        self.regions.get(region).is_some_and(|r| {
            (r.base.as_ptr() as usize).is_multiple_of(HOST_ALIGNMENT)
                && offset.is_multiple_of(HOST_ALIGNMENT)
        })
    }

    /// Adds a tensor of `shape` (ne order, 1 to 4 dimensions).
    pub fn tensor(
        &mut self,
        name: &str,
        ty: DType,
        shape: &[u64],
        place: Placement,
    ) -> Result<TensorId, GraphError> {
        if self.tensors.len() >= self.arena.capacity() {
            return Err(GraphError::TooLarge {
                capacity: self.arena.capacity(),
            });
        }
        if self.writable && matches!(place, Placement::Mapped { .. }) {
            return Err(GraphError::ReadOnly {
                op: "map",
                tensor: name.to_owned(),
            });
        }
        if let Placement::Mapped { region, .. } = place
            && region >= self.regions.len()
        {
            return Err(GraphError::UnknownTensor {
                index: region,
                count: self.regions.len(),
            });
        }
        let ne = super::graph::checked_shape("tensor", ty, shape)?;
        // SAFETY: the shape was checked (dims, overflow, block size) and the arena has room for one more tensor.
        let raw = unsafe {
            sys::ggml_new_tensor(self.arena.raw(), ty.id() as sys::ggml_type, 4, ne.as_ptr())
        };
        let raw = NonNull::new(raw).ok_or(GraphError::Alloc { what: "a tensor" })?;
        set_name(raw, name);
        let id = TensorId(
            u32::try_from(self.tensors.len()).map_err(|_| GraphError::TooLarge {
                capacity: u32::MAX as usize,
            })?,
        );
        self.tensors.push((raw, place));
        Ok(id)
    }

    /// Gives every tensor its bytes. Fresh bytes of a writable store are zero.
    pub fn build(self) -> Result<Arc<Store>, GgmlError> {
        let mut buffers = Vec::new();
        self.place_mapped(&mut buffers)?;
        self.place_allocated(&mut buffers)?;
        for buffer in &buffers {
            buffer.mark(self.writable);
        }
        let mapped = self
            .tensors
            .iter()
            .map(|(_, p)| matches!(p, Placement::Mapped { .. }))
            .collect();
        Ok(Arc::new(Store {
            tensors: self.tensors.into_iter().map(|(t, _)| t).collect(),
            mapped,
            writable: self.writable,
            lock: RwLock::new(()),
            buffers,
            _owners: self.regions.into_iter().map(|r| r.owner).collect(),
            _arena: self.arena,
        }))
    }

    fn place_mapped(&self, buffers: &mut Vec<Buffer>) -> Result<(), GgmlError> {
        for (index, region) in self.regions.iter().enumerate() {
            let here: Vec<_> = self
                .tensors
                .iter()
                .filter_map(|(t, p)| match p {
                    Placement::Mapped { region, offset } if *region == index => Some((*t, *offset)),
                    _ => None,
                })
                .collect();
            let Some(largest) = here.iter().map(|(t, _)| nbytes(*t)).max() else {
                continue;
            };
            let device = region.device.name();
            if let Some((tensor, offset)) = here
                .iter()
                .find(|(_, offset)| !self.can_map(index, *offset))
            {
                let (tensor, len) = (name_of(*tensor), nbytes(*tensor));
                return Err(GgmlError::Range {
                    tensor,
                    expected: region.len,
                    offset: *offset,
                    len,
                });
            }
            // SAFETY: the region outlives the buffer (the store keeps its owner), and ggml only reads from it because
            // weights stores are read-only; `largest` bounds the tensors that will be placed in it.
            let raw = unsafe {
                sys::ggml_backend_dev_buffer_from_host_ptr(
                    region.device.raw(),
                    region.base.as_ptr().cast(),
                    region.len,
                    largest,
                )
            };
            let buffer = Buffer::new(raw, region.len, &device)?;
            for (tensor, offset) in here {
                let fits = offset
                    .checked_add(nbytes(tensor))
                    .is_some_and(|end| end <= region.len);
                if !fits || !self.can_map(index, offset) {
                    return Err(GgmlError::Range {
                        tensor: name_of(tensor),
                        expected: region.len,
                        offset,
                        len: nbytes(tensor),
                    });
                }
                // SAFETY: the address lies inside the buffer, checked above.
                unsafe { buffer.place(tensor, region.base.as_ptr().add(offset).cast(), &device)? };
            }
            buffers.push(buffer);
        }
        Ok(())
    }

    fn place_allocated(&self, buffers: &mut Vec<Buffer>) -> Result<(), GgmlError> {
        let mut kinds: Vec<BufferType> = Vec::new();
        for (_, place) in &self.tensors {
            if let Placement::Alloc(kind) = place
                && !kinds.contains(kind)
            {
                kinds.push(*kind);
            }
        }
        for kind in kinds {
            let here: Vec<_> = self
                .tensors
                .iter()
                .filter(|(_, p)| *p == Placement::Alloc(kind))
                .map(|(t, _)| *t)
                .collect();
            // SAFETY: plain queries of a valid buffer type.
            let (align, max) = unsafe {
                (
                    sys::ggml_backend_buft_get_alignment(kind.raw),
                    sys::ggml_backend_buft_get_max_size(kind.raw),
                )
            };
            let mut start = 0;
            while start < here.len() {
                let (mut end, mut total, mut offsets) = (start, 0usize, Vec::new());
                while end < here.len() {
                    // SAFETY: the tensor is valid and the query mutates nothing.
                    let need = unsafe {
                        sys::ggml_backend_buft_get_alloc_size(kind.raw, here[end].as_ptr())
                    }
                    .next_multiple_of(align);
                    if end > start && total.saturating_add(need) > max {
                        break;
                    }
                    offsets.push(total);
                    total += need;
                    end += 1;
                }
                // SAFETY: allocation request; null is checked by `Buffer::new`.
                let raw = unsafe { sys::ggml_backend_buft_alloc_buffer(kind.raw, total) };
                let buffer = Buffer::new(raw, total, &kind.name())?;
                // SAFETY: the buffer is valid; its base is the start of at least `total` bytes.
                let base = unsafe { sys::ggml_backend_buffer_get_base(buffer.raw.as_ptr()) };
                for (tensor, offset) in here[start..end].iter().zip(offsets) {
                    // SAFETY: `offset` plus the tensor's allocation size is at most `total`.
                    unsafe { buffer.place(*tensor, base.byte_add(offset), &kind.name())? };
                }
                if self.writable {
                    // SAFETY: the buffer is valid and nobody uses it yet.
                    unsafe { sys::ggml_backend_buffer_clear(buffer.raw.as_ptr(), 0) };
                }
                buffers.push(buffer);
                start = end;
            }
        }
        Ok(())
    }
}

/// Tensors with bytes. Graphs that use one keep the store alive.
pub struct Store {
    tensors: Vec<NonNull<sys::ggml_tensor>>,
    mapped: Vec<bool>,
    writable: bool,
    /// Computing takes it for reading (weights) or writing (sequence memory); access from outside likewise.
    lock: RwLock<()>,
    // Fields drop in order: buffers before the regions and the structs they refer to.
    buffers: Vec<Buffer>,
    _owners: Vec<Arc<dyn Any + Send + Sync>>,
    _arena: Arena,
}

// SAFETY: the tensor structs are immutable after `build`; bytes are written only under the write lock (by `write`, and
// by graphs in a writable store) and read only under one of the locks.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Whether graphs may write into its tensors.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Bytes held in buffers, mapped ones included.
    pub fn buffer_bytes(&self) -> u64 {
        self.buffers.iter().map(|b| b.len as u64).sum()
    }

    /// Size of a tensor in bytes.
    pub fn bytes_of(&self, id: TensorId) -> Result<usize, GraphError> {
        self.raw(id).map(nbytes)
    }

    /// Writes bytes into a tensor. Mapped tensors are read-only.
    pub fn write(&self, id: TensorId, offset: usize, bytes: &[u8]) -> Result<(), GgmlError> {
        let raw = self.raw(id)?;
        if self.mapped[id.0 as usize] {
            return Err(GraphError::ReadOnly {
                op: "write",
                tensor: name_of(raw),
            }
            .into());
        }
        check_range(raw, offset, bytes.len())?;
        let _guard = self.lock_exclusive();
        // SAFETY: the range lies inside the tensor, which has a buffer; the lock excludes computations.
        unsafe {
            sys::ggml_backend_tensor_set(raw.as_ptr(), bytes.as_ptr().cast(), offset, bytes.len())
        };
        Ok(())
    }

    /// Reads bytes of a tensor.
    pub fn read(&self, id: TensorId, offset: usize, bytes: &mut [u8]) -> Result<(), GgmlError> {
        let raw = self.raw(id)?;
        check_range(raw, offset, bytes.len())?;
        let _guard = self.lock_shared();
        // SAFETY: as in `write`.
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

    pub(super) fn raw(&self, id: TensorId) -> Result<NonNull<sys::ggml_tensor>, GraphError> {
        let index = id.0 as usize;
        self.tensors
            .get(index)
            .copied()
            .ok_or(GraphError::UnknownTensor {
                index,
                count: self.tensors.len(),
            })
    }

    /// What a graph holds while it computes with this store.
    pub(super) fn lock_for_graph(&self) -> GraphGuard<'_> {
        if self.writable {
            GraphGuard::Exclusive {
                _guard: self.lock_exclusive(),
            }
        } else {
            GraphGuard::Shared {
                _guard: self.lock_shared(),
            }
        }
    }

    fn lock_shared(&self) -> RwLockReadGuard<'_, ()> {
        self.lock.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_exclusive(&self) -> RwLockWriteGuard<'_, ()> {
        // The guarded value is (): a panic elsewhere cannot have left it inconsistent.
        self.lock.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Store({} tensors, {} bytes)",
            self.tensors.len(),
            self.buffer_bytes()
        )
    }
}

/// Keeps a store's bytes from being written (shared) or touched (exclusive) from outside.
pub(super) enum GraphGuard<'a> {
    Shared { _guard: RwLockReadGuard<'a, ()> },
    Exclusive { _guard: RwLockWriteGuard<'a, ()> },
}

/// An owned ggml buffer.
struct Buffer {
    raw: NonNull<sys::ggml_backend_buffer>,
    len: usize,
}

// SAFETY: buffers have no thread affinity; access is governed by the store's lock.
unsafe impl Send for Buffer {}

impl Buffer {
    fn new(raw: sys::ggml_backend_buffer_t, bytes: usize, device: &str) -> Result<Self, GgmlError> {
        let raw = NonNull::new(raw).ok_or_else(|| GgmlError::OutOfMemory {
            bytes,
            device: device.to_owned(),
        })?;
        Ok(Self { raw, len: bytes })
    }

    /// # Safety
    /// `addr` and the tensor's allocation size lie inside this buffer; the tensor has no buffer yet.
    unsafe fn place(
        &self,
        tensor: NonNull<sys::ggml_tensor>,
        addr: *mut std::ffi::c_void,
        device: &str,
    ) -> Result<(), GgmlError> {
        // SAFETY: the caller's promise.
        let status =
            unsafe { sys::ggml_backend_tensor_alloc(self.raw.as_ptr(), tensor.as_ptr(), addr) };
        if status == sys::GGML_STATUS_SUCCESS {
            Ok(())
        } else {
            Err(GgmlError::OutOfMemory {
                bytes: nbytes(tensor),
                device: device.to_owned(),
            })
        }
    }

    /// Tells the scheduler that operations on weights should run where the weights are.
    fn mark(&self, writable: bool) {
        let usage = if writable {
            sys::GGML_BACKEND_BUFFER_USAGE_ANY
        } else {
            sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS
        };
        // SAFETY: the buffer is valid.
        unsafe { sys::ggml_backend_buffer_set_usage(self.raw.as_ptr(), usage) };
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `raw` is owned and freed once; graphs that used it hold the store alive.
        unsafe { sys::ggml_backend_buffer_free(self.raw.as_ptr()) }
    }
}

/// Size of a tensor in bytes, as ggml counts it.
pub(super) fn nbytes(tensor: NonNull<sys::ggml_tensor>) -> usize {
    // SAFETY: callers hold a valid tensor of a live arena.
    unsafe { sys::ggml_nbytes(tensor.as_ptr()) }
}

/// A tensor's name.
pub(super) fn name_of(tensor: NonNull<sys::ggml_tensor>) -> String {
    // SAFETY: a valid tensor's name is a NUL-terminated array inside the struct.
    unsafe { super::device::text(sys::ggml_get_name(tensor.as_ptr())) }
}

/// Names a tensor; ggml cuts names at 63 bytes.
pub(super) fn set_name(tensor: NonNull<sys::ggml_tensor>, name: &str) {
    if let Ok(c) = CString::new(name) {
        // SAFETY: the tensor is valid and not shared yet; ggml copies the string.
        unsafe { sys::ggml_set_name(tensor.as_ptr(), c.as_ptr()) };
    }
}

pub(super) fn check_range(
    raw: NonNull<sys::ggml_tensor>,
    offset: usize,
    len: usize,
) -> Result<(), GgmlError> {
    let expected = nbytes(raw);
    if offset.checked_add(len).is_some_and(|end| end <= expected) {
        return Ok(());
    }
    Err(GgmlError::Range {
        tensor: name_of(raw),
        expected,
        offset,
        len,
    })
}
