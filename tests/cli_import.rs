//! `oxling import` as its users meet it: what it prints, and what it says of sources it cannot read.

#[allow(dead_code, reason = "this test needs a part of it")]
#[path = "common/bundle.rs"]
mod bundle;

use std::fs;
use std::path::Path;
use std::process::Output;

use assert_cmd::cargo::cargo_bin_cmd;
use bundle::{Dims, demo_bundle, edit_json, synthetic, unstack};
use oxling::gguf::Gguf;
use serde_json::{Value, json};

fn oxling(args: &[&str]) -> Output {
    let mut command = cargo_bin_cmd!("oxling");
    command
        .env("NO_COLOR", "1")
        .args(args)
        .output()
        .expect("runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn import(source: &Path, out: &Path, flags: &[&str]) -> Output {
    oxling(&[&["import", text(source), text(out)], flags].concat())
}

fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// Asserts one error line with these parts, a hint, exit code 1 and nothing written.
fn assert_refused(source: &Path, flags: &[&str], parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let output = import(source, &out, flags);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{parts:?}: {stderr}");
    let error = stderr
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap_or_else(|| panic!("{stderr}"));
    for part in parts {
        assert!(error.contains(part), "no `{part}` in `{error}`");
    }
    assert!(stderr.contains("\nhint: "), "no hint: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "{parts:?}: something was left"
    );
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let plan = stdout(&oxling(&["import", text(&demo_bundle()), "--dry-run"]));
    let line = |name: &str| {
        let found = plan
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        let words: Vec<&str> = found
            .unwrap_or_else(|| panic!("{plan}"))
            .split("  ")
            .map(str::trim)
            .filter(|w| !w.is_empty())
            .collect();
        words.join("|")
    };
    assert_eq!(
        line("blk.1.ffn_gate_exps.weight"),
        "blk.1.ffn_gate_exps.weight|mxtq 2-bit|planes (Q1_0)|2.25|147456"
    );
    assert_eq!(
        line("token_embd.weight"),
        "token_embd.weight|affine 8-bit g64|Q8_0|8.50|1114112"
    );

    let json: Value = serde_json::from_str(&stdout(&oxling(&[
        "import",
        text(&demo_bundle()),
        "--dry-run",
        "--json",
    ])))
    .unwrap();
    let sum: u64 = json["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(json["bytes"], sum);
    assert_eq!(json["files"], json!([]));
}

#[test]
fn an_imported_model_answers_and_matches_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.gguf");
    let printed = stdout(&import(
        &demo_bundle(),
        &out,
        &["--verify", "4", "--json", "--model-name", "tiny"],
    ));
    let report: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(report["files"], json!([text(&out)]));
    for class in report["errors"].as_array().unwrap() {
        let worst = class["worst"].as_f64().unwrap();
        // Q8_0 keeps 8 bits, f16 scales of planes 11.
        let bound = if class["to"] == "Q8_0" { 2e-2 } else { 3e-3 };
        assert!(worst < bound, "{class}");
        assert!(class["rows"].as_u64().unwrap() > 0);
    }
    let run = [
        "run",
        "-m",
        text(&out),
        "-st",
        "--temp",
        "0",
        "-t",
        "1",
        "-p",
        "The capital of France is",
    ];
    assert!(stdout(&oxling(&run)).contains("Paris"));
    let name = Gguf::open(&out)
        .unwrap()
        .metadata()
        .str("general.name")
        .unwrap()
        .map(str::to_owned);
    assert_eq!(name.as_deref(), Some("tiny"));
}

#[test]
fn verify_sees_what_is_wrong() {
    // Coarser types must show larger errors, or the table means nothing.
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.gguf");
    let mean = |ty: &str| {
        let flags = ["--dense", ty, "--experts", ty, "--verify", "4", "--json"];
        let report: Value =
            serde_json::from_str(&stdout(&import(&demo_bundle(), &out, &flags))).unwrap();
        let classes = report["errors"].as_array().unwrap();
        let attention = classes.iter().find(|c| c["class"] == "attention").unwrap();
        attention["mean"].as_f64().unwrap()
    };
    let [f32, q8, q4] = ["F32", "Q8_0", "Q4_0"].map(mean);
    assert_eq!(f32, 0.0);
    assert!(q8 > 1e-4 && q4 > 4.0 * q8, "{q8} {q4}");
}

#[test]
fn parts_hold_the_same_tensors_as_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let (one, split) = (
        folder.path().join("one.gguf"),
        folder.path().join("split.gguf"),
    );
    stdout(&import(&demo_bundle(), &one, &[]));
    let files = stdout(&import(
        &demo_bundle(),
        &split,
        &["--split-max-size", "3M", "-t", "3"],
    ));
    assert!(files.lines().count() > 3, "{files}");
    let (one, split) = (
        Gguf::open(&one).unwrap(),
        Gguf::open(Path::new(files.lines().next().unwrap())).unwrap(),
    );
    assert_eq!(one.tensors().len(), split.tensors().len());
    for tensor in one.tensors() {
        let other = split.tensor(&tensor.name).unwrap();
        assert!(one.data(tensor) == split.data(other), "{}", tensor.name);
    }
}

