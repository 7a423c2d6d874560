//! `deepseek2`: DeepSeek V2, V2-Lite, V3, R1, Kimi K2 and models of their shape: MLA and experts.

use crate::ggml::RopeKind;
use crate::gguf::Gguf;
use crate::memory::MemorySpec;
use crate::model::LoadError;
use crate::model::blocks::decoder::{Block, Decoder, DecoderParams, MtpNorm};
use crate::model::blocks::ffn_layers::FfnLayers;
use crate::model::blocks::mla::{Mla, MlaParams};
use crate::model::blocks::moe::Gating;
use crate::model::blocks::moe_keys::MoeDefaults;
use crate::model::blocks::rope::{magnitude_on_scores, rope_from_keys};
use crate::model::hparams::Keys;
use crate::model::loader::Loader;
use crate::model::registry::Architecture;

/// The table line.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "deepseek2",
    title: "DeepSeek V2, V3, R1, Kimi K2: MLA, grouped MoE, MTP",
    sizes: |gguf| Ok(HyperParams::read(gguf)?.trunk.sizes()),
    load: |gguf, loader, memory| Ok(Box::new(load(gguf, loader, memory)?)),
};

struct HyperParams {
    trunk: DecoderParams,
    mla: MlaParams,
    ffn: FfnLayers,
}

fn load(
    gguf: &Gguf,
    loader: &mut Loader<'_>,
    memory: &mut MemorySpec,
) -> Result<Decoder, LoadError> {
    let hp = HyperParams::read(gguf)?;
    let block = |loader: &mut Loader<'_>, memory: &mut MemorySpec, layer: u32| {
        let mla = Mla::load(loader, memory, &hp.mla, layer);
        let ffn = hp.ffn.load(loader, layer);
        Block::load(loader, &hp.trunk, layer, Box::new(mla), ffn)
    };
    Ok(Decoder::load(loader, memory, &hp.trunk, block))
}

impl HyperParams {
    fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let keys = Keys::new(gguf, ARCHITECTURE.name);
        let temperature = keys.f32_or("attention.temperature_scale", 0.0)?;
        keys.check(
            temperature == 0.0,
            "attention.temperature_scale",
            "0: scores that grow with the position are not supported",
            temperature,
        )?;
        let trunk = DecoderParams::read(&keys, MtpNorm::SharedHead)?;
        let defaults = MoeDefaults {
            // Files of V2 from before the key existed.
            gating: Some(Gating::Softmax),
            normalise: false,
            n_shared: 0,
            n_ff: None,
        };
        let mut mla = mla_params(&keys, &trunk)?;
        // Some files of models without a latent for queries name a rank all the same.
        if gguf.tensor("blk.0.attn_q.weight").is_some() {
            mla.q_lora = None;
        }
        Ok(Self {
            mla,
            ffn: FfnLayers::moe(&keys, &trunk, &defaults)?,
            trunk,
        })
    }
}

/// Older files give the sizes of whole heads as `key_length` and `value_length`; newer ones say there what memory holds.
fn mla_params(keys: &Keys<'_>, trunk: &DecoderParams) -> Result<MlaParams, LoadError> {
    let n_head = keys.head_count()?;
    let whole = trunk.n_embd / n_head;
    let key = keys.head_width("attention.key_length", whole)?;
    let key = keys.head_width("attention.key_length_mla", key)?;
    let value = keys.head_width("attention.value_length", whole)?;
    let value = keys.head_width("attention.value_length_mla", value)?;
    let rope_dim = keys.rope_dims(key, key)?;
    keys.check(
        rope_dim < key,
        "rope.dimension_count",
        format!("less than the width of a head ({key})"),
        rope_dim,
    )?;
    let mut rope = rope_from_keys(keys, RopeKind::Norm, rope_dim, trunk.n_ctx_train)?;
    let magnitude = match magnitude_on_scores(keys, &mut rope)? {
        Some(magnitude) => magnitude,
        // llama.cpp corrects the scores of stretched contexts even where the file gives no multiplier.
        None => (rope.attn_factor * (1.0 + 0.1 * (1.0 / rope.freq_scale).ln())).powi(2),
    };
    Ok(MlaParams {
        n_embd: trunk.n_embd,
        n_head,
        q_lora: keys.extent_opt("attention.q_lora_rank")?,
        kv_lora: keys.extent("attention.kv_lora_rank")?,
        nope: key - rope_dim,
        rope_dim,
        v_dim: value,
        eps: trunk.eps,
        rope,
        scale: magnitude / (key as f32).sqrt(),
    })
}
