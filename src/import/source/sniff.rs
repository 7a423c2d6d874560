//! Says what a file that should be a shard looks like, so that the error helps.

#![forbid(unsafe_code)]

/// Bytes of a file that are looked at.
pub(super) const BYTES: u64 = 64;

/// Bytes that the error quotes when nothing is recognised.
const QUOTED_BYTES: usize = 8;

const FETCH_AGAIN: Option<&str> = Some("fetch the file again");

/// First bytes, what they mean, what to do.
const KNOWN: &[(&[u8], &str, Option<&str>)] = &[
    (
        b"GGUF",
        "a GGUF file",
        Some("it needs no import: run it as it is"),
    ),
    (
        b"PK\x03\x04",
        "a zip archive (a PyTorch checkpoint is one)",
        Some("fetch the safetensors form of the model"),
    ),
    (b"<", "an HTML or XML page (a failed download)", FETCH_AGAIN),
    (b"{", "JSON text", FETCH_AGAIN),
];

/// Whether this is how a Git LFS pointer starts.
pub(super) fn is_lfs_pointer(start: &[u8]) -> bool {
    start.starts_with(b"version https://git-lfs")
}

/// What the first bytes look like, and what to do about it.
pub(super) fn looks_like(start: &[u8]) -> (String, Option<&'static str>) {
    if start.is_empty() {
        return ("an empty file".to_owned(), FETCH_AGAIN);
    }
    if start.iter().all(|&byte| byte == 0) {
        return ("zeros (an unfinished download)".to_owned(), FETCH_AGAIN);
    }
    if let Some((_, what, hint)) = KNOWN.iter().find(|(magic, ..)| start.starts_with(magic)) {
        return ((*what).to_owned(), *hint);
    }
    let start = &start[..start.len().min(QUOTED_BYTES)];
    (format!("the bytes `{}`", start.escape_ascii()), FETCH_AGAIN)
}
