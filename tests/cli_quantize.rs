//! `oxling quantize` and `oxling imatrix` as their users meet them, on the demo model.

#[allow(dead_code, reason = "shared with other tests")]
#[path = "common/edit.rs"]
mod edit;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use edit::{Draft, demo_path};
use oxling::gguf::{GgmlType, Gguf};
use serde_json::Value as Json;

/// Chunks that perplexities are measured on; the bounds below hold for them.
const CHUNKS: [&str; 4] = ["--chunks", "2", "-c", "128"];

/// `oxling` with these arguments, on one thread: more would wait for each other on busy cores.
fn oxling(args: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("oxling");
    for (name, _) in std::env::vars() {
        if name.starts_with("LLAMA_ARG_") || name.starts_with("OXLING_") {
            command.env_remove(name);
        }
    }
    command
        .env("LLAMA_ARG_THREADS", "1")
        .env("NO_COLOR", "1")
        .args(args);
    command
}

/// Stdout and stderr of a command that must succeed.
fn success(args: &[&str]) -> (String, String) {
    let output = oxling(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    (String::from_utf8(output.stdout).unwrap(), stderr)
}

fn json(args: &[&str]) -> Json {
    serde_json::from_str(&success(args).0).unwrap()
}

/// The `error:` line of a command that must fail.
fn refusal(args: &[&str]) -> String {
    let output = oxling(args).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    stderr
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap_or_else(|| panic!("{args:?}: {stderr}"))
        .to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Some prose that the demo model was not made for, but can score.
fn prose(folder: &Path) -> PathBuf {
    let path = folder.join("text.txt");
    let verse =
        "And the light was over the water, and the people went up to the hill in the morning. ";
    let more = "They that had bread gave to them that had none; and no man was afraid that night. ";
    std::fs::write(&path, [verse, more].concat().repeat(40)).unwrap();
    path
}

fn perplexity(model: &Path, text_file: &Path) -> f64 {
    let args = [
        "perplexity",
        "-m",
        text(model),
        "-f",
        text(text_file),
        "--json",
    ];
    json(&[&args[..], &CHUNKS].concat())["perplexity"]
        .as_f64()
        .unwrap()
}

#[test]
fn help_lists_the_types_and_teaches_by_example() {
    let (help, _) = success(&["quantize", "--help"]);
    for part in [
        "IQ4_NL",
        "MXFP4_MOE",
        "COPY",
        "4.50",
        "Examples:",
        "--imatrix",
        "--dry-run",
    ] {
        assert!(help.contains(part), "no `{part}` in {help}");
    }
    let (help, _) = success(&["imatrix", "--help"]);
    assert!(
        help.contains("Examples:") && help.contains("  oxling imatrix -m"),
        "{help}"
    );
}

#[test]
fn a_dry_run_plans_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let demo = demo_path();
    let args = [
        "quantize",
        "--allow-requantize",
        "--dry-run",
        text(&demo),
        text(&out),
        "Q4_K_M",
    ];
    let report = json(&[&args[..], &["--json"]].concat());
    assert!(!out.exists());
    let tensors = report["tensors"].as_array().unwrap();
    let to = |name: &str| {
        let found = tensors.iter().find(|t| t["name"] == name).unwrap();
        found["to"].as_str().unwrap().to_owned()
    };
    assert_eq!(to("output.weight"), "Q6_K");
    assert_eq!(to("blk.0.attn_norm.weight"), "F32");
    assert_eq!(
        to("blk.3.attn_k_b.weight"),
        "Q5_0",
        "rows of 64 fit no K-quant"
    );
    let (table, _) = success(&args);
    assert!(
        table.contains("rows of 64 do not fit Q4_K") && table.contains("a router"),
        "{table}"
    );
}

#[test]
fn every_kind_of_type_gives_a_model_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (demo, prose) = (demo_path(), prose(folder.path()));
    let imatrix = folder.path().join("imatrix.gguf");
    let measure = [
        "imatrix",
        "-m",
        text(&demo),
        "-f",
        text(&prose),
        "-o",
        text(&imatrix),
    ];
    let (_, talk) = success(&[&measure[..], &CHUNKS].concat());
    assert!(talk.contains("Final estimate: PPL = "), "{talk}");

    let base = perplexity(&demo, &prose);
    // The demo model is at 4.5 bits: more bits keep it, but for how inputs are rounded; fewer cost what their type does.
    for (ty, worst) in [
        ("F32", 1.02),
        ("F16", 1.02),
        ("BF16", 1.03),
        ("Q8_0", 1.03),
        ("Q6_K", 1.1),
        ("Q4_K_M", 1.4),
        ("Q4_1", 1.5),
        ("MXFP4", 3.0),
        ("IQ3_S", 2.5),
        ("Q2_K", 10.0),
        ("IQ2_XS", 20.0),
    ] {
        let out = folder.path().join(format!("{ty}.gguf"));
        let args = [
            "quantize",
            "--allow-requantize",
            "--imatrix",
            text(&imatrix),
        ];
        success(&[&args[..], &[text(&demo), text(&out), ty]].concat());
        let ratio = perplexity(&out, &prose) / base;
        assert!(
            (0.7..worst).contains(&ratio),
            "{ty}: {ratio} times the perplexity"
        );
    }
    let out = folder.path().join("IQ2_XS.gguf");
    let gguf = Gguf::open(&out).unwrap();
    let key = |name: &str| gguf.metadata().get(name).map(ToString::to_string);
    assert_eq!(key("general.file_type").as_deref(), Some("20"));
    assert_eq!(key("quantize.imatrix.dataset").as_deref(), Some("text.txt"));
    assert_eq!(key("quantize.imatrix.chunks_count").as_deref(), Some("2"));
}

