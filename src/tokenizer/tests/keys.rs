//! Keys of a file: what they switch on, and what is refused.

use super::super::pre;
use super::*;
use crate::gguf::Value;

fn load(md: &Metadata) -> Tokenizer {
    Tokenizer::from_metadata(md).expect("a sound vocabulary")
}

fn refusal(md: &Metadata) -> String {
    let error = Tokenizer::from_metadata(md).expect_err("must be refused");
    assert!(error.hint().is_none_or(|hint| !hint.is_empty()));
    error.to_string()
}

#[test]
fn damaged_keys_are_refused_by_name() {
    let base = || byte_level(&[("<eos>", 3)], &["a b", "ab c"]);
    let mut bytes = strings(&["a", "b"]);
    bytes.push(GgufString::from(&b"\xFF\xFE"[..]));
    let cases: Vec<(&str, Option<Value>, &str)> = vec![
        (
            "tokenizer.ggml.model",
            None,
            "`tokenizer.ggml.model` is missing",
        ),
        (
            "tokenizer.ggml.model",
            Some(7u32.into()),
            "`tokenizer.ggml.model`: expected a UTF-8 string",
        ),
        (
            "tokenizer.ggml.model",
            Some(GgufString::from("bert").into()),
            "tokenizer model \"bert\" is not supported",
        ),
        (
            "tokenizer.ggml.pre",
            Some(GgufString::from("nonesuch").into()),
            "unknown pre-tokenizer \"nonesuch\"",
        ),
        (
            "tokenizer.ggml.tokens",
            None,
            "`tokenizer.ggml.tokens` is missing",
        ),
        (
            "tokenizer.ggml.tokens",
            Some(strings::<&str>(&[]).into()),
            "`tokenizer.ggml.tokens` has 0 elements",
        ),
        (
            "tokenizer.ggml.tokens",
            Some(bytes.into()),
            "`tokenizer.ggml.tokens`: element 2 is not UTF-8",
        ),
        (
            "tokenizer.ggml.tokens",
            Some(vec![1u32].into()),
            "`tokenizer.ggml.tokens`: expected an array of strings",
        ),
        (
            "tokenizer.ggml.token_type",
            Some(vec![1i32].into()),
            "`tokenizer.ggml.token_type` has 1 elements, expected 259",
        ),
        (
            "tokenizer.ggml.merges",
            None,
            "`tokenizer.ggml.merges` is missing",
        ),
        (
            "tokenizer.ggml.merges",
            Some(strings(&["a b", "ab"]).into()),
            "element 1 is \"ab\", expected two pieces",
        ),
        (
            "tokenizer.ggml.merges",
            Some(strings(&["a "]).into()),
            "element 0 is \"a \", expected two pieces",
        ),
        (
            "tokenizer.ggml.merges",
            Some(strings(&[""]).into()),
            "element 0 is \"\", expected two pieces",
        ),
        (
            "tokenizer.ggml.merges",
            Some(strings(&["a b", "a zz"]).into()),
            "element 1 (\"a zz\") needs the token \"zz\"",
        ),
        (
            "tokenizer.ggml.merges",
            Some(strings(&["a c"]).into()),
            "element 0 (\"a c\") needs the token \"ac\"",
        ),
        (
            "tokenizer.ggml.eos_token_id",
            Some(259u32.into()),
            "`tokenizer.ggml.eos_token_id` is 259, but the vocabulary ends at 258",
        ),
        (
            "tokenizer.ggml.bos_token_id",
            Some(GgufString::from("0").into()),
            "`tokenizer.ggml.bos_token_id`: expected an integer",
        ),
        (
            "tokenizer.ggml.add_bos_token",
            Some(5u32.into()),
            "`tokenizer.ggml.add_bos_token`: expected a bool",
        ),
    ];
    load(&base());
    for (key, value, expected) in cases {
        let mut md = base();
        match value {
            Some(value) => md.insert(key, value),
            None => md.remove(key),
        };
        let message = refusal(&md);
        assert!(message.contains(expected), "{key}: {message}");
    }
}

