//! Sound checkpoints are read as they are; broken ones are refused with the file, the tensor and both values.

#![forbid(unsafe_code)]

use std::fs;
use std::thread;

use proptest::prelude::*;
use safetensors::tensor::{TensorView, serialize};
use serde_json::json;

use super::testing::{Folder, Tensor, assert_says, raw_shard, shard};
use super::{Checkpoint, Dtype, SourceError};

fn two(name: &str) -> Tensor {
    Tensor::f32(name, &[2], &[1.0, 2.0])
}

fn names(ckpt: &Checkpoint) -> Vec<&str> {
    ckpt.tensors().iter().map(|t| t.name.as_str()).collect()
}

fn read(ckpt: &Checkpoint, name: &str) -> Vec<u8> {
    let tensor = ckpt.tensor(name).expect("the tensor");
    let mut bytes = vec![9; 3];
    ckpt.read(tensor, 0..tensor.bytes, &mut bytes)
        .expect("readable");
    bytes
}

#[test]
fn a_file_of_the_formats_own_library_is_read() {
    let folder = Folder::new();
    let data: Vec<u8> = (0..24).collect();
    let views = [
        (
            "b",
            TensorView::new(safetensors::Dtype::BF16, vec![2, 3], &data[..12]),
        ),
        (
            "a",
            TensorView::new(safetensors::Dtype::F8_E4M3, vec![4], &data[12..16]),
        ),
        (
            "c",
            TensorView::new(safetensors::Dtype::I64, vec![], &data[16..]),
        ),
    ]
    .map(|(name, view)| (name, view.expect("a view")));
    let bytes = serialize(views, None).expect("serialised");
    folder.file("model.safetensors", &bytes);
    let ckpt = folder.open().expect("a sound checkpoint");
    let found: Vec<_> = ckpt
        .tensors()
        .iter()
        .map(|t| (t.name.as_str(), t.dtype, t.shape.as_slice(), t.bytes))
        .collect();
    let expected: [(&str, Dtype, &[u64], u64); 3] = [
        ("a", Dtype::F8_E4M3, &[4], 4),
        ("b", Dtype::BF16, &[2, 3], 12),
        ("c", Dtype::I64, &[], 8),
    ];
    assert_eq!(found, expected);
    assert_eq!(read(&ckpt, "b"), &data[..12]);
    assert_eq!(read(&ckpt, "a"), &data[12..16]);
    assert_eq!(read(&ckpt, "c"), &data[16..]);
    assert_eq!(ckpt.total_bytes(), 24);
    assert_eq!(ckpt.shards()[0].bytes, bytes.len() as u64);
    let mut part = Vec::new();
    let b = ckpt.tensor("b").expect("b");
    ckpt.read(b, 4..7, &mut part).expect("a part");
    assert_eq!(part, &data[4..7]);
}

#[test]
fn every_dtype_has_its_name_and_size() {
    for dtype in Dtype::ALL {
        let quoted = format!("\"{dtype}\"");
        let theirs: safetensors::Dtype = serde_json::from_str(&quoted).expect("a known name");
        assert_eq!(dtype.bytes() * 8, theirs.bitsize() as u64, "{dtype}");
        assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
    }
}

#[test]
fn shards_the_index_leaves_out_are_found() {
    let folder = Folder::new();
    folder.file("model-00001-of-00001.safetensors", &shard(&[two("a")]));
    folder.file("model-mtp-layer.safetensors", &shard(&[two("mtp")]));
    folder.file("model-extra.safetensors", &shard(&[two("extra")]));
    folder.file("other.safetensors", &shard(&[two("other")]));
    folder.file("jangtq_stacked.safetensors", &shard(&[two("stacked")]));
    folder.file("jangtq_runtime.safetensors", &shard(&[two("signs.2.42")]));
    folder.index(&[("a", "model-00001-of-00001.safetensors")]);
    let ckpt = folder.open().expect("a sound checkpoint");
    assert_eq!(names(&ckpt), ["a", "extra", "mtp"]);
    let sidecar = ckpt.sidecar().expect("readable").expect("a sidecar");
    assert_eq!(sidecar.tensors()[0].name, "signs.2.42");
    assert_eq!(sidecar.total_bytes(), 8);
    fs::remove_file(folder.join("jangtq_runtime.safetensors")).expect("removed");
    assert!(ckpt.sidecar().expect("no error").is_none());
}

