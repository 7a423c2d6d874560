//! What an architecture asks of a checkpoint: tensors of the new file, and what each is made from.

#![forbid(unsafe_code)]

use std::fmt;

/// A tensor of the new file.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Name in the new file.
    pub name: String,
    /// Shape in ggml's order, row length first. For experts that become planes this is the shape of the weights.
    pub ne: Vec<u64>,
    pub class: Class,
    pub recipe: Recipe,
}

/// What a tensor is, which decides its type and how errors are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Token embedding.
    Embedding,
    /// Output matrix.
    Output,
    /// Weights of norms.
    Norm,
    /// Router matrix and bias.
    Router,
    /// Matrices of attention, linear or not.
    Attention,
    /// Feed-forward of blocks without experts.
    Dense,
    /// Shared expert.
    Shared,
    /// Routed experts.
    Expert(Projection),
    /// The matrix that joins embedding and hidden state in front of an MTP block.
    Mtp,
}

/// One of an expert's three matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    /// Model width to expert width, through the activation function.
    Gate,
    /// Model width to expert width.
    Up,
    /// Expert width to model width.
    Down,
}

impl Projection {
    /// As in tensor names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::Output => f.write_str("output"),
            Self::Norm => f.write_str("norms"),
            Self::Router => f.write_str("router"),
            Self::Attention => f.write_str("attention"),
            Self::Dense => f.write_str("dense feed-forward"),
            Self::Shared => f.write_str("shared expert"),
            Self::Expert(p) => write!(f, "experts, {}", p.name()),
            Self::Mtp => f.write_str("MTP projection"),
        }
    }
}

/// How a tensor is made from those of the checkpoint. A base is a name without `.weight` and the like.
#[derive(Debug, Clone)]
pub(super) enum Recipe {
    /// One matrix as it is.
    Matrix { base: String },
    /// One vector as it is, under the first of these full names that exists.
    Vector { names: Vec<String> },
    /// The keys' or the values' part of a matrix `[n_head * (nope + v_dim), latent]`. The keys' part is transposed
    /// head by head.
    Heads {
        base: String,
        n_head: u32,
        nope: u32,
        v_dim: u32,
        keys: bool,
    },
    /// All experts in one tensor, or each in one of its own.
    Experts { stacked: String, each: Vec<String> },
}
