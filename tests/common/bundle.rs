//! JANGTQ bundles: the demo bundle in its other layout, and bundles of random weights in any shape.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE_SHARD: &str = "model-00001-of-00001.safetensors";
/// Inputs that share a scale and an offset in 8-bit tensors.
const AFFINE_GROUP: usize = 64;

/// The JANGTQ2 bundle of the demo model, prestacked.
pub fn demo_bundle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-ling-jangtq2")
}

fn is_shard(name: &str) -> bool {
    name.starts_with("model-") && name.ends_with(".safetensors")
}

/// Writes the weights of a prestacked bundle into `target`, every expert under names of its own.
pub fn unstack(source: &Path, target: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let mut shards = Vec::new();
    for entry in fs::read_dir(source)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_shard(&name) {
            shards.push(fs::read(source.join(name))?);
        } else if name != INDEX {
            fs::write(target.join(&name), fs::read(source.join(&name))?)?;
        }
    }
    let mut tensors = BTreeMap::new();
    for shard in &shards {
        let shard = SafeTensors::deserialize(shard).map_err(io::Error::other)?;
        for (name, view) in shard.tensors() {
            match name.split_once(".switch_mlp.") {
                Some((block, rest)) => tensors.extend(experts(&shard, block, rest)?),
                None => _ = tensors.insert(name, view),
            }
        }
    }
    let files = tensors
        .keys()
        .map(|name| (name.clone(), json!(SINGLE_SHARD)));
    let index =
        json!({"metadata": {"format": "jangtq"}, "weight_map": Value::Object(files.collect())});
    write_json(&target.join(INDEX), &index)?;
    safetensors::serialize_to_file(tensors, None, &target.join(SINGLE_SHARD))
        .map_err(io::Error::other)?;
    edit_json(&target.join("jang_config.json"), forget_layout)
}

/// What a converter leaves out for experts with tensors of their own.
fn forget_layout(jang_config: &mut Value) {
    if let Some(entries) = jang_config.as_object_mut() {
        entries.remove("routed_expert_layout");
    }
}

/// The parts of one stacked tensor; the width of codes is the same for every expert.
fn experts<'a>(
    shard: &SafeTensors<'a>,
    block: &str,
    rest: &str,
) -> io::Result<Vec<(String, TensorView<'a>)>> {
    let tensor = |rest: &str| {
        shard
            .tensor(&format!("{block}.switch_mlp.{rest}"))
            .map_err(io::Error::other)
    };
    let (projection, part) = rest.split_once('.').unwrap_or((rest, ""));
    let n_expert = tensor(&format!("{projection}.tq_norms"))?.shape()[0];
    let stacked = tensor(rest)?;
    let shared = part == "tq_bits";
    let bytes = stacked.data().len() / n_expert;
    let expert = |e: usize| {
        let (shape, data) = if shared {
            (stacked.shape(), stacked.data())
        } else {
            (&stacked.shape()[1..], &stacked.data()[e * bytes..][..bytes])
        };
        let view =
            TensorView::new(stacked.dtype(), shape.to_vec(), data).map_err(io::Error::other)?;
        Ok((format!("{block}.experts.{e}.{rest}"), view))
    };
    (0..n_expert).map(expert).collect()
}

/// The shape of a random bundle: layers as Ling has them, the last of each group an MLA layer.
#[derive(Debug, Clone)]
pub struct Dims {
    pub layers: usize,
    pub group: usize,
    pub dense: usize,
    pub mtp: bool,
    pub hidden: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub q_lora: usize,
    pub kv_lora: usize,
    pub nope: usize,
    pub rope: usize,
    pub v_dim: usize,
    pub dense_ff: usize,
    pub expert_ff: usize,
    pub experts: usize,
    pub experts_used: usize,
    pub expert_groups: usize,
    pub expert_groups_used: usize,
    pub gate_up_bits: usize,
    pub down_bits: usize,
    pub stacked: bool,
    pub shard_bytes: u64,
}

