//! `docs/openapi.json`: made from the table of routes and the tables of fields, so that it cannot fall behind.

mod fields;

use serde_json::{Map, Value, json};

use super::routes::{Operation, ROUTES, Route};
use fields::{Field, Kind};

/// Fields of the requests of an operation, and those that must be there.
fn request(operation: Operation) -> (Vec<&'static [Field]>, &'static [&'static str]) {
    use Operation as O;
    match operation {
        O::Completion => (
            vec![
                fields::PROMPT,
                fields::TEXT,
                fields::SAMPLING,
                fields::NATIVE,
            ],
            &["prompt"],
        ),
        O::Completions => (
            vec![
                fields::PROMPT,
                fields::TEXT,
                fields::SAMPLING,
                fields::OPENAI,
            ],
            &["prompt"],
        ),
        O::Chat | O::ChatTokens | O::ApplyTemplate => (
            vec![fields::CHAT, fields::TEXT, fields::SAMPLING, fields::OPENAI],
            &["messages"],
        ),
        O::Responses | O::ResponsesTokens => (vec![fields::RESPONSES, fields::TEXT], &["input"]),
        O::Messages | O::CountTokens => (vec![fields::MESSAGES, fields::TEXT], &["messages"]),
        O::Embeddings | O::Embedding => (vec![fields::EMBEDDINGS], &["input"]),
        O::Tokenize => (vec![fields::TOKENIZE], &[]),
        O::Detokenize => (vec![fields::DETOKENIZE], &[]),
        O::SlotAction => (vec![fields::SLOT], &[]),
        O::Health | O::Models | O::Model | O::Props | O::SetProps | O::Slots | O::Metrics => {
            (Vec::new(), &[])
        }
    }
}

fn schema(kind: Kind) -> Value {
    match kind {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Number => json!({ "type": "number" }),
        Kind::Integer => json!({ "type": "integer" }),
        Kind::Text => json!({ "type": "string" }),
        Kind::Texts => json!({ "oneOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" } },
        ]}),
        Kind::Object => json!({ "type": "object" }),
        Kind::Array => json!({ "type": "array", "items": {} }),
        Kind::Any => json!({}),
    }
}

