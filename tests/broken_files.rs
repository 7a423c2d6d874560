//! Broken model files give one clear error that names the file and the field, without a panic and without more memory
//! than the file could justify.

#[path = "common/allocations.rs"]
mod allocations;
#[path = "common/broken.rs"]
mod broken;

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use oxling::gguf::{Gguf, GgufError, GgufString, Metadata, Writer, WriterOptions};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// What opening any file may take, beside what grows with the file.
const FIXED_BYTES: usize = 64 << 10;
/// Bytes in memory per byte of the file: a value is larger in memory than in the file, but by a bounded factor.
const BYTES_PER_FILE_BYTE: usize = 10;

/// Opens a file that must be refused, and checks how much memory that took.
fn refusal(path: &Path) -> GgufError {
    let size = fs::metadata(path).map_or(0, |attributes| attributes.len() as usize);
    let (outcome, peak) = allocations::peak_of(|| Gguf::open(path));
    let allowed = FIXED_BYTES + BYTES_PER_FILE_BYTE * size;
    assert!(
        peak <= allowed,
        "{}: {peak} bytes allocated, {allowed} justified",
        path.display()
    );
    match outcome {
        Ok(_) => panic!("{}: opened", path.display()),
        Err(error) => error,
    }
}

fn assert_says(error: &GgufError, path: &Path, wanted: &[&str]) {
    let message = error.to_string();
    assert!(
        message.starts_with(&path.display().to_string()),
        "`{message}` does not name {}",
        path.display()
    );
    assert!(!message.contains('\n'), "`{message}` is not one line");
    assert_eq!(error.path(), path);
    for part in wanted {
        assert!(message.contains(part), "no `{part}` in `{message}`");
    }
}

#[test]
fn the_file_behind_all_cases_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("valid.gguf");
    fs::write(&path, broken::valid()).unwrap();
    let model = Gguf::open(&path).unwrap();
    assert_eq!((model.metadata().len(), model.tensors().len()), (5, 2));
}

#[test]
fn each_broken_file_gets_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let cases = broken::cases();
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    let names: HashSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases share a name");
    for case in &cases {
        let path = case.write(folder.path());
        assert_says(&refusal(&path), &path, &[case.field, case.phrase]);
    }
}

#[test]
fn what_is_not_a_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert_says(
        &refusal(folder),
        folder,
        &["expected a GGUF file, found a directory"],
    );

    let absent = folder.join("absent.gguf");
    assert_says(
        &refusal(&absent),
        &absent,
        &["cannot open the file", "No such file"],
    );

    #[cfg(unix)]
    {
        let null = Path::new("/dev/null");
        assert_says(
            &refusal(null),
            null,
            &["expected a GGUF file, found a device"],
        );

        let pipe = folder.join("pipe.gguf");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|status| status.success()) {
            assert_says(
                &refusal(&pipe),
                &pipe,
                &["expected a GGUF file, found a pipe"],
            );
        }

        let link = folder.join("link.gguf");
        std::os::unix::fs::symlink(folder.join("nowhere"), &link).unwrap();
        assert_says(
            &refusal(&link),
            &link,
            &["cannot open the file", "No such file"],
        );
    }
}

#[cfg(unix)]
#[test]
fn a_file_without_permission_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("locked.gguf");
    fs::write(&path, broken::valid()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // The superuser may read everything: there is nothing to refuse.
    if fs::File::open(&path).is_err() {
        let error = refusal(&path);
        assert_says(&error, &path, &["cannot open the file", "ermission denied"]);
        assert!(error.hint().is_some());
    }
}

#[cfg(unix)]
#[test]
fn a_link_to_a_model_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (
        folder.path().join("valid.gguf"),
        folder.path().join("link.gguf"),
    );
    fs::write(&file, broken::valid()).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert_eq!(Gguf::open(&link).unwrap().tensors().len(), 2);
}

#[test]
fn a_large_sparse_file_does_not_justify_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.gguf");
    // Counts that a terabyte could hold, in a file that holds them only as zeros.
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((1_u64 << 34).to_le_bytes());
    bytes.extend((1_u64 << 36).to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    // Not every file system has room for the claim; then there is nothing to show.
    if file.set_len(1 << 40).is_err() {
        return;
    }
    let (outcome, peak) = allocations::peak_of(|| Gguf::open(&path));
    assert!(peak < FIXED_BYTES, "{peak} bytes allocated");
    let error = outcome.map(drop).unwrap_err();
    assert_says(&error, &path, &["metadata entry 0 key", "1 to 65535 bytes"]);
}

#[test]
fn the_densest_files_stay_within_what_they_justify() {
    let mut many_keys = Metadata::new();
    for index in 0..50_000 {
        many_keys.insert(format!("{index:x}"), 1_u8);
    }
    let mut empty_strings = Metadata::new();
    empty_strings.insert("words", vec![GgufString::default(); 50_000]);

    let folder = tempfile::tempdir().unwrap();
    for (name, metadata) in [("keys", many_keys), ("strings", empty_strings)] {
        let path = folder.path().join(name);
        let writer = Writer::create(&path, metadata, Vec::new(), &WriterOptions::default());
        writer.and_then(Writer::finish).unwrap();
        let size = fs::metadata(&path).unwrap().len() as usize;
        let (model, peak) = allocations::peak_of(|| Gguf::open(&path).unwrap());
        assert!(!model.metadata().is_empty());
        assert!(
            peak <= FIXED_BYTES + BYTES_PER_FILE_BYTE * size,
            "{name}: {peak} bytes for a file of {size}"
        );
    }
}