#[test]
fn without_an_index_names_decide() {
    let folder = Folder::new();
    folder.file("weights.safetensors", &shard(&[two("w")]));
    folder.file("jangtq_runtime.safetensors", &shard(&[two("signs.2.42")]));
    assert_eq!(names(&folder.open().expect("sound")), ["w"]);
    folder.file("model-00001-of-00002.safetensors", &shard(&[two("a")]));
    folder.file("model-00002-of-00002.safetensors", &shard(&[two("b")]));
    assert_eq!(names(&folder.open().expect("sound")), ["a", "b"]);
}

#[test]
fn the_index_decides_between_two_tensors_of_a_name() {
    for (listed, value) in [("model-1.safetensors", 1.0), ("model-2.safetensors", 2.0)] {
        let folder = Folder::new();
        for (name, value) in [("model-1.safetensors", 1.0), ("model-2.safetensors", 2.0)] {
            folder.file(name, &shard(&[Tensor::f32("a", &[1], &[value])]));
        }
        folder.index(&[("a", listed)]);
        let ckpt = folder.open().expect("sound");
        assert_eq!(read(&ckpt, "a"), f32::to_le_bytes(value));
    }
}

#[test]
fn other_files_of_the_folder_are_read() {
    let folder = Folder::with(&[two("a")]);
    folder.config(&json!({"architectures": ["X"]}));
    folder.file("notes.txt", b"text");
    let ckpt = folder.open().expect("sound");
    assert_eq!(ckpt.config()["architectures"][0], "X");
    assert_eq!(ckpt.folder(), folder.path());
    assert_eq!(
        ckpt.text("notes.txt").expect("read").as_deref(),
        Some("text")
    );
    assert_eq!(ckpt.text("absent.txt").expect("no error"), None);
    assert_eq!(ckpt.json("absent.json").expect("no error"), None);
    let error = ckpt.json("notes.txt").expect_err("no JSON");
    assert_says("json", &error, &["notes.txt", "expected JSON", "line 1"]);
    folder.file("notes.txt", b"te\xffxt");
    let error = ckpt.text("notes.txt").expect_err("no text");
    assert_says("text", &error, &["notes.txt", "UTF-8", "other bytes at 2"]);
}

#[test]
fn many_threads_read_more_shards_than_stay_open() {
    const SHARDS: usize = 70;
    let folder = Folder::new();
    for number in 1..=SHARDS {
        let name = format!("model-{number:05}-of-{SHARDS:05}.safetensors");
        let tensor = Tensor::u32(&format!("t{number}"), &[1], &[number as u32]);
        folder.file(&name, &shard(&[tensor]));
    }
    let ckpt = folder.open().expect("sound");
    thread::scope(|scope| {
        for thread in 0..4 {
            let ckpt = &ckpt;
            scope.spawn(move || {
                for step in 0..2 * SHARDS {
                    let number = (step * (2 * thread + 1)) % SHARDS + 1;
                    let bytes = read(ckpt, &format!("t{number}"));
                    assert_eq!(bytes, (number as u32).to_le_bytes());
                }
            });
        }
    });
}

#[test]
fn a_shard_that_is_cut_while_it_is_read_is_an_error() {
    let file = shard(&[Tensor::new("a", "U8", &[100], vec![7; 100])]);
    // Before the first read the file is opened again, after it the open file ends too early.
    for read_before in [false, true] {
        let folder = Folder::new();
        folder.file("model.safetensors", &file);
        let ckpt = folder.open().expect("sound");
        if read_before {
            read(&ckpt, "a");
        }
        let cut = fs::OpenOptions::new()
            .write(true)
            .open(folder.join("model.safetensors"));
        let short = file.len() as u64 - 10;
        cut.and_then(|file| file.set_len(short)).expect("cut");
        let tensor = ckpt.tensor("a").expect("a");
        let error = ckpt.read(tensor, 0..100, &mut Vec::new()).expect_err("cut");
        let [expected, found] = [format!("{} bytes", file.len()), format!("found {short}")];
        assert_says("cut", &error, &["model.safetensors", &expected, &found]);
    }
}

