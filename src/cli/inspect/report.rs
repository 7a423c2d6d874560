//! What there is to say about a file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use oxling::engine::{EngineConfig, memory_needed};
use oxling::ggml::{DType, Device, DeviceKind, devices};
use oxling::gguf::{Array, Gguf, TensorInfo, Value};
use oxling::model::loader::{LayerPlacement, Part};
use oxling::model::{ARCHITECTURES, LoadError, LoadOptions, Model, auto_gpu_layers};
use oxling::tokenizer::Tokenizer;
use serde::Serialize;
use serde_json::json;

/// Elements of a long array, and characters of a long text, that are shown.
const SHOWN_ELEMENTS: usize = 8;
const SHOWN_CHARS: usize = 96;
/// Contexts whose memory is stated when none are named, beside that of training.
const USUAL_CONTEXTS: [u32; 3] = [4096, 32_768, 131_072];

/// What to work out beside the file itself.
pub struct Wishes {
    pub contexts: Vec<u32>,
    pub n_seq: u32,
    pub row_type: DType,
    pub full: bool,
}

/// Everything that is printed.
#[derive(Serialize)]
pub struct Report {
    pub name: Option<String>,
    pub architecture: Option<String>,
    pub files: Vec<FileReport>,
    pub alignment: u32,
    pub n_tensors: usize,
    pub parameters: u64,
    pub bytes: u64,
    pub bits_per_weight: f64,
    pub runs: Verdict,
    pub sizes: Option<SizesReport>,
    pub tokenizer: Option<TokenizerReport>,
    pub types: Vec<Share>,
    pub parts: Vec<Share>,
    pub devices: Vec<DeviceReport>,
    pub memory: Vec<MemoryReport>,
    pub metadata: Vec<Entry>,
    pub tensors: Vec<TensorReport>,
}

/// One file of the model.
#[derive(Serialize)]
pub struct FileReport {
    pub path: PathBuf,
    pub bytes: u64,
}

/// Whether the model runs.
#[derive(Serialize)]
pub struct Verdict {
    /// `yes`, `vocabulary only`, `unsupported` or `no`.
    pub status: &'static str,
    /// What the architecture is, or why the model does not run.
    pub detail: String,
    pub hint: Option<String>,
}

/// Main sizes.
#[derive(Serialize)]
pub struct SizesReport {
    pub n_layer: u32,
    pub n_embd: u32,
    pub n_vocab: u32,
    pub n_ctx_train: u32,
    /// Whether an MTP head is in the file.
    pub mtp: bool,
    /// Attention memory of one token, in bytes of the wanted type.
    pub bytes_per_token: u64,
    /// Recurrent state of one sequence.
    pub bytes_per_sequence: u64,
}

/// The tokenizer.
#[derive(Serialize)]
pub struct TokenizerReport {
    pub kind: Option<&'static str>,
    pub pre: Option<String>,
    pub n_vocab: Option<usize>,
    pub error: Option<String>,
}

/// Tensors of one type or in one part of the model.
#[derive(Serialize, Default)]
pub struct Share {
    pub name: String,
    pub tensors: usize,
    pub parameters: u64,
    pub bytes: u64,
}

/// A device and what would be on it.
#[derive(Serialize)]
pub struct DeviceReport {
    pub name: String,
    pub description: String,
    pub memory_free: u64,
    pub memory_total: u64,
    pub blocks: u32,
    pub output: bool,
    pub bytes: u64,
}

/// Memory for one context length.
#[derive(Serialize)]
pub struct MemoryReport {
    pub context: u32,
    pub sequences: u32,
    pub row_type: &'static str,
    pub rows: u64,
    pub states: u64,
    pub weights: u64,
    pub total: u64,
}

/// A metadata entry.
#[derive(Serialize)]
pub struct Entry {
    pub key: String,
    #[serde(rename = "type")]
    pub ty: &'static str,
    pub value: serde_json::Value,
    #[serde(skip)]
    pub text: String,
}

/// A tensor.
#[derive(Serialize)]
pub struct TensorReport {
    pub name: String,
    #[serde(rename = "type")]
    pub ty: &'static str,
    pub shape: Vec<u64>,
    pub bytes: u64,
    pub bits_per_weight: f64,
    pub file: usize,
    pub offset: u64,
}

/// Bits of storage per weight.
fn bits(bytes: u64, parameters: u64) -> f64 {
    if parameters == 0 {
        0.0
    } else {
        bytes as f64 * 8.0 / parameters as f64
    }
}

