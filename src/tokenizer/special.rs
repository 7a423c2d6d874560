//! Ids with a special use, and the search for special tokens in text.

#![forbid(unsafe_code)]

use crate::gguf::Metadata;

use super::error::TokenizerError;
use super::vocab::{TokenType, Vocab};

/// Ids with a special use. None where neither the file nor a well-known text says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Start of a text.
    pub bos: Option<u32>,
    /// End of a text.
    pub eos: Option<u32>,
    /// End of a turn.
    pub eot: Option<u32>,
    /// End of a message that is not the end of a turn.
    pub eom: Option<u32>,
    /// Text without a token.
    pub unk: Option<u32>,
    /// Between two texts.
    pub sep: Option<u32>,
    /// Filler.
    pub pad: Option<u32>,
    /// A place to fill in.
    pub mask: Option<u32>,
    /// Fill in the middle: what comes before.
    pub fim_pre: Option<u32>,
    /// Fill in the middle: what comes after.
    pub fim_suf: Option<u32>,
    /// Fill in the middle: the answer starts.
    pub fim_mid: Option<u32>,
    /// Fill in the middle: filler.
    pub fim_pad: Option<u32>,
    /// Fill in the middle: name of a repository.
    pub fim_rep: Option<u32>,
    /// Fill in the middle: between files.
    pub fim_sep: Option<u32>,
}

type Field = fn(&mut SpecialIds) -> &mut Option<u32>;

/// Where each id comes from: the key that names it, then texts by which it is known if no key does.
/// Older names of a key come first, so that a current one overrides.
const SOURCES: &[(Field, &[&str], &[&str])] = &[
    (|ids| &mut ids.bos, &["tokenizer.ggml.bos_token_id"], &[]),
    (|ids| &mut ids.eos, &["tokenizer.ggml.eos_token_id"], &[]),
    (
        |ids| &mut ids.eot,
        &["tokenizer.ggml.eot_token_id"],
        &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|role_end|>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<\u{FF5C}end\u{2581}of\u{2581}sentence\u{FF5C}>",
            "<end_of_utterance>",
        ],
    ),
    (
        |ids| &mut ids.eom,
        &["tokenizer.ggml.eom_token_id"],
        &["<|eom_id|>"],
    ),
    (
        |ids| &mut ids.unk,
        &["tokenizer.ggml.unknown_token_id"],
        &[],
    ),
    (
        |ids| &mut ids.sep,
        &["tokenizer.ggml.seperator_token_id"],
        &[],
    ),
    (
        |ids| &mut ids.pad,
        &["tokenizer.ggml.padding_token_id"],
        &[],
    ),
    (|ids| &mut ids.mask, &["tokenizer.ggml.mask_token_id"], &[]),
    (
        |ids| &mut ids.fim_pre,
        &[
            "tokenizer.ggml.prefix_token_id",
            "tokenizer.ggml.fim_pre_token_id",
        ],
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<\u{FF5C}fim\u{2581}begin\u{FF5C}>",
            "<PRE>",
            "\u{2581}<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        |ids| &mut ids.fim_suf,
        &[
            "tokenizer.ggml.suffix_token_id",
            "tokenizer.ggml.fim_suf_token_id",
        ],
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<\u{FF5C}fim\u{2581}hole\u{FF5C}>",
            "<SUF>",
            "\u{2581}<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        |ids| &mut ids.fim_mid,
        &[
            "tokenizer.ggml.middle_token_id",
            "tokenizer.ggml.fim_mid_token_id",
        ],
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<\u{FF5C}fim\u{2581}end\u{FF5C}>",
            "<MID>",
            "\u{2581}<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    (
        |ids| &mut ids.fim_pad,
        &["tokenizer.ggml.fim_pad_token_id"],
        &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    ),
    (
        |ids| &mut ids.fim_rep,
        &["tokenizer.ggml.fim_rep_token_id"],
        &[
            "<|fim_repo|>",
            "<|repo_name|>",
            "<fim-repo>",
            "<REPO>",
            "<reponame>",
        ],
    ),
    (
        |ids| &mut ids.fim_sep,
        &["tokenizer.ggml.fim_sep_token_id"],
        &["<|file_sep|>"],
    ),
];