#[test]
fn a_shard_that_is_replaced_by_another_is_an_error() {
    let folder = Folder::with(&[two("a")]);
    let ckpt = folder.open().expect("sound");
    let other = shard(&[two("a"), two("b")]);
    folder.file("model.safetensors", &other);
    let tensor = ckpt.tensor("a").expect("a");
    let error = ckpt.read(tensor, 0..8, &mut Vec::new());
    let found = format!("found {}", other.len());
    assert_says(
        "other",
        &error.expect_err("other"),
        &["model.safetensors", &found],
    );
}

#[test]
fn reads_past_a_tensor_are_refused() {
    let folder = Folder::with(&[two("a"), two("b")]);
    let ckpt = folder.open().expect("sound");
    let tensor = ckpt.tensor("a").expect("a");
    for (start, end) in [(0, 9), (8, 9), (5, 4), (u64::MAX, u64::MAX), (u64::MAX, 0)] {
        let error = ckpt.read(tensor, start..end, &mut Vec::new());
        let found = format!("found {start} to {end}");
        let error = error.expect_err("refused");
        assert_says("range", &error, &["tensor `a`", "8 bytes", &found]);
    }
    let mut elsewhere = tensor.clone();
    elsewhere.shard = 7;
    assert!(ckpt.read(&elsewhere, 0..1, &mut Vec::new()).is_err());
    elsewhere.shard = 0;
    elsewhere.offset = u64::MAX - 2;
    assert!(ckpt.read(&elsewhere, 0..8, &mut Vec::new()).is_err());
}

