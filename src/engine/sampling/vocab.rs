//! What a sampler has to know about the model's vocabulary, and the hook for grammars.

use std::borrow::Cow;

/// The part of a vocabulary that samplers use.
pub trait VocabView: Send + Sync {
    /// Number of tokens, that is logits per row.
    fn n_vocab(&self) -> usize;

    /// Text of a token as bytes, special tokens as their name. Empty for an id out of range.
    fn token_bytes(&self, token: u32) -> Cow<'_, [u8]>;

    /// All tokens that end a generation.
    fn eog_tokens(&self) -> Cow<'_, [u32]>;
}

/// Something that decides which tokens may come next, such as a grammar.
///
/// The sampler asks; feeding accepted tokens to the constraint is the caller's part.
pub trait Constraint {
    /// Whether `token` may come next.
    fn allows(&mut self, token: u32) -> bool;

    /// Sets the logits (indexed by token) of all tokens that may not come next to minus infinity.
    fn mask(&mut self, logits: &mut [f32]);
}
