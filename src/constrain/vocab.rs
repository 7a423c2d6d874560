//! The vocabulary as a tree of bytes, in which masks are computed.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use super::ConstrainError;
use crate::tokenizer::{TokenType, Tokenizer};

/// Longer tokens than the tree can hold are never allowed while something is constrained.
const MOST_BYTES: usize = 1000;
/// Most tokens and nodes that the tree's fields can count.
const MOST_TOKENS: usize = 1 << 23;
const MOST_NODES: usize = 1 << 22;
/// White space between a thought and a constrained answer is at most this long.
pub(super) const MOST_SPACE: usize = 8;

/// What all constraints of a model share.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Tokens of nothing but a little white space.
    pub(super) spaces: Vec<u32>,
    /// Tokens that stand for the same bytes as another one, which is the one in the tree: (this, that).
    pub(super) twins: Vec<(u32, u32)>,
}

/// The bytes a token brings to an answer; a marker and its text for one that shows none, empty for one that can come
/// in no text.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    let shown = matches!(
        tokenizer.token_type(id),
        Some(TokenType::Normal | TokenType::UserDefined | TokenType::Byte)
    ) && !tokenizer.is_eog(id);
    let marker = TokTrie::SPECIAL_TOKEN_MARKER;
    // The marker is no byte of UTF-8, so no text needs it.
    if bytes.is_empty() || bytes.len() > MOST_BYTES || bytes.contains(&marker) {
        Vec::new()
    } else if shown {
        bytes.to_vec()
    } else {
        [&[marker], bytes].concat()
    }
}

/// Number of nodes of a tree of these words.
fn n_nodes(words: &[Vec<u8>]) -> usize {
    let mut sorted: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    sorted.sort_unstable();
    let shared = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let new = |pair: &[&[u8]]| pair[1].len() - shared(pair[0], pair[1]);
    1 + sorted.first().map_or(0, |w| w.len()) + sorted.windows(2).map(new).sum::<usize>()
}

/// Builds the tree.
pub(super) fn build(tokenizer: &Arc<Tokenizer>) -> Result<(TokEnv, Vocabulary), ConstrainError> {
    let refuse = |reason: String| Err(ConstrainError::Vocabulary { reason });
    let n_vocab = tokenizer.n_vocab();
    if n_vocab == 0 || n_vocab >= MOST_TOKENS {
        return refuse(format!("it has {n_vocab} tokens"));
    }
    if tokenizer.eog().is_empty() {
        return refuse("no token ends a text".to_owned());
    }
    let words: Vec<Vec<u8>> = (0..n_vocab as u32).map(|id| word(tokenizer, id)).collect();
    let nodes = n_nodes(&words);
    if nodes >= MOST_NODES {
        return refuse(format!(
            "its tree has {nodes} nodes, at most {MOST_NODES} can be"
        ));
    }
    let info = TokRxInfo::new(n_vocab as u32, tokenizer.eog()[0]);
    let trie = TokTrie::from(&info, &words).with_eos_tokens(tokenizer.eog());
    let mut first: HashMap<&[u8], u32> = HashMap::new();
    let mut twins = Vec::new();
    // The tree keeps the last of several tokens with the same bytes.
    for (id, word) in words.iter().enumerate().rev() {
        if word.is_empty() {
            continue;
        }
        match first.get(word.as_slice()) {
            Some(&kept) => twins.push((id as u32, kept)),
            None => {
                first.insert(word, id as u32);
            }
        }
    }
    let is_space = |word: &Vec<u8>| {
        (1..=MOST_SPACE).contains(&word.len()) && word.iter().all(u8::is_ascii_whitespace)
    };
    let spaces = (0..n_vocab as u32)
        .filter(|&id| is_space(&words[id as usize]))
        .collect();
    // Forced text is not tokenized for the model: any split of it is allowed, and the model's own is the likeliest.
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    Ok((
        env,
        Vocabulary {
            tokenizer: Arc::clone(tokenizer),
            spaces,
            twins,
        },
    ))
}
