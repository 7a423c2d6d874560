//! Which tensors a `bailing_hybrid` file has, and which of the checkpoint's each one is made from.

use super::super::wanted::{Class, Projection, Recipe, Wanted};
use super::Dims;

/// All tensors in the order of the file. Shapes are ggml's, row length first.
pub(in super::super) fn wanted(dims: &Dims, has_router_bias: bool) -> Vec<Wanted> {
    let mut list = List {
        dims,
        tensors: Vec::new(),
    };
    let (n_embd, n_vocab) = (dims.n_embd, dims.n_vocab);
    list.matrix(
        Class::Embedding,
        "token_embd",
        "model.word_embeddings",
        [n_embd, n_vocab],
    );
    list.vector("output_norm", "model.norm", n_embd);
    if !dims.tied {
        list.matrix(Class::Output, "output", "lm_head", [n_embd, n_vocab]);
    }
    for layer in 0..dims.n_block() {
        list.block(layer, has_router_bias);
    }
    list.tensors
}

struct List<'a> {
    dims: &'a Dims,
    tensors: Vec<Wanted>,
}

impl List<'_> {
    fn block(&mut self, layer: u32, has_router_bias: bool) {
        let d = self.dims;
        let (to, from) = (format!("blk.{layer}"), format!("model.layers.{layer}"));
        self.vector(
            &format!("{to}.attn_norm"),
            &format!("{from}.input_layernorm"),
            d.n_embd,
        );
        self.vector(
            &format!("{to}.ffn_norm"),
            &format!("{from}.post_attention_layernorm"),
            d.n_embd,
        );
        if layer >= d.n_layer || d.is_mla(layer) {
            self.mla(&to, &format!("{from}.attention"));
        } else {
            self.lightning(&to, &format!("{from}.attention"));
        }
        if layer < d.n_dense {
            self.swiglu(Class::Dense, &to, "", &format!("{from}.mlp"), d.n_ff);
        } else {
            self.experts(&to, &format!("{from}.mlp"), has_router_bias);
        }
        if layer >= d.n_layer {
            self.matrix(
                Class::Mtp,
                &format!("{to}.nextn.eh_proj"),
                &format!("{from}.eh_proj"),
                [2 * d.n_embd, d.n_embd],
            );
            self.vector(
                &format!("{to}.nextn.enorm"),
                &format!("{from}.enorm"),
                d.n_embd,
            );
            self.vector(
                &format!("{to}.nextn.hnorm"),
                &format!("{from}.hnorm"),
                d.n_embd,
            );
            self.vector(
                &format!("{to}.layer_output_norm"),
                &format!("{from}.final_layernorm"),
                d.n_embd,
            );
        }
    }

    fn lightning(&mut self, to: &str, from: &str) {
        let d = self.dims;
        let width = d.n_head * d.head_dim;
        let class = Class::Attention;
        self.matrix(
            class,
            &format!("{to}.attn_output"),
            &format!("{from}.dense"),
            [width, d.n_embd],
        );
        self.matrix(
            class,
            &format!("{to}.attn_qkv"),
            &format!("{from}.query_key_value"),
            [d.n_embd, 3 * width],
        );
        self.vector(
            &format!("{to}.attn_q_norm"),
            &format!("{from}.query_layernorm"),
            d.head_dim,
        );
        self.vector(
            &format!("{to}.attn_k_norm"),
            &format!("{from}.key_layernorm"),
            d.head_dim,
        );
        self.matrix(
            class,
            &format!("{to}.attn_gate"),
            &format!("{from}.g_proj"),
            [d.n_embd, width],
        );
        self.vector(
            &format!("{to}.layer_output_norm"),
            &format!("{from}.g_norm"),
            width,
        );
    }

    fn mla(&mut self, to: &str, from: &str) {
        let d = self.dims;
        let q_width = d.n_head * (d.nope + d.rope_dim);
        let class = Class::Attention;
        self.matrix(
            class,
            &format!("{to}.attn_output"),
            &format!("{from}.dense"),
            [d.n_head * d.v_dim, d.n_embd],
        );
        match d.q_lora {
            Some(rank) => {
                self.matrix(
                    class,
                    &format!("{to}.attn_q_a"),
                    &format!("{from}.q_a_proj"),
                    [d.n_embd, rank],
                );
                self.vector(
                    &format!("{to}.attn_q_a_norm"),
                    &format!("{from}.q_a_layernorm"),
                    rank,
                );
                self.matrix(
                    class,
                    &format!("{to}.attn_q_b"),
                    &format!("{from}.q_b_proj"),
                    [rank, q_width],
                );
            }
            None => self.matrix(
                class,
                &format!("{to}.attn_q"),
                &format!("{from}.q_proj"),
                [d.n_embd, q_width],
            ),
        }
        self.matrix(
            class,
            &format!("{to}.attn_kv_a_mqa"),
            &format!("{from}.kv_a_proj_with_mqa"),
            [d.n_embd, d.kv_lora + d.rope_dim],
        );
        self.vector(
            &format!("{to}.attn_kv_a_norm"),
            &format!("{from}.kv_a_layernorm"),
            d.kv_lora,
        );
        self.heads(to, &format!("{from}.kv_b_proj"));
    }

    /// The fused matrix from latents to keys and values, taken apart as the absorbed form of MLA needs it.
    fn heads(&mut self, to: &str, base: &str) {
        let d = self.dims;
        let dims = |ne: [u32; 3]| ne.map(u64::from).to_vec();
        for (name, ne, keys) in [
            ("attn_k_b", [d.nope, d.kv_lora, d.n_head], true),
            ("attn_v_b", [d.kv_lora, d.v_dim, d.n_head], false),
        ] {
            self.tensors.push(Wanted {
                name: format!("{to}.{name}.weight"),
                ne: dims(ne),
                class: Class::Attention,
                recipe: Recipe::Heads {
                    base: base.to_owned(),
                    n_head: d.n_head,
                    nope: d.nope,
                    v_dim: d.v_dim,
                    keys,
                },
            });
        }
    }

    fn swiglu(&mut self, class: Class, to: &str, suffix: &str, from: &str, n_ff: u32) {
        let n_embd = self.dims.n_embd;
        for (name, shape) in [
            ("gate", [n_embd, n_ff]),
            ("up", [n_embd, n_ff]),
            ("down", [n_ff, n_embd]),
        ] {
            self.matrix(
                class,
                &format!("{to}.ffn_{name}{suffix}"),
                &format!("{from}.{name}_proj"),
                shape,
            );
        }
    }

    fn experts(&mut self, to: &str, from: &str, has_router_bias: bool) {
        let d = self.dims;
        self.tensors.push(Wanted {
            name: format!("{to}.ffn_gate_inp.weight"),
            ne: vec![d.n_embd.into(), d.n_expert.into()],
            class: Class::Router,
            recipe: Recipe::Matrix {
                base: format!("{from}.gate"),
            },
        });
        if has_router_bias {
            let names = ["expert_bias", "e_score_correction_bias"];
            self.tensors.push(Wanted {
                name: format!("{to}.exp_probs_b.bias"),
                ne: vec![d.n_expert.into()],
                class: Class::Router,
                recipe: Recipe::Vector {
                    names: names.map(|n| format!("{from}.gate.{n}")).to_vec(),
                },
            });
        }
        for (projection, shape) in [
            (Projection::Gate, [d.n_embd, d.n_ff_expert]),
            (Projection::Up, [d.n_embd, d.n_ff_expert]),
            (Projection::Down, [d.n_ff_expert, d.n_embd]),
        ] {
            let name = projection.name();
            self.tensors.push(Wanted {
                name: format!("{to}.ffn_{name}_exps.weight"),
                ne: vec![shape[0].into(), shape[1].into(), d.n_expert.into()],
                class: Class::Expert(projection),
                recipe: Recipe::Experts {
                    stacked: format!("{from}.switch_mlp.{name}_proj"),
                    each: (0..d.n_expert)
                        .map(|e| format!("{from}.experts.{e}.{name}_proj"))
                        .collect(),
                },
            });
        }
        if d.n_shared > 0 {
            let n_ff = d.n_shared.saturating_mul(d.n_ff_shared);
            self.swiglu(
                Class::Shared,
                to,
                "_shexp",
                &format!("{from}.shared_experts"),
                n_ff,
            );
        }
    }

    fn matrix(&mut self, class: Class, to: &str, base: &str, shape: [u32; 2]) {
        self.tensors.push(Wanted {
            name: format!("{to}.weight"),
            ne: shape.map(u64::from).to_vec(),
            class,
            recipe: Recipe::Matrix {
                base: base.to_owned(),
            },
        });
    }

    fn vector(&mut self, to: &str, from: &str, n: u32) {
        self.tensors.push(Wanted {
            name: format!("{to}.weight"),
            ne: vec![n.into()],
            class: Class::Norm,
            recipe: Recipe::Vector {
                names: vec![format!("{from}.weight")],
            },
        });
    }
}