impl Report {
    /// Looks at a file.
    pub fn of(gguf: &Arc<Gguf>, wishes: &Wishes) -> Self {
        let text = |key| gguf.metadata().str(key).ok().flatten().map(str::to_owned);
        let parameters = gguf.tensors().iter().map(|t| t.shape.elements()).sum();
        let bytes = gguf.tensors().iter().map(|t| t.bytes).sum();
        // On the CPU, from the mapped file: every check of loading, and no weight is read.
        let options = LoadOptions {
            n_gpu_layers: Some(0),
            ..LoadOptions::default()
        };
        let loaded = Model::load(Arc::clone(gguf), &options, &mut |_, _| ());
        let first_mtp = first_mtp_block(gguf);
        Self {
            name: text("general.name"),
            architecture: text("general.architecture"),
            files: gguf
                .shards()
                .iter()
                .map(|s| FileReport {
                    path: s.path().to_owned(),
                    bytes: s.bytes().len() as u64,
                })
                .collect(),
            alignment: gguf.alignment(),
            n_tensors: gguf.tensors().len(),
            parameters,
            bytes,
            bits_per_weight: bits(bytes, parameters),
            sizes: loaded.as_ref().ok().map(|model| sizes(model, wishes)),
            tokenizer: tokenizer(gguf),
            types: shares(gguf, |t| t.ty.name().to_owned()),
            parts: shares(gguf, |t| part_of(&t.name, first_mtp).to_owned()),
            devices: loaded.as_ref().map(placement).unwrap_or_default(),
            memory: loaded
                .as_ref()
                .map(|model| memory(model, wishes))
                .unwrap_or_default(),
            metadata: gguf
                .metadata()
                .iter()
                .map(|(key, value)| entry(key, value, wishes.full))
                .collect(),
            tensors: gguf.tensors().iter().map(tensor).collect(),
            runs: verdict(gguf, loaded.err()),
        }
    }
}

fn verdict(gguf: &Gguf, error: Option<LoadError>) -> Verdict {
    let arch = gguf.metadata().str("general.architecture").ok().flatten();
    let Some(error) = error else {
        let title = ARCHITECTURES
            .iter()
            .find(|a| Some(a.name) == arch)
            .map(|a| a.title);
        return Verdict {
            status: "yes",
            detail: title.unwrap_or_default().to_owned(),
            hint: None,
        };
    };
    let status = match &error {
        _ if gguf.tensors().is_empty() => "vocabulary only",
        LoadError::Architecture { .. } => "unsupported",
        _ => "no",
    };
    Verdict {
        status,
        detail: error.to_string(),
        hint: error.hint(),
    }
}

fn sizes(model: &Model, wishes: &Wishes) -> SizesReport {
    let (sizes, spec) = (model.sizes(), model.memory_spec());
    SizesReport {
        n_layer: sizes.n_layer,
        n_embd: sizes.n_embd,
        n_vocab: model.n_vocab(),
        n_ctx_train: sizes.n_ctx_train,
        mtp: model.network().has_mtp(),
        bytes_per_token: spec
            .rows
            .iter()
            .filter_map(|r| wishes.row_type.row_bytes(r.width))
            .sum(),
        bytes_per_sequence: spec.planes.iter().map(|p| p.width * 4).sum(),
    }
}

fn tokenizer(gguf: &Gguf) -> Option<TokenizerReport> {
    gguf.metadata().get("tokenizer.ggml.model")?;
    Some(match Tokenizer::from_metadata(gguf.metadata()) {
        Ok(t) => TokenizerReport {
            kind: Some(t.kind()),
            pre: Some(t.pre().to_owned()),
            n_vocab: Some(t.n_vocab()),
            error: None,
        },
        Err(e) => TokenizerReport {
            kind: None,
            pre: None,
            n_vocab: None,
            error: Some(e.to_string()),
        },
    })
}

/// Sums of tensors under a name, largest first.
fn shares(gguf: &Gguf, name: impl Fn(&TensorInfo) -> String) -> Vec<Share> {
    let mut all: BTreeMap<String, Share> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let share = all.entry(name(tensor)).or_default();
        share.tensors += 1;
        share.parameters += tensor.shape.elements();
        share.bytes += tensor.bytes;
    }
    let mut all: Vec<Share> = all
        .into_iter()
        .map(|(name, share)| Share { name, ..share })
        .collect();
    all.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    all
}

/// Index of the first block that belongs to an MTP head.
fn first_mtp_block(gguf: &Gguf) -> Option<u32> {
    let arch = gguf.metadata().str("general.architecture").ok().flatten()?;
    let key = |name: &str| {
        gguf.metadata()
            .u32(&format!("{arch}.{name}"))
            .ok()
            .flatten()
    };
    key("block_count")?.checked_sub(key("nextn_predict_layers").filter(|&n| n > 0)?)
}

/// The part of a model a tensor belongs to, by the naming rules of GGUF, which all architectures share.
fn part_of(name: &str, first_mtp: Option<u32>) -> &'static str {
    let block = block_of(name);
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    match block {
        Some(i) if first_mtp.is_some_and(|first| i >= first) => "MTP head",
        None if name.starts_with("token_embd") => "token embedding",
        None if name.starts_with("output") => "output",
        None => "other",
        _ if has(&["_exps."]) => "experts",
        _ if has(&["_shexp."]) => "shared experts",
        _ if has(&["ffn_gate_inp", "exp_probs_b"]) => "routers",
        _ if has(&["norm"]) => "norms",
        _ if has(&[".attn_", ".ssm_"]) => "attention",
        _ if has(&[".ffn_"]) => "dense feed-forward",
        _ => "other",
    }
}

