//! The HTTP side of the server: sockets, keys, limits, and one handler per endpoint.
//!
//! Handlers convert with [`super::api`] off the async threads, send commands to the engine thread and pass its events
//! on. A client that leaves drops the handler or the stream, and with it the receiver: that is how work is cancelled.

mod assets;
mod chat;
mod completions;
mod config;
mod connections;
mod cors;
mod embeddings;
mod flow;
mod gate;
mod generate;
mod keys;
mod listen;
mod model;
pub mod openapi;
mod origin;
mod panics;
mod patience;
mod reply;
mod routes;
mod slots;
mod state;
mod status;
mod stream;
mod text;

pub use config::{Limits, ServerConfig, TemplateChoice};
pub use keys::Keys;
pub use listen::{ServeError, Server, serve};
