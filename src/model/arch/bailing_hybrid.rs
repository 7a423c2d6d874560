//! `bailing_hybrid`: Ling-2.5/2.6 (flash, 1T) and Ring, BailingMoeV2_5ForCausalLM.
//!
//! Blocks of Lightning attention with every `full_attention_interval`-th one MLA, grouped sigmoid MoE after the
//! leading dense blocks, and at most one MTP block that shares embedding and output matrix with the trunk.
//! Contract of the file: `docs/bailing_hybrid.md`; formulas as in inclusionAI's modelling code and mlx-lm.

use crate::ggml::{GraphError, RopeKind, Tensor};
use crate::gguf::Gguf;
use crate::memory::{CellSpec, MemorySpec, PlaneSpec};
use crate::model::blocks::ffn::SwiGlu;
use crate::model::blocks::lightning::{Lightning, LightningParams};
use crate::model::blocks::mla::{Mla, MlaParams};
use crate::model::blocks::moe::{Moe, MoeParams};
use crate::model::blocks::rope::rope_from_keys;
use crate::model::hparams::Keys;
use crate::model::loader::{Loader, Part, Role, WeightId};
use crate::model::registry::{Architecture, Network, Outputs, Sizes};
use crate::model::step::{Mask, Step};
use crate::model::{LoadError, TensorProblem};

/// The table line.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "bailing_hybrid",
    title: "Ling-2.5/2.6 and Ring (BailingMoeV2_5): Lightning + MLA, grouped MoE, MTP",
    sizes,
    load: |gguf, loader, memory| Ok(Box::new(BailingHybrid::load(gguf, loader, memory)?)),
};

/// Routers score by sigmoid in this family (ggml's numbering of gating functions).
const GATING_SIGMOID: u32 = 2;

/// Far above any model of the family.
const MAX_HEADS: u32 = 1024;
const MAX_HEAD_WIDTH: u32 = 4096;

/// Where the MTP block finds the hidden state of the token before a step.
const CARRIED_HIDDEN: &str = "mtp.hidden";

/// Where it finds its own hidden state of the guess before.
const DRAFTED_HIDDEN: &str = "mtp.draft";

/// With few outputs in a larger step, their last feed-forward is computed apart from the MTP head's rows: so it is the
/// same computation as without the head, and costs little.
const FEW_OUTPUTS: usize = 8;

/// Hyper-parameters, checked.
struct HyperParams {
    n_embd: u32,
    /// Blocks of the trunk, the MTP block not counted.
    n_layer: u32,
    n_mtp: u32,
    n_dense: u32,
    n_ff: u32,
    eps: f32,
    /// Whether block `i` is MLA.
    is_mla: Vec<bool>,
    lightning: LightningParams,
    mla: MlaParams,
    moe: MoeParams,
}

/// What mixes tokens in a block.
enum Mixer {
    Lightning(Lightning),
    Mla(Mla),
}

/// What follows it.
enum FeedForward {
    Dense(SwiGlu),
    Moe(Moe),
}

struct Block {
    attn_norm: WeightId,
    mixer: Mixer,
    ffn_norm: WeightId,
    ffn: FeedForward,
}

/// The head that predicts the token after the next.
struct Mtp {
    embd_norm: WeightId,
    hidden_norm: WeightId,
    merge: WeightId,
    block: Block,
    out_norm: WeightId,
}

/// The network.
pub struct BailingHybrid {
    eps: f32,
    embd: WeightId,
    blocks: Vec<Block>,
    out_norm: WeightId,
    out: WeightId,
    mtp: Option<Mtp>,
}

impl Network for BailingHybrid {
    fn has_mtp(&self) -> bool {
        self.mtp.is_some()
    }