#[test]
fn damaged_vocabularies_are_refused_by_id() {
    assert!(refusal(&byte_level(&[("ab", 1)], &["a b"])).contains("256 and 257 are both \"ab\""));
    assert!(
        refusal(&byte_level(&[("<0xG0>", 6)], &[]))
            .contains("256 is a byte token but its text is \"<0xG0>\"")
    );
    assert!(
        refusal(&sentence_pieces(&[("a", f32::NAN, 1)]))
            .contains("`tokenizer.ggml.scores`: element 259")
    );
    assert!(refusal(&sentence_pieces(&[("<0x+1>", 0.0, 6)])).contains("259 is a byte token"));
    assert!(refusal(&sentence_pieces(&[("<0x00>", 0.0, 1)])).contains("both \"<0x00>\""));
    let mut md = sentence_pieces(&[]);
    md.insert("tokenizer.ggml.scores", vec![0.0f32]);
    assert!(refusal(&md).contains("`tokenizer.ggml.scores` has 1 elements, expected 259"));
}

#[test]
fn an_unknown_rule_is_answered_with_the_known_ones() {
    let mut md = byte_level(&[], &[]);
    md.insert("tokenizer.ggml.pre", GgufString::from("nonesuch"));
    let hint = Tokenizer::from_metadata(&md)
        .expect_err("refused")
        .hint()
        .expect("a hint");
    assert!(pre::known_names().all(|name| hint.contains(name)), "{hint}");
}

#[test]
fn a_file_without_a_rule_gets_the_default_one() {
    let mut md = byte_level(&[], &[]);
    md.remove("tokenizer.ggml.pre");
    assert_eq!(load(&md).pre(), "default");
}

#[test]
fn structure_is_read_only_where_asked_and_user_defined_always() {
    let more = [
        ("<|eos|>", 3),
        ("<x>", 4),
        ("<x>y", 4),
        ("<unk>", 2),
        ("<pad>", 5),
    ];
    let tokenizer = load(&byte_level(&more, &["h i"]));
    let texts = |text: &str, options| -> Vec<String> {
        tokenizer
            .encode(text, options)
            .iter()
            .map(|&id| tokenizer.token_text(id).to_owned())
            .collect()
    };
    assert_eq!(texts("hi<|eos|>hi", PARSED), ["hi", "<|eos|>", "hi"]);
    assert_eq!(
        texts("hi<|eos|>", TEXT),
        ["hi", "<", "|", "e", "o", "s", "|", ">"]
    );
    assert_eq!(
        texts("<x><x>y<x", TEXT),
        ["<x>", "<x>y", "<", "x"],
        "the longest wins"
    );
    assert_eq!(
        texts("<unk><pad>", PARSED),
        ["<unk>", "<", "p", "a", "d", ">"]
    );
    assert_eq!(
        tokenizer.decode(&tokenizer.encode("<x><unk>", PARSED), false),
        b"<x>"
    );
}

#[test]
fn a_word_that_is_a_token_may_skip_merging() {
    let words = [("dog", 1), ("cat", 3)];
    let mut md = byte_level(&words, &["d o"]);
    let merged = load(&md).encode("dog", TEXT);
    assert_eq!(merged.len(), 2, "do + g");
    md.insert("tokenizer.ggml.pre", GgufString::from("llama-bpe"));
    let tokenizer = load(&md);
    assert_eq!(tokenizer.encode("dog", TEXT), [256]);
    assert_eq!(
        tokenizer.encode("cat", TEXT).len(),
        3,
        "but not into structure"
    );
}

#[test]
fn start_and_end_tokens_are_added_as_the_file_says() {
    let special = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let mut md = byte_level(&[("<s>", 3), ("<e>", 3)], &[]);
    md.insert("tokenizer.ggml.bos_token_id", 256u32);
    md.insert("tokenizer.ggml.eos_token_id", 257u32);
    assert!(load(&md).encode("", special).is_empty());
    md.insert("tokenizer.ggml.add_bos_token", true);
    md.insert("tokenizer.ggml.add_eos_token", true);
    assert_eq!(load(&md).encode("", special), [256, 257]);
    assert!(load(&md).encode("", TEXT).is_empty());
    md.remove("tokenizer.ggml.add_bos_token");
    md.insert("tokenizer.ggml.pre", GgufString::from("llama-bpe"));
    assert_eq!(
        load(&md).encode("", special),
        [256, 257],
        "the rule's own default"
    );
}

