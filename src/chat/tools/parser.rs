//! Finds calls in a text that arrives in pieces.

#![forbid(unsafe_code)]

use serde_json::Value;

use super::arguments::{ArgumentTypes, Kind, escaped, value_json};
use super::head::{Body, Head, Tags, head};
use super::json::{JsonScanner, Step, push_repaired};
use super::{PYTHON_TAG, ToolFormat};
use crate::chat::stream::ChatDelta;

#[derive(Debug, Clone)]
enum State {
    /// Text of the answer.
    Content,
    /// `held` begins with an opener.
    Head,
    /// `held` begins with an opener; an object starts at `start` and is read up to `at`.
    Whole {
        start: usize,
        at: usize,
        scanner: JsonScanner,
        json: String,
    },
    /// Within arguments of JSON; `wrapped` in the object of the call.
    Json { scanner: JsonScanner, wrapped: bool },
    /// Arguments that stopped being JSON: all up to the end of the call.
    Broken,
    /// After the arguments, within the object of the call.
    Wrapper,
    /// Further keys of that object.
    Skip { scanner: JsonScanner },
    /// Between arguments in tags.
    Tags { tags: &'static Tags, first: bool },
    /// Before or within a value in tags.
    Value(InValue),
    /// After a call: these closers may still come.
    Tail { closers: &'static [&'static str] },
}

#[derive(Debug, Clone)]
struct InValue {
    tags: &'static Tags,
    kind: Kind,
    /// Whether the value itself has begun.
    begun: bool,
}

/// Turns text into content and calls.
#[derive(Debug, Clone)]
pub(in crate::chat) struct ToolParser {
    format: ToolFormat,
    types: ArgumentTypes,
    state: State,
    /// Text that waits for what comes next.
    held: String,
    /// White space of the content that counts only if more content follows.
    space: String,
    /// Whether any content was given out.
    said: bool,
    n_calls: usize,
    /// Name of the current call.
    name: String,
}

/// Length of the longest end of `text` that `tag` starts with.
pub(super) fn longest_start(text: &str, tag: &str) -> usize {
    let most = text.len().min(tag.len());
    (1..=most)
        .rev()
        .find(|&len| tag.is_char_boundary(len) && text.ends_with(&tag[..len]))
        .unwrap_or(0)
}

impl ToolParser {
    pub(in crate::chat) fn new(format: ToolFormat) -> Self {
        Self {
            format,
            types: ArgumentTypes::default(),
            state: State::Content,
            held: String::new(),
            space: String::new(),
            said: false,
            n_calls: 0,
            name: String::new(),
        }
    }

    pub(in crate::chat) fn set_types(&mut self, types: ArgumentTypes) {
        self.types = types;
    }

    /// How many calls were begun.
    pub(in crate::chat) fn n_calls(&self) -> usize {
        self.n_calls
    }

    /// What became certain with this text.
    pub(in crate::chat) fn push(&mut self, text: &str, out: &mut Vec<ChatDelta>) {
        self.held += text;
        while self.step(out) {}
    }