    fn build<'g>(&self, s: &Step<'g, '_>) -> Result<Outputs<'g>, GraphError> {
        let g = s.g();
        let embd = s.embed(self.embd)?;
        let mut x = embd;
        let n_outputs = s.n_outputs();
        let apart = s.runs_mtp() && n_outputs <= FEW_OUTPUTS && n_outputs < s.n_tokens() as usize;
        let mut logits = None;
        for (i, block) in self.blocks.iter().enumerate() {
            let last = i + 1 == self.blocks.len() && !s.runs_mtp();
            if last && !s.has_outputs() {
                block.remember(s, x, self.eps)?;
                return Ok(Outputs::default());
            }
            x = g.add(x, block.mix(s, x, self.eps, Mask::Causal)?)?;
            if apart
                && i + 1 == self.blocks.len()
                && let Some(wanted) = s.output_rows(x)?
            {
                let out = g.add(wanted, block.feed(s, wanted, self.eps)?)?;
                logits = Some(s.linear(self.out, s.norm(self.out_norm, out, self.eps)?)?);
            }
            if last && let Some(wanted) = s.output_rows(x)? {
                // Only rows whose logits are wanted need the last feed-forward.
                x = wanted;
            }
            x = g.add(x, block.feed(s, x, self.eps)?)?;
        }
        let hidden = s.norm(self.out_norm, x, self.eps)?;
        let Some(mtp) = self.mtp.as_ref().filter(|_| s.runs_mtp()) else {
            return Ok(Outputs {
                logits: Some(s.linear(self.out, hidden)?),
                mtp_logits: None,
            });
        };
        let before = s.predecessors(CARRIED_HIDDEN, hidden)?;
        let pair = mtp.pair(s, embd, before, self.eps)?;
        let mut mtp_logits = None;
        if s.wants_mtp_logits() {
            let ahead = mtp.guess(s, pair, self.eps)?;
            mtp_logits = self.logits(s, ahead)?;
        } else {
            mtp.block.remember(s, pair, self.eps)?;
        }
        if logits.is_none() {
            logits = self.logits(s, hidden)?;
        }
        Ok(Outputs { logits, mtp_logits })
    }

    fn draft<'g>(&self, s: &Step<'g, '_>) -> Result<Outputs<'g>, GraphError> {
        let mtp = self.mtp.as_ref().ok_or(GraphError::Alloc {
            what: "the MTP head, which is not loaded",
        })?;
        let before = s.draft_hidden(CARRIED_HIDDEN, DRAFTED_HIDDEN)?;
        let pair = mtp.pair(s, s.embed(self.embd)?, before, self.eps)?;
        let hidden = mtp.guess(s, pair, self.eps)?;
        s.keep_draft(DRAFTED_HIDDEN, hidden)?;
        Ok(Outputs {
            logits: None,
            mtp_logits: Some(s.linear(self.out, hidden)?),
        })
    }
}

impl BailingHybrid {
    /// Logits of the wanted columns of a normed hidden state.
    fn logits<'g>(
        &self,
        s: &Step<'g, '_>,
        hidden: Tensor<'g>,
    ) -> Result<Option<Tensor<'g>>, GraphError> {
        s.output_rows(hidden)?
            .map(|rows| s.linear(self.out, rows))
            .transpose()
    }
}

impl Block {
    fn load(
        loader: &mut Loader<'_>,
        memory: &mut MemorySpec,
        hp: &HyperParams,
        layer: u32,
    ) -> Self {
        let part = Part::Layer(layer);
        let norm = [u64::from(hp.n_embd)];
        let attn_norm = loader.tensor(
            part,
            &format!("blk.{layer}.attn_norm.weight"),
            &norm,
            Role::Vector,
        );
        let ffn_norm = loader.tensor(
            part,
            &format!("blk.{layer}.ffn_norm.weight"),
            &norm,
            Role::Vector,
        );
        let mixer = if layer >= hp.n_layer || hp.is_mla[layer as usize] {
            Mixer::Mla(Mla::load(loader, memory, &hp.mla, layer))
        } else {
            Mixer::Lightning(Lightning::load(
                loader,
                memory,
                &hp.lightning,
                layer,
                hp.n_layer,
            ))
        };
        let ffn = if layer < hp.n_dense {
            FeedForward::Dense(SwiGlu::load(
                loader,
                layer,
                "",
                u64::from(hp.n_embd),
                u64::from(hp.n_ff),
            ))
        } else {
            FeedForward::Moe(Moe::load(loader, &hp.moe, layer))
        };
        Self {
            attn_norm,
            mixer,
            ffn_norm,
            ffn,
        }
    }

