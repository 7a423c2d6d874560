//! Text to token ids and back, built from the `tokenizer.ggml.*` keys of a file and nothing else.
//!
//! Two kinds: byte-pair encoding with listed merges (`gpt2`, `gemma4`) and SentencePiece scores (`llama`).
//! Decoding works on bytes, because a token may hold half a character; [`Utf8Stream`] turns bytes into text.
//!
//! This module knows the tokenizer keys of a file. It does not know models, prompts or chats.

#![forbid(unsafe_code)]

mod bpe;
mod error;
mod newer;
mod pre;
mod spaces;
mod special;
mod spm;
mod stream;
mod text;
mod vocab;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use crate::gguf::Metadata;

pub use error::TokenizerError;
pub use pre::names as pre_names;
pub use special::SpecialIds;
pub use stream::{StreamDecoder, Utf8Stream};
pub use vocab::TokenType;

use error::shown;
use pre::Symbols;
use special::{Part, SpecialFinder, Strip};
use vocab::{Arena, Vocab};

const SUPPORTED_MODELS: &str = "`gpt2` (byte-level BPE), `llama` (SentencePiece) and `gemma4`";

/// What [`Tokenizer::encode`] does beside splitting text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncodeOptions {
    /// Add the start and end tokens that the file asks for.
    pub add_special: bool,
    /// Read the text of control tokens as these tokens. Wanted for a rendered chat template; never for text that
    /// a user typed.
    pub parse_special: bool,
}

/// The tokenizer of a model. Immutable: share it in an [`Arc`].
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    /// Bytes of each token, as text comes out.
    pieces: Arena,
    model: Model,
    pre: String,
    ids: SpecialIds,
    eog: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    /// All special tokens: control, unknown and user-defined.
    special: SpecialFinder,
    /// User-defined tokens only, which are taken whole from any text.
    user_defined: SpecialFinder,
}

#[derive(Debug)]
enum Model {
    Bpe(Box<bpe::Bpe>),
    Spm(Box<spm::Spm>),
}

impl Model {
    fn id(&self, text: &str) -> Option<u32> {
        match self {
            Self::Bpe(bpe) => bpe.id(text),
            Self::Spm(spm) => spm.id(text),
        }
    }
}

impl Tokenizer {
    /// Builds the tokenizer of a file.
    ///
    /// # Errors
    /// A kind or a split rule that is not implemented, or keys that are missing or contradict each other.
    pub fn from_metadata(md: &Metadata) -> Result<Self, TokenizerError> {
        let mut vocab = Vocab::read(md)?;
        let kind = md.require_str("tokenizer.ggml.model")?;
        let (model, pre, symbols, add_bos, defaults) = match kind {
            "gpt2" | "gemma4" => {
                let pre = if kind == "gemma4" {
                    kind
                } else {
                    pre_name(md)?
                };
                let rule = pre::find(pre)?;
                let model = Box::new(bpe::Bpe::new(md, &vocab, rule)?);
                (
                    Model::Bpe(model),
                    pre,
                    rule.symbols,
                    rule.add_bos,
                    SpecialIds::default(),
                )
            }
            "llama" => {
                let defaults = SpecialIds {
                    unk: Some(0),
                    bos: Some(1),
                    eos: Some(2),
                    ..SpecialIds::default()
                };
                let symbols = Symbols::Chars {
                    whole_newlines: false,
                };
                (
                    Model::Spm(Box::new(spm::Spm::new(md, &vocab)?)),
                    "llama",
                    symbols,
                    true,
                    defaults,
                )
            }
            other => {
                return Err(TokenizerError::UnsupportedModel {
                    found: shown(other),
                    supported: SUPPORTED_MODELS,
                });
            }
        };
        let (ids, eog) = special::read(md, &mut vocab, defaults, &|text| model.id(text))?;
        if let Model::Spm(spm) = &model
            && spm.n_bytes() < 256
            && ids.unk.is_none()
        {
            return Err(TokenizerError::NoFallback {
                found: spm.n_bytes(),
            });
        }
        let strip = Strip::read(md)?;
        // Files of Gemma 4 say no, yet the model needs it.
        let forced_bos = symbols
            == Symbols::Chars {
                whole_newlines: true,
            };
        let add_bos = forced_bos || md.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
        let add_eos = md.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        if (add_bos && ids.bos.is_none()) || (add_eos && ids.eos.is_none()) {
            tracing::warn!(
                "the tokenizer adds a start or end token to a text, but the file does not say which"
            );
        }
        Ok(Self {
            pieces: decode_all(&vocab, symbols)?,
            special: SpecialFinder::new(
                &vocab,
                &[
                    TokenType::Control,
                    TokenType::Unknown,
                    TokenType::UserDefined,
                ],
                strip,
            ),
            user_defined: SpecialFinder::new(&vocab, &[TokenType::UserDefined], strip),
            pre: pre.to_owned(),
            vocab,
            model,
            ids,
            eog,
            add_bos,
            add_eos,
        })
    }

