//! Templates against Jinja2, and what is refused.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::gguf::{GgufString, Metadata};

#[derive(serde::Deserialize)]
struct Golden {
    tools: Value,
    conversations: HashMap<String, Vec<Message>>,
    cases: Vec<Case>,
}

/// A built-in template or a source, with what Jinja2 made of it.
#[derive(serde::Deserialize)]
struct Case {
    template: Option<String>,
    source: Option<String>,
    conversation: String,
    thinking: Option<bool>,
    output: Option<String>,
    refused: Option<String>,
}

const DEMO: &str = include_str!("../../tests/data/chat_demo.jinja");

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<s>", "</s>").unwrap_or_else(|error| panic!("{error}: {source}"))
}

fn builtin(name: &str) -> ChatTemplate {
    ChatTemplate::builtin(name, "<s>", "</s>").unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn templates_render_as_jinja2_renders_them() {
    let golden: Golden = serde_json::from_str(include_str!("../../tests/data/chat_templates.json"))
        .expect("golden file");
    for case in golden.cases {
        let template = match (&case.template, &case.source) {
            (Some(name), _) if name == "demo" => template(DEMO),
            (Some(name), _) => builtin(name),
            (None, source) => template(source.as_deref().expect("a source")),
        };
        let with_tools = case.source.is_some() || case.conversation == "tools";
        let mut request = ChatRequest {
            messages: golden.conversations[&case.conversation].clone(),
            tools: with_tools.then(|| golden.tools.clone()),
            add_generation_prompt: case.conversation != "reasoning",
            ..ChatRequest::default()
        };
        request.kwargs.extend(
            case.thinking
                .map(|think| ("enable_thinking".to_owned(), json!(think))),
        );
        let label = format!(
            "{:?} {:?} {}",
            case.template, case.source, case.conversation
        );
        match template.render(&request) {
            Ok(prompt) => assert_eq!(Some(prompt), case.output, "{label}"),
            Err(TemplateError::Refused { message }) => {
                assert_eq!(Some(message), case.refused, "{label}")
            }
            Err(error) => panic!("{label}: {error}"),
        }
    }
}

fn ask(text: &str) -> ChatRequest {
    ChatRequest {
        messages: vec![Message::new("user", text)],
        add_generation_prompt: true,
        ..ChatRequest::default()
    }
}

#[test]
fn lings_template_is_the_documented_one() {
    let mut request = ask("Hello");
    request
        .messages
        .insert(0, Message::new("system", "You are a helpful assistant"));
    let expected = "<role>SYSTEM</role>You are a helpful assistant\ndetailed thinking off<|role_end|>\
                    <role>HUMAN</role>Hello<|role_end|><role>ASSISTANT</role>";
    assert_eq!(
        builtin("bailing2").render(&request).as_deref(),
        Ok(expected)
    );
    assert_eq!(template(DEMO).render(&request).as_deref(), Ok(expected));
}

#[test]
fn every_builtin_template_renders_a_conversation() {
    for name in builtin_template_names() {
        let mut request = ask("first");
        request.messages.push(Message::new("assistant", "second"));
        request.messages.push(Message::new("user", "third"));
        let prompt = builtin(name)
            .render(&request)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let places: Vec<Option<usize>> = ["first", "second", "third"]
            .iter()
            .map(|text| prompt.find(text))
            .collect();
        assert!(
            places[0].is_some() && places.is_sorted(),
            "{name}: {prompt}"
        );
        assert!(builtin(name).supports_system(), "{name}");
    }
    let error = ChatTemplate::builtin("nonesuch", "", "").expect_err("unknown");
    assert!(error.hint().expect("a hint").contains("bailing2"));
}

#[test]
fn errors_name_the_line_and_the_cause() {
    let syntax = |source: &str| {
        ChatTemplate::new(source, "", "")
            .expect_err("not valid")
            .to_string()
    };
    assert_eq!(
        syntax("a\n{% if %}"),
        "chat template, line 2: unexpected end of block: `{% if %}`"
    );
    assert!(syntax("{% for x in y %}").starts_with("chat template, line 1: "));
    let render = |source: &str| {
        template(source)
            .render(&ask("x"))
            .expect_err("fails")
            .to_string()
    };
    let message = render("a\nb\n{{ nope.field }}");
    assert!(
        message.contains("line 3")
            && message.contains("nope")
            && message.contains("{{ nope.field }}"),
        "{message}"
    );
    assert!(render("{{ messages | nofilter }}").contains("nofilter"));
    assert!(render("{{ nope | tojson }}").contains("undefined"));
    let long = format!(
        "{}{{{{ nope.field }}}}{}",
        "a".repeat(5000),
        "b".repeat(5000)
    );
    let message = render(&long);
    assert!(
        message.len() < 400 && message.contains("{{ nope.field }}"),
        "{message}"
    );
    assert_eq!(
        render("{{ raise_exception('no such role') }}"),
        "the chat template refuses this conversation: no such role"
    );
}

#[test]
fn a_template_without_end_is_stopped() {
    let refused = |source: &str| template(source).render(&ask("x")).expect_err("must stop");
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert_eq!(refused(loops), TemplateError::Runaway { limit: "steps" });
    let output = "{% set x = 'abcdefgh' * 1000000 %}{% for a in range(100) %}{{ x }}{% endfor %}";
    assert_eq!(refused(output), TemplateError::Runaway { limit: "output" });
    let recursion = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(matches!(refused(recursion), TemplateError::Render { .. }));
    let deep = "{{ ".to_owned() + &"(".repeat(1000) + &")".repeat(1000) + " }}";
    assert!(matches!(
        ChatTemplate::new(&deep, "", ""),
        Err(TemplateError::Syntax { .. })
    ));
    assert!(
        ChatTemplate::new("{% include 'file' %}", "", "")
            .is_ok_and(|t| t.render(&ask("x")).is_err()),
        "no files"
    );
}

#[test]
fn marks_for_trainers_are_ignored() {
    let source = "{% for m in messages %}\n{%- generation -%} {{ m.content }} {%- endgeneration %}\n{% endfor %}{# {% generation %} #}";
    assert_eq!(template(source).render(&ask("x")).as_deref(), Ok("x"));
}

#[test]
fn the_date_is_of_today() {
    let year = template("{{ strftime_now('%Y') }}")
        .render(&ask("x"))
        .expect("renders");
    assert!(
        year.parse::<u32>()
            .is_ok_and(|year| (2024..3000).contains(&year)),
        "{year}"
    );
}

#[test]
fn arguments_and_parts_reach_the_template_as_it_expects_them() {
    let json = json!({
        "role": "assistant",
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        "tool_calls": [
            {"function": {"name": "f", "arguments": "{\"x\":1,\"y\":[]}"}},
            {"function": {"name": "g", "arguments": "not json"}},
        ],
        "plan": "kept",
    });
    let message: Message = serde_json::from_value(json).expect("a message");
    let request = ChatRequest {
        messages: vec![message],
        ..ChatRequest::default()
    };
    let source = "{% set m = messages[0] %}{{ m.content }}|{{ m.plan }}|{{ m.name is defined }}|\
                  {% for c in m.tool_calls %}{{ c.type }} {{ c.function.arguments | tojson }};{% endfor %}";
    let expected = "a\nb|kept|False|function {\"x\": 1, \"y\": []};function \"not json\";";
    assert_eq!(template(source).render(&request).as_deref(), Ok(expected));
    let image: Message =
        serde_json::from_value(json!({"role": "user", "content": [{"type": "image_url"}]}))
            .expect("a message");
    let request = ChatRequest {
        messages: vec![image],
        ..ChatRequest::default()
    };
    assert_eq!(
        template("x").render(&request),
        Err(TemplateError::ContentPart {
            kind: "image_url".to_owned()
        })
    );
}

#[test]
fn probes_say_what_a_template_can_do() {
    let demo = template(DEMO);
    assert!(demo.supports_system() && demo.supports_thinking());
    assert!(matches!(
        demo.thinking_switch(),
        Some(ThinkingSwitch::Variable {
            name: "enable_thinking",
            ..
        })
    ));
    let mut request = ask("x");
    assert!(demo.set_thinking(&mut request, true));
    assert!(
        demo.render(&request)
            .expect("renders")
            .contains("detailed thinking on")
    );

    let plain = template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}");
    assert!(!plain.supports_system() && !plain.supports_thinking());
    assert!(!plain.set_thinking(&mut request, true));

    // A template that decides for itself, as Ling's first ones did, still follows the system message.
    let fixed = "{% set o = 'off' %}{% set s = messages[0].content if messages[0].role == 'system' else '' %}{{ s }}\
                 {% if 'detailed thinking on' not in s and 'detailed thinking off' not in s %}\ndetailed thinking {{ o }}{% endif %}";
    let fixed = template(fixed);
    let mut request = ask("x");
    for think in [true, false, true] {
        assert!(fixed.set_thinking(&mut request, think));
        let prompt = fixed.render(&request).expect("renders");
        assert_eq!(
            (
                prompt.contains("thinking on"),
                prompt.contains("thinking off")
            ),
            (think, !think)
        );
    }
    assert_eq!(request.messages.len(), 2);
}

