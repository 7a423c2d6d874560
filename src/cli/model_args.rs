//! Flags that every command with a model shares, by llama.cpp's names.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{ArgAction, Args, ValueEnum};
use oxling::engine::{EngineConfig, FlashAttention};
use oxling::ggml::{DType, Device};
use oxling::gguf::Gguf;
use oxling::hub::{Event, FileName, Reference, Revision, Wanted};
use oxling::model::{LoadOptions, Model};

use super::devices::devices;
use super::errors::hinted;
use super::hub_args::HubArgs;
use super::progress::LoadProgress;
use super::values::{chosen, switch, threads};

/// Most tokens of a batch.
const MOST_TOKENS: i64 = 1 << 20;

/// Which file to load, and onto which devices.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// GGUF file; any file of a split model will do. Without it, the built-in demo model.
    #[arg(
        short = 'm',
        long = "model",
        value_name = "FILE",
        env = "LLAMA_ARG_MODEL"
    )]
    pub model: Option<PathBuf>,
    /// Model of a hub, downloaded unless it is here; QUANT is Q4_K_M if not named [-hf, -hfr].
    #[arg(
        long = "hf-repo",
        value_name = "REPO[:QUANT]",
        env = "LLAMA_ARG_HF_REPO"
    )]
    pub hf_repo: Option<Reference>,
    /// The very file of that repository [-hff].
    #[arg(long = "hf-file", value_name = "FILE", env = "LLAMA_ARG_HF_FILE")]
    pub hf_file: Option<FileName>,
    #[command(flatten)]
    pub hub: HubArgs,
    /// Blocks to put on GPUs, the output counting as one: a number, `all`, or `auto` for as many as fit [-ngl].
    #[arg(
        long = "n-gpu-layers",
        alias = "gpu-layers",
        value_name = "N",
        default_value = "auto",
        allow_negative_numbers = true,
        env = "LLAMA_ARG_N_GPU_LAYERS"
    )]
    pub n_gpu_layers: GpuLayers,
    /// Keep the expert matrices of all blocks on the CPU [-cmoe].
    #[arg(long = "cpu-moe", action = ArgAction::SetTrue, value_parser = switch, env = "LLAMA_ARG_CPU_MOE")]
    pub cpu_moe: bool,
    /// Keep the expert matrices of the first N blocks on the CPU [-ncmoe].
    #[arg(
        long = "n-cpu-moe",
        value_name = "N",
        default_value_t = 0,
        env = "LLAMA_ARG_N_CPU_MOE"
    )]
    pub n_cpu_moe: u32,
    /// Devices to offload to, by name, comma-separated; `none` for the CPU alone [-dev].
    #[arg(
        long = "device",
        value_name = "LIST",
        value_delimiter = ',',
        env = "LLAMA_ARG_DEVICE"
    )]
    pub device: Vec<String>,
    /// ggml RPC servers to offload to, host:port, comma-separated.
    #[arg(
        long = "rpc",
        value_name = "LIST",
        value_delimiter = ',',
        env = "LLAMA_ARG_RPC"
    )]
    pub rpc: Vec<String>,
    /// How weights get into memory: map the file (`mmap`), or read it into fresh memory (`none`) [-lm].
    #[arg(long = "load-mode", value_name = "MODE", value_enum, default_value_t = LoadMode::Auto, env = "LLAMA_ARG_LOAD_MODE")]
    pub load_mode: LoadMode,
}

