//! The decoder that most architectures are: blocks of a token mixer and a feed-forward, each behind a norm and beside
//! the residual stream, then a norm and the output matrix; and at most one MTP block that shares embedding and output.

use crate::ggml::{GraphError, Tensor};
use crate::memory::{CellSpec, MemorySpec, PlaneSpec};
use crate::model::LoadError;
use crate::model::hparams::Keys;
use crate::model::loader::{Loader, Part, Role, WeightId};
use crate::model::registry::{Network, Outputs, Sizes};
use crate::model::step::{Mask, Step};

/// Where the MTP block finds the hidden state of the token before a step.
const CARRIED_HIDDEN: &str = "mtp.hidden";

/// Where it finds its own hidden state of the guess before.
const DRAFTED_HIDDEN: &str = "mtp.draft";

/// With few outputs in a larger step, their last feed-forward is computed apart from the MTP head's rows: so it is the
/// same computation as without the head, and costs little.
const FEW_OUTPUTS: usize = 8;

/// The whole vocabulary.
const ALL: i64 = i64::MAX;

/// Context of training when the file does not say.
const DEFAULT_CONTEXT: u32 = 4096;

/// What lets tokens look at those before them.
pub trait Mixer: Send + Sync {
    /// `x` is the normed block input `{n_embd, tokens}`; gives what is added to the residual. Memory is written.
    fn build<'g>(
        &self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
        mask: Mask,
    ) -> Result<Tensor<'g>, GraphError>;

    /// Only writes what later tokens will look at: rows or state.
    fn remember<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<(), GraphError>;
}

/// What is applied to each token alone.
pub trait FeedForward: Send + Sync {
    /// `x` is the normed stream `{n_embd, tokens}`; gives what is added to the residual.
    fn build<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<Tensor<'g>, GraphError>;
}

/// Which final norm an MTP block has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtpNorm {
    /// `layer_output_norm`, as in the Ling family.
    LayerOutput,
    /// `nextn.shared_head_norm`, as in DeepSeek's; the trunk's if there is none.
    SharedHead,
}

/// Sizes of a decoder.
#[derive(Debug, Clone)]
pub struct DecoderParams {
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Blocks of the trunk.
    pub n_layer: u32,
    /// MTP blocks behind them that the file announces: 0 or 1.
    pub n_mtp: u32,
    /// Context length of training.
    pub n_ctx_train: u32,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Final norm of the MTP block.
    pub mtp_norm: MtpNorm,
}

impl DecoderParams {
    /// Reads and checks the keys that all decoders share.
    ///
    /// # Errors
    /// A key is missing or makes no sense.
    pub fn read(keys: &Keys<'_>, mtp_norm: MtpNorm) -> Result<Self, LoadError> {
        let n_mtp = keys.layers_or("nextn_predict_layers", 0)?;
        keys.check(n_mtp <= 1, "nextn_predict_layers", "0 or 1", n_mtp)?;
        let n_blocks = keys.layers("block_count")?;
        keys.check(
            n_blocks > n_mtp,
            "block_count",
            "more blocks than MTP blocks",
            n_blocks,
        )?;
        Ok(Self {
            n_embd: keys.extent("embedding_length")?,
            n_layer: n_blocks - n_mtp,
            n_mtp,
            n_ctx_train: keys.extent_or("context_length", DEFAULT_CONTEXT)?,
            eps: keys.epsilon("attention.layer_norm_rms_epsilon", None)?,
            mtp_norm,
        })
    }

    /// Blocks in the file.
    pub fn n_blocks(&self) -> u32 {
        self.n_layer + self.n_mtp
    }

    /// The same for the table of architectures.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            n_embd: self.n_embd,
            n_layer: self.n_layer,
            n_mtp: self.n_mtp,
            n_ctx_train: self.n_ctx_train,
        }
    }
}

