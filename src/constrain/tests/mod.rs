//! Grammars over the demo model's vocabulary, walked at random.

#![forbid(unsafe_code)]

mod hostile;
mod llama;
mod times;
mod tools;

use std::path::Path;
use std::sync::Arc;

use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::*;
use crate::gguf::Gguf;

/// Longer walks are given up: a grammar that can go on may.
const MOST_TOKENS: usize = 400;

fn tokenizer() -> Arc<Tokenizer> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-ling-IQ4_NL.gguf");
    let gguf = Gguf::open(&path).unwrap();
    Arc::new(Tokenizer::from_metadata(gguf.metadata()).unwrap())
}

fn grammars() -> Grammars {
    Grammars::new(&tokenizer()).unwrap()
}

/// The ids that may come next.
fn allowed(grammar: &mut dyn Constrainer, n_vocab: usize) -> Vec<u32> {
    let mut logits = vec![0.0; n_vocab];
    grammar.mask(&mut logits);
    (0..n_vocab as u32)
        .filter(|&id| logits[id as usize] == 0.0)
        .collect()
}

/// A text of random allowed tokens, and whether it came to its end. Checks that mask and single answers agree.
fn walk(grammar: &mut dyn Constrainer, tokenizer: &Arc<Tokenizer>, seed: u64) -> (String, bool) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tokens = Vec::new();
    for _ in 0..MOST_TOKENS {
        grammar.prepare();
        let ids = allowed(grammar, tokenizer.n_vocab());
        assert!(!ids.is_empty(), "{:?}", grammar.failure());
        for _ in 0..20 {
            let id = rng.random_range(0..tokenizer.n_vocab() as u32);
            assert_eq!(grammar.allows(id), ids.contains(&id), "{id}");
        }
        let end = ids.iter().find(|&&id| tokenizer.is_eog(id));
        // Ends where it may, mostly, so that walks are short.
        let id = match end {
            Some(&end) if rng.random_bool(0.7) => end,
            _ => ids[rng.random_range(0..ids.len())],
        };
        assert!(grammar.allows(id));
        assert!(grammar.advance(id));
        if tokenizer.is_eog(id) {
            assert!(grammar.is_complete());
            let text = String::from_utf8(tokenizer.decode(&tokens, true)).unwrap();
            return (text, true);
        }
        tokens.push(id);
    }
    let text = String::from_utf8_lossy(&tokenizer.decode(&tokens, true)).into_owned();
    (text, false)
}

/// Walks that came to their end.
fn texts(spec: &GrammarSpec, n: u64) -> Vec<String> {
    let grammars = grammars();
    let tokenizer = tokenizer();
    let compiled = grammars.compile(spec, Start::Now).unwrap();
    let found: Vec<String> = (0..n)
        .filter_map(|seed| {
            let (text, ended) = walk(&mut *compiled.fork(), &tokenizer, seed);
            ended.then_some(text)
        })
        .collect();
    assert!(!found.is_empty(), "no walk of {spec:?} came to its end");
    found
}

#[test]
fn schemas_hold() {
    let schema = json!({
        "type": "object",
        "properties": {
            "kind": {"enum": ["cat", "dog"]},
            "age": {"type": "integer", "minimum": 0, "maximum": 20},
        },
        "required": ["kind", "age"],
        "additionalProperties": false,
    });
    for text in texts(&GrammarSpec::JsonSchema(schema), 30) {
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(["cat", "dog"].contains(&value["kind"].as_str().unwrap()));
        assert!((0..=20).contains(&value["age"].as_i64().unwrap()));
    }
    for text in texts(&GrammarSpec::JsonObject, 5) {
        assert!(serde_json::from_str::<Value>(&text).unwrap().is_object());
    }
}

#[test]
fn expressions_and_lark_hold() {
    for text in texts(&GrammarSpec::Regex("(yes|no)!{1,3}".to_owned()), 20) {
        assert!(
            text.starts_with("yes!") || text.starts_with("no!"),
            "{text}"
        );
        assert!(text.ends_with('!') && text.len() < 7);
    }
    let lark = "start: \"a\" b \"c\"?\nb: /[0-9]{2}/ | \"x\" b \"y\"\n".to_owned();
    for text in texts(&GrammarSpec::Lark(lark), 20) {
        let inside = text.strip_prefix('a').unwrap().trim_end_matches('c');
        let n = inside.chars().filter(|c| *c == 'x').count();
        assert_eq!(n, inside.chars().filter(|c| *c == 'y').count());
    }
}
