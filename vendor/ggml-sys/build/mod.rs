//! The build of ggml, one module per backend, each a transcription of that backend's CMakeLists.txt.
//!
//! The tests include this module too, to check every backend's file list on every platform.
#![allow(dead_code)]

pub mod base;
pub mod blas;
pub mod context;
pub mod cpu;
pub mod cuda;
pub mod headers;
pub mod metal;
pub mod rpc;
pub mod source;
pub mod vulkan;

use context::{Backend, Context, Result};

/// Builds what the features and the target ask for and tells cargo and the crate about it.
pub fn run() -> Result<()> {
    for path in ["build.rs", "build", "Cargo.toml", "layout.c"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let source = source::locate()?;
    let version = base::version(&source)?;
    println!("cargo::rustc-env=GGML_SYS_SOURCE={}", source.ggml.display());
    println!("cargo::rustc-env=GGML_SYS_VERSION={version}");
    println!("cargo::rustc-env=GGML_SYS_COMMIT={}", source.origin);
    println!(
        "cargo::rustc-env=GGML_SYS_HEADERS={}",
        headers::fingerprint(&source.ggml)?
    );
    println!(
        "cargo::metadata=include={}",
        source.ggml.join("include").display()
    );

    let context = Context::from_env(source)?;
    base::write_license(&context)?;
    // Bindings of another version would fail the layout check before they could be regenerated.
    if feature("regenerate") || linting() {
        println!("cargo::rustc-env=GGML_SYS_BUILD_INFO=not built");
        return Ok(());
    }
    base::write_version_header(&context, &version)?;

    base::check_layout(&context)?;
    // The registry comes first and the base last: linkers resolve from left to right.
    let backends = backends(&context);
    base::build_registry(&context, &backends)?;
    let mut info = Vec::new();
    for backend in &backends {
        info.push((backend.build)(&context)?);
    }
    base::build(&context)?;
    println!("cargo::rustc-env=GGML_SYS_BUILD_INFO={}", info.join("; "));
    Ok(())
}

/// The backends of this build, in the order in which ggml's own build adds them.
fn backends(context: &Context) -> Vec<Backend> {
    let macos = context.target.os == "macos";
    let mut list = vec![cpu::BACKEND];
    if feature("blas") || (macos && feature("accelerate")) {
        list.push(blas::BACKEND);
    }
    if feature("cuda") {
        list.push(cuda::BACKEND);
    }
    if macos && feature("metal") {
        list.push(metal::BACKEND);
    }
    if feature("rpc") {
        list.push(rpc::BACKEND);
    }
    if feature("vulkan") {
        list.push(vulkan::BACKEND);
    }
    list
}

/// Whether clippy runs: it links nothing, and cargo gives it an output folder of its own.
fn linting() -> bool {
    std::env::var("RUSTC_WORKSPACE_WRAPPER").is_ok_and(|wrapper| wrapper.contains("clippy-driver"))
}

/// Whether a cargo feature of this package is on.
pub fn feature(name: &str) -> bool {
    std::env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some()
}