/// What is wrong, how the folder is made so, and what the message must say.
type Broken = (&'static str, fn(&Folder), &'static [&'static str]);

const POINTER: &[u8] =
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345678\n";

fn raw(folder: &Folder, header: &str, data_bytes: usize) {
    let file = raw_shard(header, &vec![0; data_bytes]);
    folder.file("model.safetensors", &file);
}

const BROKEN_FOLDERS: &[Broken] = &[
    (
        "no settings",
        |f| fs::remove_file(f.join("config.json")).expect("removed"),
        &["config.json", "settings", "found nothing"],
    ),
    (
        "settings that are no JSON",
        |f| f.file("config.json", b"{\"a\": }"),
        &["config.json", "expected JSON", "line 1 column 7"],
    ),
    (
        "settings that are a list",
        |f| f.file("config.json", b"[]"),
        &["config.json", "a JSON object"],
    ),
    (
        "settings that are a pointer",
        |f| f.file("config.json", POINTER),
        &["config.json", "Git LFS pointer"],
    ),
    (
        "no weights",
        |_| {},
        &["expected *.safetensors", "found none"],
    ),
    (
        "GGUF files",
        |f| f.file("model.gguf", b"GGUF"),
        &["expected *.safetensors", "found GGUF files"],
    ),
    (
        "PyTorch files",
        |f| f.file("pytorch_model.bin", b"PK"),
        &["expected *.safetensors", "only PyTorch files"],
    ),
    (
        "only the sidecar",
        |f| f.file("jangtq_runtime.safetensors", &shard(&[two("a")])),
        &["expected *.safetensors", "found none"],
    ),
    (
        "a folder in place of a shard",
        |f| fs::create_dir(f.join("model.safetensors")).expect("a folder"),
        &["model.safetensors", "not a regular file"],
    ),
    (
        "a missing number",
        |f| f.file("model-00002-of-00004.safetensors", &shard(&[two("a")])),
        &[
            "model-00001-of-00004.safetensors",
            "found nothing",
            "2 more are missing",
        ],
    ),
    (
        "two tensors of a name",
        |f| {
            f.file(
                "model-00001-of-00002.safetensors",
                &shard(&[two("a"), two("b")]),
            );
            f.file(
                "model-00002-of-00002.safetensors",
                &shard(&[two("b"), two("c")]),
            );
        },
        &[
            "`b`",
            "in one shard",
            "model-00001-of-00002",
            "model-00002-of-00002",
        ],
    ),
    (
        "an index of absent files",
        |f| {
            f.file("model-1.safetensors", &shard(&[two("a")]));
            f.index(&[("a", "model-1.safetensors"), ("b", "model-2.safetensors")]);
        },
        &[
            "model-2.safetensors",
            "found nothing",
            "index.json asks for it",
        ],
    ),
    (
        "an index that mixes shards up",
        |f| {
            f.file("model-1.safetensors", &shard(&[two("a")]));
            f.file("model-2.safetensors", &shard(&[two("b")]));
            f.index(&[("a", "model-1.safetensors"), ("b", "model-1.safetensors")]);
        },
        &[
            "index.json",
            "tensor `b`",
            "expected it in",
            "model-1.safetensors",
        ],
    ),
    (
        "an index of tensors that are nowhere",
        |f| {
            f.file("model-1.safetensors", &shard(&[two("a")]));
            f.index(&[("a", "model-1.safetensors"), ("b", "model-1.safetensors")]);
        },
        &[
            "index.json",
            "tensor `b`",
            "expected it in",
            "model-1.safetensors",
        ],
    ),
    (
        "an index that leaves the folder",
        |f| f.index(&[("a", "../model-1.safetensors")]),
        &[
            "index.json",
            "`weight_map.a`",
            "beside the index",
            "`../model-1.safetensors`",
        ],
    ),
    (
        "an index without a map",
        |f| f.file("model.safetensors.index.json", b"{\"metadata\": {}}"),
        &["index.json", "missing field `weight_map`"],
    ),
];

const BROKEN_SHARDS: &[Broken] = &[
    (
        "a pointer",
        |f| f.file("model.safetensors", POINTER),
        &["model.safetensors", "Git LFS pointer"],
    ),
    (
        "a page",
        |f| f.file("model.safetensors", b"<!DOCTYPE html><html></html>"),
        &["model.safetensors", "HTML"],
    ),
    (
        "a GGUF file",
        |f| f.file("model.safetensors", b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0"),
        &["model.safetensors", "a GGUF file"],
    ),
    (
        "an empty file",
        |f| f.file("model.safetensors", b""),
        &["model.safetensors", "an empty file"],
    ),
    (
        "three bytes",
        |f| f.file("model.safetensors", b"abc"),
        &["model.safetensors", "the bytes `abc`"],
    ),
    (
        "zeros",
        |f| f.file("model.safetensors", &[0; 100]),
        &["model.safetensors", "zeros (an unfinished download)"],
    ),
    (
        "data cut",
        |f| {
            let file = shard(&[two("a")]);
            f.file("model.safetensors", &file[..file.len() - 3]);
        },
        &["model.safetensors", "size: expected 101 bytes, found 98"],
    ),
    (
        "header cut",
        |f| f.file("model.safetensors", &shard(&[two("a")])[..30]),
        &["model.safetensors", "size: expected 93 bytes, found 30"],
    ),
    (
        "bytes after the end",
        |f| {
            let mut file = shard(&[two("a")]);
            file.push(0);
            f.file("model.safetensors", &file);
        },
        &["model.safetensors", "size: expected 101 bytes, found 102"],
    ),
    (
        "a header of a gigabyte",
        |f| f.file("model.safetensors", b"\0\0\0\x40\0\0\0\0{"),
        &["model.safetensors", "at most 100000000 bytes", "1073741824"],
    ),
    (
        "a header that is no JSON",
        |f| raw(f, r#"{"a": nonsense}"#, 0),
        &[
            "model.safetensors",
            "header: expected JSON",
            "line 1 column",
        ],
    ),
    (
        "an unknown type",
        |f| {
            raw(
                f,
                r#"{"a":{"dtype":"F9","shape":[2],"data_offsets":[0,8]}}"#,
                8,
            )
        },
        &["model.safetensors", "tensor `a`: dtype", "BF16", "found F9"],
    ),
    (
        "a shape of other bytes",
        |f| {
            raw(
                f,
                r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
                8,
            )
        },
        &[
            "tensor `a`: data_offsets: expected 12 bytes for F32 [3]",
            "found [0, 8]",
        ],
    ),
    (
        "offsets that fall",
        |f| {
            raw(
                f,
                r#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[8,4]}}"#,
                8,
            )
        },
        &["tensor `a`: data_offsets: expected 0 bytes", "found [8, 4]"],
    ),
    (
        "a shape past 64 bits",
        |f| {
            let shape = "[4294967296,4294967296]";
            let header =
                format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,8]}}}}"#);
            raw(f, &header, 8);
        },
        &[
            "tensor `a`: shape",
            "64 bits",
            "found [4294967296, 4294967296]",
        ],
    ),
    (
        "a tensor far past the end",
        |f| {
            let far = "[9223372036854775807],\"data_offsets\":[0,9223372036854775807]";
            raw(f, &format!(r#"{{"a":{{"dtype":"U8","shape":{far}}}}}"#), 8);
        },
        &["size: expected 9223372036854775904 bytes", "found 1"],
    ),
    (
        "a negative dimension",
        |f| {
            raw(
                f,
                r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#,
                8,
            )
        },
        &["model.safetensors", "header", "`-2`"],
    ),
    (
        "nine dimensions",
        |f| {
            let shape = "[1,1,1,1,1,1,1,1,1]";
            let header =
                format!(r#"{{"a":{{"dtype":"U8","shape":{shape},"data_offsets":[0,1]}}}}"#);
            raw(f, &header, 1);
        },
        &["model.safetensors", "header", "at most 8 dimensions"],
    ),
    (
        "a gap between tensors",
        |f| {
            let a = r#""a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}"#;
            let b = r#""b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}"#;
            raw(f, &format!("{{{b},{a}}}"), 5);
        },
        &[
            "tensor `b`: data_offsets: expected a start at 2",
            "found a start at 3",
        ],
    ),
    (
        "tensors that overlap",
        |f| {
            let a = r#""a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}"#;
            let b = r#""b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}"#;
            raw(f, &format!("{{{a},{b}}}"), 3);
        },
        &[
            "tensor `b`: data_offsets: expected a start at 2",
            "found a start at 1",
        ],
    ),
    (
        "a name twice",
        |f| {
            let a = r#""a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
            raw(f, &format!("{{{a},{a}}}"), 0);
        },
        &["model.safetensors", "tensor `a` twice"],
    ),
    (
        "a hostile name",
        |f| {
            let name = "\\n\\u001b[31m".repeat(1000);
            let entry = r#"{"dtype":"F9","shape":[2],"data_offsets":[0,8]}"#;
            raw(f, &format!(r#"{{"{name}":{entry}}}"#), 8);
        },
        &["tensor `\\n\\u{1b}[31m", "...`: dtype"],
    ),
];

#[test]
fn broken_sources_are_refused() {
    for (case, make, parts) in BROKEN_FOLDERS.iter().chain(BROKEN_SHARDS) {
        let folder = Folder::new();
        make(&folder);
        let error = folder.open().expect_err(case);
        assert_says(case, &error, parts);
        assert!(error.to_string().len() < 2000, "{case}: a long message");
    }
}

#[test]
fn what_is_no_folder_is_refused() {
    let folder = Folder::with(&[two("a")]);
    let absent = folder.join("absent");
    let error = Checkpoint::open(&absent).expect_err("nothing there");
    assert_says("absent", &error, &["absent", "the folder", "found nothing"]);
    let error = Checkpoint::open(&folder.join("model.safetensors")).expect_err("a file");
    assert_says(
        "file",
        &error,
        &["model.safetensors", "the folder", "found a file"],
    );
    let error = Checkpoint::open(Folder::empty().path()).expect_err("empty");
    assert_says("empty", &error, &["config.json", "found nothing"]);
}

#[test]
fn a_broken_sidecar_is_refused() {
    let folder = Folder::with(&[two("a")]);
    folder.file("jangtq_runtime.safetensors", &[0; 16]);
    let error = folder.open().expect("sound").sidecar().expect_err("zeros");
    assert_says("sidecar", &error, &["jangtq_runtime.safetensors", "zeros"]);
}

proptest! {
    /// Whatever happens to the bytes of a shard: an answer or an error, never a panic, and no read past the file.
    #[test]
    fn damaged_shards_never_panic(
        damage in prop::collection::vec((0usize..400, any::<u8>()), 1..4),
        keep in 0usize..400,
    ) {
        let mut file = shard(&[two("a"), Tensor::bf16("b", &[2, 3], &[0.5; 6]), two("c")]);
        for (place, byte) in damage {
            let place = place % file.len();
            file[place] = byte;
        }
        file.truncate(keep.max(file.len() / 2));
        let folder = Folder::new();
        folder.file("model.safetensors", &file);
        if let Ok(ckpt) = folder.open() {
            for tensor in ckpt.tensors() {
                prop_assert!(tensor.offset + tensor.bytes <= file.len() as u64);
                let read: Result<(), SourceError> = ckpt.read(tensor, 0..tensor.bytes, &mut Vec::new());
                prop_assert!(read.is_ok());
            }
        }
    }
}
