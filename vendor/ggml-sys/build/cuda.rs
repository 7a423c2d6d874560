//! The CUDA backend: src/ggml-cuda/CMakeLists.txt, with CUDA graphs on as llama.cpp configures it.
//!
//! Needs `nvcc` on PATH (or in `NVCC`). `CUDA_ARCHITECTURES` takes CMake's notation, such as
//! `86-real;90-virtual` or `native`; `CUDA_PATH` names the toolkit when it is not beside nvcc.
//! NCCL, which CMake uses where it finds it, stays off.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::context::{Backend, Context, Result, command_line, env_var, glob};

pub const BACKEND: Backend = Backend {
    define: "GGML_USE_CUDA",
    build,
};

/// Types with FlashAttention vector kernels; every pair of them has a define that says whether it is built.
pub const FA_TYPES: [&str; 7] = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "bf16", "f16"];

/// GGML_CUDA_FA_QUANTS' default: the K-V pairs that are built.
pub const FA_QUANTS: [&str; 4] = ["q4_0-q4_0", "q8_0-q8_0", "f16-f16", "bf16-bf16"];

/// Prefixes of the template instances that are always built.
pub const INSTANCES: [&str; 4] = ["fattn-tile", "fattn-mma", "mmq", "mmf"];

fn build(context: &Context) -> Result<String> {
    let nvcc = env_var("NVCC").unwrap_or_else(|| "nvcc".into());
    let version = toolkit_version(&nvcc)?;
    let architectures = architectures(context, version);

    let mut cuda = context.cpp();
    cuda.cuda(true)
        // nvcc knows no GNU dialects.
        .std("c++17")
        .include(context.src().join("ggml-cuda"))
        .flag("-use_fast_math")
        .flag("-extended-lambda")
        .define("GGML_CUDA_USE_GRAPHS", None)
        .define(
            "GGML_CUDA_FA_QUANTS",
            Some(format!("\"{}\"", FA_QUANTS.join(",")).as_str()),
        );
    for (name, built) in fa_defines() {
        cuda.define(&name, Some(if built { "1" } else { "0" }));
    }
    if version >= (12, 8) {
        cuda.flag("-compress-mode=size");
    }
    if context.target.msvc {
        cuda.flag("-Xcompiler").flag("/Zc:preprocessor");
    }
    for architecture in &architectures {
        cuda.flag(generate_code(architecture));
    }
    let key = format!("{} {version:?}", command_line(&cuda)?);
    let objects = context.reuse("ggml-cuda", &key, || {
        cuda.files(sources(&context.src())?);
        cuda.try_compile_intermediates()
            .map_err(|e| format!("ggml-cuda: {e}"))
    })?;
    // Linked as C++: nothing here needs the device link that cc adds to a CUDA archive.
    context.link("ggml-cuda", objects)?;

    for dir in library_dirs(&nvcc) {
        println!("cargo::rustc-link-search=native={}", dir.display());
    }
    for library in ["cudart", "cublas", "cuda"] {
        println!("cargo::rustc-link-lib={library}");
    }
    Ok(format!(
        "CUDA {}.{} ({})",
        version.0,
        version.1,
        architectures.join(" ")
    ))
}

/// All sources: globs, as in ggml's CMake, and the selected FlashAttention vector instances.
pub fn sources(src: &Path) -> Result<Vec<PathBuf>> {
    let dir = src.join("ggml-cuda");
    let instances = dir.join("template-instances");
    let mut files = Vec::new();
    for prefix in INSTANCES {
        files.extend(glob(&instances, prefix, ".cu")?);
    }
    files.extend(FA_QUANTS.map(|pair| instances.join(format!("fattn-vec-instance-{pair}.cu"))));
    files.extend(glob(&dir, "", ".cu")?);
    Ok(files)
}

/// `GGML_CUDA_FA_<K>_<V>` for every pair of types.
pub fn fa_defines() -> Vec<(String, bool)> {
    let mut defines = Vec::new();
    for v in FA_TYPES {
        for k in FA_TYPES {
            let name = format!("GGML_CUDA_FA_{k}_{v}").to_uppercase();
            defines.push((name, FA_QUANTS.contains(&format!("{k}-{v}").as_str())));
        }
    }
    defines
}

