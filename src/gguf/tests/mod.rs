#![forbid(unsafe_code)]

mod mutations;
mod roundtrip;
mod split;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::reader::parse;
use super::value::{Array, Value};
use super::*;

fn plan(name: &str, ty: GgmlType, dims: &[u64]) -> TensorPlan {
    TensorPlan {
        name: name.to_owned(),
        ty,
        shape: Shape::new(dims).unwrap(),
    }
}

/// Bytes that tell tensors and positions apart.
fn pattern(index: usize, bytes: u64) -> Vec<u8> {
    (0..bytes)
        .map(|position| (position as usize * 7 + index * 31) as u8)
        .collect()
}

/// Writes `tensors` with patterned bytes and returns the files.
fn write_model(
    path: &Path,
    metadata: Metadata,
    tensors: Vec<TensorPlan>,
    options: &WriterOptions,
) -> Vec<PathBuf> {
    let writer = Writer::create(path, metadata, tensors, options).unwrap();
    for (index, info) in writer.tensors().iter().enumerate() {
        writer
            .write_tensor(index, &pattern(index, info.bytes))
            .unwrap();
    }
    writer.finish().unwrap()
}

fn sample_metadata() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "bailing_hybrid");
    metadata.insert("model.layers", 9_u32);
    metadata.insert("tokenizer.tokens", vec!["a", "b", ""]);
    metadata
}

fn sample_tensors() -> Vec<TensorPlan> {
    vec![
        plan("token_embd.weight", GgmlType::IQ4_NL, &[64, 5]),
        plan("blk.0.norm.weight", GgmlType::F32, &[3]),
        plan("blk.0.exps.weight", GgmlType::Q8_0, &[32, 2, 3]),
        plan("blk.0.cube.weight", GgmlType::F16, &[2, 2, 2, 2]),
    ]
}

fn folder_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn assert_contents(model: &Gguf, plans: &[TensorPlan]) {
    assert_eq!(model.tensors().len(), plans.len());
    for (index, plan) in plans.iter().enumerate() {
        let info = model.tensor(&plan.name).unwrap();
        assert_eq!(
            (info.ty, info.shape),
            (plan.ty, plan.shape),
            "{}",
            plan.name
        );
        assert_eq!(
            model.data(info),
            pattern(index, info.bytes),
            "{}",
            plan.name
        );
        assert!(
            info.offset.is_multiple_of(u64::from(model.alignment())),
            "{}",
            plan.name
        );
    }
}

#[test]
fn a_written_model_reads_back() {
    for alignment in [None, Some(8), Some(32), Some(4096)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let options = WriterOptions {
            alignment,
            ..WriterOptions::default()
        };
        let files = write_model(&path, sample_metadata(), sample_tensors(), &options);
        assert_eq!(files, std::slice::from_ref(&path));
        assert_eq!(folder_names(folder.path()), ["m.gguf"]);

        let model = Gguf::open(&path).unwrap();
        assert_eq!(model.alignment(), alignment.unwrap_or(DEFAULT_ALIGNMENT));
        assert_eq!(model.metadata().u32("model.layers"), Ok(Some(9)));
        assert_contents(&model, &sample_tensors());
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a.gguf", "b.gguf"].map(|name| folder.path().join(name));
    for path in &paths {
        write_model(
            path,
            sample_metadata(),
            sample_tensors(),
            &WriterOptions::default(),
        );
    }
    assert_eq!(fs::read(&paths[0]).unwrap(), fs::read(&paths[1]).unwrap());
}

#[test]
fn a_rewritten_file_is_identical_to_the_original() {
    let original = demo_model_path();
    let model = Gguf::open(&original).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.gguf");
    let plans = model
        .tensors()
        .iter()
        .map(|info| plan(&info.name, info.ty, info.shape.dims()));
    let writer = Writer::create(
        &path,
        model.metadata().clone(),
        plans.collect(),
        &WriterOptions::default(),
    )
    .unwrap();
    for (index, info) in model.tensors().iter().enumerate() {
        let mut stream = writer.tensor(index).unwrap();
        model
            .data(info)
            .chunks(100_000)
            .for_each(|piece| stream.write_all(piece).unwrap());
    }
    writer.finish().unwrap();
    assert!(
        fs::read(&path).unwrap() == fs::read(&original).unwrap(),
        "the copy differs"
    );
}

#[test]
fn pieces_may_come_in_any_order_and_from_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let plans = sample_tensors();
    let writer = Writer::create(
        &path,
        Metadata::new(),
        plans.clone(),
        &WriterOptions::default(),
    )
    .unwrap();
    std::thread::scope(|scope| {
        for index in (0..plans.len()).rev() {
            let writer = &writer;
            scope.spawn(move || {
                let bytes = pattern(index, writer.tensors()[index].bytes);
                let (first, second) = bytes.split_at(bytes.len() / 3);
                writer.write_at(index, first.len() as u64, second).unwrap();
                writer.write_at(index, 0, first).unwrap();
            });
        }
    });
    writer.finish().unwrap();
    assert_contents(&Gguf::open(&path).unwrap(), &plans);
}

