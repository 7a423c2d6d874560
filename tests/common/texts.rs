//! Prompts as tokens, and samplers for them.

use std::borrow::Cow;
use std::sync::Arc;

use oxling::engine::sampling::{Sampler, SamplingParams, VocabView};
use oxling::model::Model;
use oxling::tokenizer::EncodeOptions;

pub fn tokens(model: &Model, text: &str) -> Vec<u32> {
    let options = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    model.tokenizer().encode(text, options)
}

struct Vocab(Model);

impl VocabView for Vocab {
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

/// A sampler that has seen a prompt.
pub fn sampler(model: &Model, params: &SamplingParams, prompt: &[u32]) -> Sampler {
    let vocab: Arc<dyn VocabView> = Arc::new(Vocab(model.clone()));
    let mut sampler = Sampler::new(params, &vocab, 256).expect("good parameters");
    sampler.accept_prompt(prompt);
    sampler
}
