//! The commands that measure speed, on the demo model with few tokens: what they print, not how fast they are.

#[path = "common/demo.rs"]
mod demo;
#[path = "cli_bench/guesses.rs"]
mod guesses;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use oxling::bench::{Cell, CellOptions, Test, profile_test, run_cell, run_test, warm_up};
use oxling::engine::{Engine, EngineConfig};
use oxling::memory::SeqId;
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

/// Fields of llama-bench in its order, and `kernels` of ours; JSON has the samples beside them.
const FIELDS: [&str; 43] = [
    "build_commit",
    "build_number",
    "cpu_info",
    "gpu_info",
    "backends",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_batch",
    "n_ubatch",
    "n_threads",
    "cpu_mask",
    "cpu_strict",
    "poll",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "n_cpu_moe",
    "split_mode",
    "main_gpu",
    "no_kv_offload",
    "flash_attn",
    "kernels",
    "devices",
    "tensor_split",
    "tensor_buft_overrides",
    "load_mode",
    "lazy_mode",
    "embeddings",
    "no_op_offload",
    "no_host",
    "repack",
    "fit_target",
    "fit_min_ctx",
    "n_prompt",
    "n_gen",
    "n_depth",
    "test_time",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
];

/// Small tests: a prompt, generation and both, at two depths.
const BENCH: [&str; 15] = [
    "bench", "-dev", "none", "-t", "1", "-p", "8", "-n", "2", "-pg", "8,2", "-d", "0,5", "-r", "2",
];
const NAMES: [&str; 6] = [
    "pp8",
    "tg2",
    "pp8+tg2",
    "pp8 @ d5",
    "tg2 @ d5",
    "pp8+tg2 @ d5",
];

#[test]
fn bench_prints_llama_benchs_json() {
    let (out, _) = outputs(&[&BENCH[..], &["-o", "json"]].concat());
    let list: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(list.len(), NAMES.len());
    for result in &list {
        assert_eq!(
            keys(result),
            [&FIELDS[..], &["samples_ns", "samples_ts"]].concat()
        );
        let samples = |key: &str| -> Vec<f64> {
            let list = result[key].as_array().unwrap();
            list.iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let (ns, ts) = (samples("samples_ns"), samples("samples_ts"));
        assert_eq!(ns.len(), 2);
        let tokens = result["n_prompt"].as_f64().unwrap() + result["n_gen"].as_f64().unwrap();
        for (ns, ts) in ns.iter().zip(&ts) {
            assert!((ts * ns / 1e9 / tokens - 1.0).abs() < 1e-6, "{result}");
        }
        let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
        assert!((result["avg_ns"].as_f64().unwrap() - mean(&ns)).abs() <= 1.0);
        assert!((result["avg_ts"].as_f64().unwrap() / mean(&ts) - 1.0).abs() < 1e-9);
    }
}

#[test]
fn bench_prints_every_format_of_llama_bench() {
    let (out, _) = outputs(&BENCH);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0],
        "| model                          |       size |     params | backend    | threads | dev          |            test |                  t/s |"
    );
    assert_eq!(
        lines[1],
        "| ------------------------------ | ---------: | ---------: | ---------- | ------: | ------------ | --------------: | -------------------: |"
    );
    let rows = cells(&out);
    assert_eq!(
        rows.iter().map(|r| r[6].as_str()).collect::<Vec<_>>(),
        NAMES
    );
    for row in &rows {
        assert!(
            row[0].starts_with("bailing_hybrid") && row[0].ends_with("IQ4_NL"),
            "{row:?}"
        );
        let (mean, spread) = row[7].split_once(" ± ").unwrap();
        assert!(mean.parse::<f64>().unwrap() > 0.0 && spread.parse::<f64>().unwrap() >= 0.0);
    }
    assert!(lines.last().unwrap().starts_with("build: "));

    let (out, err) = outputs(&[&BENCH[..], &["-o", "csv", "-oe", "jsonl"]].concat());
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines.len(), lines[0]), (7, FIELDS.join(",").as_str()));
    assert!(
        lines[1..]
            .iter()
            .all(|l| l.split("\",\"").count() == FIELDS.len()),
        "{out}"
    );
    let objects = err.lines().filter(|l| l.starts_with('{'));
    let objects: Vec<Value> = objects.map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(objects.len(), NAMES.len());

    let (out, _) = outputs(&[
        "bench", "-t", "1", "-p", "4", "-n", "0", "-r", "1", "-o", "sql",
    ]);
    let (create, insert) = out.split_once("\n);\n\n").unwrap();
    let mut columns = create.lines();
    assert_eq!(
        columns.next(),
        Some("CREATE TABLE IF NOT EXISTS llama_bench (")
    );
    let columns: Vec<&str> = columns
        .map(|l| l.trim().split(' ').next().unwrap())
        .collect();
    assert_eq!(columns, FIELDS);
    for typed in [
        "build_number INTEGER",
        "cpu_strict INTEGER",
        "avg_ts REAL",
        "type_k TEXT",
    ] {
        assert!(create.contains(typed), "{typed}: {create}");
    }
    assert!(
        insert.starts_with("INSERT INTO llama_bench (build_commit, "),
        "{insert}"
    );
}

