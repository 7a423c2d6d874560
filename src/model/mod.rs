//! Models: from a GGUF file to a network with weights on devices.
//!
//! A [`Model`] is immutable and cheap to clone. It knows how to build the graph of a step; it holds no sequence
//! state (that is [`crate::memory`]) and computes nothing by itself (that is [`crate::engine`]).

#![forbid(unsafe_code)]

pub mod arch;
pub mod blocks;
mod error;
pub mod hparams;
pub mod loader;
mod products;
pub mod registry;
pub mod step;

use std::path::Path;
use std::sync::Arc;

pub use error::{LoadError, TensorProblem};
use hparams::path_of;
use loader::{LayerPlacement, Loader, Weights};
pub use registry::{ARCHITECTURES, Architecture, Network, Sizes};
pub use step::AttentionKernel;

use crate::ggml::Device;
use crate::gguf::Gguf;
use crate::memory::MemorySpec;
use crate::planes::PlaneLayout;
use crate::tokenizer::Tokenizer;

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Devices to offload to, in order. Empty: every GPU that is there.
    pub devices: Vec<Device>,
    /// Parts (blocks from the last on, the output counting as one) to put on GPUs; `None`: as many as fit.
    pub n_gpu_layers: Option<u32>,
    /// Blocks, from the first on, whose expert matrices stay on the CPU.
    pub n_cpu_moe: u32,
    /// Use the file's pages in place where the device can.
    pub mmap: bool,
    /// Load the MTP head if the file has one.
    pub mtp: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            devices: Vec::new(),
            n_gpu_layers: None,
            n_cpu_moe: 0,
            mmap: true,
            mtp: true,
        }
    }
}

/// Share of a device's free memory that weights may take when nobody says how many layers to offload;
/// the rest is for sequence memory and intermediate results.
const AUTO_OFFLOAD_SHARE: f64 = 0.8;

/// A loaded model. Clones share it.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    gguf: Arc<Gguf>,
    architecture: &'static Architecture,
    sizes: Sizes,
    n_vocab: u32,
    planes: PlaneLayout,
    network: Box<dyn Network>,
    weights: Weights,
    memory: MemorySpec,
    tokenizer: Arc<Tokenizer>,
    devices: Vec<Device>,
}