    /// Number of tokens.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The pre-tokenizer rule; `llama` for SentencePiece vocabularies, which have none.
    pub fn pre(&self) -> &str {
        &self.pre
    }

    /// Name of the kind: `BPE` or `SPM`.
    pub fn kind(&self) -> &'static str {
        match self.model {
            Model::Bpe(_) => "BPE",
            Model::Spm(_) => "SPM",
        }
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        self.encode_bytes(text.as_bytes(), options)
    }

    /// The ids of a text that may hold bytes that are not UTF-8. A SentencePiece vocabulary has tokens for them;
    /// in others each becomes U+FFFD.
    pub fn encode_bytes(&self, text: &[u8], options: EncodeOptions) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 4 + 2);
        if options.add_special && self.add_bos {
            out.extend(self.ids.bos);
        }
        let finder = if options.parse_special {
            &self.special
        } else {
            &self.user_defined
        };
        let mut after_special = true;
        for part in finder.split(text) {
            after_special = match part {
                Part::Token(id) => {
                    out.push(id);
                    true
                }
                Part::Text(text) => {
                    self.encode_text(text, after_special, &mut out);
                    false
                }
            };
        }
        if options.add_special && self.add_eos {
            out.extend(self.ids.eos);
        }
        out
    }

    /// Appends the ids of a text without special tokens.
    fn encode_text(&self, text: &[u8], after_special: bool, out: &mut Vec<u32>) {
        let types = &self.vocab.types;
        match &self.model {
            Model::Bpe(bpe) => bpe.encode(text, types, out),
            Model::Spm(spm) => spm.encode(text, after_special, types, self.ids.unk, out),
        }
    }

    /// The bytes a token stands for; special tokens give their text. Empty for an id outside the vocabulary,
    /// which a model with padded output rows can produce.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.pieces.get(id as usize).unwrap_or_default()
    }

    /// The text of a token as the file has it, empty for an id outside the vocabulary.
    pub fn token_text(&self, id: u32) -> &str {
        self.vocab.text(id)
    }

    /// The type of a token, None outside the vocabulary.
    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.vocab.token_type(id)
    }

    /// The token with exactly this text as the file has it.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.model.id(text)
    }

    /// Whether the token is structure, not text.
    pub fn is_control(&self, id: u32) -> bool {
        self.token_type(id) == Some(TokenType::Control)
    }

    /// Whether the token is matched as a whole in text: control, unknown or user-defined.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(
            self.token_type(id),
            Some(TokenType::Control | TokenType::Unknown | TokenType::UserDefined)
        )
    }

    /// Whether the token ends a generation.
    pub fn is_eog(&self, id: u32) -> bool {
        self.eog.binary_search(&id).is_ok()
    }

    /// All tokens that end a generation, ascending.
    pub fn eog(&self) -> &[u32] {
        &self.eog
    }

    /// Ids with a special use.
    pub fn special_ids(&self) -> &SpecialIds {
        &self.ids
    }

    /// Start of a text.
    pub fn bos(&self) -> Option<u32> {
        self.ids.bos
    }

    /// End of a text.
    pub fn eos(&self) -> Option<u32> {
        self.ids.eos
    }

    /// End of a turn.
    pub fn eot(&self) -> Option<u32> {
        self.ids.eot
    }

    /// Filler.
    pub fn pad(&self) -> Option<u32> {
        self.ids.pad
    }

    /// Whether [`EncodeOptions::add_special`] puts the start token first.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether [`EncodeOptions::add_special`] puts the end token last.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// The bytes of all tokens, one after another; with `special` those of structure too.
    ///
    /// A SentencePiece vocabulary puts a space before a text: it comes back here, [`Self::detokenize`] removes it.
    pub fn decode(&self, ids: &[u32], special: bool) -> Vec<u8> {
        ids.iter()
            .flat_map(|&id| self.shown_bytes(id, special))
            .copied()
            .collect()
    }

    /// The bytes of a whole encoded text: like [`Self::decode`], without the space that encoding put in front.
    pub fn detokenize(&self, ids: &[u32], special: bool) -> Vec<u8> {
        let n_bos = usize::from(ids.first().is_some_and(|&id| Some(id) == self.ids.bos));
        let (bos, text) = ids.split_at(n_bos);
        let mut bytes = self.decode(bos, special);
        let mut rest = self.decode(text, special);
        let prefixed = matches!(&self.model, Model::Spm(spm) if spm.add_space_prefix)
            && text.first().is_some_and(|&id| !self.is_special(id));
        if prefixed && rest.starts_with(b" ") {
            rest.remove(0);
        }
        bytes.append(&mut rest);
        bytes
    }

    /// A decoder for tokens as they are generated; with `special` it shows structure too.
    pub fn detokenizer(self: &Arc<Self>, special: bool) -> StreamDecoder {
        StreamDecoder::new(Arc::clone(self), special)
    }

    fn shown_bytes(&self, id: u32, special: bool) -> &[u8] {
        let hidden = matches!(
            self.token_type(id),
            Some(TokenType::Control | TokenType::Unknown | TokenType::Unused)
        );
        if hidden && !special {
            &[]
        } else {
            self.token_bytes(id)
        }
    }
}

