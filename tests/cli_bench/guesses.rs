//! Tests that guess ahead, beside the same text without guesses.

use serde_json::Value;

use super::{FIELDS, cells, keys, outputs, refusal};

/// Fields of tests that guess ahead, behind all others.
const GUESS_FIELDS: [&str; 6] = [
    "spec_type",
    "spec_n_max",
    "spec_acceptance",
    "spec_mean_len",
    "avg_ts_plain",
    "spec_ratio",
];
/// Of these, the ones that are null where nothing was guessed.
const BROUGHT: [&str; 4] = [
    "spec_acceptance",
    "spec_mean_len",
    "avg_ts_plain",
    "spec_ratio",
];

/// A prompt and generation, guesses always as many as allowed.
const GUESSING: [&str; 16] = [
    "bench",
    "-dev",
    "none",
    "-t",
    "1",
    "-p",
    "8",
    "-n",
    "24",
    "-r",
    "2",
    "--no-spec-adapt",
    "--spec-draft-n-max",
    "1-2",
    "--spec-type",
    "none,mtp,ngram",
];

fn json_rows(args: &[&str]) -> Vec<Value> {
    let (out, _) = outputs(&[args, &["-o", "json"]].concat());
    serde_json::from_str(&out).unwrap()
}

#[test]
fn bench_shows_what_guesses_bring_beside_plain_generation() {
    let list = json_rows(&[&GUESSING[..], &["-pg", "8,16", "-d", "0,40"]].concat());
    let mut seen = Vec::new();
    for row in &list {
        let all = [&FIELDS[..], &GUESS_FIELDS, &["samples_ns", "samples_ts"]].concat();
        assert_eq!(keys(row), all);
        let (ty, n_max) = (row["spec_type"].as_str().unwrap(), &row["spec_n_max"]);
        seen.push(format!("{ty} {n_max} {}", row["n_gen"]));
        if ty == "none" || row["n_gen"] == 0 {
            assert!(BROUGHT.iter().all(|f| row[*f].is_null()), "{row}");
            assert_eq!(n_max.is_null(), ty == "none");
            continue;
        }
        let number = |key: &str| row[key].as_f64().unwrap();
        let quotient = number("avg_ts") / number("avg_ts_plain");
        assert!(
            (number("spec_ratio") / quotient - 1.0).abs() < 1e-9,
            "{row}"
        );
        let length = number("spec_mean_len");
        assert!(
            (1.0..=1.0 + n_max.as_f64().unwrap()).contains(&length),
            "{row}"
        );
        // The head is right more often than not on plain prose; nothing random would be.
        assert!(ty != "mtp" || number("spec_acceptance") > 0.3, "{row}");
    }
    // A test without guesses is one test, however many guesses others may have.
    let settings = ["none null", "mtp 1", "mtp 2", "ngram 1", "ngram 2"];
    let tests = [0, 24, 16, 0, 24, 16];
    let each = settings
        .iter()
        .flat_map(|s| tests.map(|n| format!("{s} {n}")));
    assert_eq!(seen, each.collect::<Vec<_>>());
}

#[test]
fn bench_fakes_acceptance_as_asked() {
    for (rates, acceptance, length) in [("1", 1.0, 3.0), ("0", 0.0, 1.0)] {
        let row = &json_rows(
            &[
                &GUESSING[..14],
                &["--spec-type", "mtp", "--spec-synth-rates", rates],
            ]
            .concat(),
        )[3];
        let number = |key: &str| row[key].as_f64().unwrap();
        assert_eq!((number("n_gen"), number("spec_n_max")), (24.0, 2.0));
        // 24 tokens in steps of three: 8 of them, all full or all with one right token.
        assert_eq!(
            (number("spec_acceptance"), number("spec_mean_len")),
            (acceptance, length),
            "{row}"
        );
    }
}

