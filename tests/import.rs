//! Checkpoints become model files that mean the same: code for code, value for value, logit for logit.

#[allow(dead_code, reason = "this test needs a part of it")]
#[path = "common/bundle.rs"]
mod bundle;
#[path = "common/checkpoint.rs"]
mod checkpoint;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use checkpoint::Form;
use oxling::convert::{Control, ConvertOptions};
use oxling::engine::{Engine, EngineConfig};
use oxling::ggml::dequantize;
use oxling::gguf::{GgmlType, Gguf, TensorInfo};
use oxling::import::mxtq::{self, Bits, Codec};
use oxling::import::source::Checkpoint;
use oxling::import::{Import, Policy};
use oxling::memory::{SeqId, Work};
use oxling::model::{LoadOptions, Model};
use oxling::planes;
use safetensors::SafeTensors;

/// What two f16 scales may cost an element: the small level is a difference of two products.
const ELEMENT_TOLERANCE: f64 = 2e-3;
/// And a row. The best pair of f16 scales leaves 11 of 65,536 rows of the demo bundle above 5e-4.
const ROW_TOLERANCE: f64 = 5.2e-4;
/// Mean KL divergence from the decoded bundle when everything else is exact: rounding of activations to 8 bits.
const EXACT_KL: f64 = 5e-4;
/// The same with 8-bit affine matrices as Q8_0.
const DEFAULT_KL: f64 = 1e-3;

fn write(source: &Path, out: &Path, policy: Policy) -> Gguf {
    let import = Import::open(source, &policy).unwrap_or_else(|e| panic!("{e}"));
    let cancel = AtomicBool::new(false);
    let control = Control {
        progress: &|_| {},
        cancel: &cancel,
    };
    import
        .write(out, &ConvertOptions::default(), &control)
        .unwrap_or_else(|e| panic!("{e}"));
    Gguf::open(out).expect("our own file")
}

fn exact() -> Policy {
    Policy {
        dense: Some(GgmlType::F16),
        ..Policy::default()
    }
}

fn values(gguf: &Gguf, info: &TensorInfo) -> Vec<f32> {
    let mut out = Vec::new();
    dequantize(info.ty, gguf.data(info), info.shape.ne()[0], &mut out).expect("decodes");
    out
}

#[test]
fn planes_keep_every_code_of_the_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = write(
        &bundle::demo_bundle(),
        &folder.path().join("m.gguf"),
        exact(),
    );
    let checkpoint = Checkpoint::open(&bundle::demo_bundle()).unwrap();
    let (mut packed, mut norms, mut n_rows) = (Vec::new(), Vec::new(), 0);
    for layer in 1..9 {
        for projection in ["gate", "up", "down"] {
            let info = gguf
                .tensor(&format!("blk.{layer}.ffn_{projection}_exps.weight"))
                .expect("experts");
            assert_eq!(info.ty, GgmlType::Q1_0);
            let n = info.shape.ne()[0] as usize / 2;
            let codec = Codec::new(n, Bits::new(2).unwrap(), 42);
            let base = format!("model.layers.{layer}.mlp.switch_mlp.{projection}_proj");
            for (part, out) in [("tq_packed", &mut packed), ("tq_norms", &mut norms)] {
                let tensor = checkpoint.tensor(&format!("{base}.{part}")).expect("part");
                checkpoint.read(tensor, 0..tensor.bytes, out).unwrap();
            }
            let rows = packed
                .chunks_exact(codec.row_bytes())
                .zip(norms.chunks_exact(2));
            let planes = gguf.data(info).chunks_exact(planes::row_bytes(n));
            assert_eq!(planes.len(), rows.len());
            for ((packed, norm), planes) in rows.zip(planes) {
                let norm = half::f16::from_le_bytes([norm[0], norm[1]]);
                check_row(&codec, packed, norm, planes);
                n_rows += 1;
            }
        }
    }
    assert_eq!(n_rows, 8 * 16 * (128 + 128 + 256));
}

