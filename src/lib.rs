//! oxling: a GGUF runtime for large hybrid-attention MoE models, on ggml.
//!
//! Layers, from the bottom: [`ggml`] and [`gguf`] and [`tokenizer`]; [`memory`] and [`model`]; [`engine`] and
//! [`chat`]; the command line. Each knows only what lies below it. ARCHITECTURE.md states the invariants.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod bench;
pub mod chat;
pub mod constrain;
pub mod convert;
pub mod engine;
pub mod eval;
#[allow(unsafe_code, reason = "the layer over the C library")]
pub mod ggml;
pub mod gguf;
pub mod hub;
pub mod imatrix;
pub mod import;
#[allow(unsafe_code, reason = "kernels read weights where they lie")]
pub mod kernels;
pub mod memory;
pub mod model;
pub mod planes;
mod positioned;
pub mod publish;
pub mod quantize;
pub mod server;
pub mod synth;
pub mod tokenizer;
