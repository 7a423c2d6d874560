//! The Vulkan backend: src/ggml-vulkan/CMakeLists.txt and vulkan-shaders/CMakeLists.txt.
//!
//! A C++ program of ggml's turns each shader into SPIR-V with `glslc` and writes it as C++ source. Needs
//! glslc, the Vulkan loader and headers, and SPIR-V headers: the Vulkan SDK or a distribution's packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::context::{Backend, Context, Result, command_line, env_var};

pub const BACKEND: Backend = Backend {
    define: "GGML_USE_VULKAN",
    build,
};

pub const SOURCES: &[&str] = &[
    "ggml-vulkan/ggml-vulkan.cpp",
    "ggml-vulkan/ggml-vulkan-buffers.cpp",
    "ggml-vulkan/ggml-vulkan-debug.cpp",
];

/// The program that generates the shader sources.
pub const GENERATOR: &str = "ggml-vulkan/vulkan-shaders/vulkan-shaders-gen.cpp";

/// GLSL extension, its test shader, and the define for a glslc that knows it.
pub const EXTENSIONS: &[(&str, &str, &str)] = &[
    (
        "GL_KHR_cooperative_matrix",
        "coopmat.comp",
        "GGML_VULKAN_COOPMAT_GLSLC_SUPPORT",
    ),
    (
        "GL_NV_cooperative_matrix2",
        "coopmat2.comp",
        "GGML_VULKAN_COOPMAT2_GLSLC_SUPPORT",
    ),
    (
        "GL_NV_cooperative_matrix_decode_vector",
        "coopmat2_decode_vector.comp",
        "GGML_VULKAN_COOPMAT2_DECODE_VECTOR_GLSLC_SUPPORT",
    ),
    (
        "GL_EXT_integer_dot_product",
        "integer_dot.comp",
        "GGML_VULKAN_INTEGER_DOT_GLSLC_SUPPORT",
    ),
    (
        "GL_EXT_bfloat16",
        "bfloat16.comp",
        "GGML_VULKAN_BFLOAT16_GLSLC_SUPPORT",
    ),
    (
        "GL_EXT_float_e2m1",
        "float_e2m1.comp",
        "GGML_VULKAN_FLOAT_E2M1_GLSLC_SUPPORT",
    ),
    (
        "GL_EXT_float_e4m3",
        "float_e4m3.comp",
        "GGML_VULKAN_FLOAT_E4M3_GLSLC_SUPPORT",
    ),
];

fn build(context: &Context) -> Result<String> {
    let sdk = env_var("VULKAN_SDK").map(PathBuf::from);
    let glslc = match &sdk {
        Some(sdk) if sdk.join("bin/glslc").is_file() => sdk.join("bin/glslc"),
        Some(sdk) if sdk.join("Bin/glslc.exe").is_file() => sdk.join("Bin/glslc.exe"),
        _ => "glslc".into(),
    };
    let defines = supported_extensions(context, &glslc)?;

    let mut cpp = context.cpp();
    for define in &defines {
        cpp.define(define, None);
    }
    if !context.target.msvc {
        cpp.flag("-fvisibility=hidden")
            .flag("-fvisibility-inlines-hidden");
    }
    if let Some(sdk) = &sdk {
        cpp.include(sdk.join("include"))
            .include(sdk.join("Include"));
        for dir in ["lib", "Lib"].map(|dir| sdk.join(dir)) {
            println!("cargo::rustc-link-search=native={}", dir.display());
        }
    }
    let key = format!(
        "{} {} {}",
        command_line(&cpp)?,
        glslc.display(),
        glslc_version(&glslc)
    );
    let objects = context.reuse("ggml-vulkan", &key, || {
        let generator = build_generator(context, &defines)?;
        cpp.files(generate_shaders(context, &generator, &glslc)?);
        context.compile("ggml-vulkan", SOURCES, context.c(), cpp)
    })?;
    context.link("ggml-vulkan", objects)?;
    let loader = if context.target.os == "windows" {
        "vulkan-1"
    } else {
        "vulkan"
    };
    println!("cargo::rustc-link-lib={loader}");
    Ok(format!(
        "Vulkan ({} of {} shader extensions)",
        defines.len(),
        EXTENSIONS.len()
    ))
}

