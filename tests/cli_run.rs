//! `oxling run` as its users meet it: on the built-in demo model, with pipes for terminals.

#![cfg(feature = "demo-model")]

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use tempfile::TempDir;

const FRANCE: &str = "The capital of France is";

/// `oxling run` with these flags, away from the settings of whoever runs the tests.
fn run(flags: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("oxling");
    for (name, _) in std::env::vars() {
        if name.starts_with("LLAMA_ARG_") || name.starts_with("OXLING_") {
            command.env_remove(name);
        }
    }
    // Threads that wait for each other on busy cores would only cost time.
    command.env("LLAMA_ARG_THREADS", "1").arg("run").args(flags);
    command
}

/// Exit code, stdout and stderr.
fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Stdout of a run that must succeed.
fn answer(command: &mut Command) -> String {
    let (code, stdout, stderr) = outcome(command);
    assert_eq!(code, Some(0), "{stderr}");
    stdout
}

#[test]
fn the_demo_model_answers_in_chat_and_completes_text() {
    let (code, stdout, stderr) = outcome(&mut run(&["-st", "-p", FRANCE]));
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "The capital of France is Paris.\n"),
        "{stderr}"
    );
    assert!(stderr.contains("built-in demo model"), "{stderr}");
    assert!(
        stderr.contains("[ Prompt: ") && stderr.contains(" t/s | Generation: "),
        "{stderr}"
    );

    let flags = [
        "-no-cnv",
        "--temp",
        "0",
        "-n",
        "4",
        "-p",
        "The capital city of France is",
    ];
    let (code, stdout, stderr) = outcome(&mut run(&flags));
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "The capital city of France is Paris.\n"),
        "{stderr}"
    );
    assert!(!stderr.contains("t/s"), "{stderr}");
    assert_eq!(answer(run(&flags).arg("--no-display-prompt")), " Paris.\n");
    assert!(outcome(run(&flags).arg("--show-timings")).2.contains("t/s"));
}

#[test]
fn a_seed_replays_an_answer() {
    let story = |seed: &str| {
        answer(&mut run(&[
            "-st",
            "--temp",
            "1.5",
            "-s",
            seed,
            "-p",
            "Tell me a story.",
        ]))
    };
    assert_eq!(story("7"), story("7"));
    assert!((8..12).any(|seed| story(&seed.to_string()) != story("7")));
    // How the prompt was cut into batches is no part of the answer.
    let cut = answer(&mut run(&[
        "-st",
        "--temp",
        "1.5",
        "-s",
        "7",
        "-ub",
        "3",
        "-p",
        "Tell me a story.",
    ]));
    assert_eq!(cut, story("7"));
}

#[test]
fn prompts_come_from_flags_files_and_stdin_alike() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("question.txt");
    std::fs::write(&file, format!("{FRANCE}\n")).unwrap();
    let file = file.to_str().unwrap();
    let expected = "The capital of France is Paris.\n";
    assert_eq!(
        answer(&mut run(&["-st", "--temp", "0", "-f", file])),
        expected
    );
    assert_eq!(
        answer(run(&["-st", "--temp", "0", "-f", "-"]).write_stdin(FRANCE)),
        expected
    );
    assert_eq!(
        answer(run(&["-st", "--temp", "0"]).write_stdin(format!("{FRANCE}\n"))),
        expected
    );
    assert_eq!(
        answer(run(&["-no-cnv", "-n", "0"]).write_stdin("a\nb\n")),
        "a\nb\n"
    );
}

#[test]
fn escapes_in_prompts_are_replaced_unless_told_otherwise() {
    let echo = |flags: &[&str]| answer(run(&["-no-cnv", "-n", "0"]).args(flags));
    assert_eq!(echo(&["-p", r"a\tb\\n"]), "a\tb\\n\n");
    assert_eq!(echo(&["--no-escape", "-p", r"a\tb"]), "a\\tb\n");
}

#[test]
fn a_pipe_brings_one_turn_per_line() {
    let turns = format!("{FRANCE}\n\nThe capital of \\\nFrance is\n");
    let paris = "The capital of France is Paris.\n";
    assert_eq!(
        answer(run(&["--temp", "0"]).write_stdin(turns.clone())),
        paris.repeat(2)
    );
    // -p is the turn before those.
    assert_eq!(
        answer(run(&["--temp", "0", "-p", FRANCE]).write_stdin(turns)),
        paris.repeat(3)
    );
}