/// Major and minor version, from nvcc's "release 12.8".
fn toolkit_version(nvcc: &str) -> Result<(u32, u32)> {
    let hint = "hint: put nvcc on PATH, or set NVCC to it";
    let output = Command::new(nvcc)
        .arg("--version")
        .output()
        .map_err(|e| format!("{nvcc}: {e}\n{hint}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split("release ")
        .nth(1)
        .and_then(|rest| rest.split([',', ' ', '\n']).next())
        .and_then(|version| version.split_once('.'))
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.trim().parse().ok()?)))
        .ok_or_else(|| format!("{nvcc} --version names no release: {text}\n{hint}"))
}

/// `CUDA_ARCHITECTURES`, else the GPUs of this machine, else ggml's list for distribution.
fn architectures(context: &Context, version: (u32, u32)) -> Vec<String> {
    let wanted = env_var("CUDA_ARCHITECTURES");
    let native = match wanted.as_deref() {
        Some("native") => true,
        Some(list) => {
            return list
                .split([';', ',', ' '])
                .filter(|a| !a.is_empty())
                .map(arch_specific)
                .collect();
        }
        None => context.target.native && version >= (11, 6),
    };
    let found = if native {
        gpus_of_this_machine()
    } else {
        vec![]
    };
    if found.is_empty() {
        portable_architectures(version)
    } else {
        found
    }
}

/// ggml's own list when it does not build for the machine at hand.
pub fn portable_architectures(version: (u32, u32)) -> Vec<String> {
    let mut list: Vec<&str> = Vec::new();
    if version.0 < 13 {
        list.extend(["50-virtual", "61-virtual", "70-virtual"]);
    }
    list.extend(["75-virtual", "80-virtual", "86-real"]);
    if version >= (11, 8) {
        list.extend(["89-real", "90-virtual"]);
    }
    if version >= (12, 8) {
        list.push("120a-real");
    }
    if version >= (12, 9) {
        list.push("121a-real");
    }
    list.into_iter().map(String::from).collect()
}

fn gpus_of_this_machine() -> Vec<String> {
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=compute_cap", "--format=csv,noheader"])
        .output();
    let Ok(output) = output else { return vec![] };
    let mut list: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let (major, minor) = line.trim().split_once('.')?;
            let capability: u32 = format!("{major}{minor}").parse().ok()?;
            Some(arch_specific(&format!("{capability}-real")))
        })
        .collect();
    list.sort();
    list.dedup();
    list
}

/// Blackwell's FP4 instructions exist only in `12Xa`, so plain `12X` becomes that.
pub fn arch_specific(architecture: &str) -> String {
    let (number, kind) =
        architecture.split_at(architecture.find('-').unwrap_or(architecture.len()));
    let plain_12x =
        number.len() == 3 && number.starts_with("12") && number.as_bytes()[2].is_ascii_digit();
    if plain_12x {
        format!("{number}a{kind}")
    } else {
        architecture.to_owned()
    }
}

/// CMake's notation as nvcc's flag: `-virtual` is PTX, `-real` machine code, no suffix both.
pub fn generate_code(architecture: &str) -> String {
    let (number, code) = match architecture.split_once('-') {
        Some((number, "virtual")) => (number, format!("compute_{number}")),
        Some((number, _)) => (number, format!("sm_{number}")),
        None => (
            architecture,
            format!("compute_{architecture},sm_{architecture}"),
        ),
    };
    format!("--generate-code=arch=compute_{number},code=[{code}]")
}

/// Folders of the toolkit's libraries; `stubs` holds the driver library for machines without a driver.
fn library_dirs(nvcc: &str) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = ["CUDA_PATH", "CUDA_HOME"]
        .iter()
        .filter_map(|name| env_var(name))
        .map(PathBuf::from)
        .collect();
    let on_path = std::env::var_os("PATH").into_iter().flat_map(|path| {
        std::env::split_paths(&path)
            .map(|dir| dir.join(nvcc))
            .collect::<Vec<_>>()
    });
    let program = on_path
        .chain([PathBuf::from(nvcc)])
        .find_map(|file| file.canonicalize().ok());
    roots.extend(
        program
            .iter()
            .filter_map(|file| file.parent()?.parent())
            .map(Path::to_path_buf),
    );
    roots.push("/usr/local/cuda".into());

    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let below = [
        "lib64".into(),
        "lib/x64".into(),
        format!("targets/{arch}-linux/lib"),
        "lib".into(),
    ];
    let mut dirs = Vec::new();
    for dir in roots
        .iter()
        .flat_map(|root| below.iter().map(move |dir| root.join(dir)))
    {
        dirs.extend(
            [dir.clone(), dir.join("stubs")]
                .into_iter()
                .filter(|dir| dir.is_dir()),
        );
    }
    dirs
}