#[test]
fn bench_prints_guesses_in_every_format() {
    let args = [&GUESSING[..12], &["--spec-type", "none,mtp"]].concat();
    let (out, _) = outputs(&args);
    let heading = out.lines().next().unwrap();
    let columns: Vec<&str> = heading
        .trim_matches('|')
        .split('|')
        .map(str::trim)
        .collect();
    assert_eq!(
        columns[5..],
        [
            "dev", "spec", "n_max", "test", "t/s", "plain", "ratio", "right", "len"
        ]
    );
    let rows = cells(&out);
    assert_eq!(rows.len(), 4);
    for row in &rows {
        let guessed = row[6] == "mtp" && row[8] == "tg24";
        assert!(row[10..].iter().all(|c| c.is_empty() != guessed), "{row:?}");
    }

    let (out, _) = outputs(&[&args[..], &["-o", "csv"]].concat());
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], [&FIELDS[..], &GUESS_FIELDS].concat().join(","));
    assert!(lines[1].ends_with(",\"none\",,,,,"), "{out}");
    let values = lines[4].rsplit(',').take(4);
    assert!(
        values
            .into_iter()
            .all(|v| v.trim_matches('"').parse::<f64>().is_ok()),
        "{out}"
    );

    let (out, _) = outputs(&[&args[..], &["-o", "sql"]].concat());
    for typed in [
        "spec_type TEXT",
        "spec_n_max INTEGER",
        "spec_ratio REAL",
        ", 'none', NULL, NULL, NULL, NULL, NULL)",
    ] {
        assert!(out.contains(typed), "{typed}: {out}");
    }
}

#[test]
fn bench_compares_guesses_with_the_same_guesses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.json");
    let entry = |spec: Value, rate: f64| {
        let mut entry = serde_json::json!({ "model_filename": "x", "n_prompt": 0, "n_gen": 24, "n_depth": 0,
            "avg_ts": rate, "stddev_ts": 0.0 });
        let more = spec.as_object().unwrap().clone();
        entry.as_object_mut().unwrap().extend(more);
        entry
    };
    let none = || serde_json::json!({});
    let with = |n: u32| serde_json::json!({ "spec_type": "mtp", "spec_n_max": n });
    let other = serde_json::json!([entry(with(1), 1e6), entry(none(), 2e6), entry(with(2), 3e6)]);
    std::fs::write(&path, other.to_string()).unwrap();
    let compare = ["-p", "0", "--compare", path.to_str().unwrap()];
    let (out, _) = outputs(&[&GUESSING[..], &compare].concat());
    let (_, compared) = out.split_once("against ").unwrap();
    let rows: Vec<&str> = compared
        .lines()
        .filter(|l| l.trim_start().starts_with("tg24"))
        .collect();
    // Look-up has no entry of its own: the difference is said.
    let expected = [
        ("2000000", None),
        ("1000000", None),
        ("3000000", None),
        ("1000000", Some("mtp")),
        ("3000000", Some("mtp")),
    ];
    assert_eq!(rows.len(), expected.len(), "{compared}");
    for (row, (rate, told)) in rows.iter().zip(expected) {
        assert!(row.contains(rate), "{row}");
        assert_eq!(row.contains("spec_type"), told.is_some(), "{row}");
    }
}

#[test]
fn bench_says_why_it_cannot_guess() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("headless.gguf");
    let path = path.to_str().unwrap();
    outputs(&["synth", "--like", "tiny-ling", "--no-mtp", "-o", path]);
    let cases: [(&[&str], &str); 4] = [
        (&["--spec-type", "mtp", "-m", path], "no MTP head"),
        (
            &["--spec-type", "mtp", "--spec-draft-n-max", "17"],
            "0 to 16",
        ),
        (&["--spec-type", "mtp", "--spec-synth-rates", "2"], "0 to 1"),
        (&["--spec-type", "draft-eagle3"], "not built"),
    ];
    for (args, wanted) in cases {
        let error = refusal(&[&["bench", "-t", "1", "-p", "0", "-n", "4"], args].concat());
        assert!(
            error.contains(wanted) && error.contains("hint: "),
            "{args:?}: {error}"
        );
    }
    // `auto` is no guesses then.
    let (out, _) = outputs(&[
        "bench",
        "-t",
        "1",
        "-p",
        "0",
        "-n",
        "4",
        "-r",
        "1",
        "--spec-type",
        "auto",
        "-m",
        path,
        "-o",
        "jsonl",
    ]);
    let row: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(
        (&row["spec_type"], &row["spec_ratio"]),
        (&"none".into(), &Value::Null)
    );
}
