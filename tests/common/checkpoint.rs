//! The weights of a JANGTQ bundle as a Hugging Face checkpoint in any of its usual forms.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use oxling::import::codec::{CodecOptions, StoredMatrix};
use oxling::import::mxtq::{Bits, Codec};
use oxling::import::source::Checkpoint;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

const SHARD: &str = "model.safetensors";
/// Rows and columns that share a scale in FP8 checkpoints.
const FP8_BLOCK: usize = 128;
/// Weights that share a scale in int4 checkpoints.
const INT4_GROUP: usize = 32;

/// How a checkpoint stores its matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Bf16,
    F16,
    F32,
    /// e4m3 with scales per block; embedding, output and router are bf16.
    Fp8,
    /// compressed-tensors' packed integers for routed experts; all else is bf16.
    Int4,
}

/// What the checkpoint's matrices mean, by their names in the checkpoint.
pub struct Expected(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

struct Part {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Writes the bundle in `source`, experts apart, as a checkpoint of this form.
pub fn rewrite(source: &Path, target: &Path, form: Form) -> Expected {
    fs::create_dir_all(target).unwrap();
    let bundle = Checkpoint::open(source).unwrap();
    let (mut parts, mut expected) = (BTreeMap::new(), BTreeMap::new());
    for (name, shape, values) in decoded(&bundle) {
        let kept = if shape.len() == 1 {
            store(&name, &shape, &values, Form::F32, &mut parts)
        } else {
            let router = name.ends_with(".gate.weight");
            let ends = name.contains("word_embeddings") || name.contains("lm_head");
            let form = match form {
                Form::Fp8 if router || ends => Form::Bf16,
                Form::Int4 if !name.contains(".experts.") => Form::Bf16,
                form => form,
            };
            store(&name, &shape, &values, form, &mut parts)
        };
        expected.insert(name, (shape, kept));
    }
    save(&target.join(SHARD), &parts);
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    ] {
        fs::copy(source.join(name), target.join(name)).unwrap();
    }
    let mut config = bundle.config().clone();
    let keys = config.as_object_mut().unwrap();
    for key in ["quantization", "mxtq_bits", "weight_format"] {
        keys.remove(key);
    }
    let quantization = match form {
        Form::Fp8 => json!({"quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]}),
        Form::Int4 => json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
        _ => json!(null),
    };
    keys.insert("quantization_config".into(), quantization);
    fs::write(target.join("config.json"), config.to_string()).unwrap();
    Expected(expected)
}

/// Takes tensors out of a checkpoint that [`rewrite`] made.
pub fn drop_tensors(folder: &Path, gone: impl Fn(&str) -> bool) {
    let bytes = fs::read(folder.join(SHARD)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let kept = tensors
        .tensors()
        .into_iter()
        .filter(|(name, _)| !gone(name));
    safetensors::serialize_to_file(kept, None, &folder.join(SHARD)).unwrap();
}

fn save(path: &Path, parts: &BTreeMap<String, Part>) {
    let view = |p: &'_ Part| {
        TensorView::new(p.dtype, p.shape.clone(), &p.bytes).map(|v| (v.dtype(), v.shape().to_vec()))
    };
    for (name, part) in parts {
        view(part).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let views = parts.iter().map(|(name, p)| {
        (
            name,
            TensorView::new(p.dtype, p.shape.clone(), &p.bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Every weight of the bundle as numbers, under the name of a checkpoint that stores plain ones.
fn decoded(bundle: &Checkpoint) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let options = CodecOptions::from_config(bundle).unwrap();
    let mut all = Vec::new();
    for tensor in bundle.tensors() {
        let shape: Vec<usize> = tensor.shape.iter().map(|&n| n as usize).collect();
        if let Some(base) = tensor.name.strip_suffix(".tq_packed") {
            let (shape, values) = decode_mxtq(bundle, base, &shape);
            all.push((format!("{base}.weight"), shape, values));
            continue;
        }
        let part = [".scales", ".biases", ".tq_norms", ".tq_bits"];
        if part.iter().any(|end| tensor.name.ends_with(end)) {
            continue;
        }
        let base = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let matrix = StoredMatrix::find(bundle, base, &options).unwrap().unwrap();
        let mut values = Vec::new();
        matrix
            .rows(bundle, 0..matrix.n_rows(), &mut values)
            .unwrap();
        let shape = matrix.shape().iter().map(|&n| n as usize).collect();
        all.push((tensor.name.clone(), shape, values));
    }
    all
}

fn decode_mxtq(bundle: &Checkpoint, base: &str, packed_shape: &[usize]) -> (Vec<usize>, Vec<f32>) {
    let read = |part: &str| {
        let (tensor, mut bytes) = (
            bundle.tensor(&format!("{base}.{part}")).unwrap(),
            Vec::new(),
        );
        bundle.read(tensor, 0..tensor.bytes, &mut bytes).unwrap();
        bytes
    };
    let bits = Bits::new(read("tq_bits")[0].into()).unwrap();
    let n = packed_shape[1] * bits.codes_per_word();
    let codec = Codec::new(n, bits, 42);
    let mut values = vec![0.0; packed_shape[0] * n];
    let (packed, norms) = (read("tq_packed"), read("tq_norms"));
    let rows = packed
        .chunks_exact(codec.row_bytes())
        .zip(norms.chunks_exact(2));
    for ((packed, norm), out) in rows.zip(values.chunks_exact_mut(n)) {
        codec
            .decode_row(packed, f16::from_le_bytes([norm[0], norm[1]]), out)
            .unwrap();
    }
    (vec![packed_shape[0], n], values)
}

/// Adds the tensors that store a matrix, and gives the values they stand for.
fn store(
    name: &str,
    shape: &[usize],
    values: &[f32],
    form: Form,
    parts: &mut BTreeMap<String, Part>,
) -> Vec<f32> {
    let mut add = |name: String, dtype, shape: &[usize], bytes: Vec<u8>| {
        let shape = shape.to_vec();
        parts.insert(
            name,
            Part {
                dtype,
                shape,
                bytes,
            },
        );
    };
    let base = name.strip_suffix(".weight").unwrap_or(name);
    match form {
        Form::F32 => {
            add(
                name.into(),
                Dtype::F32,
                shape,
                values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            );
            values.to_vec()
        }
        Form::F16 => {
            let rounded: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
            add(
                name.into(),
                Dtype::F16,
                shape,
                rounded.iter().flat_map(|v| v.to_le_bytes()).collect(),
            );
            rounded.iter().map(|v| v.to_f32()).collect()
        }
        Form::Bf16 => {
            let rounded: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
            add(
                name.into(),
                Dtype::BF16,
                shape,
                rounded.iter().flat_map(|v| v.to_le_bytes()).collect(),
            );
            rounded.iter().map(|v| v.to_f32()).collect()
        }
        Form::Fp8 => {
            let (codes, scales, scale_shape, kept) = fp8(shape, values);
            add(name.into(), Dtype::F8_E4M3, shape, codes);
            let bytes = scales.iter().flat_map(|v| v.to_le_bytes()).collect();
            add(
                format!("{base}.weight_scale_inv"),
                Dtype::F32,
                &scale_shape,
                bytes,
            );
            kept
        }
        Form::Int4 => {
            let (packed, scales, kept) = int4(values);
            add(
                format!("{base}.weight_packed"),
                Dtype::I32,
                &[shape[0], shape[1] / 8],
                packed,
            );
            let bytes = scales.iter().flat_map(|v| v.to_le_bytes()).collect();
            add(
                format!("{base}.weight_scale"),
                Dtype::BF16,
                &[shape[0], shape[1] / INT4_GROUP],
                bytes,
            );
            let extents = shape
                .iter()
                .flat_map(|&n| (n as i64).to_le_bytes())
                .collect();
            add(format!("{base}.weight_shape"), Dtype::I64, &[2], extents);
            kept
        }
    }
}

/// Codes, scales and their shape, and what they stand for.
fn fp8(shape: &[usize], values: &[f32]) -> (Vec<u8>, Vec<f32>, Vec<usize>, Vec<f32>) {
    let levels: Vec<f32> = (0..127u8).map(e4m3).collect();
    let (rows, columns) = (shape[0], shape[1]);
    let grid = [rows.div_ceil(FP8_BLOCK), columns.div_ceil(FP8_BLOCK)];
    let block = |i: usize| i / columns / FP8_BLOCK * grid[1] + i % columns / FP8_BLOCK;
    let mut scales = vec![f32::MIN_POSITIVE; grid[0] * grid[1]];
    for (i, v) in values.iter().enumerate() {
        scales[block(i)] = scales[block(i)].max(v.abs() / 448.0);
    }
    let encode = |(i, v): (usize, &f32)| {
        let target = v.abs() / scales[block(i)];
        let at = levels
            .partition_point(|l| *l < target)
            .min(levels.len() - 1);
        let below = at.saturating_sub(1);
        let near = if target - levels[below] < levels[at] - target {
            below
        } else {
            at
        };
        near as u8 | u8::from(v.is_sign_negative()) << 7
    };
    let codes: Vec<u8> = values.iter().enumerate().map(encode).collect();
    let value = |(i, &code): (usize, &u8)| e4m3(code) * scales[block(i)];
    let kept = codes.iter().enumerate().map(value).collect();
    (codes, scales, grid.to_vec(), kept)
}

/// By the definition: a sign, four bits of exponent with bias 7, three of mantissa.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match exponent {
        0 => mantissa / 8.0 * 2f32.powi(-6),
        e => (1.0 + mantissa / 8.0) * 2f32.powi(e - 7),
    };
    if code & 128 == 0 { size } else { -size }
}

/// Packed codes, scales, and what they stand for.
fn int4(values: &[f32]) -> (Vec<u8>, Vec<bf16>, Vec<f32>) {
    let (mut packed, mut scales, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for group in values.chunks_exact(INT4_GROUP) {
        let max = group
            .iter()
            .fold(f32::MIN_POSITIVE, |max, v| max.max(v.abs()));
        let scale = bf16::from_f32(max / 7.0);
        let code = |v: &f32| (v / scale.to_f32()).round().clamp(-8.0, 7.0);
        kept.extend(group.iter().map(|v| code(v) * scale.to_f32()));
        let nibble = |v: &f32| (code(v) + 8.0) as u8;
        packed.extend(
            group
                .chunks_exact(2)
                .map(|pair| nibble(&pair[0]) | nibble(&pair[1]) << 4),
        );
        scales.push(scale);
    }
    (packed, scales, kept)
}

impl Expected {
    /// The values of tensors of the new file, by their names there.
    pub fn tensors(&self) -> Vec<(String, Vec<f32>)> {
        let plain = [
            ("token_embd", "model.word_embeddings"),
            ("output", "lm_head"),
            ("output_norm", "model.norm"),
            ("blk.0.attn_qkv", "model.layers.0.attention.query_key_value"),
            ("blk.0.attn_gate", "model.layers.0.attention.g_proj"),
            ("blk.0.layer_output_norm", "model.layers.0.attention.g_norm"),
            ("blk.0.ffn_down", "model.layers.0.mlp.down_proj"),
            ("blk.1.attn_q_b", "model.layers.1.attention.q_b_proj"),
            (
                "blk.1.attn_kv_a_mqa",
                "model.layers.1.attention.kv_a_proj_with_mqa",
            ),
            ("blk.1.ffn_gate_inp", "model.layers.1.mlp.gate"),
            (
                "blk.1.ffn_up_shexp",
                "model.layers.1.mlp.shared_experts.up_proj",
            ),
            ("blk.2.nextn.eh_proj", "model.layers.2.eh_proj"),
            ("blk.2.layer_output_norm", "model.layers.2.final_layernorm"),
        ];
        let mut tensors: Vec<(String, Vec<f32>)> = plain
            .iter()
            .map(|(to, from)| {
                (
                    format!("{to}.weight"),
                    self.0[&format!("{from}.weight")].1.clone(),
                )
            })
            .collect();
        for layer in [1, 2] {
            for projection in ["gate", "up", "down"] {
                let name = |e: usize| {
                    format!("model.layers.{layer}.mlp.experts.{e}.{projection}_proj.weight")
                };
                let stack = (0..)
                    .map_while(|e| self.0.get(&name(e)))
                    .flat_map(|(_, v)| v.clone());
                tensors.push((
                    format!("blk.{layer}.ffn_{projection}_exps.weight"),
                    stack.collect(),
                ));
            }
            tensors.extend(self.heads(layer));
        }
        tensors
    }

    /// The parts of MLA's fused matrix, by index arithmetic. The small network has 2 heads of 64 + 64.
    fn heads(&self, layer: usize) -> Vec<(String, Vec<f32>)> {
        let (n_head, nope, v_dim) = (2, 64, 64);
        let (shape, fused) = &self.0[&format!("model.layers.{layer}.attention.kv_b_proj.weight")];
        let latent = shape[1];
        let at = |head: usize, row: usize, column: usize| {
            fused[(head * (nope + v_dim) + row) * latent + column]
        };
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in 0..n_head {
            for column in 0..latent {
                keys.extend((0..nope).map(|row| at(head, row, column)));
            }
            for row in nope..nope + v_dim {
                values.extend((0..latent).map(|column| at(head, row, column)));
            }
        }
        vec![
            (format!("blk.{layer}.attn_k_b.weight"), keys),
            (format!("blk.{layer}.attn_v_b.weight"), values),
        ]
    }
}