#[test]
fn templates_come_from_the_file() {
    let bytes: Vec<String> = ('!'..='~').map(String::from).collect();
    let mut md = Metadata::new();
    md.insert("tokenizer.ggml.model", GgufString::from("gpt2"));
    md.insert("tokenizer.ggml.pre", GgufString::from("gpt-2"));
    md.insert(
        "tokenizer.ggml.tokens",
        bytes
            .iter()
            .map(|text| GgufString::from(text.as_str()))
            .collect::<Vec<_>>(),
    );
    md.insert("tokenizer.ggml.merges", Vec::<GgufString>::new());
    md.insert("tokenizer.ggml.bos_token_id", 1u32);
    let tokenizer = crate::tokenizer::Tokenizer::from_metadata(&md).expect("a vocabulary");
    assert!(
        ChatTemplate::from_metadata(&md, &tokenizer, None)
            .expect("no template is no error")
            .is_none()
    );
    md.insert(
        "tokenizer.chat_template",
        GgufString::from("{{ bos_token }}main{{ eos_token }}"),
    );
    md.insert(
        "tokenizer.chat_template.tool_use",
        GgufString::from("tools"),
    );
    assert_eq!(ChatTemplate::names_in(&md), ["tool_use"]);
    for (name, expected) in [(None, "\"main"), (Some("tool_use"), "tools")] {
        let template = ChatTemplate::from_metadata(&md, &tokenizer, name)
            .expect("sound")
            .expect("present");
        assert_eq!(template.render(&ask("x")).as_deref(), Ok(expected));
    }
    md.insert("tokenizer.chat_template", 5u32);
    assert!(matches!(
        ChatTemplate::from_metadata(&md, &tokenizer, None),
        Err(TemplateError::Metadata(_))
    ));
}

