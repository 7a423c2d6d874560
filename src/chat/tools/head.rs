//! The start of a call: what has to be read before its name is known.

#![forbid(unsafe_code)]

use super::{
    CALL_BEGIN, CALLS_BEGIN, OPEN, PYTHON_TAG, SEPARATOR, ToolFormat, parser::longest_start,
};

/// Longest start of a call that is waited for; a longer one is no call.
const MOST: usize = 4096;

/// What the text at an opener is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// More text is needed.
    More,
    /// No call.
    Bad,
    /// A call by name, whose arguments start after `used` bytes.
    Named {
        name: String,
        used: usize,
        body: Body,
    },
    /// An object that starts after `used` bytes and that has to be read whole.
    Whole { used: usize },
}

/// How arguments are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// A JSON object.
    Json,
    /// A JSON object within that of the call.
    Wrapped,
    /// Keys and values in tags.
    Tags(&'static Tags),
}

/// Tags around keys and values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tags {
    pub(super) key_open: &'static str,
    pub(super) key_close: &'static str,
    /// Between the key and its value.
    pub(super) value_open: &'static str,
    pub(super) value_close: &'static str,
    /// After the last value.
    pub(super) end: &'static str,
    /// Whether a line end on either side of a value is not part of it.
    pub(super) lines: bool,
}

pub(super) const QWEN: Tags = Tags {
    key_open: "<parameter=",
    key_close: ">",
    value_open: "",
    value_close: "</parameter>",
    end: "</function>",
    lines: true,
};

pub(super) const ARG_TAGS: Tags = Tags {
    key_open: "<arg_key>",
    key_close: "</arg_key>",
    value_open: "<arg_value>",
    value_close: "</arg_value>",
    end: super::CLOSE,
    lines: false,
};

/// What reading one part of a head gives.
enum Part<T> {
    Is(T),
    More,
    Bad,
}

/// A position in the text of a head.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Takes this text.
    fn literal(&mut self, literal: &str) -> Part<()> {
        let rest = self.rest();
        if rest.starts_with(literal) {
            self.at += literal.len();
            Part::Is(())
        } else if literal.starts_with(rest) {
            Part::More
        } else {
            Part::Bad
        }
    }

    /// Takes the text up to `end`, and `end`.
    fn until(&mut self, end: &str) -> Part<&'a str> {
        match self.rest().find(end) {
            Some(len) => {
                let found = &self.rest()[..len];
                self.at += len + end.len();
                Part::Is(found)
            }
            None => Part::More,
        }
    }

    /// Takes a text of JSON.
    fn string(&mut self) -> Part<String> {
        match self.literal("\"") {
            Part::Is(()) => {}
            Part::More => return Part::More,
            Part::Bad => return Part::Bad,
        }
        let mut escape = false;
        for (at, c) in self.rest().char_indices() {
            match c {
                _ if escape => escape = false,
                '\\' => escape = true,
                '"' => {
                    let quoted = &self.text[self.at - 1..self.at + at + 1];
                    self.at += at + 1;
                    return match serde_json::from_str(quoted) {
                        Ok(text) => Part::Is(text),
                        Err(_) => Part::Bad,
                    };
                }
                _ => {}
            }
        }
        Part::More
    }
}

macro_rules! take {
    ($part:expr) => {
        match $part {
            Part::Is(value) => value,
            Part::More => return Head::More,
            Part::Bad => return Head::Bad,
        }
    };
}

/// Reads the start of a call from `text`, which begins with an opener.
pub(super) fn head(format: ToolFormat, text: &str) -> Head {
    let head = match format {
        ToolFormat::Hermes => json_head(text, OPEN),
        ToolFormat::BareJson => {
            let tag = if text.starts_with(PYTHON_TAG) {
                PYTHON_TAG
            } else {
                ""
            };
            json_head(text, tag)
        }
        ToolFormat::QwenXml => qwen_head(text),
        ToolFormat::ArgTags => arg_tags_head(text),
        ToolFormat::DeepSeekV3 | ToolFormat::DeepSeekV31 => deepseek_head(format, text),
    };
    if head == Head::More && text.len() > MOST {
        Head::Bad
    } else {
        head
    }
}

