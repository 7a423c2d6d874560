//! From sizes to the keys and tensors of a file.

use std::path::Path;

use super::content::{self, Content};
use super::dims::Dims;
use super::{ExpertType, Recipe, SynthError, Written, vocab};
use crate::gguf::{GgmlType, Metadata, Shape, TensorPlan, Writer, WriterOptions};
use crate::planes::{PlaneLayout, is_width, signs_name};

/// Architecture and prefix of keys.
const ARCH: &str = "bailing_hybrid";
const EPS: f32 = 1e-6;
const FREQ_BASE: f32 = 6e6;
const EXPERT_SCALE: f32 = 2.5;
/// ggml's number of the sigmoid gate.
const GATING_SIGMOID: u32 = 2;

/// A matrix whose rows do not fit the wanted type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// The tensor, without its block's number.
    pub tensor: String,
    /// Length of its rows.
    pub row: u64,
    /// Wanted type.
    pub wanted: GgmlType,
    /// Type it gets.
    pub used: GgmlType,
}

/// A model that is ready to be written.
#[derive(Debug)]
pub struct Blueprint {
    metadata: Metadata,
    pub(super) tensors: Vec<(TensorPlan, Content)>,
    fallbacks: Vec<Fallback>,
    seed: u64,
    split_max_bytes: Option<u64>,
    sparse: bool,
}

impl Blueprint {
    /// Works out keys and tensors.
    ///
    /// # Errors
    /// Sizes that no model can have.
    pub fn new(recipe: &Recipe) -> Result<Self, SynthError> {
        let dims = &recipe.dims;
        dims.check()?;
        let mut metadata = Metadata::new();
        write_keys(&mut metadata, recipe);
        vocab::write(&mut metadata, dims.vocab);
        let mut list = List {
            recipe,
            tensors: Vec::new(),
            fallbacks: Vec::new(),
            planes: PlaneLayout::default(),
            prefix: String::new(),
        };
        let (hidden, n_vocab) = (u64::from(dims.hidden), u64::from(dims.vocab));
        list.matrix_of(
            "token_embd",
            &[hidden, n_vocab],
            recipe.embedding_ty.unwrap_or(recipe.ty),
        )?;
        for block in 0..dims.blocks() {
            list.block(dims, block)?;
        }
        list.prefix.clear();
        list.ones("output_norm", hidden)?;
        list.matrix_of(
            "output",
            &[hidden, n_vocab],
            recipe.output_ty.unwrap_or(recipe.ty),
        )?;
        list.declare_planes(&mut metadata)?;
        let List {
            tensors, fallbacks, ..
        } = list;
        Ok(Self {
            metadata,
            tensors,
            fallbacks,
            seed: recipe.seed,
            split_max_bytes: recipe.split_max_bytes,
            sparse: recipe.sparse,
        })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors
            .iter()
            .filter_map(|(t, _)| t.shape.bytes(t.ty))
            .sum()
    }

    /// Number of weights; one stored in two planes is one.
    pub fn n_params(&self) -> u64 {
        let weights = |(tensor, content): &(TensorPlan, Content)| match content {
            Content::Planes => tensor.shape.elements() / 2,
            Content::Signs => 0,
            _ => tensor.shape.elements(),
        };
        self.tensors.iter().map(weights).sum()
    }

    /// Matrices that get another type than wanted, one per kind of tensor.
    pub fn fallbacks(&self) -> &[Fallback] {
        &self.fallbacks
    }

