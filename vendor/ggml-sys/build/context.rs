//! What every backend's build shares: the target, the common flags and how an archive is made.

use std::path::{Path, PathBuf};

use super::headers::hash_files;
use super::source::Source;

/// Build errors are texts for the person at the terminal.
pub type Result<T> = std::result::Result<T, String>;

/// One ggml backend of the build.
pub struct Backend {
    /// The define that puts it into ggml's registry.
    pub define: &'static str,
    /// Compiles it and describes it in a few words.
    pub build: fn(&Context) -> Result<String>,
}

/// The machine that will run the code.
pub struct Target {
    pub os: String,
    pub arch: String,
    pub msvc: bool,
    /// The build runs on the machine it builds for, so that code may be tuned to this CPU.
    pub native: bool,
}

/// The inputs of a build.
pub struct Context {
    pub source: Source,
    pub out: PathBuf,
    pub target: Target,
    /// Names everything but the compiler's command that decides what is built; none if that may change unseen.
    recipe: Option<String>,
}

impl Context {
    /// Reads what cargo tells build scripts.
    pub fn from_env(source: Source) -> Result<Self> {
        let need = |name: &str| std::env::var(name).map_err(|e| format!("{name}: {e}"));
        let same_machine = need("HOST")? == need("TARGET")?;
        let recipe = if source.may_change {
            None
        } else {
            let mut code = glob(Path::new("build"), "", ".rs")?;
            code.push("build.rs".into());
            Some(format!("{} {}", source.ggml.display(), hash_files(&code)?))
        };
        Ok(Self {
            recipe,
            source,
            out: PathBuf::from(need("OUT_DIR")?),
            target: Target {
                os: need("CARGO_CFG_TARGET_OS")?,
                arch: need("CARGO_CFG_TARGET_ARCH")?,
                msvc: need("CARGO_CFG_TARGET_ENV")? == "msvc",
                // A reproducible build (SOURCE_DATE_EPOCH) is not tuned either, as in ggml's CMake.
                native: same_machine && env_var("SOURCE_DATE_EPOCH").is_none(),
            },
        })
    }

    /// `src/` of ggml.
    pub fn src(&self) -> PathBuf {
        self.source.ggml.join("src")
    }

    /// A C compiler with the flags of ggml's src/CMakeLists.txt.
    pub fn c(&self) -> cc::Build {
        let mut build = self.common();
        // CMake's default is the GNU dialect; the ISO one would turn off fused multiply-add in GCC.
        build.std(if self.target.msvc { "c11" } else { "gnu11" });
        build
    }

    /// A C++ compiler with the flags of ggml's src/CMakeLists.txt.
    pub fn cpp(&self) -> cc::Build {
        let mut build = self.common();
        build
            .cpp(true)
            .std(if self.target.msvc { "c++17" } else { "gnu++17" });
        build
    }

    /// The C compiler for generated assembly, which takes no language standard.
    pub fn assembler(&self) -> cc::Build {
        self.common()
    }

    fn common(&self) -> cc::Build {
        let mut build = cc::Build::new();
        build
            .opt_level(3)
            .debug(false)
            // ggml's warnings are not the user's business; errors still show.
            .warnings(false)
            .include(self.source.ggml.join("include"))
            .include(self.src())
            .include(&self.out)
            .define("NDEBUG", None)
            .define("GGML_SCHED_MAX_COPIES", "4");
        match self.target.os.as_str() {
            "openbsd" => build
                .define("_XOPEN_SOURCE", "700")
                .define("_BSD_SOURCE", None),
            _ => build.define("_XOPEN_SOURCE", "600"),
        };
        match self.target.os.as_str() {
            "linux" | "android" => build.define("_GNU_SOURCE", None),
            "macos" | "ios" | "tvos" | "dragonfly" => build.define("_DARWIN_C_SOURCE", None),
            "freebsd" => build.define("__BSD_VISIBLE", None),
            "netbsd" => build.define("_NETBSD_SOURCE", None),
            "windows" => build.define("_CRT_SECURE_NO_WARNINGS", None),
            _ => &mut build,
        };
        if self.target.msvc {
            build.flag("/utf-8").flag("/EHsc");
        }
        if self.target.os == "macos"
            && self.target.arch == "x86_64"
            && env_var("MACOSX_DEPLOYMENT_TARGET").is_none()
        {
            // Rust's default for Intel Macs is older than std::filesystem, which ggml uses.
            build.flag("-mmacosx-version-min=10.15");
        }
        build
    }

