//! From tensors in a file to weights on devices: the schema is checked in full before anything is loaded.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::hparams::path_of;
use super::{LoadError, LoadOptions, TensorProblem};
use crate::ggml::{
    DType, Device, GgmlError, Placement, Store, StoreBuilder, TensorId, dequantize,
    usable_as_matrix,
};
use crate::gguf::{Gguf, TensorInfo};
use crate::planes::PlaneLayout;

/// Index of a weight in [`Weights`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightId(usize);

impl WeightId {
    /// Stands for a weight that could not be named; the problem is on record and keeps the model from loading.
    pub const MISSING: Self = Self(usize::MAX);
}

/// What a weight is used as, which decides the types it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Rows are looked up by token.
    Embedding,
    /// Multiplied with activations.
    Matrix,
    /// Added or multiplied element by element; always F32 in memory.
    Vector,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Embedding => "an embedding",
            Self::Matrix => "a matrix",
            Self::Vector => "a vector",
        }
    }
}

/// The part of the model a weight belongs to, which decides its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Token embedding: always on the CPU.
    Input,
    /// A block.
    Layer(u32),
    /// Final norm and output matrix.
    Output,
}

/// Where the bytes of a weight come from.
enum Source {
    File(TensorInfo),
    Derived(Vec<u8>),
}

struct Spec {
    name: String,
    ty: DType,
    shape: Vec<u64>,
    device: Device,
    source: Source,
}

/// Collects the tensors an architecture names, then loads them all.
pub struct Loader<'a> {
    gguf: &'a Arc<Gguf>,
    placement: LayerPlacement,
    options: &'a LoadOptions,
    planes: &'a PlaneLayout,
    specs: Vec<Spec>,
    used: HashSet<String>,
    problems: Vec<TensorProblem>,
}

/// The device of each part of a model.
#[derive(Debug, Clone)]
pub struct LayerPlacement {
    cpu: Device,
    layers: Vec<Device>,
    output: Device,
}

impl LayerPlacement {
    /// Puts the last `n_gpu_layers` parts (the output counts as one) on GPUs, in equal shares.
    pub fn new(cpu: Device, gpus: &[Device], n_layer: u32, n_gpu_layers: u32) -> Self {
        let first = (n_layer + 1).saturating_sub(if gpus.is_empty() { 0 } else { n_gpu_layers });
        let offloaded = n_layer + 1 - first;
        let device = |i: u32| {
            if i < first {
                return cpu;
            }
            let share = u64::from(i - first) * gpus.len() as u64 / u64::from(offloaded.max(1));
            gpus.get(share as usize).copied().unwrap_or(cpu)
        };
        Self {
            cpu,
            layers: (0..n_layer).map(device).collect(),
            output: device(n_layer),
        }
    }

    /// Whether any part is elsewhere than on the CPU.
    pub fn has_gpu(&self) -> bool {
        self.output != self.cpu || self.layers.iter().any(|d| *d != self.cpu)
    }

    /// The device of a part.
    pub fn device(&self, part: Part) -> Device {
        match part {
            Part::Input => self.cpu,
            Part::Layer(i) => self.layers.get(i as usize).copied().unwrap_or(self.cpu),
            Part::Output => self.output,
        }
    }
}

/// All weights of a model.
#[derive(Debug)]
pub struct Weights {
    store: Arc<Store>,
    ids: Vec<TensorId>,
    has_gpu: bool,
}

impl Weights {
    /// The tensors.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Whether any are elsewhere than with the CPU.
    pub fn has_gpu(&self) -> bool {
        self.has_gpu
    }

    /// All of them.
    pub fn ids(&self) -> &[TensorId] {
        &self.ids
    }

    /// A weight's tensor.
    pub fn id(&self, weight: WeightId) -> TensorId {
        self.ids[weight.0]
    }
}

/// Lends a shard's bytes to a store while keeping the file mapped.
struct ShardBytes(Arc<Gguf>, usize);

impl AsRef<[u8]> for ShardBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.shards()[self.1].bytes()
    }
}

impl<'a> Loader<'a> {
    /// A loader for `gguf`, whose planes are known, with parts placed by `placement`.
    pub fn new(
        gguf: &'a Arc<Gguf>,
        planes: &'a PlaneLayout,
        placement: LayerPlacement,
        options: &'a LoadOptions,
    ) -> Self {
        Self {
            gguf,
            placement,
            options,
            planes,
            specs: Vec::new(),
            used: HashSet::new(),
            problems: Vec::new(),
        }
    }

    /// The device of a part.
    pub fn device(&self, part: Part) -> Device {
        self.placement.device(part)
    }

    /// Whether any part is on a GPU.
    pub fn has_gpu(&self) -> bool {
        self.placement.has_gpu()
    }

    /// Whether the MTP head was asked for.
    pub fn wants_mtp(&self) -> bool {
        self.options.mtp
    }