/// Texts that end a generation wherever they are tokens.
const EOG_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|role_end|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\u{FF5C}end\u{2581}of\u{2581}sentence\u{FF5C}>",
    "[e~[",
];

/// Structure that is part of the answer (gpt-oss): shown, though the files call it control.
const SHOWN_TEXTS: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Reads the ids and gathers the tokens that end a generation (ascending). Tokens known by their text become
/// control tokens, whatever type the file gives them.
pub(super) fn read(
    md: &Metadata,
    vocab: &mut Vocab,
    defaults: SpecialIds,
    find: &dyn Fn(&str) -> Option<u32>,
) -> Result<(SpecialIds, Vec<u32>), TokenizerError> {
    let n_vocab = vocab.len();
    let mut ids = defaults;
    for (field, keys, texts) in SOURCES {
        let id = field(&mut ids);
        *id = id.filter(|&id| (id as usize) < n_vocab);
        for key in *keys {
            match md.u32(key)? {
                // Converters write -1 for "none".
                None | Some(u32::MAX) => {}
                Some(found) if (found as usize) < n_vocab => *id = Some(found),
                Some(found) => {
                    return Err(TokenizerError::IdOutOfRange {
                        key,
                        id: found,
                        last: n_vocab - 1,
                    });
                }
            }
        }
        if id.is_none() {
            *id = texts.iter().find_map(|text| find(text));
            if let Some(id) = *id {
                vocab.types[id as usize] = TokenType::Control;
            }
        }
    }
    let eog = end_of_generation(vocab, &ids, find);
    Ok((ids, eog))
}

fn end_of_generation(
    vocab: &mut Vocab,
    ids: &SpecialIds,
    find: &dyn Fn(&str) -> Option<u32>,
) -> Vec<u32> {
    let mut eog: Vec<u32> = [
        ids.fim_pad,
        ids.fim_rep,
        ids.fim_sep,
        ids.eos,
        ids.eot,
        ids.eom,
    ]
    .into_iter()
    .flatten()
    .collect();
    for id in EOG_TEXTS.iter().filter_map(|text| find(text)) {
        vocab.types[id as usize] = TokenType::Control;
        eog.push(id);
    }
    for id in SHOWN_TEXTS.iter().filter_map(|text| find(text)) {
        vocab.types[id as usize] = TokenType::UserDefined;
    }
    let ends = |text: &str| find(text).filter(|id| eog.contains(id));
    let (call, end) = (ends("<|call|>").or(ends("<|calls|>")), ends("<|end|>"));
    // gpt-oss and Solar Open end a message, not the turn, with this one.
    let message_end = end.filter(|_| {
        call.is_some() && (ends("<|return|>").is_some() || ends("<|flush|>").is_some())
    });
    // Gemma 4 and PLaMo have an HTML tag of this name.
    let html_tag =
        ends("</s>").filter(|_| ends("<|tool_response>").or(ends("<|plamo:eos|>")).is_some());
    if let Some(id) = message_end {
        vocab.types[id as usize] = TokenType::UserDefined;
    }
    if let Some(id) = html_tag {
        vocab.types[id as usize] = TokenType::Normal;
    }
    eog.retain(|&id| Some(id) != message_end && Some(id) != html_tag);
    eog.sort_unstable();
    eog.dedup();
    eog
}

/// Which special tokens swallow the white space behind them: those of Phi-3, whose files do not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strip(bool);

/// Special tokens of Phi-3 that leave the white space alone.
const NOT_STRIPPING: &[&str] = &["<unk>", "<s>", "<|endoftext|>"];

impl Strip {
    /// The rule goes by the model's name; no key has it.
    pub fn read(md: &Metadata) -> Result<Self, TokenizerError> {
        let name = md.str("general.name")?.unwrap_or_default();
        let name = name.to_ascii_lowercase();
        Ok(Self(name.contains("phi-3") || name.contains("phi3")))
    }

    fn applies(self, text: &str) -> bool {
        self.0 && !NOT_STRIPPING.contains(&text)
    }
}

