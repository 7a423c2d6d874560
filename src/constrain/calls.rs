//! Grammars of function calls.

#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use super::gbnf::lark_text as literal;
use super::{ConstrainError, GrammarSpec, limits};
use crate::chat::ToolFormat;
use crate::chat::tools::{CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, CLOSE, OPEN, SEPARATOR};

/// Most functions of a request.
const MOST_TOOLS: usize = 256;
/// The arguments of a function that takes none.
const NO_ARGUMENTS: &str = r#"{"type":"object","properties":{},"additionalProperties":false}"#;

/// Which calls an answer must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// Text or calls, as the model likes.
    Auto,
    /// At least one call.
    Required,
    /// A call of this function.
    Named(String),
}

struct Tool<'a> {
    name: &'a str,
    schema: Option<&'a Value>,
}

fn wrong(message: impl Into<String>) -> ConstrainError {
    ConstrainError::Tools {
        message: message.into(),
    }
}

/// Reads OpenAI's list; bare functions and Anthropic's `input_schema` are understood too.
fn read(tools: &Value) -> Result<Vec<Tool<'_>>, ConstrainError> {
    let list = tools.as_array().ok_or_else(|| wrong("expected a list"))?;
    if list.len() > MOST_TOOLS {
        return Err(ConstrainError::TooLarge {
            what: "list of tools",
            found: list.len(),
            unit: "functions",
            most: MOST_TOOLS,
        });
    }
    let one = |(i, tool): (usize, &'_ Value)| -> Result<(), ConstrainError> {
        let function = tool.get("function").unwrap_or(tool);
        let name = function.get("name").and_then(Value::as_str);
        match name {
            None | Some("") => Err(wrong(format!("[{i}]: the function has no name"))),
            Some(name) if name.contains(['\n', '<', '>', '"', '{', '}', '\u{FF5C}']) => Err(wrong(
                format!("[{i}]: `{}` is no name", name.escape_debug()),
            )),
            Some(_) => Ok(()),
        }
    };
    list.iter().enumerate().try_for_each(one)?;
    Ok(list
        .iter()
        .filter_map(|tool| {
            let function = tool.get("function").unwrap_or(tool);
            let schema = function
                .get("parameters")
                .or_else(|| function.get("input_schema"));
            Some(Tool {
                name: function.get("name")?.as_str()?,
                schema: schema.filter(|schema| !schema.is_null()),
            })
        })
        .collect())
}

/// A marker: the control token of that text where there is one, else the text.
fn marker(text: &str, id: &dyn Fn(&str) -> Option<u32>) -> String {
    match id(text) {
        Some(id) => format!("<[{id}]>"),
        None => literal(text),
    }
}

/// What a grammar of calls describes.
pub(super) enum Root<'a> {
    /// The whole answer: calls, or with [`ToolChoice::Auto`] this JSON instead.
    Calls {
        choice: &'a ToolChoice,
        parallel: bool,
        answer: Option<&'a GrammarSpec>,
    },
    /// The part of an answer that starts with this opener.
    Opened { text: &'static str, parallel: bool },
}

impl Root<'_> {
    /// Whether more than one call may follow.
    fn several(&self, format: ToolFormat) -> bool {
        match self {
            Self::Calls { parallel, .. } => *parallel && format != ToolFormat::BareJson,
            Self::Opened { text, parallel } => *parallel && *text == CALLS_BEGIN,
        }
    }
}