#[test]
fn the_model_itself_may_be_the_target_and_parts_are_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.gguf");
    std::fs::copy(demo_path(), &model).unwrap();
    let args = ["quantize", "--allow-requantize", "--split-max-size", "4M"];
    let parts = folder.path().join("p.gguf");
    let (files, _) = success(&[&args[..], &[text(&model), text(&parts), "Q8_0"]].concat());
    let files: Vec<&str> = files.lines().collect();
    assert!(
        files.len() > 3 && files.iter().all(|f| Path::new(f).exists()),
        "{files:?}"
    );

    success(&[
        "quantize",
        "--allow-requantize",
        text(&model),
        text(&model),
        "Q8_0",
    ]);
    let whole = folder.path().join("w.gguf");
    success(&["quantize", files[1], text(&whole), "COPY"]);
    let (model, whole) = (Gguf::open(&model).unwrap(), Gguf::open(&whole).unwrap());
    assert_eq!(model.tensors().len(), whole.tensors().len());
    for (a, b) in model.tensors().iter().zip(whole.tensors()) {
        assert_eq!((&a.name, a.ty), (&b.name, b.ty));
        assert!(model.data(a) == whole.data(b), "{}", a.name);
    }
    assert_eq!(model.metadata(), whole.metadata());
    assert!(model.tensors().iter().any(|t| t.ty == GgmlType::Q8_0));
}

