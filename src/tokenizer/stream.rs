//! Text out of tokens as they come: never half a character, never a lost one.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Tokenizer;

/// Turns bytes that arrive in pieces into text. A character is held back until its last byte is there; a byte
/// that cannot be part of one becomes U+FFFD as soon as that is certain.
///
/// All output together equals [`String::from_utf8_lossy`] of all input.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    /// The start of a character.
    held: Vec<u8>,
}

impl Utf8Stream {
    /// Text that became certain with these bytes.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(bytes);
        let mut rest = input.as_slice();
        let mut text = String::with_capacity(rest.len());
        loop {
            let (valid, bad) = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            text.push_str(std::str::from_utf8(&rest[..valid]).unwrap_or_default());
            let Some(bad) = bad else {
                self.held = rest[valid..].to_vec();
                return text;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[valid + bad..];
        }
    }

    /// What was held back, when no more bytes come.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        String::from_utf8_lossy(&held).into_owned()
    }

    /// Whether part of a character is held back.
    pub fn is_pending(&self) -> bool {
        !self.held.is_empty()
    }
}

/// Turns the tokens of one answer into text. See [`Tokenizer::detokenizer`].
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    tokenizer: Arc<Tokenizer>,
    special: bool,
    utf8: Utf8Stream,
}

impl StreamDecoder {
    pub(super) fn new(tokenizer: Arc<Tokenizer>, special: bool) -> Self {
        Self {
            tokenizer,
            special,
            utf8: Utf8Stream::default(),
        }
    }

    /// Text that became certain with this token.
    pub fn push(&mut self, id: u32) -> String {
        self.utf8.push(self.tokenizer.shown_bytes(id, self.special))
    }

    /// What was held back, when the answer is complete.
    pub fn finish(&mut self) -> String {
        self.utf8.finish()
    }

    /// Whether part of a character is held back.
    pub fn is_pending(&self) -> bool {
        self.utf8.is_pending()
    }
}
