//! A vocabulary for any text: one token per byte, the markers of a chat, and fillers up to the wanted size.

use crate::gguf::{Array, GgufString, Metadata};

/// Markers, in the order of their ids after the bytes. The second ends a text, the third a turn.
const MARKERS: [&str; 7] = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|role_end|>",
    "<role>",
    "</role>",
    "<think>",
    "</think>",
];
const N_BYTES: u32 = 256;

/// Fewest tokens a vocabulary can have.
pub(super) const FEWEST: u32 = N_BYTES + MARKERS.len() as u32;

/// `tokenizer.ggml.token_type` of text and of markers.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Writes the tokenizer's keys for `n` tokens.
pub(super) fn write(metadata: &mut Metadata, n: u32) {
    let mut tokens: Vec<GgufString> = byte_symbols().map(|c| c.to_string().into()).collect();
    tokens.extend(MARKERS.map(GgufString::from));
    tokens.extend((FEWEST..n).map(|id| GgufString::from(format!("[PAD{id}]"))));
    let mut types = vec![NORMAL; n as usize];
    types[N_BYTES as usize..FEWEST as usize].fill(CONTROL);
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", "bailingmoe2");
    metadata.insert("tokenizer.ggml.tokens", Array::String(tokens));
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata.insert("tokenizer.ggml.merges", Array::String(Vec::new()));
    metadata.insert("tokenizer.ggml.bos_token_id", N_BYTES);
    metadata.insert("tokenizer.ggml.padding_token_id", N_BYTES + 1);
    metadata.insert("tokenizer.ggml.eos_token_id", N_BYTES + 2);
    metadata.insert("tokenizer.ggml.add_bos_token", false);
    metadata.insert("tokenizer.ggml.add_eos_token", false);
}

/// The printable character that stands for each byte in a byte-level vocabulary: itself where it is printable,
/// else the next one from U+0100 on.
fn byte_symbols() -> impl Iterator<Item = char> {
    let mut next = 0x100;
    (0..=255u8).map(move |byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            let symbol = char::from_u32(next).unwrap_or(char::REPLACEMENT_CHARACTER);
            next += 1;
            symbol
        }
    })
}
