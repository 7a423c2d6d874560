//! Raw bindings to ggml, and the static library itself.
//!
//! Nothing here is safe; `oxling::ggml` is the safe layer. Bindings of every backend are declared on every
//! platform, but only those of the backends in [`BUILD_INFO`] link.

#[rustfmt::skip]
mod bindings;

pub use bindings::*;

/// Version of ggml that the library was built from, such as `0.26.0`.
pub const GGML_VERSION: &str = env!("GGML_SYS_VERSION");

/// Where the source came from: the registry package and its version, or `GGML_SRC_DIR`.
pub const GGML_COMMIT: &str = env!("GGML_SYS_COMMIT");

/// The backends in this build and the compiler flags of the CPU backend, for people.
pub const BUILD_INFO: &str = env!("GGML_SYS_BUILD_INFO");

/// The licence of ggml and llama.cpp (MIT).
pub const LICENSE: &str = include_str!(concat!(env!("OUT_DIR"), "/LICENSE"));
