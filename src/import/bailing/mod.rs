//! BailingMoeV2_5 (Ling 2.5 and 2.6) as a `bailing_hybrid` model file: `docs/bailing_hybrid.md` has the contract.

#![forbid(unsafe_code)]

mod keys;
mod tensors;

use super::ImportError;
use super::config::Config;

pub(super) use keys::write_keys;
pub(super) use tensors::wanted;

/// The class name checkpoints state. The `model_type` will not do: Ling 3.0, another network, shares it.
pub(super) const ARCHITECTURE: &str = "BailingMoeV2_5ForCausalLM";

/// Sizes of the network.
#[derive(Debug, Clone)]
pub(super) struct Dims {
    /// Blocks of the trunk.
    pub n_layer: u32,
    /// MTP blocks: 0 or 1.
    pub n_mtp: u32,
    pub n_embd: u32,
    pub n_vocab: u32,
    pub n_ctx: u32,
    pub n_head: u32,
    pub head_dim: u32,
    /// Every so many blocks one is MLA.
    pub interval: u32,
    pub norm_groups: u32,
    pub q_lora: Option<u32>,
    pub kv_lora: u32,
    pub nope: u32,
    pub rope_dim: u32,
    pub v_dim: u32,
    pub n_dense: u32,
    pub n_ff: u32,
    pub n_expert: u32,
    pub n_used: u32,
    pub n_group: u32,
    pub n_group_used: u32,
    pub n_ff_expert: u32,
    pub n_shared: u32,
    pub n_ff_shared: u32,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
}

impl Dims {
    /// Reads and checks the sizes. What the graph does not compute is refused by name.
    pub fn read(config: &Config<'_>) -> Result<Self, ImportError> {
        refuse_variants(config)?;
        let n_embd = config.size("hidden_size")?;
        let n_head = config.size("num_attention_heads")?;
        let head_dim = config.size_or("head_dim", n_embd / n_head)?;
        let n_ff_expert = config.size("moe_intermediate_size")?;
        let dims = Self {
            n_layer: config.size("num_hidden_layers")?,
            n_mtp: config.size_or("num_nextn_predict_layers", 0)?,
            n_embd,
            n_vocab: config.size("vocab_size")?,
            n_ctx: config.size("max_position_embeddings")?,
            n_head,
            head_dim,
            interval: config.size_or("layer_group_size", 5)?,
            norm_groups: config.size_or("group_norm_size", 4)?,
            q_lora: config.size_opt("q_lora_rank")?.filter(|&n| n > 0),
            kv_lora: config.size("kv_lora_rank")?,
            nope: config.size_or("qk_nope_head_dim", head_dim)?,
            rope_dim: config.size("qk_rope_head_dim")?,
            v_dim: config.size_or("v_head_dim", head_dim)?,
            n_dense: config.size_or("first_k_dense_replace", 0)?,
            n_ff: config.size("intermediate_size")?,
            n_expert: config.size("num_experts")?,
            n_used: config.size("num_experts_per_tok")?,
            n_group: config.size_or("n_group", 1)?,
            n_group_used: config.size_or("topk_group", 1)?,
            n_ff_expert,
            n_shared: config.size_or("num_shared_experts", 0)?,
            n_ff_shared: config.size_or("moe_shared_expert_intermediate_size", n_ff_expert)?,
            tied: config.bool_or("tie_word_embeddings", false)?,
        };
        dims.check(config)?;
        Ok(dims)
    }

    fn check(&self, config: &Config<'_>) -> Result<(), ImportError> {
        config.check(
            self.n_mtp <= 1,
            "num_nextn_predict_layers",
            "0 or 1",
            self.n_mtp,
        )?;
        config.check(
            self.n_layer <= 4096,
            "num_hidden_layers",
            "at most 4096",
            self.n_layer,
        )?;
        config.check(
            self.n_expert <= 65536,
            "num_experts",
            "at most 65536",
            self.n_expert,
        )?;
        config.check(
            self.head_dim > 0,
            "head_dim",
            "a positive number",
            self.head_dim,
        )?;
        config.check(
            self.interval > 0,
            "layer_group_size",
            "a positive number",
            0,
        )?;
        let rotary = config.f32_or("partial_rotary_factor", 1.0)? * self.head_dim as f32;
        config.check(
            rotary == self.rope_dim as f32,
            "partial_rotary_factor",
            format!(
                "qk_rope_head_dim / head_dim ({} / {})",
                self.rope_dim, self.head_dim
            ),
            config.f32_or("partial_rotary_factor", 1.0)?,
        )
    }

    /// Blocks of the file, the MTP block included.
    pub fn n_block(&self) -> u32 {
        self.n_layer + self.n_mtp
    }

    /// Whether a block attends (MLA); the others are Lightning blocks. The MTP block attends.
    pub fn is_mla(&self, layer: u32) -> bool {
        (layer + 1).is_multiple_of(self.interval)
            || layer >= self.n_layer / self.interval * self.interval
    }
}

/// Options of the published code that change the network and that no released model uses.
fn refuse_variants(config: &Config<'_>) -> Result<(), ImportError> {
    const LING_3: [&str; 4] = [
        "short_conv_kernel_size",
        "kda_lower_bound",
        "no_kda_lora",
        "gated_attention_proj_granularity_type",
    ];
    for key in LING_3 {
        if let Some(value) = config.get(key) {
            return Err(config.wrong(
                key,
                "nothing (this key belongs to Ling 3.0, another network)",
                value,
            ));
        }
    }
    let flags = [
        ("linear_silu", false),
        ("use_linear_silu", false),
        ("use_bias", false),
        ("use_qkv_bias", false),
        ("use_qk_norm", true),
        ("linear_rope", true),
        ("rope_interleave", true),
    ];
    for (key, only) in flags {
        let found = config.bool_or(key, only)?;
        config.check(found == only, key, only, found)?;
    }
    for (key, only) in [("hidden_act", "silu"), ("score_function", "sigmoid")] {
        let found = config.str(key)?.unwrap_or(only);
        config.check(
            found == only,
            key,
            format!("\"{only}\""),
            format!("\"{found}\""),
        )?;
    }
    Ok(())
}