    /// The rest, when the answer is complete.
    pub(in crate::chat) fn finish(&mut self, out: &mut Vec<ChatDelta>) {
        let held = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.state, State::Content) {
            State::Content | State::Head | State::Whole { .. } => self.content(&held, out),
            State::Json { .. } | State::Broken => self.arguments(held, out),
            State::Value(value) => self.last_value(&value, &held, out),
            State::Tags { .. } | State::Wrapper | State::Skip { .. } => {
                if !held.trim().is_empty() {
                    self.content(&held, out);
                }
            }
            State::Tail { .. } => self.content(&held, out),
        }
        // White space around calls is structure.
        let space = std::mem::take(&mut self.space);
        if self.n_calls == 0 && !space.is_empty() {
            out.push(ChatDelta::Content(space));
        }
    }

    /// One step; false if more text is needed.
    fn step(&mut self, out: &mut Vec<ChatDelta>) -> bool {
        match std::mem::replace(&mut self.state, State::Content) {
            State::Content => self.in_content(out),
            State::Head => self.in_head(out),
            State::Whole {
                start,
                at,
                scanner,
                json,
            } => self.in_whole(start, at, scanner, json, out),
            State::Json { scanner, wrapped } => self.in_json(scanner, wrapped, out),
            State::Broken => self.in_broken(out),
            State::Wrapper => self.in_wrapper(),
            State::Skip { scanner } => self.in_skip(scanner),
            State::Tags { tags, first } => self.in_tags(tags, first, out),
            State::Value(value) => self.in_value(value, out),
            State::Tail { closers } => self.in_tail(closers),
        }
    }

    fn in_content(&mut self, out: &mut Vec<ChatDelta>) -> bool {
        if self.format == ToolFormat::BareJson {
            return self.bare_content(out);
        }
        let openers = self.format.openers();
        let found = openers.iter().filter_map(|o| self.held.find(o)).min();
        if let Some(at) = found {
            let before: String = self.held.drain(..at).collect();
            self.content(&before, out);
            self.state = State::Head;
            return true;
        }
        let kept = openers.iter().map(|o| longest_start(&self.held, o)).max();
        let len = self.held.len() - kept.unwrap_or(0);
        let before: String = self.held.drain(..len).collect();
        self.content(&before, out);
        false
    }

    /// Without an opener, a call is an object at the start of the answer.
    fn bare_content(&mut self, out: &mut Vec<ChatDelta>) -> bool {
        if !self.said {
            let text = self.held.trim_start();
            if text.starts_with('{') || text.starts_with(PYTHON_TAG) {
                let at = self.held.len() - text.len();
                let before: String = self.held.drain(..at).collect();
                self.content(&before, out);
                self.state = State::Head;
                return true;
            }
            if PYTHON_TAG.starts_with(text) {
                return false;
            }
        }
        let all = std::mem::take(&mut self.held);
        self.content(&all, out);
        false
    }

    fn in_head(&mut self, out: &mut Vec<ChatDelta>) -> bool {
        match head(self.format, &self.held) {
            Head::More => {
                self.state = State::Head;
                false
            }
            Head::Bad => self.degrade(out),
            Head::Named { name, used, body } => {
                self.held.drain(..used);
                self.begin(name, out);
                self.state = match body {
                    Body::Json | Body::Wrapped => State::Json {
                        scanner: JsonScanner::new(),
                        wrapped: body == Body::Wrapped,
                    },
                    Body::Tags(tags) => {
                        self.arguments("{".to_owned(), out);
                        State::Tags { tags, first: true }
                    }
                };
                true
            }
            Head::Whole { used } => {
                self.state = State::Whole {
                    start: used,
                    at: used,
                    scanner: JsonScanner::new(),
                    json: String::new(),
                };
                true
            }
        }
    }

    /// The opener is text after all; what follows it may still hold a call.
    fn degrade(&mut self, out: &mut Vec<ChatDelta>) -> bool {
        let openers = self.format.openers().iter();
        let opener = openers
            .filter(|o| self.held.starts_with(*o))
            .map(|o| o.len());
        // Without an opener: the bracket or tag that began the object.
        let bare = self.held.chars().next().map_or(0, char::len_utf8);
        let text: String = self.held.drain(..opener.max().unwrap_or(bare)).collect();
        self.content(&text, out);
        true
    }

    fn in_whole(
        &mut self,
        start: usize,
        mut at: usize,
        mut scanner: JsonScanner,
        mut json: String,
        out: &mut Vec<ChatDelta>,
    ) -> bool {
        for c in self.held[at..].chars() {
            let in_text = scanner.in_text();
            let step = scanner.push(c);
            if step == Step::Bad {
                return self.degrade(out);
            }
            at += c.len_utf8();
            push_repaired(&mut json, c, in_text);
            if step == Step::Done {
                let Some((name, arguments)) = whole_call(&json) else {
                    return self.degrade(out);
                };
                self.held.drain(..at);
                self.begin(name, out);
                self.arguments(arguments, out);
                return self.tail();
            }
        }
        self.state = State::Whole {
            start,
            at,
            scanner,
            json,
        };
        false
    }

    fn in_json(
        &mut self,
        mut scanner: JsonScanner,
        wrapped: bool,
        out: &mut Vec<ChatDelta>,
    ) -> bool {
        let (mut text, mut used, mut last) = (String::new(), 0, Step::More);
        for c in self.held.chars() {
            let in_text = scanner.in_text();
            last = scanner.push(c);
            if last == Step::Bad {
                break;
            }
            used += c.len_utf8();
            push_repaired(&mut text, c, in_text);
            if last == Step::Done {
                break;
            }
        }
        self.held.drain(..used);
        self.arguments(text, out);
        match last {
            Step::More => {
                self.state = State::Json { scanner, wrapped };
                false
            }
            Step::Bad => {
                self.state = State::Broken;
                true
            }
            Step::Done if wrapped => {
                self.state = State::Wrapper;
                true
            }
            Step::Done => self.tail(),
        }
    }

    /// The client sees what the model wrote, up to where the call ends.
    fn in_broken(&mut self, out: &mut Vec<ChatDelta>) -> bool {
        let closers = self.format.closers();
        let found = closers.iter().filter_map(|c| self.held.find(c)).min();
        let kept = closers.iter().map(|c| longest_start(&self.held, c)).max();
        let len = found.unwrap_or(self.held.len() - kept.unwrap_or(0));
        let text: String = self.held.drain(..len).collect();
        self.arguments(text, out);
        if found.is_some() {
            self.tail()
        } else {
            self.state = State::Broken;
            false
        }
    }

    fn in_wrapper(&mut self) -> bool {
        let rest = self.held.trim_start();
        match rest.chars().next() {
            None => {
                self.state = State::Wrapper;
                false
            }
            Some('}') => {
                self.held = rest[1..].to_owned();
                self.tail()
            }
            Some(',') => {
                self.held = rest[1..].to_owned();
                self.state = State::Skip {
                    scanner: JsonScanner::after_comma(),
                };
                true
            }
            Some(_) => self.tail(),
        }
    }

    fn in_skip(&mut self, mut scanner: JsonScanner) -> bool {
        let mut used = 0;
        for c in self.held.chars() {
            match scanner.push(c) {
                Step::Bad => {
                    self.held.drain(..used);
                    return self.tail();
                }
                Step::More => used += c.len_utf8(),
                Step::Done => {
                    self.held.drain(..used + c.len_utf8());
                    return self.tail();
                }
            }
        }
        self.held.clear();
        self.state = State::Skip { scanner };
        false
    }

    fn in_tags(&mut self, tags: &'static Tags, first: bool, out: &mut Vec<ChatDelta>) -> bool {
        let rest = self.held.trim_start();
        if let Some(after) = rest.strip_prefix(tags.end) {
            self.held = after.to_owned();
            self.arguments("}".to_owned(), out);
            return self.tail();
        }
        if let Some(after) = rest.strip_prefix(tags.key_open) {
            if let Some(end) = after.find(tags.key_close) {
                let key = after[..end].trim().to_owned();
                self.held = after[end + tags.key_close.len()..].to_owned();
                let comma = if first { "" } else { ", " };
                self.arguments(format!("{comma}\"{}\": ", escaped(&key)), out);
                self.state = State::Value(InValue {
                    tags,
                    kind: self.types.kind(&self.name, &key),
                    begun: false,
                });
                return true;
            }
        } else if !tags.key_open.starts_with(rest) && !tags.end.starts_with(rest) {
            // Something else: the call ends with what it has.
            self.arguments("}".to_owned(), out);
            return self.tail();
        }
        self.state = State::Tags { tags, first };
        false
    }

    fn in_value(&mut self, mut value: InValue, out: &mut Vec<ChatDelta>) -> bool {
        let tags = value.tags;
        if !value.begun {
            let Some(rest) = value_start(tags, &self.held) else {
                self.state = State::Value(value);
                return false;
            };
            self.held = rest.to_owned();
            value.begun = true;
            if value.kind == Kind::Text {
                self.arguments("\"".to_owned(), out);
            }
        }
        if let Some(end) = self.held.find(tags.value_close) {
            let text = without_line_end(&self.held[..end], tags).to_owned();
            self.held.drain(..end + tags.value_close.len());
            let json = match value.kind {
                Kind::Text => format!("{}\"", escaped(&text)),
                kind => value_json(&text, kind),
            };
            self.arguments(json, out);
            self.state = State::Tags { tags, first: false };
            return true;
        }
        if value.kind == Kind::Text {
            let kept = longest_start(&self.held, tags.value_close);
            let len = without_line_end(&self.held[..self.held.len() - kept], tags).len();
            let text: String = self.held.drain(..len).collect();
            self.arguments(escaped(&text), out);
        }
        self.state = State::Value(value);
        false
    }

    /// The text of a value that was never closed: what there is of it, in an argument that stays open.
    fn last_value(&mut self, value: &InValue, held: &str, out: &mut Vec<ChatDelta>) {
        let quote = if value.kind == Kind::Text && value.begun {
            ""
        } else {
            "\""
        };
        if !held.is_empty() {
            self.arguments(format!("{quote}{}", escaped(held)), out);
        }
    }

    fn tail(&mut self) -> bool {
        self.state = State::Tail {
            closers: self.format.closers(),
        };
        true
    }

    fn in_tail(&mut self, closers: &'static [&'static str]) -> bool {
        let rest = self.held.trim_start();
        for (i, closer) in closers.iter().enumerate() {
            if let Some(after) = rest.strip_prefix(closer) {
                self.held = after.to_owned();
                self.state = State::Tail {
                    closers: &closers[i + 1..],
                };
                return true;
            }
        }
        let undecided = rest.is_empty() || closers.iter().any(|c| c.starts_with(rest));
        self.state = if undecided {
            State::Tail { closers }
        } else {
            State::Content
        };
        !undecided
    }

    fn begin(&mut self, name: String, out: &mut Vec<ChatDelta>) {
        self.space.clear();
        out.push(ChatDelta::ToolCall {
            index: self.n_calls,
            id: new_id(),
            name: name.clone(),
        });
        self.name = name;
        self.n_calls += 1;
    }

    fn arguments(&mut self, text: String, out: &mut Vec<ChatDelta>) {
        if !text.is_empty() {
            let index = self.n_calls.saturating_sub(1);
            match out.last_mut() {
                Some(ChatDelta::Arguments {
                    index: last,
                    text: so_far,
                }) if *last == index => so_far.push_str(&text),
                _ => out.push(ChatDelta::Arguments { index, text }),
            }
        }
    }

    /// Content, without white space that may turn out to stand before a call.
    fn content(&mut self, text: &str, out: &mut Vec<ChatDelta>) {
        let end = text.trim_end().len();
        if end > 0 {
            let mut shown = std::mem::take(&mut self.space);
            shown.push_str(&text[..end]);
            out.push(ChatDelta::Content(shown));
            self.said = true;
        }
        self.space.push_str(&text[end..]);
    }
}

