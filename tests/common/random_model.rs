//! Random models of the common architectures, of any shape, in files that llama.cpp reads too.

use std::path::Path;

use oxling::gguf::{GgmlType, Metadata, Shape, TensorPlan, Writer, WriterOptions};
use rayon::prelude::*;

/// Hyper-parameters of a random model.
#[derive(Debug, Clone)]
pub struct RandomModel {
    pub name: &'static str,
    pub arch: &'static str,
    pub n_vocab: usize,
    pub n_layer: usize,
    /// Whether an MTP block follows.
    pub mtp: bool,
    pub n_embd: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub head_dim: usize,
    pub n_rot: usize,
    pub fused_qkv: bool,
    /// Whether queries, keys and values have biases.
    pub biases: bool,
    pub n_ff: usize,
    pub experts: Option<Experts>,
    pub mla: Option<MlaShape>,
    pub tied: bool,
    pub stretch: Stretch,
    pub weight_type: GgmlType,
}

/// The mixture of experts of a random model.
#[derive(Debug, Clone)]
pub struct Experts {
    pub n: usize,
    pub used: usize,
    pub n_ff: usize,
    pub groups: usize,
    pub groups_used: usize,
    pub shared: usize,
    /// Dense blocks before the first one with experts.
    pub n_dense: usize,
    pub sigmoid: bool,
    pub bias: bool,
    pub normalise: bool,
    pub scale: f32,
}

/// Latent attention of a random model.
#[derive(Debug, Clone)]
pub struct MlaShape {
    pub q_lora: Option<usize>,
    pub kv_lora: usize,
    pub nope: usize,
    pub v_dim: usize,
    /// The fused `attn_kv_b`, and keys as files had them then.
    pub legacy: bool,
}

/// How positions are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stretch {
    None,
    Linear(f32),
    Yarn {
        factor: f32,
        original: u32,
        log_multiplier: f32,
    },
    /// By a tensor of factors, as in Llama 3.
    Factors,
}

pub const EPS: f32 = 1e-6;
pub const THETA: f32 = 10_000.0;

const EXPERTS: Experts = Experts {
    n: 8,
    used: 2,
    n_ff: 64,
    groups: 1,
    groups_used: 1,
    shared: 0,
    n_dense: 0,
    sigmoid: false,
    bias: false,
    normalise: true,
    scale: 1.0,
};

impl RandomModel {
    /// A tiny model of an architecture.
    pub fn tiny(arch: &'static str) -> Self {
        let base = Self {
            name: "base",
            arch,
            n_vocab: 260,
            n_layer: 3,
            mtp: false,
            n_embd: 64,
            n_head: 4,
            n_head_kv: 2,
            head_dim: 16,
            n_rot: 16,
            fused_qkv: false,
            biases: false,
            n_ff: 96,
            experts: None,
            mla: None,
            tied: false,
            stretch: Stretch::None,
            weight_type: GgmlType::F32,
        };
        match arch {
            "qwen2" => Self {
                biases: true,
                ..base
            },
            "qwen3moe" => Self {
                experts: Some(EXPERTS),
                head_dim: 32,
                n_rot: 32,
                ..base
            },
            "bailingmoe2" => Self {
                mtp: true,
                fused_qkv: true,
                n_rot: 8,
                experts: Some(Experts {
                    groups: 4,
                    groups_used: 2,
                    shared: 1,
                    n_dense: 1,
                    sigmoid: true,
                    bias: true,
                    scale: 2.5,
                    ..EXPERTS
                }),
                ..base
            },
            "deepseek2" => Self {
                n_rot: 8,
                experts: Some(Experts {
                    shared: 2,
                    n_dense: 1,
                    normalise: false,
                    ..EXPERTS
                }),
                mla: Some(MlaShape {
                    q_lora: Some(32),
                    kv_lora: 32,
                    nope: 32,
                    v_dim: 32,
                    legacy: false,
                }),
                ..base
            },
            _ => base,
        }
    }

