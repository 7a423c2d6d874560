//! Calls that a grammar let through come back from the parser, whatever the form.

#![forbid(unsafe_code)]

use super::*;
use crate::chat::{ChatDelta, ChatParser};
use crate::tokenizer::EncodeOptions;

const FORMATS: [ToolFormat; 6] = [
    ToolFormat::Hermes,
    ToolFormat::QwenXml,
    ToolFormat::ArgTags,
    ToolFormat::DeepSeekV3,
    ToolFormat::DeepSeekV31,
    ToolFormat::BareJson,
];

fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "weather", "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Rome", "5"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "where": {"$ref": "#/$defs/place"},
            },
            "required": ["city", "days"],
            "additionalProperties": false,
            "$defs": {"place": {"type": "object", "properties": {"lat": {"type": "boolean"}}, "additionalProperties": false}},
        }}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

fn calls_of(format: ToolFormat, text: &str) -> Vec<(String, Value)> {
    let parser = ChatParser::new(format, ReasoningTags::default(), "", true);
    let mut parser = parser.with_tools(&tools());
    let mut deltas = parser.push(text);
    deltas.extend(parser.finish());
    let mut calls: Vec<(String, String)> = Vec::new();
    for delta in deltas {
        match delta {
            ChatDelta::ToolCall { name, .. } => calls.push((name, String::new())),
            ChatDelta::Arguments { index, text } => calls[index].1 += &text,
            other => panic!("{format:?}: {text:?} has {other:?}"),
        }
    }
    calls
        .into_iter()
        .map(|(name, arguments)| {
            let json = serde_json::from_str(&arguments);
            (
                name,
                json.unwrap_or_else(|e| panic!("{format:?}: {text:?}: {e}")),
            )
        })
        .collect()
}

fn spec(format: ToolFormat, choice: ToolChoice, parallel: bool) -> GrammarSpec {
    GrammarSpec::ToolCalls {
        format,
        tools: tools(),
        choice,
        parallel,
        answer: None,
    }
}

#[test]
fn calls_come_back() {
    for format in FORMATS {
        let named = ToolChoice::Named("weather".to_owned());
        for (choice, parallel) in [
            (ToolChoice::Required, true),
            (ToolChoice::Required, false),
            (named.clone(), false),
        ] {
            for text in texts(&spec(format, choice.clone(), parallel), 12) {
                let calls = calls_of(format, &text);
                assert!(
                    !calls.is_empty() && (parallel || calls.len() == 1),
                    "{text}"
                );
                for (name, arguments) in calls {
                    if name == "now" && choice == ToolChoice::Required {
                        assert_eq!(arguments, json!({}));
                        continue;
                    }
                    assert_eq!(name, "weather");
                    assert!(
                        ["Rome", "5"].contains(&arguments["city"].as_str().unwrap()),
                        "{text}"
                    );
                    assert!(
                        (1..=9).contains(&arguments["days"].as_i64().unwrap()),
                        "{text}"
                    );
                    assert!(arguments.as_object().unwrap().len() <= 3);
                }
            }
        }
    }
}

#[test]
fn free_texts_as_arguments_come_back() {
    let tools = json!([{"function": {"name": "say", "parameters": {"type": "object", "properties": {
        "text": {"type": "string"},
        "loud": {"type": "boolean"},
    }, "required": ["text"]}}}]);
    for format in [ToolFormat::QwenXml, ToolFormat::ArgTags] {
        let spec = GrammarSpec::ToolCalls {
            format,
            tools: tools.clone(),
            choice: ToolChoice::Required,
            parallel: false,
            answer: None,
        };
        let (grammars, tokenizer) = (grammars(), tokenizer());
        let mut grammar = grammars.compile(&spec, Start::Now).unwrap();
        let (before, after) = match format {
            ToolFormat::QwenXml => (
                "<tool_call>\n<function=say>\n<parameter=text>\n",
                "\n</parameter>\n</function>\n</tool_call>",
            ),
            _ => (
                "<tool_call>say\n<arg_key>text</arg_key>\n<arg_value>",
                "</arg_value>\n</tool_call>",
            ),
        };
        let inside = "a < b </parameter \n{\"x\"}\n";
        let text = format!("{before}{inside}{after}");
        for id in tokenizer.encode(&text, Default::default()) {
            assert!(
                grammar.advance(id),
                "{format:?}: {:?}",
                String::from_utf8_lossy(tokenizer.token_bytes(id))
            );
        }
        assert!(grammar.is_complete());
        let parser = ChatParser::new(format, ReasoningTags::default(), "", true);
        let mut deltas = parser.clone().with_tools(&tools).push(&text);
        let Some(ChatDelta::Arguments { text, .. }) = deltas.pop() else {
            panic!("{deltas:?}");
        };
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({"text": inside})
        );
    }
}

