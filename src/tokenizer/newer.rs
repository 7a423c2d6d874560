//! Characters younger than the Unicode version that the split rules go by.
//!
//! llama.cpp's tables are those of 15.1, and the models' own tokenizers were made with it or an older one. The
//! library here knows more letters; to split alike it must take them for what they were: unassigned.

#![forbid(unsafe_code)]

use tokenizers::utils::SysRegex;

use super::error::TokenizerError;

/// Assigned, but not yet in 15.1. Not written as the complement of a union: that takes in U+D7FF and U+E000.
const NEWER: &str = r"[\P{Cn}&&\P{Age=15.1}]";

/// Finds characters newer than 15.1.
#[derive(Debug)]
pub(super) struct Newer(SysRegex);

impl Newer {
    pub fn new() -> Result<Self, TokenizerError> {
        SysRegex::new(NEWER)
            .map(Self)
            .map_err(|error| TokenizerError::Build {
                reason: error.to_string(),
            })
    }

    /// The text with each newer character replaced by an unassigned one of as many bytes; None if it has none.
    pub fn hidden(&self, text: &str) -> Option<String> {
        if text.is_ascii() {
            return None;
        }
        let mut found = self.0.find_iter(text).peekable();
        found.peek()?;
        let mut hidden = String::with_capacity(text.len());
        for (from, to) in found {
            hidden.push_str(&text[hidden.len()..from]);
            hidden.push(match to - from {
                2 => '\u{378}',
                3 => '\u{FFFE}',
                _ => '\u{1FFFE}',
            });
        }
        hidden.push_str(&text[hidden.len()..]);
        Some(hidden)
    }
}
