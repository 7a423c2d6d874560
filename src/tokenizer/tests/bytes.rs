//! Texts that are not UTF-8, and special tokens that overlap or swallow white space.

use super::super::text::characters;
use super::*;

fn load(md: &Metadata) -> Tokenizer {
    Tokenizer::from_metadata(md).expect("a sound vocabulary")
}

#[test]
fn each_damaged_byte_is_one_replacement_character() {
    let cases: &[(&[u8], &str)] = &[
        (b"plain \xC3\xA9", "plain \u{E9}"),
        (b"a\xFFb\x80", "a\u{FFFD}b\u{FFFD}"),
        (b"\xE4\xB8x", "\u{FFFD}\u{FFFD}x"),
        (b"\xF0\x9F\x99", "\u{FFFD}\u{FFFD}\u{FFFD}"),
        // Overlong forms of `/`, U+0000 and U+20AC.
        (b"\xC0\xAF\xE0\x80\x80\xF0\x82\x82\xAC", "/\0\u{20AC}"),
        // Half a surrogate pair, and a number beyond the last character.
        (
            b"\xED\xA0\x80\xF4\x90\x80\x80",
            "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}",
        ),
        (
            b"\xF8\x88\x80\x80\x80",
            "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(characters(bytes), *expected, "{bytes:02X?}");
    }
}

#[test]
fn damaged_bytes_between_special_tokens() {
    let tokenizer = load(&byte_level(&[("<x>", 3)], &[]));
    let ids = tokenizer.encode_bytes(b"\xC3<x>\xA9", PARSED);
    assert_eq!(
        tokenizer.decode(&ids, true),
        "\u{FFFD}<x>\u{FFFD}".as_bytes()
    );
    let mut md = sentence_pieces(&[("a", 0.0, 1), ("\u{2581}", 0.0, 1)]);
    md.insert("tokenizer.ggml.add_space_prefix", false);
    let tokenizer = load(&md);
    for bytes in [
        &b"\xFF\xE4a"[..],
        b"a\xF0\x9Faa a",
        b"\x80",
        b"\xC3</s>\xA9",
    ] {
        let ids = tokenizer.encode_bytes(bytes, PARSED);
        assert_eq!(tokenizer.detokenize(&ids, true), bytes, "{bytes:02X?}");
    }
    // A byte that announces a character of three takes the two behind it along, whatever they are.
    assert_eq!(tokenizer.encode_bytes(b"\xE4aa", TEXT), [231, 100, 100]);
    assert_eq!(tokenizer.encode_bytes(b"\x80aa", TEXT), [131, 259, 259]);
}

#[test]
fn the_longer_special_token_wins_wherever_it_starts() {
    let more = [("ab", 4), ("bcd", 4), ("cd", 4), ("de", 4), ("ef", 4)];
    let tokenizer = load(&byte_level(&more, &[]));
    let texts = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text, TEXT);
        ids.iter()
            .map(|&id| tokenizer.token_text(id).to_owned())
            .collect()
    };
    assert_eq!(texts("abcd"), ["a", "bcd"]);
    assert_eq!(texts("abcxcdab"), ["ab", "c", "x", "cd", "ab"]);
    // Of equal length, the lower id.
    assert_eq!(texts("cdef"), ["cd", "ef"]);
    assert_eq!(texts("xdef"), ["x", "de", "f"]);
}

#[test]
fn special_tokens_of_phi_3_swallow_white_space() {
    let mut md = sentence_pieces(&[("<|end|>", 0.0, 3), ("a", 0.0, 1), ("\u{2581}", 0.0, 1)]);
    let ids = |md: &Metadata, text: &str| load(md).encode(text, PARSED);
    let plain = ids(&md, "<|end|> \n\x0B a<s> a");
    md.insert("general.name", GgufString::from("Phi-3-mini"));
    assert_eq!(ids(&md, "<|end|> \n\x0B a<s> a"), ids(&md, "<|end|>a<s> a"));
    assert_ne!(ids(&md, "<|end|> \n\x0B a<s> a"), plain);
    assert_ne!(ids(&md, "<s> a"), ids(&md, "<s>a"), "but not this one");
    assert_eq!(ids(&md, "<|end|> \n"), [259]);
}
