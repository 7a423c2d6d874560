//! Escape sequences in texts from the command line: `\n`, `\r`, `\t`, `\'`, `\"`, `\\` and `\xHH`.

#![forbid(unsafe_code)]

use anyhow::Result;

use super::errors::hinted;

/// The text with its escape sequences replaced; others stay as they are.
///
/// # Errors
/// `\xHH` makes bytes that are no UTF-8 text.
pub fn unescape(text: &str) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let (value, used) = match (byte, tail) {
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [c @ (b'\'' | b'"' | b'\\'), ..]) => (*c, 2),
            (b'\\', [b'x', high, low, ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 4),
                _ => (byte, 1),
            },
            _ => (byte, 1),
        };
        out.push(value);
        rest = &rest[used..];
    }
    String::from_utf8(out).map_err(|_| {
        hinted(
            format!("{text:?}: its \\x sequences are no UTF-8 text"),
            "--no-escape takes backslashes as they are",
        )
    })
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_replaced_and_the_rest_stays() {
        let cases = [
            (r"a\nb\tc\r", "a\nb\tc\r"),
            (r#"\'\"\\n"#, r#"'"\n"#),
            (r"\x41\xc3\xa9", "A\u{e9}"),
            (r"\q\x4\xzz\", r"\q\x4\xzz\"),
            ("\u{e9}\u{4e2d}", "\u{e9}\u{4e2d}"),
        ];
        for (given, expected) in cases {
            assert_eq!(unescape(given).unwrap(), expected, "{given}");
        }
        assert!(unescape(r"\xff").is_err());
    }
}
