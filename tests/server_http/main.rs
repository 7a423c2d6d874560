//! The HTTP side over loopback, with an engine that is played: shapes, streams, errors, keys, cancellation.

#[path = "../common/demo.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod demo;
#[path = "../common/http.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod http;
#[path = "../common/played.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod played;

mod answers;
mod guard;
mod slow;

use oxling::server::http::ServerConfig;
use serde_json::{Value, json};

fn config() -> ServerConfig {
    ServerConfig::default()
}

fn chat(more: Value) -> Value {
    merged(
        json!({ "messages": [{ "role": "user", "content": "Hi" }] }),
        more,
    )
}

fn merged(mut base: Value, more: Value) -> Value {
    if let (Value::Object(base), Value::Object(more)) = (&mut base, more) {
        base.extend(more);
    }
    base
}
