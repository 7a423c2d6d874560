//! `qwen3moe`: the models of Qwen 3 with experts (30B-A3B, 235B-A22B).

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
    name: "qwen3moe",
    title: "Qwen 3, mixture of experts",
    sizes: |gguf| Ok(read(gguf)?.trunk.sizes()),
    load: |gguf, loader, memory| Ok(read(gguf)?.load(loader, memory)),
};

fn read(gguf: &Gguf) -> Result<GqaDecoder, LoadError> {
    let keys = Keys::new(gguf, ARCHITECTURE.name);
    let trunk = DecoderParams::read(&keys, MtpNorm::SharedHead)?;
    // Without a width of their own, the experts of a token are as wide together as a dense feed-forward.
    let n_used = keys.extent("expert_used_count")?;
    let n_ff = keys.extent_opt("feed_forward_length")?;
    let defaults = MoeDefaults {
        gating: Some(Gating::Softmax),
        normalise: true,
        n_shared: 0,
        n_ff: n_ff.map(|n| n / n_used).filter(|&n| n > 0),
    };
    Ok(GqaDecoder {
        attention: GqaParams::read(&keys, &trunk, RopeKind::Neox, true)?,
        ffn: FfnLayers::moe(&keys, &trunk, &defaults)?,
        trunk,
    })
}