fn check_row(codec: &Codec, packed: &[u8], norm: half::f16, planes: &[u8]) {
    let mut codes = vec![0; codec.row_len()];
    mxtq::unpack(packed, codec.bits(), &mut codes).unwrap();
    let found = planes::decode_row(planes).unwrap();
    assert_eq!(found.codes, codes);
    let mut exact = vec![0.0; codec.row_len()];
    codec.rotated_row(packed, norm, &mut exact).unwrap();
    let levels = found.scales.levels();
    let (mut square, mut error) = (0.0, 0.0);
    for (code, exact) in codes.iter().zip(exact.iter().map(|&w| f64::from(w))) {
        let difference = f64::from(levels[usize::from(*code)]) - exact;
        assert!(
            difference.abs() <= ELEMENT_TOLERANCE * exact.abs(),
            "{difference:e} of {exact:e}"
        );
        square += exact * exact;
        error += difference * difference;
    }
    assert!(
        (error / square).sqrt() <= ROW_TOLERANCE,
        "{:e}",
        (error / square).sqrt()
    );
}

#[test]
fn both_layouts_give_the_same_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let apart = folder.path().join("apart");
    bundle::unstack(&bundle::demo_bundle(), &apart).unwrap();
    let a = write(
        &bundle::demo_bundle(),
        &folder.path().join("a.gguf"),
        Policy::default(),
    );
    let b = write(&apart, &folder.path().join("b.gguf"), Policy::default());
    assert_eq!(a.tensors(), b.tensors());
    for info in a.tensors() {
        assert!(a.data(info) == b.data(info), "{}", info.name);
    }
}

#[test]
fn logits_are_those_of_the_decoded_bundle() {
    let folder = tempfile::tempdir().unwrap();
    for (name, policy, limit) in [
        ("exact", exact(), EXACT_KL),
        ("default", Policy::default(), DEFAULT_KL),
    ] {
        let path = folder.path().join(format!("{name}.gguf"));
        let gguf = Arc::new(write(&bundle::demo_bundle(), &path, policy));
        let model = Model::load(gguf, &LoadOptions::default(), &mut |_, _| {}).expect("loads");
        let [trunk, mtp] = divergences(&model);
        assert!(trunk < limit, "{name}: trunk {trunk:e}");
        assert!(mtp < limit, "{name}: MTP {mtp:e}");
    }
}

/// Mean KL divergence of trunk and MTP head from the reference, over all positions of its prompts.
fn divergences(model: &Model) -> [f64; 2] {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/models/tiny-ling-jangtq2.logits.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let config = EngineConfig {
        n_ctx: 512,
        n_threads: 1,
        n_threads_batch: 1,
        mtp: true,
        ..EngineConfig::default()
    };
    let mut sums = [(0.0, 0usize); 2];
    for prompt in 0.. {
        let Ok(ids) = reference.tensor(&format!("ids_{prompt}")) else {
            break;
        };
        let ids: Vec<u32> = words(ids.data()).map(u32::from_le_bytes).collect();
        let n_vocab = model.n_vocab() as usize;
        let theirs = |key: &str| -> Vec<f32> {
            let tensor = reference.tensor(&format!("{key}_{prompt}")).unwrap();
            words(tensor.data()).map(f32::from_le_bytes).collect()
        };
        let mut engine = Engine::new(model, config.clone()).expect("engine");
        let work = Work {
            seq: SeqId(0),
            tokens: &ids,
            outputs: (0..ids.len() as u32).collect(),
        };
        let step = engine.step(&[work], true).expect("step");
        for (row, reference) in theirs("logits").chunks_exact(n_vocab).enumerate() {
            sums[0].0 += divergence(reference, step.logits(0, row as u32).unwrap());
            sums[0].1 += 1;
        }
        // Row t of the reference has seen token t + 1.
        for (row, reference) in theirs("mtp_logits").chunks_exact(n_vocab).enumerate() {
            sums[1].0 += divergence(reference, step.mtp_logits(0, row as u32 + 1).unwrap());
            sums[1].1 += 1;
        }
    }
    sums.map(|(sum, n)| {
        assert!(n > 25, "{n} positions");
        sum / n as f64
    })
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.as_chunks().0.iter().copied()
}

fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_sum = |x: &[f32]| {
        let max = x.iter().copied().fold(f32::MIN, f32::max);
        f64::from(max) + x.iter().map(|v| f64::from(v - max).exp()).sum::<f64>().ln()
    };
    let (zp, zq) = (log_sum(p), log_sum(q));
    let term = |(a, b): (&f32, &f32)| {
        let (a, b) = (f64::from(*a) - zp, f64::from(*b) - zq);
        a.exp() * (a - b)
    };
    p.iter().zip(q).map(term).sum()
}

