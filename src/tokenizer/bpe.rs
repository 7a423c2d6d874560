//! Byte-pair encoding with merges from the file, on the `tokenizers` library.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab as IdByText};

use crate::gguf::{GgufString, Metadata};

use super::error::{TokenizerError, shown};
use super::pre::{PreRule, Splitter, Symbols};
use super::spaces;
use super::text::characters;
use super::vocab::{self, TokenType, Vocab};

const MERGES: &str = "tokenizer.ggml.merges";

/// Longer words are rare: they are merged anew each time.
const CACHED_WORD_BYTES: usize = 48;
/// Bound on the words remembered within one text.
const CACHED_WORDS: usize = 1 << 16;

/// A vocabulary whose merges are listed.
#[derive(Debug)]
pub(super) struct Bpe {
    model: BPE,
    splitter: Splitter,
    symbols: Symbols,
    ignore_merges: bool,
    alphabet: [char; 256],
}

impl Bpe {
    pub fn new(md: &Metadata, vocab: &Vocab, rule: &PreRule) -> Result<Self, TokenizerError> {
        let ids = index(vocab)?;
        let merges = read_merges(md.require_string_array(MERGES)?, &ids)?;
        let alphabet = byte_alphabet();
        if rule.symbols == Symbols::Bytes {
            let missing = alphabet
                .iter()
                .filter(|char| !ids.contains_key(&*char.encode_utf8(&mut [0; 4])))
                .count();
            if missing > 0 {
                tracing::warn!(
                    missing,
                    "the vocabulary lacks tokens for some bytes: they are dropped from prompts"
                );
            }
        }
        let model = BpeBuilder::new()
            .vocab_and_merges(ids, merges)
            // The library's cache lives as long as the thread; ours lives as long as a text.
            .cache_capacity(0)
            .byte_fallback(rule.symbols != Symbols::Bytes)
            .build()
            .map_err(|error| TokenizerError::Build {
                reason: error.to_string(),
            })?;
        Ok(Self {
            model,
            splitter: Splitter::new(rule)?,
            symbols: rule.symbols,
            ignore_merges: rule.ignore_merges,
            alphabet,
        })
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        self.model.token_to_id(text)
    }

    /// Appends the ids of a text without special tokens; what is not UTF-8 in it becomes U+FFFD.
    pub fn encode(&self, text: &[u8], types: &[TokenType], out: &mut Vec<u32>) {
        let escaped;
        let text = match self.symbols {
            Symbols::Bytes => characters(text),
            Symbols::Chars { .. } => {
                escaped = spaces::escape(text, false);
                characters(&escaped)
            }
        };
        let text = text.as_ref();
        // Words repeat: remember where in `out` each was encoded first.
        let mut known: HashMap<&str, (usize, usize)> = HashMap::new();
        let mut symbols = String::new();
        self.splitter.split(text, &mut |word| {
            if let Some(&(start, end)) = known.get(word) {
                out.extend_from_within(start..end);
                return;
            }
            let start = out.len();
            self.encode_word(word, types, &mut symbols, out);
            if word.len() <= CACHED_WORD_BYTES && known.len() < CACHED_WORDS {
                known.insert(word, (start, out.len()));
            }
        });
    }

    fn encode_word(
        &self,
        word: &str,
        types: &[TokenType],
        symbols: &mut String,
        out: &mut Vec<u32>,
    ) {
        let word = match self.symbols {
            Symbols::Chars { .. } => word,
            Symbols::Bytes => {
                symbols.clear();
                symbols.extend(word.bytes().map(|byte| self.alphabet[usize::from(byte)]));
                symbols.as_str()
            }
        };
        let newlines = self.symbols
            == Symbols::Chars {
                whole_newlines: true,
            }
            && word.bytes().all(|byte| byte == b'\n');
        if (self.ignore_merges || newlines)
            && let Some(id) = self.id(word)
            // Text must not become structure.
            && !matches!(types[id as usize], TokenType::Control | TokenType::Unknown)
        {
            out.push(id);
            return;
        }
        // Fails only for an unknown token outside the vocabulary; none is set.
        let tokens = self.model.tokenize(word).unwrap_or_default();
        out.extend(tokens.iter().map(|token| token.id));
    }
}

/// Ids by text; empty texts are left out, they can never be met.
pub(super) fn index(vocab: &Vocab) -> Result<IdByText, TokenizerError> {
    let mut ids = IdByText::with_capacity(vocab.len());
    for (id, text) in vocab.iter() {
        if let Some(first) = ids.insert(text.to_owned(), id) {
            return Err(TokenizerError::DuplicatePiece {
                piece: shown(text),
                first,
                second: id,
            });
        }
    }
    Ok(ids)
}

/// Splits the merges and checks that both parts and the whole are tokens, so that the library cannot fail on them.
fn read_merges(
    merges: &[GgufString],
    ids: &IdByText,
) -> Result<Vec<(String, String)>, TokenizerError> {
    let mut whole = String::new();
    let mut pairs = Vec::with_capacity(merges.len());
    for (index, merge) in merges.iter().enumerate() {
        let merge = vocab::utf8(MERGES, index, merge)?;
        // A piece may start with a space, so the one between the pieces is never the first character.
        let split = merge.char_indices().skip(1).find(|(_, char)| *char == ' ');
        let (left, right) = match split {
            Some((at, _)) if at + 1 < merge.len() => (&merge[..at], &merge[at + 1..]),
            _ => {
                return Err(TokenizerError::MergeSyntax {
                    index,
                    merge: shown(merge),
                });
            }
        };
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        for piece in [left, right, whole.as_str()] {
            if !ids.contains_key(piece) {
                return Err(TokenizerError::MergePiece {
                    index,
                    merge: shown(merge),
                    piece: shown(piece),
                });
            }
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}

/// The printable character that stands for each byte (GPT-2): itself where it is printable Latin-1 and not a
/// space, else the next free one from U+0100 on.
pub(super) fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        printable @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) => char::from(printable),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    })
}

/// The bytes a byte-level token stands for. A text with a character outside the alphabet stands for itself.
pub(super) fn decode_bytes(text: &str, byte_of: &HashMap<char, u8>) -> Vec<u8> {
    text.chars()
        .map(|char| byte_of.get(&char).copied())
        .collect::<Option<_>>()
        .unwrap_or_else(|| text.as_bytes().to_vec())
}