#[test]
fn what_ends_a_generation_comes_from_keys_and_well_known_texts() {
    type Tokens = &'static [(&'static str, i32)];
    let cases: &[(Tokens, &[&str])] = &[
        (
            &[("<|im_end|>", 3), ("<|endoftext|>", 3)],
            &["<|im_end|>", "<|endoftext|>"],
        ),
        (
            &[("<|eot_id|>", 1), ("<|eom_id|>", 3)],
            &["<|eot_id|>", "<|eom_id|>"],
        ),
        (
            &[("<|end|>", 3), ("<|return|>", 3), ("<|call|>", 3)],
            &["<|return|>", "<|call|>"],
        ),
        (
            &[("<|end|>", 3), ("<|flush|>", 3), ("<|calls|>", 3)],
            &["<|flush|>", "<|calls|>"],
        ),
        (&[("<|end|>", 3)], &["<|end|>"]),
        (
            &[("</s>", 1), ("<turn|>", 3), ("<|tool_response>", 3)],
            &["<turn|>", "<|tool_response>"],
        ),
        (
            &[
                ("<|fim_pad|>", 3),
                ("<|file_sep|>", 3),
                ("<|fim_prefix|>", 3),
            ],
            &["<|fim_pad|>", "<|file_sep|>"],
        ),
        (&[("<|channel|>", 3)], &[]),
    ];
    for (more, expected) in cases {
        let tokenizer = load(&byte_level(more, &[]));
        let texts: Vec<&str> = tokenizer
            .eog()
            .iter()
            .map(|&id| tokenizer.token_text(id))
            .collect();
        assert_eq!(texts, *expected);
        assert!(
            tokenizer
                .eog()
                .iter()
                .all(|&id| tokenizer.is_control(id) && tokenizer.is_eog(id))
        );
    }
    let mut md = byte_level(&[("<done>", 3), ("<stop>", 3)], &[]);
    md.insert("tokenizer.ggml.eos_token_id", 257u32);
    md.insert("tokenizer.ggml.eot_token_id", 256u32);
    md.insert("tokenizer.ggml.padding_token_id", u32::MAX);
    let tokenizer = load(&md);
    assert_eq!(tokenizer.eog(), [256, 257]);
    assert_eq!(tokenizer.pad(), None, "-1 is none");
}

#[test]
fn tokens_outside_the_byte_alphabet_stand_for_themselves() {
    let tokenizer = load(&byte_level(
        &[("\u{4E2D}x", 1), ("", 1), ("<0x41>", 6)],
        &[],
    ));
    assert_eq!(tokenizer.token_bytes(256), "\u{4E2D}x".as_bytes());
    assert_eq!(tokenizer.token_bytes(257), b"");
    assert_eq!(tokenizer.token_bytes(258), b"A");
    assert_eq!(tokenizer.token_bytes(999), b"");
}

#[test]
fn gemma_merges_characters_and_falls_back_to_bytes() {
    let mut md = sentence_pieces(&[
        ("\u{2581}", 0.0, 1),
        ("a", 0.0, 1),
        ("b", 0.0, 1),
        ("\u{2581}a", 0.0, 1),
        ("\n", 0.0, 1),
        ("\n\n", 0.0, 1),
    ]);
    md.insert("tokenizer.ggml.model", GgufString::from("gemma4"));
    md.insert("tokenizer.ggml.merges", strings(&["\u{2581} a"]));
    let tokenizer = load(&md);
    let texts: Vec<&str> = tokenizer
        .encode("b a\n\n\u{E9}", TEXT)
        .iter()
        .map(|&id| tokenizer.token_text(id))
        .collect();
    assert_eq!(texts, ["b", "\u{2581}a", "\n\n", "<0xC3>", "<0xA9>"]);
    assert_eq!(
        tokenizer.decode(&tokenizer.encode("b a\n\n\u{E9}", TEXT), false),
        "b a\n\n\u{E9}".as_bytes()
    );
    assert!(tokenizer.add_bos());
}
