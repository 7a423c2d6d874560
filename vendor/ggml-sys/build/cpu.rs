//! The CPU backend: src/ggml-cpu/CMakeLists.txt for x86 and Arm, as llama.cpp configures it
//! (llamafile and repack on) but with ggml's own thread pool instead of OpenMP.

use std::process::Command;

use super::context::{Backend, Context, Result, env_var, write};
use super::feature;

pub const BACKEND: Backend = Backend {
    define: "GGML_USE_CPU",
    build,
};

/// Files of every architecture, slowest to compile first.
pub const SOURCES: &[&str] = &[
    "ggml-cpu/ops.cpp",
    "ggml-cpu/llamafile/sgemm.cpp",
    "ggml-cpu/tiled/tiled-kernel.cpp",
    "ggml-cpu/repack.cpp",
    "ggml-cpu/binary-ops.cpp",
    "ggml-cpu/unary-ops.cpp",
    "ggml-cpu/amx/mmq.cpp",
    "ggml-cpu/tiled/tiled.cpp",
    "ggml-cpu/vec.cpp",
    "ggml-cpu/amx/amx.cpp",
    "ggml-cpu/ggml-cpu.cpp",
    "ggml-cpu/hbm.cpp",
    "ggml-cpu/traits.cpp",
    "ggml-cpu/ggml-cpu.c",
    "ggml-cpu/quants.c",
];
pub const X86_SOURCES: &[&str] = &["ggml-cpu/arch/x86/repack.cpp", "ggml-cpu/arch/x86/quants.c"];
pub const ARM_SOURCES: &[&str] = &["ggml-cpu/arch/arm/repack.cpp", "ggml-cpu/arch/arm/quants.c"];

/// What `OXLING_CPU` and the target come to.
enum Tuning {
    /// The CPU of this machine.
    Native,
    /// A `-march` value.
    March(String),
    /// The target's baseline.
    Baseline,
}

fn build(context: &Context) -> Result<String> {
    let target = &context.target;
    let tuning = match env_var("OXLING_CPU") {
        Some(value) if value != "native" => Tuning::March(value),
        Some(_) if !target.native => {
            return Err("OXLING_CPU=native: this is a cross or reproducible build".into());
        }
        _ if target.native => Tuning::Native,
        _ => Tuning::Baseline,
    };

    let mut files = SOURCES.to_vec();
    let flags = match target.arch.as_str() {
        "x86_64" | "x86" => {
            files.extend(X86_SOURCES);
            if target.msvc {
                msvc_x86_flags(&tuning)?
            } else {
                x86_flags(&tuning)
            }
        }
        "aarch64" | "arm" => {
            files.extend(ARM_SOURCES);
            if target.msvc {
                return Err("MSVC on Arm is not supported: use clang".into());
            }
            arm_flags(context, &tuning)?
        }
        other => {
            return Err(format!(
                "no CPU build for {other} is transcribed from ggml yet (x86_64 and aarch64 are)"
            ));
        }
    };

    let mut builds = [context.c(), context.cpp()];
    for build in &mut builds {
        build
            .include(context.src().join("ggml-cpu"))
            .define("GGML_USE_LLAMAFILE", None)
            .define("GGML_USE_CPU_REPACK", None);
        if target.os == "macos" && feature("accelerate") {
            build
                .define("GGML_USE_ACCELERATE", None)
                .define("ACCELERATE_NEW_LAPACK", None)
                .define("ACCELERATE_LAPACK_ILP64", None);
        }
        for flag in &flags {
            build.flag(flag);
        }
    }
    let [c, cpp] = builds;
    context.archive("ggml-cpu", &files, c, cpp)?;
    if target.os == "macos" && feature("accelerate") {
        println!("cargo::rustc-link-lib=framework=Accelerate");
    }
    if target.os == "windows" {
        // ggml-cpu.cpp reads the CPU's name from the registry.
        println!("cargo::rustc-link-lib=advapi32");
    }
    let flags = if flags.is_empty() {
        "baseline".into()
    } else {
        flags.join(" ")
    };
    Ok(format!("CPU ({flags})"))
}

fn x86_flags(tuning: &Tuning) -> Vec<String> {
    match tuning {
        Tuning::Native => vec!["-march=native".into()],
        Tuning::March(value) => vec![format!("-march={value}")],
        Tuning::Baseline => vec![],
    }
}

/// MSVC has no native switch, so what FindSIMD.cmake probes is asked of this CPU.
fn msvc_x86_flags(tuning: &Tuning) -> Result<Vec<String>> {
    let flags: &[&str] = match tuning {
        #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
        Tuning::Native if std::is_x86_feature_detected!("avx512bw") => {
            &["/arch:AVX512", "/DGGML_AVX512"]
        }
        #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
        Tuning::Native
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") =>
        {
            &[
                "/arch:AVX2",
                "/DGGML_AVX2",
                "/DGGML_FMA",
                "/DGGML_F16C",
                "/D__BMI2__",
                "/DGGML_BMI2",
            ]
        }
        Tuning::Native | Tuning::Baseline => &[],
        Tuning::March(value) => match value.as_str() {
            "x86-64" => &[],
            "x86-64-v2" => &["/DGGML_SSE42"],
            "x86-64-v3" => &[
                "/arch:AVX2",
                "/DGGML_AVX2",
                "/DGGML_FMA",
                "/DGGML_F16C",
                "/D__BMI2__",
                "/DGGML_BMI2",
            ],
            "x86-64-v4" => &["/arch:AVX512", "/DGGML_AVX512", "/D__BMI2__", "/DGGML_BMI2"],
            other => {
                return Err(format!(
                    "OXLING_CPU={other}: with MSVC use x86-64, -v2, -v3 or -v4"
                ));
            }
        },
    };
    Ok(flags.iter().map(ToString::to_string).collect())
}