/// Sizes and threads of the computation.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Computation")]
pub struct ComputeArgs {
    /// Context: tokens one sequence can hold; 0 takes the model's own.
    #[arg(
        short = 'c',
        long = "ctx-size",
        value_name = "N",
        default_value_t = 0,
        env = "LLAMA_ARG_CTX_SIZE"
    )]
    pub ctx_size: u32,
    /// Largest number of prompt tokens between two looks at Ctrl-C.
    #[arg(
        short = 'b',
        long = "batch-size",
        value_name = "N",
        default_value_t = 2048,
        value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS),
        env = "LLAMA_ARG_BATCH"
    )]
    pub batch_size: u32,
    /// Largest number of tokens computed at once [-ub].
    #[arg(
        long = "ubatch-size",
        alias = "ubatch",
        value_name = "N",
        default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS),
        env = "LLAMA_ARG_UBATCH"
    )]
    pub ubatch_size: u32,
    /// Threads for generation; default, and -1: one per core.
    #[arg(
        short = 't',
        long = "threads",
        value_name = "N",
        value_parser = threads,
        env = "LLAMA_ARG_THREADS"
    )]
    pub threads: Option<usize>,
    /// Threads for prompts; default: as -t [-tb].
    #[arg(
        long = "threads-batch",
        value_name = "N",
        value_parser = threads,
        env = "LLAMA_ARG_THREADS_BATCH"
    )]
    pub threads_batch: Option<usize>,
    /// Fused attention [-fa].
    #[arg(long = "flash-attn", value_name = "MODE", value_enum, default_value_t = OnOffAuto::Auto, env = "LLAMA_ARG_FLASH_ATTN")]
    pub flash_attn: OnOffAuto,
    /// Who multiplies with weights on the CPU: our own kernels, where there are any, or ggml's.
    #[arg(long, value_name = "WHOSE", value_enum, default_value_t = KernelChoice::Own, env = "OXLING_KERNELS")]
    pub kernels: KernelChoice,
    /// Element type of the attention memory: f32, f16, bf16 or q8_0 [-ctk].
    #[arg(
        long = "cache-type-k",
        value_name = "TYPE",
        default_value = "f16",
        env = "LLAMA_ARG_CACHE_TYPE_K"
    )]
    pub cache_type_k: CacheType,
    /// As -ctk, and the same type: keys and values have one type here [-ctv].
    #[arg(
        long = "cache-type-v",
        value_name = "TYPE",
        env = "LLAMA_ARG_CACHE_TYPE_V"
    )]
    pub cache_type_v: Option<CacheType>,
}

/// How weights get into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoadMode {
    /// Map where the device can use it.
    Auto,
    /// As auto.
    Mmap,
    /// Read into fresh memory.
    None,
}

/// Whose kernels compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KernelChoice {
    /// Ours, for the types and machines they know.
    Own,
    /// ggml's alone.
    Ggml,
}

impl KernelChoice {
    /// Its value on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Ggml => "ggml",
        }
    }
}

/// A switch with a default of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnOffAuto {
    /// Always.
    #[value(aliases = ["1", "true", "enabled"])]
    On,
    /// Never.
    #[value(aliases = ["0", "false", "disabled"])]
    Off,
    /// Whatever is best here.
    #[value(alias = "-1")]
    Auto,
}

/// Value of `-ngl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as fit.
    Auto,
    /// A number; `all` is the largest.
    Count(u32),
}

impl std::str::FromStr for GpuLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "all" | "-1" => Ok(Self::Count(u32::MAX)),
            _ => text
                .parse()
                .map(Self::Count)
                .map_err(|_| "expected a number, `all` or `auto`".to_owned()),
        }
    }
}

/// Element type of attention memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheType(pub DType);

impl std::str::FromStr for CacheType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "f32" => Ok(Self(DType::F32)),
            "f16" => Ok(Self(DType::F16)),
            "bf16" => Ok(Self(DType::BF16)),
            "q8_0" => Ok(Self(DType::Q8_0)),
            _ => Err("expected f32, f16, bf16 or q8_0".to_owned()),
        }
    }
}

/// The demo model, aligned as mapped files are.
#[cfg(feature = "demo-model")]
mod demo {
    #[repr(C, align(64))]
    struct Aligned<T: ?Sized>(T);
    static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/models/tiny-ling-IQ4_NL.gguf"
    )));

    pub fn bytes() -> Option<&'static [u8]> {
        Some(&BYTES.0)
    }
}

#[cfg(not(feature = "demo-model"))]
mod demo {
    pub fn bytes() -> Option<&'static [u8]> {
        None
    }
}

impl ModelArgs {
    /// Opens the file, or the demo model, and says so.
    pub fn open(&self) -> Result<Arc<Gguf>> {
        self.say_demo();
        self.open_telling(&mut |_| {})
    }

    /// Says that the demo model is used, if it is.
    pub fn say_demo(&self) {
        let named = self.model.is_some() || self.hf_repo.is_some() || self.hf_file.is_some();
        if !named && demo::bytes().is_some() {
            anstream::eprintln!(
                "using the built-in demo model tiny-ling (19M parameters; -m FILE for another)"
            );
        }
    }

