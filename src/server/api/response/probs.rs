//! Log probabilities in their three JSON forms.

use serde_json::{Map, Value, json};

use crate::engine::sampling::{LogProbs, TokenLogProb};
use crate::tokenizer::Tokenizer;

/// JSON has no infinity; llama-server writes the smallest f32.
fn number(logprob: f32) -> f64 {
    f64::from(logprob.max(f32::MIN))
}

fn text(tokenizer: &Tokenizer, token: u32) -> String {
    String::from_utf8_lossy(tokenizer.token_bytes(token)).into_owned()
}

/// How probabilities are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// `logprob`, `top_logprobs`.
    Log,
    /// `prob`, `top_probs`: those after the sampling chain.
    Plain,
}

fn entry(
    tokenizer: &Tokenizer,
    item: TokenLogProb,
    scale: Scale,
    with_id: bool,
) -> Map<String, Value> {
    let mut entry = Map::new();
    if with_id {
        entry.insert("id".to_owned(), item.token.into());
    }
    entry.insert("token".to_owned(), text(tokenizer, item.token).into());
    entry.insert("bytes".to_owned(), tokenizer.token_bytes(item.token).into());
    match scale {
        Scale::Log => entry.insert("logprob".to_owned(), number(item.logprob).into()),
        Scale::Plain => entry.insert("prob".to_owned(), f64::from(item.logprob.exp()).into()),
    };
    entry
}

/// One token with its alternatives: of llama-server's `completion_probabilities` (with ids) and of OpenAI's
/// `logprobs.content`.
pub fn token(tokenizer: &Tokenizer, probs: &LogProbs, scale: Scale, with_id: bool) -> Value {
    let mut value = entry(tokenizer, probs.chosen, scale, with_id);
    let top: Vec<Value> = probs
        .top
        .iter()
        .map(|&item| entry(tokenizer, item, scale, with_id).into())
        .collect();
    let name = match scale {
        Scale::Log => "top_logprobs",
        Scale::Plain => "top_probs",
    };
    value.insert(name.to_owned(), top.into());
    value.into()
}

/// `logprobs` of OpenAI's completions: lists beside each other, with llama-server's `content` as well. `offset` is
/// where the first token's text begins.
pub fn completion(tokenizer: &Tokenizer, all: &[LogProbs], mut offset: usize) -> Value {
    let (mut tokens, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    for probs in all {
        let shown = text(tokenizer, probs.chosen.token);
        offsets.push(offset);
        offset += shown.chars().count();
        tokens.push(shown);
        logprobs.push(number(probs.chosen.logprob));
        let top: Map<String, Value> = probs
            .top
            .iter()
            .map(|item| (text(tokenizer, item.token), number(item.logprob).into()))
            .collect();
        tops.push(top);
    }
    let content: Vec<Value> = all
        .iter()
        .map(|probs| token(tokenizer, probs, Scale::Log, true))
        .collect();
    json!({
        "tokens": tokens,
        "token_logprobs": logprobs,
        "top_logprobs": tops,
        "text_offset": offsets,
        "content": content,
    })
}