impl Dims {
    /// The layer shapes of Ling-2.6-flash. The vocabulary is the demo model's.
    pub fn flash(layers: usize) -> Self {
        Self {
            layers,
            group: layers.min(8),
            dense: 1,
            mtp: false,
            hidden: 4096,
            heads: 32,
            head_dim: 128,
            q_lora: 1536,
            kv_lora: 512,
            nope: 128,
            rope: 64,
            v_dim: 128,
            dense_ff: 9216,
            expert_ff: 1024,
            experts: 256,
            experts_used: 8,
            expert_groups: 8,
            expert_groups_used: 4,
            gate_up_bits: 2,
            down_bits: 2,
            stacked: true,
            shard_bytes: 1_000_000_000,
        }
    }

    /// The smallest shape that has everything: a Lightning and an MLA layer, dense and MoE, an MTP layer, shards.
    pub fn tiny() -> Self {
        Self {
            mtp: true,
            hidden: 128,
            heads: 2,
            head_dim: 64,
            q_lora: 64,
            kv_lora: 64,
            nope: 64,
            rope: 32,
            v_dim: 64,
            dense_ff: 192,
            expert_ff: 128,
            experts: 4,
            experts_used: 2,
            expert_groups: 2,
            expert_groups_used: 1,
            shard_bytes: 900_000,
            ..Self::flash(2)
        }
    }
}

/// What a tensor of a random bundle is filled with.
#[derive(Debug, Clone, Copy)]
enum Fill {
    /// Packed codes: any bits.
    Random,
    /// Norms of rows, around 1.
    Norms,
    /// The width of codes.
    Byte(u8),
    /// Steps of 8-bit weights of `1 / inputs` variance; one in eight is negative.
    Scales(usize),
    /// The offsets that centre the weights of [`Fill::Scales`] with the same seed.
    Biases(usize),
    Ones,
    /// f16 between -0.05 and 0.05.
    SmallF16,
    /// f32 between -0.05 and 0.05.
    SmallF32,
}

#[derive(Debug, Clone)]
struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    fill: Fill,
    seed: u64,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        let element = match self.dtype {
            Dtype::U8 => 1,
            Dtype::F16 => 2,
            _ => 4,
        };
        self.shape.iter().product::<usize>() as u64 * element
    }
}

/// All tensors of a bundle, in the order they are written.
struct Bundle<'a> {
    dims: &'a Dims,
    tensors: Vec<Tensor>,
}