/// One block: `x += mixer(norm x)`, `x += ffn(norm x)`.
pub struct Block {
    attn_norm: WeightId,
    mixer: Box<dyn Mixer>,
    ffn_norm: WeightId,
    ffn: Box<dyn FeedForward>,
    eps: f32,
}

impl Block {
    /// Names the norms of block `layer` around its parts.
    pub fn load(
        loader: &mut Loader<'_>,
        params: &DecoderParams,
        layer: u32,
        mixer: Box<dyn Mixer>,
        ffn: Box<dyn FeedForward>,
    ) -> Self {
        let mut norm = |name: &str| {
            let name = format!("blk.{layer}.{name}.weight");
            let shape = [u64::from(params.n_embd)];
            loader.tensor(Part::Layer(layer), &name, &shape, Role::Vector)
        };
        Self {
            attn_norm: norm("attn_norm"),
            mixer,
            ffn_norm: norm("ffn_norm"),
            ffn,
            eps: params.eps,
        }
    }

    fn mix<'g>(
        &self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
        mask: Mask,
    ) -> Result<Tensor<'g>, GraphError> {
        let mixed = self
            .mixer
            .build(s, s.norm(self.attn_norm, x, self.eps)?, mask)?;
        s.g().add(x, mixed)
    }

    fn feed<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<Tensor<'g>, GraphError> {
        let fed = self.ffn.build(s, s.norm(self.ffn_norm, x, self.eps)?)?;
        s.g().add(x, fed)
    }

    fn remember<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<(), GraphError> {
        self.mixer.remember(s, s.norm(self.attn_norm, x, self.eps)?)
    }
}

/// The head that predicts the token after the next.
struct Mtp {
    /// Its own embedding, if it does not share the trunk's.
    embd: Option<WeightId>,
    embd_norm: WeightId,
    hidden_norm: WeightId,
    merge: WeightId,
    block: Block,
    /// Its own final norm, if it does not share the trunk's.
    out_norm: Option<WeightId>,
    /// Its own output matrix, if it does not share the trunk's.
    out: Option<WeightId>,
    eps: f32,
}

/// The network.
pub struct Decoder {
    eps: f32,
    embd: WeightId,
    blocks: Vec<Block>,
    out_norm: WeightId,
    out: WeightId,
    out_bias: Option<WeightId>,
    mtp: Option<Mtp>,
}

