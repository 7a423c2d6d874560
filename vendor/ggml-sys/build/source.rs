//! Finds the source of ggml: the locked registry package, or the folder named by `GGML_SRC_DIR`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::context::{Result, env_var};

const PACKAGE: &str = "llama-cpp-sys-2";

/// Where ggml lies on this machine.
pub struct Source {
    /// The folder that holds `include/ggml.h` and `src/ggml.c`.
    pub ggml: PathBuf,
    /// The licence text that covers it.
    pub license: PathBuf,
    /// What it was taken from, for `GGML_COMMIT`: the package carries no commit of its own.
    pub origin: String,
    /// A folder that someone may be working in, unlike the registry's.
    pub may_change: bool,
}

/// Finds the source; the lock file decides which, unless `GGML_SRC_DIR` overrides it.
pub fn locate() -> Result<Source> {
    if let Some(dir) = env_var("GGML_SRC_DIR") {
        let source = from_dir(Path::new(&dir), "GGML_SRC_DIR");
        return source
            .map(|source| Source {
                may_change: true,
                ..source
            })
            .map_err(|e| format!("GGML_SRC_DIR: {e}"));
    }
    let (root, version) = from_lock()?;
    from_dir(&root.join("llama.cpp"), &format!("{PACKAGE}-{version}"))
}

/// Accepts the ggml folder itself or a llama.cpp tree around it.
fn from_dir(dir: &Path, origin: &str) -> Result<Source> {
    let ggml = [dir.to_path_buf(), dir.join("ggml")]
        .into_iter()
        .find(|d| d.join("include/ggml.h").is_file() && d.join("src/ggml.c").is_file())
        .ok_or_else(|| format!("no include/ggml.h and src/ggml.c under {}", dir.display()))?;
    let license = [ggml.join("LICENSE"), ggml.join("../LICENSE")]
        .into_iter()
        .find(|f| f.is_file())
        .ok_or_else(|| format!("no LICENSE in or above {}", ggml.display()))?;
    Ok(Source {
        ggml,
        license,
        origin: origin.to_owned(),
        may_change: false,
    })
}

/// Asks cargo where it put the locked package; downloads it when the offline try fails.
fn from_lock() -> Result<(PathBuf, String)> {
    let offline = metadata(&["--offline"]);
    let json = match offline {
        Ok(json) => json,
        Err(offline) => metadata(&[]).map_err(|online| {
            format!(
                "cannot find the source of ggml ({PACKAGE}): {online}\noffline: {offline}\n\
                 hint: run `cargo fetch --locked`, or set GGML_SRC_DIR to a ggml 0.26 source folder"
            )
        })?,
    };
    let json: serde_json::Value =
        serde_json::from_slice(&json).map_err(|e| format!("cargo metadata: {e}"))?;
    let package = json["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["name"] == PACKAGE)
        .ok_or_else(|| format!("cargo metadata names no package {PACKAGE}"))?;
    match (
        package["manifest_path"]
            .as_str()
            .map(Path::new)
            .and_then(Path::parent),
        package["version"].as_str(),
    ) {
        (Some(root), Some(version)) => Ok((root.to_path_buf(), version.to_owned())),
        _ => Err(format!(
            "cargo metadata gives no path or version of {PACKAGE}"
        )),
    }
}

fn metadata(extra: &[&str]) -> Result<Vec<u8>> {
    let manifest_dir = env_var("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?;
    let cargo = env_var("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(extra)
        .current_dir(&manifest_dir);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(steers_a_build) {
            command.env_remove(name);
        }
    }
    let output = command
        .output()
        .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(output.stdout)
}

/// Variables meant for the outer build, which the inner cargo must not take as its own.
fn steers_a_build(name: &str) -> bool {
    const EXACT: [&str; 9] = [
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
        "RUSTC",
        "RUSTDOC",
        "TARGET",
    ];
    const PARTS: [&str; 3] = ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"];
    EXACT.contains(&name)
        || PARTS.iter().any(|part| name.contains(part))
        || name.starts_with("CARGO_FEATURE_")
        || name.starts_with("CARGO_CFG_")
}