/// `{"name": "..", "arguments": {`; other orders have to be read whole.
fn json_head(text: &str, opener: &str) -> Head {
    let mut cursor = Cursor {
        text,
        at: opener.len(),
    };
    cursor.space();
    let whole = Head::Whole { used: cursor.at };
    take!(cursor.literal("{"));
    cursor.space();
    if take!(cursor.string()) != "name" {
        return whole;
    }
    cursor.space();
    take!(cursor.literal(":"));
    cursor.space();
    let name = take!(cursor.string());
    cursor.space();
    if cursor.rest().starts_with('}') {
        return whole;
    }
    take!(cursor.literal(","));
    cursor.space();
    let key = take!(cursor.string());
    if key != "arguments" && key != "parameters" {
        return whole;
    }
    cursor.space();
    take!(cursor.literal(":"));
    cursor.space();
    match cursor.rest().chars().next() {
        Some('{') if !name.is_empty() => Head::Named {
            name,
            used: cursor.at,
            body: Body::Wrapped,
        },
        Some(_) => whole,
        None => Head::More,
    }
}

fn qwen_head(text: &str) -> Head {
    let mut cursor = Cursor {
        text,
        at: OPEN.len(),
    };
    cursor.space();
    take!(cursor.literal("<function="));
    let name = take!(name(&mut cursor, ">"));
    Head::Named {
        name,
        used: cursor.at,
        body: Body::Tags(&QWEN),
    }
}

/// A name up to `end`: one line without brackets.
fn name(cursor: &mut Cursor<'_>, end: &str) -> Part<String> {
    let part = cursor.until(end);
    let so_far = match &part {
        Part::Is(name) => name,
        _ => cursor.rest(),
    };
    let kept = longest_start(so_far, end);
    let certain = match part {
        Part::Is(_) => so_far,
        _ => &so_far[..so_far.len() - kept],
    };
    if certain.trim().contains(['\n', '<', '>', '{', '"']) {
        return Part::Bad;
    }
    match part {
        Part::Is(name) if name.trim().is_empty() => Part::Bad,
        Part::Is(name) => Part::Is(name.trim().to_owned()),
        _ => Part::More,
    }
}

/// The name ends with its line, or with the first tag.
fn arg_tags_head(text: &str) -> Head {
    let mut cursor = Cursor {
        text,
        at: OPEN.len(),
    };
    cursor.space();
    let rest = cursor.rest();
    let Some(end) = rest.find(['\n', '<']) else {
        return if rest.contains(['{', '"', '>']) {
            Head::Bad
        } else {
            Head::More
        };
    };
    let name = rest[..end].trim();
    if name.is_empty() || name.contains(['{', '"', '>']) {
        return Head::Bad;
    }
    Head::Named {
        name: name.to_owned(),
        used: cursor.at + end,
        body: Body::Tags(&ARG_TAGS),
    }
}

fn deepseek_head(format: ToolFormat, text: &str) -> Head {
    let mut cursor = Cursor { text, at: 0 };
    if text.starts_with(CALLS_BEGIN) {
        cursor.at = CALLS_BEGIN.len();
        cursor.space();
    }
    take!(cursor.literal(CALL_BEGIN));
    let mut name_part = take!(name(&mut cursor, SEPARATOR));
    if format == ToolFormat::DeepSeekV3 {
        // What came first was the type, `function`.
        name_part = take!(name(&mut cursor, "\n"));
        cursor.space();
        take!(cursor.literal("```json"));
    }
    cursor.space();
    match cursor.rest().chars().next() {
        Some('{') => Head::Named {
            name: name_part,
            used: cursor.at,
            body: Body::Json,
        },
        Some(_) => Head::Bad,
        None => Head::More,
    }
}