    /// Makes the weights and writes the model. `progress` hears of bytes done, from several threads.
    ///
    /// # Errors
    /// A type that cannot be encoded to, or a disk that refuses; then nothing is left behind.
    pub fn write(
        self,
        path: &Path,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Written, SynthError> {
        let (plans, contents): (Vec<TensorPlan>, Vec<Content>) = self.tensors.into_iter().unzip();
        let contents: Vec<Content> = match self.sparse {
            true => contents.into_iter().map(Content::sparse).collect(),
            false => contents,
        };
        let rows = plans
            .iter()
            .zip(&contents)
            .map(|(plan, content)| (plan.ty, plan.shape.ne()[0], *content));
        let pools = content::Pools::make(rows, self.seed)?;
        let options = WriterOptions {
            split_max_bytes: self.split_max_bytes,
            alignment: None,
        };
        let writer = Writer::create(path, self.metadata, plans, &options)?;
        content::fill(&writer, &contents, &pools, self.seed, progress)?;
        Ok(writer.finish()?)
    }
}

/// Collects tensors in the order of the file.
struct List<'a> {
    recipe: &'a Recipe,
    tensors: Vec<(TensorPlan, Content)>,
    fallbacks: Vec<Fallback>,
    planes: PlaneLayout,
    /// `blk.N.`, or nothing.
    prefix: String,
}

