//! Building blocks that architectures share. Each is the weights it needs and a function of a [`Step`](super::step::Step).

pub mod decoder;
pub mod experts;
pub mod ffn;
pub mod ffn_layers;
pub mod gqa;
pub mod gqa_decoder;
pub mod lightning;
pub mod linear;
pub mod mla;
pub mod moe;
pub mod moe_keys;
pub mod rope;
pub mod rotation;
