//! Says what a file that is not GGUF looks like, so that the error helps.

#![forbid(unsafe_code)]

const CONVERT: &str = "convert the model to GGUF first";
const FETCH_AGAIN: &str = "fetch the file again";
const UNPACK: &str = "unpack it first";

/// First bytes, what they mean, what to do.
const KNOWN: &[(&[u8], &str, Option<&str>)] = &[
    (
        b"version https://git-lfs",
        "a Git LFS pointer (the model itself was not fetched)",
        Some("run `git lfs pull`"),
    ),
    (b"tjgg", "the old GGJT format", Some(CONVERT)),
    (b"ggjt", "the old GGJT format", Some(CONVERT)),
    (b"fmgg", "the old GGMF format", Some(CONVERT)),
    (b"lmgg", "the old GGML format", Some(CONVERT)),
    (b"algg", "an old GGLA adapter", Some(CONVERT)),
    (
        b"PK\x03\x04",
        "a zip archive (a PyTorch checkpoint is one)",
        Some(CONVERT),
    ),
    (
        b"\x80\x02",
        "a Python pickle (an old PyTorch checkpoint)",
        Some(CONVERT),
    ),
    (b"\x80\x04", "a Python pickle", Some(CONVERT)),
    (b"\x89HDF", "an HDF5 file", Some(CONVERT)),
    (b"\x1f\x8b", "a gzip archive", Some(UNPACK)),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", Some(UNPACK)),
    (b"\xfd7zXZ", "an xz archive", Some(UNPACK)),
    (b"7z\xbc\xaf", "a 7-zip archive", Some(UNPACK)),
    (b"BZh", "a bzip2 archive", Some(UNPACK)),
    (b"\x7fELF", "a program", None),
    (
        b"FUGG",
        "`GGUF` spelled backwards (a file with swapped bytes)",
        Some(CONVERT),
    ),
];

/// Bytes that the error quotes when nothing is recognised.
const QUOTED_BYTES: usize = 8;

/// What the file's first bytes look like, and what to do about it.
pub(super) fn looks_like(bytes: &[u8]) -> (String, Option<&'static str>) {
    if let Some((_, what, hint)) = KNOWN.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        return ((*what).to_owned(), *hint);
    }
    if is_safetensors(bytes) {
        return ("a safetensors file".to_owned(), Some(CONVERT));
    }
    let start = &bytes[..bytes.len().min(QUOTED_BYTES)];
    if start.iter().all(|&byte| byte == 0) {
        return (
            "zeros (an unfinished download)".to_owned(),
            Some(FETCH_AGAIN),
        );
    }
    match start.trim_ascii_start().first() {
        Some(b'<') => (
            "an HTML or XML page (a failed download)".to_owned(),
            Some(FETCH_AGAIN),
        ),
        Some(b'{') => (
            "JSON text".to_owned(),
            Some("name the .gguf file of the model"),
        ),
        _ => (format!("the bytes `{}`", start.escape_ascii()), None),
    }
}

/// A safetensors file is the length of its JSON header in 8 bytes, then the header.
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return false;
    };
    u64::from_le_bytes(*length) <= rest.len() as u64 && rest.first() == Some(&b'{')
}
