//! Bytes that may not be UTF-8, as text.

#![forbid(unsafe_code)]

use std::borrow::Cow;

/// The characters of `bytes`. Each byte that is not part of one becomes U+FFFD, which is one per byte and not, as in
/// [`String::from_utf8_lossy`], one per damaged character. Characters written with too many bytes are read.
pub(super) fn characters(bytes: &[u8]) -> Cow<'_, str> {
    let mut rest = match std::str::from_utf8(bytes) {
        Ok(text) => return Cow::Borrowed(text),
        Err(_) => bytes,
    };
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 2);
    while !rest.is_empty() {
        let valid = match std::str::from_utf8(rest) {
            Ok(valid) => valid.len(),
            Err(error) => error.valid_up_to(),
        };
        text.push_str(std::str::from_utf8(&rest[..valid]).unwrap_or_default());
        rest = &rest[valid..];
        if rest.is_empty() {
            break;
        }
        let (char, len) = overlong(rest).unwrap_or((char::REPLACEMENT_CHARACTER, 1));
        text.push(char);
        rest = &rest[len..];
    }
    Cow::Owned(text)
}

/// A character in more bytes than it needs, and their number.
fn overlong(bytes: &[u8]) -> Option<(char, usize)> {
    let first = *bytes.first()?;
    let len = symbol_len(first);
    let high = match (first, len) {
        (0xC0.., 2..) => u32::from(first) & (0x7F >> len),
        _ => return None,
    };
    let mut value = high;
    for byte in bytes.get(1..len)? {
        if byte & 0xC0 != 0x80 {
            return None;
        }
        value = value << 6 | u32::from(byte & 0x3F);
    }
    if first >= 0xF8 {
        return None;
    }
    Some((char::from_u32(value)?, len))
}

/// Bytes of the character that starts with this byte, going by the byte alone; 1 for one that cannot start any.
pub(super) fn symbol_len(first: u8) -> usize {
    match first {
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xFF => 4,
        _ => 1,
    }
}