fn block_of(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// The devices and what loading with default options would put on each.
fn placement(model: &Model) -> Vec<DeviceReport> {
    let Ok(cpu) = Device::cpu() else {
        return Vec::new();
    };
    let gpus: Vec<Device> = devices().into_iter().filter(Device::is_gpu).collect();
    let n_blocks = model.sizes().n_layer + u32::from(model.network().has_mtp());
    let n_gpu_layers = auto_gpu_layers(model.gguf(), &gpus, n_blocks);
    let placement = LayerPlacement::new(cpu, &gpus, n_blocks, n_gpu_layers);
    let mut all: Vec<DeviceReport> = devices()
        .into_iter()
        .filter(|d| d.kind() != DeviceKind::Accelerator)
        .map(|device| {
            let (memory_free, memory_total) = device.memory();
            DeviceReport {
                name: device.name(),
                description: device.description(),
                memory_free,
                memory_total,
                blocks: (0..n_blocks)
                    .filter(|&i| placement.device(Part::Layer(i)) == device)
                    .count() as u32,
                output: placement.device(Part::Output) == device,
                bytes: 0,
            }
        })
        .collect();
    for tensor in model.gguf().tensors() {
        let part = match block_of(&tensor.name) {
            Some(i) => Part::Layer(i),
            None if tensor.name.starts_with("output") => Part::Output,
            None => Part::Input,
        };
        let name = placement.device(part).name();
        if let Some(device) = all.iter_mut().find(|d| d.name == name) {
            device.bytes += tensor.bytes;
        }
    }
    all
}

fn memory(model: &Model, wishes: &Wishes) -> Vec<MemoryReport> {
    let trained = model.sizes().n_ctx_train;
    let mut contexts = wishes.contexts.clone();
    if contexts.is_empty() {
        contexts.extend(USUAL_CONTEXTS.iter().filter(|&&n| n < trained));
        contexts.push(trained);
    }
    let weights = model.n_bytes();
    let states: u64 = model
        .memory_spec()
        .planes
        .iter()
        .map(|p| p.width * 4)
        .sum::<u64>()
        * (u64::from(wishes.n_seq) + 1);
    let report = |context: u32| {
        let config = EngineConfig {
            n_ctx: context,
            n_seq: wishes.n_seq,
            row_type: wishes.row_type,
            ..EngineConfig::default()
        };
        let all = memory_needed(model, &config)?;
        Some(MemoryReport {
            context,
            sequences: wishes.n_seq,
            row_type: wishes.row_type.name(),
            rows: all.saturating_sub(states),
            states,
            weights,
            total: all + weights,
        })
    };
    contexts
        .into_iter()
        .filter(|&n| n > 0)
        .filter_map(report)
        .collect()
}

fn tensor(info: &TensorInfo) -> TensorReport {
    TensorReport {
        name: info.name.clone(),
        ty: info.ty.name(),
        shape: info.shape.dims().to_vec(),
        bytes: info.bytes,
        bits_per_weight: bits(info.bytes, info.shape.elements()),
        file: info.shard,
        offset: info.offset,
    }
}

fn entry(key: &str, value: &Value, full: bool) -> Entry {
    let (json, text) = match value {
        Value::Array(array) => {
            let limit = if full { usize::MAX } else { SHOWN_ELEMENTS };
            let shown: Vec<serde_json::Value> = elements(array, limit);
            let mut text = shown
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ");
            if array.len() > shown.len() {
                text.push_str(", ...");
                (
                    json!({ "length": array.len(), "first": shown }),
                    format!("[{text}] {} in all", array.len()),
                )
            } else {
                (json!(shown), format!("[{text}]"))
            }
        }
        scalar => {
            let json = to_json(scalar);
            let mut text = json.to_string();
            if !full && text.chars().count() > SHOWN_CHARS {
                let whole = text.len();
                text = text.chars().take(SHOWN_CHARS).collect();
                text.push_str(&format!("...\" {whole} bytes"));
            }
            (json, text)
        }
    };
    Entry {
        key: key.to_owned(),
        ty: value.type_name(),
        value: json,
        text,
    }
}

/// The first elements of an array.
fn elements(array: &Array, limit: usize) -> Vec<serde_json::Value> {
    macro_rules! each {
        ($($variant:ident),*) => {
            match array {
                $(Array::$variant(v) => v.iter().take(limit).map(|e| to_json(&Value::$variant(e.clone()))).collect(),)*
            }
        };
    }
    each!(
        U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64
    )
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(b) => json!(b),
        Value::String(s) => json!(s.to_string()),
        Value::Array(array) => json!(elements(array, usize::MAX)),
        // The shortest decimal form, not that of the f64 behind it.
        Value::F32(f) => f
            .to_string()
            .parse::<f64>()
            .map_or(json!(f.to_string()), |f| json!(f)),
        Value::F64(f) => json!(f),
        Value::U64(n) => json!(n),
        other => other
            .as_integer()
            .and_then(|n| i64::try_from(n).ok())
            .map_or(json!(null), |n| json!(n)),
    }
}
