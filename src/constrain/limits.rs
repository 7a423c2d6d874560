//! Bounds on what a grammar may cost.

#![forbid(unsafe_code)]

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use llguidance::api::ParserLimits;
use llguidance::{CancellationHandle, Matcher};
use serde_json::{Value, json};

use super::{ConstrainError, GrammarSpec, NO_TEXT};

/// Longest source of a grammar or schema.
pub(super) const MOST_BYTES: usize = 256 << 10;
/// Deepest nesting of a schema. Real ones stay below 30.
const MOST_DEPTH: usize = 64;
/// Most properties of one object: as many as the library's limits let come next.
const MOST_PROPERTIES: usize = 4000;
/// Walks that try a grammar out, tokens of each, and the time after which it is enough.
const PROBES: usize = 4;
const PROBE_TOKENS: usize = 48;
const PROBE_TIME: Duration = Duration::from_millis(100);
/// The library follows nesting and references by recursion.
const STACK_BYTES: usize = 256 << 20;
/// Longest time for compiling a grammar and its first mask. Real ones take milliseconds.
const MOST_TIME: Duration = Duration::from_secs(10);
/// White space between the tokens of JSON: a space, or a line end and an indent. With more, an answer may be all white.
const JSON_SPACE: &str = r" |\n[ \t]{0,20}";

/// The library's own limits, where they differ from its defaults.
pub(super) fn set(limits: &mut ParserLimits) {
    limits.verbose_errors = false;
    // About 2 kB each.
    limits.max_lexer_states = 50_000;
    // Four for every property that may come next.
    limits.max_items_in_row = 20_000;
    // GBNF may work on single characters, and objects may be wide, which takes more items; 20k items take 1 ms.
    limits.step_max_items = 400_000;
    // 14k units take 1 ms.
    limits.step_lexer_fuel = 1_000_000;
}

/// Walks a little of the way in several directions: a limit is better met before an answer begins than in it.
pub(super) fn probe(matcher: &Matcher) -> Result<(), String> {
    let (begin, mut random) = (Instant::now(), 1usize);
    for _ in 0..PROBES {
        let mut matcher = matcher.clone();
        for _ in 0..PROBE_TOKENS {
            if begin.elapsed() > PROBE_TIME {
                return Ok(());
            }
            let mask = match matcher.compute_mask_or_eos().map_err(|e| e.to_string()) {
                // A dead end is no limit.
                Err(e) if e.starts_with(NO_TEXT) => break,
                mask => mask?,
            };
            // As good as random, and the same each time.
            random = random.wrapping_mul(75).wrapping_add(74) % 65537;
            let Some(token) = mask.iter().nth(random % mask.num_set().max(1)) else {
                break;
            };
            matcher.consume_token(token).map_err(|e| e.to_string())?;
            if matcher.is_stopped() {
                break;
            }
        }
    }
    Ok(())
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
        GrammarSpec::ToolCalls { tools, answer, .. } => {
            json("list of tools", tools)?;
            answer.as_deref().map_or(Ok(()), check)
        }
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
    let found = most_properties(value);
    if found > MOST_PROPERTIES {
        return Err(ConstrainError::TooLarge {
            what,
            found,
            unit: "properties in one object",
            most: MOST_PROPERTIES,
        });
    }
    text(what, &value.to_string())
}

/// Properties of the widest object.
fn most_properties(value: &Value) -> usize {
    let (mut most, mut open) = (0, vec![value]);
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(map) => {
                let properties = map.get("properties").and_then(Value::as_object);
                most = most.max(properties.map_or(0, |properties| properties.len()));
                open.extend(map.values());
            }
            _ => {}
        }
    }
    most
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