impl Bundle<'_> {
    fn push(&mut self, name: String, dtype: Dtype, shape: &[usize], fill: Fill, seed: u64) {
        let shape = shape.to_vec();
        self.tensors.push(Tensor {
            name,
            dtype,
            shape,
            fill,
            seed,
        });
    }

    fn seed(&self) -> u64 {
        self.tensors.len() as u64 + 1
    }

    fn plain(&mut self, name: String, shape: &[usize], fill: Fill) {
        let dtype = if matches!(fill, Fill::SmallF32) {
            Dtype::F32
        } else {
            Dtype::F16
        };
        self.push(name, dtype, shape, fill, self.seed());
    }

    fn norm(&mut self, base: &str, n: usize) {
        self.plain(format!("{base}.weight"), &[n], Fill::Ones);
    }

    /// An 8-bit matrix.
    fn affine(&mut self, base: &str, out: usize, inputs: usize) {
        let (seed, groups) = (self.seed(), inputs / AFFINE_GROUP);
        self.push(
            format!("{base}.weight"),
            Dtype::U32,
            &[out, inputs / 4],
            Fill::Random,
            seed,
        );
        self.push(
            format!("{base}.scales"),
            Dtype::F16,
            &[out, groups],
            Fill::Scales(inputs),
            seed,
        );
        self.push(
            format!("{base}.biases"),
            Dtype::F16,
            &[out, groups],
            Fill::Biases(inputs),
            seed,
        );
    }

    /// One projection of all experts.
    fn experts(&mut self, block: &str, projection: &str, out: usize, inputs: usize, bits: usize) {
        let words = inputs.div_ceil(32 / bits);
        let n = self.dims.experts;
        let stacks: Vec<(String, Vec<usize>)> = if self.dims.stacked {
            vec![(format!("{block}.switch_mlp.{projection}"), vec![n])]
        } else {
            (0..n)
                .map(|e| (format!("{block}.experts.{e}.{projection}"), vec![]))
                .collect()
        };
        for (base, stack) in stacks {
            let seed = self.seed();
            let shape = |last: &[usize]| [&stack, last].concat();
            self.push(
                format!("{base}.tq_packed"),
                Dtype::U32,
                &shape(&[out, words]),
                Fill::Random,
                seed,
            );
            self.push(
                format!("{base}.tq_norms"),
                Dtype::F16,
                &shape(&[out]),
                Fill::Norms,
                seed,
            );
            self.push(
                format!("{base}.tq_bits"),
                Dtype::U8,
                &[1],
                Fill::Byte(bits as u8),
                seed,
            );
        }
    }

    fn feed_forward(&mut self, base: &str, width: usize) {
        let hidden = self.dims.hidden;
        self.affine(&format!("{base}.gate_proj"), width, hidden);
        self.affine(&format!("{base}.up_proj"), width, hidden);
        self.affine(&format!("{base}.down_proj"), hidden, width);
    }

    fn moe(&mut self, block: &str) {
        let Dims {
            hidden,
            expert_ff,
            experts,
            gate_up_bits,
            down_bits,
            ..
        } = *self.dims;
        self.plain(
            format!("{block}.gate.weight"),
            &[experts, hidden],
            Fill::SmallF16,
        );
        self.plain(
            format!("{block}.gate.expert_bias"),
            &[experts],
            Fill::SmallF32,
        );
        self.experts(block, "gate_proj", expert_ff, hidden, gate_up_bits);
        self.experts(block, "up_proj", expert_ff, hidden, gate_up_bits);
        self.experts(block, "down_proj", hidden, expert_ff, down_bits);
        self.feed_forward(&format!("{block}.shared_experts"), expert_ff);
    }

    fn lightning(&mut self, base: &str) {
        let Dims {
            hidden,
            heads,
            head_dim,
            ..
        } = *self.dims;
        let inner = heads * head_dim;
        self.affine(&format!("{base}.query_key_value"), 3 * inner, hidden);
        self.norm(&format!("{base}.query_layernorm"), head_dim);
        self.norm(&format!("{base}.key_layernorm"), head_dim);
        self.affine(&format!("{base}.g_proj"), inner, hidden);
        self.norm(&format!("{base}.g_norm"), inner);
        self.affine(&format!("{base}.dense"), hidden, inner);
    }

    fn latent(&mut self, base: &str) {
        let Dims {
            hidden,
            heads,
            q_lora,
            kv_lora,
            nope,
            rope,
            v_dim,
            ..
        } = *self.dims;
        self.affine(&format!("{base}.q_a_proj"), q_lora, hidden);
        self.norm(&format!("{base}.q_a_layernorm"), q_lora);
        self.affine(&format!("{base}.q_b_proj"), heads * (nope + rope), q_lora);
        self.affine(
            &format!("{base}.kv_a_proj_with_mqa"),
            kv_lora + rope,
            hidden,
        );
        self.norm(&format!("{base}.kv_a_layernorm"), kv_lora);
        self.affine(
            &format!("{base}.kv_b_proj"),
            heads * (nope + v_dim),
            kv_lora,
        );
        self.affine(&format!("{base}.dense"), hidden, heads * v_dim);
    }

    fn layer(&mut self, layer: usize) {
        let Dims {
            layers,
            group,
            dense,
            hidden,
            dense_ff,
            ..
        } = *self.dims;
        let base = format!("model.layers.{layer}");
        self.norm(&format!("{base}.input_layernorm"), hidden);
        self.norm(&format!("{base}.post_attention_layernorm"), hidden);
        let attention = format!("{base}.attention");
        if (layer + 1).is_multiple_of(group) || layer >= layers / group * group {
            self.latent(&attention);
        } else {
            self.lightning(&attention);
        }
        let block = format!("{base}.mlp");
        if layer < dense {
            self.feed_forward(&block, dense_ff);
        } else {
            self.moe(&block);
        }
        if layer == layers {
            for norm in ["enorm", "hnorm", "final_layernorm"] {
                self.norm(&format!("{base}.{norm}"), hidden);
            }
            self.affine(&format!("{base}.eh_proj"), hidden, 2 * hidden);
        }
    }
}

