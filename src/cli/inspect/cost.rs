//! What running a model takes: where its weights would go, and memory by context length.

use oxling::engine::{EngineConfig, memory_needed};
use oxling::ggml::{Device, DeviceKind, devices};
use oxling::model::loader::{LayerPlacement, Part};
use oxling::model::{Model, auto_gpu_layers};

use super::report::{DeviceReport, MemoryReport, Wishes, block_of};

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