/// Arm: `-mcpu=native` leaves features out on some compilers, so each is tried by running it.
fn arm_flags(context: &Context, tuning: &Tuning) -> Result<Vec<String>> {
    let mut flags = Vec::new();
    if context
        .cpp()
        .is_flag_supported("-mfp16-format=ieee")
        .unwrap_or(false)
    {
        flags.push("-mfp16-format=ieee".to_owned());
    }
    match tuning {
        Tuning::Baseline => {}
        Tuning::March(value) => flags.push(format!("-march={value}")),
        Tuning::Native => {
            let probe = Probe::new(context)?;
            let native = probe.native_flag();
            let mut fixes = String::new();
            for &(tag, feature, code) in ARM_FEATURES {
                if probe.runs(tag, code, &format!("{native}+{tag}"))? {
                    fixes += &format!("+{tag}");
                } else if probe.compiles(
                    tag,
                    "int main() { return 0; }",
                    &format!("{native}+no{tag}"),
                )? {
                    fixes += &format!("+no{tag}");
                    flags.push(format!("-U__ARM_FEATURE_{feature}"));
                }
            }
            flags.push(format!("{native}{fixes}"));
        }
    }
    Ok(flags)
}

/// Tag of `-mcpu`, suffix of `__ARM_FEATURE_`, and a program that only runs where the feature exists.
const ARM_FEATURES: &[(&str, &str, &str)] = &[
    (
        "dotprod",
        "DOTPROD",
        "#include <arm_neon.h>\nint main() { volatile int z = 0; int8x16_t a = vdupq_n_s8((signed char) z);\n\
         return vgetq_lane_s32(vdotq_s32(vdupq_n_s32(z), a, a), 0); }",
    ),
    (
        "i8mm",
        "MATMUL_INT8",
        "#include <arm_neon.h>\nint main() { volatile int z = 0; int8x16_t a = vdupq_n_s8((signed char) z);\n\
         return vgetq_lane_s32(vmmlaq_s32(vdupq_n_s32(z), a, a), 0); }",
    ),
    (
        "sve",
        "SVE",
        "#include <arm_sve.h>\nint main() { volatile float z = 0; svfloat32_t a = svdup_n_f32(z);\n\
         return (int) svaddv_f32(svptrue_b32(), svadd_f32_z(svptrue_b32(), a, a)); }",
    ),
    (
        "sme",
        "SME",
        "#include <arm_sme.h>\n__arm_locally_streaming int main() { __asm__ volatile(\"smstart; smstop;\"); return 0; }",
    ),
];

/// Tries small C++ programs with the compiler of this build.
struct Probe<'a> {
    compiler: cc::Tool,
    context: &'a Context,
}

impl<'a> Probe<'a> {
    fn new(context: &'a Context) -> Result<Self> {
        let compiler = context
            .cpp()
            .try_get_compiler()
            .map_err(|e| format!("C++ compiler: {e}"))?;
        Ok(Self { compiler, context })
    }

    /// What `-mcpu=native` stands for, as the compiler's driver reports it; some old GCCs say `-march`.
    fn native_flag(&self) -> String {
        const FALLBACK: &str = "-mcpu=native";
        let output = self
            .compiler
            .to_command()
            .args([FALLBACK, "-E", "-v", "-"])
            .stdin(std::process::Stdio::null())
            .output();
        let Ok(output) = output else {
            return FALLBACK.into();
        };
        let text = String::from_utf8_lossy(&output.stderr).replace('\'', " ");
        let find = |prefix: &str| {
            text.split_whitespace()
                .find(|word| word.starts_with(prefix) && !word.ends_with("=native"))
        };
        match find("-march=").or_else(|| find("-mcpu=")) {
            Some(flag) if output.status.success() => flag.into(),
            _ => FALLBACK.into(),
        }
    }

    fn compiles(&self, name: &str, code: &str, flag: &str) -> Result<bool> {
        self.try_compile(name, code, flag)
            .map(|program| program.is_some())
    }

    fn runs(&self, name: &str, code: &str, flag: &str) -> Result<bool> {
        let program = self.try_compile(name, code, flag)?;
        Ok(program.is_some_and(|p| Command::new(p).output().is_ok_and(|o| o.status.success())))
    }

    fn try_compile(
        &self,
        name: &str,
        code: &str,
        flag: &str,
    ) -> Result<Option<std::path::PathBuf>> {
        let source = self.context.out.join(format!("probe-{name}.cpp"));
        let program = self.context.out.join(format!("probe-{name}"));
        write(&source, code)?;
        let output = self
            .compiler
            .to_command()
            .arg(flag)
            .arg(&source)
            .arg("-o")
            .arg(&program)
            .output();
        Ok(output.is_ok_and(|o| o.status.success()).then_some(program))
    }
}