impl Decoder {
    /// Names all tensors; `block` names those of one block, the trunk's in order and then the MTP block's.
    pub fn load(
        loader: &mut Loader<'_>,
        memory: &mut MemorySpec,
        params: &DecoderParams,
        mut block: impl FnMut(&mut Loader<'_>, &mut MemorySpec, u32) -> Block,
    ) -> Self {
        let n_embd = u64::from(params.n_embd);
        // The vocabulary is as large as the embedding table; the tokenizer is checked against it by the caller.
        let n_vocab = loader
            .shape("token_embd.weight")
            .and_then(|s| s.get(1).copied())
            .unwrap_or(0);
        let table = [n_embd, n_vocab];
        let embd = loader.tensor(Part::Input, "token_embd.weight", &table, Role::Embedding);
        let blocks = (0..params.n_layer)
            .map(|layer| block(loader, memory, layer))
            .collect();
        let out_norm = loader.tensor(Part::Output, "output_norm.weight", &[n_embd], Role::Vector);
        let out = loader
            .optional(Part::Output, "output.weight", &table, Role::Matrix)
            .unwrap_or(embd);
        let out_bias = loader.optional(Part::Output, "output.bias", &[n_vocab], Role::Vector);
        let in_file = params.n_mtp == 1
            && loader.has(&format!("blk.{}.nextn.eh_proj.weight", params.n_layer));
        let mtp = (in_file && loader.wants_mtp()).then(|| {
            let block = block(loader, memory, params.n_layer);
            Mtp::load(loader, memory, params, n_vocab, block)
        });
        Self {
            eps: params.eps,
            embd,
            blocks,
            out_norm,
            out,
            out_bias,
            mtp,
        }
    }

    /// Logits of normed hidden states, for the first `n_vocab` tokens.
    fn logits<'g>(
        &self,
        s: &Step<'g, '_>,
        hidden: Tensor<'g>,
        n_vocab: i64,
    ) -> Result<Tensor<'g>, GraphError> {
        let logits = s.linear_first(self.out, hidden, n_vocab)?;
        match self.out_bias {
            Some(bias) => {
                let bias = s.g().columns(s.weight(bias)?, 0, logits.ne()[0])?;
                s.g().add(logits, bias)
            }
            None => Ok(logits),
        }
    }

    /// Logits of the columns that are wanted, if any are.
    fn wanted_logits<'g>(
        &self,
        s: &Step<'g, '_>,
        hidden: Tensor<'g>,
    ) -> Result<Option<Tensor<'g>>, GraphError> {
        let rows = s.output_rows(hidden)?;
        rows.map(|rows| self.logits(s, rows, ALL)).transpose()
    }

    /// The MTP head's hidden state, normed, of what [`Mtp::pair`] gives.
    fn guess<'g>(
        &self,
        s: &Step<'g, '_>,
        mtp: &Mtp,
        pair: Tensor<'g>,
    ) -> Result<Tensor<'g>, GraphError> {
        let x = mtp.block.mix(s, pair, Mask::FromSecond)?;
        let x = mtp.block.feed(s, x)?;
        s.norm(mtp.out_norm.unwrap_or(self.out_norm), x, self.eps)
    }

    /// The MTP head's logits of normed hidden states, for the first `n_vocab` tokens.
    fn guessed_logits<'g>(
        &self,
        s: &Step<'g, '_>,
        mtp: &Mtp,
        hidden: Tensor<'g>,
        n_vocab: i64,
    ) -> Result<Tensor<'g>, GraphError> {
        match mtp.out {
            Some(own) => s.linear_first(own, hidden, n_vocab),
            None => self.logits(s, hidden, n_vocab),
        }
    }

    /// The tokens' embeddings as the MTP head sees them.
    fn mtp_embeddings<'g>(
        &self,
        s: &Step<'g, '_>,
        mtp: &Mtp,
        trunk: Option<Tensor<'g>>,
    ) -> Result<Tensor<'g>, GraphError> {
        match (mtp.embd, trunk) {
            (None, Some(shared)) => Ok(shared),
            (own, _) => s.embed(own.unwrap_or(self.embd)),
        }
    }
}

impl Network for Decoder {
    fn has_mtp(&self) -> bool {
        self.mtp.is_some()
    }

    fn build<'g>(&self, s: &Step<'g, '_>) -> Result<Outputs<'g>, GraphError> {
        let embd = s.embed(self.embd)?;
        let mut x = embd;
        let n_outputs = s.n_outputs();
        let apart = s.runs_mtp() && n_outputs <= FEW_OUTPUTS && n_outputs < s.n_tokens() as usize;
        let mut logits = None;
        for (i, block) in self.blocks.iter().enumerate() {
            let last = i + 1 == self.blocks.len();
            if last && !s.runs_mtp() && !s.has_outputs() {
                block.remember(s, x)?;
                return Ok(Outputs::default());
            }
            x = block.mix(s, x, Mask::Causal)?;
            if last
                && (apart || !s.runs_mtp())
                && let Some(wanted) = s.output_rows(x)?
            {
                // Only rows whose logits are wanted need the last feed-forward.
                let out = s.norm(self.out_norm, block.feed(s, wanted)?, self.eps)?;
                if s.wants_hidden() {
                    return Ok(Outputs {
                        hidden: Some(out),
                        ..Outputs::default()
                    });
                }
                logits = Some(self.logits(s, out, ALL)?);
            }
            if !last || s.runs_mtp() {
                x = block.feed(s, x)?;
            }
        }
        let Some(mtp) = self.mtp.as_ref().filter(|_| s.runs_mtp()) else {
            return Ok(Outputs {
                logits,
                ..Outputs::default()
            });
        };
        let hidden = s.norm(self.out_norm, x, self.eps)?;
        let before = s.predecessors(CARRIED_HIDDEN, hidden)?;
        let pair = mtp.pair(s, self.mtp_embeddings(s, mtp, Some(embd))?, before)?;
        let mut mtp_logits = None;
        if s.wants_mtp_logits() {
            let ahead = s.output_rows(self.guess(s, mtp, pair)?)?;
            mtp_logits = ahead
                .map(|rows| self.guessed_logits(s, mtp, rows, ALL))
                .transpose()?;
        } else {
            mtp.block.remember(s, pair)?;
        }
        if logits.is_none() {
            logits = self.wanted_logits(s, hidden)?;
        }
        Ok(Outputs {
            logits,
            mtp_logits,
            hidden: None,
        })
    }

