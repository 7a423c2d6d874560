//! `llama`: Llama 1 to 3, Mistral, TinyLlama and the many models of their shape; with experts, Mixtral.

use crate::ggml::RopeKind;
use crate::gguf::Gguf;
use crate::model::LoadError;
use crate::model::blocks::decoder::{DecoderParams, MtpNorm};
use crate::model::blocks::ffn_layers::FfnLayers;
use crate::model::blocks::gqa::GqaParams;
use crate::model::blocks::gqa_decoder::GqaDecoder;
use crate::model::blocks::moe::Gating;
use crate::model::blocks::moe_keys::MoeDefaults;
use crate::model::hparams::Keys;
use crate::model::registry::Architecture;

/// The table line.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "llama",
    title: "Llama 1 to 3, Mistral, TinyLlama, Mixtral",
    sizes: |gguf| Ok(read(gguf)?.trunk.sizes()),
    load: |gguf, loader, memory| Ok(read(gguf)?.load(loader, memory)),
};

fn read(gguf: &Gguf) -> Result<GqaDecoder, LoadError> {
    let keys = Keys::new(gguf, ARCHITECTURE.name);
    let trunk = DecoderParams::read(&keys, MtpNorm::SharedHead)?;
    let ffn = if keys.extent_opt("expert_count")?.is_some() {
        let defaults = MoeDefaults {
            gating: Some(Gating::Softmax),
            normalise: true,
            n_shared: 0,
            n_ff: Some(keys.extent("feed_forward_length")?),
        };
        FfnLayers::moe(&keys, &trunk, &defaults)?
    } else {
        FfnLayers::dense(&keys, &trunk)?
    };
    Ok(GqaDecoder {
        attention: GqaParams::read(&keys, &trunk, RopeKind::Norm, false)?,
        ffn,
        trunk,
    })
}
