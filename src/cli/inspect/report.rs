//! What there is to say about a file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use oxling::ggml::DType;
use oxling::gguf::{Gguf, TensorInfo};
use oxling::model::{ARCHITECTURES, LoadError, LoadOptions, Model};
use oxling::planes::PlaneLayout;
use oxling::tokenizer::Tokenizer;
use serde::Serialize;

use super::cost::{memory, placement, reading};
use super::values::entry;

/// What to work out beside the file itself.
pub struct Wishes {
    pub contexts: Vec<u32>,
    pub n_seq: u32,
    pub row_type: DType,
    /// GB/s.
    pub bandwidth: Option<f64>,
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
    pub reading: Option<ReadingReport>,
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

/// What one token of generation reads of the model and of memory, by one sequence without guesses ahead.
#[derive(Serialize)]
pub struct ReadingReport {
    /// Weights, by part of the model.
    pub parts: Vec<ReadShare>,
    /// All weights.
    pub weights: u64,
    /// Recurrent states, read and written.
    pub states: u64,
    pub contexts: Vec<ReadingAt>,
}

/// Bytes that a token reads of a part of the model.
#[derive(Serialize)]
pub struct ReadShare {
    pub name: &'static str,
    pub bytes: u64,
}

/// What a token reads with so many in memory.
#[derive(Serialize)]
pub struct ReadingAt {
    pub context: u32,
    /// Attention rows.
    pub rows: u64,
    pub total: u64,
    /// At most, if reading were all.
    pub tokens_per_second: Option<f64>,
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
        // A broken declaration keeps the model from loading, which is reported as such.
        let planes = PlaneLayout::of(gguf).unwrap_or_default();
        let parameters = gguf.tensors().iter().map(|t| planes.n_weights(t)).sum();
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
            types: shares(gguf, &planes, |t| type_of(t, &planes)),
            parts: shares(gguf, &planes, |t| part_of(&t.name, first_mtp)),
            devices: loaded.as_ref().map(placement).unwrap_or_default(),
            memory: loaded
                .as_ref()
                .map(|model| memory(model, wishes))
                .unwrap_or_default(),
            reading: loaded
                .as_ref()
                .ok()
                .map(|model| reading(model, wishes, |t| part_of(&t.name, first_mtp))),
            metadata: gguf
                .metadata()
                .iter()
                .map(|(key, value)| entry(key, value, wishes.full))
                .collect(),
            tensors: gguf.tensors().iter().map(|t| tensor(t, &planes)).collect(),
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
            .filter_map(|r| wishes.row_type.row_bytes(r.width()))
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
fn shares(
    gguf: &Gguf,
    planes: &PlaneLayout,
    name: impl Fn(&TensorInfo) -> &'static str,
) -> Vec<Share> {
    let mut all: BTreeMap<String, Share> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let share = all.entry(name(tensor).to_owned()).or_default();
        share.tensors += 1;
        share.parameters += planes.n_weights(tensor);
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
        None if name.starts_with("planes.signs.") => "experts",
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

/// The block a tensor belongs to.
pub fn block_of(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// A tensor's type, and whether it holds planes.
fn type_of(info: &TensorInfo, planes: &PlaneLayout) -> &'static str {
    if planes.contains(&info.name) {
        "Q1_0 planes"
    } else {
        info.ty.name()
    }
}

fn tensor(info: &TensorInfo, planes: &PlaneLayout) -> TensorReport {
    TensorReport {
        name: info.name.clone(),
        ty: type_of(info, planes),
        shape: info.shape.dims().to_vec(),
        bytes: info.bytes,
        bits_per_weight: bits(info.bytes, planes.n_weights(info)),
        file: info.shard,
        offset: info.offset,
    }
}
