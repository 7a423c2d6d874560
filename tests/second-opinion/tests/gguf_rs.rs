//! gguf-rs reads what our writer wrote: metadata, tensor names, shapes, types and positions.
//!
//! Sizes are compared only for types whose size gguf-rs computes correctly, and types it does not know are left out.

#![forbid(unsafe_code)]

use std::path::Path;

use gguf_rs::{GGUFModel, get_gguf_container_array_size};
use oxling::gguf::{
    Array, GgmlType, Gguf, Metadata, Shape, TensorPlan, Value, Writer, WriterOptions,
};

/// Types whose bytes per block gguf-rs 0.1.8 states as ggml does.
const SIZED_RIGHT: &[GgmlType] = &[
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::Q4_0,
    GgmlType::Q8_0,
    GgmlType::Q4_K,
    GgmlType::Q6_K,
];

fn their_model(path: &Path) -> GGUFModel {
    get_gguf_container_array_size(path.to_str().unwrap(), u64::MAX)
        .unwrap()
        .decode()
        .unwrap()
}

/// Whether both readers see the same value. Floats are compared as numbers, everything else exactly.
fn same(ours: &Value, theirs: &serde_json::Value) -> bool {
    match ours {
        Value::Array(array) => theirs
            .as_array()
            .is_some_and(|theirs| same_elements(array, theirs)),
        Value::String(text) => theirs.as_str() == text.to_str().ok(),
        Value::Bool(flag) => theirs.as_bool() == Some(*flag),
        Value::F32(_) | Value::F64(_) => {
            theirs.as_f64().map(|float| float as f32) == ours.as_float().map(|float| float as f32)
        }
        _ => Some(theirs.to_string()) == ours.as_integer().map(|integer| integer.to_string()),
    }
}

fn same_elements(ours: &Array, theirs: &[serde_json::Value]) -> bool {
    let ours: Vec<Value> = match ours {
        Array::String(texts) => texts.iter().cloned().map(Value::String).collect(),
        Array::Bool(flags) => flags.iter().copied().map(Value::Bool).collect(),
        Array::F32(floats) => floats.iter().copied().map(Value::F32).collect(),
        Array::I32(integers) => integers.iter().copied().map(Value::I32).collect(),
        other => panic!("no test writes an {}", other.type_name()),
    };
    ours.len() == theirs.len()
        && ours
            .iter()
            .zip(theirs)
            .all(|(ours, theirs)| same(ours, theirs))
}

fn assert_same_model(path: &Path) {
    let ours = Gguf::open(path).unwrap();
    let theirs = their_model(path);
    assert_eq!(theirs.get_version(), "v3");
    assert_eq!(theirs.alignment(), u64::from(ours.alignment()));

    assert_eq!(theirs.metadata().len(), ours.metadata().len());
    for (key, value) in ours.metadata().iter() {
        let their_value = theirs
            .metadata()
            .get(key)
            .unwrap_or_else(|| panic!("they lack `{key}`"));
        assert!(
            same(value, their_value),
            "`{key}`: ours {value}, theirs {their_value}"
        );
    }
    assert_eq!(theirs.tensors().len(), ours.tensors().len());
    for (ours, tensor) in ours.tensors().iter().zip(theirs.tensors()) {
        assert_eq!(tensor.name, ours.name);
        assert_eq!(tensor.kind, ours.ty.id(), "{}", ours.name);
        assert_eq!(tensor.shape, ours.shape.dims(), "{}", ours.name);
        assert_eq!(
            theirs.data_offset() + tensor.offset,
            ours.offset,
            "{}",
            ours.name
        );
        if SIZED_RIGHT.contains(&ours.ty) {
            assert_eq!(tensor.size, ours.bytes, "{}", ours.name);
        }
    }
}

fn write(path: &Path, metadata: Metadata, tensors: Vec<TensorPlan>, options: &WriterOptions) {
    let writer = Writer::create(path, metadata, tensors, options).unwrap();
    for (index, info) in writer.tensors().iter().enumerate() {
        writer
            .write_tensor(index, &vec![index as u8; info.bytes as usize])
            .unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn every_kind_of_value_and_every_shared_type() {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "test");
    metadata.insert("u8", u8::MAX);
    metadata.insert("i8", i8::MIN);
    metadata.insert("u16", u16::MAX);
    metadata.insert("i16", i16::MIN);
    metadata.insert("u32", u32::MAX);
    metadata.insert("i32", i32::MIN);
    metadata.insert("u64", u64::MAX);
    metadata.insert("i64", i64::MIN);
    metadata.insert("f32", 1e-6_f32);
    metadata.insert("f64", 0.1_f64);
    metadata.insert("flag", true);
    metadata.insert("text", "gr\u{fc}n \u{1f333}");
    metadata.insert("words", vec!["a", "", "\u{120}the"]);
    metadata.insert("flags", vec![true, false]);
    metadata.insert("floats", vec![0.5_f32, -2.0]);
    metadata.insert("none", Vec::<i32>::new());

    // Ids from 40 on are newer than gguf-rs.
    let shared = GgmlType::ALL.iter().filter(|ty| ty.id() < 40);
    let tensors: Vec<TensorPlan> = shared
        .map(|&ty| TensorPlan {
            name: format!("tensor.{ty}"),
            ty,
            shape: Shape::new(&[ty.block_size() * 2, 3]).unwrap(),
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    for alignment in [8, 32, 4096] {
        let path = folder.path().join(format!("{alignment}.gguf"));
        let options = WriterOptions {
            alignment: Some(alignment),
            ..WriterOptions::default()
        };
        write(&path, metadata.clone(), tensors.clone(), &options);
        assert_same_model(&path);
    }
}

#[test]
fn the_demo_model_copied_by_our_writer() {
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-ling-IQ4_NL.gguf");
    let model = Gguf::open(&original).unwrap();
    let plans = model.tensors().iter().map(|info| TensorPlan {
        name: info.name.clone(),
        ty: info.ty,
        shape: info.shape,
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.gguf");
    write(
        &path,
        model.metadata().clone(),
        plans.collect(),
        &WriterOptions::default(),
    );
    assert_same_model(&path);
}

#[test]
fn every_part_of_a_split_model_is_a_model_of_its_own() {
    let tensors = (0..3).map(|index| TensorPlan {
        name: format!("tensor.{index}"),
        ty: GgmlType::F32,
        shape: Shape::new(&[16]).unwrap(),
    });
    let folder = tempfile::tempdir().unwrap();
    let options = WriterOptions {
        split_max_bytes: Some(1),
        ..WriterOptions::default()
    };
    write(
        &folder.path().join("m.gguf"),
        Metadata::new(),
        tensors.collect(),
        &options,
    );
    for no in 0..3 {
        let part = their_model(&folder.path().join(format!("m-{:05}-of-00003.gguf", no + 1)));
        assert_eq!(part.metadata()["split.no"].as_u64(), Some(no));
        assert_eq!(part.metadata()["split.count"].as_u64(), Some(3));
        assert_eq!(part.metadata()["split.tensors.count"].as_u64(), Some(3));
        let names: Vec<&str> = part
            .tensors()
            .iter()
            .map(|tensor| tensor.name.as_str())
            .collect();
        assert_eq!(names, [format!("tensor.{no}")]);
    }
}