    /// Blocks in the file.
    pub fn n_blocks(&self) -> usize {
        self.n_layer + usize::from(self.mtp)
    }

    /// Whether queries and keys are normed.
    pub fn qk_norm(&self) -> bool {
        matches!(self.arch, "qwen3" | "qwen3moe" | "bailingmoe2")
    }

    /// Name of the MTP block's final norm.
    pub fn mtp_norm(&self) -> &'static str {
        if self.arch == "deepseek2" {
            "nextn.shared_head_norm.weight"
        } else {
            "layer_output_norm.weight"
        }
    }

    /// The experts of a block, unless it is dense.
    pub fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|e| layer >= e.n_dense)
    }

    /// Shapes of all tensors, innermost first.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let n = self.n_embd;
        let mut all = vec![
            ("token_embd.weight".to_owned(), vec![n, self.n_vocab]),
            ("output_norm.weight".to_owned(), vec![n]),
        ];
        if !self.tied {
            all.push(("output.weight".to_owned(), vec![n, self.n_vocab]));
        }
        if self.stretch == Stretch::Factors {
            all.push(("rope_freqs.weight".to_owned(), vec![self.n_rot / 2]));
        }
        for layer in 0..self.n_blocks() {
            let mut add = |name: &str, shape: &[usize]| {
                all.push((format!("blk.{layer}.{name}"), shape.to_vec()));
            };
            add("attn_norm.weight", &[n]);
            add("ffn_norm.weight", &[n]);
            match &self.mla {
                Some(mla) => self.mla_shapes(mla, &mut add),
                None => self.gqa_shapes(&mut add),
            }
            self.ffn_shapes(layer, &mut add);
            if layer >= self.n_layer {
                add("nextn.eh_proj.weight", &[2 * n, n]);
                add("nextn.enorm.weight", &[n]);
                add("nextn.hnorm.weight", &[n]);
                add(self.mtp_norm(), &[n]);
            }
        }
        all
    }

    fn gqa_shapes(&self, add: &mut dyn FnMut(&str, &[usize])) {
        let (n, d) = (self.n_embd, self.head_dim);
        let (q, kv) = (self.n_head * d, self.n_head_kv * d);
        if self.fused_qkv {
            add("attn_qkv.weight", &[n, q + 2 * kv]);
            if self.biases {
                add("attn_qkv.bias", &[q + 2 * kv]);
            }
        } else {
            for (name, width) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
                add(&format!("{name}.weight"), &[n, width]);
                if self.biases {
                    add(&format!("{name}.bias"), &[width]);
                }
            }
        }
        if self.qk_norm() {
            add("attn_q_norm.weight", &[d]);
            add("attn_k_norm.weight", &[d]);
        }
        add("attn_output.weight", &[q, n]);
    }

    fn mla_shapes(&self, mla: &MlaShape, add: &mut dyn FnMut(&str, &[usize])) {
        let (n, heads, latent) = (self.n_embd, self.n_head, mla.kv_lora);
        let head = mla.nope + self.n_rot;
        match mla.q_lora {
            Some(rank) => {
                add("attn_q_a.weight", &[n, rank]);
                add("attn_q_a_norm.weight", &[rank]);
                add("attn_q_b.weight", &[rank, heads * head]);
            }
            None => add("attn_q.weight", &[n, heads * head]),
        }
        add("attn_kv_a_mqa.weight", &[n, latent + self.n_rot]);
        add("attn_kv_a_norm.weight", &[latent]);
        if mla.legacy {
            add(
                "attn_kv_b.weight",
                &[latent, heads * (mla.nope + mla.v_dim)],
            );
        } else {
            add("attn_k_b.weight", &[mla.nope, latent, heads]);
            add("attn_v_b.weight", &[latent, mla.v_dim, heads]);
        }
        add("attn_output.weight", &[heads * mla.v_dim, n]);
    }

    fn ffn_shapes(&self, layer: usize, add: &mut dyn FnMut(&str, &[usize])) {
        let n = self.n_embd;
        let mut three = |suffix: &str, n_ff: usize, experts: &[usize]| {
            for (name, shape) in [("gate", [n, n_ff]), ("up", [n, n_ff]), ("down", [n_ff, n])] {
                add(
                    &format!("ffn_{name}{suffix}.weight"),
                    &[&shape, experts].concat(),
                );
            }
        };
        let Some(e) = self.experts_of(layer) else {
            return three("", self.n_ff, &[]);
        };
        three("_exps", e.n_ff, &[e.n]);
        if e.shared > 0 {
            three("_shexp", e.n_ff * e.shared, &[]);
        }
        add("ffn_gate_inp.weight", &[n, e.n]);
        if e.bias {
            add("exp_probs_b.bias", &[e.n]);
        }
    }

    /// Random values of one tensor: matrices keep the size of what they multiply, norms lie around 1.
    pub fn values(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        // Each tensor has a stream of its own, so that large models need not be held in memory.
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut state = seed;
        let mut uniform = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        let (centre, spread) = match name {
            n if n.contains("norm") => (1.0, 0.4),
            n if n.ends_with("bias") => (0.0, 0.4),
            n if n.starts_with("rope_freqs") => (4.0, 6.0),
            n if n.starts_with("token_embd") => (0.0, 2.0),
            _ => (0.0, (12.0 / shape[0] as f32).sqrt()),
        };
        let count = shape.iter().product();
        (0..count).map(|_| centre + spread * uniform()).collect()
    }

    /// Keys as llama.cpp's converter writes them, and a byte-level vocabulary.
    pub fn metadata(&self) -> Metadata {
        let mut md = Metadata::new();
        md.insert("general.architecture", self.arch);
        md.insert("general.name", self.name);
        let full = |name: &str| format!("{}.{name}", self.arch);
        let mut key = |name: &str, value: usize| {
            md.insert(full(name), value as u32);
        };
        key("block_count", self.n_blocks());
        key("context_length", 1024);
        key("embedding_length", self.n_embd);
        key("feed_forward_length", self.n_ff);
        key("attention.head_count", self.n_head);
        key("rope.dimension_count", self.n_rot);
        if self.mtp {
            key("nextn_predict_layers", 1);
        }
        match &self.mla {
            None => {
                key("attention.head_count_kv", self.n_head_kv);
                key("attention.key_length", self.head_dim);
                key("attention.value_length", self.head_dim);
            }
            Some(mla) => {
                // llama.cpp wants the key even where there is no rank, but for models of as many blocks as V2-Lite.
                key("attention.q_lora_rank", mla.q_lora.unwrap_or(0));
                key("attention.kv_lora_rank", mla.kv_lora);
                let head = mla.nope + self.n_rot;
                if mla.legacy {
                    key("attention.head_count_kv", self.n_head);
                    key("attention.key_length", head);
                    key("attention.value_length", mla.v_dim);
                } else {
                    key("attention.head_count_kv", 1);
                    key("attention.key_length", mla.kv_lora + self.n_rot);
                    key("attention.value_length", mla.kv_lora);
                    key("attention.key_length_mla", head);
                    key("attention.value_length_mla", mla.v_dim);
                }
            }
        }
        if let Some(e) = &self.experts {
            key("expert_count", e.n);
            key("expert_used_count", e.used);
            key("expert_feed_forward_length", e.n_ff);
            key("expert_shared_count", e.shared);
            key("expert_gating_func", 1 + usize::from(e.sigmoid));
            key("leading_dense_block_count", e.n_dense);
            if e.groups > 1 {
                key("expert_group_count", e.groups);
                key("expert_group_used_count", e.groups_used);
            }
            md.insert(full("expert_weights_norm"), e.normalise);
            md.insert(full("expert_weights_scale"), e.scale);
        }
        md.insert(full("attention.layer_norm_rms_epsilon"), EPS);
        md.insert(full("rope.freq_base"), THETA);
        self.stretch_keys(&mut md);
        vocabulary(&mut md, self.n_vocab);
        md
    }

    fn stretch_keys(&self, md: &mut Metadata) {
        let full = |name: &str| format!("{}.rope.scaling.{name}", self.arch);
        match self.stretch {
            Stretch::None | Stretch::Factors => {}
            Stretch::Linear(factor) => {
                md.insert(full("type"), "linear");
                md.insert(full("factor"), factor);
            }
            Stretch::Yarn {
                factor,
                original,
                log_multiplier,
            } => {
                md.insert(full("type"), "yarn");
                md.insert(full("factor"), factor);
                md.insert(full("original_context_length"), original);
                if log_multiplier != 0.0 {
                    md.insert(full("yarn_log_multiplier"), log_multiplier);
                }
            }
        }
    }

    /// Vectors and routers are always F32; rows that are no whole number of blocks are Q8_0.
    fn type_of(&self, name: &str, shape: &[usize]) -> GgmlType {
        if shape.len() == 1 || name.contains("ffn_gate_inp") {
            return GgmlType::F32;
        }
        let whole = (shape[0] as u64).is_multiple_of(self.weight_type.block_size());
        if whole {
            self.weight_type
        } else {
            GgmlType::Q8_0
        }
    }

    /// Writes the model.
    pub fn write(&self, path: &Path) {
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
        let writer = Writer::create(path, self.metadata(), plans, &WriterOptions::default())
            .expect("creates");
        for (i, (name, shape)) in shapes.iter().enumerate() {
            let n_rows = shape[1..].iter().product();
            let values = if matches!(self.name, "bench" | "flash") {
                self.values(name, &[shape[0], DIFFERENT_ROWS.min(n_rows)])
            } else {
                self.values(name, shape)
            };
            let ty = self.type_of(name, shape);
            let parts = values.par_chunks(shape[0] * ROWS_TOGETHER).map(|rows| {
                let mut bytes = Vec::new();
                oxling::ggml::quantize(ty, rows, shape[0] as u64, None, &mut bytes)
                    .expect("encodes");
                bytes
            });
            let bytes = parts.collect::<Vec<_>>().concat();
            let row = bytes.len() / (values.len() / shape[0]);
            let bytes: Vec<u8> = bytes.iter().copied().cycle().take(n_rows * row).collect();
            writer.write_tensor(i, &bytes).expect("writes");
        }
        writer.finish().expect("finishes");
    }
}

/// Rows that one thread encodes together.
const ROWS_TOGETHER: usize = 64;

/// Rows that a model to measure speed with encodes of each tensor, which takes long; they repeat.
const DIFFERENT_ROWS: usize = 256;

/// One token per byte, control tokens, and fillers up to `n`; no merges.
fn vocabulary(md: &mut Metadata, n: usize) {
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
    tokens.extend(["<|startoftext|>", "<|endoftext|>", "<|role_end|>"].map(str::to_owned));
    let mut types = vec![1i32; 256];
    types.extend([3, 3, 3]);
    tokens.extend((259..n).map(|id| format!("[PAD{id}]")));
    types.resize(n, 5);
    md.insert("tokenizer.ggml.model", "gpt2");
    md.insert("tokenizer.ggml.pre", "bailingmoe2");
    md.insert(
        "tokenizer.ggml.tokens",
        tokens.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    md.insert("tokenizer.ggml.token_type", types);
    md.insert("tokenizer.ggml.merges", Vec::<&str>::new());
    md.insert("tokenizer.ggml.bos_token_id", 256u32);
    md.insert("tokenizer.ggml.eos_token_id", 257u32);
    md.insert("tokenizer.ggml.add_bos_token", false);
}
