//! Answers with calls, cut in every way.

#![forbid(unsafe_code)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::chat::stream::{ChatDelta, ChatParser};
use crate::chat::{ReasoningTags, builtin_template_names};

/// What an answer came to.
#[derive(Debug, Default, PartialEq)]
struct Parsed {
    reasoning: String,
    content: String,
    /// Names and arguments.
    calls: Vec<(String, String)>,
}

fn gather(deltas: impl IntoIterator<Item = ChatDelta>) -> Parsed {
    let mut parsed = Parsed::default();
    let mut ids = Vec::new();
    for delta in deltas {
        match delta {
            ChatDelta::Reasoning(text) => {
                assert!(!text.is_empty());
                parsed.reasoning += &text;
            }
            ChatDelta::Content(text) => {
                assert!(!text.is_empty());
                parsed.content += &text;
            }
            ChatDelta::ToolCall { index, id, name } => {
                assert_eq!(index, parsed.calls.len());
                assert!(!ids.contains(&id) && id.starts_with("call_"));
                ids.push(id);
                parsed.calls.push((name, String::new()));
            }
            ChatDelta::Arguments { index, text } => {
                assert!(!text.is_empty());
                assert_eq!(index + 1, parsed.calls.len());
                parsed.calls[index].1 += &text;
            }
        }
    }
    parsed
}

fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "detailed": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
        }}}},
        {"name": "now", "input_schema": {"type": "object", "properties": {}}},
    ])
}

fn parse_pieces(format: ToolFormat, prompt: &str, pieces: &[&str]) -> Parsed {
    let parser = ChatParser::new(format, ReasoningTags::default(), prompt, true);
    let mut parser = parser.with_tools(&tools());
    let mut deltas: Vec<ChatDelta> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    let parsed = gather(deltas);
    assert_eq!(parser.n_calls(), parsed.calls.len());
    parsed
}

/// Parses the answer whole, cut into two everywhere, and by characters; all must agree.
fn parse(format: ToolFormat, prompt: &str, answer: &str) -> Parsed {
    let whole = parse_pieces(format, prompt, &[answer]);
    for (at, _) in answer.char_indices() {
        let cut = parse_pieces(format, prompt, &[&answer[..at], &answer[at..]]);
        assert_eq!(cut, whole, "{:?} | {:?}", &answer[..at], &answer[at..]);
    }
    let singles: Vec<&str> = answer
        .char_indices()
        .map(|(at, c)| &answer[at..at + c.len_utf8()])
        .collect();
    assert_eq!(parse_pieces(format, prompt, &singles), whole, "{answer}");
    whole
}

fn check(format: ToolFormat, answer: &str, content: &str, calls: &[(&str, &str)]) {
    let parsed = parse(format, "", answer);
    let calls: Vec<(String, String)> = calls
        .iter()
        .map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned()))
        .collect();
    assert_eq!(
        (parsed.content.as_str(), &parsed.calls),
        (content, &calls),
        "{answer}"
    );
    assert_eq!(parsed.reasoning, "");
}