/// A checkpoint in this form, of a small random network.
fn in_form(folder: &Path, form: Form) -> (PathBuf, checkpoint::Expected) {
    let (stacked, apart) = (folder.join("stacked"), folder.join("apart"));
    bundle::synthetic(&stacked, &bundle::Dims::tiny()).unwrap();
    bundle::unstack(&stacked, &apart).unwrap();
    let target = folder.join("target");
    let expected = checkpoint::rewrite(&apart, &target, form);
    (target, expected)
}

#[test]
fn every_form_of_checkpoint_gives_its_values() {
    for form in [Form::Bf16, Form::F16, Form::F32, Form::Fp8, Form::Int4] {
        let folder = tempfile::tempdir().unwrap();
        let (source, expected) = in_form(folder.path(), form);
        let policy = Policy {
            outtype: Some(GgmlType::F32),
            ..Policy::default()
        };
        let gguf = write(&source, &folder.path().join("m.gguf"), policy);
        for (name, rows) in expected.tensors() {
            let info = gguf
                .tensor(&name)
                .unwrap_or_else(|| panic!("{form:?}: no {name}"));
            assert!(values(&gguf, info) == rows, "{form:?}: {name}");
        }
    }
}

#[test]
fn four_bit_integers_keep_every_code_as_q4_0() {
    let folder = tempfile::tempdir().unwrap();
    let (source, expected) = in_form(folder.path(), Form::Int4);
    let gguf = write(&source, &folder.path().join("m.gguf"), Policy::default());
    for (name, rows) in expected.tensors() {
        let info = gguf.tensor(&name).unwrap();
        if !name.contains("_exps") {
            continue;
        }
        assert_eq!(info.ty, GgmlType::Q4_0, "{name}");
        assert!(values(&gguf, info) == rows, "{name}");
    }
}

#[test]
fn sixteen_bit_weights_keep_their_type_and_absent_mtp_blocks_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (source, _) = in_form(folder.path(), Form::Bf16);
    let with = write(&source, &folder.path().join("with.gguf"), Policy::default());
    assert_eq!(with.tensor("output.weight").unwrap().ty, GgmlType::BF16);
    let blocks = |gguf: &Gguf| {
        gguf.metadata()
            .u32("bailing_hybrid.block_count")
            .unwrap()
            .unwrap()
    };
    assert_eq!(
        with.metadata()
            .u32("bailing_hybrid.nextn_predict_layers")
            .unwrap(),
        Some(1)
    );

    checkpoint::drop_tensors(&source, |name| name.starts_with("model.layers.2."));
    let without = write(
        &source,
        &folder.path().join("without.gguf"),
        Policy::default(),
    );
    assert_eq!(
        without
            .metadata()
            .u32("bailing_hybrid.nextn_predict_layers")
            .unwrap(),
        Some(0)
    );
    assert_eq!(blocks(&without) + 1, blocks(&with));
    Model::load(Arc::new(without), &LoadOptions::default(), &mut |_, _| {}).expect("loads");
}

#[test]
fn the_tokenizer_is_that_of_the_model_file_made_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let ours = write(
        &bundle::demo_bundle(),
        &folder.path().join("m.gguf"),
        Policy::default(),
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-ling-IQ4_NL.gguf");
    let theirs = Gguf::open(&path).unwrap();
    for (key, value) in theirs.metadata().iter() {
        if key.starts_with("tokenizer.") || key.starts_with("bailing_hybrid.") {
            assert_eq!(ours.metadata().get(key), Some(value), "{key}");
        }
    }
}

#[test]
fn mixed_widths_of_code_get_planes_where_they_can() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("mixed");
    let dims = bundle::Dims {
        down_bits: 4,
        ..bundle::Dims::tiny()
    };
    bundle::synthetic(&source, &dims).unwrap();
    for (text, down) in [
        ("", GgmlType::IQ4_NL),
        ("planes", GgmlType::IQ4_NL),
        ("planes,down=Q8_0", GgmlType::Q8_0),
    ] {
        let policy = Policy {
            experts: text.parse().unwrap_or_default(),
            ..Policy::default()
        };
        let gguf = write(&source, &folder.path().join("m.gguf"), policy);
        let ty = |name: &str| {
            gguf.tensor(&format!("blk.1.ffn_{name}_exps.weight"))
                .unwrap()
                .ty
        };
        assert_eq!(
            [ty("gate"), ty("up"), ty("down")],
            [GgmlType::Q1_0, GgmlType::Q1_0, down]
        );
        Model::load(Arc::new(gguf), &LoadOptions::default(), &mut |_, _| {}).expect("loads");
    }
}
