//! Random `bailing_hybrid` models of any shape, small enough to compute by hand.

use std::collections::BTreeMap;
use std::path::Path;

use oxling::gguf::{GgmlType, Metadata, Shape, TensorPlan, Writer, WriterOptions};

/// Hyper-parameters of a tiny model. Its blocks: MLA every `interval`-th, the first `n_dense` dense, the last the MTP block.
#[derive(Debug, Clone)]
pub struct TinyLing {
    pub name: &'static str,
    pub n_layer: usize,
    pub mtp: bool,
    pub n_embd: usize,
    pub n_head: usize,
    pub head_dim: usize,
    pub n_rot: usize,
    pub norm_groups: usize,
    pub interval: usize,
    pub q_lora: Option<usize>,
    pub kv_lora: usize,
    pub nope: usize,
    pub v_dim: usize,
    pub fused_kv_b: bool,
    pub n_dense: usize,
    pub n_ff: usize,
    pub n_expert: usize,
    pub n_used: usize,
    pub n_group: usize,
    pub n_group_used: usize,
    pub n_shared: usize,
    pub bias: bool,
    pub tied: bool,
    pub scalar_kv: bool,
    /// Stretch of the context by YaRN, and the context before.
    pub yarn: Option<(f32, u32)>,
    pub weight_type: GgmlType,
}

pub const N_VOCAB: usize = 260;
pub const EPS: f32 = 1e-6;
pub const THETA: f32 = 10_000.0;
pub const SCALE: f32 = 2.5;

impl TinyLing {
    pub const BASE: Self = Self {
        name: "base",
        n_layer: 4,
        mtp: true,
        n_embd: 64,
        n_head: 2,
        head_dim: 64,
        n_rot: 32,
        norm_groups: 4,
        interval: 2,
        q_lora: Some(32),
        kv_lora: 32,
        nope: 32,
        v_dim: 32,
        fused_kv_b: false,
        n_dense: 1,
        n_ff: 96,
        n_expert: 8,
        n_used: 2,
        n_group: 4,
        n_group_used: 2,
        n_shared: 1,
        bias: true,
        tied: false,
        scalar_kv: false,
        yarn: None,
        weight_type: GgmlType::F32,
    };

    pub fn is_mla(&self, layer: usize) -> bool {
        layer >= self.n_layer || (layer + 1).is_multiple_of(self.interval)
    }

    pub fn n_blocks(&self) -> usize {
        self.n_layer + usize::from(self.mtp)
    }

