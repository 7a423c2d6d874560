//! `bailing_hybrid`: Ling-2.5/2.6 (flash, 1T) and Ring, BailingMoeV2_5ForCausalLM.
//!
//! Blocks of Lightning attention with every `full_attention_interval`-th one MLA, grouped sigmoid MoE after the
//! leading dense blocks, and at most one MTP block that shares embedding and output matrix with the trunk.
//! Contract of the file: `docs/bailing_hybrid.md`; formulas as in inclusionAI's modelling code and mlx-lm.

use std::path::Path;

use crate::ggml::RopeKind;
use crate::gguf::{Gguf, Metadata};
use crate::memory::MemorySpec;
use crate::model::blocks::decoder::{Block, Decoder, DecoderParams, Mixer, MtpNorm};
use crate::model::blocks::ffn_layers::FfnLayers;
use crate::model::blocks::lightning::{Lightning, LightningParams};
use crate::model::blocks::mla::{Mla, MlaParams};
use crate::model::blocks::moe::Gating;
use crate::model::blocks::moe_keys::MoeDefaults;
use crate::model::blocks::rope::{magnitude_on_scores, rope_from_keys};
use crate::model::hparams::Keys;
use crate::model::loader::Loader;
use crate::model::registry::Architecture;
use crate::model::{LoadError, TensorProblem};

/// The table line.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "bailing_hybrid",
    title: "Ling-2.5/2.6 and Ring (BailingMoeV2_5): Lightning + MLA, grouped MoE, MTP",
    sizes: |gguf| Ok(HyperParams::of(gguf)?.trunk.sizes()),
    load: |gguf, loader, memory| Ok(Box::new(load(gguf, loader, memory)?)),
};

/// Checks the hyper-parameters of a file that is still to be written, as loading it would; errors name `path`.
///
/// # Errors
/// A key that is missing, or whose value makes no sense.
pub fn check(path: &Path, metadata: &Metadata) -> Result<(), LoadError> {
    HyperParams::read(&Keys::of(path, metadata, ARCHITECTURE.name)).map(drop)
}

/// Hyper-parameters, checked.
struct HyperParams {
    trunk: DecoderParams,
    /// Whether block `i` of the trunk is MLA.
    is_mla: Vec<bool>,
    lightning: LightningParams,
    mla: MlaParams,
    ffn: FfnLayers,
}

fn load(
    gguf: &Gguf,
    loader: &mut Loader<'_>,
    memory: &mut MemorySpec,
) -> Result<Decoder, LoadError> {
    let hp = HyperParams::of(gguf)?;
    refuse_ling_3(loader)?;
    let block = |loader: &mut Loader<'_>, memory: &mut MemorySpec, layer: u32| {
        let n_layer = hp.trunk.n_layer;
        // The MTP block is MLA.
        let mixer: Box<dyn Mixer> = if hp.is_mla.get(layer as usize).copied().unwrap_or(true) {
            Box::new(Mla::load(loader, memory, &hp.mla, layer))
        } else {
            Box::new(Lightning::load(
                loader,
                memory,
                &hp.lightning,
                layer,
                n_layer,
            ))
        };
        let ffn = hp.ffn.load(loader, layer);
        Block::load(loader, &hp.trunk, layer, mixer, ffn)
    };
    Ok(Decoder::load(loader, memory, &hp.trunk, block))
}

/// Ling 3.0 files that carry this architecture's name by mistake: their layers are KDA, with convolutions.
fn refuse_ling_3(loader: &Loader<'_>) -> Result<(), LoadError> {
    let marker = "blk.0.ssm_conv1d_q.weight";
    if !loader.has(marker) {
        return Ok(());
    }
    let problem =
        "a Ling 3.0 tensor (KDA layers, architecture `bailingmoe3`), which is another model family"
            .to_owned();
    Err(LoadError::Tensors {
        path: loader.path(),
        first: TensorProblem::Content {
            name: marker.into(),
            problem,
        },
        more: 0,
    })
}

impl HyperParams {
    fn of(gguf: &Gguf) -> Result<Self, LoadError> {
        Self::read(&Keys::new(gguf, ARCHITECTURE.name))
    }

    fn read(keys: &Keys<'_>) -> Result<Self, LoadError> {
        let trunk = DecoderParams::read(keys, MtpNorm::LayerOutput)?;
        Ok(Self {
            is_mla: mla_layers(keys, trunk.n_layer, trunk.n_blocks())?,
            lightning: lightning_params(keys, &trunk)?,
            mla: mla_params(keys, &trunk)?,
            ffn: ffn_layers(keys, &trunk)?,
            trunk,
        })
    }
}

