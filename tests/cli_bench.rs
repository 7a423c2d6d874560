//! The commands that measure speed, on the demo model with few tokens: what they print, not how fast they are.

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::Value;

/// Keys of llama-batched-bench's JSON lines, in its order.
const BATCHED_KEYS: [&str; 18] = [
    "n_kv_max",
    "n_batch",
    "n_ubatch",
    "flash_attn",
    "is_pp_shared",
    "n_gpu_layers",
    "n_threads",
    "n_threads_batch",
    "pp",
    "tg",
    "pl",
    "n_kv",
    "t_pp",
    "speed_pp",
    "t_tg",
    "speed_tg",
    "t",
    "speed",
];

/// `oxling` with these arguments on one thread, in a small context.
fn oxling(args: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("oxling");
    for (name, _) in std::env::vars() {
        if name.starts_with("LLAMA_ARG_") || name.starts_with("OXLING_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1").args(args);
    command
}

/// Stdout and stderr of a command that must succeed.
fn outputs(args: &[&str]) -> (String, String) {
    let output = oxling(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    (String::from_utf8(output.stdout).unwrap(), stderr)
}

/// What a command that must fail says.
fn refusal(args: &[&str]) -> String {
    let output = oxling(args).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert!(stderr.contains("error: "), "{args:?}: {stderr}");
    stderr
}

/// Values of the rows of a Markdown table, its two heading lines left out.
fn cells(table: &str) -> Vec<Vec<String>> {
    let rows = table.lines().filter(|l| l.starts_with('|')).skip(2);
    let cells = |l: &str| {
        l.trim_matches('|')
            .split('|')
            .map(|c| c.trim().to_owned())
            .collect()
    };
    rows.map(cells).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

const SWEEP: [&str; 13] = [
    "batched-bench",
    "-t",
    "1",
    "-c",
    "48",
    "-npp",
    "4,8-16*2",
    "-ntg",
    "3",
    "-npl",
    "1,2",
    "-ub",
    "8",
];

#[test]
fn batched_bench_prints_llama_batched_benchs_table() {
    let (out, err) = outputs(&[&SWEEP[..], &["-npp", "46"]].concat());
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[1],
        "llama_batched_bench: n_kv_max = 48, n_batch = 2048, n_ubatch = 8, flash_attn = -1, is_pp_shared = 0, \
         is_tg_separate = 0, n_gpu_layers = -1, n_threads = 1, n_threads_batch = 1"
    );
    assert_eq!(
        lines[3],
        "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |"
    );
    assert_eq!(
        lines[4],
        "|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|"
    );
    let rows = cells(&out);
    let counts: Vec<String> = rows.iter().map(|r| r[..4].join(" ")).collect();
    assert_eq!(
        counts,
        [
            "4 3 1 7",
            "4 3 2 14",
            "8 3 1 11",
            "8 3 2 22",
            "16 3 1 19",
            "16 3 2 38"
        ]
    );
    for row in &rows {
        let value = |i: usize| row[i].parse::<f64>().unwrap();
        assert!([5, 7, 9].iter().all(|&i| value(i) > 0.0), "{row:?}");
        // Times are rounded to a millisecond.
        assert!((value(4) + value(6) - value(8)).abs() < 0.0021, "{row:?}");
    }
    assert!(
        err.contains("left out 2 of 8 rows that need more than 48 tokens"),
        "{err}"
    );
}

#[test]
fn batched_bench_prints_llama_batched_benchs_json() {
    let variants: [(&[&str], f64); 3] = [(&[], 2.0), (&["-pps"], 1.0), (&["-tgs"], 2.0)];
    for (flags, prompts) in variants {
        let (out, _) = outputs(&[&SWEEP[..], &["--output_format", "jsonl"], flags].concat());
        let rows: Vec<Value> = out
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(rows.len(), 6, "{flags:?}");
        for row in &rows {
            assert_eq!(keys(row), BATCHED_KEYS);
            let n = |key: &str| row[key].as_f64().unwrap();
            assert_eq!(n("n_kv"), n("pl") * (n("pp") + n("tg")));
            assert_eq!(n("is_pp_shared") == 1.0, flags == ["-pps"]);
            let prompts = if n("pl") == 1.0 { 1.0 } else { prompts };
            // The file rounds times to microseconds.
            let rate = prompts * n("pp") / n("t_pp");
            assert!(
                (rate / n("speed_pp") - 1.0).abs() < 0.01,
                "{flags:?}: {row}"
            );
            let rate = n("pl") * n("tg") / n("t_tg");
            assert!(
                (rate / n("speed_tg") - 1.0).abs() < 0.01,
                "{flags:?}: {row}"
            );
        }
    }
}

/// Checks that tags are closed in order and attributes quoted; gives the names of the elements.
fn elements(xml: &str) -> Vec<String> {
    let (mut open, mut all) = (Vec::new(), Vec::new());
    for part in xml.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        assert!(
            !text.contains('>') || open.last() == Some(&"style"),
            "{part}"
        );
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{part}");
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap();
        assert_eq!(
            tag.matches('"').count(),
            2 * tag.matches("=\"").count(),
            "{tag}"
        );
        all.push(name.to_owned());
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
    all
}

#[test]
fn batched_bench_draws_every_row_in_both_charts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sweep.svg");
    outputs(&[&SWEEP[..], &["--plot", path.to_str().unwrap()]].concat());
    let drawing = std::fs::read_to_string(&path).unwrap();
    let elements = elements(&drawing);
    let count = |name: &str| elements.iter().filter(|e| *e == name).count();
    assert_eq!(
        (count("svg"), count("polyline"), count("circle")),
        (1, 4, 12)
    );
    assert!(drawing.contains("prefers-color-scheme: dark") && drawing.contains("batch 2"));

    let nowhere = folder.path().join("no/sweep.svg");
    let error = refusal(&[&SWEEP[..], &["--plot", nowhere.to_str().unwrap()]].concat());
    assert!(error.contains("cannot write"), "{error}");
}

#[test]
fn batched_bench_refuses_what_cannot_be_measured() {
    let cases: [(&str, &str); 6] = [
        ("-npp 8 -ntg 4 -c 11", "the smallest needs -c 12"),
        ("-npp 8 -ntg 4 -npl 0", "no sequence"),
        ("-npp 0 -ntg 0", "nothing to compute"),
        ("-npp 8-4 -ntg 4", "ends before it starts"),
        (
            "-npp 4294967295 -ntg 4294967295 -npl 4294967295",
            "no row fits",
        ),
        ("-npp 8", "--ntg"),
    ];
    for (args, wanted) in cases {
        let args: Vec<&str> = ["batched-bench"]
            .into_iter()
            .chain(args.split(' '))
            .collect();
        let error = refusal(&args);
        assert!(error.contains(wanted), "{args:?}: {error}");
    }
}