#[test]
fn commands_work_in_a_pipe() {
    let dir = TempDir::new().unwrap();
    let saved = dir.path().join("chat.json");
    let saved = saved.to_str().unwrap();
    let script = format!("{FRANCE}\n/regen\n/save {saved}\n/exit\nnever read\n");
    let paris = "The capital of France is Paris.\n";
    assert_eq!(
        answer(run(&["--temp", "0", "-sys", "Be brief."]).write_stdin(script)),
        paris.repeat(2)
    );

    let text = std::fs::read_to_string(saved).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let roles: Vec<_> = json["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

    // The conversation goes on where it was, and a file's text goes before the next message.
    let part = dir.path().join("part.txt");
    std::fs::write(&part, "The capital").unwrap();
    let script = format!(
        "/load {saved}\n/regen\n/clear\n/set temp 0\n/read {}\n of France is\n",
        part.display()
    );
    let stdout = answer(run(&["--verbose-prompt"]).write_stdin(script));
    assert_eq!(
        stdout.lines().next(),
        Some("The capital of France is Paris.")
    );
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
}

#[test]
fn a_second_turn_is_answered_as_if_all_had_been_said_at_once() {
    let dir = TempDir::new().unwrap();
    let saved = dir.path().join("chat.json");
    let saved = saved.to_str().unwrap();
    let first = format!("{FRANCE}\n/save {saved}\nWhat is 12 plus 7?\n");
    let stdout = answer(run(&["--temp", "0"]).write_stdin(first));
    let at_once =
        answer(run(&["--temp", "0"]).write_stdin(format!("/load {saved}\nWhat is 12 plus 7?\n")));
    assert_eq!(stdout.lines().nth(1), at_once.lines().next());
}

#[test]
fn stop_texts_end_an_answer_and_are_not_shown() {
    let stopped = |stop: &str| answer(&mut run(&["-st", "--temp", "0", "-p", FRANCE, "-r", stop]));
    assert_eq!(stopped(" Paris"), "The capital of France is\n");
    assert_eq!(stopped("of Fr"), "The capital \n");
    assert_eq!(stopped("Parisian"), "The capital of France is Paris.\n");
}

#[test]
fn thoughts_go_to_stderr_unless_they_are_wanted_in_the_answer() {
    let flags = [
        "-st",
        "--temp",
        "0",
        "-rea",
        "on",
        "-p",
        "What is 2 plus 3?",
    ];
    let (code, stdout, stderr) = outcome(&mut run(&flags));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("The question is: "), "{stderr}");
    assert!(
        !stdout.contains("The question is: ") && !stdout.contains("think>"),
        "{stdout}"
    );
    let raw = answer(run(&flags).args(["--reasoning-format", "none"]));
    assert!(
        raw.starts_with("<think>\nThe question is: ") && raw.contains("\n</think>\n\n"),
        "{raw}"
    );
    assert!(raw.ends_with(&stdout), "{raw}");
}

