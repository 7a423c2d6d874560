//! The BLAS backend: src/ggml-blas/CMakeLists.txt.
//!
//! macOS uses Accelerate unless told otherwise; elsewhere `OXLING_BLAS_LIB` names the library
//! (default `openblas`) and `OXLING_BLAS_INCLUDE` the folder of its header.

use std::path::{Path, PathBuf};

use super::context::{Backend, Context, Result, env_var};

pub const BACKEND: Backend = Backend {
    define: "GGML_USE_BLAS",
    build,
};

pub const SOURCES: &[&str] = &["ggml-blas/ggml-blas.cpp"];

/// Where ggml's CMake looks for cblas.h when pkg-config does not know.
const INCLUDE_DIRS: [&str; 7] = [
    "/usr/include",
    "/usr/local/include",
    "/usr/include/openblas",
    "/opt/homebrew/opt/openblas/include",
    "/usr/local/opt/openblas/include",
    "/usr/include/x86_64-linux-gnu/openblas/include",
    "/usr/include/x86_64-linux-gnu",
];

fn build(context: &Context) -> Result<String> {
    let mut cpp = context.cpp();
    let library = env_var("OXLING_BLAS_LIB");
    if context.target.os == "macos" && library.is_none() {
        cpp.define("ACCELERATE_NEW_LAPACK", None)
            .define("ACCELERATE_LAPACK_ILP64", None)
            .define("GGML_BLAS_USE_ACCELERATE", None);
        println!("cargo::rustc-link-lib=framework=Accelerate");
        context.archive("ggml-blas", SOURCES, context.c(), cpp)?;
        return Ok("BLAS (Accelerate)".into());
    }

    let library = library.unwrap_or_else(|| "openblas".into());
    let (header, vendor) = vendor(&library);
    if let Some(define) = vendor {
        cpp.define(define, None);
    }
    cpp.include(include_dir(header)?);
    context.archive("ggml-blas", SOURCES, context.c(), cpp)?;
    println!("cargo::rustc-link-lib={library}");
    Ok(format!("BLAS ({library})"))
}

/// The header that ggml-blas.cpp includes for a library, and the define that selects it.
fn vendor(library: &str) -> (&'static str, Option<&'static str>) {
    match library {
        name if name.contains("openblas") => ("cblas.h", Some("GGML_BLAS_USE_OPENBLAS")),
        name if name.contains("mkl") => ("mkl.h", Some("GGML_BLAS_USE_MKL")),
        name if name.contains("blis") => ("blis.h", Some("GGML_BLAS_USE_BLIS")),
        name if name.contains("nvpl") => ("nvpl_blas.h", Some("GGML_BLAS_USE_NVPL")),
        _ => ("cblas.h", None),
    }
}

fn include_dir(header: &str) -> Result<PathBuf> {
    if let Some(dir) = env_var("OXLING_BLAS_INCLUDE") {
        return Ok(dir.into());
    }
    // Debian keeps the headers of each BLAS in its own folder below the multiarch one.
    let multiarch = ["openblas-pthread", "openblas-openmp", "openblas-serial"].map(|flavour| {
        format!(
            "/usr/include/{}-linux-gnu/{flavour}",
            std::env::consts::ARCH
        )
    });
    INCLUDE_DIRS
        .iter()
        .copied()
        .chain(multiarch.iter().map(String::as_str))
        .map(Path::new)
        .find(|dir| dir.join(header).is_file())
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("no {header} found\nhint: set OXLING_BLAS_INCLUDE to its folder"))
}