#[test]
fn an_earlier_file_stays_when_an_import_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("source"), folder.path().join("out.gguf"));
    synthetic(&source, &Dims::tiny()).unwrap();
    fs::write(&out, b"earlier").unwrap();
    patch(&source, "tq_norms", |bytes| {
        bytes[..2].copy_from_slice(&0x7e00u16.to_le_bytes())
    });
    let output = import(&source, &out, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read(&out).unwrap(), b"earlier");
    assert!(!folder.path().join("out.gguf.part").exists());
}

/// Shards of a source.
fn shards(source: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(source)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut shards: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    shards.sort();
    shards
}

/// Changes the bytes of the first tensor whose name contains `part`.
fn patch(source: &Path, part: &str, change: impl Fn(&mut [u8])) {
    for shard in shards(source) {
        let mut bytes = fs::read(&shard).unwrap();
        let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + size]).unwrap();
        let found = header
            .as_object()
            .unwrap()
            .iter()
            .find(|(name, _)| name.contains(part));
        if let Some((_, entry)) = found {
            let at = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize + 8 + size;
            change(&mut bytes[at(0)..at(1)]);
            fs::write(&shard, bytes).unwrap();
            return;
        }
    }
    panic!("no tensor like {part}");
}

/// Replaces a text in the headers of all shards by one of the same length.
fn rename(source: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut renamed = 0;
    for shard in shards(source) {
        let mut bytes = fs::read(&shard).unwrap();
        let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..8 + size].to_vec()).unwrap();
        renamed += header.matches(from).count();
        bytes[8..8 + size].copy_from_slice(header.replace(from, to).as_bytes());
        fs::write(&shard, bytes).unwrap();
    }
    assert!(renamed > 0, "no {from}");
    let _ = fs::remove_file(source.join("model.safetensors.index.json"));
}

fn config(source: &Path, key: &str, value: Value) {
    edit_json(&source.join("config.json"), |json| json[key] = value).unwrap();
}