fn body(operation: Operation) -> Option<Value> {
    let (tables, required) = request(operation);
    if tables.is_empty() {
        return None;
    }
    let mut properties = Map::new();
    for field in tables.into_iter().flatten() {
        let mut schema = schema(field.kind);
        schema["description"] = field.summary.into();
        properties.insert(field.name.to_owned(), schema);
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    Some(json!({ "required": true, "content": { "application/json": { "schema": schema } } }))
}

/// What an operation answers with: a name in the components, and whether it may be a stream.
fn answer(operation: Operation) -> (&'static str, bool) {
    use Operation as O;
    match operation {
        O::Completion => ("Completion", true),
        O::Completions => ("TextCompletion", true),
        O::Chat => ("ChatCompletion", true),
        O::Responses => ("Response", true),
        O::Messages => ("Message", true),
        O::ChatTokens | O::ResponsesTokens | O::CountTokens => ("InputTokens", false),
        O::Embeddings => ("Embeddings", false),
        O::Models => ("Models", false),
        O::Model => ("Model", false),
        O::Tokenize => ("Tokens", false),
        O::Detokenize => ("Content", false),
        O::ApplyTemplate => ("Prompt", false),
        O::SlotAction => ("SlotReport", false),
        O::Health => ("Health", false),
        O::Slots | O::Props | O::SetProps | O::Metrics | O::Embedding => ("Any", false),
    }
}

fn components() -> Value {
    let text = json!({ "type": "string" });
    let whole = json!({ "type": "integer" });
    let list = json!({ "type": "array", "items": {} });
    let any = json!({});
    let object = |fields: &[(&str, &Value)]| {
        let properties = fields.iter().map(|&(name, v)| (name.to_owned(), v.clone()));
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        json!({ "type": "object", "required": names, "properties": Map::from_iter(properties) })
    };
    let error = object(&[("code", &whole), ("message", &text), ("type", &text)]);
    json!({ "schemas": {
        "Any": any,
        "ChatCompletion": object(&[("id", &text), ("object", &text), ("created", &whole), ("model", &text), ("choices", &list), ("usage", &any)]),
        "Completion": object(&[("index", &whole), ("content", &text), ("stop", &any), ("stop_type", &text), ("tokens_predicted", &whole), ("tokens_evaluated", &whole), ("timings", &any)]),
        "Content": object(&[("content", &text)]),
        "Embeddings": object(&[("object", &text), ("data", &list), ("model", &text), ("usage", &any)]),
        "Error": object(&[("error", &error)]),
        "Health": object(&[("status", &text)]),
        "InputTokens": object(&[("input_tokens", &whole)]),
        "Message": object(&[("id", &text), ("type", &text), ("role", &text), ("model", &text), ("content", &list), ("stop_reason", &any), ("usage", &any)]),
        "Model": object(&[("id", &text), ("object", &text), ("created", &whole), ("owned_by", &text)]),
        "Models": object(&[("object", &text), ("data", &list)]),
        "Prompt": object(&[("prompt", &text)]),
        "Response": object(&[("id", &text), ("object", &text), ("created_at", &whole), ("status", &text), ("model", &text), ("output", &list), ("usage", &any)]),
        "SlotReport": object(&[("id_slot", &whole)]),
        "TextCompletion": object(&[("id", &text), ("object", &text), ("created", &whole), ("model", &text), ("choices", &list), ("usage", &any)]),
        "Tokens": object(&[("tokens", &list)]),
    }, "securitySchemes": {
        "bearer": { "type": "http", "scheme": "bearer" },
        "header": { "type": "apiKey", "in": "header", "name": "X-Api-Key" },
    }})
}

fn operation(route: &Route, path: &str, first: bool) -> Value {
    let name = format!("{:?}", route.operation);
    let (answer, streams) = answer(route.operation);
    let reference = json!({ "schema": { "$ref": format!("#/components/schemas/{answer}") } });
    let mut content = Map::new();
    match route.operation {
        Operation::Metrics => {
            content.insert("application/openmetrics-text".to_owned(), json!({}));
            content.insert("text/plain".to_owned(), json!({}));
        }
        _ => {
            content.insert("application/json".to_owned(), reference);
        }
    }
    if streams {
        content.insert(
            "text/event-stream".to_owned(),
            json!({ "schema": { "type": "string" } }),
        );
    }
    let error = json!({
        "description": "An error object",
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
    });
    let alias = (!first).then(|| format!("As {}. ", route.paths[0]));
    let id = match first {
        true => name,
        false => format!("{name}_{}", path.trim_matches('/').replace(['/', '-'], "_")),
    };
    let mut value = json!({
        "operationId": id,
        "summary": format!("{}{}", alias.unwrap_or_default(), route.summary),
        "responses": {
            "200": { "description": "The answer", "content": content },
            "default": error,
        },
    });
    if let Some(body) = body(route.operation) {
        value["requestBody"] = body;
    }
    let parameters = parameters(route.operation, path);
    if !parameters.is_empty() {
        value["parameters"] = parameters.into();
    }
    if route.operation == Operation::Health {
        value["security"] = json!([]);
    }
    value
}

fn parameters(operation: Operation, path: &str) -> Vec<Value> {
    let mut all = Vec::new();
    if path.contains("{id}") {
        all.push(
            json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }),
        );
    }
    if operation == Operation::SlotAction {
        let actions = json!({ "type": "string", "enum": ["save", "restore", "erase"] });
        all.push(json!({ "name": "action", "in": "query", "required": true, "schema": actions }));
    }
    if operation == Operation::Slots {
        all.push(
            json!({ "name": "fail_on_no_slot", "in": "query", "schema": { "type": "string" } }),
        );
    }
    all
}

/// The document.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        for (i, path) in route.paths.iter().enumerate() {
            let method = if route.post { "post" } else { "get" };
            let entry = paths.entry((*path).to_owned()).or_insert_with(|| json!({}));
            entry[method] = operation(route, path, i == 0);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "oxling serve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "OpenAI's, Anthropic's and llama-server's interfaces over one model. Input is read leniently: unknown fields are ignored, null is as absent, numbers may be strings.",
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        "servers": [{ "url": "http://127.0.0.1:8080" }],
        "security": [{}, { "bearer": [] }, { "header": [] }],
        "paths": paths,
        "components": components(),
    })
}

/// Fields of each POST that are refused when they are of another type: path, name, and a value of no type that is
/// taken. For tests of the document.
pub fn typed_fields() -> Vec<(&'static str, &'static str, Value)> {
    let mut all = Vec::new();
    for route in ROUTES.iter().filter(|route| route.post) {
        let (tables, _) = request(route.operation);
        for field in tables.into_iter().flatten() {
            let wrong = match field.kind {
                Kind::Any => continue,
                Kind::Object | Kind::Array | Kind::Text | Kind::Texts => json!(3.5),
                Kind::Bool | Kind::Number | Kind::Integer => json!(["x"]),
            };
            all.push((route.paths[0], field.name, wrong));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_as_the_code_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        let made = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var_os("OXLING_WRITE_DOCS").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == made,
            "docs/openapi.json is stale: OXLING_WRITE_DOCS=1 cargo test --lib openapi"
        );
    }

    #[test]
    fn names_are_said_once() {
        let document = document();
        let mut ids = Vec::new();
        for methods in document["paths"].as_object().unwrap().values() {
            for operation in methods.as_object().unwrap().values() {
                ids.push(operation["operationId"].as_str().unwrap().to_owned());
            }
        }
        let n = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), n);
    }
}
