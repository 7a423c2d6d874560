//! Compiles ggml from its registry package; see build/mod.rs for the parts.

#[path = "build/mod.rs"]
mod build;

fn main() {
    if let Err(message) = build::run() {
        eprintln!("ggml-sys: {message}");
        std::process::exit(1);
    }
}
