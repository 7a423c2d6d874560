//! The vocabulary of a model, as samplers see it.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::sync::Arc;

use super::sampling::VocabView;
use crate::model::Model;

#[derive(Debug)]
struct ModelVocab(Model);

/// The view of a model's vocabulary that samplers take.
pub fn vocab_of(model: &Model) -> Arc<dyn VocabView> {
    Arc::new(ModelVocab(model.clone()))
}

impl VocabView for ModelVocab {
    fn n_vocab(&self) -> usize {
        self.0.n_vocab() as usize
    }

    fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.0.tokenizer().token_bytes(token))
    }

    fn eog_tokens(&self) -> Cow<'_, [u32]> {
        Cow::Borrowed(self.0.tokenizer().eog())
    }
}
