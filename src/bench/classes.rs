//! What the time of a step goes into.

use std::fmt;

use crate::ggml::Timed;

/// A part of a network, by the tensors it computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Products with the routed experts' matrices.
    Experts,
    /// Products with matrices around attention and around the linear recurrence.
    Projections,
    /// Products with the matrices of dense and shared feed-forwards.
    Dense,
    /// Products with the matrix that gives logits.
    Output,
    /// Products with other matrices.
    Others,
    /// Activations rounded to 8 bits for products.
    Rounding,
    /// The choice of experts, its product with a matrix included.
    Router,
    /// Norms and their weights.
    Norms,
    /// Rotary positions.
    Rope,
    /// The linear recurrence.
    Scan,
    /// Attention over rows in memory.
    Attention,
    /// Sums, gates, copies, rows of the embedding.
    Rest,
}

/// Operations that multiply with no matrix, even if an operand is a stored tensor.
const ELEMENTWISE: [&str; 14] = [
    "ADD",
    "ADD_ID",
    "CONCAT",
    "CONT",
    "CPY",
    "DIV",
    "GET_ROWS",
    "MUL",
    "PERMUTE",
    "REPEAT",
    "RESHAPE",
    "SET_ROWS",
    "TRANSPOSE",
    "VIEW",
];

impl Class {
    /// The class of an operation.
    pub fn of(timed: &Timed) -> Self {
        let (op, weight) = (timed.op.as_str(), timed.weight.as_str());
        let has = |part: &str| weight.contains(part);
        match op {
            _ if op.ends_with("NORM") || has("_norm.") => Self::Norms,
            _ if op.starts_with("ROPE") || has("rope_") => Self::Rope,
            _ if op.ends_with("SCAN") => Self::Scan,
            _ if has("ffn_gate_inp.") || has("exp_probs_b") => Self::Router,
            "CHOOSE" | "WEIGH" | "ARGSORT" | "TOP_K" => Self::Router,
            "QUANTIZE" => Self::Rounding,
            "FLASH_ATTN_EXT" | "SOFT_MAX" => Self::Attention,
            _ if op.starts_with("ATTENTION") => Self::Attention,
            // Neither operand is stored: queries with keys, weights with values.
            "MUL_MAT" if weight.is_empty() => Self::Attention,
            _ if weight.is_empty() || ELEMENTWISE.contains(&op) => Self::Rest,
            _ if has("_exps") => Self::Experts,
            _ if has("ffn_") => Self::Dense,
            _ if has("attn_") || has("ssm_") => Self::Projections,
            _ if weight.starts_with("output") || weight.starts_with("token_embd") => Self::Output,
            _ => Self::Others,
        }
    }

    /// Whether it is the time of products with weights, of which rounding is a part.
    pub fn is_product(self) -> bool {
        matches!(
            self,
            Self::Experts
                | Self::Projections
                | Self::Dense
                | Self::Output
                | Self::Others
                | Self::Rounding
        )
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Experts => "experts",
            Self::Projections => "projections of attention",
            Self::Dense => "dense and shared feed-forward",
            Self::Output => "output matrix",
            Self::Others => "other matrices",
            Self::Rounding => "rounding for products",
            Self::Router => "router",
            Self::Norms => "norms",
            Self::Rope => "rope",
            Self::Scan => "scan",
            Self::Attention => "attention",
            Self::Rest => "everything else",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_belong_to_the_tensors_they_compute_with() {
        let cases = [
            (
                "EXPERTS_SWIGLU",
                "blk.3.ffn_gate_exps.weight",
                Class::Experts,
            ),
            ("MUL_MAT_ID", "blk.3.ffn_down_exps.weight", Class::Experts),
            ("MUL_MAT", "blk.3.ffn_gate_inp.weight", Class::Router),
            ("ADD", "blk.3.exp_probs_b.bias", Class::Router),
            ("CHOOSE", "", Class::Router),
            ("PRODUCT", "blk.3.ffn_up_shexp.weight", Class::Dense),
            ("PRODUCT_SWIGLU", "blk.0.ffn_gate.weight", Class::Dense),
            ("PRODUCT", "blk.3.attn_qkv.weight", Class::Projections),
            ("MUL_MAT", "blk.3.attn_k_b.weight", Class::Projections),
            ("MUL", "blk.3.attn_norm.weight", Class::Norms),
            ("RMS_NORM", "", Class::Norms),
            ("GATED_NORM", "blk.3.layer_output_norm.weight", Class::Norms),
            ("MUL", "output_norm.weight", Class::Norms),
            ("logits", "output.weight", Class::Output),
            ("MUL_MAT", "token_embd.weight", Class::Output),
            ("GET_ROWS", "token_embd.weight", Class::Rest),
            ("MUL_MAT", "blk.9.nextn.eh_proj.weight", Class::Others),
            ("MUL_MAT", "", Class::Attention),
            ("ATTENTION", "", Class::Attention),
            ("ROPE", "", Class::Rope),
            ("SSM_SCAN", "", Class::Scan),
            ("SCAN", "blk.3.attn_decay.weight", Class::Scan),
            ("QUANTIZE", "", Class::Rounding),
            ("ADD", "blk.3.attn_q.bias", Class::Rest),
            ("CONT", "", Class::Rest),
        ];
        for (op, weight, class) in cases {
            let timed = Timed {
                op: op.into(),
                weight: weight.into(),
                ..Timed::default()
            };
            assert_eq!(Class::of(&timed), class, "{op} {weight}");
        }
    }
}
