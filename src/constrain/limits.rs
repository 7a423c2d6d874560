//! Bounds on what a grammar may cost.

#![forbid(unsafe_code)]

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use llguidance::CancellationHandle;
use llguidance::api::ParserLimits;
use serde_json::{Value, json};

use super::{ConstrainError, GrammarSpec};

/// Longest source of a grammar or schema.
pub(super) const MOST_BYTES: usize = 256 << 10;
/// Deepest nesting of a schema. Real ones stay below 30.
const MOST_DEPTH: usize = 64;
/// The library follows nesting and references by recursion.
const STACK_BYTES: usize = 256 << 20;
/// Longest time for compiling a grammar and its first mask. Real ones take milliseconds.
const MOST_TIME: Duration = Duration::from_secs(20);
/// White space between the tokens of JSON: a space, or a line end and an indent. With more, an answer may be all white.
const JSON_SPACE: &str = r" |\n[ \t]{0,20}";

/// The library's own limits, where they differ from its defaults.
pub(super) fn set(limits: &mut ParserLimits) {
    limits.verbose_errors = false;
    // About 2 kB each.
    limits.max_lexer_states = 50_000;
    // GBNF may work on single characters, which takes more items; 20k items take 1 ms.
    limits.step_max_items = 100_000;
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

/// Checks depth and size of what is to be compiled.
pub(super) fn check(spec: &GrammarSpec) -> Result<(), ConstrainError> {
    match spec {
        GrammarSpec::JsonObject => Ok(()),
        GrammarSpec::JsonSchema(schema) => json("JSON schema", schema),
        GrammarSpec::ToolCalls { tools, .. } => json("list of tools", tools),
        GrammarSpec::Gbnf(source) => text("grammar", source),
        GrammarSpec::Lark(source) => text("lark grammar", source),
        GrammarSpec::Regex(source) => text("regular expression", source),
    }
}

fn json(what: &'static str, value: &Value) -> Result<(), ConstrainError> {
    let found = depth(value);
    if found > MOST_DEPTH {
        return Err(ConstrainError::TooLarge {
            what,
            found,
            unit: "levels",
            most: MOST_DEPTH,
        });
    }
    text(what, &value.to_string())
}

/// A schema that says how its JSON may be spaced.
pub(super) fn schema(schema: &Value) -> Result<Value, ConstrainError> {
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

/// How the thread that compiles can be stopped once there is something to stop.
pub(super) type Stop = Arc<OnceLock<CancellationHandle>>;

/// Runs `work` where recursion has room, for a bounded time.
pub(super) fn bounded<T: Send + 'static>(
    work: impl FnOnce(&Stop) -> Result<T, ConstrainError> + Send + 'static,
) -> Result<T, ConstrainError> {
    let failed = |reason: String| ConstrainError::Thread { reason };
    let (stop, (send, done)) = (Stop::default(), channel());
    let inside = Arc::clone(&stop);
    thread::Builder::new()
        .name("grammar".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            // Nobody waits any more if the time was up.
            let _ = send.send(work(&inside));
        })
        .map_err(|e| failed(e.to_string()))?;
    let too_slow = || ConstrainError::TooSlow {
        seconds: MOST_TIME.as_secs(),
    };
    match done.recv_timeout(MOST_TIME) {
        Ok(result) => result,
        Err(RecvTimeoutError::Disconnected) => Err(failed("compiling panicked".to_owned())),
        Err(RecvTimeoutError::Timeout) => {
            if let Some(stop) = stop.get() {
                stop.cancel();
            }
            Err(too_slow())
        }
    }
}
