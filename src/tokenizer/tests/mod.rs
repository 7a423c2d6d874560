//! Tests of the tokenizer, by topic, and what they share.

#![forbid(unsafe_code)]

mod bytes;
mod keys;
mod llama_cpp;
mod reference;
mod rules;
mod spm;
mod stream;

use crate::gguf::{Gguf, GgufString, Metadata};

use super::{EncodeOptions, Tokenizer, bpe};

const TEXT: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};
const PARSED: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: true,
};

/// A seeded source of test input (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// A text of up to `max` snippets: words, numbers, white space, other scripts and any characters at all.
    fn text(&mut self, max: usize) -> String {
        const SNIPPETS: &[&str] = &[
            "the",
            " and",
            "House",
            "DON'T",
            "'s",
            "'LL",
            "12",
            "345",
            "7",
            " ",
            "  ",
            "\t",
            "\n",
            "\r\n",
            "\n\n",
            " \n",
            "    ",
            "\u{A0}",
            "\u{3000}",
            "\u{2028}",
            "\u{85}",
            "_",
            "-",
            "...",
            "!?",
            "(",
            "{\n",
            "//",
            "e\u{301}",
            "\u{4E2D}\u{6587}",
            "\u{3042}",
            "\u{D55C}",
            "\u{41F}\u{440}",
            "\u{627}\u{644}",
            "\u{915}\u{94D}",
            "\u{1F642}",
            "\u{1F468}\u{200D}\u{1F469}",
            "\u{663}",
            "\u{BD}",
            "\u{0}",
            "\u{7F}",
            "\u{FFFD}",
            "<role>",
            "<|role_end|>",
            "<think>",
            "<",
            "|>",
        ];
        let count = self.below(max + 1);
        (0..count)
            .map(|_| match self.below(4) {
                0 => char::from_u32(self.below(0x11_0000) as u32)
                    .unwrap_or('\u{E000}')
                    .to_string(),
                1 => char::from_u32(self.below(0x800) as u32)
                    .unwrap_or('x')
                    .to_string(),
                _ => (*self.pick(SNIPPETS)).to_owned(),
            })
            .collect()
    }
}

fn demo_metadata() -> Metadata {
    #[repr(align(64))]
    struct Aligned<T: ?Sized>(T);
    static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!(
        "../../../tests/models/tiny-ling-IQ4_NL.gguf"
    ));
    Gguf::from_static("tiny-ling", &MODEL.0)
        .expect("the demo model is sound")
        .metadata()
        .clone()
}

fn demo() -> Tokenizer {
    Tokenizer::from_metadata(&demo_metadata()).expect("the demo model has a tokenizer")
}

fn strings<T: AsRef<str>>(texts: &[T]) -> Vec<GgufString> {
    texts
        .iter()
        .map(|text| GgufString::from(text.as_ref()))
        .collect()
}

/// A byte-level vocabulary: the 256 bytes, then `more` texts with their types, then what the merges make.
fn byte_level(more: &[(&str, i32)], merges: &[&str]) -> Metadata {
    let mut tokens: Vec<String> = bpe::byte_alphabet().iter().map(char::to_string).collect();
    let mut types = vec![1; tokens.len()];
    for (text, kind) in more {
        tokens.push((*text).to_owned());
        types.push(*kind);
    }
    for merge in merges {
        tokens.push(merge.replacen(' ', "", 1));
        types.push(1);
    }
    let mut md = Metadata::new();
    md.insert("tokenizer.ggml.model", GgufString::from("gpt2"));
    md.insert("tokenizer.ggml.pre", GgufString::from("gpt-2"));
    md.insert("tokenizer.ggml.tokens", strings(&tokens));
    md.insert("tokenizer.ggml.token_type", types);
    md.insert("tokenizer.ggml.merges", strings(merges));
    md
}

/// A SentencePiece vocabulary: unknown, start, end, the 256 byte tokens, then `pieces` with text, score and type.
fn sentence_pieces(pieces: &[(&str, f32, i32)]) -> Metadata {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    let mut types = vec![2, 3, 3];
    types.resize(tokens.len(), 6);
    let mut scores = vec![0.0; tokens.len()];
    for (text, score, kind) in pieces {
        tokens.push((*text).to_owned());
        scores.push(*score);
        types.push(*kind);
    }
    let mut md = Metadata::new();
    md.insert("tokenizer.ggml.model", GgufString::from("llama"));
    md.insert("tokenizer.ggml.tokens", strings(&tokens));
    md.insert("tokenizer.ggml.token_type", types);
    md.insert("tokenizer.ggml.scores", scores);
    md
}
