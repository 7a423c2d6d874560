//! The metadata of a `bailing_hybrid` file.

use super::super::ImportError;
use super::super::config::Config;
use super::Dims;
use crate::gguf::{Array, Metadata, Value};

/// `expert_gating_func` of a sigmoid router.
const GATING_SIGMOID: u32 = 2;

/// Adds the keys of the network.
pub(in super::super) fn write_keys(
    config: &Config<'_>,
    dims: &Dims,
    md: &mut Metadata,
) -> Result<(), ImportError> {
    let mut set = |key: &str, value: Value| {
        md.insert(format!("bailing_hybrid.{key}"), value);
    };
    let eps = config.f32_or("rms_norm_eps", 1e-6)?;
    config.check((0.0..1.0).contains(&eps), "rms_norm_eps", "0 to 1", eps)?;
    set("block_count", dims.n_block().into());
    set("context_length", dims.n_ctx.into());
    set("embedding_length", dims.n_embd.into());
    set("feed_forward_length", dims.n_ff.into());
    set("vocab_size", dims.n_vocab.into());
    set("attention.head_count", dims.n_head.into());
    set(
        "attention.head_count_kv",
        Value::Array(Array::I32(kv_heads(dims))),
    );
    set("attention.layer_norm_rms_epsilon", eps.into());
    set("attention.key_length", dims.head_dim.into());
    set("attention.value_length", dims.head_dim.into());
    set(
        "attention.key_length_mla",
        (dims.nope + dims.rope_dim).into(),
    );
    set("attention.value_length_mla", dims.v_dim.into());
    if let Some(rank) = dims.q_lora {
        set("attention.q_lora_rank", rank.into());
    }
    set("attention.kv_lora_rank", dims.kv_lora.into());
    set("attention.group_norm_groups", dims.norm_groups.into());
    set("attention.group_norm_epsilon", eps.into());
    set("full_attention_interval", dims.interval.into());
    set("leading_dense_block_count", dims.n_dense.into());
    rope_keys(config, dims, &mut set)?;
    set("expert_count", dims.n_expert.into());
    set("expert_used_count", dims.n_used.into());
    set("expert_group_count", dims.n_group.into());
    set("expert_group_used_count", dims.n_group_used.into());
    set("expert_gating_func", GATING_SIGMOID.into());
    set("expert_feed_forward_length", dims.n_ff_expert.into());
    set("expert_shared_feed_forward_length", dims.n_ff_shared.into());
    set("expert_shared_count", dims.n_shared.into());
    set(
        "expert_weights_scale",
        config.f32_or("routed_scaling_factor", 1.0)?.into(),
    );
    set(
        "expert_weights_norm",
        config.bool_or("norm_topk_prob", true)?.into(),
    );
    set("nextn_predict_layers", dims.n_mtp.into());
    Ok(())
}

/// 0 marks a Lightning block, 1 an MLA block; the MTP block states its heads.
fn kv_heads(dims: &Dims) -> Vec<i32> {
    let kv = |layer: u32| match layer {
        _ if layer >= dims.n_layer => dims.n_head as i32,
        _ if dims.is_mla(layer) => 1,
        _ => 0,
    };
    (0..dims.n_block()).map(kv).collect()
}

fn rope_keys(
    config: &Config<'_>,
    dims: &Dims,
    set: &mut impl FnMut(&str, Value),
) -> Result<(), ImportError> {
    let scaling = config.object("rope_scaling");
    let theta = match &scaling {
        Some(scaling) => scaling.f32_opt("rope_theta")?,
        None => None,
    };
    let theta = theta.map_or_else(|| config.f32_or("rope_theta", 6e5), Ok)?;
    set("rope.freq_base", theta.into());
    set("rope.dimension_count", dims.rope_dim.into());
    let Some(scaling) = scaling else {
        return Ok(());
    };
    let kind = scaling
        .str("rope_type")?
        .or(scaling.str("type")?)
        .unwrap_or("default");
    match kind {
        "default" => return Ok(()),
        "linear" | "yarn" => {}
        other => {
            return Err(scaling.wrong("rope_scaling.rope_type", "default, linear or yarn", other));
        }
    }
    set("rope.scaling.type", kind.into());
    set("rope.scaling.factor", scaling.f32_or("factor", 1.0)?.into());
    let original = scaling.size_or("original_max_position_embeddings", dims.n_ctx)?;
    set("rope.scaling.original_context_length", original.into());
    for (key, name) in [
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
        ("attention_factor", "rope.scaling.attn_factor"),
        ("mscale_all_dim", "rope.scaling.yarn_log_multiplier"),
    ] {
        if let Some(value) = scaling.f32_opt(key)? {
            // YaRN scales scores by 1 + 0.1 m ln(factor); files carry the product 0.1 m.
            let value = if key == "mscale_all_dim" {
                0.1 * value
            } else {
                value
            };
            set(name, value.into());
        }
    }
    Ok(())
}
