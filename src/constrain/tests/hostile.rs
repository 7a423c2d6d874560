//! Grammars that want to hang, to overflow or to fill the memory.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::*;

/// Far above what the bounds allow on any machine, in a debug build; far below a hang.
const LIMIT: Duration = Duration::from_secs(60);

/// Compiles, and if it is accepted asks for some masks: each must come to an end, with an answer or an error.
fn survive(grammars: &Grammars, tokenizer: &Arc<Tokenizer>, name: &str, spec: &GrammarSpec) {
    let begin = Instant::now();
    let compiled = grammars.compile(spec, Start::Now);
    let outcome = match compiled {
        Err(error) => {
            assert!(!error.to_string().contains("<state>"), "{error}");
            error.to_string()
        }
        Ok(mut grammar) => {
            let mut steps = 0;
            for _ in 0..4 {
                let ids = allowed(&mut *grammar, tokenizer.n_vocab());
                // Nothing allowed is a failure, and says so.
                assert_eq!(ids.is_empty(), grammar.failure().is_some(), "{name}");
                let Some(&id) = ids.last() else { break };
                if !grammar.advance(id) {
                    assert!(grammar.failure().is_some(), "{name}");
                    assert!(allowed(&mut *grammar, tokenizer.n_vocab()).is_empty());
                    break;
                }
                steps += 1;
                if tokenizer.is_eog(id) {
                    break;
                }
            }
            format!("{steps} steps, {:?}", grammar.failure())
        }
    };
    let time = begin.elapsed();
    assert!(time < LIMIT, "{name}: {time:?}");
    eprintln!(
        "{name}: {time:?}: {}",
        outcome.lines().next().unwrap_or_default()
    );
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(
        json!({"type": "string"}),
        |inner, _| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]}),
    )
}

#[test]
fn schemas_cannot_hang() {
    let (grammars, tokenizer) = (grammars(), tokenizer());
    let wide: serde_json::Map<String, Value> = (0..1000)
        .map(|i| (format!("k{i}"), json!({"type": "integer"})))
        .collect();
    let any_of: Vec<Value> = (0..40)
        .map(|i| json!({"properties": {format!("a{i}"): {"type": "string"}}, "required": [format!("a{i}")]}))
        .collect();
    let all_of: Vec<Value> = (0..12)
        .map(|i| json!({"anyOf": [{"properties": {"a": {"minimum": i}}}, {"properties": {"b": {"maxLength": i}}}]}))
        .collect();
    let cases = [
        ("deep", nested(28)),
        ("too deep", nested(300)),
        ("wide", json!({"type": "object", "properties": wide})),
        ("loop", json!({"$ref": "#"})),
        (
            "loops",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ),
        (
            "all of itself",
            json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        ),
        (
            "tree",
            json!({"type": "object", "properties": {"l": {"$ref": "#"}, "r": {"$ref": "#"}}}),
        ),
        ("nowhere", json!({"$ref": "#/$defs/nowhere"})),
        ("abroad", json!({"$ref": "http://example.com/schema.json"})),
        ("any of", json!({"anyOf": any_of})),
        ("all of any of", json!({"allOf": all_of})),
        ("pattern", json!({"type": "string", "pattern": "^(a+)+$"})),
        (
            "large pattern",
            json!({"type": "string", "pattern": "((a{100}){100}){100}"}),
        ),
        ("wrong pattern", json!({"type": "string", "pattern": "("})),
        (
            "look ahead",
            json!({"type": "string", "pattern": "^(?=a)b"}),
        ),
        (
            "long",
            json!({"type": "string", "minLength": 1_000_000_000}),
        ),
        (
            "many",
            json!({"type": "array", "minItems": 1_000_000_000, "items": {"type": "null"}}),
        ),
        (
            "many at most",
            json!({"type": "array", "maxItems": 100_000, "items": {"type": "null"}}),
        ),
        (
            "multiple",
            json!({"type": "integer", "multipleOf": 99991, "minimum": 0, "maximum": 1e18}),
        ),
        (
            "numbers",
            json!({"type": "number", "minimum": -1e308, "maximum": 1e308}),
        ),
        (
            "nothing",
            json!({"type": "integer", "minimum": 2, "maximum": 1}),
        ),
        ("false", json!(false)),
        ("true", json!(true)),
        ("text", json!("object")),
        ("kind", json!({"type": "thing"})),
        ("properties", json!({"type": "object", "properties": 7})),
        ("enum", json!({"enum": (0..5000).collect::<Vec<i32>>()})),
        (
            "options",
            json!({"type": "object", "x-guidance": {"whitespace_pattern": "("}}),
        ),
    ];
    for (name, schema) in cases {
        survive(
            &grammars,
            &tokenizer,
            name,
            &GrammarSpec::JsonSchema(schema),
        );
    }
}

