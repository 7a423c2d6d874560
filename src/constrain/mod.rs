//! Constrained output: what a grammar, a schema or a regular expression lets come next.

#![forbid(unsafe_code)]

use crate::engine::sampling::Constraint;

/// A grammar in progress. `allows` and `mask` speak of the token after all those [`Constrainer::advance`] has seen.
pub trait Constrainer: Constraint + Send + std::fmt::Debug {
    /// Takes a token of the answer. False if the grammar cannot go on, which is a bug of the caller.
    fn advance(&mut self, token: u32) -> bool;

    /// Called when a step of the model begins: a good time to compute the next mask on another thread.
    fn prepare(&mut self) {}

    /// Whether nothing more may follow.
    fn is_complete(&self) -> bool;

    /// The same grammar in the same state, for another choice.
    fn fork(&self) -> Box<dyn Constrainer>;
}
