//! What running a model takes: where its weights would go, memory by context length, and what a token reads.

use oxling::engine::{EngineConfig, memory_needed};
use oxling::ggml::{Device, DeviceKind, devices};
use oxling::gguf::TensorInfo;
use oxling::model::loader::{LayerPlacement, Part};
use oxling::model::{Model, auto_gpu_layers};

use super::report::{
    DeviceReport, MemoryReport, ReadShare, ReadingAt, ReadingReport, Wishes, block_of,
};

/// Contexts whose memory is stated when none are named, beside that of training.
const USUAL_CONTEXTS: [u32; 3] = [4096, 32_768, 131_072];

/// The devices and what loading with default options would put on each.
pub fn placement(model: &Model) -> Vec<DeviceReport> {
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

/// Memory for each wanted context length.
pub fn memory(model: &Model, wishes: &Wishes) -> Vec<MemoryReport> {
    let contexts = contexts(model, wishes);
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
    contexts.into_iter().filter_map(report).collect()
}

fn contexts(model: &Model, wishes: &Wishes) -> Vec<u32> {
    let trained = model.sizes().n_ctx_train;
    let mut contexts = wishes.contexts.clone();
    if contexts.is_empty() {
        contexts.extend(USUAL_CONTEXTS.iter().filter(|&&n| n < trained));
        contexts.push(trained);
    }
    contexts.retain(|&n| n > 0);
    contexts
}

/// What a token of generation reads: every matrix of the trunk once, of stacked experts those a token uses, of the token
/// embedding a row. No kernel of ours or ggml's reads a weight twice for one token, or a copy in another form.
pub fn reading(
    model: &Model,
    wishes: &Wishes,
    part: impl Fn(&TensorInfo) -> &'static str,
) -> ReadingReport {
    let n_layer = model.sizes().n_layer;
    let in_trunk = |name: &str| block_of(name).is_some_and(|block| block < n_layer);
    let mut parts: Vec<ReadShare> = Vec::new();
    for tensor in model.gguf().tensors() {
        if block_of(&tensor.name).is_some() && !in_trunk(&tensor.name) {
            continue;
        }
        let (name, bytes) = (part(tensor), bytes_read(model, tensor));
        match parts.iter_mut().find(|share| share.name == name) {
            Some(share) => share.bytes += bytes,
            None => parts.push(ReadShare { name, bytes }),
        }
    }
    parts.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    let weights: u64 = parts.iter().map(|share| share.bytes).sum();
    let spec = model.memory_spec();
    let planes = spec.planes.iter().filter(|p| in_trunk(&p.name));
    let states: u64 = planes.map(|p| 2 * 4 * p.width).sum();
    let rows = spec.rows.iter().filter(|r| in_trunk(&r.name));
    let row_bytes: u64 = rows
        .filter_map(|r| wishes.row_type.row_bytes(r.width()))
        .sum();
    let at = |context: u32| {
        let rows = row_bytes * u64::from(context);
        let total = weights + states + rows;
        ReadingAt {
            context,
            rows,
            total,
            tokens_per_second: wishes.bandwidth.map(|gb| gb * 1e9 / total as f64),
        }
    };
    ReadingReport {
        contexts: contexts(model, wishes).into_iter().map(at).collect(),
        parts,
        weights,
        states,
    }
}

/// Bytes that one token reads of a tensor.
fn bytes_read(model: &Model, tensor: &TensorInfo) -> u64 {
    let extents = tensor.shape.dims();
    if tensor.name.contains("_exps.") {
        let key = format!("{}.expert_used_count", model.architecture().name);
        let used = model.gguf().metadata().u32(&key).ok().flatten();
        let n_experts = extents.last().map_or(1, |&n| n.max(1));
        let used = used.map_or(n_experts, |n| u64::from(n).min(n_experts));
        return tensor.bytes / n_experts * used;
    }
    // Without an output matrix the embedding is that, too.
    let tied = model.gguf().tensor("output.weight").is_none();
    match (tensor.name.as_str(), extents.get(1)) {
        ("token_embd.weight", Some(&n_vocab)) if !tied => tensor.bytes / n_vocab.max(1),
        _ => tensor.bytes,
    }
}
