//! The kernels and their tests, without the rest of the library.

#[path = "../../src/kernels/mod.rs"]
pub mod kernels;
