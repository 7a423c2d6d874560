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

fn assert_spoilt(name: &str, spoil: impl FnOnce(&[PathBuf]), wanted: &[&str]) {
    let (message, hint) = open_spoilt(spoil);
    for part in wanted {
        assert!(message.contains(part), "{name}: no `{part}` in `{message}`");
    }
    assert!(hint.is_some(), "{name}");
}

#[test]
fn a_spoilt_file_of_a_split_is_named() {
    type Spoil = fn(&[PathBuf]);
    let cases: [(&str, Spoil, &[&str]); 5] = [
        (
            "one missing",
            |files| fs::remove_file(&files[2]).unwrap(),
            &["split.count", "m-00003-of-00004.gguf"],
        ),
        (
            "two missing",
            |files| {
                files[2..]
                    .iter()
                    .for_each(|file| fs::remove_file(file).unwrap())
            },
            &["m-00003-of-00004.gguf and 1 more"],
        ),
        (
            "a wrong place",
            |files| fs::write(&files[2], fs::read(&files[3]).unwrap()).unwrap(),
            &["m-00003-of-00004.gguf", "split.no", "expected 2, found 3"],
        ),
        (
            "a tensor in two parts",
            |files| {
                let mut bytes = fs::read(&files[3]).unwrap();
                let at = bytes
                    .windows(10)
                    .position(|window| window == b"blk.0.cube")
                    .unwrap();
                bytes[at..at + 10].copy_from_slice(b"blk.0.exps");
                fs::write(&files[3], bytes).unwrap();
            },
            &[
                "m-00004-of-00004.gguf",
                "`blk.0.exps.weight`",
                "each tensor once",
                "m-00003-of-00004.gguf",
            ],
        ),
        (
            "a cut part",
            |files| fs::write(&files[3], b"GGUF").unwrap(),
            &["m-00004-of-00004.gguf", "version"],
        ),
    ];
    for (name, spoil, wanted) in cases {
        assert_spoilt(name, spoil, wanted);
    }
}

#[test]
fn a_wrong_number_in_a_split_is_named() {
    let (no, count, tensors) = ("split.no", "split.count", "split.tensors.count");
    let two = |number: u16| number.to_le_bytes().to_vec();
    let four = |number: i32| number.to_le_bytes().to_vec();
    // Which parts get the number, the key, the number, the part the error names, what it says.
    let cases = [
        (3..4, count, two(5), 4, "expected 4, found 5"),
        (3..4, count, two(0), 4, "a model in one file"),
        (0..1, tensors, four(9), 1, "expected 4, found 9"),
        (
            0..4,
            tensors,
            four(9),
            1,
            "expected 4, the tensors in all parts, found 9",
        ),
        (
            1..2,
            tensors,
            four(-1),
            2,
            "expected an integer of at least 0",
        ),
        (1..2, no, two(4), 2, "less than split.count, 4"),
    ];
    for (parts, key, number, named, says) in cases {
        let spoil = |files: &[PathBuf]| {
            files[parts]
                .iter()
                .for_each(|file| patch(file, key, &number))
        };
        assert_spoilt(
            says,
            spoil,
            &[&format!("m-{named:05}-of-00004.gguf"), key, says],
        );
    }
    let renumber = |files: &[PathBuf]| patch(&files[1], no, &two(2));
    assert_spoilt(
        "another name",
        renumber,
        &["m-00002-of-00004.gguf", "file name", "-00003-of-00004.gguf"],
    );
}
