//! The whole server on the demo model, over loopback: what is reused, who shares it, hostile bodies, mixed traffic.

#[path = "../common/demo.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod demo;
#[path = "../common/http.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod http;
#[path = "../common/played.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod played;
#[path = "../common/server.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod server;

mod calls;
mod conversations;
mod fuzz;
#[cfg(unix)]
mod program;
mod traffic;

use std::sync::Arc;
use std::time::{Duration, Instant};

use oxling::engine::EngineConfig;
use oxling::server::http::ServerConfig;
use oxling::server::worker::WorkerConfig;
use serde_json::{Value, json};

use http::Client;
use played::{Running, serve_with};

/// A server with two slots of this many tokens.
fn live(config: ServerConfig, n_ctx: u32) -> Running {
    live_with(config, n_ctx, server::config().cache_ram)
}

/// As [`live`], with this much memory for prefixes.
fn live_with(config: ServerConfig, n_ctx: u32, cache_ram: u64) -> Running {
    let worker = WorkerConfig {
        cache_ram,
        engine: EngineConfig {
            n_ctx: 2 * n_ctx,
            n_seq: 2,
            ..server::config().engine
        },
        ..server::config()
    };
    let engine = server::Server::start(worker).handle;
    serve_with(config, engine, Arc::default())
}

/// Slots that work.
fn busy(client: &Client) -> usize {
    let slots = client.get("/slots").json();
    let list = slots.as_array().expect("slots").iter();
    list.filter(|slot| slot["is_processing"] == true).count()
}

/// Waits until all slots are idle, which a client that leaves brings about at once.
fn idle_within(client: &Client, most: Duration) {
    let began = Instant::now();
    while busy(client) > 0 {
        assert!(began.elapsed() < most, "a slot still works");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn message(role: &str, text: &str) -> Value {
    json!({ "role": role, "content": text })
}