#[test]
fn bench_tries_every_value_with_every_other() {
    let lists = "-t 1 -p 2-4+2 -n 0 -r 1 -ub 4,8 -ctk f16,f32 -fa off --no-warmup -o jsonl";
    let args: Vec<&str> = ["bench"].into_iter().chain(lists.split(' ')).collect();
    let (out, _) = outputs(&args);
    let setups: Vec<String> = out
        .lines()
        .map(|l| {
            let v: Value = serde_json::from_str(l).unwrap();
            let text = |key: &str| v[key].to_string().replace('"', "");
            ["n_ubatch", "type_k", "flash_attn", "n_prompt"]
                .map(text)
                .join(" ")
        })
        .collect();
    let expected = [
        "4 f16 0 2",
        "4 f16 0 4",
        "4 f32 0 2",
        "4 f32 0 4",
        "8 f16 0 2",
        "8 f16 0 4",
        "8 f32 0 2",
        "8 f32 0 4",
    ];
    assert_eq!(setups, expected);
}

/// Checks the table of parts of the network: its shares are all of the time, and those beside products are the last line's.
fn shares_add_up(out: &str) {
    let (_, parts) = out.split_once("part of the network").unwrap();
    let (parts, last) = parts.split_once("not products with weights: ").unwrap();
    let share = |l: &str| -> f64 {
        let cells: Vec<&str> = l.split_whitespace().collect();
        assert_eq!(cells.last(), Some(&"%"), "{l}");
        cells[cells.len() - 2].parse().unwrap()
    };
    let rows: Vec<&str> = parts.lines().skip(1).filter(|l| !l.is_empty()).collect();
    let products = [
        "experts",
        "projections",
        "dense",
        "output",
        "rounding",
        "other matrices",
    ];
    let beside = |l: &&&str| !products.iter().any(|p| l.trim_start().starts_with(p));
    // Each share is rounded to a tenth.
    let slack = 0.05 * (rows.len() + 1) as f64;
    let all: f64 = rows.iter().map(|l| share(l)).sum();
    let rest: f64 = rows.iter().filter(beside).map(|l| share(l)).sum();
    let told: f64 = last.split(' ').next().unwrap().parse().unwrap();
    assert!(
        (all - 100.0).abs() < slack && (rest - told).abs() < slack,
        "{out}"
    );
    // The model has all of these, and a prompt computes them.
    for part in [
        "experts",
        "projections",
        "dense",
        "output",
        "router",
        "norms",
        "rope",
        "scan",
        "attention ",
    ] {
        assert!(
            rows.iter().any(|l| l.trim_start().starts_with(part)),
            "{part}: {out}"
        );
    }
    let largest = rows.iter().max_by(|a, b| share(a).total_cmp(&share(b)));
    assert!(
        largest.is_some_and(|l| !l.contains("other matrices")),
        "{out}"
    );
}

#[test]
fn bench_knows_llama_benchs_small_flags() {
    let devices = outputs(&["bench", "--list-devices"]).0;
    assert!(devices.starts_with("Available devices:\n  "), "{devices}");
    let short = ["bench", "-p", "4", "-n", "0", "-r", "1", "-o", "csv"];
    let more = ["-mmp", "0,1", "--progress", "--delay", "1"];
    let start = std::time::Instant::now();
    let (out, err) = outputs(&[&short[..], &more].concat());
    assert!(start.elapsed().as_secs_f64() > 1.0, "no rest between tests");
    assert_eq!(out.lines().count(), 3, "{out}");
    for test in ["test 1 of 2: pp4", "test 2 of 2: pp4"] {
        assert!(err.lines().any(|line| line.starts_with(test)), "{err}");
    }
    assert!(!err.contains('\x1b'), "{err}");
    let refused = refusal(&[&short[..], &["-mmp", "1", "-lm", "none"]].concat());
    assert!(refused.contains("cannot be used with"), "{refused}");
}

