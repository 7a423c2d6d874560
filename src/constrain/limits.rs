//! Bounds on what a grammar may cost.

#![forbid(unsafe_code)]

use std::thread;

use llguidance::api::ParserLimits;
use serde_json::{Value, json};

use super::ConstrainError;

/// Longest source of a grammar or schema.
pub(super) const MOST_BYTES: usize = 256 << 10;
/// Deepest nesting of a schema. Real ones stay below 30.
const MOST_DEPTH: usize = 64;
/// The library follows nesting and references by recursion.
const STACK_BYTES: usize = 256 << 20;
/// White space between the tokens of JSON: enough for lines and indents, too little to fill an answer with.
const JSON_SPACE: &str = r"[ \n\r\t]{1,32}";

/// The library's own limits, where they differ from its defaults.
pub(super) fn set(limits: &mut ParserLimits) {
    limits.verbose_errors = false;
    // About 2 kB each.
    limits.max_lexer_states = 50_000;
    // GBNF works on single characters, which takes more items; 20k items take 1 ms.
    limits.step_max_items = 500_000;
}

/// Checks the size of a text.
pub(super) fn text(what: &'static str, text: &str) -> Result<(), ConstrainError> {
    if text.len() > MOST_BYTES {
        return Err(ConstrainError::TooLarge {
            what,
            found: text.len(),
            unit: "bytes",
            most: MOST_BYTES,
        });
    }
    Ok(())
}

/// Checks the depth and size of a schema, and says how its JSON may be spaced.
pub(super) fn schema(schema: &Value) -> Result<Value, ConstrainError> {
    let found = depth(schema);
    if found > MOST_DEPTH {
        return Err(ConstrainError::TooLarge {
            what: "JSON schema",
            found,
            unit: "levels",
            most: MOST_DEPTH,
        });
    }
    text("JSON schema", &schema.to_string())?;
    Ok(match schema {
        Value::Object(map) => {
            let mut map = map.clone();
            map.entry("x-guidance")
                .or_insert_with(|| json!({"whitespace_pattern": JSON_SPACE}));
            Value::Object(map)
        }
        // `true` and `false` are schemas too.
        Value::Bool(_) => schema.clone(),
        _ => {
            return Err(ConstrainError::Schema {
                message: "expected an object or a boolean".to_owned(),
            });
        }
    })
}

/// Levels of nesting, without recursion.
fn depth(value: &Value) -> usize {
    let (mut deepest, mut open) = (0, vec![(value, 1)]);
    while let Some((value, level)) = open.pop() {
        deepest = deepest.max(level);
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, level + 1))),
            Value::Object(map) => open.extend(map.values().map(|item| (item, level + 1))),
            _ => {}
        }
    }
    deepest
}

/// Runs `work` where recursion has room.
pub(super) fn on_large_stack<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ConstrainError> {
    let failed = |reason: String| ConstrainError::Thread { reason };
    let thread = thread::Builder::new()
        .name("grammar".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map_err(|e| failed(e.to_string()))?;
    thread
        .join()
        .map_err(|_| failed("compiling panicked".to_owned()))
}
