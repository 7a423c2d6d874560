//! Rules of the house that a compiler does not check.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Above this a file wants to be two.
const MAX_LINES: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .expect("a folder of the repository")
            .flatten()
        {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    let all = ["src", "tests", "vendor"]
        .into_iter()
        .flat_map(|folder| files(folder, "rs"));
    all.map(|p| {
        let name = p
            .strip_prefix(root())
            .expect("inside")
            .to_string_lossy()
            .replace('\\', "/");
        (name, std::fs::read_to_string(p).expect("readable"))
    })
    .collect()
}

#[test]
fn unsafe_stays_in_its_rooms() {
    let allowed = [
        "vendor/ggml-sys/",
        "src/ggml/",
        "src/kernels/",
        "src/gguf/map.rs",
        "tests/common/allocations.rs",
        "tests/gguf_types.rs",
        "tests/rpc.rs",
    ];
    for (name, text) in sources() {
        if allowed.iter().any(|a| name.starts_with(a)) || name == "tests/tidy.rs" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let used = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|u| code.contains(u));
            assert!(
                !used,
                "{name}:{}: unsafe code outside its rooms",
                number + 1
            );
        }
    }
}

#[test]
fn files_stay_small() {
    for (name, text) in sources() {
        // Generated.
        if name == "vendor/ggml-sys/src/bindings.rs" {
            continue;
        }
        assert!(
            text.lines().count() <= MAX_LINES,
            "{name} has {} lines, more than {MAX_LINES}",
            text.lines().count()
        );
    }
}

#[test]
fn modules_depend_downwards() {
    // From the bottom up; a folder may use what stands before it, except as noted.
    let layers = [
        "hub",
        "gguf",
        "kernels",
        "ggml",
        "planes",
        "tokenizer",
        "memory",
        "model",
        "engine",
        "chat",
        "constrain",
        "eval",
        "synth",
        "convert",
        "imatrix",
        "quantize",
        "import",
        "server",
    ];
    let also_forbidden = [
        ("gguf", "ggml"),
        ("tokenizer", "ggml"),
        ("memory", "tokenizer"),
        ("chat", "ggml"),
        ("chat", "engine"),
        ("chat", "model"),
        ("synth", "engine"),
        ("synth", "model"),
    ];
    for (name, text) in sources() {
        for (height, layer) in layers.iter().enumerate() {
            if !name.starts_with(&format!("src/{layer}/")) {
                continue;
            }
            let above = layers[height + 1..].iter().map(|above| (layer, above));
            let noted = also_forbidden
                .iter()
                .filter(|(l, _)| l == layer)
                .map(|(l, f)| (l, f));
            for (_, forbidden) in above.chain(noted) {
                let looks_up = text.contains(&format!("crate::{forbidden}::"));
                assert!(!looks_up, "{name} must not know crate::{forbidden}");
            }
        }
    }
}

#[test]
fn no_test_is_ignored_and_nothing_is_left_to_do() {
    for (name, text) in sources() {
        if name == "tests/tidy.rs" {
            continue;
        }
        for mark in ["#[ignore", "todo!(", "unimplemented!(", "FIXME", "XXX"] {
            assert!(!text.contains(mark), "{name} contains {mark}");
        }
    }
}

#[test]
fn the_repository_stays_small() {
    const MAX_BYTES: u64 = 40 << 20;
    let Ok(listed) = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
    else {
        return;
    };
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    let total: u64 = names
        .split('\0')
        .filter_map(|n| std::fs::metadata(root().join(n)).ok())
        .filter(|m| m.is_file())
        .map(|m| m.len())
        .sum();
    assert!(total < MAX_BYTES, "{total} bytes are tracked");
}