/// A way to break a source, and what the error must say.
type Case = (&'static str, fn(&Path), &'static [&'static str]);

const CASES: &[Case] = &[
    (
        "no config",
        |s| fs::remove_file(s.join("config.json")).unwrap(),
        &["config.json"],
    ),
    (
        "another network",
        |s| config(s, "architectures", json!(["LlamaForCausalLM"])),
        &["BailingMoeV2_5ForCausalLM", "LlamaForCausalLM"],
    ),
    (
        "no architecture",
        |s| config(s, "architectures", Value::Null),
        &["architectures", "found nothing"],
    ),
    (
        "Ling 3.0",
        |s| config(s, "short_conv_kernel_size", json!(4)),
        &["short_conv_kernel_size", "Ling 3.0"],
    ),
    (
        "another format",
        |s| config(s, "weight_format", json!("mxfp4_mixed")),
        &["weight_format", "mxfp4_mixed"],
    ),
    (
        "no hidden size",
        |s| config(s, "hidden_size", Value::Null),
        &["hidden_size", "nothing"],
    ),
    (
        "absurd size",
        |s| config(s, "num_experts", json!(1u64 << 40)),
        &["num_experts"],
    ),
    (
        "text for a number",
        |s| config(s, "num_hidden_layers", json!("two")),
        &["num_hidden_layers", "two"],
    ),
    (
        "an activation",
        |s| config(s, "linear_silu", json!(true)),
        &["linear_silu"],
    ),
    (
        "another router",
        |s| config(s, "score_function", json!("softmax")),
        &["score_function", "softmax"],
    ),
    (
        "two MTP blocks",
        |s| config(s, "num_nextn_predict_layers", json!(2)),
        &["num_nextn_predict_layers", "2"],
    ),
    (
        "a wider model",
        |s| config(s, "hidden_size", json!(256)),
        &["tensor `"],
    ),
    (
        "more experts",
        |s| config(s, "num_experts", json!(6)),
        &["tensor `", "[6"],
    ),
    (
        "one layer less",
        |s| config(s, "num_hidden_layers", json!(1)),
        &["tensor `model.layers."],
    ),
    (
        "more layers",
        |s| config(s, "num_hidden_layers", json!(6)),
        &[
            "tensor `model.layers.",
            "expected one of shape",
            "more are missing",
        ],
    ),
    (
        "a shard is missing",
        |s| fs::remove_file(&shards(s)[1]).unwrap(),
        &["model-00002-of-"],
    ),
    (
        "a shard is cut",
        |s| {
            let shard = &shards(s)[0];
            let bytes = fs::read(shard).unwrap();
            fs::write(shard, &bytes[..bytes.len() - 1000]).unwrap();
        },
        &["model-00001-of-", "bytes"],
    ),
    (
        "a shard is empty",
        |s| fs::write(&shards(s)[0], b"").unwrap(),
        &["model-00001-of-"],
    ),
    (
        "a shard is a pointer",
        |s| {
            fs::write(
                &shards(s)[0],
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            )
            .unwrap()
        },
        &["Git LFS"],
    ),
    (
        "the index names another file",
        |s| {
            edit_json(&s.join("model.safetensors.index.json"), |json| {
                let map = json["weight_map"].as_object_mut().unwrap();
                map.values_mut()
                    .for_each(|file| *file = json!("model-00009-of-00009.safetensors"));
            })
            .unwrap()
        },
        &["model-00009-of-00009.safetensors"],
    ),
    (
        "an unknown tensor",
        |s| rename(s, "model.norm.weight", "model.gorm.weight"),
        &["model.norm.weight"],
    ),
    (
        "packed words of another type",
        |s| rename(s, "\"U32\"", "\"I32\""),
        &["dtype"],
    ),
    (
        "no width of codes",
        |s| rename(s, "gate_proj.tq_bits", "gate_proj.tq_bytz"),
        &["gate_proj.tq_bits"],
    ),
    (
        "a width of 5",
        |s| patch(s, "tq_bits", |b| b[0] = 5),
        &["tq_bits", "5"],
    ),
    (
        "no norms",
        |s| rename(s, "up_proj.tq_norms", "up_proj.tq_morns"),
        &["up_proj.tq_norms"],
    ),
    (
        "a norm that is no number",
        |s| {
            patch(s, "tq_norms", |b| {
                b[..2].copy_from_slice(&0x7e00u16.to_le_bytes())
            })
        },
        &["tq_packed", "NaN"],
    ),
    (
        "a negative norm",
        |s| patch(s, "tq_norms", |b| b[1] |= 0x80),
        &["not negative"],
    ),
    (
        "a scale that is no number",
        |s| {
            patch(s, ".scales", |b| {
                b[..2].copy_from_slice(&0x7e00u16.to_le_bytes())
            })
        },
        &["scales", "NaN"],
    ),
    (
        "no scales",
        |s| rename(s, "lm_head.scales", "lm_head.scalez"),
        &["lm_head"],
    ),
    (
        "no tokenizer",
        |s| fs::remove_file(s.join("tokenizer.json")).unwrap(),
        &["tokenizer.json"],
    ),
    (
        "a broken tokenizer",
        |s| fs::write(s.join("tokenizer.json"), b"{\"model\":").unwrap(),
        &["tokenizer.json"],
    ),
    (
        "another tokenizer",
        |s| {
            edit_json(&s.join("tokenizer.json"), |json| {
                json["model"]["type"] = json!("Unigram")
            })
            .unwrap()
        },
        &["tokenizer.json", "Unigram"],
    ),
    (
        "words cut elsewhere",
        |s| {
            edit_json(&s.join("tokenizer.json"), |json| {
        json["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": false});
    }).unwrap()
        },
        &["pre_tokenizer", "other tokens for"],
    ),
    (
        "a scale that would not run",
        |s| config(s, "routed_scaling_factor", json!(-1)),
        &[
            "would not run",
            "config.json",
            "expert_weights_scale",
            "found -1",
        ],
    ),
    (
        "a rotation that would not run",
        |s| config(s, "rope_theta", json!(0)),
        &["would not run", "rope.freq_base", "found 0"],
    ),
    (
        "a smaller vocabulary",
        |s| config(s, "vocab_size", json!(100)),
        &["[100"],
    ),
];

#[test]
fn broken_sources_are_named_and_leave_nothing() {
    for (name, damage, parts) in CASES {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        synthetic(&source, &Dims::tiny()).unwrap();
        damage(&source);
        println!("{name}");
        assert_refused(&source, &[], parts);
    }
}

#[test]
fn experts_that_are_not_in_a_row_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (stacked, source) = (folder.path().join("stacked"), folder.path().join("source"));
    synthetic(&stacked, &Dims::tiny()).unwrap();
    unstack(&stacked, &source).unwrap();
    rename(&source, ".experts.2.up_proj", ".experts.7.up_proj");
    assert_refused(
        &source,
        &[],
        &["experts.2.up_proj.weight", "expected one of shape"],
    );
}