/// Lightning blocks are those whose `head_count_kv` is 0; without such a pattern, all but every n-th.
fn mla_layers(keys: &Keys<'_>, n_layer: u32, n_blocks: u32) -> Result<Vec<bool>, LoadError> {
    let interval = keys.extent_or("full_attention_interval", 8)?;
    let kv = keys
        .per_layer("attention.head_count_kv", n_blocks)?
        .unwrap_or_default();
    let trunk = kv.get(..n_layer as usize).unwrap_or_default();
    if trunk.iter().any(|&n| n != trunk[0]) {
        return Ok(trunk.iter().map(|&n| n != 0).collect());
    }
    Ok((0..n_layer).map(|i| (i + 1) % interval == 0).collect())
}

fn lightning_params(keys: &Keys<'_>, trunk: &DecoderParams) -> Result<LightningParams, LoadError> {
    let (n_embd, eps) = (trunk.n_embd, trunk.eps);
    let n_head = keys.head_count()?;
    let head_dim = keys.head_width("attention.key_length", n_embd / n_head)?;
    keys.check(
        head_dim.is_multiple_of(2),
        "attention.key_length",
        "an even number",
        head_dim,
    )?;
    let v_dim = keys.head_width("attention.value_length", head_dim)?;
    keys.check(
        v_dim == head_dim,
        "attention.value_length",
        format!("{head_dim}, as attention.key_length"),
        v_dim,
    )?;
    let n_rot = keys.rope_dims(head_dim / 2, head_dim)?;
    let norm_groups = keys.extent_or("attention.group_norm_groups", 4)?;
    keys.check(
        (n_head * head_dim).is_multiple_of(norm_groups),
        "attention.group_norm_groups",
        format!("a divisor of {}", n_head * head_dim),
        norm_groups,
    )?;
    let group_eps = keys.epsilon("attention.group_norm_epsilon", Some(eps))?;
    Ok(LightningParams {
        n_embd,
        n_head,
        head_dim,
        norm_groups,
        eps,
        group_eps,
        rope: rope_from_keys(keys, RopeKind::Neox, n_rot, trunk.n_ctx_train)?,
    })
}

/// One key serves both kinds of layer: `rope.dimension_count` is part of a Lightning head, and all of the rotary part
/// of an MLA head.
fn mla_params(keys: &Keys<'_>, trunk: &DecoderParams) -> Result<MlaParams, LoadError> {
    let n_head = keys.head_count()?;
    let head = keys.head_width("attention.key_length", trunk.n_embd / n_head)?;
    let rope_dim = keys.rope_dims(head / 2, head)?;
    let key = keys.head_width("attention.key_length_mla", head + rope_dim)?;
    keys.check(
        key > rope_dim,
        "attention.key_length_mla",
        format!("more than rope.dimension_count ({rope_dim})"),
        key,
    )?;
    let mut rope = rope_from_keys(keys, RopeKind::Norm, rope_dim, trunk.n_ctx_train)?;
    let magnitude = magnitude_on_scores(keys, &mut rope)?.unwrap_or(1.0);
    Ok(MlaParams {
        n_embd: trunk.n_embd,
        n_head,
        q_lora: keys.extent_opt("attention.q_lora_rank")?,
        kv_lora: keys.extent("attention.kv_lora_rank")?,
        nope: key - rope_dim,
        rope_dim,
        v_dim: keys.head_width("attention.value_length_mla", head)?,
        eps: trunk.eps,
        rope,
        scale: magnitude / (key as f32).sqrt(),
    })
}

fn ffn_layers(keys: &Keys<'_>, trunk: &DecoderParams) -> Result<FfnLayers, LoadError> {
    let defaults = MoeDefaults {
        gating: Some(Gating::Sigmoid),
        normalise: true,
        n_shared: 1,
        n_ff: None,
    };
    let ffn = FfnLayers::moe(keys, trunk, &defaults)?;
    let gating = ffn.experts().map_or(Gating::Sigmoid, |moe| moe.gating);
    keys.check(
        gating == Gating::Sigmoid,
        "expert_gating_func",
        "2 (sigmoid)",
        gating,
    )?;
    Ok(ffn)
}