/// Writes a bundle of random weights. Memory does not grow with its size; the same `dims` give the same bytes.
pub fn synthetic(target: &Path, dims: &Dims) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let mut config = read_json(&demo_bundle().join("config.json"))?;
    let vocab = config["vocab_size"].as_u64().unwrap_or_default() as usize;
    let mut bundle = Bundle {
        dims,
        tensors: Vec::new(),
    };
    bundle.affine("model.word_embeddings", vocab, dims.hidden);
    for layer in 0..dims.layers + usize::from(dims.mtp) {
        bundle.layer(layer);
    }
    bundle.norm("model.norm", dims.hidden);
    bundle.affine("lm_head", vocab, dims.hidden);
    write_shards(target, &bundle.tensors, dims.shard_bytes)?;

    set_dims(&mut config, dims);
    set_bits(&mut config, dims);
    write_json(&target.join("config.json"), &config)?;
    let mut jang = read_json(&demo_bundle().join("jang_config.json"))?;
    jang["mxtq_bits"] = config["mxtq_bits"].clone();
    if !dims.stacked {
        forget_layout(&mut jang);
    }
    if dims.gate_up_bits == dims.down_bits {
        jang["profile"] = json!(format!("JANGTQ{}", dims.down_bits));
        jang["quantization"]["bits_default"] = json!(dims.down_bits);
    } else {
        jang["profile"] = json!("JANGTQ_K");
    }
    write_json(&target.join("jang_config.json"), &jang)?;
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    ] {
        fs::write(target.join(name), fs::read(demo_bundle().join(name))?)?;
    }
    Ok(())
}

fn set_dims(config: &mut Value, dims: &Dims) {
    for (key, value) in [
        ("num_hidden_layers", dims.layers),
        ("layer_group_size", dims.group),
        ("first_k_dense_replace", dims.dense),
        ("num_nextn_predict_layers", usize::from(dims.mtp)),
        ("hidden_size", dims.hidden),
        ("num_attention_heads", dims.heads),
        ("num_key_value_heads", dims.heads),
        ("head_dim", dims.head_dim),
        ("group_norm_size", dims.heads.min(4)),
        ("q_lora_rank", dims.q_lora),
        ("kv_lora_rank", dims.kv_lora),
        ("qk_nope_head_dim", dims.nope),
        ("qk_rope_head_dim", dims.rope),
        ("qk_head_dim", dims.nope + dims.rope),
        ("rotary_dim", dims.rope),
        ("v_head_dim", dims.v_dim),
        ("intermediate_size", dims.dense_ff),
        ("moe_intermediate_size", dims.expert_ff),
        ("moe_shared_expert_intermediate_size", dims.expert_ff),
        ("num_experts", dims.experts),
        ("num_experts_per_tok", dims.experts_used),
        ("n_group", dims.expert_groups),
        ("topk_group", dims.expert_groups_used),
    ] {
        config[key] = json!(value);
    }
    config["partial_rotary_factor"] = json!(dims.rope as f64 / dims.head_dim as f64);
}

