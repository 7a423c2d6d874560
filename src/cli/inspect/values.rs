//! Metadata values, long ones cut short.

use oxling::gguf::{Array, Value};
use serde_json::json;

use super::report::Entry;

/// Elements of a long array, and characters of a long text, that are shown.
const SHOWN_ELEMENTS: usize = 8;
const SHOWN_CHARS: usize = 96;

/// One entry; with `full` nothing is cut.
pub fn entry(key: &str, value: &Value, full: bool) -> Entry {
    let (json, text) = match value {
        Value::Array(array) => {
            let limit = if full { usize::MAX } else { SHOWN_ELEMENTS };
            let shown: Vec<serde_json::Value> = elements(array, limit);
            let mut text = shown
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ");
            if array.len() > shown.len() {
                text.push_str(", ...");
                (
                    json!({ "length": array.len(), "first": shown }),
                    format!("[{text}] {} in all", array.len()),
                )
            } else {
                (json!(shown), format!("[{text}]"))
            }
        }
        scalar => {
            let json = to_json(scalar);
            let mut text = json.to_string();
            if !full && text.chars().count() > SHOWN_CHARS {
                let whole = text.len();
                text = text.chars().take(SHOWN_CHARS).collect();
                text.push_str(&format!("...\" {whole} bytes"));
            }
            (json, text)
        }
    };
    Entry {
        key: key.to_owned(),
        ty: value.type_name(),
        value: json,
        text,
    }
}

/// The first elements of an array.
fn elements(array: &Array, limit: usize) -> Vec<serde_json::Value> {
    macro_rules! each {
        ($($variant:ident),*) => {
            match array {
                $(Array::$variant(v) => v.iter().take(limit).map(|e| to_json(&Value::$variant(e.clone()))).collect(),)*
            }
        };
    }
    each!(
        U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64
    )
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(b) => json!(b),
        Value::String(s) => json!(s.to_string()),
        Value::Array(array) => json!(elements(array, usize::MAX)),
        // The shortest decimal form, not that of the f64 behind it.
        Value::F32(f) => f
            .to_string()
            .parse::<f64>()
            .map_or(json!(f.to_string()), |f| json!(f)),
        Value::F64(f) => json!(f),
        Value::U64(n) => json!(n),
        other => other
            .as_integer()
            .and_then(|n| i64::try_from(n).ok())
            .map_or(json!(null), |n| json!(n)),
    }
}
