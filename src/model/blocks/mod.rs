//! Building blocks that architectures share. Each is the weights it needs and a function of a [`Step`](super::step::Step).

pub mod experts;
pub mod ffn;
pub mod lightning;
pub mod mla;
pub mod moe;
pub mod rope;
pub mod rotation;
