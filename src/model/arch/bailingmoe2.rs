//! `bailingmoe2`: Ling 2.0 and Ring 2.0 (mini, flash, 1T): grouped sigmoid routing, part of each head rotates, an MTP block.

use crate::ggml::RopeKind;
use crate::gguf::Gguf;
use crate::model::LoadError;
use crate::model::blocks::decoder::{DecoderParams, MtpNorm};
use crate::model::blocks::ffn_layers::FfnLayers;
use crate::model::blocks::gqa::GqaParams;
use crate::model::blocks::gqa_decoder::GqaDecoder;
use crate::model::blocks::moe_keys::MoeDefaults;
use crate::model::hparams::Keys;
use crate::model::registry::Architecture;

/// The table line.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "bailingmoe2",
    title: "Ling 2.0 and Ring 2.0 (BailingMoeV2): grouped MoE, MTP",
    sizes: |gguf| Ok(read(gguf)?.trunk.sizes()),
    load: |gguf, loader, memory| Ok(read(gguf)?.load(loader, memory)),
};

fn read(gguf: &Gguf) -> Result<GqaDecoder, LoadError> {
    let keys = Keys::new(gguf, ARCHITECTURE.name);
    let trunk = DecoderParams::read(&keys, MtpNorm::LayerOutput)?;
    let defaults = MoeDefaults {
        gating: None,
        normalise: false,
        n_shared: 1,
        n_ff: None,
    };
    Ok(GqaDecoder {
        attention: GqaParams::read(&keys, &trunk, RopeKind::Neox, true)?,
        ffn: FfnLayers::moe(&keys, &trunk, &defaults)?,
        trunk,
    })
}