#[test]
fn what_cannot_be_done_is_said_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (demo, out) = (demo_path(), at("out.gguf"));
    let (demo, out) = (text(&demo), text(&out));
    let broken = at("broken.gguf");
    let bytes = std::fs::read(demo).unwrap();
    std::fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    let foreign = at("foreign.gguf");
    std::fs::write(&foreign, "no matrix of importances").unwrap();
    let absent = at("no/such/folder/out.gguf");
    for (args, problem) in [
        (
            vec![demo, out, "Q4_K_M"],
            "is quantised already: IQ4_NL would become",
        ),
        (vec![demo, out, "Q9_K"], "unknown file type `Q9_K`"),
        (
            vec![demo, out, "IQ2_XXS", "--allow-requantize"],
            "needs an importance matrix",
        ),
        (
            vec![demo, out, "Q8_0", "--tensor-type", "attn"],
            "expected PATTERN=TYPE",
        ),
        (
            vec![demo, out, "Q8_0", "--imatrix", text(&foreign)],
            "importance matrix",
        ),
        (
            vec![demo, out, "Q8_0", "--imatrix", demo],
            "general.type: expected imatrix",
        ),
        (
            vec![demo, out, "Q8_0", "--imatrix", text(&at("none"))],
            "none",
        ),
        (vec![text(&broken), out, "Q8_0"], "broken.gguf"),
        (vec![text(&at("absent.gguf")), out, "Q8_0"], "absent.gguf"),
        (vec![demo, text(folder.path()), "COPY"], "a directory"),
        (vec![demo, text(&absent), "COPY"], "cannot create the file"),
    ] {
        let error = refusal(&[&["quantize"], &args[..]].concat());
        assert!(error.contains(problem), "{args:?}: {error}");
        assert!(!Path::new(out).exists(), "{args:?}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn importances_of_another_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (demo, prose) = (demo_path(), prose(folder.path()));
    let imatrix = folder.path().join("i.gguf");
    let other = folder.path().join("other.gguf");
    let mut draft = Draft::demo();
    draft.put("blk.0.ffn_up.weight", GgmlType::F16, &[128, 768]);
    draft.write(&other);
    let measure = [
        "imatrix",
        "-m",
        text(&demo),
        "-f",
        text(&prose),
        "-o",
        text(&imatrix),
        "--no-ppl",
    ];
    success(&[&measure[..], &CHUNKS].concat());
    let out = folder.path().join("out.gguf");
    let args = [
        "quantize",
        "--allow-requantize",
        "--imatrix",
        text(&imatrix),
    ];
    let error = refusal(&[&args[..], &[text(&other), text(&out), "Q4_K_M"]].concat());
    assert!(
        error.contains("`blk.0.ffn_up.weight` has 256 values"),
        "{error}"
    );

    // Twice the same text is the same matrix.
    let both = folder.path().join("both.gguf");
    let file = text(&imatrix);
    let report = json(&[
        "imatrix",
        "--in-file",
        file,
        "--in-file",
        file,
        "-o",
        text(&both),
        "--json",
    ]);
    assert_eq!(
        (&report["chunks"], &report["context"]),
        (&4.into(), &128.into())
    );
    let open = |path: &Path| oxling::imatrix::ImportanceMatrix::open(path).unwrap();
    let (one, two) = (open(&imatrix), open(&both));
    for (name, entry) in one.entries() {
        assert_eq!(
            entry.importance(),
            two.entry(name).unwrap().importance(),
            "{name}"
        );
    }
}

#[test]
fn planes_are_neither_measured_nor_quantised() {
    let folder = tempfile::tempdir().unwrap();
    let (model, prose) = (folder.path().join("m.gguf"), prose(folder.path()));
    let name = "blk.1.ffn_up_exps.weight";
    let synth = [
        "synth",
        "--like",
        "tiny-ling",
        "--type",
        "F16",
        "--expert-type",
        "planes",
    ];
    success(&[&synth[..], &["-o", text(&model)]].concat());
    let imatrix = folder.path().join("i.gguf");
    let measure = [
        "imatrix",
        "-m",
        text(&model),
        "-f",
        text(&prose),
        "-o",
        text(&imatrix),
    ];
    success(&[&measure[..], &CHUNKS].concat());
    let imatrix = oxling::imatrix::ImportanceMatrix::open(&imatrix).unwrap();
    assert!(
        imatrix.entry(name).is_none() && imatrix.entry("blk.1.ffn_gate_shexp.weight").is_some()
    );
    let args = ["quantize", "--dry-run", "--json", text(&model), "Q8_0"];
    let report = json(&args);
    let tensors = report["tensors"].as_array().unwrap();
    let planes = tensors.iter().find(|t| t["name"] == name).unwrap();
    assert_eq!(planes["to"], "Q1_0");
    assert_eq!(planes["note"], "binary planes, exact as they are");
}
