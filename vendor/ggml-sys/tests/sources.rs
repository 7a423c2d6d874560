//! Every backend's build, checked as far as it can be without its toolchain (feature `regenerate`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[path = "../build/mod.rs"]
mod build;

use build::{base, blas, cpu, cuda, metal, rpc, vulkan};

fn src() -> PathBuf {
    Path::new(env!("GGML_SYS_SOURCE")).join("src")
}

/// Names of the sources in a folder of ggml/src, relative to it.
fn sources_in(folder: &str) -> BTreeSet<String> {
    let dir = std::fs::read_dir(src().join(folder)).expect("a folder of ggml");
    dir.map(|entry| {
        entry
            .expect("an entry")
            .file_name()
            .to_string_lossy()
            .into_owned()
    })
    .filter(|name| [".c", ".cpp", ".m"].iter().any(|end| name.ends_with(end)))
    .map(|name| {
        format!("{folder}/{name}")
            .trim_start_matches('/')
            .to_owned()
    })
    .collect()
}

/// A list names each file of the folders but `left_out`; so a file that a new version adds is noticed.
fn check_complete(list: &[&str], folders: &[&str], left_out: &[&str]) {
    let listed: BTreeSet<String> = list
        .iter()
        .chain(left_out)
        .map(ToString::to_string)
        .collect();
    let found: BTreeSet<String> = folders
        .iter()
        .flat_map(|folder| sources_in(folder))
        .collect();
    assert_eq!(listed, found);
}

#[test]
fn lists_are_complete() {
    check_complete(
        &[base::SOURCES, base::REGISTRY_SOURCES].concat(),
        &[""],
        &[],
    );
    let cpu = [
        "ggml-cpu",
        "ggml-cpu/amx",
        "ggml-cpu/tiled",
        "ggml-cpu/llamafile",
    ];
    check_complete(cpu::SOURCES, &cpu, &[]);
    // cpu-feats.cpp serves builds that load backends at run time.
    check_complete(
        cpu::X86_SOURCES,
        &["ggml-cpu/arch/x86"],
        &["ggml-cpu/arch/x86/cpu-feats.cpp"],
    );
    check_complete(
        cpu::ARM_SOURCES,
        &["ggml-cpu/arch/arm"],
        &["ggml-cpu/arch/arm/cpu-feats.cpp"],
    );
    check_complete(metal::SOURCES, &["ggml-metal"], &[]);
    check_complete(vulkan::SOURCES, &["ggml-vulkan"], &[]);
    check_complete(
        rpc::SOURCES,
        &["ggml-rpc"],
        &["ggml-rpc/transport-apple.cpp"],
    );
    check_complete(blas::SOURCES, &["ggml-blas"], &[]);
}

#[test]
fn metal_knows_every_kernel() {
    let device =
        std::fs::read_to_string(src().join("ggml-metal/ggml-metal-device.m")).expect("readable");
    let (_, list) = device
        .split_once("#define GGML_METAL_LIBS")
        .expect("the list of libraries");
    let named: BTreeSet<&str> = list
        .lines()
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("X(")?.split([',', ')']).nth(1))
        .map(str::trim)
        .collect();
    assert_eq!(named, metal::KERNELS.iter().copied().collect());
}

#[test]
fn metal_merge_leaves_no_include_of_ggml() {
    for kernel in metal::KERNELS {
        let text = metal::merge(&src(), kernel).expect("mergeable");
        let open: Vec<&str> = text
            .lines()
            .filter(|line| line.trim().starts_with("#include \""))
            .collect();
        // ggml-common.h's own includes are behind the language its user defines, which is Metal here.
        assert!(
            open.iter().all(|line| line.contains("ggml-common.h")),
            "{kernel}: {open:?}"
        );
        assert!(
            !text.contains("#pragma once") && !text.contains("__embed_ggml-common.h__"),
            "{kernel}"
        );
        assert!(
            text.contains("kernel void") || text.contains("[[host_name("),
            "{kernel} has no kernel"
        );
    }
}

