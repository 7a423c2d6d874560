//! SentencePiece writes a space as U+2581.

#![forbid(unsafe_code)]

const SPACE: &str = "\u{2581}";

/// Spaces become U+2581; `prefix` puts one in front.
pub(super) fn escape(text: &str, prefix: bool) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 4 + SPACE.len());
    if prefix {
        escaped.push_str(SPACE);
    }
    for (index, part) in text.split(' ').enumerate() {
        if index > 0 {
            escaped.push_str(SPACE);
        }
        escaped.push_str(part);
    }
    escaped
}

/// U+2581 becomes a space.
pub(super) fn unescape(text: &str) -> String {
    text.replace(SPACE, " ")
}
