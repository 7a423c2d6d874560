//! Types of tensors against llama-quantize's, and refusals that need no work.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::*;
use crate::convert::{Control, ConvertOptions};
use crate::gguf::{GgmlType, Gguf, Metadata, Shape, TensorPlan, Writer, WriterOptions};
use crate::imatrix::{Entry, ImportanceMatrix};

/// A model of zeros.
fn write(path: &Path, metadata: Metadata, tensors: &[(&str, GgmlType, &[u64])]) -> Gguf {
    let plan = |(name, ty, dims): &(&str, GgmlType, &[u64])| TensorPlan {
        name: (*name).to_owned(),
        ty: *ty,
        shape: Shape::new(dims).unwrap(),
    };
    let plans: Vec<TensorPlan> = tensors.iter().map(plan).collect();
    let bytes: Vec<usize> = plans
        .iter()
        .map(|p| p.shape.bytes(p.ty).unwrap() as usize)
        .collect();
    let writer = Writer::create(path, metadata, plans, &WriterOptions::default()).unwrap();
    for (index, bytes) in bytes.into_iter().enumerate() {
        writer.write_tensor(index, &vec![0; bytes]).unwrap();
    }
    writer.finish().unwrap();
    Gguf::open(path).unwrap()
}

fn llama() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    metadata.insert("llama.block_count", 1u32);
    metadata
}

/// Importances of one for every matrix of a block.
fn even_imatrix(gguf: &Gguf) -> ImportanceMatrix {
    let mut imatrix = ImportanceMatrix::new(512);
    for tensor in gguf.tensors().iter().filter(|t| t.name.starts_with("blk.")) {
        let [row, _, matrices, _] = tensor.shape.ne();
        let sums = vec![1.0; (row * matrices) as usize];
        imatrix.insert(
            &tensor.name,
            Entry::new(sums, vec![1; matrices as usize]).unwrap(),
        );
    }
    imatrix
}

/// The model of a case, of F16 matrices and F32 vectors as the script writes them.
fn model_of(case: &Json, folder: &Path) -> Gguf {
    let arch = case["arch"].as_str().unwrap();
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", arch);
    for (key, value) in case["metadata"].as_object().unwrap() {
        match value.as_u64() {
            Some(number) => metadata.insert(key.as_str(), number as u32),
            None => metadata.insert(key.as_str(), value.as_f64().unwrap() as f32),
        };
    }
    let tensors: Vec<(&str, GgmlType, Vec<u64>)> = case["tensors"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, dims)| {
            let dims: Vec<u64> = serde_json::from_value(dims.clone()).unwrap();
            let plain = dims.len() == 1 || name.contains("ffn_gate_inp");
            let ty = if plain { GgmlType::F32 } else { GgmlType::F16 };
            (name.as_str(), ty, dims)
        })
        .collect();
    let tensors: Vec<(&str, GgmlType, &[u64])> = tensors
        .iter()
        .map(|(n, ty, dims)| (*n, *ty, dims.as_slice()))
        .collect();
    write(&folder.join("model.gguf"), metadata, &tensors)
}

