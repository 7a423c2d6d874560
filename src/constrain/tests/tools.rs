//! Calls that a grammar let through come back from the parser, whatever the form.

#![forbid(unsafe_code)]

use super::*;
use crate::chat::{ChatDelta, ChatParser};

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

#[test]
fn auto_leaves_the_model_free() {
    let (grammars, tokenizer) = (grammars(), tokenizer());
    let auto = spec(ToolFormat::Hermes, ToolChoice::Auto, true);
    let mut grammar = grammars.compile(&auto, Start::Now).unwrap();
    assert_eq!(
        allowed(&mut *grammar, tokenizer.n_vocab()).len(),
        tokenizer.n_vocab()
    );
    assert!(grammar.allows(tokenizer.eog()[0]) && grammar.advance(5) && !grammar.is_complete());
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