    fn mix<'g>(
        &self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
        eps: f32,
        mask: Mask,
    ) -> Result<Tensor<'g>, GraphError> {
        let x = s.norm(self.attn_norm, x, eps)?;
        match &self.mixer {
            Mixer::Lightning(lightning) => lightning.build(s, x),
            Mixer::Mla(mla) => mla.build(s, x, mask),
        }
    }

    fn feed<'g>(
        &self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
        eps: f32,
    ) -> Result<Tensor<'g>, GraphError> {
        let x = s.norm(self.ffn_norm, x, eps)?;
        match &self.ffn {
            FeedForward::Dense(ffn) => ffn.build(s, x),
            FeedForward::Moe(moe) => moe.build(s, x),
        }
    }

    /// Only what later tokens will look at: rows or state.
    fn remember<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>, eps: f32) -> Result<(), GraphError> {
        let x = s.norm(self.attn_norm, x, eps)?;
        match &self.mixer {
            Mixer::Lightning(lightning) => lightning.build(s, x).map(drop),
            Mixer::Mla(mla) => mla.store(s, x),
        }
    }
}

impl Mtp {
    fn load(loader: &mut Loader<'_>, memory: &mut MemorySpec, hp: &HyperParams) -> Self {
        let layer = hp.n_layer;
        let part = Part::Layer(layer);
        let n = u64::from(hp.n_embd);
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
        Self {
            embd_norm: loader.tensor(part, &name("nextn.enorm"), &[n], Role::Vector),
            hidden_norm: loader.tensor(part, &name("nextn.hnorm"), &[n], Role::Vector),
            merge: loader.tensor(part, &name("nextn.eh_proj"), &[2 * n, n], Role::Matrix),
            block: Block::load(loader, memory, hp, layer),
            out_norm: loader.tensor(part, &name("layer_output_norm"), &[n], Role::Vector),
        }
    }

    /// Each token's embedding with its predecessor's hidden state (after the trunk's final norm, or the head's own).
    fn pair<'g>(
        &self,
        s: &Step<'g, '_>,
        embd: Tensor<'g>,
        before: Tensor<'g>,
        eps: f32,
    ) -> Result<Tensor<'g>, GraphError> {
        let pair = s.g().concat(
            s.norm(self.embd_norm, embd, eps)?,
            s.norm(self.hidden_norm, before, eps)?,
            0,
        )?;
        s.linear(self.merge, pair)
    }

    /// The head's block over pairs, rows included; gives its normed hidden state.
    fn guess<'g>(
        &self,
        s: &Step<'g, '_>,
        mut x: Tensor<'g>,
        eps: f32,
    ) -> Result<Tensor<'g>, GraphError> {
        let g = s.g();
        x = g.add(x, self.block.mix(s, x, eps, Mask::FromSecond)?)?;
        x = g.add(x, self.block.feed(s, x, eps)?)?;
        s.norm(self.out_norm, x, eps)
    }
}

