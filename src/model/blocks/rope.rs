//! Rotary embedding from metadata, YaRN when the file asks for it.

use crate::ggml::{Rope, RopeKind};
use crate::model::LoadError;
use crate::model::hparams::Keys;

/// YaRN's usual bounds on rotations within the original context.
const YARN_BETA_FAST: f32 = 32.0;
const YARN_BETA_SLOW: f32 = 1.0;

/// Rotation of `n_dims` dimensions, from `rope.freq_base` and `rope.scaling.*`.
pub fn rope_from_keys(
    keys: &Keys<'_>,
    kind: RopeKind,
    n_dims: u32,
    n_ctx_train: u32,
) -> Result<Rope, LoadError> {
    let freq_base = keys.f32_or("rope.freq_base", 10_000.0)?;
    keys.check(
        (1.0..1e12).contains(&freq_base),
        "rope.freq_base",
        "1 to 1e12",
        freq_base,
    )?;
    let mut rope = Rope {
        kind,
        n_dims,
        n_ctx_orig: keys.extent_or("rope.scaling.original_context_length", n_ctx_train)?,
        freq_base,
        freq_scale: 1.0,
        ext_factor: 0.0,
        attn_factor: keys.f32_or("rope.scaling.attn_factor", 1.0)?,
        beta_fast: keys.f32_or("rope.scaling.yarn_beta_fast", YARN_BETA_FAST)?,
        beta_slow: keys.f32_or("rope.scaling.yarn_beta_slow", YARN_BETA_SLOW)?,
    };
    // Files from before there were types scale linearly, by a key of another name.
    let scaling = keys.str("rope.scaling.type")?.unwrap_or("linear");
    let old = keys.f32_or("rope.scale_linear", 1.0)?;
    let factor = keys.f32_or("rope.scaling.factor", old)?;
    let factor = if factor == 0.0 { 1.0 } else { factor };
    keys.check(
        (1e-3..1e6).contains(&factor),
        "rope.scaling.factor",
        "0.001 to 1000000",
        factor,
    )?;
    match scaling {
        "none" => {}
        "linear" => rope.freq_scale = 1.0 / factor,
        "yarn" => {
            let (fast, slow) = (rope.beta_fast, rope.beta_slow);
            keys.check(
                fast > slow && slow > 0.0,
                "rope.scaling.yarn_beta_fast",
                "more than yarn_beta_slow, and both positive",
                fast,
            )?;
            rope.freq_scale = 1.0 / factor;
            rope.ext_factor = 1.0;
        }
        other => return Err(keys.value("rope.scaling.type", "none, linear or yarn", other)),
    }
    Ok(rope)
}

/// `rope.scaling.yarn_log_multiplier` (mscale_all_dim): YaRN's magnitude moves from the rotated part of a head to the
/// whole score. Gives the factor on scores, or `None` without YaRN or multiplier.
pub fn magnitude_on_scores(keys: &Keys<'_>, rope: &mut Rope) -> Result<Option<f32>, LoadError> {
    let multiplier = keys.f32_or("rope.scaling.yarn_log_multiplier", 0.0)?;
    if rope.ext_factor == 0.0 || multiplier == 0.0 {
        return Ok(None);
    }
    let stretch = (1.0 / rope.freq_scale).ln();
    let factor = (rope.attn_factor * (1.0 + multiplier * stretch)).powi(2);
    rope.attn_factor /= 1.0 + 0.1 * stretch;
    Ok(Some(factor))
}
