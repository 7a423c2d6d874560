//! What a tensor does in a model, by its name, and which tensors stay as they are.

/// Kinds of tensors that mixes tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Output,
    TokenEmbd,
    /// Values, or a fused matrix that holds them.
    AttnV,
    AttnK,
    AttnQ,
    AttnOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Other,
}

/// Parts of names that tell a role; the first that is found decides.
const ROLES: &[(&str, Role)] = &[
    ("attn_qkv.weight", Role::AttnV),
    ("attn_kv_b.weight", Role::AttnV),
    ("attn_v.weight", Role::AttnV),
    ("attn_k.weight", Role::AttnK),
    ("attn_q.weight", Role::AttnQ),
    ("attn_output.weight", Role::AttnOutput),
    ("ffn_up", Role::FfnUp),
    ("ffn_gate", Role::FfnGate),
    ("ffn_down", Role::FfnDown),
];

impl Role {
    pub(super) fn of(name: &str) -> Self {
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Self::TokenEmbd,
            _ => ROLES
                .iter()
                .find(|(part, _)| name.contains(part))
                .map_or(Self::Other, |(_, role)| *role),
        }
    }
}

/// Number of the block that a tensor belongs to.
pub(super) fn block_of(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Parts of names of tensors that are never quantised, and why.
const KEPT: &[(&str, &str)] = &[
    ("_norm.weight", "a norm"),
    (
        "ffn_gate_inp.weight",
        "a router: small, and it decides everything",
    ),
    ("ffn_gate_tid2eid.weight", "a table of expert numbers"),
    ("planes.signs", "signs of a rotation"),
    ("altup", "very small"),
    ("laurel", "very small"),
    ("per_layer_model_proj", "small"),
    ("ssm_conv1d", "a small convolution"),
    ("shortconv.conv.weight", "a small convolution"),
    ("indexer.k_proj.weight", "a small indexer"),
    ("indexer.q_proj.weight", "a small indexer"),
    ("time_mix_first.weight", "small mixing weights"),
    ("time_mix_w0.weight", "small mixing weights"),
    ("time_mix_w1.weight", "small mixing weights"),
    ("time_mix_w2.weight", "small mixing weights"),
    ("time_mix_v0.weight", "small mixing weights"),
    ("time_mix_v1.weight", "small mixing weights"),
    ("time_mix_v2.weight", "small mixing weights"),
    ("time_mix_a0.weight", "small mixing weights"),
    ("time_mix_a1.weight", "small mixing weights"),
    ("time_mix_a2.weight", "small mixing weights"),
    ("time_mix_g1.weight", "small mixing weights"),
    ("time_mix_g2.weight", "small mixing weights"),
    ("time_mix_decay_w1.weight", "small mixing weights"),
    ("time_mix_decay_w2.weight", "small mixing weights"),
    ("time_mix_lerp_fused.weight", "small mixing weights"),
    ("attn_rel_b.weight", "a position bias"),
    (".position_embd", "positions of an image"),
    ("sam.pos_embd", "positions of an image"),
    ("sam.neck.", "part of an image encoder"),
    ("sam.net_", "part of an image encoder"),
    (".rel_pos", "positions of an image"),
    (".patch_embd", "part of an image encoder"),
    (".patch_merger", "part of an image encoder"),
    ("a.rvq.codebook", "a codebook of sounds"),
    ("mm.a.code_embd", "a codebook of sounds"),
];

/// Whole names of tensors that are never quantised.
const KEPT_WHOLE: &[(&str, &str)] = &[
    ("position_embd.weight", "positions"),
    ("token_types.weight", "token types"),
];

/// Parts of names that one architecture keeps beside the others.
const KEPT_BY_ARCH: &[(&str, &[&str])] = &[(
    "glm5-next",
    &[
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    ],
)];

/// Why a tensor of this name stays as it is; `None` if it may be quantised. Shapes are looked at elsewhere.
pub(super) fn kept(arch: &str, name: &str) -> Option<&'static str> {
    if !name.ends_with("weight") {
        return Some("not a weight");
    }
    let whole = KEPT_WHOLE.iter().find(|(kept, _)| *kept == name);
    let part = KEPT.iter().find(|(part, _)| name.contains(part));
    if let Some((_, why)) = whole.or(part) {
        return Some(why);
    }
    let sensitive = KEPT_BY_ARCH
        .iter()
        .any(|(a, parts)| *a == arch && parts.iter().any(|part| name.contains(part)));
    sensitive.then_some("sensitive in this architecture")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_told_by_name() {
        let cases = [
            ("output.weight", Role::Output),
            ("blk.0.attn_output.weight", Role::AttnOutput),
            ("blk.11.attn_qkv.weight", Role::AttnV),
            ("blk.1.attn_v_b.weight", Role::Other),
            ("blk.1.ffn_down_exps.weight", Role::FfnDown),
            ("blk.1.ffn_gate_shexp.weight", Role::FfnGate),
            ("blk.1.attn_gate.weight", Role::Other),
        ];
        for (name, role) in cases {
            assert_eq!(Role::of(name), role, "{name}");
        }
        assert_eq!(block_of("blk.11.attn_qkv.weight"), Some(11));
        assert_eq!(block_of("output.weight"), None);
    }

    #[test]
    fn what_is_small_or_delicate_is_kept() {
        for name in [
            "blk.0.attn_norm.weight",
            "blk.0.exp_probs_b.bias",
            "blk.0.ffn_gate_inp.weight",
            "position_embd.weight",
        ] {
            assert!(kept("llama", name).is_some(), "{name}");
        }
        let name = "blk.0.attn_k_b.weight";
        assert!(kept("deepseek2", name).is_none() && kept("glm5-next", name).is_some());
    }
}