fn wide(n: usize, value: &Value) -> Value {
    let properties: serde_json::Map<String, Value> =
        (0..n).map(|i| (format!("key{i}"), value.clone())).collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

const WORKS: Option<bool> = Some(true);
const REFUSED: Option<bool> = Some(false);

/// Schemas of a size that some generator of schemas might give, and whether they are to work. None where a limit may
/// be met late.
fn large() -> Vec<(&'static str, Value, Option<bool>)> {
    let integer = json!({"type": "integer"});
    let long = |i: usize| format!("a value with a number, {i}");
    vec![
        ("wide", wide(1000, &integer), WORKS),
        (
            "wide within",
            wide(3, &wide(1000, &json!({"type": "string"}))),
            WORKS,
        ),
        (
            "wide and open",
            {
                let mut schema = wide(1000, &integer);
                schema["additionalProperties"] = json!(true);
                schema
            },
            WORKS,
        ),
        (
            "wide and required",
            {
                let mut schema = wide(1000, &integer);
                schema["required"] = (0..1000).map(|i| format!("key{i}")).collect();
                schema
            },
            WORKS,
        ),
        ("very wide", wide(6000, &integer), REFUSED),
        ("deep", nested(28), WORKS),
        ("too deep", nested(40), REFUSED),
        (
            "enum",
            json!({"enum": (0..10_000).map(|i| format!("v{i}")).collect::<Vec<_>>()}),
            WORKS,
        ),
        (
            "long enum",
            json!({"enum": (0..5000).map(long).collect::<Vec<_>>()}),
            WORKS,
        ),
        (
            "numbers",
            json!({"enum": (0..10_000).collect::<Vec<i32>>()}),
            WORKS,
        ),
        (
            "too long enum",
            json!({"enum": (0..20_000).map(long).collect::<Vec<_>>()}),
            REFUSED,
        ),
        (
            "any of",
            json!({"anyOf": (0..1000).map(|i| json!({"const": long(i)})).collect::<Vec<_>>()}),
            WORKS,
        ),
        (
            "objects",
            json!({"anyOf": (0..200).map(|i| json!({"type": "object",
            "properties": {"kind": {"const": format!("k{i}")}, "n": {"type": "integer"}},
            "required": ["kind", "n"], "additionalProperties": false})).collect::<Vec<_>>()}),
            WORKS,
        ),
        (
            "items",
            json!({"type": "array", "items": {"type": "integer"}, "maxItems": 100_000}),
            WORKS,
        ),
        (
            "more items",
            json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000}),
            WORKS,
        ),
        (
            "length",
            json!({"type": "string", "maxLength": 100_000}),
            WORKS,
        ),
        (
            "counted",
            json!({"type": "string", "pattern": "^[a-z]{1,2000}$"}),
            WORKS,
        ),
        (
            "counts",
            json!({"type": "string", "pattern": "^((a{100}){100}){100}$"}),
            WORKS,
        ),
        (
            "states",
            json!({"type": "string", "pattern": "(.*a.{30}|.*b.{29}){20}"}),
            None,
        ),
    ]
}

/// Most time for a request to learn whether its schema can be used, beside other work; a machine that does nothing else
/// takes less than a second in release.
const ANSWER_TIME: Duration = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 5 });

