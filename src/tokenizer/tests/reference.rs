//! The demo model's vocabulary against the Hugging Face library and the reference run.

use super::*;

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn check_cases(json: &str) {
    let tokenizer = demo();
    let cases: Vec<Case> = serde_json::from_str(json).expect("golden file");
    assert!(!cases.is_empty());
    for Case { text, ids } in cases {
        assert_eq!(tokenizer.encode(&text, PARSED), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true), text.as_bytes(), "{text:?}");
    }
}

#[test]
fn hard_texts_encode_as_the_python_library_does() {
    check_cases(include_str!("../../../tests/data/tokenizer_texts.json"));
}

#[test]
fn prompts_of_the_reference_run_encode_to_its_ids() {
    check_cases(include_str!("../../../tests/data/tokenizer_prompts.json"));
}

#[test]
fn random_texts_encode_as_the_library_does() {
    let ours = demo();
    let oracle = include_bytes!("../../../tests/models/tiny-ling-tokenizer.json");
    let oracle = tokenizers::Tokenizer::from_bytes(oracle).expect("the oracle loads");
    let mut random = Random(1);
    for _ in 0..2000 {
        let text = random.text(24);
        let ids = ours.encode(&text, PARSED);
        let expected = oracle
            .encode(text.as_str(), false)
            .expect("the oracle encodes");
        assert_eq!(ids, expected.get_ids(), "{text:?}");
        assert_eq!(ours.decode(&ids, true), text.as_bytes(), "{text:?}");
    }
}

#[test]
fn a_text_that_users_type_never_becomes_structure() {
    let tokenizer = demo();
    let mut random = Random(2);
    for _ in 0..500 {
        let text = random.text(24);
        let ids = tokenizer.encode(&text, TEXT);
        assert!(ids.iter().all(|&id| !tokenizer.is_control(id)), "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false), text.as_bytes(), "{text:?}");
    }
}

#[test]
fn the_demo_model_has_lings_special_tokens() {
    let tokenizer = demo();
    assert_eq!(tokenizer.n_vocab(), 4096);
    assert_eq!((tokenizer.pre(), tokenizer.kind()), ("bailingmoe2", "BPE"));
    assert_eq!(
        (tokenizer.bos(), tokenizer.pad(), tokenizer.eos()),
        (Some(0), Some(1), Some(2))
    );
    assert_eq!(tokenizer.eog(), [1, 2], "<|endoftext|> and <|role_end|>");
    assert!(!tokenizer.add_bos() && !tokenizer.add_eos());
    assert!(
        tokenizer.is_control(2) && tokenizer.is_special(5) && !tokenizer.is_control(5),
        "<think> is text"
    );
    assert_eq!(tokenizer.token_id("<role>"), Some(3));
    assert_eq!(tokenizer.decode(&[3, 5, 2], false), b"<think>");
    assert_eq!(
        tokenizer.decode(&[3, 5, 2], true),
        b"<role><think><|role_end|>"
    );
}