/// The lark grammar of calls.
pub(super) fn to_lark(
    format: ToolFormat,
    tools: &Value,
    root: Root<'_>,
    id: &dyn Fn(&str) -> Option<u32>,
) -> Result<String, ConstrainError> {
    let mut tools = read(tools)?;
    if let Root::Calls {
        choice: ToolChoice::Named(name),
        ..
    } = root
    {
        tools.retain(|tool| tool.name == name);
        if tools.is_empty() {
            return Err(wrong(format!("no function is named `{name}`")));
        }
    }
    if tools.is_empty() {
        return Err(wrong("a call is required, but there is no function"));
    }
    let mark = |text: &str| marker(text, id);
    let mut lark = String::new();
    let (before, between, after) = match format {
        _ if matches!(root, Root::Opened { text, .. } if text != CALLS_BEGIN) => {
            (String::new(), "", String::new())
        }
        ToolFormat::DeepSeekV3 | ToolFormat::DeepSeekV31 => {
            let between = if format == ToolFormat::DeepSeekV3 {
                "\"\\n\""
            } else {
                ""
            };
            (mark(CALLS_BEGIN), between, mark(CALLS_END))
        }
        _ => (String::new(), "\"\\n\"", String::new()),
    };
    let more = match root.several(format) {
        true => format!(" ({between} call)*"),
        false => String::new(),
    };
    let calls = format!("{before} call{more} {after}");
    match root {
        Root::Calls {
            choice: ToolChoice::Auto,
            answer: Some(answer),
            ..
        } => {
            let schema = answer_schema(answer)?;
            lark.push_str(&format!("start: calls | answer\ncalls: {calls}\n"));
            lark.push_str(&format!("answer: %json {schema}\n"));
        }
        _ => lark.push_str(&format!("start: {calls}\n")),
    }
    let names: Vec<String> = (0..tools.len()).map(|i| format!("call{i}")).collect();
    lark.push_str(&format!("call: {}\n", names.join(" | ")));
    for (i, tool) in tools.iter().enumerate() {
        call(format, i, tool, &mark, &mut lark)?;
    }
    limits::text("list of tools", &lark)?;
    Ok(lark)
}

/// The schema of an answer without calls.
fn answer_schema(answer: &GrammarSpec) -> Result<Value, ConstrainError> {
    match answer {
        GrammarSpec::JsonObject => limits::schema(&json!({ "type": "object" })),
        GrammarSpec::JsonSchema(schema) => limits::schema(schema),
        _ => Err(wrong("an answer beside calls can only be JSON")),
    }
}

/// Rules of one function.
fn call(
    format: ToolFormat,
    i: usize,
    tool: &Tool<'_>,
    mark: &dyn Fn(&str) -> String,
    lark: &mut String,
) -> Result<(), ConstrainError> {
    let name = tool.name;
    if matches!(format, ToolFormat::QwenXml | ToolFormat::ArgTags) {
        return tagged(format, i, tool, mark, lark);
    }
    let arguments = schema_json(tool)?;
    lark.push_str(&format!("arguments{i}: %json {arguments}\n"));
    let rule = match format {
        ToolFormat::DeepSeekV3 => format!(
            "{} \"function\" {} {} arguments{i} \"\\n```\" {}",
            mark(CALL_BEGIN),
            mark(SEPARATOR),
            literal(&format!("{name}\n```json\n")),
            mark(CALL_END)
        ),
        ToolFormat::DeepSeekV31 => format!(
            "{} {} {} arguments{i} {}",
            mark(CALL_BEGIN),
            literal(name),
            mark(SEPARATOR),
            mark(CALL_END)
        ),
        ToolFormat::BareJson => {
            let head = format!("{{\"name\": {}, \"parameters\": ", literal(name));
            format!("{} arguments{i} \"}}\"", literal(&head))
        }
        _ => {
            let head = format!("\n{{\"name\": {}, \"arguments\": ", literal(name));
            format!(
                "{} {} arguments{i} \"}}\\n\" {}",
                mark(OPEN),
                literal(&head),
                mark(CLOSE)
            )
        }
    };
    lark.push_str(&format!("call{i}: {rule}\n"));
    Ok(())
}

/// The schema of a function's arguments, ready for the compiler.
fn schema_json(tool: &Tool<'_>) -> Result<String, ConstrainError> {
    let Some(schema) = tool.schema else {
        return Ok(NO_ARGUMENTS.to_owned());
    };
    let mut schema = schema.clone();
    if let Value::Object(map) = &mut schema {
        // Arguments are an object whatever the schema forgot to say.
        map.entry("type").or_insert_with(|| Value::from("object"));
    }
    lenient(&schema, tool.name)
}

