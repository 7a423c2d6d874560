//! No constraint, where the interface wants one: calls that cannot be told from text before they are over.

#![forbid(unsafe_code)]

use super::Constrainer;
use crate::engine::sampling::Constraint;

/// Lets everything come next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Free;

impl Constraint for Free {
    fn allows(&mut self, _: u32) -> bool {
        true
    }

    fn mask(&mut self, _: &mut [f32]) {}
}

impl Constrainer for Free {
    fn advance(&mut self, _: u32) -> bool {
        true
    }

    fn is_complete(&self) -> bool {
        false
    }

    fn fork(&self) -> Box<dyn Constrainer> {
        Box::new(*self)
    }
}
