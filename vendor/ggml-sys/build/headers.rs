//! The headers the bindings are made of, and their fingerprint.

use std::path::{Path, PathBuf};

/// Relative to the ggml folder. The last one is the interface a backend of our own implements.
pub const HEADERS: &[&str] = &[
    "include/ggml.h",
    "include/ggml-alloc.h",
    "include/ggml-backend.h",
    "include/ggml-cpu.h",
    "include/gguf.h",
    "include/ggml-rpc.h",
    "include/ggml-metal.h",
    "include/ggml-cuda.h",
    "include/ggml-vulkan.h",
    "include/ggml-blas.h",
    "src/ggml-backend-impl.h",
];

/// Hash of the headers' names and contents.
pub fn fingerprint(ggml: &Path) -> Result<String, String> {
    let paths: Vec<PathBuf> = HEADERS.iter().map(|header| ggml.join(header)).collect();
    hash_files(&paths)
}

/// FNV-1a over file names and contents; line ends are normalised, so that a CRLF checkout agrees.
pub fn hash_files(paths: &[PathBuf]) -> Result<String, String> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |bytes: &[u8]| {
        for &byte in bytes.iter().filter(|&&byte| byte != b'\r') {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for path in paths {
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        feed(path.file_name().unwrap_or_default().as_encoded_bytes());
        feed(&bytes);
    }
    Ok(format!("{hash:016x}"))
}