/// Files made before the key existed name no rule; llama.cpp's default is then the best guess there is.
fn pre_name(md: &Metadata) -> Result<&str, TokenizerError> {
    Ok(md.str("tokenizer.ggml.pre")?.unwrap_or_else(|| {
        tracing::warn!("`tokenizer.ggml.pre` is missing, using `default`: answers may be worse, convert the model again");
        "default"
    }))
}

/// The bytes of every token.
fn decode_all(vocab: &Vocab, symbols: Symbols) -> Result<Arena, TokenizerError> {
    let byte_of: HashMap<char, u8> = bpe::byte_alphabet().into_iter().zip(0..=255).collect();
    let mut pieces = Arena::default();
    for id in 0..vocab.len() as u32 {
        let text = vocab.text(id);
        match (vocab.token_type(id), symbols) {
            (Some(TokenType::Byte), _) => {
                let byte = vocab::byte_of(text).ok_or_else(|| TokenizerError::ByteToken {
                    index: id as usize,
                    piece: shown(text),
                })?;
                pieces.push(&[byte]);
            }
            (Some(TokenType::Normal | TokenType::Unused), Symbols::Bytes) => {
                pieces.push(&bpe::decode_bytes(text, &byte_of))
            }
            (Some(TokenType::Normal | TokenType::Unused), Symbols::Chars { .. }) => {
                pieces.push(spaces::unescape(text).as_bytes())
            }
            _ => pieces.push(text.as_bytes()),
        }
    }
    Ok(pieces)
}
