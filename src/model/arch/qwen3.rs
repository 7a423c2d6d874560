//! `qwen3`: the dense models of Qwen 3, which norm queries and keys.

use crate::ggml::RopeKind;
use crate::gguf::Gguf;
use crate::model::LoadError;
use crate::model::blocks::decoder::{DecoderParams, MtpNorm};
use crate::model::blocks::ffn_layers::FfnLayers;
use crate::model::blocks::gqa::GqaParams;
use crate::model::blocks::gqa_decoder::GqaDecoder;
use crate::model::hparams::Keys;
use crate::model::registry::Architecture;

/// The table line.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "qwen3",
    title: "Qwen 3, dense",
    sizes: |gguf| Ok(read(gguf)?.trunk.sizes()),
    load: |gguf, loader, memory| Ok(read(gguf)?.load(loader, memory)),
};

fn read(gguf: &Gguf) -> Result<GqaDecoder, LoadError> {
    let keys = Keys::new(gguf, ARCHITECTURE.name);
    let trunk = DecoderParams::read(&keys, MtpNorm::SharedHead)?;
    Ok(GqaDecoder {
        attention: GqaParams::read(&keys, &trunk, RopeKind::Neox, true)?,
        ffn: FfnLayers::dense(&keys, &trunk)?,
        trunk,
    })
}