impl Model {
    /// Loads a model. `progress` hears of bytes done and bytes in all.
    pub fn load(
        gguf: Arc<Gguf>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, LoadError> {
        let path = path_of(&gguf);
        let architecture = registry::architecture_of(&gguf, &path)?;
        if gguf.tensors().is_empty() {
            return Err(LoadError::VocabOnly { path, n_tensors: 0 });
        }
        let sizes = (architecture.sizes)(&gguf)?;
        let planes = PlaneLayout::of(&gguf).map_err(|source| LoadError::Planes {
            path: path.clone(),
            source,
        })?;
        let tokenizer =
            Tokenizer::from_metadata(gguf.metadata()).map_err(|source| LoadError::Tokenizer {
                path: path.clone(),
                source,
            })?;
        let cpu = Device::cpu().map_err(|source| LoadError::Ggml {
            path: path.clone(),
            source,
        })?;
        let gpus = if options.devices.is_empty() {
            crate::ggml::devices()
                .into_iter()
                .filter(Device::is_gpu)
                .collect()
        } else {
            options
                .devices
                .iter()
                .copied()
                .filter(Device::is_gpu)
                .collect::<Vec<_>>()
        };
        let n_blocks = sizes.n_layer + sizes.n_mtp;
        let n_gpu_layers = options
            .n_gpu_layers
            .unwrap_or_else(|| auto_gpu_layers(&gguf, &gpus, n_blocks));
        let placement = LayerPlacement::new(cpu, &gpus, n_blocks, n_gpu_layers);
        let mut loader = Loader::new(&gguf, &planes, placement, options);
        let mut memory = MemorySpec::default();
        let network = (architecture.load)(&gguf, &mut loader, &mut memory)?;
        let n_vocab = loader
            .shape("token_embd.weight")
            .and_then(|s| s.get(1).copied())
            .unwrap_or(0);
        let weights = loader.finish(progress)?;
        let n_vocab = u32::try_from(n_vocab).unwrap_or(u32::MAX);
        check_vocabulary(&path, &tokenizer, n_vocab)?;
        let mut devices = if n_gpu_layers > 0 { gpus } else { Vec::new() };
        devices.push(cpu);
        Ok(Self {
            inner: Arc::new(Inner {
                gguf,
                architecture,
                sizes,
                n_vocab,
                planes,
                network,
                weights,
                memory,
                tokenizer: Arc::new(tokenizer),
                devices,
            }),
        })
    }

    /// Opens a file and loads it.
    pub fn open(
        path: &Path,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, LoadError> {
        Self::load(Arc::new(Gguf::open(path)?), options, progress)
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.inner.gguf
    }

    /// The architecture.
    pub fn architecture(&self) -> &'static Architecture {
        self.inner.architecture
    }

    /// Main sizes.
    pub fn sizes(&self) -> Sizes {
        self.inner.sizes
    }

    /// Rows of the embedding table.
    pub fn n_vocab(&self) -> u32 {
        self.inner.n_vocab
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.inner.tokenizer
    }

    /// The network.
    pub fn network(&self) -> &dyn Network {
        self.inner.network.as_ref()
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.inner.weights
    }

    /// What a sequence of this model needs to remember.
    pub fn memory_spec(&self) -> &MemorySpec {
        &self.inner.memory
    }

    /// Devices that hold weights, the CPU last.
    pub fn devices(&self) -> &[Device] {
        &self.inner.devices
    }

    /// `general.name`, or the file's name.
    pub fn name(&self) -> String {
        let path = path_of(&self.inner.gguf);
        let name = self
            .inner
            .gguf
            .metadata()
            .str("general.name")
            .ok()
            .flatten()
            .map(str::to_owned);
        name.unwrap_or_else(|| {
            path.file_stem()
                .map(|s| s.to_string_lossy().into_owned())
                .unwrap_or_default()
        })
    }

    /// Number of weights in the file; a weight stored in two planes is one.
    pub fn n_params(&self) -> u64 {
        let tensors = self.inner.gguf.tensors().iter();
        tensors.map(|t| self.inner.planes.n_weights(t)).sum()
    }

    /// Bytes of all tensors in the file.
    pub fn n_bytes(&self) -> u64 {
        self.inner.gguf.tensors().iter().map(|t| t.bytes).sum()
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Model({}, {})",
            self.inner.architecture.name,
            self.name()
        )
    }
}

fn check_vocabulary(path: &Path, tokenizer: &Tokenizer, n_vocab: u32) -> Result<(), LoadError> {
    if tokenizer.n_vocab() <= n_vocab as usize {
        return Ok(());
    }
    Err(LoadError::Value {
        path: path.to_owned(),
        key: "tokenizer.ggml.tokens".into(),
        expected: format!("at most {n_vocab} tokens, the rows of token_embd.weight"),
        found: format!("{} tokens", tokenizer.n_vocab()),
    })
}

/// As many parts as fit into the GPUs' free memory, counted by the blocks' tensors: what [`Model::load`] chooses when
/// [`LoadOptions::n_gpu_layers`] does not say.
pub fn auto_gpu_layers(gguf: &Gguf, gpus: &[Device], n_blocks: u32) -> u32 {
    let mut budget = gpus
        .iter()
        .map(|d| d.memory().0 as f64 * AUTO_OFFLOAD_SHARE)
        .sum::<f64>();
    let mut parts = vec![0u64; n_blocks as usize + 1];
    for tensor in gguf.tensors() {
        let block = tensor
            .name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split('.').next())
            .and_then(|n| n.parse::<usize>().ok());
        match block {
            Some(i) if i < n_blocks as usize => parts[i] += tensor.bytes,
            None if tensor.name.starts_with("output") => parts[n_blocks as usize] += tensor.bytes,
            _ => {}
        }
    }
    let mut count = 0;
    for bytes in parts.iter().rev() {
        budget -= *bytes as f64;
        if budget < 0.0 {
            break;
        }
        count += 1;
    }
    count
}