#[derive(Debug)]
struct Entry {
    text: Box<[u8]>,
    id: u32,
    /// Place in the order of search: longest first, then by id.
    rank: usize,
    strips: bool,
}

/// Finds the texts of special tokens in a text. A longer one wins over a shorter one that overlaps it, wherever
/// they start; of one text, the leftmost.
#[derive(Debug)]
pub(super) struct SpecialFinder {
    /// Sorted by bytes, so that all texts with a common start are neighbours.
    entries: Vec<Entry>,
    /// Whether some text starts with this byte.
    starts: [bool; 256],
}

impl SpecialFinder {
    pub fn new(vocab: &Vocab, types: &[TokenType], strip: Strip) -> Self {
        let mut entries: Vec<Entry> = vocab
            .ids_of_type(types)
            .filter(|&id| !vocab.text(id).is_empty())
            .map(|id| Entry {
                text: Box::from(vocab.text(id).as_bytes()),
                id,
                rank: 0,
                strips: strip.applies(vocab.text(id)),
            })
            .collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.text.len()));
        for (rank, entry) in entries.iter_mut().enumerate() {
            entry.rank = rank;
        }
        entries.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        let mut starts = [false; 256];
        for entry in &entries {
            starts[usize::from(entry.text[0])] = true;
        }
        Self { entries, starts }
    }

    /// The parts of `input`, in order.
    pub fn split<'t>(&self, input: &'t [u8]) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        if !input.is_empty() {
            parts.push(Part::Text(input));
        }
        for entry in self.present(input) {
            let before = std::mem::take(&mut parts);
            for part in before {
                match part {
                    Part::Text(text) => entry.cut(text, &mut parts),
                    token => parts.push(token),
                }
            }
        }
        parts
    }

    /// The tokens whose text occurs in `input`, in the order of search.
    fn present(&self, input: &[u8]) -> Vec<&Entry> {
        let mut found: Vec<Option<&Entry>> = Vec::new();
        for at in 0..input.len() {
            if !self.starts[usize::from(input[at])] {
                continue;
            }
            self.prefixes(&input[at..], &mut |entry| {
                if found.is_empty() {
                    found.resize(self.entries.len(), None);
                }
                found[entry.rank] = Some(entry);
            });
        }
        found.into_iter().flatten().collect()
    }

    /// Calls `found` for every text that `input` starts with.
    fn prefixes<'s>(&'s self, input: &[u8], found: &mut impl FnMut(&'s Entry)) {
        let mut rest = self.entries.as_slice();
        let mut depth = 0;
        // All of `rest` agree with the input up to `depth`; those that end there come first.
        while let Some(first) = rest.first() {
            if first.text.len() == depth {
                found(first);
                rest = &rest[1..];
                continue;
            }
            let Some(&byte) = input.get(depth) else {
                return;
            };
            let start = rest.partition_point(|entry| entry.text[depth] < byte);
            let len = rest[start..].partition_point(|entry| entry.text[depth] == byte);
            rest = &rest[start..start + len];
            depth += 1;
        }
    }
}

impl Entry {
    /// Cuts a text around all places of this token's text.
    fn cut<'t>(&self, mut text: &'t [u8], parts: &mut Vec<Part<'t>>) {
        while let Some(at) = find(text, &self.text) {
            if at > 0 {
                parts.push(Part::Text(&text[..at]));
            }
            parts.push(Part::Token(self.id));
            text = &text[at + self.text.len()..];
            if self.strips {
                text = trim_start(text);
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
    }
}

/// Where `text` first occurs in `input`. `text` is not empty.
fn find(input: &[u8], text: &[u8]) -> Option<usize> {
    let mut start = 0;
    loop {
        let at = start + input[start..].iter().position(|&byte| byte == text[0])?;
        if input[at..].starts_with(text) {
            return Some(at);
        }
        start = at + 1;
    }
}

/// Without the white space in front, as C's `isspace` knows it (unlike Rust, with the vertical tab).
fn trim_start(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let start = text.iter().position(|byte| !is_space(byte));
    &text[start.unwrap_or(text.len())..]
}

/// A part of a text between or at special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t [u8]),
    Token(u32),
}
