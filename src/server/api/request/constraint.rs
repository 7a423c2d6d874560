//! What an answer must look like: grammars, schemas and regular expressions of a request.

use serde_json::Value;

use super::fields::Fields;
use crate::constrain::GrammarSpec;
use crate::server::api::ApiError;

/// The constraint a request asks for, tool calls aside.
///
/// # Errors
/// Two constraints at once, or one that is no constraint.
pub fn read(f: &Fields<'_>) -> Result<Option<GrammarSpec>, ApiError> {
    let mut all: Vec<(&str, GrammarSpec)> = Vec::new();
    if let Some(text) = f.str("grammar")?.filter(|text| !text.trim().is_empty()) {
        all.push(("grammar", grammar(text)));
    }
    if let Some(schema) = f.get("json_schema") {
        all.push(("json_schema", GrammarSpec::JsonSchema(schema.clone())));
    }
    if let Some(regex) = f.str("regex")?.filter(|text| !text.is_empty()) {
        all.push(("regex", GrammarSpec::Regex(regex.to_owned())));
    }
    if let Some(spec) = response_format(f)? {
        all.push(("response_format", spec));
    }
    if let [(first, _), (second, _), ..] = all.as_slice() {
        let both = format!("cannot be used together with '{first}'");
        return Err(ApiError::field(second, both));
    }
    Ok(all.pop().map(|(_, spec)| spec))
}

/// Lark where the text says so, otherwise GBNF.
pub fn grammar(text: &str) -> GrammarSpec {
    let is_lark = text.trim_start().starts_with("%llguidance")
        || text
            .lines()
            .any(|line| line.trim_start().starts_with("start:"));
    if is_lark && !text.contains("::=") {
        GrammarSpec::Lark(text.to_owned())
    } else {
        GrammarSpec::Gbnf(text.to_owned())
    }
}

fn response_format(f: &Fields<'_>) -> Result<Option<GrammarSpec>, ApiError> {
    const NAME: &str = "response_format";
    let Some(format) = f.object(NAME)? else {
        return Ok(None);
    };
    let format = Fields::new(format);
    let schema = |value: Option<&Value>| value.cloned().map(GrammarSpec::JsonSchema);
    match format.str("type")? {
        None | Some("text") => Ok(None),
        Some("json_object") => {
            let given = schema(format.get("schema"));
            Ok(Some(given.unwrap_or(GrammarSpec::JsonObject)))
        }
        Some("json_schema") => {
            // Responses puts the schema beside the type, chat completions one level deeper.
            let inner = format.object("json_schema")?.map(Fields::new);
            let found = inner.and_then(|inner| inner.get("schema"));
            schema(found.or(format.get("schema")))
                .map(Some)
                .ok_or_else(|| ApiError::field(NAME, "expected json_schema.schema, found none"))
        }
        Some("regex") => match format.str("pattern")? {
            Some(pattern) => Ok(Some(GrammarSpec::Regex(pattern.to_owned()))),
            None => Err(ApiError::field(NAME, "expected a pattern, found none")),
        },
        Some(other) => {
            let known =
                r#"response_format type must be one of "text", "json_object" or "json_schema""#;
            Err(ApiError::field(NAME, format!("{known}, found \"{other}\"")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_json(value: Value) -> Result<Option<GrammarSpec>, ApiError> {
        let Value::Object(map) = value else {
            unreachable!()
        };
        read(&Fields::new(&map))
    }

    #[test]
    fn constraints_are_told_apart() {
        let kind = |value| match read_json(value).unwrap() {
            None => "none",
            Some(GrammarSpec::JsonObject) => "object",
            Some(GrammarSpec::JsonSchema(_)) => "schema",
            Some(GrammarSpec::Gbnf(_)) => "gbnf",
            Some(GrammarSpec::Lark(_)) => "lark",
            Some(GrammarSpec::Regex(_)) => "regex",
            Some(_) => "other",
        };
        assert_eq!(kind(json!({ "grammar": "" })), "none");
        assert_eq!(kind(json!({ "grammar": "root ::= \"a\"" })), "gbnf");
        assert_eq!(kind(json!({ "grammar": "start: /a+/" })), "lark");
        assert_eq!(kind(json!({ "regex": "a+" })), "regex");
        assert_eq!(kind(json!({ "json_schema": {} })), "schema");
        assert_eq!(
            kind(json!({ "response_format": { "type": "text" } })),
            "none"
        );
        assert_eq!(
            kind(json!({ "response_format": { "type": "json_object" } })),
            "object"
        );
        let nested =
            json!({ "type": "json_schema", "json_schema": { "schema": { "type": "object" } } });
        assert_eq!(kind(json!({ "response_format": nested })), "schema");
        let flat = json!({ "type": "json_schema", "name": "x", "schema": {} });
        assert_eq!(kind(json!({ "response_format": flat })), "schema");
        for wrong in [
            json!({ "grammar": "root ::= \"a\"", "json_schema": {} }),
            json!({ "response_format": { "type": "json_schema" } }),
            json!({ "response_format": { "type": "xml" } }),
            json!({ "response_format": "json" }),
            json!({ "grammar": 3 }),
        ] {
            assert!(read_json(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