    /// Compiles `files` (relative to `src/`), C with `c` and C++ with `cpp`, into one archive.
    pub fn archive(&self, name: &str, files: &[&str], c: cc::Build, cpp: cc::Build) -> Result<()> {
        let key = format!("{} {} {files:?}", command_line(&c)?, command_line(&cpp)?);
        let objects = self.reuse(name, &key, || self.compile(name, files, c, cpp))?;
        self.link(name, objects)
    }

    /// Compiles `files` into objects.
    pub fn compile(
        &self,
        name: &str,
        files: &[&str],
        mut c: cc::Build,
        mut cpp: cc::Build,
    ) -> Result<Vec<PathBuf>> {
        let (c_files, cpp_files): (Vec<&str>, Vec<&str>) = files
            .iter()
            .partition(|file| file.ends_with(".c") || file.ends_with(".m"));
        c.files(c_files.iter().map(|file| self.src().join(file)));
        cpp.files(cpp_files.iter().map(|file| self.src().join(file)));
        let mut objects = cpp
            .try_compile_intermediates()
            .map_err(|e| format!("{name}: {e}"))?;
        if !c_files.is_empty() {
            objects.extend(
                c.try_compile_intermediates()
                    .map_err(|e| format!("{name}: {e}"))?,
            );
        }
        Ok(objects)
    }

    /// Archives objects and has cargo link them together with the C++ library.
    pub fn link(&self, name: &str, objects: Vec<PathBuf>) -> Result<()> {
        self.cpp()
            .objects(objects)
            .try_compile(name)
            .map_err(|e| format!("{name}: {e}"))
    }

    /// The objects of an earlier run with the same key, or those that `make` compiles now.
    ///
    /// cargo runs this script again for reasons that do not concern C, such as a comment in Cargo.toml.
    pub fn reuse(
        &self,
        name: &str,
        key: &str,
        make: impl FnOnce() -> Result<Vec<PathBuf>>,
    ) -> Result<Vec<PathBuf>> {
        let Some(recipe) = &self.recipe else {
            return make();
        };
        let stamp = self.out.join(format!("{name}.objects"));
        let key = format!("{recipe} {}", key.replace('\n', " "));
        if let Some((known, list)) = std::fs::read_to_string(&stamp)
            .ok()
            .as_deref()
            .and_then(|s| s.split_once('\n'))
        {
            let objects: Vec<PathBuf> = list.lines().map(PathBuf::from).collect();
            if known == key && objects.iter().all(|object| object.is_file()) {
                return Ok(objects);
            }
        }
        // A run that is cut off must not leave a stamp for objects it did not finish.
        drop(std::fs::remove_file(&stamp));
        let objects = make()?;
        let list: String = objects
            .iter()
            .map(|object| format!("{}\n", object.display()))
            .collect();
        write(&stamp, &format!("{key}\n{list}"))?;
        Ok(objects)
    }
}

/// The compiler with all its flags, as the name of what it makes.
pub fn command_line(build: &cc::Build) -> Result<String> {
    let compiler = build
        .try_get_compiler()
        .map_err(|e| format!("no compiler: {e}"))?;
    Ok(format!(
        "{} {:?}",
        compiler.path().display(),
        compiler.args()
    ))
}

/// Reads a variable and has cargo run the build again when it changes; empty counts as unset.
pub fn env_var(name: &str) -> Option<String> {
    if !name.starts_with("CARGO") {
        println!("cargo::rerun-if-env-changed={name}");
    }
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Reads a file of the source, naming it in the error.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Writes a generated file, naming it in the error.
pub fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// The files of `dir` that begin with `prefix` and end with `suffix`, sorted for the same build everywhere.
pub fn glob(dir: &Path, prefix: &str, suffix: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(prefix) && name.ends_with(suffix)
        })
        .collect();
    if files.is_empty() {
        return Err(format!("no {prefix}*{suffix} in {}", dir.display()));
    }
    files.sort();
    Ok(files)
}