impl List<'_> {
    fn block(&mut self, dims: &Dims, block: u32) -> Result<(), SynthError> {
        let hidden = u64::from(dims.hidden);
        self.prefix = format!("blk.{block}.");
        self.ones("attn_norm", hidden)?;
        if dims.is_mla(block) {
            self.mla(dims)?;
        } else {
            self.lightning(dims)?;
        }
        self.ones("ffn_norm", hidden)?;
        if block < dims.dense_layers {
            let ff = u64::from(dims.ff);
            self.feed_forward("", hidden, ff, None)?;
        } else {
            self.experts(dims)?;
        }
        if block >= dims.layers {
            self.matrix("nextn.eh_proj", &[2 * hidden, hidden])?;
            for name in ["nextn.enorm", "nextn.hnorm", "layer_output_norm"] {
                self.ones(name, hidden)?;
            }
        }
        Ok(())
    }

    fn lightning(&mut self, dims: &Dims) -> Result<(), SynthError> {
        let (hidden, head) = (u64::from(dims.hidden), u64::from(dims.head_dim));
        let inner = u64::from(dims.heads) * head;
        self.matrix("attn_qkv", &[hidden, 3 * inner])?;
        self.ones("attn_q_norm", head)?;
        self.ones("attn_k_norm", head)?;
        self.matrix("attn_gate", &[hidden, inner])?;
        self.ones("layer_output_norm", inner)?;
        self.matrix("attn_output", &[inner, hidden])
    }

    fn mla(&mut self, dims: &Dims) -> Result<(), SynthError> {
        let (hidden, heads) = (u64::from(dims.hidden), u64::from(dims.heads));
        let (nope, rope) = (u64::from(dims.head_dim), u64::from(dims.rope_dims));
        let (rank, q_rank) = (u64::from(dims.kv_lora), u64::from(dims.q_lora));
        if q_rank == 0 {
            self.matrix("attn_q", &[hidden, heads * (nope + rope)])?;
        } else {
            self.matrix("attn_q_a", &[hidden, q_rank])?;
            self.ones("attn_q_a_norm", q_rank)?;
            self.matrix("attn_q_b", &[q_rank, heads * (nope + rope)])?;
        }
        self.matrix("attn_kv_a_mqa", &[hidden, rank + rope])?;
        self.ones("attn_kv_a_norm", rank)?;
        self.matrix("attn_k_b", &[nope, rank, heads])?;
        self.matrix("attn_v_b", &[rank, nope, heads])?;
        self.matrix("attn_output", &[heads * nope, hidden])
    }

    fn experts(&mut self, dims: &Dims) -> Result<(), SynthError> {
        let (hidden, experts, ff) = (
            u64::from(dims.hidden),
            u64::from(dims.experts),
            u64::from(dims.expert_ff),
        );
        // Routers and their bias are F32 in every file.
        self.push(
            "ffn_gate_inp.weight",
            &[hidden, experts],
            GgmlType::F32,
            Content::Random,
        )?;
        self.push(
            "exp_probs_b.bias",
            &[experts],
            GgmlType::F32,
            Content::Zeros,
        )?;
        self.feed_forward("_exps", hidden, ff, Some(experts))?;
        self.feed_forward("_shexp", hidden, ff, None)
    }

    fn feed_forward(
        &mut self,
        suffix: &str,
        hidden: u64,
        ff: u64,
        experts: Option<u64>,
    ) -> Result<(), SynthError> {
        for (name, from, to) in [
            ("gate", hidden, ff),
            ("up", hidden, ff),
            ("down", ff, hidden),
        ] {
            let name = format!("ffn_{name}{suffix}");
            match experts {
                Some(experts) => self.expert_matrix(&name, [from, to, experts])?,
                None => self.matrix(&name, &[from, to])?,
            }
        }
        Ok(())
    }

    fn expert_matrix(&mut self, name: &str, shape: [u64; 3]) -> Result<(), SynthError> {
        let wanted = self
            .recipe
            .experts
            .unwrap_or(ExpertType::Plain(self.recipe.ty));
        let [row, rows, experts] = shape;
        match wanted {
            ExpertType::Plain(ty) => self.matrix_of(name, &shape, ty),
            ExpertType::Planes if is_width(row) => {
                let name = format!("{name}.weight");
                self.planes.tensors.insert(format!("{}{name}", self.prefix));
                self.planes
                    .codebooks
                    .insert(row as u32, content::codebook(row));
                let stored = [2 * row, rows, experts];
                self.push(&name, &stored, GgmlType::Q1_0, Content::Planes)
            }
            ExpertType::Planes => {
                let used = fitting(self.recipe.ty, row);
                self.fall_back(name, row, GgmlType::Q1_0, used);
                self.matrix_of(name, &shape, used)
            }
        }
    }

    /// Keys and signs of the planes, if there are any.
    fn declare_planes(&mut self, metadata: &mut Metadata) -> Result<(), SynthError> {
        if self.planes.tensors.is_empty() {
            return Ok(());
        }
        self.planes.write(metadata);
        let widths: Vec<u64> = self
            .planes
            .codebooks
            .keys()
            .map(|&w| u64::from(w))
            .collect();
        for width in widths {
            self.push(&signs_name(width), &[width], GgmlType::F32, Content::Signs)?;
        }
        Ok(())
    }

    fn ones(&mut self, name: &str, n: u64) -> Result<(), SynthError> {
        self.push(
            &format!("{name}.weight"),
            &[n],
            GgmlType::F32,
            Content::Ones,
        )
    }

    fn matrix(&mut self, name: &str, shape: &[u64]) -> Result<(), SynthError> {
        self.matrix_of(name, shape, self.recipe.ty)
    }

    fn matrix_of(&mut self, name: &str, shape: &[u64], wanted: GgmlType) -> Result<(), SynthError> {
        let used = fitting(wanted, shape[0]);
        if used != wanted {
            self.fall_back(name, shape[0], wanted, used);
        }
        self.push(&format!("{name}.weight"), shape, used, Content::Random)
    }

    /// Takes note of another type, once per kind of tensor.
    fn fall_back(&mut self, name: &str, row: u64, wanted: GgmlType, used: GgmlType) {
        if !self.fallbacks.iter().any(|f| f.tensor == name) {
            self.fallbacks.push(Fallback {
                tensor: name.to_owned(),
                row,
                wanted,
                used,
            });
        }
    }

    fn push(
        &mut self,
        name: &str,
        shape: &[u64],
        ty: GgmlType,
        content: Content,
    ) -> Result<(), SynthError> {
        let name = format!("{}{name}", self.prefix);
        let too_large = |_| SynthError::Size {
            what: "weights",
            expected: "fewer than 2^63 per matrix".into(),
            found: u64::MAX,
        };
        let shape = Shape::new(shape).map_err(too_large)?;
        self.tensors.push((TensorPlan { name, ty, shape }, content));
        Ok(())
    }
}