    /// Shapes of all tensors, innermost first.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (n, width) = (self.n_embd, self.n_head * self.head_dim);
        let mut all = vec![
            ("token_embd.weight".to_owned(), vec![n, N_VOCAB]),
            ("output_norm.weight".to_owned(), vec![n]),
        ];
        if !self.tied {
            all.push(("output.weight".to_owned(), vec![n, N_VOCAB]));
        }
        for layer in 0..self.n_blocks() {
            let mut add = |name: &str, shape: &[usize]| {
                all.push((format!("blk.{layer}.{name}"), shape.to_vec()))
            };
            add("attn_norm.weight", &[n]);
            add("ffn_norm.weight", &[n]);
            if self.is_mla(layer) {
                let (head, rope, heads) = (self.nope + self.n_rot, self.n_rot, self.n_head);
                match self.q_lora {
                    Some(rank) => {
                        add("attn_q_a.weight", &[n, rank]);
                        add("attn_q_a_norm.weight", &[rank]);
                        add("attn_q_b.weight", &[rank, heads * head]);
                    }
                    None => add("attn_q.weight", &[n, heads * head]),
                }
                add("attn_kv_a_mqa.weight", &[n, self.kv_lora + rope]);
                add("attn_kv_a_norm.weight", &[self.kv_lora]);
                if self.fused_kv_b {
                    add(
                        "attn_kv_b.weight",
                        &[self.kv_lora, heads * (self.nope + self.v_dim)],
                    );
                } else {
                    add("attn_k_b.weight", &[self.nope, self.kv_lora, heads]);
                    add("attn_v_b.weight", &[self.kv_lora, self.v_dim, heads]);
                }
                add("attn_output.weight", &[heads * self.v_dim, n]);
            } else {
                add("attn_qkv.weight", &[n, 3 * width]);
                add("attn_q_norm.weight", &[self.head_dim]);
                add("attn_k_norm.weight", &[self.head_dim]);
                add("attn_gate.weight", &[n, width]);
                add("layer_output_norm.weight", &[width]);
                add("attn_output.weight", &[width, n]);
            }
            if layer < self.n_dense {
                add("ffn_gate.weight", &[n, self.n_ff]);
                add("ffn_up.weight", &[n, self.n_ff]);
                add("ffn_down.weight", &[self.n_ff, n]);
            } else {
                add("ffn_gate_inp.weight", &[n, self.n_expert]);
                if self.bias {
                    add("exp_probs_b.bias", &[self.n_expert]);
                }
                add("ffn_gate_exps.weight", &[n, self.n_ff, self.n_expert]);
                add("ffn_up_exps.weight", &[n, self.n_ff, self.n_expert]);
                add("ffn_down_exps.weight", &[self.n_ff, n, self.n_expert]);
                if self.n_shared > 0 {
                    add("ffn_gate_shexp.weight", &[n, self.n_ff * self.n_shared]);
                    add("ffn_up_shexp.weight", &[n, self.n_ff * self.n_shared]);
                    add("ffn_down_shexp.weight", &[self.n_ff * self.n_shared, n]);
                }
            }
            if layer >= self.n_layer {
                add("nextn.eh_proj.weight", &[2 * n, n]);
                add("nextn.enorm.weight", &[n]);
                add("nextn.hnorm.weight", &[n]);
                add("layer_output_norm.weight", &[n]);
            }
        }
        all
    }

    /// Random values for every tensor: matrices keep the size of what they multiply, norms lie around 1.
    pub fn weights(&self) -> BTreeMap<String, Vec<f32>> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut uniform = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        let mut all = BTreeMap::new();
        for (name, shape) in self.shapes() {
            let count = shape.iter().product();
            let spread = (12.0 / shape[0] as f32).sqrt();
            let value = |_| match name.as_str() {
                n if n.contains("norm") => 1.0 + 0.4 * uniform(),
                n if n.ends_with("bias") => 0.2 * uniform(),
                n if n.starts_with("token_embd") => 2.0 * uniform(),
                _ => spread * uniform(),
            };
            let values: Vec<f32> = (0..count).map(value).collect();
            all.insert(name, values);
        }
        all
    }

    /// Keys of the contract, and a byte-level vocabulary.
    pub fn metadata(&self) -> Metadata {
        let mut md = Metadata::new();
        md.insert("general.architecture", "bailing_hybrid");
        md.insert("general.name", self.name);
        let mut key = |name: &str, value: usize| {
            md.insert(format!("bailing_hybrid.{name}"), value as u32);
        };
        key("block_count", self.n_blocks());
        key("nextn_predict_layers", usize::from(self.mtp));
        key("context_length", 256);
        key("embedding_length", self.n_embd);
        key("feed_forward_length", self.n_ff);
        key("attention.head_count", self.n_head);
        key("attention.key_length", self.head_dim);
        key("attention.value_length", self.head_dim);
        key("attention.key_length_mla", self.nope + self.n_rot);
        key("attention.value_length_mla", self.v_dim);
        if let Some(rank) = self.q_lora {
            key("attention.q_lora_rank", rank);
        }
        key("attention.kv_lora_rank", self.kv_lora);
        key("attention.group_norm_groups", self.norm_groups);
        key("full_attention_interval", self.interval);
        key("leading_dense_block_count", self.n_dense);
        key("rope.dimension_count", self.n_rot);
        key("expert_count", self.n_expert);
        key("expert_used_count", self.n_used);
        key("expert_group_count", self.n_group);
        key("expert_group_used_count", self.n_group_used);
        key("expert_gating_func", 2);
        key("expert_feed_forward_length", self.n_ff);
        key("expert_shared_count", self.n_shared);
        md.insert("bailing_hybrid.attention.layer_norm_rms_epsilon", EPS);
        md.insert("bailing_hybrid.rope.freq_base", THETA);
        md.insert("bailing_hybrid.expert_weights_scale", SCALE);
        if let Some((factor, original)) = self.yarn {
            md.insert("bailing_hybrid.rope.scaling.type", "yarn");
            md.insert("bailing_hybrid.rope.scaling.factor", factor);
            md.insert(
                "bailing_hybrid.rope.scaling.original_context_length",
                original,
            );
        }
        if self.scalar_kv {
            md.insert("bailing_hybrid.attention.head_count_kv", 1u32);
        } else {
            let kv: Vec<i32> = (0..self.n_blocks())
                .map(|l| i32::from(self.is_mla(l)) * if l < self.n_layer { 1 } else { 32 })
                .collect();
            md.insert("bailing_hybrid.attention.head_count_kv", kv);
        }
        vocabulary(&mut md);
        md
    }

    /// Vectors and routers are always F32.
    pub fn type_of(&self, name: &str, shape: &[usize]) -> GgmlType {
        if shape.len() > 1 && !name.contains("ffn_gate_inp") {
            self.weight_type
        } else {
            GgmlType::F32
        }
    }

    /// Writes the model with these weights.
    pub fn write(&self, path: &Path, weights: &BTreeMap<String, Vec<f32>>) {
        let shapes = self.shapes();
        let plan = |(name, shape): &(String, Vec<usize>)| {
            let dims: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
            TensorPlan {
                name: name.clone(),
                ty: self.type_of(name, shape),
                shape: Shape::new(&dims).expect("a shape"),
            }
        };
        let plans: Vec<TensorPlan> = shapes.iter().map(plan).collect();
        let types: Vec<GgmlType> = plans.iter().map(|p| p.ty).collect();
        let writer = Writer::create(path, self.metadata(), plans, &WriterOptions::default())
            .expect("creates");
        for (i, (name, shape)) in shapes.iter().enumerate() {
            let mut bytes = Vec::new();
            oxling::ggml::quantize(types[i], &weights[name], shape[0] as u64, None, &mut bytes)
                .expect("encodes");
            writer.write_tensor(i, &bytes).expect("writes");
        }
        writer.finish().expect("finishes");
    }
}

/// One token per byte, two control tokens, no merges.
fn vocabulary(md: &mut Metadata) {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut shifted = 0u32;
    let mut tokens: Vec<String> = (0..=255u8)
        .map(|b| {
            let c = if printable(b) {
                u32::from(b)
            } else {
                shifted += 1;
                255 + shifted
            };
            char::from_u32(c).expect("a character").to_string()
        })
        .collect();
    tokens.extend(
        [
            "<|startoftext|>",
            "<|endoftext|>",
            "<|role_end|>",
            "[PAD259]",
        ]
        .map(str::to_owned),
    );
    let mut types = vec![1i32; 256];
    types.extend([3, 3, 3, 5]);
    md.insert("tokenizer.ggml.model", "gpt2");
    md.insert("tokenizer.ggml.pre", "bailingmoe2");
    md.insert(
        "tokenizer.ggml.tokens",
        tokens.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    md.insert("tokenizer.ggml.token_type", types);
    md.insert("tokenizer.ggml.merges", Vec::<&str>::new());
    md.insert("tokenizer.ggml.eos_token_id", 258u32);
}
