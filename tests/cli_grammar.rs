//! `oxling run` with grammars and schemas, on the built-in demo model.

#![cfg(feature = "demo-model")]

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::Value;

/// `oxling run` with these flags, away from the settings of whoever runs the tests: exit code, stdout and stderr.
fn run(flags: &[&str]) -> (Option<i32>, String, String) {
    let mut command: Command = cargo_bin_cmd!("oxling");
    for (name, _) in std::env::vars() {
        if name.starts_with("LLAMA_ARG_") || name.starts_with("OXLING_") {
            command.env_remove(name);
        }
    }
    command.env("LLAMA_ARG_THREADS", "1").arg("run").args(flags);
    let output = command.output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

const ASK: [&str; 6] = [
    "-st",
    "-p",
    "Where is France?",
    "-n",
    "300",
    "--no-show-timings",
];

/// Stdout of one answer under these flags.
fn answer(flags: &[&str]) -> String {
    let (code, stdout, stderr) = run(&[&ASK[..], flags].concat());
    assert_eq!(code, Some(0), "{stderr}");
    stdout
}

/// A bias makes the model begin a thought wherever it may.
#[test]
fn a_model_that_must_not_think_answers_at_once() {
    let tokens = Command::new(assert_cmd::cargo::cargo_bin!("oxling"))
        .args(["tokenize", "-p", "<think>", "--ids"])
        .output()
        .expect("it starts");
    let ids: Vec<u32> = serde_json::from_slice(&tokens.stdout).expect("a list");
    assert_eq!(ids.len(), 1, "a token of its own");
    let bias = format!("{}+1000", ids[0]);
    let flags = ["--grammar", "root ::= \"yes\"", "-l", &bias];
    let thought = |flags: &[&str]| {
        let flags = [&ASK[..3], &["-n", "8", "--no-show-timings"], flags].concat();
        let (code, stdout, stderr) = run(&flags);
        assert_eq!(code, Some(0), "{stderr}");
        (stdout, stderr)
    };
    assert_ne!(thought(&flags).0, "yes\n", "it could think");
    for off in [
        ["-rea", "off"],
        ["--reasoning-effort", "none"],
        ["--chat-template-kwargs", "{\"enable_thinking\": false}"],
    ] {
        let (stdout, stderr) = thought(&[&flags[..], &off[..]].concat());
        assert_eq!(stdout, "yes\n", "{off:?}: {stderr}");
    }
}

#[test]
fn answers_obey_grammars_and_schemas() {
    let dir = tempfile::tempdir().expect("a folder");
    let grammar = dir.path().join("yes.gbnf");
    std::fs::write(&grammar, "root ::= \"yes\" | \"no\" # or so\n").expect("writes");
    let schema = dir.path().join("schema.json");
    let source = r#"{"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"], "additionalProperties": false}"#;
    std::fs::write(&schema, source).expect("writes");
    let (grammar, schema) = (grammar.to_string_lossy(), schema.to_string_lossy());

    assert!(["yes\n", "no\n"].contains(&answer(&["--grammar-file", &grammar]).as_str()));
    assert_eq!(
        answer(&["--grammar", "root ::= \"in\" \" Europe\""]),
        "in Europe\n"
    );
    for flags in [
        ["--json-schema", source],
        ["-j", source],
        ["--json-schema-file", &schema],
        ["-jf", &schema],
    ] {
        let text = answer(&flags);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(
            (0..=9).contains(&value["n"].as_i64().expect("a number")),
            "{text}"
        );
    }
    let flags = [
        "-no-cnv",
        "-p",
        "The capital of France is",
        "--grammar",
        "root ::= \" R\" [a-z]+ \".\"",
    ];
    let (code, stdout, stderr) = run(&flags);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.starts_with("The capital of France is R") && stdout.ends_with(".\n"),
        "{stdout}"
    );
}

#[test]
fn wrong_grammars_are_errors_that_say_where() {
    let cases: [(&[&str], &str); 5] = [
        (
            &["--grammar", "root ::= \"a"],
            "error: grammar, line 1, column 12: the grammar ends too early",
        ),
        (&["-j", "{"], "error: --json-schema: EOF while parsing"),
        (
            &["-j", r#"{"type": "thing"}"#],
            "error: JSON schema: Invalid type: thing",
        ),
        (&["--grammar-file", "/nowhere/x.gbnf"], "/nowhere/x.gbnf"),
        (
            &["--grammar", "root ::= \"a\"", "-j", "{}"],
            "cannot be used with",
        ),
    ];
    for (flags, message) in cases {
        let (code, stdout, stderr) = run(&[&ASK[..], flags].concat());
        assert_ne!(code, Some(0), "{flags:?}");
        assert!(
            stdout.is_empty() && stderr.contains(message),
            "{flags:?}: {stderr}"
        );
    }
}
