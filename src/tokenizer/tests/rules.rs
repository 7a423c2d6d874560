//! The pre-tokenizer table against the same expressions run by the library, look-aheads included.

use std::collections::HashSet;

use tokenizers::pre_tokenizers::split::{Split as LibrarySplit, SplitPattern};
use tokenizers::{
    OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, SplitDelimiterBehavior,
};

use super::super::newer::Newer;
use super::super::pre::{self, Split, Splitter};
use super::*;

/// The look-ahead that [`Split::Triples`] stands for.
fn expression(split: &Split) -> &'static str {
    match split {
        Split::Match(source) => source,
        Split::Triples(r"\d+\b") => r"\d{1,3}(?=(?:\d{3})*\b)",
        Split::Triples(r"\p{N}+") => r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
        Split::Triples(_) => r"\d{1,3}(?=(?:\d{3})*(?!\d))",
    }
}

fn library_split(rules: &[LibrarySplit], text: &str) -> Vec<String> {
    let mut pieces = PreTokenizedString::from(text);
    for rule in rules {
        rule.pre_tokenize(&mut pieces).expect("the library splits");
    }
    let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
    pieces
        .iter()
        .map(|(piece, _, _)| (*piece).to_owned())
        .filter(|piece| !piece.is_empty())
        .collect()
}

#[test]
fn every_rule_splits_as_its_expressions_say() {
    let newer = Newer::new().expect("the expression compiles");
    for rule in pre::RULES {
        let splitter = Splitter::new(rule).expect("the rule compiles");
        let library: Vec<LibrarySplit> = rule
            .splits
            .iter()
            .map(|split| {
                let pattern = SplitPattern::Regex(expression(split).to_owned());
                LibrarySplit::new(pattern, SplitDelimiterBehavior::Isolated, false)
                    .expect("the expression compiles")
            })
            .collect();
        let mut random = Random(3);
        for _ in 0..300 {
            let text = random.text(20);
            // The library alone knows characters newer than the rules'.
            let text = newer.hidden(&text).unwrap_or(text);
            let mut pieces = Vec::new();
            splitter.split(&text, &mut |piece| pieces.push(piece.to_owned()));
            assert_eq!(
                pieces,
                library_split(&library, &text),
                "{:?} {text:?}",
                rule.names
            );
        }
    }
}

#[test]
fn characters_of_unicode_16_count_as_unassigned() {
    let newer = Newer::new().expect("the expression compiles");
    let cases = [
        ("a\u{1C8A}b\u{105C0}", Some("a\u{FFFE}b\u{1FFFE}")),
        ("\u{1F642}\u{4E2D}\u{2EBF0}\u{D7FF}\u{E000}\u{378}", None),
        ("plain", None),
    ];
    for (text, expected) in cases {
        assert_eq!(newer.hidden(text).as_deref(), expected, "{text:?}");
    }
    assert_eq!(
        pieces("qwen2", "ab\u{105C0}\u{105C0}"),
        ["ab", "\u{105C0}\u{105C0}"]
    );
}

#[test]
fn names_are_unique() {
    let mut seen = HashSet::new();
    for name in pre::known_names() {
        assert!(seen.insert(name), "{name}");
    }
}

fn pieces(name: &str, text: &str) -> Vec<String> {
    let splitter = Splitter::new(pre::find(name).expect("known")).expect("compiles");
    let mut pieces = Vec::new();
    splitter.split(text, &mut |piece| pieces.push(piece.to_owned()));
    pieces
}

#[test]
fn rules_differ_where_they_should() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "bailingmoe2",
            "I'll  pay 1234\n\n x",
            &[
                "I", "'ll", " ", " pay", " ", "1", "2", "3", "4", "\n\n", " x",
            ],
        ),
        ("bailingmoe2", "a \n b", &["a", " \n", " b"]),
        ("bailingmoe2", "wait...\n\n", &["wait", "...\n\n"]),
        ("llama-bpe", "in 1234567", &["in", " ", "123", "456", "7"]),
        (
            "gpt-2",
            "in 1234567\n\nx",
            &["in", " 1234567", "\n", "\n", "x"],
        ),
        ("gpt-4o", "camelCase isn't", &["camel", "Case", " isn't"]),
        (
            "tekken",
            "camelCase isn't",
            &["camel", "Case", " isn", "'t"],
        ),
        ("superbpe", "12345 6", &["12", "345", " ", "6"]),
        (
            "tiny_aya",
            "1234567 12ab",
            &["1", "234", "567", " ", "12", "ab"],
        ),
        ("afmoe", "12345", &["12", "345"]),
        (
            "kimi-k2",
            "\u{4E2D}\u{6587}abc",
            &["\u{4E2D}\u{6587}", "abc"],
        ),
        ("gemma4", "a b\n\nc", &["a b", "\n\n", "c"]),
    ];
    for (name, text, expected) in cases {
        assert_eq!(pieces(name, text), *expected, "{name} {text:?}");
    }
}

#[test]
fn a_long_run_of_one_class_takes_no_quadratic_time() {
    for class in ["1", " ", "\n", "a", "!", "\u{4E2D}"] {
        let text = class.repeat(200_000);
        for rule in pre::RULES {
            let mut bytes = 0;
            Splitter::new(rule)
                .expect("compiles")
                .split(&text, &mut |piece| bytes += piece.len());
            assert_eq!(bytes, text.len(), "{:?}", rule.names);
        }
    }
}
