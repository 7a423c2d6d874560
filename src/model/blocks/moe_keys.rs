//! Rules of a mixture of experts from metadata.

use super::moe::{Gating, MoeParams};
use crate::model::LoadError;
use crate::model::hparams::Keys;

/// What holds where a file says nothing.
#[derive(Debug, Clone)]
pub struct MoeDefaults {
    /// How routers score; `None` if the file must say.
    pub gating: Option<Gating>,
    /// Whether chosen weights are divided by their sum.
    pub normalise: bool,
    /// Shared experts.
    pub n_shared: u32,
    /// Width of an expert; `None` if the file must say.
    pub n_ff: Option<u32>,
}

/// Reads and checks `expert_*`.
///
/// # Errors
/// A key is missing or makes no sense.
pub fn moe_from_keys(
    keys: &Keys<'_>,
    n_embd: u32,
    defaults: &MoeDefaults,
) -> Result<MoeParams, LoadError> {
    let n_expert = keys.extent("expert_count")?;
    let n_used = keys.extent("expert_used_count")?;
    keys.check(
        n_used <= n_expert,
        "expert_used_count",
        format!("at most expert_count ({n_expert})"),
        n_used,
    )?;
    let (n_group, n_group_used) = groups(keys, n_expert, n_used)?;
    let n_ff = match defaults.n_ff {
        Some(default) => keys.extent_or("expert_feed_forward_length", default)?,
        None => keys.extent("expert_feed_forward_length")?,
    };
    let n_shared = keys.layers_or("expert_shared_count", defaults.n_shared)?;
    let n_ff_shared = keys
        .extent_or("expert_shared_feed_forward_length", n_ff)?
        .checked_mul(n_shared)
        .ok_or_else(|| keys.value("expert_shared_count", "a small number", n_shared))?;
    Ok(MoeParams {
        n_embd,
        n_ff,
        n_expert,
        n_used,
        n_group,
        n_group_used,
        gating: gating(keys, defaults.gating)?,
        normalise: keys.bool_or("expert_weights_norm", defaults.normalise)?,
        scale: scale(keys)?,
        n_ff_shared: (n_ff_shared > 0).then_some(n_ff_shared),
    })
}

/// Groups of experts, and how many of them a token may use.
fn groups(keys: &Keys<'_>, n_expert: u32, n_used: u32) -> Result<(u32, u32), LoadError> {
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
    Ok((n_group, n_group_used))
}

fn gating(keys: &Keys<'_>, default: Option<Gating>) -> Result<Gating, LoadError> {
    let key = "expert_gating_func";
    let number = match default {
        Some(default) => keys.extent_or(key, default.number())?,
        None => keys.extent(key)?,
    };
    Gating::from_number(number).ok_or_else(|| keys.value(key, "1 (softmax) or 2 (sigmoid)", number))
}

/// Factor on the weights of chosen experts; 0 stands for none.
fn scale(keys: &Keys<'_>) -> Result<f32, LoadError> {
    let scale = keys.f32_or("expert_weights_scale", 1.0)?;
    if scale == 0.0 {
        return Ok(1.0);
    }
    keys.check(
        (1e-4..1e4).contains(&scale),
        "expert_weights_scale",
        "0.0001 to 10000",
        scale,
    )?;
    Ok(scale)
}