#[test]
fn every_tensor_gets_the_type_llama_quantize_gives_it() {
    let goldens: Json =
        serde_json::from_str(include_str!("../../tests/data/quantize_types.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for case in goldens["models"].as_array().unwrap() {
        let gguf = model_of(case, folder.path());
        let imatrix = even_imatrix(&gguf);
        for (name, expected) in case["plain"].as_object().unwrap() {
            let with = case["imatrix"].get(name).unwrap_or(expected);
            for (given, expected) in [(None, expected), (Some(&imatrix), with)] {
                let request = Request::new(name.parse().unwrap());
                let found = plan::types(&gguf, &request, given.is_some()).unwrap();
                let letters = expected.as_str().unwrap().chars();
                assert_eq!(found.len(), letters.clone().count());
                for (tensor, letter) in found.iter().zip(letters) {
                    let expected = goldens["types"][letter.to_string()].as_str().unwrap();
                    let with = given.is_some();
                    let (arch, tensor_name) = (&case["arch"], &tensor.name);
                    assert_eq!(
                        tensor.to.name(),
                        expected,
                        "{arch} {name} {tensor_name}, importance matrix: {with}"
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 20_000, "{compared}");
}

#[test]
fn wishes_go_before_the_mix() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = write(
        &folder.path().join("m.gguf"),
        llama(),
        &[
            ("token_embd.weight", GgmlType::F16, &[256, 8]),
            ("blk.0.ffn_down.weight", GgmlType::F16, &[256, 8]),
            ("blk.0.ffn_up.weight", GgmlType::F16, &[288, 8]),
            ("output.weight", GgmlType::F16, &[256, 8]),
        ],
    );
    let types = |request: Request| -> Vec<&str> {
        let plan = QuantizePlan::new(&gguf, &request, None).unwrap();
        plan.tensors().iter().map(|t| t.to.name()).collect()
    };
    let request = || Request::new("Q4_K_M".parse().unwrap());
    assert_eq!(types(request()), ["Q4_K", "Q6_K", "Q5_0", "Q6_K"]);
    let pure = Request {
        pure: true,
        ..request()
    };
    assert_eq!(types(pure), ["Q4_K", "Q4_K", "Q5_0", "Q4_K"]);
    let named = Request {
        overrides: vec![
            "ffn_(up|down)=q8_0".parse().unwrap(),
            "ffn_up=F16".parse().unwrap(),
        ],
        embedding_ty: Some(GgmlType::Q2_K),
        output_ty: Some(GgmlType::IQ4_NL),
        ..request()
    };
    assert_eq!(types(named), ["Q2_K", "Q8_0", "Q8_0", "IQ4_NL"]);
    let left = Request {
        leave_output: true,
        ..request()
    };
    assert_eq!(types(left)[3], "F16");
    let copy = Request {
        overrides: vec![
            "output=Q8_0".parse().unwrap(),
            "attn_q=Q8_0".parse().unwrap(),
        ],
        ..Request::new(FileType::Copy)
    };
    let plan = QuantizePlan::new(&gguf, &copy, None).unwrap();
    assert_eq!(plan.unused_patterns(), ["attn_q"]);
    assert_eq!(types(copy), ["F16", "F16", "F16", "Q8_0"]);
}

#[test]
fn what_is_no_matrix_of_weights_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = write(
        &folder.path().join("m.gguf"),
        llama(),
        &[
            ("planes.signs.256", GgmlType::F32, &[256, 2]),
            ("blk.0.ffn_gate_tid2eid.weight", GgmlType::I32, &[6, 8]),
            ("blk.0.ffn_gate_inp.weight", GgmlType::F32, &[256, 8]),
        ],
    );
    let request = Request::new("Q4_K_M".parse().unwrap());
    let plan = QuantizePlan::new(&gguf, &request, None).unwrap();
    for tensor in plan.tensors() {
        assert_eq!(tensor.from, tensor.to);
        assert!(matches!(tensor.reason, Reason::Kept(_)), "{tensor:?}");
    }
}

#[test]
fn what_cannot_work_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = write(
        &folder.path().join("m.gguf"),
        llama(),
        &[
            ("blk.0.ffn_down.weight", GgmlType::Q8_0, &[256, 8]),
            ("blk.0.ffn_up.weight", GgmlType::F16, &[256, 8]),
        ],
    );
    let refusal = |request: &Request, imatrix: Option<&ImportanceMatrix>| {
        let error = QuantizePlan::new(&gguf, request, imatrix).unwrap_err();
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    };
    let request = |name: &str, allow_requantize| Request {
        allow_requantize,
        ..Request::new(name.parse().unwrap())
    };
    let again = refusal(&request("Q4_K_M", false), None);
    assert!(again.contains("`blk.0.ffn_down.weight` is quantised already: Q8_0 would become"));
    let needy = refusal(&request("IQ2_XS", true), None);
    assert!(
        needy.contains("IQ2_XS needs an importance matrix"),
        "{needy}"
    );
    let odd = Request {
        overrides: vec!["ffn_up=I32".parse().unwrap()],
        ..request("Q4_K_M", true)
    };
    assert!(refusal(&odd, None).contains("cannot be encoded to type I32"));

    let mut short = even_imatrix(&gguf);
    short.insert(
        "blk.0.ffn_up.weight",
        Entry::new(vec![1.0; 128], vec![1]).unwrap(),
    );
    let short = refusal(&request("Q4_K_M", true), Some(&short));
    assert!(
        short.contains("has 128 values, but the model's tensor needs 256"),
        "{short}"
    );
    let mut foreign = ImportanceMatrix::new(512);
    foreign.insert(
        "blk.7.attn_q.weight",
        Entry::new(vec![1.0; 256], vec![1]).unwrap(),
    );
    let foreign = refusal(&request("Q4_K_M", true), Some(&foreign));
    assert!(foreign.contains("none of its 1 entries"), "{foreign}");
    assert!(QuantizePlan::new(&gguf, &request("IQ2_XS", true), Some(&even_imatrix(&gguf))).is_ok());
}

/// Rows of a tensor and what its importance matrix says.
struct Case {
    name: String,
    values: Vec<f32>,
    sums: Vec<f32>,
}

const WIDTH: usize = 256;

/// Encodes each case as a tensor of its own to `ty` through files, and gives the new file.
fn encode(folder: &Path, cases: &[Case], ty: &str) -> Result<PathBuf, QuantizeError> {
    let (from, to) = (folder.join("from.gguf"), folder.join("to.gguf"));
    let plan = |case: &Case| TensorPlan {
        name: format!("blk.0.{}.weight", case.name),
        ty: GgmlType::F32,
        shape: Shape::new(&[WIDTH as u64, (case.values.len() / WIDTH) as u64]).unwrap(),
    };
    let plans: Vec<TensorPlan> = cases.iter().map(plan).collect();
    let mut imatrix = ImportanceMatrix::new(512);
    let writer = Writer::create(&from, llama(), plans.clone(), &WriterOptions::default()).unwrap();
    for (index, case) in cases.iter().enumerate() {
        writer
            .write_tensor(index, bytemuck::cast_slice(&case.values))
            .unwrap();
        let entry = Entry::new(case.sums.clone(), vec![1]).unwrap();
        imatrix.insert(&plans[index].name, entry);
    }
    writer.finish().unwrap();
    let gguf = Gguf::open(&from).unwrap();
    let request = Request {
        pure: true,
        ..Request::new(ty.parse().unwrap())
    };
    let plan = QuantizePlan::new(&gguf, &request, Some(&imatrix))?;
    let control = Control {
        progress: &|_| {},
        cancel: &std::sync::atomic::AtomicBool::new(false),
    };
    let options = ConvertOptions {
        n_threads: Some(1),
        ..ConvertOptions::default()
    };
    plan.write(&to, &options, &control)?;
    Ok(to)
}

fn ramp(i: usize) -> f32 {
    (i * 37 % 101) as f32 / 50.0 - 1.0
}

/// Rows and importances at the edges of what files can hold.
fn odd_cases() -> Vec<Case> {
    type Make = fn(usize) -> f32;
    let rows: [(&str, Make); 6] = [
        ("zeros", |_| 0.0),
        ("outlier", |i| if i == 3 { 60000.0 } else { 0.0 }),
        ("tiny", |i| ramp(i) * 1e-30),
        ("denormal", |i| f32::from_bits(i as u32 % 7)),
        ("large", |i| ramp(i) * 60000.0),
        ("ordinary", ramp),
    ];
    let importances: [(&str, Make); 4] = [
        ("zeros", |_| 0.0),
        ("one", |i| if i == 7 { 1.0 } else { 0.0 }),
        ("huge", |i| if i % 2 == 0 { 1e18 } else { 1e-18 }),
        ("ordinary", |i| 1.0 + (i % 5) as f32),
    ];
    let case = |(row, value): &(&str, Make), (sum, importance): &(&str, Make)| Case {
        name: format!("{row}_{sum}"),
        values: (0..2 * WIDTH).map(value).collect(),
        sums: (0..WIDTH).map(importance).collect(),
    };
    rows.iter()
        .flat_map(|row| importances.iter().map(move |sums| case(row, sums)))
        .collect()
}

/// ggml's encoders abort on what they cannot place; none of these may.
#[test]
fn odd_rows_and_importances_encode_or_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cases = odd_cases();
    for file_type in FileType::all().filter(|t| *t != FileType::Copy) {
        let path = encode(folder.path(), &cases, file_type.name())
            .unwrap_or_else(|e| panic!("{file_type}: {e}"));
        let gguf = Gguf::open(&path).unwrap();
        for info in gguf.tensors() {
            let mut decoded = Vec::new();
            crate::ggml::dequantize(info.ty, gguf.data(info), WIDTH as u64, &mut decoded).unwrap();
            let finite = decoded.iter().all(|v| v.is_finite());
            assert!(finite, "{file_type}: {}", info.name);
        }
    }
}

#[test]
fn values_that_no_type_holds_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (bad, ty) in [
        (f32::NAN, "IQ2_XXS"),
        (f32::INFINITY, "BF16"),
        (f32::NEG_INFINITY, "Q4_K_M"),
        (70000.0, "F16"),
        (70000.0, "Q8_0"),
    ] {
        let mut values = vec![0.5; 2 * WIDTH];
        values[WIDTH + 9] = bad;
        let case = Case {
            name: "x".into(),
            values,
            sums: vec![1.0; WIDTH],
        };
        let error = encode(folder.path(), &[case], ty).unwrap_err();
        assert!(error.to_string().contains("row 1 holds"), "{error}");
        assert!(error.hint().is_some() && !folder.path().join("to.gguf").exists());
    }
}
