//! Reads JSON character by character, to know where a value ends before it is complete.

#![forbid(unsafe_code)]

/// What a character did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The value goes on.
    More,
    /// The value is complete with this character.
    Done,
    /// No JSON value goes on like this. The character was not taken.
    Bad,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Value,
    /// After `[`: a value or the end.
    FirstItem,
    /// After `{`: a key or the end.
    FirstKey,
    Key,
    Colon,
    /// After a value in a container.
    Next,
    Text {
        key: bool,
    },
    Escape {
        key: bool,
    },
    Hex {
        key: bool,
        left: u8,
    },
    /// The rest of `true`, `false` or `null`.
    Word(&'static str),
    Number(Number),
    Done,
}

/// What of a number was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    /// The number with one more character.
    fn push(self, c: char) -> Option<Self> {
        Some(match (self, c) {
            (Self::Minus, '0') => Self::Zero,
            (Self::Minus | Self::Integer, '0'..='9') => Self::Integer,
            (Self::Zero | Self::Integer, '.') => Self::Point,
            (Self::Point | Self::Fraction, '0'..='9') => Self::Fraction,
            (Self::Zero | Self::Integer | Self::Fraction, 'e' | 'E') => Self::Exponent,
            (Self::Exponent, '+' | '-') => Self::ExponentSign,
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, '0'..='9') => {
                Self::ExponentDigits
            }
            _ => return None,
        })
    }

    fn is_whole(self) -> bool {
        matches!(
            self,
            Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits
        )
    }
}

/// Reads one object.
#[derive(Debug, Clone)]
pub(super) struct JsonScanner {
    /// Open containers, true for objects.
    open: Vec<bool>,
    state: State,
}

impl JsonScanner {
    /// Before an object.
    pub(super) fn new() -> Self {
        Self {
            open: Vec::new(),
            state: State::Value,
        }
    }

    /// Within an object, after a comma.
    pub(super) fn after_comma() -> Self {
        Self {
            open: vec![true],
            state: State::Key,
        }
    }

    /// Whether a text is open, in which line ends and tabs can only be meant as such.
    pub(super) fn in_text(&self) -> bool {
        matches!(self.state, State::Text { .. })
    }

    /// Takes a character.
    pub(super) fn push(&mut self, c: char) -> Step {
        match self.next(c) {
            Some(state) => {
                self.state = state;
                if state == State::Done {
                    Step::Done
                } else {
                    Step::More
                }
            }
            None => Step::Bad,
        }
    }

    fn next(&mut self, c: char) -> Option<State> {
        let state = self.state;
        if let State::Number(number) = state {
            if let Some(more) = number.push(c) {
                return Some(State::Number(more));
            }
            // The character after a number belongs to the container.
            return if number.is_whole() {
                self.between(State::Next, c)
            } else {
                None
            };
        }
        match state {
            State::Text { key } => match c {
                '"' if key => Some(State::Colon),
                '"' => Some(State::Next),
                '\\' => Some(State::Escape { key }),
                // Not JSON, but what models write for a line end; see `repaired`.
                _ => Some(state),
            },
            State::Escape { key } => match c {
                'u' => Some(State::Hex { key, left: 4 }),
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => Some(State::Text { key }),
                _ => None,
            },
            State::Hex { key, left } if c.is_ascii_hexdigit() => Some(match left {
                1 => State::Text { key },
                _ => State::Hex {
                    key,
                    left: left - 1,
                },
            }),
            State::Word(rest) => {
                let rest = rest.strip_prefix(c)?;
                Some(if rest.is_empty() {
                    State::Next
                } else {
                    State::Word(rest)
                })
            }
            State::Hex { .. } | State::Done | State::Number(_) => None,
            _ => self.between(state, c),
        }
    }

