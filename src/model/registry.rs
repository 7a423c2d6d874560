//! The table of architectures and what each must provide.

use std::path::Path;

use super::LoadError;
use super::arch::{bailing_hybrid, bailingmoe2, deepseek2, llama, qwen2, qwen3, qwen3moe};
use super::loader::Loader;
use super::step::Step;
use crate::ggml::{GraphError, Tensor};
use crate::gguf::Gguf;
use crate::memory::MemorySpec;

/// All architectures that run. One line each.
pub const ARCHITECTURES: &[Architecture] = &[
    bailing_hybrid::ARCHITECTURE,
    bailingmoe2::ARCHITECTURE,
    deepseek2::ARCHITECTURE,
    llama::ARCHITECTURE,
    qwen2::ARCHITECTURE,
    qwen3::ARCHITECTURE,
    qwen3moe::ARCHITECTURE,
];

/// Architectures people will try that do not run, with what they are.
const KNOWN_OTHERS: &[(&str, &str)] = &[
    (
        "bailingmoe2.5",
        "a Ling-2.5/2.6 file of another converter (slopes baked in by an outdated formula, fused kv_b, other names); \
         convert the model to `bailing_hybrid` instead",
    ),
    (
        "bailingmoe3",
        "Ling 3.0 (KDA layers with short convolutions), another family than Ling 2.6",
    ),
    (
        "bailing_hybrid_mtp",
        "a name one fork uses inside its process; files carry `bailing_hybrid`",
    ),
];

/// One architecture.
pub struct Architecture {
    /// `general.architecture` of its files and prefix of its keys.
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// Reads the main sizes and checks every hyper-parameter.
    pub sizes: fn(&Gguf) -> Result<Sizes, LoadError>,
    /// Names every tensor and memory the network needs.
    pub load: LoadFn,
}

/// Loads a network: reads hyper-parameters, names tensors, asks for memory.
pub type LoadFn =
    fn(&Gguf, &mut Loader<'_>, &mut MemorySpec) -> Result<Box<dyn Network>, LoadError>;

/// Main sizes of a model.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Blocks of the trunk.
    pub n_layer: u32,
    /// MTP blocks the file announces.
    pub n_mtp: u32,
    /// Context length of training.
    pub n_ctx_train: u32,
}

/// Results of a step: `{n_vocab, outputs}` each, if wanted.
#[derive(Default)]
pub struct Outputs<'g> {
    /// Logits of the next token.
    pub logits: Option<Tensor<'g>>,
    /// The MTP head's logits of the token after the next, where the head ran: for token `t` of the sequence, its
    /// prediction of token `t + 1` from the hidden state of token `t - 1`.
    pub mtp_logits: Option<Tensor<'g>>,
    /// Hidden states after the final norm, `{n_embd, outputs}`, of steps that want these instead of logits.
    pub hidden: Option<Tensor<'g>>,
}

/// A network: immutable after loading, builds the graph of any step.
pub trait Network: Send + Sync {
    /// Whether an MTP head is loaded.
    fn has_mtp(&self) -> bool;

    /// Builds one step. Memory writes go into the graph through [`Step`].
    fn build<'g>(&self, s: &Step<'g, '_>) -> Result<Outputs<'g>, GraphError>;

    /// Builds one guess of the MTP head for each token, without the trunk; its logits are those of the next token.
    fn draft<'g>(&self, _: &Step<'g, '_>) -> Result<Outputs<'g>, GraphError> {
        Err(GraphError::Alloc {
            what: "drafts of a model without an MTP head",
        })
    }
}

/// Finds the architecture of a file.
pub fn architecture_of(gguf: &Gguf, path: &Path) -> Result<&'static Architecture, LoadError> {
    let name = gguf.metadata().require_str("general.architecture");
    let name = name.map_err(|source| LoadError::Metadata {
        path: path.to_owned(),
        source,
    })?;
    ARCHITECTURES
        .iter()
        .find(|a| a.name == name)
        .ok_or_else(|| LoadError::Architecture {
            path: path.to_owned(),
            arch: name.to_owned(),
            about: KNOWN_OTHERS
                .iter()
                .find(|(other, _)| *other == name)
                .map(|(_, about)| format!(": {about}"))
                .unwrap_or_default(),
            supported: ARCHITECTURES
                .iter()
                .map(|a| a.name)
                .collect::<Vec<_>>()
                .join(", "),
        })
}