/// The type itself if rows of `row` weights are whole blocks of it, else the nearest type with blocks of 32 (as
/// llama.cpp chooses), else F16.
fn fitting(wanted: GgmlType, row: u64) -> GgmlType {
    use GgmlType as T;
    let fits = |ty: T| row.is_multiple_of(ty.block_size());
    if fits(wanted) {
        return wanted;
    }
    let small = match wanted {
        T::Q4_K => T::Q5_0,
        T::Q5_K => T::Q5_1,
        T::Q6_K => T::Q8_0,
        _ => T::IQ4_NL,
    };
    if fits(small) { small } else { T::F16 }
}

fn write_keys(metadata: &mut Metadata, recipe: &Recipe) {
    let dims = &recipe.dims;
    metadata.insert("general.architecture", ARCH);
    metadata.insert("general.name", recipe.name.as_str());
    metadata.insert(
        "general.description",
        "random weights, for measurements only",
    );
    metadata.insert("general.quantization_version", 2u32);
    if let Some(file_type) = file_type(recipe.ty) {
        metadata.insert("general.file_type", file_type);
    }
    let numbers = [
        ("block_count", dims.blocks()),
        ("context_length", dims.context),
        ("embedding_length", dims.hidden),
        ("feed_forward_length", dims.ff),
        ("vocab_size", dims.vocab),
        ("attention.head_count", dims.heads),
        ("attention.key_length", dims.head_dim),
        ("attention.value_length", dims.head_dim),
        ("attention.key_length_mla", dims.head_dim + dims.rope_dims),
        ("attention.value_length_mla", dims.head_dim),
        ("attention.kv_lora_rank", dims.kv_lora),
        ("attention.group_norm_groups", dims.norm_groups),
        ("full_attention_interval", dims.interval),
        ("leading_dense_block_count", dims.dense_layers),
        ("rope.dimension_count", dims.rope_dims),
        ("expert_count", dims.experts),
        ("expert_used_count", dims.experts_used),
        ("expert_group_count", dims.groups),
        ("expert_group_used_count", dims.groups_used),
        ("expert_gating_func", GATING_SIGMOID),
        ("expert_feed_forward_length", dims.expert_ff),
        ("expert_shared_feed_forward_length", dims.expert_ff),
        ("expert_shared_count", 1),
        ("nextn_predict_layers", u32::from(dims.mtp)),
    ];
    for (key, value) in numbers {
        metadata.insert(format!("{ARCH}.{key}"), value);
    }
    if dims.q_lora > 0 {
        metadata.insert(format!("{ARCH}.attention.q_lora_rank"), dims.q_lora);
    }
    let kv: Vec<i32> = (0..dims.blocks())
        .map(|block| i32::from(dims.is_mla(block)))
        .collect();
    metadata.insert(format!("{ARCH}.attention.head_count_kv"), kv);
    let floats = [
        ("attention.layer_norm_rms_epsilon", EPS),
        ("attention.group_norm_epsilon", EPS),
        ("rope.freq_base", FREQ_BASE),
        ("expert_weights_scale", EXPERT_SCALE),
    ];
    for (key, value) in floats {
        metadata.insert(format!("{ARCH}.{key}"), value);
    }
    metadata.insert(format!("{ARCH}.expert_weights_norm"), true);
}

/// llama.cpp's number of a file that is mostly of one type.
fn file_type(ty: GgmlType) -> Option<u32> {
    use GgmlType as T;
    Some(match ty {
        T::F32 => 0,
        T::F16 => 1,
        T::Q4_0 => 2,
        T::Q4_1 => 3,
        T::Q8_0 => 7,
        T::Q5_0 => 8,
        T::Q5_1 => 9,
        T::Q2_K => 10,
        T::Q3_K => 12,
        T::Q4_K => 15,
        T::Q5_K => 17,
        T::Q6_K => 18,
        T::IQ4_NL => 25,
        T::IQ4_XS => 30,
        T::BF16 => 32,
        _ => return None,
    })
}
