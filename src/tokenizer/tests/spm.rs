//! SentencePiece vocabularies against the rule carried out word by word.

use std::collections::HashMap;

use super::*;

/// The rule as it reads: join the best pair, start over.
fn naive(scores: &HashMap<String, f32>, text: &str) -> Vec<String> {
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for left in 1..symbols.len() {
            let joined = format!("{}{}", symbols[left - 1], symbols[left]);
            if let Some(&score) = scores.get(&joined)
                && best.is_none_or(|(highest, _)| score > highest)
            {
                best = Some((score, left - 1));
            }
        }
        let Some((_, left)) = best else {
            return symbols;
        };
        let right = symbols.remove(left + 1);
        symbols[left].push_str(&right);
    }
}

#[test]
fn random_vocabularies_encode_as_the_rule_says() {
    let mut random = Random(4);
    for _ in 0..200 {
        // Few letters and few scores: many overlapping pieces, many ties, some letters without a token.
        let mut scores: HashMap<String, f32> = HashMap::new();
        for _ in 0..random.below(40) {
            let len = 1 + random.below(4);
            let piece: String = (0..len)
                .map(|_| *random.pick(&['a', 'b', 'c', '\u{2581}', '\u{E9}']))
                .collect();
            scores.insert(piece, -(random.below(12) as f32));
        }
        let mut pieces: Vec<(&str, f32, i32)> = scores
            .iter()
            .map(|(text, &score)| (text.as_str(), score, 1))
            .collect();
        pieces.sort_by(|a, b| a.0.cmp(b.0));
        let tokenizer =
            Tokenizer::from_metadata(&sentence_pieces(&pieces)).expect("a sound vocabulary");
        for _ in 0..20 {
            let text: String = (0..random.below(30))
                .map(|_| *random.pick(&['a', 'b', 'c', ' ', '\u{E9}', 'z']))
                .collect();
            let ids = tokenizer.encode(&text, TEXT);
            if text.is_empty() {
                assert!(ids.is_empty());
                continue;
            }
            let symbols = naive(
                &scores,
                &format!("\u{2581}{}", text.replace(' ', "\u{2581}")),
            );
            let expected: Vec<u32> = symbols
                .iter()
                .flat_map(|symbol| match scores.contains_key(symbol) {
                    true => vec![tokenizer.token_id(symbol).expect("a token")],
                    false => symbol.bytes().map(|byte| 3 + u32::from(byte)).collect(),
                })
                .collect();
            assert_eq!(ids, expected, "{text:?} with {pieces:?}");
            // Without a token, U+2581 is three bytes and comes back as that character, not as a space.
            if scores.contains_key("\u{2581}") {
                assert_eq!(tokenizer.detokenize(&ids, false), text.as_bytes());
            }
        }
    }
}

#[test]
fn user_text_cannot_spell_control_or_byte_tokens() {
    let pieces = [
        ("<", -1.0, 1),
        ("s", -1.0, 1),
        (">", -1.0, 1),
        ("<s", -1.0, 1),
        ("0", -1.0, 1),
        ("\u{2581}", -2.0, 1),
    ];
    let tokenizer =
        Tokenizer::from_metadata(&sentence_pieces(&pieces)).expect("a sound vocabulary");
    let texts = |ids: Vec<u32>| -> Vec<String> {
        ids.iter()
            .map(|&id| tokenizer.token_text(id).to_owned())
            .collect()
    };
    assert_eq!(
        texts(tokenizer.encode("<s>", TEXT)),
        ["\u{2581}", "<s", ">"]
    );
    assert_eq!(texts(tokenizer.encode("<s>", PARSED)), ["<s>"]);
    assert_eq!(tokenizer.eog(), [2], "</s>");
}

#[test]
fn a_space_goes_before_text_after_special_tokens_only() {
    let pieces = [
        ("\u{2581}", -1.0, 1),
        ("a", -2.0, 1),
        ("\u{2581}a", -3.0, 1),
        ("[X]", 0.0, 4),
    ];
    let tokenizer =
        Tokenizer::from_metadata(&sentence_pieces(&pieces)).expect("a sound vocabulary");
    let texts = |ids: &[u32]| -> Vec<String> {
        ids.iter()
            .map(|&id| tokenizer.token_text(id).to_owned())
            .collect()
    };
    let special = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let ids = tokenizer.encode("a a[X]a", special);
    assert_eq!(
        texts(&ids),
        ["<s>", "\u{2581}a", "\u{2581}a", "[X]", "\u{2581}a"]
    );
    assert_eq!(tokenizer.decode(&ids, true), b"<s> a a[X] a");
    assert_eq!(tokenizer.detokenize(&ids, false), b"a a[X] a");
    assert_eq!(tokenizer.detokenize(&ids, true), b"<s>a a[X] a");
    let mut md = sentence_pieces(&pieces);
    md.insert("tokenizer.ggml.add_space_prefix", false);
    let bare = Tokenizer::from_metadata(&md).expect("a sound vocabulary");
    assert_eq!(texts(&bare.encode("a a", TEXT)), ["a", "\u{2581}a"]);
}

#[test]
fn without_byte_tokens_the_unknown_token_stands_in() {
    let mut md = Metadata::new();
    md.insert("tokenizer.ggml.model", GgufString::from("llama"));
    md.insert(
        "tokenizer.ggml.tokens",
        strings(&["<unk>", "<s>", "</s>", "a"]),
    );
    md.insert("tokenizer.ggml.token_type", vec![2, 3, 3, 1]);
    md.insert("tokenizer.ggml.scores", vec![0.0f32, 0.0, 0.0, -1.0]);
    let tokenizer = Tokenizer::from_metadata(&md).expect("a sound vocabulary");
    assert_eq!(tokenizer.encode("a\u{E9}a", TEXT), [0, 3, 0, 3]);
}