#[test]
fn an_incomplete_model_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let create = || {
        Writer::create(
            &path,
            sample_metadata(),
            sample_tensors(),
            &WriterOptions::default(),
        )
    };

    let writer = create().unwrap();
    assert_eq!(folder_names(folder.path()), ["m.gguf.part"]);
    let message = create().unwrap_err().to_string();
    assert!(
        message.contains("m.gguf.part: cannot create the file")
            && message.contains("another program is writing it"),
        "{message}"
    );
    drop(writer);
    assert!(folder_names(folder.path()).is_empty());

    let writer = create().unwrap();
    writer.tensor(1).unwrap().write_all(&[0; 12]).unwrap();
    let message = writer.finish().unwrap_err().to_string();
    assert!(
        message.contains("`token_embd.weight` data: expected 180 bytes, found 0 bytes"),
        "{message}"
    );
    assert!(folder_names(folder.path()).is_empty());
}

#[test]
fn a_tensor_takes_no_more_than_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let writer = Writer::create(
        &path,
        Metadata::new(),
        sample_tensors(),
        &WriterOptions::default(),
    )
    .unwrap();
    let errors = [
        writer.write_at(1, 1, &[0; 12]).unwrap_err().to_string(),
        writer
            .write_at(1, u64::MAX, &[0; 1])
            .unwrap_err()
            .to_string(),
        writer.write_tensor(1, &[0; 11]).unwrap_err().to_string(),
        writer
            .tensor(1)
            .unwrap()
            .write_all(&[0; 13])
            .unwrap_err()
            .to_string(),
        writer.tensor(4).unwrap_err().to_string(),
    ];
    let wanted = [
        "found bytes up to 13",
        "found bytes up to 18446744073709551615",
        "found 11 bytes",
    ];
    for (error, wanted) in errors
        .iter()
        .zip(wanted.into_iter().chain(["bytes up to 13", "less than 4"]))
    {
        assert!(error.contains(wanted), "no `{wanted}` in `{error}`");
    }
}

/// Asserts that a model is refused with these words, before any file is made.
fn assert_refused(
    metadata: Metadata,
    tensors: Vec<TensorPlan>,
    alignment: Option<u32>,
    wanted: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let options = WriterOptions {
        alignment,
        ..WriterOptions::default()
    };
    let path = folder.path().join("m.gguf");
    let message = Writer::create(&path, metadata, tensors, &options)
        .unwrap_err()
        .to_string();
    assert!(message.contains(wanted), "no `{wanted}` in `{message}`");
    assert!(folder_names(folder.path()).is_empty());
}

#[test]
fn the_writer_refuses_metadata_that_the_reader_would() {
    let deep = (0..MAX_ARRAY_DEPTH).fold(Array::U8(vec![1]), |inner, _| Array::Array(vec![inner]));
    let cases = [
        (
            "k",
            Value::Array(deep),
            "metadata `k` nesting: expected arrays nested at most 4",
        ),
        (
            "",
            Value::U8(1),
            "metadata entry 0 key: expected 1 to 65535 bytes",
        ),
        ("a\0b", Value::U8(1), "expected no zero byte"),
        (
            "general.alignment",
            Value::U64(32),
            "expected u32, found u64",
        ),
        (
            "general.alignment",
            Value::U32(24),
            "expected a power of two",
        ),
    ];
    for (key, value, wanted) in cases {
        let mut metadata = Metadata::new();
        metadata.insert(key, value);
        assert_refused(metadata, Vec::new(), None, wanted);
    }
    assert_refused(
        Metadata::new(),
        Vec::new(),
        Some(0),
        "expected a power of two",
    );
}

