//! SentencePiece writes a space as U+2581.

#![forbid(unsafe_code)]

const SPACE: &str = "\u{2581}";

/// Spaces become U+2581; `prefix` puts one in front.
pub(super) fn escape(text: &[u8], prefix: bool) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len() + text.len() / 4 + SPACE.len());
    if prefix {
        escaped.extend_from_slice(SPACE.as_bytes());
    }
    for &byte in text {
        match byte {
            b' ' => escaped.extend_from_slice(SPACE.as_bytes()),
            other => escaped.push(other),
        }
    }
    escaped
}

/// U+2581 becomes a space.
pub(super) fn unescape(text: &str) -> String {
    text.replace(SPACE, " ")
}
