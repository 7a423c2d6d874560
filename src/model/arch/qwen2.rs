//! `qwen2`: Qwen 2 and 2.5, which have biases on queries, keys and values.

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
    name: "qwen2",
    title: "Qwen 2 and 2.5",
    sizes: |gguf| Ok(read(gguf)?.trunk.sizes()),
    load: |gguf, loader, memory| Ok(read(gguf)?.load(loader, memory)),
};

fn read(gguf: &Gguf) -> Result<GqaDecoder, LoadError> {
    let keys = Keys::new(gguf, ARCHITECTURE.name);
    let trunk = DecoderParams::read(&keys, MtpNorm::SharedHead)?;
    Ok(GqaDecoder {
        attention: GqaParams::read(&keys, &trunk, RopeKind::Neox, false)?,
        ffn: FfnLayers::dense(&keys, &trunk)?,
        trunk,
    })
}