impl BailingHybrid {
    fn load(
        gguf: &Gguf,
        loader: &mut Loader<'_>,
        memory: &mut MemorySpec,
    ) -> Result<Self, LoadError> {
        let keys = Keys::new(gguf, ARCHITECTURE.name);
        let hp = HyperParams::read(&keys)?;
        refuse_ling_3(loader)?;
        let n_embd = u64::from(hp.n_embd);
        // The vocabulary is as large as the embedding table; the tokenizer is checked against it by the caller.
        let n_vocab = loader
            .shape("token_embd.weight")
            .and_then(|s| s.get(1).copied())
            .unwrap_or(0);
        let embd = loader.tensor(
            Part::Input,
            "token_embd.weight",
            &[n_embd, n_vocab],
            Role::Embedding,
        );
        let blocks = (0..hp.n_layer)
            .map(|layer| Block::load(loader, memory, &hp, layer))
            .collect();
        let out_norm = loader.tensor(Part::Output, "output_norm.weight", &[n_embd], Role::Vector);
        let out = if loader.has("output.weight") {
            loader.tensor(
                Part::Output,
                "output.weight",
                &[n_embd, n_vocab],
                Role::Matrix,
            )
        } else {
            embd
        };
        let in_file =
            hp.n_mtp == 1 && loader.has(&format!("blk.{}.nextn.eh_proj.weight", hp.n_layer));
        let mtp = (in_file && loader.wants_mtp()).then(|| Mtp::load(loader, memory, &hp));
        Ok(Self {
            eps: hp.eps,
            embd,
            blocks,
            out_norm,
            out,
            mtp,
        })
    }
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

fn sizes(gguf: &Gguf) -> Result<Sizes, LoadError> {
    let keys = Keys::new(gguf, ARCHITECTURE.name);
    let hp = HyperParams::read(&keys)?;
    Ok(Sizes {
        n_embd: hp.n_embd,
        n_layer: hp.n_layer,
        n_mtp: hp.n_mtp,
        n_ctx_train: keys.extent_or("context_length", 4096)?,
    })
}

impl HyperParams {
    fn read(keys: &Keys<'_>) -> Result<Self, LoadError> {
        let n_mtp = keys.layers_or("nextn_predict_layers", 0)?;
        keys.check(n_mtp <= 1, "nextn_predict_layers", "0 or 1", n_mtp)?;
        let n_blocks = keys.layers("block_count")?;
        keys.check(
            n_blocks > n_mtp,
            "block_count",
            "more blocks than MTP blocks",
            n_blocks,
        )?;
        let n_layer = n_blocks - n_mtp;
        let n_embd = keys.extent("embedding_length")?;
        let n_ctx_train = keys.extent_or("context_length", 4096)?;
        let eps = keys.f32("attention.layer_norm_rms_epsilon")?;
        keys.check(
            (0.0..1.0).contains(&eps),
            "attention.layer_norm_rms_epsilon",
            "0 to 1",
            eps,
        )?;
        let n_dense = keys.layers_or("leading_dense_block_count", 0)?.min(n_layer);
        Ok(Self {
            n_embd,
            n_layer,
            n_mtp,
            n_dense,
            n_ff: if n_dense > 0 {
                keys.extent("feed_forward_length")?
            } else {
                0
            },
            eps,
            is_mla: mla_layers(keys, n_layer, n_blocks)?,
            lightning: lightning_params(keys, n_embd, n_ctx_train, eps)?,
            mla: mla_params(keys, n_embd, n_ctx_train, eps)?,
            moe: moe_params(keys, n_embd)?,
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

fn lightning_params(
    keys: &Keys<'_>,
    n_embd: u32,
    n_ctx: u32,
    eps: f32,
) -> Result<LightningParams, LoadError> {
    let n_head = head_count(keys)?;
    let head_dim = head_width(keys, "attention.key_length", n_embd / n_head)?;
    keys.check(
        head_dim.is_multiple_of(2),
        "attention.key_length",
        "an even number",
        head_dim,
    )?;
    let v_dim = head_width(keys, "attention.value_length", head_dim)?;
    keys.check(
        v_dim == head_dim,
        "attention.value_length",
        format!("{head_dim}, as attention.key_length"),
        v_dim,
    )?;
    let n_rot = rope_dims(keys, head_dim)?;
    let norm_groups = keys.extent_or("attention.group_norm_groups", 4)?;
    keys.check(
        (n_head * head_dim).is_multiple_of(norm_groups),
        "attention.group_norm_groups",
        format!("a divisor of {}", n_head * head_dim),
        norm_groups,
    )?;
    let group_eps = keys.f32_or("attention.group_norm_epsilon", eps)?;
    keys.check(
        (0.0..1.0).contains(&group_eps),
        "attention.group_norm_epsilon",
        "0 to 1",
        group_eps,
    )?;
    Ok(LightningParams {
        n_embd,
        n_head,
        head_dim,
        norm_groups,
        eps,
        group_eps,
        rope: rope_from_keys(keys, RopeKind::Neox, n_rot, n_ctx)?,
    })
}

fn mla_params(keys: &Keys<'_>, n_embd: u32, n_ctx: u32, eps: f32) -> Result<MlaParams, LoadError> {
    let n_head = head_count(keys)?;
    let head = head_width(keys, "attention.key_length", n_embd / n_head)?;
    let rope_dim = rope_dims(keys, head)?;
    let key = head_width(keys, "attention.key_length_mla", head + rope_dim)?;
    keys.check(
        key > rope_dim,
        "attention.key_length_mla",
        format!("more than rope.dimension_count ({rope_dim})"),
        key,
    )?;
    let mut rope = rope_from_keys(keys, RopeKind::Norm, rope_dim, n_ctx)?;
    let mut scale = 1.0 / (key as f32).sqrt();
    let log_multiplier = keys.f32_or("rope.scaling.yarn_log_multiplier", 0.0)?;
    if rope.ext_factor != 0.0 && log_multiplier != 0.0 {
        // With mscale_all_dim the magnitude correction moves from the rotated part to the whole score.
        let stretch = (1.0 / rope.freq_scale).ln();
        scale *= (1.0 + log_multiplier * stretch).powi(2);
        rope.attn_factor /= 1.0 + 0.1 * stretch;
    }
    Ok(MlaParams {
        n_embd,
        n_head,
        q_lora: keys.extent_opt("attention.q_lora_rank")?,
        kv_lora: keys.extent("attention.kv_lora_rank")?,
        nope: key - rope_dim,
        rope_dim,
        v_dim: head_width(keys, "attention.value_length_mla", head)?,
        eps,
        rope,
        scale,
    })
}

fn moe_params(keys: &Keys<'_>, n_embd: u32) -> Result<MoeParams, LoadError> {
    let gating = keys.extent_or("expert_gating_func", GATING_SIGMOID)?;
    keys.check(
        gating == GATING_SIGMOID,
        "expert_gating_func",
        "2 (sigmoid)",
        gating,
    )?;
    let (n_expert, n_used) = (
        keys.extent("expert_count")?,
        keys.extent("expert_used_count")?,
    );
    keys.check(
        n_used <= n_expert,
        "expert_used_count",
        format!("at most expert_count ({n_expert})"),
        n_used,
    )?;
    let n_group = keys.extent_or("expert_group_count", 1)?;
    keys.check(
        n_expert.is_multiple_of(n_group),
        "expert_group_count",
        format!("a divisor of expert_count ({n_expert})"),
        n_group,
    )?;
    let n_group_used = keys.extent_or("expert_group_used_count", n_group)?;
    let open = n_group_used.saturating_mul(n_expert / n_group);
    keys.check(
        n_group_used <= n_group && open >= n_used,
        "expert_group_used_count",
        "groups with enough experts to choose from",
        n_group_used,
    )?;
    let n_ff = keys.extent("expert_feed_forward_length")?;
    let n_shared = keys.layers_or("expert_shared_count", 1)?;
    let n_ff_shared = keys
        .extent_or("expert_shared_feed_forward_length", n_ff)?
        .checked_mul(n_shared);
    let n_ff_shared =
        n_ff_shared.ok_or_else(|| keys.value("expert_shared_count", "a small number", n_shared))?;
    Ok(MoeParams {
        n_embd,
        n_ff,
        n_expert,
        n_used,
        n_group,
        n_group_used,
        normalise: keys.bool_or("expert_weights_norm", true)?,
        scale: expert_scale(keys)?,
        n_ff_shared: (n_ff_shared > 0).then_some(n_ff_shared),
    })
}

fn head_count(keys: &Keys<'_>) -> Result<u32, LoadError> {
    let n = keys.extent("attention.head_count")?;
    keys.check(
        n <= MAX_HEADS,
        "attention.head_count",
        format!("at most {MAX_HEADS}"),
        n,
    )?;
    Ok(n)
}

/// Factor on the weights of chosen experts.
fn expert_scale(keys: &Keys<'_>) -> Result<f32, LoadError> {
    let scale = keys.f32_or("expert_weights_scale", 1.0)?;
    keys.check(
        (1e-4..1e4).contains(&scale),
        "expert_weights_scale",
        "0.0001 to 10000",
        scale,
    )?;
    Ok(scale)
}

/// Width of a head or of a part of one, bounded so that products of sizes stay small numbers.
fn head_width(keys: &Keys<'_>, key: &str, default: u32) -> Result<u32, LoadError> {
    let n = keys.extent_or(key, default)?;
    keys.check(
        (1..=MAX_HEAD_WIDTH).contains(&n),
        key,
        format!("1 to {MAX_HEAD_WIDTH}"),
        n,
    )?;
    Ok(n)
}

/// One key serves both kinds of layer: part of a Lightning head, and the rotary part of an MLA head.
fn rope_dims(keys: &Keys<'_>, head_dim: u32) -> Result<u32, LoadError> {
    let n = keys.extent_or("rope.dimension_count", head_dim / 2)?;
    keys.check(
        n.is_multiple_of(2) && n <= head_dim,
        "rope.dimension_count",
        format!("an even number up to {head_dim}"),
        n,
    )?;
    Ok(n)
}
