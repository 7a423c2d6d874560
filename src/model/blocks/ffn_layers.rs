//! Which feed-forward each block has: dense ones first, experts after them.

use super::decoder::{DecoderParams, FeedForward};
use super::ffn::SwiGlu;
use super::moe::{Moe, MoeParams};
use super::moe_keys::{MoeDefaults, moe_from_keys};
use crate::model::LoadError;
use crate::model::hparams::Keys;
use crate::model::loader::Loader;

/// The feed-forwards of a decoder.
#[derive(Debug, Clone)]
pub struct FfnLayers {
    n_embd: u32,
    /// Blocks before the first one with experts.
    n_dense: u32,
    /// Width of a dense one.
    n_ff: u32,
    moe: Option<MoeParams>,
}

impl FfnLayers {
    /// Dense feed-forwards only.
    ///
    /// # Errors
    /// Their width is missing or makes no sense.
    pub fn dense(keys: &Keys<'_>, trunk: &DecoderParams) -> Result<Self, LoadError> {
        Ok(Self {
            n_embd: trunk.n_embd,
            n_dense: trunk.n_blocks(),
            n_ff: keys.extent("feed_forward_length")?,
            moe: None,
        })
    }

    /// Experts behind `leading_dense_block_count` dense blocks, 0 if the file does not say.
    ///
    /// # Errors
    /// A key is missing or makes no sense.
    pub fn moe(
        keys: &Keys<'_>,
        trunk: &DecoderParams,
        defaults: &MoeDefaults,
    ) -> Result<Self, LoadError> {
        let n_dense = keys.layers_or("leading_dense_block_count", 0)?;
        let n_dense = n_dense.min(trunk.n_layer);
        Ok(Self {
            n_embd: trunk.n_embd,
            n_dense,
            n_ff: if n_dense > 0 {
                keys.extent("feed_forward_length")?
            } else {
                0
            },
            moe: Some(moe_from_keys(keys, trunk.n_embd, defaults)?),
        })
    }

    /// The rules of the experts, if there are any.
    pub fn experts(&self) -> Option<&MoeParams> {
        self.moe.as_ref()
    }

    /// Names the tensors of block `layer`.
    pub fn load(&self, loader: &mut Loader<'_>, layer: u32) -> Box<dyn FeedForward> {
        match &self.moe {
            Some(moe) if layer >= self.n_dense => Box::new(Moe::load(loader, moe, layer)),
            _ => {
                let (n_embd, n_ff) = (u64::from(self.n_embd), u64::from(self.n_ff));
                Box::new(SwiGlu::load(loader, layer, "", n_embd, n_ff))
            }
        }
    }
}
