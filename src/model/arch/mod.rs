//! Architectures: one file each, one line in the table of [`super::registry`].

pub mod bailing_hybrid;
pub mod bailingmoe2;
pub mod deepseek2;
pub mod llama;
pub mod qwen2;
pub mod qwen3;
pub mod qwen3moe;
