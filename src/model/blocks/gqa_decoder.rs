//! Decoders whose every block is grouped-query attention: what their architectures differ in is a few parameters.

use super::decoder::{Block, Decoder, DecoderParams};
use super::ffn_layers::FfnLayers;
use super::gqa::{Gqa, GqaParams};
use crate::memory::MemorySpec;
use crate::model::loader::Loader;
use crate::model::registry::Network;

/// Hyper-parameters of such a decoder.
#[derive(Debug, Clone)]
pub struct GqaDecoder {
    /// Sizes.
    pub trunk: DecoderParams,
    /// Every block's attention.
    pub attention: GqaParams,
    /// The blocks' feed-forwards.
    pub ffn: FfnLayers,
}

impl GqaDecoder {
    /// Names all tensors and memory.
    pub fn load(&self, loader: &mut Loader<'_>, memory: &mut MemorySpec) -> Box<dyn Network> {
        let block = |loader: &mut Loader<'_>, memory: &mut MemorySpec, layer: u32| {
            let attention = Gqa::load(loader, memory, &self.attention, layer);
            let ffn = self.ffn.load(loader, layer);
            Block::load(loader, &self.trunk, layer, Box::new(attention), ffn)
        };
        Box::new(Decoder::load(loader, memory, &self.trunk, block))
    }
}
