#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

#[test]
fn splits_are_found_from_any_part() {
    let folder = tempfile::tempdir().unwrap();
    let options = WriterOptions {
        split_max_bytes: Some(450),
        alignment: Some(64),
    };
    let files = write_model(
        &folder.path().join("m.gguf"),
        sample_metadata(),
        sample_tensors(),
        &options,
    );
    assert!(files.len() > 1, "{files:?}");
    let count = files.len();
    let names: Vec<String> = (1..=count)
        .map(|no| format!("m-{no:05}-of-{count:05}.gguf"))
        .collect();
    assert_eq!(folder_names(folder.path()), names);

    for file in &files {
        let model = Gguf::open(file).unwrap();
        assert_contents(&model, &sample_tensors());
        assert_eq!(model.shards().len(), count);
        assert_eq!(
            model.metadata().str("general.architecture"),
            Ok(Some("bailing_hybrid"))
        );
        assert_eq!(model.metadata().u32("split.tensors.count"), Ok(Some(4)));
        assert_eq!(model.alignment(), 64);
    }
    for file in &files {
        let alone = parse(&fs::read(file).unwrap(), file).unwrap();
        let one_tensor = alone.tensors.len() == 1;
        assert!(
            one_tensor || fs::metadata(file).unwrap().len() <= 450,
            "{file:?} is too large"
        );
    }
}

#[test]
fn a_joined_model_forgets_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let split = WriterOptions {
        split_max_bytes: Some(1),
        alignment: None,
    };
    let files = write_model(
        &folder.path().join("m.gguf"),
        sample_metadata(),
        sample_tensors(),
        &split,
    );
    assert_eq!(files.len(), sample_tensors().len());
    let parts = Gguf::open(&files[2]).unwrap();

    let joined = folder.path().join("joined.gguf");
    let metadata = parts.metadata().clone();
    write_model(
        &joined,
        metadata.clone(),
        sample_tensors(),
        &WriterOptions::default(),
    );
    let model = Gguf::open(&joined).unwrap();
    assert_contents(&model, &sample_tensors());
    assert_eq!(*model.metadata(), sample_metadata());

    // Splitting again under the name of a part replaces the numbers in the name.
    let again = write_model(
        &files[0],
        metadata,
        sample_tensors(),
        &WriterOptions {
            split_max_bytes: Some(450),
            alignment: None,
        },
    );
    assert!(
        again[0].ends_with(format!("m-00001-of-{:05}.gguf", again.len())),
        "{again:?}"
    );
}

/// Writes a model of four parts, spoils it, and returns the error of opening its second part.
fn open_spoilt(spoil: impl FnOnce(&[PathBuf])) -> (String, Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    let split = WriterOptions {
        split_max_bytes: Some(1),
        alignment: None,
    };
    let files = write_model(
        &folder.path().join("m.gguf"),
        sample_metadata(),
        sample_tensors(),
        &split,
    );
    spoil(&files);
    let error = Gguf::open(&files[1]).unwrap_err();
    (error.to_string(), error.hint())
}

/// Replaces a number that follows a key and its type tag.
fn patch(path: &Path, key: &str, value: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes
        .windows(key.len())
        .position(|window| window == key.as_bytes())
        .unwrap();
    bytes[at + key.len() + 4..][..value.len()].copy_from_slice(value);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_spoilt_split_names_the_part_and_the_reason() {
    type Spoil = fn(&[PathBuf]);
    let cases: &[(&str, Spoil, &[&str])] = &[
        (
            "one missing",
            |f| fs::remove_file(&f[2]).unwrap(),
            &["split.count", "m-00003-of-00004.gguf"],
        ),
        (
            "two missing",
            |f| {
                f[2..]
                    .iter()
                    .for_each(|file| fs::remove_file(file).unwrap())
            },
            &["m-00003-of-00004.gguf and 1 more"],
        ),
        (
            "a wrong place",
            |f| fs::write(&f[2], fs::read(&f[3]).unwrap()).unwrap(),
            &["m-00003-of-00004.gguf", "split.no", "expected 2, found 3"],
        ),
        (
            "another count",
            |f| patch(&f[3], "split.count", &5_u16.to_le_bytes()),
            &[
                "m-00004-of-00004.gguf",
                "split.count",
                "expected 4, found 5",
            ],
        ),
        (
            "not a part",
            |f| patch(&f[3], "split.count", &0_u16.to_le_bytes()),
            &[
                "m-00004-of-00004.gguf",
                "split.count",
                "a model in one file",
            ],
        ),
        (
            "tensors of one part",
            |f| patch(&f[0], "split.tensors.count", &9_i32.to_le_bytes()),
            &[
                "m-00001-of-00004.gguf",
                "split.tensors.count",
                "expected 4, found 9",
            ],
        ),
        (
            "tensors of every part",
            |f| {
                f.iter()
                    .for_each(|file| patch(file, "split.tensors.count", &9_i32.to_le_bytes()))
            },
            &[
                "m-00001-of-00004.gguf",
                "split.tensors.count",
                "expected 4",
                "found 9",
            ],
        ),
        (
            "negative tensors",
            |f| patch(&f[1], "split.tensors.count", &(-1_i32).to_le_bytes()),
            &[
                "m-00002-of-00004.gguf",
                "split.tensors.count",
                "expected an integer of at least 0",
            ],
        ),
        (
            "a number past the count",
            |f| patch(&f[1], "split.no", &4_u16.to_le_bytes()),
            &[
                "m-00002-of-00004.gguf",
                "split.no",
                "less than split.count, 4",
            ],
        ),
        (
            "another name",
            |f| patch(&f[1], "split.no", &2_u16.to_le_bytes()),
            &["m-00002-of-00004.gguf", "file name", "-00003-of-00004.gguf"],
        ),
        (
            "a tensor in two parts",
            |f| {
                let mut bytes = fs::read(&f[3]).unwrap();
                let at = bytes
                    .windows(10)
                    .position(|window| window == b"blk.0.cube")
                    .unwrap();
                bytes[at..at + 10].copy_from_slice(b"blk.0.exps");
                fs::write(&f[3], bytes).unwrap();
            },
            &[
                "m-00004-of-00004.gguf",
                "blk.0.exps.weight",
                "each tensor once",
                "m-00003-of-00004.gguf",
            ],
        ),
        (
            "a cut part",
            |f| fs::write(&f[3], b"GGUF").unwrap(),
            &["m-00004-of-00004.gguf", "version"],
        ),
    ];
    for (name, spoil, wanted) in cases {
        let (message, hint) = open_spoilt(spoil);
        for part in *wanted {
            assert!(message.contains(part), "{name}: no `{part}` in `{message}`");
        }
        assert!(hint.is_some(), "{name}");
    }
}