/// The text after what stands before a value; `None` while that is not certain.
fn value_start<'a>(tags: &Tags, held: &'a str) -> Option<&'a str> {
    if tags.lines {
        // One line end is not part of the value.
        return match held.chars().next()? {
            '\n' => Some(&held[1..]),
            _ => Some(held),
        };
    }
    let rest = held.trim_start();
    if let Some(value) = rest.strip_prefix(tags.value_open) {
        return Some(value);
    }
    (!tags.value_open.starts_with(rest)).then_some(rest)
}

fn without_line_end<'a>(text: &'a str, tags: &Tags) -> &'a str {
    if tags.lines {
        text.strip_suffix('\n').unwrap_or(text)
    } else {
        text
    }
}

/// Name and arguments of a call that is one JSON object.
fn whole_call(json: &str) -> Option<(String, String)> {
    let call: Value = serde_json::from_str(json).ok()?;
    let name = call.get("name")?.as_str()?;
    if name.is_empty() {
        return None;
    }
    let arguments = call.get("arguments").or_else(|| call.get("parameters"));
    let arguments = match arguments {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(json)) => match serde_json::from_str(json) {
            Ok(Value::Object(_)) => json.clone(),
            _ => return None,
        },
        Some(object @ Value::Object(_)) => object.to_string(),
        Some(_) => return None,
    };
    Some((name.to_owned(), arguments))
}

/// An id that links a call to its result.
fn new_id() -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut number: u128 = rand::random();
    let mut id = String::from("call_");
    for _ in 0..20 {
        id.push(char::from(ALPHABET[(number % 62) as usize]));
        number /= 62;
    }
    id
}
