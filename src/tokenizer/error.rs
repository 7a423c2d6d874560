//! What can be wrong with the tokenizer keys of a file.

#![forbid(unsafe_code)]

use crate::gguf::MetadataError;

use super::pre;

/// The tokenizer keys of a file cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TokenizerError {
    /// A key is missing or of another type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// `tokenizer.ggml.model` names a kind of tokenizer that is not implemented.
    #[error("tokenizer model {found} is not supported, supported are {supported}")]
    UnsupportedModel {
        /// The value in the file.
        found: String,
        /// The kinds that work.
        supported: &'static str,
    },
    /// `tokenizer.ggml.pre` names a split rule that is not in the table.
    #[error("unknown pre-tokenizer {found} in `tokenizer.ggml.pre`")]
    UnknownPre {
        /// The value in the file.
        found: String,
    },
    /// Arrays that describe the same tokens differ in length, or there are no tokens.
    #[error("`{key}` has {found} elements, expected {expected}")]
    Length {
        /// The key.
        key: &'static str,
        /// Elements needed.
        expected: String,
        /// Elements found.
        found: usize,
    },
    /// A token or a merge is not UTF-8.
    #[error("`{key}`: element {index} is not UTF-8")]
    NotUtf8 {
        /// The key.
        key: &'static str,
        /// Position in the array.
        index: usize,
    },
    /// Two ids share one text, so that encoding would be ambiguous.
    #[error("`tokenizer.ggml.tokens`: {first} and {second} are both {piece}")]
    DuplicatePiece {
        /// The text.
        piece: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// A byte token is not written `<0xNN>`.
    #[error(
        "`tokenizer.ggml.tokens`: {index} is a byte token but its text is {piece}, expected the form `<0x0A>`"
    )]
    ByteToken {
        /// The id.
        index: usize,
        /// The text.
        piece: String,
    },
    /// A score has no place in an order.
    #[error("`tokenizer.ggml.scores`: element {index} is not a number")]
    Score {
        /// The id.
        index: usize,
    },
    /// A special token's id is outside the vocabulary.
    #[error("`{key}` is {id}, but the vocabulary ends at {last}")]
    IdOutOfRange {
        /// The key.
        key: &'static str,
        /// The id in the file.
        id: u32,
        /// The highest id.
        last: usize,
    },
    /// A merge is not two pieces with a space between.
    #[error(
        "`tokenizer.ggml.merges`: element {index} is {merge}, expected two pieces with a space between"
    )]
    MergeSyntax {
        /// Position in the array.
        index: usize,
        /// The element.
        merge: String,
    },
    /// A merge uses or makes a piece that is no token.
    #[error(
        "`tokenizer.ggml.merges`: element {index} ({merge}) needs the token {piece}, which is not in the vocabulary"
    )]
    MergePiece {
        /// Position in the array.
        index: usize,
        /// The element.
        merge: String,
        /// The missing token.
        piece: String,
    },
    /// Text outside the vocabulary could not be encoded at all.
    #[error(
        "the vocabulary has {found} of 256 byte tokens and no unknown token: some texts have no encoding"
    )]
    NoFallback {
        /// Byte tokens present.
        found: usize,
    },
    /// The library refused the vocabulary.
    #[error("the tokenizer cannot be built: {reason}")]
    Build {
        /// Its message.
        reason: String,
    },
}

/// A text from a file for a message: quoted, on one line, and cut where it is long.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        None => format!("{text:?}"),
        Some((cut, _)) => format!("{:?}...", &text[..cut]),
    }
}

impl TokenizerError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Metadata(error) => error.hint(),
            Self::UnknownPre { .. } => {
                let known: Vec<&str> = pre::known_names().collect();
                Some(format!(
                    "known are {}; if the model splits text like one of these, set it with \
                     `--override-kv tokenizer.ggml.pre=str:NAME`",
                    known.join(", ")
                ))
            }
            Self::UnsupportedModel { .. } | Self::Build { .. } => None,
            _ => Some(
                "the file is damaged or was converted wrongly: convert the model again".to_owned(),
            ),
        }
    }
}
