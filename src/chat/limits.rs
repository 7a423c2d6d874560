//! What bounds a hostile template: the size of its source and its expressions, the stack it runs on, and the depth and
//! size of the values it writes.
//!
//! Not bounded, because the Jinja library has no hook there: a text or list that doubles itself by `~` or `+` in a
//! variable, raw text in a captured block, `~` or `==` on a namespace that holds itself, the drop of lists nested
//! millions deep, and the time to compile a tag that the scan of the source cannot see. Such a template can still hang
//! or end the process, but does nothing else.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::thread;

use minijinja::value::{Kwargs, Rest, StringInput, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::error::TemplateError;

/// Bytes of a template's source; the longest ones in use have about 20 KiB.
const MAX_SOURCE: usize = 128 << 10;
/// Operators, filters and attributes in one tag: each is a step of recursion when the tag is compiled.
const MAX_OPERATORS: usize = 2000;
/// Depth of a value that is written.
const MAX_DEPTH: usize = 200;
/// Elements of a value that is written or copied.
const MAX_ELEMENTS: usize = 2_000_000;
/// Bytes a template may make: what it writes and what its filters return.
pub(super) const MAX_OUTPUT: usize = 256 << 20;
/// Address space for the stack; pages are only taken when touched.
const STACKS: [usize; 2] = if cfg!(target_pointer_width = "64") {
    [512 << 20, 64 << 20]
} else {
    [32 << 20, 8 << 20]
};
/// Marks an error as one of these limits.
const LIMIT: &str = "limit: ";

thread_local! {
    /// Bytes made so far; every rendering has a thread of its own.
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// Refuses a source that is too long, or has a tag too long to compile.
pub(super) fn check_source(source: &str) -> Result<(), TemplateError> {
    if source.len() > MAX_SOURCE {
        return Err(TemplateError::TooLong {
            bytes: source.len(),
            most: MAX_SOURCE,
        });
    }
    let mut rest = source;
    let tags = ["{{", "{%", "{#"];
    while let Some(start) = tags.iter().filter_map(|tag| rest.find(tag)).min() {
        if rest[start..].starts_with("{#") {
            let end = rest[start..]
                .find("#}")
                .map_or(rest.len(), |end| start + end + 2);
            rest = &rest[end..];
            continue;
        }
        let at = source.len() - rest.len() + start;
        let (operators, length) = scan_tag(&rest[start + 2..]);
        if operators > MAX_OPERATORS {
            return Err(TemplateError::TooComplex {
                line: source[..at].matches('\n').count() + 1,
                operators,
                most: MAX_OPERATORS,
            });
        }
        rest = rest.get(start + 2 + length..).unwrap_or_default();
    }
    Ok(())
}

/// The operators in a tag, and where it ends. Texts in quotes do not count.
fn scan_tag(tag: &str) -> (usize, usize) {
    let bytes = tag.as_bytes();
    let (mut operators, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'}' | b'%' if bytes.get(at + 1) == Some(&b'}') => return (operators, at + 2),
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            first if first.is_ascii_alphabetic() || first == b'_' => {
                let start = at;
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
                    at += 1;
                }
                let word = &bytes[start..at];
                operators += usize::from(
                    [&b"not"[..], b"and", b"or", b"if", b"else", b"is", b"in"].contains(&word),
                );
                continue;
            }
            byte => operators += usize::from(b"+-*/%~|.<>=![(".contains(&byte)),
        }
        at += 1;
    }
    (operators, bytes.len())
}