#[test]
fn limits_end_an_answer() {
    let words = [
        "-no-cnv",
        "--temp",
        "0",
        "--ignore-eos",
        "-p",
        "In the beginning",
    ];
    let (code, stdout, stderr) = outcome(run(&words).args(["-c", "24"]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("context of 24 tokens is full"), "{stderr}");
    assert!(stdout.len() > 40, "{stdout}");
    assert_eq!(answer(run(&words).args(["-n", "0"])), "In the beginning\n");
}

#[test]
fn without_a_terminal_there_are_no_escape_sequences() {
    for flags in [
        &["-st", "-p", FRANCE][..],
        &["-st", "-p", FRANCE, "-rea", "on"],
        &["-st", "--nonsense"],
        &["--help"],
    ] {
        let (_, stdout, stderr) = outcome(&mut run(flags));
        assert!(
            !stdout.contains('\x1b') && !stderr.contains('\x1b'),
            "{flags:?}: {stderr}"
        );
    }
    let (_, stdout, stderr) = outcome(&mut run(&["-st", "-p", FRANCE, "-co", "on"]));
    assert!(
        stderr.contains('\x1b') && !stdout.contains('\x1b'),
        "{stderr}"
    );
}

/// Flags, what the error says, what the hint says.
const WRONG: &[(&[&str], &str, &str)] = &[
    (
        &["--temp", "hot"],
        "invalid value 'hot' for '--temp <N>'",
        "--help",
    ),
    (
        &["--color", "blue"],
        "invalid value 'blue'",
        "on, off, auto",
    ),
    (&["--tmp", "1"], "unexpected argument '--tmp'", "--temp"),
    (
        &["-fa", "-st"],
        "a value is required for '--flash-attn",
        "on, off, auto",
    ),
    (
        &["-ncmoe", "-1"],
        "invalid value '-1' for '--n-cpu-moe <N>'",
        "--help",
    ),
    (
        &["-ub", "0"],
        "invalid value '0' for '--ubatch-size <N>'",
        "--help",
    ),
    (&["-ctv", "q8_0"], "-ctv differs from -ctk", "-ctk"),
    (&["-temp", "1"], "unknown flag `-temp`", "--temp"),
    (&["-m", "no.gguf"], "no.gguf", "check the path"),
    (&["-f", "no.txt"], "cannot read no.txt", "check the path"),
    (&["-p", "a", "-f", "b"], "cannot be used with", "--help"),
    (
        &["-p", "a", "--samplers", "magic"],
        "unknown sampler",
        "known samplers",
    ),
    (
        &["-p", "a", "-c", "3"],
        "tokens, the context holds 3",
        "-c N",
    ),
    (
        &["-p", "a", "--chat-template", "none"],
        "unknown chat template",
        "known are",
    ),
    (
        &["-p", "a", "--chat-template", "{% if %}"],
        "chat template, line 1",
        "--chat-template NAME",
    ),
    (
        &["-p", "a", "--chat-template-kwargs", "[]"],
        "--chat-template-kwargs",
        "JSON object",
    ),
    (&["-p", "a", "-dev", "Abacus0"], "Abacus0", "--list-devices"),
    (&["-p", r"\xff"], "UTF-8", "--no-escape"),
    (&["-no-cnv", "-p", ""], "the prompt is empty", "-p TEXT"),
    (
        &["--draft-max", "3"],
        "`--draft-max` is not a flag here",
        "--spec-draft-n-max",
    ),
    (&["--no-mmap"], "`--no-mmap` is not a flag here", "-lm none"),
    (
        &["--draft-min", "3"],
        "`--draft-min` is not a flag here",
        "--spec-draft-n-min",
    ),
    (
        &["--spec-draft-n-min", "4"],
        "fewest drafts",
        "--spec-draft-n-max",
    ),
    (
        &["--spec-synth-rates", "0.9,2"],
        "draft probability",
        "0 to 1",
    ),
    (&["-mu", "a/b"], "`-mu` is not supported yet", ""),
];

#[test]
fn speculation_changes_the_speed_and_not_the_text() {
    let story = ["-st", "-p", "Tell me a story.", "-s", "7", "-n", "48"];
    let with = |more: &[&str]| outcome(&mut run(&[&story, more].concat()));
    let (code, text, stderr) = with(&["--spec-type", "none"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("Drafts"), "{stderr}");
    for flags in [
        vec!["--spec-type", "auto", "--no-spec-adapt"],
        vec!["--spec-type", "draft-mtp", "--spec-draft-n-max", "1"],
        vec!["--spec-type", "ngram", "--no-spec-adapt"],
        vec!["--spec-type", "mtp", "--spec-draft-p-min", "0.5"],
    ] {
        let (_, same, stderr) = with(&flags);
        assert_eq!(text, same, "{flags:?}: {stderr}");
    }
    let (_, _, stderr) = with(&["--spec-type", "mtp", "--no-spec-adapt"]);
    assert!(
        stderr.contains(" accepted, ") && stderr.contains(" tokens per step ]"),
        "{stderr}"
    );
    let (_, _, stderr) = with(&[
        "--spec-type",
        "mtp",
        "--no-spec-adapt",
        "--spec-synth-rates",
        "0",
        "--ignore-eos",
    ]);
    assert!(stderr.contains("Drafts: 0 of "), "{stderr}");
}

#[test]
fn what_is_wrong_is_said_in_one_line_with_a_hint() {
    for (flags, error, hint) in WRONG {
        let (code, stdout, stderr) = outcome(run(flags).write_stdin(""));
        assert_eq!(
            (code, stdout.as_str()),
            (Some(1), ""),
            "{flags:?}: {stderr}"
        );
        let lines: Vec<&str> = stderr
            .lines()
            .filter(|line| !line.starts_with("using the built-in"))
            .collect();
        assert_eq!(lines.len(), 2, "{flags:?}: {stderr}");
        assert!(
            lines[0].starts_with("error: ") && lines[0].contains(error),
            "{flags:?}: {stderr}"
        );
        assert!(
            lines[1].starts_with("hint: ") && lines[1].contains(hint),
            "{flags:?}: {stderr}"
        );
    }
}

#[test]
fn flags_are_read_as_llama_cpp_reads_them() {
    let answer_of = |flags: &[&str]| answer(&mut run(&[&["-st", "-p", FRANCE], flags].concat()));
    let expected = answer_of(&["--temp", "0", "-n", "4"]);
    for flags in [
        &["--temp", "0", "-n", "4", "-t", "-1", "-tb", "-1"][..],
        &["--temp", "1", "--temp", "0", "-n", "9", "-n", "4"],
        &["--temp", "-.5", "-n", "4"],
        &["--temp", "0", "-n", "4", "-st", "-fa", "-1"],
    ] {
        assert_eq!(answer_of(flags), expected, "{flags:?}");
    }
    let (_, _, stderr) = outcome(&mut run(&["-st", "-p", FRANCE, "--top-p", "-1"]));
    assert!(
        stderr.contains("top_p is -1, allowed is 0 to 1"),
        "{stderr}"
    );
    for (name, value) in [
        ("LLAMA_ARG_THREADS", "-1"),
        ("LLAMA_ARG_OFFLINE", "enabled"),
        ("LLAMA_ARG_FLASH_ATTN", "enabled"),
    ] {
        let mut command = run(&["-st", "-p", FRANCE, "--temp", "0", "-n", "4"]);
        assert_eq!(answer(command.env(name, value)), expected, "{name}");
    }
}

#[test]
fn a_wrong_environment_variable_is_named() {
    for (name, value) in [
        ("LLAMA_ARG_CTX_SIZE", ""),
        ("LLAMA_ARG_OFFLINE", "maybe"),
        ("LLAMA_ARG_FLASH_ATTN", ""),
    ] {
        let (code, _, stderr) = outcome(run(&["-st", "-p", "x"]).env(name, value));
        assert_eq!(code, Some(1), "{name}");
        let start = format!("error: {name}: ");
        assert!(stderr.starts_with(&start), "{stderr}");
    }
    // What the flag says counts, and the flag is to blame.
    let mut command = run(&["-st", "-p", "x", "-c", "many"]);
    let (_, _, stderr) = outcome(command.env("LLAMA_ARG_CTX_SIZE", "512"));
    assert!(
        stderr.starts_with("error: invalid value 'many'"),
        "{stderr}"
    );
}

/// Starts an answer without end, waits for its first byte, and sends a signal.
#[cfg(unix)]
#[test]
fn a_signal_stops_an_answer_and_leaves() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        stop_by(signal, code);
    }
}

