//! What a mask costs: `cargo test --release --lib constrain::tests::times -- --nocapture` shows it.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::*;

const WALKS: u64 = 40;
/// Far above what any machine takes, in a debug build too; a mask that takes longer stops all streams.
const MOST_MEAN: Duration = Duration::from_millis(50);

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "mail": {"type": "string", "pattern": "^[a-z]+@[a-z]+\\.(com|org)$"},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 5},
            "address": {"type": "object", "properties": {
                "street": {"type": "string"}, "number": {"type": "integer"}}, "required": ["street"]},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    })
}

#[test]
fn masks_are_quick() {
    let (grammars, tokenizer) = (grammars(), tokenizer());
    let tools = json!([{"function": {"name": "store", "parameters": person()}}]);
    let specs = [
        ("json_object", GrammarSpec::JsonObject),
        ("json_schema", GrammarSpec::JsonSchema(person())),
        (
            "call of a function",
            GrammarSpec::ToolCalls {
                format: ToolFormat::Hermes,
                tools,
                choice: ToolChoice::Required,
                parallel: false,
                answer: None,
            },
        ),
        (
            "gbnf",
            GrammarSpec::Gbnf("root ::= (word \" \")+ \".\"\nword ::= [a-z]+".to_owned()),
        ),
    ];
    println!(
        "vocabulary of {} tokens, microseconds per mask",
        tokenizer.n_vocab()
    );
    for (name, spec) in specs {
        let begin = Instant::now();
        let compiled = grammars.compile(&spec, Start::Now).unwrap();
        let compile = begin.elapsed();
        let mut times = Vec::new();
        for seed in 0..WALKS {
            let mut grammar = compiled.fork();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for _ in 0..100 {
                let mut logits = vec![0.0; tokenizer.n_vocab()];
                let begin = Instant::now();
                grammar.mask(&mut logits);
                times.push(begin.elapsed());
                let ids: Vec<u32> = (0..tokenizer.n_vocab() as u32)
                    .filter(|&id| logits[id as usize] == 0.0)
                    .collect();
                let id = ids[rng.random_range(0..ids.len())];
                assert!(grammar.advance(id));
                if grammar.is_complete() {
                    break;
                }
            }
        }
        times.sort();
        let mean = times.iter().sum::<Duration>() / times.len() as u32;
        let micros = |time: Duration| time.as_micros();
        println!(
            "{name}: compiled in {} us; {} masks, mean {}, 99 % {}, longest {}",
            micros(compile),
            times.len(),
            micros(mean),
            micros(times[times.len() * 99 / 100]),
            micros(times[times.len() - 1]),
        );
        assert!(mean < MOST_MEAN, "{name}: {mean:?}");
    }
}
