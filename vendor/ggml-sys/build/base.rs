//! ggml-base and the backend registry: src/CMakeLists.txt.

use super::context::{Backend, Context, Result, read, write};
use super::source::Source;

/// The target `ggml-base`.
pub const SOURCES: &[&str] = &[
    "ggml-quants.c",
    "ggml.c",
    "ggml-alloc.c",
    "ggml-backend.cpp",
    "ggml-backend-meta.cpp",
    "ggml-opt.cpp",
    "gguf.cpp",
    "ggml.cpp",
    "ggml-threading.cpp",
];

/// The target `ggml`.
pub const REGISTRY_SOURCES: &[&str] = &["ggml-backend-reg.cpp", "ggml-backend-dl.cpp"];

/// The version that ggml's CMakeLists.txt states.
pub fn version(source: &Source) -> Result<String> {
    let path = source.ggml.join("CMakeLists.txt");
    let text = read(&path)?;
    let part = |name: &str| -> Result<&str> {
        text.lines()
            .find_map(|line| {
                line.trim()
                    .strip_prefix("set(GGML_VERSION_")?
                    .strip_prefix(name)?
                    .strip_suffix(')')
            })
            .map(str::trim)
            .ok_or_else(|| format!("{}: no GGML_VERSION_{name}", path.display()))
    };
    Ok(format!(
        "{}.{}.{}",
        part("MAJOR")?,
        part("MINOR")?,
        part("PATCH")?
    ))
}

/// `ggml-version.h`, which ggml's CMake configures and `ggml.c` includes.
pub fn write_version_header(context: &Context, version: &str) -> Result<()> {
    let text = format!(
        "#pragma once\n#define GGML_VERSION \"{version}\"\n#define GGML_COMMIT \"{}\"\n",
        context.source.origin
    );
    write(&context.out.join("ggml-version.h"), &text)
}

/// Copies the licence to where the crate includes it from.
pub fn write_license(context: &Context) -> Result<()> {
    write(
        &context.out.join("LICENSE"),
        &read(&context.source.license)?,
    )
}

/// The registry, which knows a backend only by its define.
pub fn build_registry(context: &Context, backends: &[Backend]) -> Result<()> {
    let mut cpp = context.cpp();
    for backend in backends {
        cpp.define(backend.define, None);
    }
    context.archive("ggml", REGISTRY_SOURCES, context.c(), cpp)
}

/// Compiles the assertions that tie src/bindings.rs to this source, before anything that takes longer.
pub fn check_layout(context: &Context) -> Result<()> {
    context.c().file("layout.c").try_compile_intermediates().map(drop).map_err(|e| {
        format!(
            "src/bindings.rs does not fit the headers in {}\nhint: use ggml 0.26, or regenerate the bindings\n{e}",
            context.source.ggml.display()
        )
    })
}

/// ggml-base and the system libraries.
pub fn build(context: &Context) -> Result<()> {
    let mut c = context.c();
    let mut cpp = context.cpp();
    if context.target.os == "macos" && has_buggy_linker(context) {
        c.define("HAVE_BUGGY_APPLE_LINKER", None);
        cpp.define("HAVE_BUGGY_APPLE_LINKER", None);
    }
    context.archive("ggml-base", SOURCES, c, cpp)?;
    match context.target.os.as_str() {
        "linux" => link(&["pthread", "m", "dl"]),
        "android" => link(&["m", "dl"]),
        "windows" | "macos" => {}
        _ => link(&["pthread", "m"]),
    }
    Ok(())
}

/// ld64 of dyld-1015.7 mishandles two unrolled loops of ggml-quants.c; the define keeps them rolled.
fn has_buggy_linker(context: &Context) -> bool {
    let Ok(compiler) = context.c().try_get_compiler() else {
        return false;
    };
    compiler
        .to_command()
        .arg("-Wl,-v")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("dyld-1015.7"))
}

fn link(libraries: &[&str]) {
    for library in libraries {
        println!("cargo::rustc-link-lib={library}");
    }
}