#[test]
fn large_schemas_work_or_are_refused_at_once() {
    let (grammars, tokenizer) = (grammars(), tokenizer());
    let mut wrong = Vec::new();
    for (name, schema, works) in large() {
        let begin = Instant::now();
        let compiled = grammars.compile(&GrammarSpec::JsonSchema(schema), Start::Now);
        let time = begin.elapsed();
        let outcome = compiled.as_ref().err().map(ToString::to_string);
        eprintln!("{name}: {time:?} {}", outcome.as_deref().unwrap_or("works"));
        if time > ANSWER_TIME || works.is_some_and(|works| works != compiled.is_ok()) {
            wrong.push(format!("{name} {time:?} {outcome:?}"));
        }
        let Some(grammar) = compiled.ok().filter(|_| works.is_some()) else {
            continue;
        };
        for seed in 0..2 {
            let begin = Instant::now();
            // Fails where nothing is allowed.
            let (text, _) = walk(&mut *grammar.fork(), &tokenizer, seed);
            eprintln!("    {} bytes in {:?}", text.len(), begin.elapsed());
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn other_grammars_cannot_hang() {
    let (grammars, tokenizer) = (grammars(), tokenizer());
    let lark = |text: &str| GrammarSpec::Lark(text.to_owned());
    let regex = |text: &str| GrammarSpec::Regex(text.to_owned());
    let gbnf = |text: &str| GrammarSpec::Gbnf(text.to_owned());
    let chain: String = (0..3000)
        .map(|i| format!("r{i} ::= \"a\" r{}\n", i + 1))
        .collect();
    let chain = format!("root ::= r0\n{chain}r3000 ::= \"b\"");
    let doubling: String = (0..60)
        .map(|i| format!("r{i} ::= r{} r{}\n", i + 1, i + 1))
        .collect();
    let doubling = format!("root ::= r0\n{doubling}r60 ::= \"b\"");
    let lark_chain: String = (0..8000)
        .map(|i| format!("r{i}: \"a\" r{}\n", i + 1))
        .collect();
    let lark_tokens: String = (0..8000)
        .map(|i| format!("R{i}: \"a\" R{}\n", i + 1))
        .collect();
    let alternatives: String = (0..4_000).map(|i| format!("\"a{i}\" root | ")).collect();
    let cases = [
        ("empty lark", lark("")),
        ("no start", lark("a: \"b\"")),
        ("undefined", lark("start: b")),
        ("token loop", lark("start: A\nA: A \"b\"")),
        ("rule loop", lark("start: start")),
        (
            "lark groups",
            lark(&format!(
                "start: {}\"a\"{}",
                "(".repeat(50_000),
                ")".repeat(50_000)
            )),
        ),
        (
            "lark chain",
            lark(&format!("start: r0\n{lark_chain}r8000: \"b\"")),
        ),
        (
            "lark tokens",
            lark(&format!("start: R0\n{lark_tokens}R8000: \"b\"")),
        ),
        ("lark json", lark("start: %json {\"type\": \"thing\"}")),
        (
            "lark deep json",
            lark(&format!(
                "start: %json {}{}",
                "{\"not\":".repeat(20_000),
                "}".repeat(20_000)
            )),
        ),
        (
            "lark nests",
            lark(&format!(
                "start: {}\"a\"{}",
                "%lark { start: ".repeat(5_000),
                "}".repeat(5_000)
            )),
        ),
        ("lark option", lark("%llguidance {\"no\": 1}\nstart: \"a\"")),
        ("lark import", lark("%import common.WORD\nstart: WORD")),
        ("lark line", lark("start: \"a\"\n%%%")),
        (
            "ambiguous",
            lark("start: a a a a a a a a\na: \"x\"* a? \"x\"*"),
        ),
        (
            "regex groups",
            regex(&format!("{}a{}", "(".repeat(50_000), ")".repeat(50_000))),
        ),
        (
            "regex counts",
            regex("((((a{1000}){1000}){1000}){1000}){1000}"),
        ),
        ("regex large", regex("(.{1000}x){1000}")),
        ("regex states", regex("(.*a.{30}|.*b.{29}){20}")),
        ("regex open", regex("(")),
        ("regex slash", regex("a/b\\/c\n\"")),
        ("gbnf chain", gbnf(&chain)),
        ("gbnf doubling", gbnf(&doubling)),
        (
            "gbnf counts",
            gbnf("root ::= ((([a-z]{2000}){2000}){2000}){2000}"),
        ),
        ("gbnf loop", gbnf("root ::= root")),
        (
            "gbnf ambiguous",
            gbnf("root ::= a a a a\na ::= \"x\" a | a \"x\" | a a | \"x\" | \"\""),
        ),
        (
            "gbnf same",
            gbnf(&format!(
                "root ::= {}\"z\" root",
                "\"ab\" root | ".repeat(10_000)
            )),
        ),
        (
            "gbnf alternatives",
            gbnf(&format!("root ::= {alternatives}\"z\" root \"x\"")),
        ),
    ];
    for (name, spec) in cases {
        survive(&grammars, &tokenizer, name, &spec);
    }
}