#[test]
fn calls_of_hermes() {
    use ToolFormat::Hermes as F;
    let weather = r#"{"city": "Berlin", "days": 2}"#;
    let call =
        format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {weather}}}\n</tool_call>");
    check(F, &call, "", &[("weather", weather)]);
    check(
        F,
        &format!("Let me see.\n\n{call}\n{call}\n"),
        "Let me see.",
        &[("weather", weather), ("weather", weather)],
    );
    check(
        F,
        &format!("{call}{call} Done."),
        " Done.",
        &[("weather", weather), ("weather", weather)],
    );
    // The closing tag or the last bracket is often forgotten.
    check(
        F,
        call.trim_end_matches("\n</tool_call>"),
        "",
        &[("weather", weather)],
    );
    check(
        F,
        call.trim_end_matches("}\n</tool_call>"),
        "",
        &[("weather", weather)],
    );
    check(
        F,
        &call.replace("}\n</tool_call>", "\n</tool_call>"),
        "",
        &[("weather", weather)],
    );
    // Other orders, other names, no arguments, arguments as text, further keys.
    let other = [
        (r#"{"arguments": {"a": 1}, "name": "f"}"#, r#"{"a":1}"#),
        (r#"{"name":"f","parameters":{}}"#, "{}"),
        (r#"{"name": "f"}"#, "{}"),
        (r#"{"name": "f", "arguments": null}"#, "{}"),
        (r#"{"name": "f", "arguments": "{\"a\": 1}"}"#, r#"{"a": 1}"#),
        (
            r#"{"name": "f", "arguments": {"a": [1, {"b": "}"}]}, "id": "x"}"#,
            r#"{"a": [1, {"b": "}"}]}"#,
        ),
        (
            r#"{"id": 7, "name": "f", "arguments": {"</tool_call>": "<tool_call>"}}"#,
            r#"{"</tool_call>":"<tool_call>"}"#,
        ),
        (
            r#"{"name": "\u0066", "arguments": {"x": "</tool_call>"}}"#,
            r#"{"x": "</tool_call>"}"#,
        ),
        (
            "{\"name\": \"f\", \"arguments\": {\"x\": \"a\nb\tc\"}}",
            r#"{"x": "a\nb\tc"}"#,
        ),
    ];
    for (json, arguments) in other {
        check(
            F,
            &format!("<tool_call>{json}</tool_call>"),
            "",
            &[("f", arguments)],
        );
    }
}

#[test]
fn what_is_no_call_is_content() {
    let cases = [
        "<tool_call>",
        "<tool_call>no</tool_call>",
        "<tool_call>\n{\"name\": 1}\n</tool_call> and on",
        "<tool_call>{}</tool_call>",
        "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"x\"}</tool_call>",
        "Write <tool_call> to call.\n\n<tool_cal",
        "<tool_call>{\"nam",
        "a <tool_call>{'name': 'f'}</tool_call>\n",
        "  \n",
        "</tool_call>",
    ];
    for text in cases {
        check(ToolFormat::Hermes, text, text, &[]);
    }
    // A failed call does not hide the next one.
    check(
        ToolFormat::Hermes,
        "<tool_call>{<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
        "<tool_call>{",
        &[("f", "{}")],
    );
    for text in [
        "<tool_call>\n{\"name\": \"f\"}\n</tool_call>",
        "<tool_call><function=></function></tool_call>",
        "<tool_call><function=a b\n",
        "x < y <tool",
    ] {
        check(ToolFormat::QwenXml, text, text, &[]);
    }
    // Without tools nothing is a call.
    let text = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    let mut parser = ChatParser::new(ToolFormat::Hermes, ReasoningTags::default(), "", false);
    assert_eq!(parser.push(text), [ChatDelta::Content(text.to_owned())]);
    assert!(parser.finish().is_empty());
}

#[test]
fn arguments_that_break_off_are_shown() {
    use ToolFormat::Hermes as F;
    let start = "<tool_call>{\"name\": \"f\", \"arguments\": ";
    check(
        F,
        &format!("{start}{{\"a\": [1, 2"),
        "",
        &[("f", r#"{"a": [1, 2"#)],
    );
    check(
        F,
        &format!("{start}{{\"a\": tru}}}}\n</tool_call>\nSo."),
        "\nSo.",
        &[("f", "{\"a\": tru}}\n")],
    );
    check(
        F,
        &format!("{start}{{\"a\": tru}} </tool_"),
        "",
        &[("f", "{\"a\": tru} </tool_")],
    );
}

#[test]
fn calls_in_tags() {
    use ToolFormat::QwenXml as F;
    let call = "<tool_call>\n<function=weather>\n<parameter=city>\nSan \"Jos\u{e9}\"\n<br></parameter\n</parameter>\n\
                <parameter=days>\n3\n</parameter>\n<parameter=detailed>\nTrue\n</parameter>\n\
                <parameter=tags>\n[\"a\", \"b\"]\n</parameter>\n</function>\n</tool_call>";
    let arguments = r#"{"city": "San \"José\"\n<br></parameter", "days": 3, "detailed": true, "tags": ["a", "b"]}"#;
    check(F, call, "", &[("weather", arguments)]);
    check(
        F,
        &format!("Well.\n{call}\n{call}"),
        "Well.",
        &[("weather", arguments), ("weather", arguments)],
    );
    check(
        F,
        "<tool_call><function=now></function></tool_call>",
        "",
        &[("now", "{}")],
    );
    // A text stays a text although it looks like a number; what is unknown is guessed.
    check(
        F,
        "<tool_call><function=weather><parameter=city>5</parameter><parameter=x>5</parameter><parameter=y>five</parameter></function></tool_call>",
        "",
        &[("weather", r#"{"city": "5", "x": 5, "y": "five"}"#)],
    );
    // Garbage ends a call with what it has.
    check(
        F,
        "<tool_call><function=weather><parameter=days>1</parameter>oops</function></tool_call>",
        "oops</function></tool_call>",
        &[("weather", r#"{"days": 1}"#)],
    );
    check(
        F,
        "<tool_call><function=weather><parameter=city>\nBer",
        "",
        &[("weather", r#"{"city": "Ber"#)],
    );

    use ToolFormat::ArgTags as G;
    let call = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bern\n</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>";
    check(
        G,
        call,
        "",
        &[("weather", r#"{"city": "Bern\n", "days": 2}"#)],
    );
    check(G, "<tool_call>now</tool_call>", "", &[("now", "{}")]);
    check(
        G,
        "<tool_call>\nnow\n</tool_call>ok",
        "ok",
        &[("now", "{}")],
    );
}

#[test]
fn calls_of_deepseek_and_llama() {
    let arguments = r#"{"city": "Rome"}"#;
    let v31 = |n: usize| {
        let one = format!("{CALL_BEGIN}weather{SEPARATOR}{arguments}{CALL_END}");
        format!("{CALLS_BEGIN}{}{CALLS_END}", one.repeat(n))
    };
    let calls = [("weather", arguments), ("weather", arguments)];
    check(ToolFormat::DeepSeekV31, &v31(1), "", &calls[..1]);
    check(
        ToolFormat::DeepSeekV31,
        &format!("Hm. {}", v31(2)),
        "Hm.",
        &calls,
    );
    let v3 = format!(
        "{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}weather\n```json\n{arguments}\n```{CALL_END}\n{CALL_BEGIN}function{SEPARATOR}weather\n```json\n{arguments}\n```{CALL_END}{CALLS_END}"
    );
    check(ToolFormat::DeepSeekV3, &v3, "", &calls);
    check(ToolFormat::DeepSeekV3, CALLS_BEGIN, CALLS_BEGIN, &[]);

    let bare = format!("{{\"name\": \"weather\", \"parameters\": {arguments}}}");
    check(ToolFormat::BareJson, &bare, "", &calls[..1]);
    check(
        ToolFormat::BareJson,
        &format!("{PYTHON_TAG}{bare}; {bare}"),
        "",
        &calls,
    );
    for text in [
        format!("See {bare}"),
        r#"{"a": 1}"#.to_owned(),
        "{".to_owned(),
        format!("{PYTHON_TAG}x"),
    ] {
        check(ToolFormat::BareJson, &text, &text, &[]);
    }
}

#[test]
fn thoughts_come_first() {
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    for (prompt, open) in [("", "<think>"), ("<think>\n", ""), ("", "\n<think>\n")] {
        let answer = format!("{open}\nA call: {call}.\n\n</think>\n\nWell.\n{call}");
        let parsed = parse(ToolFormat::Hermes, prompt, &answer);
        assert_eq!(parsed.reasoning, format!("A call: {call}."));
        assert_eq!(parsed.content, "Well.");
        assert_eq!(parsed.calls, [("now".to_owned(), "{}".to_owned())]);
    }
    let parsed = parse(ToolFormat::Hermes, "", "<think>\n\n</think>\n\n 4 ");
    assert_eq!(
        (parsed.reasoning.as_str(), parsed.content.as_str()),
        ("", "4 ")
    );
}

#[test]
fn arguments_come_as_soon_as_they_are_certain() {
    let mut parser = ChatParser::new(ToolFormat::Hermes, ReasoningTags::default(), "", true);
    assert!(
        parser
            .push("<tool_call>{\"name\": \"f\", \"argu")
            .is_empty()
    );
    let deltas = parser.push("ments\": {\"a");
    assert!(matches!(&deltas[0], ChatDelta::ToolCall { index: 0, name, .. } if name == "f"));
    let arguments = |text: &str| ChatDelta::Arguments {
        index: 0,
        text: text.to_owned(),
    };
    assert_eq!(deltas[1..], [arguments("{\"a")]);
    assert_eq!(parser.push("b\": 1"), [arguments("b\": 1")]);
    assert_eq!(parser.push("}}"), [arguments("}")]);
    let mut parser = ChatParser::new(ToolFormat::QwenXml, ReasoningTags::default(), "", true);
    parser = parser.with_tools(&tools());
    parser.push("<tool_call><function=weather><parameter=city>");
    assert_eq!(parser.push("\nNew "), [arguments("\"New ")]);
    assert_eq!(parser.push("York\n</para"), [arguments("York")]);
}

#[test]
fn forms_are_known_by_their_templates() {
    let cases = [
        (
            "<tool_call>\\n{\"name\": <function-name>",
            ToolFormat::Hermes,
        ),
        (
            "<tool_call>\\n<function=example>\\n<parameter=p>",
            ToolFormat::QwenXml,
        ),
        (
            "<tool_call>{name}<arg_key>k</arg_key><arg_value>",
            ToolFormat::ArgTags,
        ),
        ("no tools", ToolFormat::Hermes),
        (
            "Environment: ipython {\"name\": .., \"parameters\": ..}",
            ToolFormat::BareJson,
        ),
    ];
    for (template, format) in cases {
        assert_eq!(ToolFormat::detect(template), format, "{template}");
    }
    let v31 = format!("'{CALLS_BEGIN}{CALL_BEGIN}' + name + '{SEPARATOR}'");
    assert_eq!(ToolFormat::detect(&v31), ToolFormat::DeepSeekV31);
    assert_eq!(
        ToolFormat::detect(&format!("{v31}```json")),
        ToolFormat::DeepSeekV3
    );
    assert!(builtin_template_names().count() > 0);
}

const FORMATS: [ToolFormat; 6] = [
    ToolFormat::Hermes,
    ToolFormat::QwenXml,
    ToolFormat::ArgTags,
    ToolFormat::DeepSeekV3,
    ToolFormat::DeepSeekV31,
    ToolFormat::BareJson,
];

/// Pieces from which answers are made that come close to calls.
fn fragments() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "<tool",
        "\n",
        " ",
        "{",
        "}",
        "\"name\": ",
        "\"f\"",
        ", ",
        "\"arguments\": ",
        "{\"name\": \"f\", \"arguments\": ",
        "{}",
        "{\"a\": 1}",
        "[",
        "]",
        "\"",
        "\\",
        "1",
        "tru",
        "<function=f>",
        "</function>",
        "<parameter=a>",
        "</parameter>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "f",
        "<think>",
        "</think>",
        CALLS_BEGIN,
        CALLS_END,
        CALL_BEGIN,
        CALL_END,
        SEPARATOR,
        "```json",
        "```",
        "function",
        "\u{e9}",
        "\u{1F642}",
        PYTHON_TAG,
        ";",
    ]);
    prop::collection::vec(known, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn cuts_change_nothing(answer in fragments(), which in 0..FORMATS.len(), cuts in prop::collection::vec(0.0..1.0, 0..6)) {
        let format = FORMATS[which];
        let whole = parse_pieces(format, "", &[&answer]);
        let mut ends: Vec<usize> = cuts
            .iter()
            .map(|cut: &f64| floor_boundary(&answer, (cut * answer.len() as f64) as usize))
            .chain([0, answer.len()])
            .collect();
        ends.sort_unstable();
        let pieces: Vec<&str> = ends.windows(2).map(|w| &answer[w[0]..w[1]]).collect();
        prop_assert_eq!(&parse_pieces(format, "", &pieces), &whole);
        let singles: Vec<String> = answer.chars().map(String::from).collect();
        let singles: Vec<&str> = singles.iter().map(String::as_str).collect();
        prop_assert_eq!(&parse_pieces(format, "", &singles), &whole);
    }

    #[test]
    fn nothing_is_lost(answer in fragments(), which in 0..FORMATS.len()) {
        let parsed = parse_pieces(FORMATS[which], "", &[&answer]);
        // Content is what the model wrote, in its order; without calls and thoughts it is all of it.
        let mut rest = answer.chars();
        for c in parsed.content.chars() {
            prop_assert!(rest.any(|given| given == c), "{:?} of {answer:?}", parsed.content);
        }
        if parsed.calls.is_empty() && parsed.reasoning.is_empty() && !answer.contains("<think>") {
            prop_assert_eq!(&parsed.content, &answer);
        }
        // Letters of text are in exactly one place.
        let count = |text: &str| text.matches('\u{1F642}').count();
        let calls: usize = parsed.calls.iter().map(|(name, arguments)| count(name) + count(arguments)).sum();
        let given = count(&parsed.reasoning) + count(&parsed.content) + calls;
        prop_assert!(given <= count(&answer));
    }

    #[test]
    fn complete_calls_come_back(
        texts in prop::collection::vec("[a-z<>{}\" \\\\]{0,12}", 1..4),
        arguments in prop::collection::vec(prop::collection::btree_map("[a-z\"<\u{e9}]{1,6}", "[a-z\"</>{}\n\\\\]{0,16}", 0..4), 1..4),
    ) {
        let calls: Vec<String> = arguments.iter().map(|a| json!(a).to_string()).collect();
        let hermes: String = calls.iter().map(|a| format!("<tool_call>\n{{\"name\": \"f\", \"arguments\": {a}}}\n</tool_call>\n")).collect();
        let deepseek: String = calls.iter().map(|a| format!("{CALL_BEGIN}f{SEPARATOR}{a}{CALL_END}")).collect();
        let before = texts.concat();
        for (format, answer) in [
            (ToolFormat::Hermes, format!("{before}{hermes}")),
            (ToolFormat::DeepSeekV31, format!("{before}{CALLS_BEGIN}{deepseek}{CALLS_END}")),
        ] {
            let parsed = parse_pieces(format, "", &[&answer]);
            let found: Vec<&str> = parsed.calls.iter().map(|(_, a)| a.as_str()).collect();
            prop_assert_eq!(&found, &calls);
            prop_assert_eq!(parsed.content, before.trim_end());
        }
    }
}

/// The last boundary between characters up to `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0)
}