/// A copy of the demo bundle.
fn copy_of_demo(source: &Path) {
    fs::create_dir(source).unwrap();
    for entry in fs::read_dir(demo_bundle()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, source.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_seed_that_is_not_the_sidecars_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    copy_of_demo(&source);
    edit_json(&source.join("jang_config.json"), |json| {
        json["mxtq_seed"] = json!(7)
    })
    .unwrap();
    let parts = ["jangtq_runtime.safetensors", "seed 7", "found seed 42"];
    assert_refused(&source, &[], &parts);
}

#[test]
fn groups_of_experts_that_would_not_run_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    copy_of_demo(&source);
    config(&source, "n_group", Value::Null);
    assert_refused(&source, &[], &["would not run", "expert_group_used_count"]);
}

#[test]
fn a_file_of_the_checkpoint_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    copy_of_demo(&source);
    for name in ["model-00001-of-00001.safetensors", "tokenizer.json"] {
        let file = source.join(name);
        let before = fs::read(&file).unwrap();
        let output = import(&source, &file, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("is not written: it is read"), "{stderr}");
        assert_eq!(fs::read(&file).unwrap(), before, "{name}");
    }
    // An earlier result beside the checkpoint may be replaced.
    let out = source.join("m.gguf");
    for _ in 0..2 {
        stdout(&import(&source, &out, &[]));
    }
}

#[test]
fn a_sidecar_that_differs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (part, name) in [
        ("signs.128", "signs.128.42"),
        ("codebook.256", "codebook.256.2"),
    ] {
        let source = folder.path().join(part);
        copy_of_demo(&source);
        patch(&source, part, |b| b[3] ^= 0x80);
        assert_refused(
            &source,
            &[],
            &["jangtq_runtime.safetensors", name, "element 0"],
        );
    }
}

#[test]
fn what_cannot_be_made_is_refused() {
    let demo = demo_bundle();
    assert_refused(&demo, &["--dense", "IQ2_XXS"], &["IQ2_XXS"]);
    assert_refused(Path::new("no/such/folder"), &[], &["no/such/folder"]);
    assert_refused(&demo.join("config.json"), &[], &["config.json", "a file"]);
    let folder = tempfile::tempdir().unwrap();
    let four_bits = folder.path().join("four");
    synthetic(
        &four_bits,
        &Dims {
            gate_up_bits: 4,
            down_bits: 4,
            ..Dims::tiny()
        },
    )
    .unwrap();
    assert_refused(
        &four_bits,
        &["--experts", "planes"],
        &["planes", "mxtq 4-bit"],
    );
    assert_refused(folder.path(), &[], &["config.json"]);

    for out in [folder.path(), &folder.path().join("no/such/m.gguf")] {
        let output = import(&demo, out, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("error: "));
    }
    let output = import(&demo, &folder.path().join("m.gguf"), &["--experts", "Q9_Z"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected planes, or a type"));
}

#[test]
fn settings_of_generation_become_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("source"), folder.path().join("m.gguf"));
    synthetic(&source, &Dims::tiny()).unwrap();
    edit_json(&source.join("generation_config.json"), |json| {
        json["temperature"] = json!(0.5);
        json["top_k"] = json!(20);
        // A token that readers do not know as an end by its text.
        json["eos_token_id"] = json!([2, 1, 3]);
    })
    .unwrap();
    stdout(&import(&source, &out, &[]));
    let gguf = Gguf::open(&out).unwrap();
    let md = gguf.metadata();
    assert_eq!(md.f32("general.sampling.temp").unwrap(), Some(0.5));
    assert_eq!(md.i32("general.sampling.top_k").unwrap(), Some(20));
    assert_eq!(md.u32("tokenizer.ggml.eos_token_id").unwrap(), Some(2));
    assert_eq!(md.u32("tokenizer.ggml.eot_token_id").unwrap(), Some(3));
    assert_eq!(md.str("oxling.import.source").unwrap(), Some("source"));
}
