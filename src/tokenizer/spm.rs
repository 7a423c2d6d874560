//! SentencePiece's merge rule: of all neighbours that together are a token, join the pair whose token has the
//! highest score, the leftmost among equals; repeat.
//!
//! Byte-pair encoding with merges ranked by score is not quite this: a token made of several pairs needs one rank
//! for all of them, and the `tokenizers` library numbers each merge. Working on scores is exact and needs no merges.

#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use tokenizers::models::bpe::Vocab as IdByText;

use crate::gguf::Metadata;

use super::bpe;
use super::error::{TokenizerError, shown};
use super::spaces;
use super::text::symbol_len;
use super::vocab::{self, TokenType, Vocab};

/// A vocabulary whose merges follow from scores.
#[derive(Debug)]
pub(super) struct Spm {
    /// All tokens with a text.
    ids: IdByText,
    scores: Vec<f32>,
    /// The token of each byte.
    bytes: [Option<u32>; 256],
    /// Put a space before text that starts a message or follows a special token.
    pub add_space_prefix: bool,
}

/// A run of characters that is, or may become, a token. Joined ones leave an empty symbol behind.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    prev: usize,
    next: usize,
}

/// "No neighbour" in [`Symbol`].
const NONE: usize = usize::MAX;

/// Two neighbours that together are a token.
#[derive(Debug, Clone, Copy)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both when the pair was seen; another sum means one was joined elsewhere since.
    len: usize,
}

impl Ord for Pair {
    /// Highest score first, then leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl Spm {
    pub fn new(md: &Metadata, vocab: &Vocab) -> Result<Self, TokenizerError> {
        let scores = vocab::read_scores(md, vocab.len())?;
        let mut bytes = [None; 256];
        for id in vocab.ids_of_type(&[TokenType::Byte]) {
            let text = vocab.text(id);
            let byte = vocab::byte_of(text).ok_or_else(|| TokenizerError::ByteToken {
                index: id as usize,
                piece: shown(text),
            })?;
            bytes[usize::from(byte)] = Some(id);
        }
        let add_space_prefix = md.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        Ok(Self {
            ids: bpe::index(vocab)?,
            scores,
            bytes,
            add_space_prefix,
        })
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Number of bytes that have a token.
    pub fn n_bytes(&self) -> usize {
        self.bytes.iter().flatten().count()
    }

    /// The token of a text that merging may use. Control, unknown and byte tokens are no text: a user who types
    /// `</s>` must not end the turn.
    fn text_id(&self, text: &[u8], types: &[TokenType]) -> Option<u32> {
        let text = std::str::from_utf8(text).ok()?;
        self.id(text).filter(|&id| {
            !matches!(
                types[id as usize],
                TokenType::Control | TokenType::Unknown | TokenType::Byte
            )
        })
    }

    /// Appends the ids of a text without special tokens, which need not be UTF-8. `prefix`: it starts a message or
    /// follows a special token.
    pub fn encode(
        &self,
        text: &[u8],
        prefix: bool,
        types: &[TokenType],
        unk: Option<u32>,
        out: &mut Vec<u32>,
    ) {
        let text = spaces::escape(text, prefix && self.add_space_prefix);
        let symbols = self.merge(&text, types);
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let piece = &text[symbol.start..symbol.start + symbol.len];
            if let Some(id) = self.text_id(piece, types) {
                out.push(id);
                continue;
            }
            let bytes: Option<Vec<u32>> = piece
                .iter()
                .map(|&byte| self.bytes[usize::from(byte)])
                .collect();
            match bytes {
                Some(bytes) => out.extend(bytes),
                None => out.extend(unk),
            }
        }
    }

    fn merge(&self, text: &[u8], types: &[TokenType]) -> Vec<Symbol> {
        let mut symbols = symbols_of(text);
        let count = symbols.len();
        let pair = |symbols: &[Symbol], left: usize, right: usize| {
            let (first, second) = (symbols.get(left)?, symbols.get(right)?);
            let len = first.len + second.len;
            let id = self.text_id(&text[first.start..first.start + len], types)?;
            Some(Pair {
                score: self.scores[id as usize],
                left,
                right,
                len,
            })
        };
        let mut queue: BinaryHeap<Pair> = (1..count)
            .filter_map(|right| pair(&symbols, right - 1, right))
            .collect();
        while let Some(Pair {
            left, right, len, ..
        }) = queue.pop()
        {
            let (first, second) = (symbols[left], symbols[right]);
            if first.len == 0 || second.len == 0 || first.len + second.len != len {
                continue;
            }
            symbols[left] = Symbol {
                len,
                next: second.next,
                ..first
            };
            symbols[right].len = 0;
            if let Some(after) = symbols.get_mut(second.next) {
                after.prev = left;
            }
            queue.extend(pair(&symbols, first.prev, left));
            queue.extend(pair(&symbols, left, second.next));
        }
        symbols
    }
}

/// One symbol for each character.
fn symbols_of(text: &[u8]) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    let mut start = 0;
    while start < text.len() {
        let index = symbols.len();
        let len = symbol_len(text[start]).min(text.len() - start);
        symbols.push(Symbol {
            start,
            len,
            prev: index.checked_sub(1).unwrap_or(NONE),
            next: index + 1,
        });
        start += len;
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
}
