//! `oxling serve`: an OpenAI-compatible server over one engine.
//!
//! One thread owns the engine and all slots ([`worker`]); HTTP workers do JSON, templates and tokenising ([`http`]);
//! between them pass the typed messages of [`protocol`].

#![forbid(unsafe_code)]

pub mod api;
pub mod http;
pub mod metrics;
pub mod page;
pub mod protocol;
pub mod status;
pub mod worker;