    /// As [`Self::open`], but says nothing; `listen` hears of a download.
    pub fn open_telling(&self, listen: &mut dyn FnMut(&Event<'_>)) -> Result<Arc<Gguf>> {
        if let Some(path) = self.file(listen)? {
            return Ok(Arc::new(Gguf::open(&path)?));
        }
        let Some(bytes) = demo::bytes() else {
            return Err(hinted(
                "no model: this build has no demo model",
                "name a GGUF file with -m FILE",
            ));
        };
        Ok(Arc::new(Gguf::from_static("tiny-ling (built in)", bytes)?))
    }

    /// The file named, downloaded if it has to be; `None` for the demo model.
    fn file(&self, listen: &mut dyn FnMut(&Event<'_>)) -> Result<Option<PathBuf>> {
        let wanted = match (&self.model, &self.hf_repo) {
            (Some(_), Some(_)) => {
                let hint = "leave one of them out; LLAMA_ARG_MODEL counts as -m";
                return Err(hinted("-m and -hf both name a model", hint));
            }
            (None, None) if self.hf_file.is_some() => {
                let hint = "name the repository with -hf ORG/NAME";
                return Err(hinted("-hff names a file of no repository", hint));
            }
            (path, None) => return Ok(path.clone()),
            (None, Some(reference)) => Wanted {
                repo: reference.repo.clone(),
                tag: reference.tag.clone(),
                file: self.hf_file.clone(),
                revision: Revision::default(),
            },
        };
        let pulled = self.hub.pull(&wanted, listen)?;
        Ok(pulled.files.into_iter().next().map(|file| file.path))
    }

    /// Loads a model with a progress bar on stderr.
    pub fn load(&self) -> Result<Model> {
        Self::load_with(self.open()?, &self.options()?, &mut |_, _| {})
    }

    /// Loads an opened file as [`Self::load`] does, its MTP head only if it will be used.
    pub fn load_for(&self, gguf: Arc<Gguf>, mtp: bool) -> Result<Model> {
        self.load_telling(gguf, mtp, &mut |_, _| {})
    }

    /// As [`Self::load_for`]; `listen` hears of bytes done and bytes in all.
    pub fn load_telling(
        &self,
        gguf: Arc<Gguf>,
        mtp: bool,
        listen: &mut dyn FnMut(u64, u64),
    ) -> Result<Model> {
        let options = LoadOptions {
            mtp,
            ..self.options()?
        };
        Self::load_with(gguf, &options, listen)
    }

    fn load_with(
        gguf: Arc<Gguf>,
        options: &LoadOptions,
        listen: &mut dyn FnMut(u64, u64),
    ) -> Result<Model> {
        let mut progress = LoadProgress::new();
        let model = Model::load(gguf, options, &mut |done, total| {
            progress.update(done, total);
            listen(done, total);
        })?;
        progress.finish();
        Ok(model)
    }

    fn options(&self) -> Result<LoadOptions> {
        let mut devices = devices(&self.rpc)?;
        let mut n_gpu_layers = match self.n_gpu_layers {
            GpuLayers::Auto => None,
            GpuLayers::Count(n) => Some(n),
        };
        if self.device == ["none"] {
            n_gpu_layers = Some(0);
        } else if !self.device.is_empty() {
            devices = self
                .device
                .iter()
                .map(|name| Device::by_name(name))
                .collect::<Result<_, _>>()?;
        }
        let n_cpu_moe = if self.cpu_moe {
            u32::MAX
        } else {
            self.n_cpu_moe
        };
        Ok(LoadOptions {
            devices,
            n_gpu_layers,
            n_cpu_moe,
            mmap: self.load_mode != LoadMode::None,
            mtp: true,
        })
    }
}

/// Types for keys and values that differ.
pub fn different_types() -> anyhow::Error {
    hinted(
        "-ctv differs from -ctk",
        "keys and values have one type here: choose it with -ctk, and leave out -ctv",
    )
}

impl ComputeArgs {
    /// The engine configuration these flags ask for.
    pub fn engine_config(&self) -> Result<EngineConfig> {
        if self.cache_type_v.is_some_and(|v| v != self.cache_type_k) {
            return Err(different_types());
        }
        let defaults = EngineConfig::default();
        let n_threads = chosen(self.threads).unwrap_or(defaults.n_threads);
        Ok(EngineConfig {
            n_ctx: self.ctx_size,
            n_batch: self.batch_size,
            n_ubatch: self.ubatch_size,
            n_threads,
            n_threads_batch: chosen(self.threads_batch).unwrap_or(n_threads),
            row_type: self.cache_type_k.0,
            flash_attention: match self.flash_attn {
                OnOffAuto::On => FlashAttention::On,
                OnOffAuto::Off => FlashAttention::Off,
                OnOffAuto::Auto => FlashAttention::Auto,
            },
            own_kernels: self.kernels == KernelChoice::Own,
            ..defaults
        })
    }
}

/// Reads a text file that a flag names; `-` is stdin.
pub fn read_text(path: &std::path::Path) -> Result<String> {
    let bytes = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes)
            .context("cannot read stdin")?;
        bytes
    } else {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8 text", path.display()))
}
