//! The vocabulary of a file: texts and types of all tokens, and which ids have a special use.

#![forbid(unsafe_code)]

use crate::gguf::{GgufString, Metadata};

use super::error::TokenizerError;

/// Key of the token texts.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";

/// What a token is for, as in `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenType {
    /// A piece of text.
    Normal,
    /// Stands for text that has no token.
    Unknown,
    /// Structure, such as the end of a turn. Users cannot type it, and it is not shown.
    Control,
    /// A piece of text that is always taken whole.
    UserDefined,
    /// A place holder.
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
}

impl TokenType {
    /// Values outside the known ones count as normal, as does an absent array.
    fn from_id(id: i32) -> Self {
        match id {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// Strings end to end in one allocation.
#[derive(Debug, Default)]
pub(super) struct Arena {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Arena {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
    }

    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.bytes[start..end])
    }
}

/// Texts and types, indexed by id.
#[derive(Debug)]
pub(super) struct Vocab {
    texts: Arena,
    pub types: Vec<TokenType>,
}

impl Vocab {
    pub fn read(md: &Metadata) -> Result<Self, TokenizerError> {
        let tokens = md.require_string_array(TOKENS)?;
        if tokens.is_empty() || tokens.len() > i32::MAX as usize {
            return Err(TokenizerError::Length {
                key: TOKENS,
                expected: format!("1 to {}", i32::MAX),
                found: tokens.len(),
            });
        }
        let mut texts = Arena::default();
        for (index, token) in tokens.iter().enumerate() {
            utf8(TOKENS, index, token)?;
            texts.push(token.as_bytes());
        }
        let types = match md.i32_array(TYPES)? {
            None => vec![TokenType::Normal; tokens.len()],
            Some(ids) => {
                same_length(TYPES, tokens.len(), ids.len())?;
                ids.into_iter().map(TokenType::from_id).collect()
            }
        };
        Ok(Self { texts, types })
    }

    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// The text of a token as in the file, empty for an id outside the vocabulary.
    pub fn text(&self, id: u32) -> &str {
        // The arena was filled from checked strings, so the conversion cannot fail.
        let bytes = self.texts.get(id as usize).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.types.get(id as usize).copied()
    }

    /// Ids and texts of all tokens that have a text.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..self.len() as u32)
            .map(|id| (id, self.text(id)))
            .filter(|(_, text)| !text.is_empty())
    }

    pub fn ids_of_type(&self, wanted: &[TokenType]) -> impl Iterator<Item = u32> {
        self.types
            .iter()
            .zip(0..)
            .filter(|(kind, _)| wanted.contains(kind))
            .map(|(_, id)| id)
    }
}

/// Scores of all tokens, 0 where the file has none. Minus zero becomes zero, so that both are equal in any order.
pub(super) fn read_scores(md: &Metadata, n_vocab: usize) -> Result<Vec<f32>, TokenizerError> {
    let scores = match md.f32_array(SCORES) {
        Ok(scores) => scores,
        // Old converters wrote integers.
        Err(error) => match md.i32_array(SCORES) {
            Ok(scores) => {
                scores.map(|scores| scores.into_iter().map(|score| score as f32).collect())
            }
            Err(_) => return Err(error.into()),
        },
    };
    let Some(scores) = scores else {
        return Ok(vec![0.0; n_vocab]);
    };
    same_length(SCORES, n_vocab, scores.len())?;
    if let Some(index) = scores.iter().position(|score| score.is_nan()) {
        return Err(TokenizerError::Score { index });
    }
    Ok(scores.into_iter().map(|score| score + 0.0).collect())
}

/// The text of an array element.
pub(super) fn utf8<'a>(
    key: &'static str,
    index: usize,
    text: &'a GgufString,
) -> Result<&'a str, TokenizerError> {
    text.to_str()
        .map_err(|_| TokenizerError::NotUtf8 { key, index })
}

fn same_length(key: &'static str, expected: usize, found: usize) -> Result<(), TokenizerError> {
    if expected == found {
        return Ok(());
    }
    Err(TokenizerError::Length {
        key,
        expected: format!("{expected} as in `{TOKENS}`"),
        found,
    })
}

/// The byte a `<0xNN>` token stands for.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
