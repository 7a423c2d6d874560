//! Turns of several lines: a trailing backslash, or a block between `"""`.

#![forbid(unsafe_code)]

const FENCE: &str = "\"\"\"";

/// The message that these lines make, or `None` if more lines belong to it. With `inverted`, a line goes on to the
/// next and a trailing backslash ends the message; commands still end with their line.
pub fn assemble(lines: &str, inverted: bool) -> Option<String> {
    if let Some(block) = lines.trim_start().strip_prefix(FENCE) {
        let inside = block.trim_end().strip_suffix(FENCE)?;
        let inside = inside.strip_prefix('\n').unwrap_or(inside);
        return Some(inside.strip_suffix('\n').unwrap_or(inside).to_owned());
    }
    if inverted && !lines.starts_with('/') {
        return lines.strip_suffix('\\').map(str::to_owned);
    }
    if lines.ends_with('\\') {
        return None;
    }
    Some(lines.replace("\\\n", "\n"))
}

/// The message when no more lines come.
pub fn finish(lines: &str, inverted: bool) -> String {
    assemble(lines, inverted).unwrap_or_else(|| {
        let text = lines.trim_start().strip_prefix(FENCE).unwrap_or(lines);
        text.strip_suffix('\\')
            .unwrap_or(text)
            .replace("\\\n", "\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_make_messages() {
        let cases = [
            ("Hi", Some("Hi")),
            ("", Some("")),
            ("a\\", None),
            ("a\\\nb", Some("a\nb")),
            ("a\\\nb\\", None),
            ("\"\"\"", None),
            ("\"\"\"\na\\\n\nb", None),
            ("\"\"\"\na\\\n\nb\n\"\"\"", Some("a\\\n\nb")),
            ("\"\"\"one\"\"\"", Some("one")),
            ("pasted\nlines", Some("pasted\nlines")),
        ];
        for (lines, message) in cases {
            assert_eq!(assemble(lines, false).as_deref(), message, "{lines:?}");
        }
    }

    #[test]
    fn inverted_input_ends_with_a_backslash() {
        assert_eq!(assemble("a", true), None);
        assert_eq!(assemble("a\nb\\", true).as_deref(), Some("a\nb"));
        assert_eq!(assemble("/exit", true).as_deref(), Some("/exit"));
    }

    #[test]
    fn the_end_of_input_ends_a_message() {
        assert_eq!(finish("a\\\nb\\", false), "a\nb");
        assert_eq!(finish("\"\"\"a", false), "a");
        assert_eq!(finish("a\nb", true), "a\nb");
    }
}
