//! Regenerates src/bindings.rs and layout.c from ggml's headers; with `--check` only compares them.
//!
//! `cargo run -p ggml-sys --features regenerate --bin regenerate-bindings [-- --check]`; needs libclang.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

#[path = "../../build/headers.rs"]
mod headers;

fn main() -> ExitCode {
    match run(std::env::args().any(|arg| arg == "--check")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(check: bool) -> Result<(), String> {
    let source = Path::new(env!("GGML_SYS_SOURCE"));
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let raw = generate(source)?;
    let fingerprint = headers::fingerprint(source)?;
    let bindings = format!("// headers: {fingerprint}\n{raw}");
    for (file, text) in [("src/bindings.rs", bindings), ("layout.c", layout(&raw)?)] {
        let path = here.join(file);
        if check {
            let found = std::fs::read_to_string(&path).map_err(|e| format!("{file}: {e}"))?;
            if found.replace('\r', "") != text {
                return Err(format!("{file} is stale: run this command without --check"));
            }
        } else {
            std::fs::write(&path, text).map_err(|e| format!("{file}: {e}"))?;
        }
    }
    Ok(())
}

fn generate(source: &Path) -> Result<String, String> {
    let includes: String = headers::HEADERS
        .iter()
        .fold(String::new(), |mut text, header| {
            let _ = writeln!(text, "#include \"{}\"", source.join(header).display());
            text
        });
    let bindings = bindgen::builder()
        .header_contents("ggml-all.h", &includes)
        .clang_arg(format!("-I{}", source.join("include").display()))
        .allowlist_item("(ggml|gguf|GGML|GGUF|RPC)_.*")
        // A C library type whose layout differs by platform; only pointers to it are passed.
        .blocklist_type("FILE|_IO_.*|__off.*")
        .raw_line(PRELUDE)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .derive_default(true)
        .merge_extern_blocks(true)
        .use_core()
        .rust_target(bindgen::RustTarget::stable(88, 0).map_err(|e| e.to_string())?)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .formatter(bindgen::Formatter::Prettyplease)
        .generate()
        .map_err(|e| e.to_string())?;
    Ok(bindings.to_string())
}

const PRELUDE: &str = "#![allow(non_camel_case_types, non_upper_case_globals, missing_docs)]
#[repr(C)]
pub struct FILE {
    _private: [u8; 0],
}";

/// C assertions of every size, offset and constant that the bindings state.
fn layout(bindings: &str) -> Result<String, String> {
    let mut text = String::from(
        "// Made by regenerate-bindings: the build breaks where ggml's source and the bindings disagree.\n",
    );
    for header in headers::HEADERS {
        let name = header.rsplit('/').next().unwrap_or(header);
        let _ = writeln!(text, "#include \"{name}\"");
    }
    text += "\n#if UINTPTR_MAX == UINT64_MAX\n";
    let mut asserts = 0;
    // bindgen states each as ["Size of X"][size_of::<X>() - 8usize]; every second piece is a quoted text.
    let pieces: Vec<&str> = bindings.split('"').collect();
    for (what, rest) in pieces
        .iter()
        .skip(1)
        .step_by(2)
        .zip(pieces.iter().skip(2).step_by(2))
    {
        let Some((_, number)) = rest.split_once(" - ") else {
            continue;
        };
        let Some((number, _)) = number.split_once("usize") else {
            continue;
        };
        let condition = if let Some(name) = what.strip_prefix("Size of ") {
            format!("sizeof({}) == {number}", c_type(name))
        } else if let Some((name, field)) = what
            .strip_prefix("Offset of field: ")
            .and_then(|w| w.split_once("::"))
        {
            let field = match field {
                "type_" | "async_" => field.trim_end_matches('_'),
                field => field,
            };
            format!("offsetof({}, {field}) == {number}", c_type(name))
        } else {
            continue;
        };
        asserts += 1;
        let _ = writeln!(text, "_Static_assert({condition}, \"{what}\");");
    }
    text += "#endif\n\n";
    for line in bindings.lines() {
        let constant = line
            .strip_prefix("pub const ")
            .and_then(|l| l.strip_suffix(';'));
        let Some((declaration, value)) = constant.and_then(|c| c.split_once(" = ")) else {
            continue;
        };
        let Some((name, _)) = declaration.split_once(':') else {
            continue;
        };
        // The one constant that is a variable in C; the size of the struct is asserted above.
        if value.parse::<i64>().is_ok() && name.starts_with("GG") && name != "GGML_TENSOR_SIZE" {
            asserts += 1;
            let _ = writeln!(text, "_Static_assert({name} == {value}, \"{name}\");");
        }
    }
    if asserts < 400 {
        return Err(format!(
            "only {asserts} assertions found in the bindings: has bindgen's output changed?"
        ));
    }
    Ok(text)
}

/// ggml's structs carry their tag; the few typedefs do not.
fn c_type(name: &str) -> String {
    match name {
        "ggml_bf16_t" => name.into(),
        _ => format!("struct {name}"),
    }
}