#[cfg(unix)]
fn stop_by(signal: &str, code: i32) {
    use std::io::Read;
    use std::process::{Command, Stdio};

    let flags = [
        "run",
        "-t",
        "1",
        "-st",
        "--ignore-eos",
        "-p",
        "Tell me a story.",
    ];
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("oxling"))
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(code));
    assert_eq!(output.stdout.last(), Some(&b'\n'));
    assert!(String::from_utf8_lossy(&output.stderr).contains("t/s"));
}

#[test]
fn an_error_in_a_pipe_ends_the_chat() {
    let (code, stdout, stderr) =
        outcome(run(&["--temp", "0"]).write_stdin(format!("{FRANCE}\n/nonsense\n{FRANCE}\n")));
    assert_eq!((code, stdout.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("error: no command /nonsense"), "{stderr}");
}

#[test]
fn help_names_the_flags_of_llama_cpp_and_shows_examples() {
    let help = answer(&mut run(&["--help"]));
    for word in [
        "--n-gpu-layers",
        "[-ngl]",
        "--temp",
        "[default: -1]",
        "Sampling",
        "Examples:",
        "LLAMA_ARG_MODEL",
    ] {
        assert!(help.contains(word), "{word}");
    }
    assert!(answer(&mut run(&["--version"])).starts_with("oxling "));
    assert!(answer(&mut run(&["--list-devices"])).contains("  CPU: "));
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = answer(cargo_bin_cmd!("oxling").args(["completions", shell]));
        assert!(
            script.contains("oxling") && script.contains("single-turn"),
            "{shell}"
        );
    }
}