/// Asks glslc about each extension; as in ggml, only its own "not supported" means no.
fn supported_extensions(context: &Context, glslc: &Path) -> Result<Vec<&'static str>> {
    let tests = context
        .src()
        .join("ggml-vulkan/vulkan-shaders/feature-tests");
    let mut defines = Vec::new();
    for &(extension, shader, define) in EXTENSIONS {
        let output = Command::new(glslc)
            .args([
                "-o",
                "-",
                "-fshader-stage=compute",
                "--target-env=vulkan1.3",
            ])
            .arg(tests.join(shader))
            .output()
            .map_err(|e| {
                format!(
                    "{}: {e}\nhint: install glslc or set VULKAN_SDK to the Vulkan SDK",
                    glslc.display()
                )
            })?;
        let refusal = format!("extension not supported: {extension}");
        if !String::from_utf8_lossy(&output.stderr).contains(&refusal) {
            defines.push(define);
        }
    }
    Ok(defines)
}

fn glslc_version(glslc: &Path) -> String {
    let output = Command::new(glslc).arg("--version").output();
    output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default()
}

/// The generator runs during the build, so it is compiled for the machine that builds.
fn build_generator(context: &Context, defines: &[&str]) -> Result<PathBuf> {
    let host = std::env::var("HOST").map_err(|e| format!("HOST: {e}"))?;
    let msvc = host.ends_with("msvc");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .target(&host)
        .host(&host)
        .opt_level(2)
        .debug(false)
        .warnings(false);
    for define in defines {
        build.define(define, None);
    }
    let program = context.out.join(format!(
        "vulkan-shaders-gen{}",
        std::env::consts::EXE_SUFFIX
    ));
    let compiler = build
        .try_get_compiler()
        .map_err(|e| format!("C++ compiler of the host: {e}"))?;
    let mut command = compiler.to_command();
    command
        .arg(context.src().join(GENERATOR))
        .current_dir(&context.out);
    if msvc {
        command
            .arg("/EHsc")
            .arg(format!("/Fe{}", program.display()));
    } else {
        command.arg("-o").arg(&program).arg("-pthread");
    }
    run(&mut command)?;
    Ok(program)
}

/// Writes `ggml-vulkan-shaders.hpp` and one C++ file per shader; returns the latter.
fn generate_shaders(context: &Context, generator: &Path, glslc: &Path) -> Result<Vec<PathBuf>> {
    let spirv = context.out.join("vulkan-shaders.spv");
    let header = context.out.join("ggml-vulkan-shaders.hpp");
    let command = || {
        let mut command = Command::new(generator);
        command
            .arg("--output-dir")
            .arg(&spirv)
            .arg("--target-hpp")
            .arg(&header)
            .current_dir(&context.out);
        command
    };
    run(&mut command())?;
    let mut generated = Vec::new();
    for shader in shaders(&context.src())? {
        let name = shader
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let source = context.out.join(format!("{name}.cpp"));
        run(command()
            .arg("--glslc")
            .arg(glslc)
            .arg("--source")
            .arg(&shader)
            .arg("--target-cpp")
            .arg(&source))?;
        generated.push(source);
    }
    Ok(generated)
}

/// The shader files, which ggml's CMake finds by a glob too.
pub fn shaders(src: &Path) -> Result<Vec<PathBuf>> {
    super::context::glob(&src.join("ggml-vulkan/vulkan-shaders"), "", ".comp")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Err(format!(
        "{command:?}: {}\n{}{}",
        output.status, text[0], text[1]
    ))
}
