//! The RPC backend and server: src/ggml-rpc/CMakeLists.txt.
//!
//! RDMA transport, which ggml's CMake turns on where it finds ibverbs, stays off: what a build
//! contains should not depend on a library that happens to be installed.

use super::context::{Backend, Context, Result};

pub const BACKEND: Backend = Backend {
    define: "GGML_USE_RPC",
    build,
};

pub const SOURCES: &[&str] = &["ggml-rpc/ggml-rpc.cpp", "ggml-rpc/transport.cpp"];

fn build(context: &Context) -> Result<String> {
    context.archive("ggml-rpc", SOURCES, context.c(), context.cpp())?;
    if context.target.os == "windows" {
        println!("cargo::rustc-link-lib=ws2_32");
    }
    Ok("RPC".into())
}
