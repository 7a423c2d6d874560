//! Chat templates: Jinja programs that come with a model and turn a conversation into its prompt.
//!
//! A template is untrusted input. It sees only what it is given, and its size, steps, depth and
//! output are bounded; the `limits` module says what is left.

#![forbid(unsafe_code)]

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use crate::gguf::Metadata;
use crate::tokenizer::Tokenizer;

use super::error::TemplateError;
use super::limits::{self, Bounded};
use super::message::ChatRequest;
use super::reasoning::ReasoningTags;
use super::{builtin, clock, json};

/// Name of the only template in the environment.
const NAME: &str = "chat";
/// Steps a template may take: far beyond a long conversation, yet over within seconds.
const FUEL: u64 = 50_000_000;
/// Depth of nesting and of macro calls.
const RECURSION: usize = 500;
/// Marks an error as the template's own, made by `raise_exception`.
const RAISED: &str = "raise_exception: ";

const KEY: &str = "tokenizer.chat_template";

/// A compiled template with the texts of the model's start and end tokens.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// It is too large, or not valid Jinja.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        limits::check_source(source)?;
        let source = without_generation_marks(source);
        let environment = limits::on_large_stack(|| {
            let mut environment = environment().map_err(|error| describe(&error, &source))?;
            environment
                .add_template_owned(NAME, source.clone())
                .map_err(|error| describe(&error, &source))?;
            Ok(environment)
        })?;
        Ok(Self {
            environment,
            source,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
        })
    }

    /// Compiles a built-in template.
    ///
    /// # Errors
    /// No template has this name.
    pub fn builtin(name: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        let source = builtin::source(name).ok_or_else(|| TemplateError::UnknownName {
            name: name.to_owned(),
        })?;
        Self::new(source, bos, eos)
    }

    /// The template of a file: the one with this name, or the main one. None if the file has no such template.
    ///
    /// # Errors
    /// The key is no text, or the template is not valid Jinja.
    pub fn from_metadata(
        md: &Metadata,
        tokenizer: &Tokenizer,
        name: Option<&str>,
    ) -> Result<Option<Self>, TemplateError> {
        let key = name.map_or_else(|| KEY.to_owned(), |name| format!("{KEY}.{name}"));
        let Some(source) = md.str(&key)? else {
            return Ok(None);
        };
        let text = |id: Option<u32>| id.map_or("", |id| tokenizer.token_text(id));
        Self::new(source, text(tokenizer.bos()), text(tokenizer.eos())).map(Some)
    }

    /// Names of the further templates in a file, such as `tool_use`.
    pub fn names_in(md: &Metadata) -> Vec<String> {
        md.iter()
            .filter_map(|(key, _)| key.strip_prefix(KEY)?.strip_prefix('.'))
            .map(str::to_owned)
            .collect()
    }

    /// The source as compiled.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The tags around thoughts that the template mentions.
    pub fn reasoning_tags(&self) -> ReasoningTags {
        ReasoningTags::detect(&self.source)
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// The template refuses or cannot handle it, or does not come to an end.
    pub fn render(&self, request: &ChatRequest) -> Result<String, TemplateError> {
        limits::on_large_stack(|| self.render_here(request))
    }

    fn render_here(&self, request: &ChatRequest) -> Result<String, TemplateError> {
        let messages = request
            .messages
            .iter()
            .map(|message| message.to_template())
            .collect::<Result<Vec<_>, _>>()?;
        let mut context: Vec<(String, Value)> = vec![
            ("messages".to_owned(), Value::from(Serde(&messages))),
            ("tools".to_owned(), Value::from(Serde(&request.tools))),
            ("documents".to_owned(), Value::from(())),
            (
                "add_generation_prompt".to_owned(),
                Value::from(request.add_generation_prompt),
            ),
            ("bos_token".to_owned(), Value::from(self.bos.as_str())),
            ("eos_token".to_owned(), Value::from(self.eos.as_str())),
        ];
        for (name, value) in &request.kwargs {
            context.retain(|(known, _)| known != name);
            context.push((name.clone(), Value::from(Serde(value))));
        }
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| describe(&error, &self.source))?;
        let mut out = Bounded::default();
        let result = template
            .render_captured_to(Value::from_pairs(context), &mut out)
            .map(drop);
        if out.full {
            return Err(TemplateError::Runaway { limit: "output" });
        }
        result.map_err(|error| describe(&error, &self.source))?;
        String::from_utf8(out.bytes).map_err(|error| TemplateError::Message {
            reason: error.to_string(),
        })
    }
}

/// The environment of Hugging Face's library, which templates are written for.
fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    limits::install(&mut env);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION);
    env.add_filter("tojson", json::tojson);
    // In Python a text and a mapping are sequences too.
    env.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::String | ValueKind::Map
        )
    });
    env.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("{RAISED}{message}"),
            ))
        },
    );
    env.add_function("strftime_now", |format: &str| {
        clock::strftime(clock::now(), format)
    });
    Ok(env)
}

/// `{% generation %}` marks what a trainer learns from. It has no meaning here, so each pair becomes `if true`,
/// which keeps the white space control of the marks.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let inner = &rest[start + 2..];
        let Some(end) = inner.find("%}") else { break };
        let word = inner[..end].trim_matches(['-', '+']).trim();
        let replacement = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => word,
        };
        out.push_str(&rest[..start + 2]);
        out.push_str(&if replacement == word {
            inner[..end].to_owned()
        } else {
            inner[..end].replace(word, replacement)
        });
        out.push_str("%}");
        rest = &inner[end + 2..];
    }
    out.push_str(rest);
    out
}

/// The library's error with the place in the template.
fn describe(error: &Error, source: &str) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::Runaway { limit: "steps" };
    }
    let detail = error.detail().unwrap_or_default();
    if let Some(limit) = limits::limit_of(detail) {
        return TemplateError::Runaway { limit };
    }
    if let Some(message) = detail.strip_prefix(RAISED) {
        return TemplateError::Refused {
            message: message.to_owned(),
        };
    }
    let line = error.line().unwrap_or(1);
    /// Longest part of a template line that a message quotes.
    const QUOTED_CHARS: usize = 160;
    let source_line = quote(error, source, line, QUOTED_CHARS);
    let message = match (error.kind(), detail) {
        (kind, "") => kind.to_string(),
        (ErrorKind::SyntaxError | ErrorKind::UndefinedError, detail) => detail.to_owned(),
        (kind, detail) => format!("{kind}: {detail}"),
    };
    match error.kind() {
        ErrorKind::SyntaxError | ErrorKind::BadEscape => TemplateError::Syntax {
            line,
            message,
            source_line,
        },
        _ => TemplateError::Render {
            line,
            message,
            source_line,
        },
    }
}

/// The place of an error; many templates are a single line, so only its surroundings are quoted.
fn quote(error: &Error, source: &str, line: usize, most: usize) -> String {
    let text = source
        .lines()
        .nth(line.saturating_sub(1))
        .unwrap_or_default();
    if text.chars().count() <= most {
        return text.trim().to_owned();
    }
    let line_start = text.as_ptr() as usize - source.as_ptr() as usize;
    let at = error
        .range()
        .map_or(0, |range| range.start.saturating_sub(line_start))
        .min(text.len());
    let before = text
        .char_indices()
        .take_while(|(offset, _)| *offset < at)
        .count();
    let quoted: String = text
        .chars()
        .skip(before.saturating_sub(most / 4))
        .take(most)
        .collect();
    format!("...{}...", quoted.trim())
}
