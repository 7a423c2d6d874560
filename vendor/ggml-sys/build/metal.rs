//! The Metal backend: src/ggml-metal/CMakeLists.txt with GGML_METAL_EMBED_LIBRARY on, its default.
//!
//! The kernels are compiled by the Metal framework when the program starts, so that no Metal toolchain is
//! needed here: each kernel file is merged with its headers and embedded as text.

use std::fmt::Write as _;
use std::path::Path;

use super::context::{Backend, Context, Result, command_line, read, write};

pub const BACKEND: Backend = Backend {
    define: "GGML_USE_METAL",
    build,
};

pub const SOURCES: &[&str] = &[
    "ggml-metal/ggml-metal-ops.cpp",
    "ggml-metal/ggml-metal-device.cpp",
    "ggml-metal/ggml-metal.cpp",
    "ggml-metal/ggml-metal-common.cpp",
    "ggml-metal/ggml-metal-fusion.cpp",
    "ggml-metal/ggml-metal-tuning.cpp",
    "ggml-metal/ggml-metal-device.m",
    "ggml-metal/ggml-metal-context.m",
];

/// The files of `ggml-metal/kernels`, without `.metal`, in ggml's order.
pub const KERNELS: &[&str] = &[
    "fa_aux",
    "fa_f16",
    "fa_f32",
    "fa_q4_0",
    "fa_q4_1",
    "fa_q5_0",
    "fa_q5_1",
    "fa_q8_0",
    "fa_vec_f16",
    "fa_vec_f32",
    "fa_vec_q4_0",
    "fa_vec_q4_1",
    "fa_vec_q5_0",
    "fa_vec_q5_1",
    "fa_vec_q8_0",
    "mul_mv",
    "mul_mv_mma",
    "mul_mm",
    "quantize",
    "softmax",
    "norm",
    "unary",
    "binbcast",
    "reduce",
    "tri",
    "ssm",
    "wkv",
    "gated_delta_net",
    "solve_tri",
    "rope",
    "conv",
    "upscale",
    "argsort",
    "pool",
    "misc",
];

/// Kernel headers, in the order in which they precede a kernel that includes them.
const OPTIONAL_HEADERS: [&str; 4] = [
    "dequantize.h",
    "quantize.h",
    "fa_common.metal",
    "fa_vec_common.metal",
];

fn build(context: &Context) -> Result<String> {
    let mut builds = [context.c(), context.cpp()];
    for build in &mut builds {
        build
            .include(context.src().join("ggml-metal"))
            .define("GGML_METAL_EMBED_LIBRARY", None);
    }
    let [c, cpp] = builds;
    let key = format!("{} {}", command_line(&c)?, command_line(&cpp)?);
    let objects = context.reuse("ggml-metal", &key, || {
        let mut objects = embed(context)?;
        objects.extend(context.compile("ggml-metal", SOURCES, c, cpp)?);
        Ok(objects)
    })?;
    context.link("ggml-metal", objects)?;
    for framework in ["Foundation", "Metal", "MetalKit"] {
        println!("cargo::rustc-link-lib=framework={framework}");
    }
    link_compiler_runtime(context);
    Ok("Metal".into())
}

/// Assembles one object per kernel file, with the symbols that ggml-metal-device.m declares.
fn embed(context: &Context) -> Result<Vec<std::path::PathBuf>> {
    let mut assembler = context.assembler();
    for kernel in KERNELS {
        let text = context.out.join(format!("ggml-metal-embed-{kernel}.metal"));
        write(&text, &merge(&context.src(), kernel)?)?;
        let assembly = context.out.join(format!("ggml-metal-embed-{kernel}.s"));
        write(&assembly, &assembly_of(kernel, &text))?;
        assembler.file(assembly);
    }
    assembler
        .try_compile_intermediates()
        .map_err(|e| format!("ggml-metal kernels: {e}"))
}

/// The Mach-O assembly that puts a file between `ggml_metallib_<kernel>_start` and `_end`.
pub fn assembly_of(kernel: &str, text: &Path) -> String {
    let mut assembly = String::from(".section __DATA,__ggml_metallib\n");
    for (edge, content) in [
        ("start", format!(".incbin \"{}\"\n", text.display())),
        ("end", String::new()),
    ] {
        let symbol = format!("_ggml_metallib_{kernel}_{edge}");
        let _ = write!(assembly, ".globl {symbol}\n{symbol}:\n{content}");
    }
    assembly
}

/// One kernel file with everything it includes, as the four steps of ggml's CMake file make it.
pub fn merge(src: &Path, kernel: &str) -> Result<String> {
    let metal = src.join("ggml-metal");
    let kernels = metal.join("kernels");
    let body = read(&kernels.join(format!("{kernel}.metal")))?;
    let includes = |header: &str| body.contains(&format!("#include \"{header}\""));

    // Step 1: the shared header, the optional ones this kernel names, then the kernel.
    let mut text = read(&kernels.join("common.h"))?;
    for header in OPTIONAL_HEADERS {
        if includes(header) {
            text += &read(&kernels.join(header))?;
        }
    }
    text += &body;

    // Step 2: drop what step 1 resolved. Steps 3 and 4: put ggml's own headers in place.
    let common = read(&src.join("ggml-common.h"))?;
    let interface = read(&metal.join("ggml-metal-impl.h"))?;
    let resolved = |line: &str| {
        line.contains("#pragma once")
            || line.contains("#include \"common.h\"")
            || OPTIONAL_HEADERS
                .iter()
                .any(|header| line.contains(&format!("#include \"{header}\"")))
    };
    let text = text
        .split_inclusive('\n')
        .filter(|line| !resolved(line))
        .collect::<String>();
    let text = replace_lines(&text, "__embed_ggml-common.h__", &common);
    Ok(replace_lines(
        &text,
        "#include \"ggml-metal-impl.h\"",
        &interface,
    ))
}

/// Replaces every line that contains `pattern` by `content`.
fn replace_lines(text: &str, pattern: &str, content: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| {
            if line.contains(pattern) {
                content
            } else {
                line
            }
        })
        .collect()
}

/// `@available` compiles to a call into clang's runtime, which rustc's linker line leaves out.
fn link_compiler_runtime(context: &Context) {
    let Ok(compiler) = context.c().try_get_compiler() else {
        return;
    };
    let Ok(output) = compiler.to_command().arg("--print-search-dirs").output() else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(dirs) = text
        .lines()
        .find_map(|line| line.strip_prefix("libraries: ="))
    else {
        return;
    };
    for dir in dirs.split(':').map(|dir| Path::new(dir).join("lib/darwin")) {
        if dir.join("libclang_rt.osx.a").is_file() {
            println!("cargo::rustc-link-search=native={}", dir.display());
            println!("cargo::rustc-link-lib=clang_rt.osx");
            return;
        }
    }
}