    /// A character between values.
    fn between(&mut self, state: State, c: char) -> Option<State> {
        if matches!(c, ' ' | '\t' | '\n' | '\r') {
            return Some(state);
        }
        match (state, c) {
            (State::Value | State::FirstItem, _) if self.starts_value(c) => self.value(c),
            (State::FirstKey | State::Key, '"') => Some(State::Text { key: true }),
            (State::Colon, ':') => Some(State::Value),
            (State::Next, ',') if self.open.last() == Some(&true) => Some(State::Key),
            (State::Next, ',') if self.open.last() == Some(&false) => Some(State::Value),
            (State::Next | State::FirstKey, '}') if self.open.pop() == Some(true) => {
                Some(self.after_value())
            }
            (State::Next | State::FirstItem, ']') if self.open.pop() == Some(false) => {
                Some(self.after_value())
            }
            _ => None,
        }
    }

    fn after_value(&self) -> State {
        if self.open.is_empty() {
            State::Done
        } else {
            State::Next
        }
    }

    /// Outside of all containers only an object may start.
    fn starts_value(&self, c: char) -> bool {
        c == '{'
            || !self.open.is_empty() && matches!(c, '[' | '"' | 't' | 'f' | 'n' | '-' | '0'..='9')
    }

    fn value(&mut self, c: char) -> Option<State> {
        Some(match c {
            '{' => {
                self.open.push(true);
                State::FirstKey
            }
            '[' => {
                self.open.push(false);
                State::FirstItem
            }
            '"' => State::Text { key: false },
            't' => State::Word("rue"),
            'f' => State::Word("alse"),
            'n' => State::Word("ull"),
            '-' => State::Number(Number::Minus),
            '0' => State::Number(Number::Zero),
            '1'..='9' => State::Number(Number::Integer),
            _ => return None,
        })
    }
}

/// Appends a character of JSON. A control character within a text, which JSON forbids, becomes its escape.
pub(super) fn push_repaired(out: &mut String, c: char, in_text: bool) {
    match c {
        '\n' if in_text => out.push_str("\\n"),
        '\r' if in_text => out.push_str("\\r"),
        '\t' if in_text => out.push_str("\\t"),
        c if in_text && c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length up to the end of the value, None if it is not JSON or not complete.
    fn end(text: &str) -> Option<usize> {
        let mut scanner = JsonScanner::new();
        for (at, c) in text.char_indices() {
            match scanner.push(c) {
                Step::More => {}
                Step::Done => return Some(at + c.len_utf8()),
                Step::Bad => return None,
            }
        }
        None
    }

    #[test]
    fn objects_end_where_json_says() {
        let good = [
            "{}",
            " \n{ }",
            r#"{"a":1}"#,
            r#"{"a": -0.5e+10, "b": [], "c": [1, "x\"}", {"d": null}], "e": true, "f":false}"#,
            r#"{"\u00e9\\": "}{"}"#,
            "{\"a\":[0\n,1 ]\t}",
            r#"{"a":[[[{}]]],"b":0}"#,
        ];
        for text in good {
            assert_eq!(end(text), Some(text.len()), "{text}");
            assert_eq!(end(&format!("{text}}}")), Some(text.len()));
            assert!(
                serde_json::from_str::<serde_json::Value>(text).is_ok(),
                "{text}"
            );
            // No start of it is complete.
            for (at, _) in text.char_indices() {
                assert_eq!(end(&text[..at]), None, "{text}");
            }
        }
        let bad = [
            "[]",
            "1",
            r#""a""#,
            "{a:1}",
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":-}"#,
            r#"{"a":tru}"#,
            r#"{"a":1,}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12g4"}"#,
            r#"{"a" 1}"#,
            r#"{"a":1]"#,
            r#"{"a":[}"#,
            r#"{,}"#,
            r#"{"a":.5}"#,
            r#"{"a":1e}"#,
        ];
        for text in bad {
            assert_eq!(end(text), None, "{text}");
            assert!(
                serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn control_characters_in_texts_are_repaired() {
        let mut out = String::new();
        for (c, in_text) in [
            ('\n', false),
            ('\n', true),
            ('\t', true),
            ('\u{1}', true),
            ('x', true),
        ] {
            push_repaired(&mut out, c, in_text);
        }
        assert_eq!(out, "\n\\n\\t\\u0001x");
    }
}