/// Tokens of a text, its markers spelled out or not.
fn pieces(tokenizer: &Tokenizer, text: &str, spelled: bool) -> Vec<u32> {
    let options = EncodeOptions {
        add_special: false,
        parse_special: !spelled,
    };
    tokenizer.encode(text, options)
}

fn feed(grammar: &mut dyn Constrainer, tokenizer: &Tokenizer, text: &str, spelled: bool) {
    for id in pieces(tokenizer, text, spelled) {
        assert!(grammar.allows(id) && grammar.advance(id), "{text}");
    }
}

fn is_free(grammar: &mut dyn Constrainer, tokenizer: &Tokenizer) -> bool {
    allowed(grammar, tokenizer.n_vocab()).len() == tokenizer.n_vocab()
}

#[test]
fn auto_leaves_the_model_free_until_a_call_opens() {
    let (grammars, tokenizer) = (grammars(), tokenizer());
    for format in FORMATS {
        let auto = spec(format, ToolChoice::Auto, false);
        let compiled = grammars.compile(&auto, Start::Now).unwrap();
        let mut plain = compiled.fork();
        feed(&mut *plain, &tokenizer, "I say <tool", true);
        feed(&mut *plain, &tokenizer, " nothing", true);
        assert!(is_free(&mut *plain, &tokenizer) && !plain.is_complete());
        assert!(plain.allows(tokenizer.eog()[0]) && plain.advance(tokenizer.eog()[0]));
        assert!(plain.is_complete() || format.openers().is_empty());
        for (opener, spelled) in format
            .openers()
            .iter()
            .flat_map(|o| [(o, true), (o, false)])
        {
            let mut ended = 0;
            for seed in 0..12 {
                let mut grammar = compiled.fork();
                feed(&mut *grammar, &tokenizer, "Well. ", true);
                feed(&mut *grammar, &tokenizer, opener, spelled);
                let (text, complete) = opened_walk(&mut *grammar, &tokenizer, seed);
                if !complete {
                    continue;
                }
                ended += 1;
                let calls = calls_of(format, &format!("{opener}{text}"));
                assert_eq!(calls.len(), 1, "{opener}{text}");
                let (name, arguments) = &calls[0];
                assert!(name == "now" || (1..=9).contains(&arguments["days"].as_i64().unwrap()));
            }
            assert!(ended > 0, "{format:?}: no call came to its end");
        }
    }
}

/// A call's text of random allowed tokens, and whether it came to its end.
fn opened_walk(grammar: &mut dyn Constrainer, tokenizer: &Tokenizer, seed: u64) -> (String, bool) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tokens = Vec::new();
    while !grammar.is_complete() && tokens.len() < MOST_TOKENS {
        let ids = allowed(grammar, tokenizer.n_vocab());
        let id = ids[rng.random_range(0..ids.len())];
        assert!(!tokenizer.is_eog(id), "an answer cannot end within a call");
        assert!(grammar.allows(id) && grammar.advance(id));
        tokens.push(id);
    }
    let text = String::from_utf8(tokenizer.decode(&tokens, true)).unwrap();
    (text, grammar.is_complete())
}

#[test]
fn a_token_that_opens_a_call_must_begin_it_well() {
    let (grammars, tokenizer) = (grammars(), tokenizer());
    let auto = spec(ToolFormat::Hermes, ToolChoice::Auto, true);
    let mut grammar = grammars.compile(&auto, Start::Now).unwrap();
    feed(&mut *grammar, &tokenizer, "Well <tool_call", true);
    let next = b"\n{\"name\": \"";
    let ids = allowed(&mut *grammar, tokenizer.n_vocab());
    let (mut fitting, mut refused) = (0, 0);
    for id in 0..tokenizer.n_vocab() as u32 {
        let fits = match tokenizer.token_bytes(id).strip_prefix(b">") {
            Some(rest) => next.starts_with(rest),
            None => true,
        };
        assert_eq!(ids.contains(&id), fits, "{id}");
        assert_eq!(grammar.allows(id), fits, "{id}");
        fitting += usize::from(fits);
        refused += usize::from(!fits);
    }
    assert!(fitting > 0 && refused > 0, "{fitting} {refused}");
}