/// Runs `work` on a stack that the deepest source still fits on.
pub(super) fn on_large_stack<T: Send>(
    work: impl Fn() -> Result<T, TemplateError> + Sync,
) -> Result<T, TemplateError> {
    let failed = |reason: String| TemplateError::Thread { reason };
    thread::scope(|scope| {
        let mut last = String::new();
        for bytes in STACKS {
            let builder = thread::Builder::new()
                .name("chat-template".to_owned())
                .stack_size(bytes);
            match builder.spawn_scoped(scope, &work) {
                Ok(handle) => {
                    return handle
                        .join()
                        .unwrap_or_else(|_| Err(failed("it panicked".to_owned())));
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(failed(last))
    })
}

fn error(limit: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{LIMIT}{limit}"))
}

/// The limit an error is about.
pub(super) fn limit_of(detail: &str) -> Option<&'static str> {
    let name = detail.strip_prefix(LIMIT)?;
    ["output", "depth", "elements"]
        .into_iter()
        .find(|known| *known == name)
}

/// Counts bytes that are about to be made.
fn spend(bytes: usize) -> Result<(), Error> {
    let made = MADE.get().saturating_add(bytes);
    if made > MAX_OUTPUT {
        return Err(error("output"));
    }
    MADE.set(made);
    Ok(())
}

/// Elements and bytes of text in a value.
#[derive(Default)]
struct Size {
    elements: usize,
    bytes: usize,
}

impl Size {
    /// # Errors
    /// The value is too deep, which a value that holds itself always is, or too large.
    fn of(value: &Value) -> Result<Self, Error> {
        let mut size = Self::default();
        size.add(value, 0)?;
        Ok(size)
    }

    fn add(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(error("depth"));
        }
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(error("elements"));
        }
        // Numbers and punctuation: enough for each to be near its text.
        self.bytes = self
            .bytes
            .saturating_add(8 + value.as_str().map_or(0, str::len));
        if self.bytes > MAX_OUTPUT {
            return Err(error("output"));
        }
        let Some(object) = value.as_object() else {
            return Ok(());
        };
        if value.kind() == ValueKind::Map {
            for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                self.add(&key, depth + 1)?;
                self.add(&value, depth + 1)?;
            }
        } else {
            for value in object.try_iter().into_iter().flatten() {
                self.add(&value, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Whether a value may be written, which is counted.
pub(super) fn check_value(value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => spend(text.len()),
        None => spend(Size::of(value)?.bytes),
    }
}

fn check_count(count: Option<usize>) -> Result<(), Error> {
    match count {
        Some(count) if count > MAX_ELEMENTS => Err(error("elements")),
        _ => spend(count.unwrap_or(0).saturating_mul(size_of::<Value>())),
    }
}

fn check_replace(text: &str, from: &str, to: &str) -> Result<(), Error> {
    let grown = text.matches(from).count().saturating_mul(to.len());
    spend(grown.saturating_add(text.len()))
}

fn check_join(values: &Value, joiner: &str) -> Result<(), Error> {
    let size = Size::of(values)?;
    let parts = values.as_str().map_or(size.elements, str::len);
    spend(
        parts
            .saturating_mul(joiner.len())
            .saturating_add(size.bytes),
    )
}

/// Bounds every field by the largest width and all the arguments.
fn check_format(format: &str, args: &[Value]) -> Result<(), Error> {
    let widest = format
        .split(|char: char| !char.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(usize::MAX))
        .max()
        .unwrap_or(0);
    let mut bytes = widest;
    for arg in args {
        bytes = bytes.saturating_add(Size::of(arg)?.bytes);
        // A `*` takes its width from an argument.
        if format.contains('*') {
            bytes = bytes.saturating_add(arg.as_usize().unwrap_or(0));
        }
    }
    let fields = format.matches(['%', '{']).count();
    spend(fields.saturating_mul(bytes).saturating_add(format.len()))
}

/// Python's methods, those that make texts behind a check.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match (name, args) {
            ("replace", [from, to, ..]) => check_replace(
                text,
                from.as_str().unwrap_or_default(),
                to.as_str().unwrap_or_default(),
            )?,
            ("join", [values]) => check_join(values, text)?,
            ("format", args) => check_format(text, args)?,
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// Puts the checks before all that writes values or makes large ones.
pub(super) fn install(env: &mut Environment<'static>) {
    env.set_formatter(|out, state, value| {
        check_value(value)?;
        minijinja::escape_formatter(out, state, value)
    });
    env.set_unknown_method_callback(method);
    // It shows all variables, those that hold themselves too.
    env.remove_global("debug");
    env.add_filter("string", |state: &State, value: &Value| {
        check_value(value)?;
        filters::string(state, value)
    });
    env.add_filter("pprint", |value: &Value| {
        check_value(value)?;
        // Each level indents by four.
        spend(Size::of(value)?.elements.saturating_mul(4 * MAX_DEPTH))?;
        Ok::<_, Error>(filters::pprint(value))
    });
    env.add_filter(
        "replace",
        |state: &mut State, value: StringInput<'_>, from: StringInput<'_>, to: StringInput<'_>| {
            check_replace(value.as_str(), from.as_str(), to.as_str())?;
            filters::replace(state, value, from, to)
        },
    );
    env.add_filter("join", join);
    env.add_filter("indent", indent);
    env.add_filter("format", |format: &Value, args: Rest<Value>| {
        check_format(format.as_str().unwrap_or_default(), &args)?;
        minijinja::formatting::format(
            minijinja::formatting::FormatStyle::Printf,
            format.as_str().unwrap_or_default(),
            &args,
        )
        .map(Value::from)
    });
    env.add_filter("list", |state: &State, value: Value| {
        check_count(value.len())?;
        filters::list(state, value)
    });
    env.add_filter(
        "batch",
        |state: &State, value: Value, count: usize, fill: Option<Value>| {
            check_count(value.len())?;
            check_count(Some(count))?;
            filters::batch(state, value, count, fill)
        },
    );
    env.add_filter(
        "slice",
        |state: &State, value: Value, count: usize, fill: Option<Value>| {
            check_count(value.len())?;
            check_count(Some(count))?;
            filters::slice(state, value, count, fill)
        },
    );
}

fn join(
    state: &mut State,
    value: &Value,
    joiner: Option<StringInput<'_>>,
    attribute: Option<&str>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let text = joiner.as_ref().map_or("", |joiner| joiner.as_str());
    check_join(value, text)?;
    filters::join(state, value, joiner, attribute, kwargs)
}

fn indent(
    value: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let width = match width {
        Some(width) => Some(width),
        None => kwargs.get("width")?,
    };
    let lines = value.as_str().matches('\n').count() + 1;
    let added = lines.saturating_mul(width.unwrap_or(4));
    spend(added.saturating_add(value.as_str().len()))?;
    filters::indent(value, width, first, blank, kwargs)
}

/// A buffer that refuses to grow beyond [`MAX_OUTPUT`].
#[derive(Debug, Default)]
pub(super) struct Bounded {
    pub(super) bytes: Vec<u8>,
    pub(super) full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + buf.len() > MAX_OUTPUT {
            self.full = true;
            return Err(io::Error::other("too much output"));
        }
        self.bytes.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