#[test]
fn a_source_too_large_to_compile_is_refused() {
    let refused = |source: &str| ChatTemplate::new(source, "", "").expect_err("must be refused");
    let long = "a".repeat((128 << 10) + 1);
    assert!(matches!(
        refused(&long),
        TemplateError::TooLong { bytes: 131_073, .. }
    ));
    assert!(ChatTemplate::new(&long[1..], "", "").is_ok());
    for link in [
        "not ",
        "-",
        "\"a\"~",
        "x|string|",
        ".b",
        "a and ",
        "a if b else ",
    ] {
        let source = format!("x\n{{{{ {}a }}}}", link.repeat(9000));
        assert!(
            matches!(refused(&source), TemplateError::TooComplex { line: 2, .. }),
            "{link}"
        );
    }
    assert!(ChatTemplate::new(&format!("{{{{ '{}' }}}}", "-".repeat(9000)), "", "").is_ok());
}

#[test]
fn the_stack_holds_what_the_scan_cannot_see() {
    // An open quote in raw text makes the scan miss the tag after it.
    for link in ["not ", "-", "(a)~"] {
        let hidden = link.repeat(8000);
        let source = format!("{{% raw %}}{{{{ ' {{% endraw %}}{{{{ {hidden} a }}}}");
        assert!(limits::check_source(&source).is_ok(), "{link}");
        assert!(ChatTemplate::new(&source, "", "").is_ok(), "{link}");
    }
}

#[test]
fn values_that_hold_themselves_or_are_too_deep_are_refused() {
    let cyclic = "{% set ns = namespace() %}{% set ns.a = ns %}";
    let list = "{% set ns = namespace() %}{% set ns.a = [ns] %}";
    let deep = "{% set ns = namespace(a=[]) %}{% for i in range(100000) %}{% set ns.a = [ns.a] %}{% endfor %}";
    for source in [cyclic, list, deep] {
        for filter in ["", "|tojson", "|string", "|pprint", "|join"] {
            let source = format!("{source}{{{{ [ns.a]{filter} }}}}");
            let error = template(&source).render(&ask("x")).expect_err(&source);
            assert_eq!(error, TemplateError::Runaway { limit: "depth" }, "{source}");
        }
    }
    let shown = template("{{ debug() }}").render(&ask("x"));
    assert!(matches!(shown, Err(TemplateError::Render { .. })));
    assert_eq!(template(deep).render(&ask("x")).as_deref(), Ok(""));
}

#[test]
fn results_are_measured_before_they_are_made() {
    let large = "{% set a = 'a' * 100000 %}";
    let cases = [
        (large, "a|replace('a', a)", "output"),
        (large, "a.replace('a', a)", "output"),
        (large, "a|replace('', a)", "output"),
        (large, "range(100000)|join(a)", "output"),
        (large, "a.join(range(100000))", "output"),
        (large, "a|indent(1000000000)", "output"),
        (large, "a|indent(width=1000000000)", "output"),
        (large, "'%1000000000d'|format(1)", "output"),
        (large, "'{:1000000000}'.format(1)", "output"),
        ("", "[1]|batch(10000000000, 0)", "elements"),
        ("", "[1]|slice(10000000000)", "elements"),
    ];
    for (before, expression, limit) in cases {
        let source = format!("{before}{{{{ ({expression})|length }}}}");
        let error = template(&source).render(&ask("x")).expect_err(expression);
        let printed = format!("{before}{{{{ {expression} }}}}");
        let error = match error {
            TemplateError::Runaway { .. } => error,
            _ => template(&printed).render(&ask("x")).expect_err(expression),
        };
        assert_eq!(error, TemplateError::Runaway { limit }, "{expression}");
    }
    let small = "{{ 'a-b'|replace('-', '+') }} {{ [1, 'x']|join(', ') }} {{ 'a\nb'|indent(2) }} {{ '%s!'|format('x') }} {{ [1]|string }}";
    assert_eq!(
        template(small).render(&ask("x")).as_deref(),
        Ok("a+b 1, x a\n  b x! [1]")
    );
}