/// A schema whose keywords that cannot be enforced are left out: a tool's author did not ask for a grammar.
fn lenient(schema: &Value, name: &str) -> Result<String, ConstrainError> {
    let in_tool = |e: ConstrainError| wrong(format!("{name}: {e}"));
    let mut schema = limits::schema(schema).map_err(in_tool)?;
    if let Some(options) = schema.get_mut("x-guidance").and_then(Value::as_object_mut) {
        options.insert("lenient".to_owned(), Value::Bool(true));
    }
    Ok(schema.to_string())
}

/// Rules of a function whose arguments stand in tags.
fn tagged(
    format: ToolFormat,
    i: usize,
    tool: &Tool<'_>,
    mark: &dyn Fn(&str) -> String,
    lark: &mut String,
) -> Result<(), ConstrainError> {
    let empty = Map::new();
    let properties = tool
        .schema
        .and_then(|schema| schema.get("properties"))
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let required = |key: &str| {
        let list = tool.schema.and_then(|schema| schema.get("required"));
        list.and_then(Value::as_array)
            .is_some_and(|list| list.iter().any(|item| item == key))
    };
    let mut parts = Vec::new();
    for (n, (key, schema)) in properties.iter().enumerate() {
        if key.contains(['<', '>', '\n']) {
            return Err(wrong(format!("{}: `{key}` is no name", tool.name)));
        }
        let value = format!("value{i}x{n}");
        let (before, after) = around(format, key, mark);
        value_rule(&value, schema, tool, &after, lark)?;
        lark.push_str(&format!("argument{i}x{n}: {before} {value}\n"));
        let optional = if required(key) { "" } else { "?" };
        parts.push(format!("argument{i}x{n}{optional}"));
    }
    let parts = parts.join(" ");
    let rule = if format == ToolFormat::QwenXml {
        let head = literal(&format!("\n<function={}>\n", tool.name));
        format!(
            "{} {head} {parts} \"</function>\\n\" {}",
            mark(OPEN),
            mark(CLOSE)
        )
    } else {
        let head = literal(&format!("{}\n", tool.name));
        format!("{} {head} {parts} {}", mark(OPEN), mark(CLOSE))
    };
    lark.push_str(&format!("call{i}: {rule}\n"));
    Ok(())
}

/// Checks that a list of functions can be read.
pub(super) fn check(tools: &Value) -> Result<(), ConstrainError> {
    read(tools).map(|_| ())
}

/// What stands before a value, and the text after it.
fn around(format: ToolFormat, key: &str, mark: &dyn Fn(&str) -> String) -> (String, String) {
    if format == ToolFormat::QwenXml {
        let before = literal(&format!("<parameter={key}>\n"));
        (before, "\n</parameter>\n".to_owned())
    } else {
        let before = format!(
            "{} {} {} \"\\n\" {}",
            mark("<arg_key>"),
            literal(key),
            mark("</arg_key>"),
            mark("<arg_value>")
        );
        (before, "</arg_value>\n".to_owned())
    }
}

/// The rule of a value and of what ends it.
fn value_rule(
    rule: &str,
    schema: &Value,
    tool: &Tool<'_>,
    after: &str,
    lark: &mut String,
) -> Result<(), ConstrainError> {
    let is_text = schema.get("type").is_some_and(|kind| kind == "string");
    let texts: Option<Vec<&str>> = schema
        .get("enum")
        .and_then(Value::as_array)
        .and_then(|list| list.iter().map(Value::as_str).collect());
    let end = literal(after);
    if let Some(texts) = texts.filter(|texts| !texts.is_empty()) {
        let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
        lark.push_str(&format!("{rule}: ({}) {end}\n", texts.join(" | ")));
    } else if is_text {
        lark.push_str(&format!("{rule}[suffix={end}]: /(?s:.*)/\n"));
    } else {
        let mut schema = schema.clone();
        if let (Value::Object(map), Some(Value::Object(whole))) = (&mut schema, tool.schema) {
            for key in ["$defs", "definitions"] {
                if let Some(definitions) = whole.get(key) {
                    map.entry(key).or_insert_with(|| definitions.clone());
                }
            }
        }
        let json = lenient(&schema, tool.name)?;
        lark.push_str(&format!(
            "{rule}: {rule}json {end}\n{rule}json: %json {json}\n"
        ));
    }
    Ok(())
}