/// The merge against the commands of ggml's CMake file, run as they stand there.
#[test]
#[cfg(unix)]
fn metal_merge_equals_ggmls_own() {
    let metal = src().join("ggml-metal");
    let script = r##"
        headers=kernels/common.h
        for h in dequantize.h quantize.h fa_common.metal fa_vec_common.metal; do
            if grep -q "#include \"$h\"" kernels/$1.metal; then headers="$headers kernels/$h"; fi
        done
        cat $headers kernels/$1.metal |
        sed -e '/#include "common.h"/d' -e '/#include "dequantize.h"/d' -e '/#include "quantize.h"/d' \
            -e '/#include "fa_common.metal"/d' -e '/#include "fa_vec_common.metal"/d' -e '/#pragma once/d' |
        sed -e '/__embed_ggml-common.h__/r ../ggml-common.h' -e '/__embed_ggml-common.h__/d' |
        sed -e '/#include "ggml-metal-impl.h"/r ggml-metal-impl.h' -e '/#include "ggml-metal-impl.h"/d'
    "##;
    for kernel in metal::KERNELS {
        let mut shell = std::process::Command::new("sh");
        let output = shell
            .args(["-c", script, "sh", kernel])
            .current_dir(&metal)
            .output()
            .expect("a shell");
        assert!(output.status.success(), "{kernel}");
        let expected = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(
            metal::merge(&src(), kernel).expect("mergeable") == expected,
            "{kernel} differs"
        );
    }
}

#[test]
fn metal_assembly() {
    assert_eq!(
        metal::assembly_of("norm", Path::new("/a/norm.metal")),
        ".section __DATA,__ggml_metallib\n\
         .globl _ggml_metallib_norm_start\n_ggml_metallib_norm_start:\n.incbin \"/a/norm.metal\"\n\
         .globl _ggml_metallib_norm_end\n_ggml_metallib_norm_end:\n"
    );
}

#[test]
fn cuda_sources_exist_and_defines_cover_every_pair() {
    let files = cuda::sources(&src()).expect("globs match");
    for file in &files {
        assert!(file.is_file(), "{} does not exist", file.display());
    }
    let unique: BTreeSet<&PathBuf> = files.iter().collect();
    assert_eq!(unique.len(), files.len(), "a file is compiled twice");

    let fattn = std::fs::read_to_string(src().join("ggml-cuda/fattn.cu")).expect("readable");
    let used = fattn.matches("FATTN_VEC_CASES_ALL_D(").count();
    let defines = cuda::fa_defines();
    assert_eq!(defines.len(), 49);
    assert_eq!(
        used,
        49 + 1,
        "fattn.cu uses one define per pair, and defines the macro once"
    );
    assert_eq!(
        defines.iter().filter(|(_, built)| *built).count(),
        cuda::FA_QUANTS.len()
    );
    assert!(defines.contains(&("GGML_CUDA_FA_Q8_0_Q8_0".into(), true)));
    assert!(defines.contains(&("GGML_CUDA_FA_Q4_0_F16".into(), false)));
}

#[test]
fn cuda_architectures_become_flags() {
    for (architecture, flag) in [
        (
            "75-virtual",
            "--generate-code=arch=compute_75,code=[compute_75]",
        ),
        ("86-real", "--generate-code=arch=compute_86,code=[sm_86]"),
        (
            "90",
            "--generate-code=arch=compute_90,code=[compute_90,sm_90]",
        ),
        (
            "120a-real",
            "--generate-code=arch=compute_120a,code=[sm_120a]",
        ),
    ] {
        assert_eq!(cuda::generate_code(architecture), flag);
    }
    for (given, used) in [
        ("120", "120a"),
        ("121-real", "121a-real"),
        ("120a-real", "120a-real"),
        ("90", "90"),
    ] {
        assert_eq!(cuda::arch_specific(given), used);
    }
    assert_eq!(
        cuda::portable_architectures((11, 7))
            .last()
            .map(String::as_str),
        Some("86-real")
    );
    assert_eq!(cuda::portable_architectures((12, 4)).len(), 8);
    assert_eq!(
        cuda::portable_architectures((13, 0))
            .first()
            .map(String::as_str),
        Some("75-virtual")
    );
}

#[test]
fn vulkan_files_exist() {
    assert!(src().join(vulkan::GENERATOR).is_file());
    assert!(vulkan::shaders(&src()).expect("a folder of shaders").len() > 100);
    let tests = src().join("ggml-vulkan/vulkan-shaders/feature-tests");
    let cmake =
        std::fs::read_to_string(src().join("ggml-vulkan/CMakeLists.txt")).expect("readable");
    for (extension, shader, define) in vulkan::EXTENSIONS {
        assert!(tests.join(shader).is_file(), "{shader}");
        for name in [extension, define] {
            assert!(
                cmake.contains(&format!("\"{name}\"")),
                "{name} is not in ggml's CMake file"
            );
        }
    }
    assert_eq!(
        cmake.matches("test_shader_extension_support(").count(),
        vulkan::EXTENSIONS.len()
    );
}