fn set_bits(config: &mut Value, dims: &Dims) {
    let (gate_up, down) = (dims.gate_up_bits, dims.down_bits);
    let bits = if gate_up == down {
        json!(down)
    } else {
        json!({"gate_proj": gate_up, "up_proj": gate_up, "down_proj": down})
    };
    config["mxtq_bits"]["routed_expert"] = bits.clone();
    config["quantization"]["mxtq_bits"] = config["mxtq_bits"].clone();
    config["quantization"]["routed_expert_bits"] = bits;
}

fn write_shards(target: &Path, tensors: &[Tensor], shard_bytes: u64) -> io::Result<()> {
    let mut shards: Vec<Vec<&Tensor>> = vec![Vec::new()];
    let mut used = 0;
    for tensor in tensors {
        if used >= shard_bytes {
            shards.push(Vec::new());
            used = 0;
        }
        used += tensor.bytes();
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    let mut files = serde_json::Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        files.extend(
            shard
                .iter()
                .map(|tensor| (tensor.name.clone(), json!(name))),
        );
        write_shard(&target.join(&name), shard)?;
    }
    let total: u64 = tensors.iter().map(Tensor::bytes).sum();
    let metadata = json!({"format": "jangtq", "total_size": total});
    write_json(
        &target.join(INDEX),
        &json!({"metadata": metadata, "weight_map": files}),
    )
}

fn write_shard(path: &Path, tensors: &[&Tensor]) -> io::Result<()> {
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes();
        let entry =
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]});
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for tensor in tensors {
        write_data(&mut out, tensor)?;
    }
    out.flush()
}

/// Numbers that are random enough: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// Between -1 and 1.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn write_data(out: &mut impl Write, tensor: &Tensor) -> io::Result<()> {
    let mut random = Random(tensor.seed << 32);
    let count = tensor.shape.iter().product::<usize>();
    let mut halves = |next: &mut dyn FnMut(&mut Random) -> f32| -> io::Result<()> {
        (0..count).try_for_each(|_| out.write_all(&f16::from_f32(next(&mut random)).to_le_bytes()))
    };
    match tensor.fill {
        Fill::Norms => halves(&mut |random| 1.0 + 0.2 * random.signed()),
        Fill::Ones => halves(&mut |_| 1.0),
        Fill::SmallF16 => halves(&mut |random| 0.05 * random.signed()),
        Fill::Scales(inputs) => halves(&mut |random| scale(random, inputs)),
        Fill::Biases(inputs) => halves(&mut |random| -127.5 * scale(random, inputs)),
        Fill::Byte(value) => out.write_all(&vec![value; count]),
        Fill::SmallF32 => {
            (0..count).try_for_each(|_| out.write_all(&(0.05 * random.signed()).to_le_bytes()))
        }
        Fill::Random => {
            let mut rest = tensor.bytes() as usize;
            while rest > 0 {
                let word = random.next().to_le_bytes();
                let length = rest.min(word.len());
                out.write_all(&word[..length])?;
                rest -= length;
            }
            Ok(())
        }
    }
}

/// The step between 8-bit weights whose variance is `1 / inputs`, give or take a fifth.
fn scale(random: &mut Random, inputs: usize) -> f32 {
    let sign = if random.next().is_multiple_of(8) {
        -1.0
    } else {
        1.0
    };
    let step = (12.0 / inputs as f32).sqrt() / 255.0 * (1.0 + 0.2 * random.signed());
    // What f16 keeps of it, so that offsets fit.
    sign * f16::from_f32(step).to_f32()
}

fn read_json(path: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn write_json(path: &Path, value: &Value) -> io::Result<()> {
    fs::write(path, serde_json::to_vec_pretty(value)?)
}

/// Changes a JSON file of a bundle.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) -> io::Result<()> {
    let mut value = read_json(path)?;
    edit(&mut value);
    write_json(path, &value)
}