#[test]
fn bench_compares_with_earlier_results_and_shows_operations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.json");
    let entry = |n_prompt: u32, threads: u32, rate: f64| {
        serde_json::json!({ "model_filename": "x/y.gguf", "n_prompt": n_prompt, "n_gen": 0, "n_depth": 0,
            "n_threads": threads, "avg_ts": rate, "stddev_ts": 0.0 })
    };
    let other = serde_json::json!([entry(4, 7, 1e-3), entry(4, 1, 1e9), entry(5, 1, 1.0)]);
    std::fs::write(&path, other.to_string()).unwrap();
    let args = [
        "bench",
        "-t",
        "1",
        "-p",
        "4,6",
        "-n",
        "0",
        "-r",
        "2",
        "--profile",
        "--compare",
    ];
    let (out, _) = outputs(&[&args[..], &[path.to_str().unwrap()]].concat());
    let (_, compared) = out.split_once("against ").unwrap();
    let row = compared
        .lines()
        .find(|l| l.trim_start().starts_with("pp4 "))
        .unwrap();
    // The entry with the same number of threads is the one to compare with.
    assert!(
        row.contains("1000000000.00 ± 0.00") && row.contains("0.000 ± 0.000"),
        "{row}"
    );
    assert!(row.contains("y.gguf"), "{row}");
    let row = compared
        .lines()
        .find(|l| l.trim_start().starts_with("pp6 "))
        .unwrap();
    assert_eq!(row.matches(" -").count(), 2, "{row}");
    assert!(out.contains("MUL_MAT") && out.contains("IQ4_NL"), "{out}");
    shares_add_up(&out);

    let args = [&args[..], &[path.to_str().unwrap(), "-o", "json"]].concat();
    let (out, err) = outputs(&args);
    assert_eq!(serde_json::from_str::<Vec<Value>>(&out).unwrap().len(), 2);
    assert!(err.contains("against ") && err.contains("MUL_MAT"), "{err}");
}

#[test]
fn bench_refuses_what_cannot_be_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.json");
    std::fs::write(&path, "[{}]").unwrap();
    let path = path.to_str().unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["-p", "0", "-n", "0"], "nothing to measure"),
        (&["-p", "9-1"], "ends before it starts"),
        (&["-pg", "5"], "as in 512,128"),
        (&["-r", "0"], "1..=10000"),
        (&["-t", "0"], "at least 1"),
        (&["-ctk", "f16", "-ctv", "f32"], "-ctv differs"),
        (
            &["-d", "4294967295", "-p", "1", "-n", "0"],
            "more tokens than",
        ),
        (&["--compare", path], "no results of a bench"),
        (&["--compare", "missing.json"], "missing.json"),
    ];
    for (args, wanted) in cases {
        let error = refusal(&[&["bench"], args].concat());
        assert!(error.contains(wanted), "{args:?}: {error}");
    }
}

#[test]
fn what_is_timed_fills_the_memory_as_it_should() {
    let config = EngineConfig {
        n_seq: 3,
        mtp: false,
        n_snapshots: 1,
        ..demo::config()
    };
    let mut engine = Engine::new(&demo::model(), config).unwrap();
    let past = |engine: &Engine| [0, 1, 2].map(|s| engine.n_past(SeqId(s)).unwrap());
    let cell = Cell {
        n_prompt: 7,
        n_gen: 3,
        n_seq: 2,
    };
    for (shared_prompt, separate) in [(false, false), (true, false), (false, true), (true, true)] {
        let options = CellOptions {
            shared_prompt,
            separate,
        };
        engine.take_stats();
        run_cell(&mut engine, cell, options).unwrap();
        assert_eq!(past(&engine), [10, 10, 0], "{options:?}");
        let steps = 1 + if separate { 6 } else { 3 };
        assert_eq!(engine.take_stats().graphs, steps, "{options:?}");
    }

    warm_up(&mut engine, 7, 3).unwrap();
    assert_eq!(past(&engine)[0], 0);
    let test = Test {
        n_prompt: 7,
        n_gen: 3,
        n_depth: 5,
    };
    engine.take_stats();
    let mut heard = Vec::new();
    let times = run_test(&mut engine, test, 4, &mut |run| heard.push(run)).unwrap();
    assert_eq!((times.len(), heard), (4, vec![0, 1, 2, 3, 4]));
    // The tokens before are computed once, and each repetition starts right after them.
    assert_eq!(
        (past(&engine)[0], engine.take_stats().graphs),
        (15, 1 + 4 * (1 + 3))
    );

    let profile = profile_test(&mut engine, test).unwrap();
    // Ours or ggml's, as the machine has it.
    let is_scan = |op: &str| ["SCAN", "SSM_SCAN"].contains(&op);
    let scans = profile.entries.iter().filter(|e| is_scan(&e.op)).count();
    assert!(scans > 0 && scans % 4 == 0, "{scans} scans in 4 graphs");
    assert!(engine.take_profile().entries.is_empty());
}

#[test]
fn help_explains_what_is_measured_and_has_examples() {
    for (tool, detail) in [
        ("bench", "flags and outputs of llama-bench"),
        ("batched-bench", "Rows that need more than -c tokens"),
    ] {
        let (help, _) = outputs(&[tool, "--help"]);
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(detail), "{help}");
        assert!(
            help.contains(&format!("Examples:\n  oxling {tool} ")),
            "{help}"
        );
    }
}