#[test]
fn the_writer_refuses_tensors_that_the_reader_would() {
    let f32s = |name: &str| plan(name, GgmlType::F32, &[4]);
    let long = "n".repeat(64);
    let cases = [
        (
            vec![f32s("")],
            "tensor entry 0 name: expected 1 to 63 bytes",
        ),
        (vec![f32s(&long)], "expected 1 to 63 bytes, found 64 bytes"),
        (
            vec![f32s("t"), f32s("t")],
            "tensor `t` name: expected each tensor once",
        ),
        (
            vec![plan("t", GgmlType::Q4_K, &[128])],
            "tensor `t` shape: expected rows of a multiple of 256 weights for Q4_K, found [128]",
        ),
        (
            vec![plan("t", GgmlType::F64, &[1 << 62])],
            "tensor `t` shape",
        ),
    ];
    for (tensors, wanted) in cases {
        assert_refused(Metadata::new(), tensors, None, wanted);
    }
}

#[test]
fn a_model_can_be_written_over_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    write_model(
        &path,
        sample_metadata(),
        sample_tensors(),
        &WriterOptions::default(),
    );
    let before = Gguf::open(&path).unwrap();
    let wide = WriterOptions {
        alignment: Some(128),
        ..WriterOptions::default()
    };
    write_model(&path, sample_metadata(), sample_tensors(), &wide);
    assert_contents(&before, &sample_tensors());
    assert_eq!(Gguf::open(&path).unwrap().alignment(), 128);
}

/// A socket stands for all that a rename would replace, devices among them.
#[cfg(unix)]
#[test]
fn nothing_but_files_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (target, found) in [
        (socket.as_path(), "a socket"),
        (folder.path(), "a directory"),
    ] {
        let options = WriterOptions::default();
        let error = Writer::create(target, sample_metadata(), Vec::new(), &options).unwrap_err();
        assert!(error.to_string().contains(found), "{error}");
        assert!(!target.is_file() && target.exists());
    }
}

fn demo_model_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-ling-IQ4_NL.gguf")
}

#[test]
fn the_demo_model_opens() {
    let model = Gguf::open(&demo_model_path()).unwrap();
    assert_eq!(model.metadata().len(), 46);
    assert_eq!(model.tensors().len(), 152);
    assert_eq!(
        model.metadata().require_str("general.architecture"),
        Ok("bailing_hybrid")
    );
    assert_eq!(
        model
            .metadata()
            .require_string_array("tokenizer.ggml.tokens")
            .unwrap()
            .len(),
        4096
    );
    let embeddings = model.tensor("token_embd.weight").unwrap();
    assert_eq!(embeddings.shape.dims(), [256, 4096]);
    assert_eq!(model.data(embeddings).len(), 4096 * 256 / 32 * 18);
}

#[test]
fn an_embedded_file_must_be_whole_and_aligned() {
    #[repr(align(64))]
    struct Aligned<const N: usize>([u8; N]);
    // A file without keys and tensors, at an aligned address and one byte past it.
    static FILE: Aligned<24> = Aligned(*b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    static SHIFTED: Aligned<25> = Aligned(*b"-GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(
        Gguf::from_static("demo", &FILE.0).unwrap().tensors().len(),
        0
    );
    let message = Gguf::from_static("demo", &SHIFTED.0[1..])
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "demo: address: expected a multiple of 32, found 1 bytes past one"
    );
    let message = Gguf::from_static("demo", &FILE.0[..10])
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "demo: tensor count: needs the bytes up to 16, but the file ends at 10"
    );
}

#[test]
fn version_2_reads_like_version_3() {
    let mut bytes = fs::read(demo_model_path()).unwrap();
    bytes[4] = 2;
    let header = parse(&bytes, Path::new("v2")).unwrap();
    assert_eq!((header.metadata.len(), header.tensors.len()), (46, 152));
}