    fn draft<'g>(&self, s: &Step<'g, '_>) -> Result<Outputs<'g>, GraphError> {
        let mtp = self.mtp.as_ref().ok_or(GraphError::Alloc {
            what: "the MTP head, which is not loaded",
        })?;
        let before = s.draft_hidden(CARRIED_HIDDEN, DRAFTED_HIDDEN)?;
        let pair = mtp.pair(s, self.mtp_embeddings(s, mtp, None)?, before)?;
        let hidden = self.guess(s, mtp, pair)?;
        s.keep_draft(DRAFTED_HIDDEN, hidden)?;
        Ok(Outputs {
            mtp_logits: Some(self.guessed_logits(s, mtp, hidden, s.draft_vocab())?),
            ..Outputs::default()
        })
    }
}

impl Mtp {
    fn load(
        loader: &mut Loader<'_>,
        memory: &mut MemorySpec,
        params: &DecoderParams,
        n_vocab: u64,
        block: Block,
    ) -> Self {
        let (layer, n) = (params.n_layer, u64::from(params.n_embd));
        let part = Part::Layer(layer);
        let name = |suffix: &str| format!("blk.{layer}.{suffix}.weight");
        memory.planes.push(PlaneSpec {
            name: CARRIED_HIDDEN.into(),
            width: n,
            device: loader.device(part),
        });
        memory.cells.push(CellSpec {
            name: DRAFTED_HIDDEN.into(),
            width: n,
            device: loader.device(part),
        });
        let table = [n, n_vocab];
        let (own_embd, own_out) = (name("nextn.embed_tokens"), name("nextn.shared_head_head"));
        let out_norm = match params.mtp_norm {
            MtpNorm::LayerOutput => {
                Some(loader.tensor(part, &name("layer_output_norm"), &[n], Role::Vector))
            }
            MtpNorm::SharedHead => {
                loader.optional(part, &name("nextn.shared_head_norm"), &[n], Role::Vector)
            }
        };
        Self {
            embd: loader.optional(Part::Input, &own_embd, &table, Role::Embedding),
            embd_norm: loader.tensor(part, &name("nextn.enorm"), &[n], Role::Vector),
            hidden_norm: loader.tensor(part, &name("nextn.hnorm"), &[n], Role::Vector),
            merge: loader.tensor(part, &name("nextn.eh_proj"), &[2 * n, n], Role::Matrix),
            block,
            out_norm,
            out: loader.optional(part, &own_out, &table, Role::Matrix),
            eps: params.eps,
        }
    }

    /// Each token's embedding with its predecessor's hidden state (after the trunk's final norm, or the head's own).
    fn pair<'g>(
        &self,
        s: &Step<'g, '_>,
        embd: Tensor<'g>,
        before: Tensor<'g>,
    ) -> Result<Tensor<'g>, GraphError> {
        let pair = s.g().concat(
            s.norm(self.embd_norm, embd, self.eps)?,
            s.norm(self.hidden_norm, before, self.eps)?,
            0,
        )?;
        s.linear(self.merge, pair)
    }
}