    /// Whether the file has a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// Shape of a tensor in the file.
    pub fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.gguf.tensor(name).map(|t| t.shape.dims().to_vec())
    }

    /// A tensor of this shape that must be there. Problems are collected and reported together by [`Loader::finish`].
    pub fn tensor(&mut self, part: Part, name: &str, shape: &[u64], role: Role) -> WeightId {
        self.refuse_planes(name);
        self.named(part, name, shape, role)
    }

    /// Matrices of experts, `{n_in, n_out, n_expert}`, and whether they are planes: rows of `2 n_in` then.
    pub fn expert_matrix(&mut self, part: Part, name: &str, shape: [u64; 3]) -> (WeightId, bool) {
        if !self.planes.contains(name) {
            return (self.named(part, name, &shape, Role::Matrix), false);
        }
        let stored = [2 * shape[0], shape[1], shape[2]];
        let fits = self.shape(name).is_some_and(|found| found[0] == stored[0]);
        (self.named(part, name, &stored, Role::Matrix), fits)
    }

    /// Only matrices of experts are rotated for.
    fn refuse_planes(&mut self, name: &str) {
        if self.planes.contains(name) {
            self.problems.push(TensorProblem::Content {
                name: name.to_owned(),
                problem: "it is stored as planes, which only routed experts may be".into(),
            });
        }
    }

    fn named(&mut self, part: Part, name: &str, shape: &[u64], role: Role) -> WeightId {
        let Some(info) = self.gguf.tensor(name).cloned() else {
            self.problems.push(TensorProblem::Missing {
                name: name.to_owned(),
                expected: shape.to_vec(),
            });
            return WeightId::MISSING;
        };
        self.used.insert(name.to_owned());
        let found = info.shape.dims();
        if trimmed(found) != trimmed(shape) {
            self.problems.push(TensorProblem::Shape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: found.to_vec(),
            });
        }
        let usable = usable_as_matrix(info.ty) && (role != Role::Vector || !info.ty.is_quantized());
        if !usable {
            self.problems.push(TensorProblem::Type {
                name: name.to_owned(),
                found: info.ty,
                role: role.name(),
            });
        }
        let device = self.weight_device(part, name);
        let spec = match role {
            Role::Vector if info.ty != DType::F32 && usable => {
                let mut values = Vec::new();
                let row = info.shape.ne()[0];
                if let Err(e) = dequantize(info.ty, self.gguf.data(&info), row, &mut values) {
                    self.problems.push(TensorProblem::Content {
                        name: name.to_owned(),
                        problem: e.to_string(),
                    });
                }
                let bytes = bytemuck::cast_slice(&values).to_vec();
                Spec {
                    name: name.to_owned(),
                    ty: DType::F32,
                    shape: shape.to_vec(),
                    device,
                    source: Source::Derived(bytes),
                }
            }
            _ => Spec {
                name: name.to_owned(),
                ty: info.ty,
                shape: shape.to_vec(),
                device,
                source: Source::File(info),
            },
        };
        self.push(spec)
    }

    /// Whether every tensor named so far fits. Nothing large should be computed from sizes that no tensor bears out.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// A tensor that may be absent.
    pub fn optional(
        &mut self,
        part: Part,
        name: &str,
        shape: &[u64],
        role: Role,
    ) -> Option<WeightId> {
        self.has(name).then(|| self.tensor(part, name, shape, role))
    }

    /// A weight computed from others or from formulas: little-endian bytes of `ty`.
    pub fn derived(
        &mut self,
        part: Part,
        name: &str,
        ty: DType,
        shape: &[u64],
        bytes: Vec<u8>,
    ) -> WeightId {
        let device = self.weight_device(part, name);
        self.push(Spec {
            name: name.to_owned(),
            ty,
            shape: shape.to_vec(),
            device,
            source: Source::Derived(bytes),
        })
    }

    /// A weight computed from a formula, once per device however many blocks name it.
    pub fn constant(
        &mut self,
        device: Device,
        name: &str,
        ty: DType,
        shape: &[u64],
        bytes: impl FnOnce() -> Vec<u8>,
    ) -> WeightId {
        self.known(device, name).unwrap_or_else(|| {
            self.push(Spec {
                name: name.to_owned(),
                ty,
                shape: shape.to_vec(),
                device,
                source: Source::Derived(bytes()),
            })
        })
    }

    /// A vector of the file in F32, once per device however many blocks name it. It must be there.
    pub fn shared_vector(&mut self, device: Device, name: &str, width: u64) -> WeightId {
        if let Some(known) = self.known(device, name) {
            return known;
        }
        let id = self.tensor(Part::Input, name, &[width], Role::Vector);
        if let Some(spec) = self.specs.get_mut(id.0) {
            spec.device = device;
        }
        id
    }

    /// A weight that was named before for this device.
    fn known(&self, device: Device, name: &str) -> Option<WeightId> {
        let same = |spec: &Spec| spec.device == device && spec.name == name;
        self.specs.iter().position(same).map(WeightId)
    }

    /// Values of a tensor of the file as F32, for derived weights. Its shape is checked like that of any other.
    pub fn values(&mut self, name: &str, shape: &[u64]) -> Option<(DType, Vec<f32>)> {
        self.refuse_planes(name);
        let Some(info) = self.gguf.tensor(name).cloned() else {
            self.problems.push(TensorProblem::Missing {
                name: name.to_owned(),
                expected: shape.to_vec(),
            });
            return None;
        };
        self.used.insert(name.to_owned());
        let found = info.shape.dims();
        if trimmed(found) != trimmed(shape) {
            self.problems.push(TensorProblem::Shape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: found.to_vec(),
            });
            return None;
        }
        let mut values = Vec::new();
        match dequantize(info.ty, self.gguf.data(&info), shape[0], &mut values) {
            Ok(()) => Some((info.ty, values)),
            Err(e) => {
                self.problems.push(TensorProblem::Content {
                    name: name.to_owned(),
                    problem: e.to_string(),
                });
                None
            }
        }
    }

    /// Loads everything. `progress` hears of bytes done and bytes in all.
    pub fn finish(mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Weights, LoadError> {
        let path = path_of(self.gguf);
        if !self.problems.is_empty() {
            let more = self.problems.len() - 1;
            return Err(LoadError::Tensors {
                path,
                first: self.problems.swap_remove(0),
                more,
            });
        }
        for unused in self
            .gguf
            .tensors()
            .iter()
            .filter(|t| !self.used.contains(&t.name))
        {
            tracing::debug!(tensor = unused.name, "tensor is not used");
        }
        self.load(progress)
            .map_err(|source| LoadError::Ggml { path, source })
    }

    fn load(self, progress: &mut dyn FnMut(u64, u64)) -> Result<Weights, GgmlError> {
        let mut builder = StoreBuilder::new(self.specs.len().max(1), false)?;
        let mut regions: Vec<(usize, Device, usize)> = Vec::new();
        let mut ids = Vec::with_capacity(self.specs.len());
        for spec in &self.specs {
            let place = match &spec.source {
                Source::File(info) if self.options.mmap && spec.device.maps_host_memory() => {
                    let known = regions
                        .iter()
                        .find(|(shard, device, _)| *shard == info.shard && *device == spec.device)
                        .map(|r| r.2);
                    let region = known.unwrap_or_else(|| {
                        let region = builder.region(
                            spec.device,
                            Arc::new(ShardBytes(Arc::clone(self.gguf), info.shard)),
                        );
                        regions.push((info.shard, spec.device, region));
                        region
                    });
                    let offset = info.offset as usize;
                    if builder.can_map(region, offset) {
                        Placement::Mapped { region, offset }
                    } else {
                        Placement::Alloc(spec.device.buffer_type())
                    }
                }
                _ => Placement::Alloc(spec.device.buffer_type()),
            };
            ids.push((
                builder.tensor(&spec.name, spec.ty, &spec.shape, place)?,
                place,
            ));
        }
        let store = builder.build()?;
        let total = self
            .specs
            .iter()
            .map(|s| s.ty.row_bytes(s.shape.iter().product()).unwrap_or(0))
            .sum();
        let mut done = 0;
        for (spec, (id, place)) in self.specs.iter().zip(&ids) {
            let bytes = match &spec.source {
                Source::File(info) => self.gguf.data(info),
                Source::Derived(bytes) => bytes,
            };
            if matches!(place, Placement::Alloc(_)) {
                store.write(*id, 0, bytes)?;
            }
            done += bytes.len() as u64;
            progress(done, total);
        }
        Ok(Weights {
            store,
            ids: ids.into_iter().map(|(id, _)| id).collect(),
            has_gpu: self.placement.has_gpu(),
        })
    }

    fn push(&mut self, spec: Spec) -> WeightId {
        self.specs.push(spec);
        WeightId(self.specs.len() - 1)
    }

    /// Device of a weight: its part's, unless an option places expert matrices elsewhere.
    pub fn weight_device(&self, part: Part, name: &str) -> Device {
        let keep = match part {
            Part::Layer(i) => i < self.options.n_cpu_moe && is_expert(name),
            _ => false,
        };
        if keep {
            self.placement.cpu
        } else {
            self.placement.device(part)
        }
    }
}

fn is_expert(name: &str) -> bool {
    ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]
        .iter()
        .any(|e| name.contains(e))
}

/// A shape without trailing ones: `{4096}` and `{4096, 1}` are the same tensor.
fn trimmed(shape: &[u64]) -> &[u64] {
    let last = shape.iter().rposition(|&n| n != 1).map_or(1, |i| i + 1);
    &shape[..last.min(shape.len())]
}

/// File the loader reads, for errors of architectures.
impl Loader<'_> {
    /// The file's first path.
    pub fn path(&self) -> PathBuf {
        path_of(self.gguf)
    }
}