#[test]
fn thoughts_open_no_calls_and_several_calls_may_follow() {
    let (grammars, tokenizer) = (grammars(), tokenizer());
    let auto = spec(ToolFormat::Hermes, ToolChoice::Auto, true);
    let tags = ReasoningTags::default();
    for (start, thought) in [
        (
            Start::InReasoning(tags.clone()),
            "what <tool_call> is</think>",
        ),
        (
            Start::AfterReasoning(tags.clone()),
            "<think> <tool_call> </think>\n",
        ),
        (Start::AfterReasoning(tags), "plain "),
    ] {
        let mut grammar = grammars.compile(&auto, start).unwrap();
        feed(&mut *grammar, &tokenizer, thought, true);
        for _ in 0..2 {
            assert!(is_free(&mut *grammar, &tokenizer), "{thought}");
            feed(&mut *grammar, &tokenizer, "<tool_call>", true);
            assert!(!is_free(&mut *grammar, &tokenizer), "{thought}");
            let call = "\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
            feed(&mut *grammar, &tokenizer, call, false);
        }
        assert!(is_free(&mut *grammar, &tokenizer) && !grammar.is_complete());
    }
}

#[test]
fn an_answer_beside_calls_follows_its_schema() {
    let schema = json!({"type": "object", "properties": {"good": {"type": "boolean"}},
        "required": ["good"], "additionalProperties": false});
    for format in FORMATS {
        let GrammarSpec::ToolCalls {
            tools, parallel, ..
        } = spec(format, ToolChoice::Auto, true)
        else {
            unreachable!()
        };
        let both = GrammarSpec::ToolCalls {
            format,
            tools,
            choice: ToolChoice::Auto,
            parallel,
            answer: Some(Box::new(GrammarSpec::JsonSchema(schema.clone()))),
        };
        let (mut calls, mut answers) = (0, 0);
        for text in texts(&both, 40) {
            match serde_json::from_str::<Value>(&text) {
                Ok(json) if json.get("good").is_some() => {
                    assert!(json["good"].is_boolean() && json.as_object().unwrap().len() == 1);
                    answers += 1;
                }
                _ => calls += usize::from(!calls_of(format, &text).is_empty()),
            }
        }
        assert!(calls > 0 && answers > 0, "{format:?}: {calls} {answers}");
    }
    let wrong = GrammarSpec::ToolCalls {
        format: ToolFormat::Hermes,
        tools: tools(),
        choice: ToolChoice::Auto,
        parallel: true,
        answer: Some(Box::new(GrammarSpec::JsonSchema(json!({"type": "thing"})))),
    };
    let error = grammars().compile(&wrong, Start::Now).unwrap_err();
    assert!(matches!(error, ConstrainError::Schema { .. }), "{error}");
}

#[test]
fn wrong_tools_are_refused() {
    let grammars = grammars();
    let refused = |tools: Value, choice: ToolChoice, message: &str| {
        let spec = GrammarSpec::ToolCalls {
            format: ToolFormat::Hermes,
            tools,
            choice,
            parallel: false,
            answer: None,
        };
        let error = grammars.compile(&spec, Start::Now).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    refused(json!([]), ToolChoice::Required, "there is no function");
    refused(json!({}), ToolChoice::Required, "expected a list");
    refused(
        json!([{"function": {}}]),
        ToolChoice::Required,
        "[0]: the function has no name",
    );
    refused(
        json!([{"name": "a\"b"}]),
        ToolChoice::Required,
        "[0]: `a\\\"b` is no name",
    );
    refused(
        tools(),
        ToolChoice::Named("x".to_owned()),
        "no function is named `x`",
    );
    refused(
        json!([{"name": "f", "parameters": {"type": "thing"}}]),
        ToolChoice::Required,
        "thing",
    );
}
