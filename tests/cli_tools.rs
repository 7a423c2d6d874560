//! The tools for engineers as their users meet them, on the demo model and on models made for the purpose.

#[allow(dead_code, reason = "shared with other tests")]
#[path = "common/edit.rs"]
mod edit;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use edit::{Draft, demo_path};
use safetensors::SafeTensors;
use serde_json::Value;

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

/// Stdout of a command that must succeed.
fn stdout(args: &[&str]) -> String {
    let output = oxling(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Stdout as JSON: nothing else may be on it.
fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
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

/// A small model of random weights.
fn made(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let path = folder.join(name);
    stdout(&[&["synth", "--like", "tiny-ling", "-o", text(&path)], flags].concat());
    path
}

#[test]
fn help_explains_each_tool_and_has_examples() {
    let tools = [
        ("inspect", "whether it runs here"),
        ("tokenize", "vocabularies without weights"),
        ("logits", "mtp_logits_i float32 [T-1, vocab]"),
        ("perplexity", "second half of each is scored"),
        ("synth", "the text it writes is noise"),
        ("licenses", "for tests only"),
    ];
    for (tool, detail) in tools {
        let help = stdout(&[tool, "--help"]);
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(detail), "no `{detail}` in {help}");
        assert!(help.contains("Examples:") && help.contains(&format!("  oxling {tool}")));
        let own = help
            .find("--json")
            .unwrap_or_else(|| panic!("{tool} prints data"));
        assert!(
            help.find("\nModel:").is_none_or(|model| own < model),
            "{help}"
        );
    }
}

#[test]
fn inspect_tells_what_is_in_a_file_and_what_it_takes() {
    let demo = demo_path();
    let report = json(&[
        "inspect",
        text(&demo),
        "--json",
        "-c",
        "1000,4096",
        "-np",
        "3",
        "-ctk",
        "q8_0",
    ]);
    assert_eq!(report["architecture"], "bailing_hybrid");
    assert_eq!(report["runs"]["status"], "yes");
    assert_eq!(report["n_tensors"], 152);
    assert_eq!(
        (&report["sizes"]["n_layer"], &report["sizes"]["mtp"]),
        (&8.into(), &true.into())
    );
    assert_eq!(report["tensors"].as_array().unwrap().len(), 152);
    let sum = |list: &str| {
        report[list]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["bytes"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(Some(sum("types")), report["bytes"].as_u64());
    assert_eq!(Some(sum("parts")), report["bytes"].as_u64());
    assert_eq!(Some(sum("devices")), report["bytes"].as_u64());
    // Rows come in steps of 64. Three MLA rows (two blocks and the MTP head) of 128 + 32 values, 34 bytes for 32 of them.
    let rows = 3 * 160 / 32 * 34;
    assert_eq!(report["sizes"]["bytes_per_token"], rows);
    let memory = &report["memory"];
    assert_eq!(
        (&memory[0]["context"], &memory[0]["rows"]),
        (&1000.into(), &(1024 * 3 * rows).into())
    );
    assert_eq!(memory[1]["rows"], 4096 * 3 * rows);
    // Six Lightning blocks of 4 heads of 64 x 64, and the MTP head's hidden state, F32.
    assert_eq!(
        report["sizes"]["bytes_per_sequence"],
        4 * (6 * 4 * 64 * 64 + 256)
    );
    let entry = report["metadata"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["key"] == "tokenizer.ggml.tokens")
        .unwrap();
    assert_eq!(
        (
            &entry["value"]["length"],
            entry["value"]["first"].as_array().unwrap().len()
        ),
        (&4096.into(), 8)
    );
}

#[test]
fn inspect_says_what_a_token_reads() {
    let demo = demo_path();
    let args = [
        "inspect",
        text(&demo),
        "--json",
        "-c",
        "1000,2000",
        "-ctk",
        "q8_0",
    ];
    let report = json(&[&args[..], &["--bandwidth", "10"]].concat());
    let number = |value: &Value| value.as_u64().unwrap();
    let reading = &report["reading"];
    // A token uses 4 of 16 experts, and one row of the embedding's 4096. Block 8 is the MTP head.
    let mut expected = 0;
    for tensor in report["tensors"].as_array().unwrap() {
        let (name, bytes) = (tensor["name"].as_str().unwrap(), number(&tensor["bytes"]));
        expected += match name {
            _ if name.starts_with("blk.8.") => 0,
            _ if name.contains("_exps.") => bytes / 4,
            "token_embd.weight" => bytes / 4096,
            _ => bytes,
        };
    }
    assert_eq!(number(&reading["weights"]), expected);
    let parts = reading["parts"].as_array().unwrap();
    let sum: u64 = parts.iter().map(|p| number(&p["bytes"])).sum();
    assert_eq!(sum, expected);
    // Six states of 4 heads of 64 x 64, F32, read and written; two blocks with rows of 160 values.
    let states = 2 * 4 * 6 * 4 * 64 * 64;
    assert_eq!(number(&reading["states"]), states);
    let contexts = reading["contexts"].as_array().unwrap();
    for (at, context) in contexts.iter().zip([1000, 2000]) {
        let rows = context * 2 * 160 / 32 * 34;
        assert_eq!(
            (number(&at["context"]), number(&at["rows"])),
            (context, rows)
        );
        let total = expected + states + rows;
        assert_eq!(number(&at["total"]), total);
        let rate = at["tokens_per_second"].as_f64().unwrap();
        assert!((rate * total as f64 / 10e9 - 1.0).abs() < 1e-9, "{at}");
    }
    let without = json(&args);
    assert!(without["reading"]["contexts"][0]["tokens_per_second"].is_null());
}

#[test]
fn inspect_for_people_is_plain_text_in_aligned_columns() {
    let demo = demo_path();
    let overview = stdout(&["inspect", text(&demo)]);
    for part in [
        "runs: yes",
        "bailing_hybrid.block_count",
        "size by part",
        "MTP head",
        "what would run where",
        "memory for",
        "what a token of generation reads",
    ] {
        assert!(overview.contains(part), "no `{part}` in {overview}");
    }
    assert!(!overview.contains('\u{1b}'), "escape codes in a pipe");
    let list = stdout(&["inspect", text(&demo), "--tensors"]);
    let columns: Vec<usize> = list
        .lines()
        .skip(2)
        .filter_map(|line| line.find("IQ4_NL").or_else(|| line.find("F32")))
        .collect();
    assert!(
        columns.len() == 152 && columns.iter().all(|&c| c == columns[0]),
        "{list}"
    );
}

#[test]
fn inspect_counts_a_weight_of_two_planes_once() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--type", "Q8_0", "--layers", "2"];
    let plain = made(folder.path(), "plain.gguf", &flags);
    let flags = [&flags[..], &["--expert-type", "planes"]].concat();
    let planes = made(folder.path(), "planes.gguf", &flags);
    let [plain, planes] = [plain, planes].map(|path| json(&["inspect", text(&path), "--json"]));
    assert_eq!(plain["parameters"], planes["parameters"]);
    let list = planes["tensors"].as_array().unwrap();
    let experts = list.iter().filter(|t| t["type"] == "Q1_0 planes");
    let bits: Vec<f64> = experts
        .map(|t| t["bits_per_weight"].as_f64().unwrap())
        .collect();
    // Two blocks with experts, the MTP head's one of them.
    assert_eq!(bits, [2.25; 6]);
    let types = planes["types"].as_array().unwrap();
    assert!(
        types.iter().any(|t| t["name"] == "Q1_0 planes"),
        "{types:?}"
    );
}

#[test]
fn inspect_takes_any_valid_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    type Change = fn(&mut Draft);
    let cases: [(Change, &str, &str); 4] = [
        (
            |d| drop(d.metadata.insert("general.architecture", "mamba9")),
            "unsupported",
            "`mamba9` is not supported",
        ),
        (|d| d.tensors.clear(), "vocabulary only", "0 tensors"),
        (
            |d| d.set("attention.head_count", 0u32),
            "no",
            "attention.head_count",
        ),
        (
            |d| d.drop_tensor("output_norm.weight"),
            "no",
            "output_norm.weight",
        ),
    ];
    for (change, status, detail) in cases {
        let mut draft = Draft::demo();
        change(&mut draft);
        draft.write(&path);
        let report = json(&["inspect", text(&path), "--json"]);
        assert_eq!(report["runs"]["status"], status);
        assert!(
            report["runs"]["detail"].as_str().unwrap().contains(detail),
            "{}",
            report["runs"]
        );
        assert!(report["metadata"].as_array().unwrap().len() > 40);
        assert!(stdout(&["inspect", text(&path)]).contains(&format!("runs: {status}")));
    }
}

#[test]
fn inspect_does_not_pass_a_files_control_characters_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut draft = Draft::demo();
    draft
        .metadata
        .insert("general.name", "red\u{1b}[31m\nalert");
    draft.metadata.insert("general.tags", vec!["a\u{7}b"]);
    draft.write(&path);
    let overview = stdout(&["inspect", text(&path)]);
    assert!(
        !overview.contains(['\u{1b}', '\u{7}']) && overview.contains("red\\u{1b}[31m\\nalert"),
        "{overview}"
    );
}

#[test]
fn tokenize_goes_both_ways() {
    let sample = "The capital of <role>naïve 東京 🙂\n";
    let ids = stdout(&["tokenize", "-p", sample, "--no-escape", "--ids"]);
    let list: Vec<u32> = serde_json::from_str(&ids).unwrap();
    assert!(list.contains(&3), "<role> is a token: {ids}");
    assert_eq!(
        stdout(&["tokenize", "--decode", &ids]),
        format!("{sample}\n")
    );
    let plain = json(&["tokenize", "-p", sample, "--no-parse-special", "--json"]);
    assert!(
        !plain["ids"].as_array().unwrap().contains(&3.into()),
        "{plain}"
    );
    assert_eq!(
        plain["count"].as_u64().unwrap() as usize,
        plain["tokens"].as_array().unwrap().len()
    );

    let output = oxling(&["tokenize", "--stdin", "--show-count"])
        .write_stdin("The capital")
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        lines,
        "   600 -> 'The'\n   472 -> ' capital'\nTotal number of tokens: 2\n"
    );
    assert!(refusal(&["tokenize", "--decode", "1,x"]).contains("\"x\" is not a token id"));
    assert!(refusal(&["tokenize", "--decode", "4096"]).contains("outside the vocabulary"));
    assert!(refusal(&["tokenize"]).contains("-p"));
}

/// Tensors of a file that `oxling logits` wrote.
#[test]
fn text_may_begin_with_a_dash() {
    let ids = |text: &str| json(&["tokenize", "--ids", "-p", text]);
    for text in ["- a", "-1", "-.5", "--", "-p"] {
        let given = ids(text);
        assert_eq!(given, json(&["tokenize", "--ids", &format!("-p={text}")]));
        assert_ne!(given, ids("a"), "{text}");
    }
}

/// Copies the demo model, with a hard link and a symbolic one, and texts.
#[cfg(unix)]
fn inputs(folder: &Path) {
    std::fs::copy(demo_path(), folder.join("m.gguf")).unwrap();
    std::fs::hard_link(folder.join("m.gguf"), folder.join("hard.gguf")).unwrap();
    std::os::unix::fs::symlink(folder.join("m.gguf"), folder.join("soft.gguf")).unwrap();
    std::fs::write(folder.join("t.txt"), "Paris is in France. ".repeat(200)).unwrap();
    std::fs::write(folder.join("p.json"), "[\"x\"]").unwrap();
    std::fs::write(folder.join("i.gguf"), "an importance matrix").unwrap();
}

#[cfg(unix)]
#[test]
fn what_is_read_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    inputs(folder.path());
    let contents = || {
        ["m.gguf", "t.txt", "p.json"].map(|name| std::fs::read(folder.path().join(name)).unwrap())
    };
    let before = contents();
    for line in [
        "imatrix -m m.gguf -f t.txt -o m.gguf",
        "imatrix -m m.gguf -f t.txt -o hard.gguf",
        "imatrix -m m.gguf -f t.txt -o t.txt",
        "perplexity -m m.gguf -f t.txt -c 64 --save-logits soft.gguf",
        "perplexity -m soft.gguf -f t.txt -c 64 --save-logits t.txt",
        "logits -m m.gguf --prompts p.json --out hard.gguf",
        "logits -m m.gguf --prompts p.json --out p.json",
        "batched-bench -m m.gguf -npp 8 -ntg 1 -c 64 --plot m.gguf",
        "run -m m.gguf -st -p x -n 1 --log-file m.gguf",
        "inspect m.gguf --log-file soft.gguf",
        "tokenize -f t.txt --log-file t.txt",
        // A model is no log, even one that the command does not name.
        "run -st -p x -n 1 --log-file hard.gguf",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let output = oxling(&args).current_dir(folder.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
        assert!(
            stderr.contains("hint: choose another name"),
            "{line}: {stderr}"
        );
        assert!(contents() == before, "{line}");
    }
}

#[test]
fn a_log_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    std::fs::write(&log, "earlier\n").unwrap();
    let flags = ["-st", "-p", "x", "-n", "1", "-v", "--log-file", text(&log)];
    stdout(&[&["run"], &flags[..]].concat());
    let lines = std::fs::read_to_string(&log).unwrap();
    assert!(lines.starts_with("earlier\n") && lines.lines().count() > 1);
}

/// Stops a long measurement, and looks what it leaves.
#[cfg(unix)]
#[test]
fn predictions_that_a_signal_stops_leave_no_file() {
    use std::process::Stdio;
    use std::time::Duration;

    let folder = tempfile::tempdir().unwrap();
    let prose = folder.path().join("t.txt");
    std::fs::write(&prose, "The capital of France is Paris. ".repeat(200_000)).unwrap();
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("oxling"))
            .args(["perplexity", "-t", "1", "-c", "64", "-f", text(&prose)])
            .args(["--save-logits", "k.kl"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !folder.path().join("k.kl.part").exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(10));
        }
        let id = child.id().to_string();
        let sent = std::process::Command::new("kill")
            .args([signal, &id])
            .status();
        assert!(sent.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
        let left = std::fs::read_dir(folder.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["t.txt"], "{signal}");
    }
}

#[test]
fn all_chunks_may_be_asked_for_with_minus_one() {
    let folder = tempfile::tempdir().unwrap();
    let prose = folder.path().join("t.txt");
    std::fs::write(&prose, "The capital of France is Paris. ".repeat(40)).unwrap();
    let flags = ["perplexity", "--json", "-c", "64", "-f", text(&prose)];
    let all = json(&flags);
    assert!(all["chunks"].as_u64().unwrap() > 1);
    assert_eq!(json(&[&flags[..], &["--chunks", "-1"]].concat()), all);
}

fn logits(folder: &Path, flags: &[&str]) -> (Vec<u8>, Value) {
    let (prompts, out) = (folder.join("prompts.json"), folder.join("out.safetensors"));
    std::fs::write(
        &prompts,
        r#"["The capital of France is", [600, 472], "In the beginning God created"]"#,
    )
    .unwrap();
    let report = json(
        &[
            &[
                "logits",
                "--prompts",
                text(&prompts),
                "--out",
                text(&out),
                "--json",
            ],
            flags,
        ]
        .concat(),
    );
    (std::fs::read(out).unwrap(), report)
}

fn floats(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = file.tensor(name).unwrap();
    let values = tensor
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    (tensor.shape().to_vec(), values)
}

#[test]
fn logits_have_the_references_keys_and_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, report) = logits(folder.path(), &["--mtp", "--greedy", "3"]);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort_unstable();
    let keys = |i| ["greedy", "ids", "logits", "mtp_logits"].map(|k| format!("{k}_{i}"));
    let mut expected: Vec<String> = (0..3).flat_map(keys).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(
        file.tensor("ids_1").unwrap().data(),
        [600i32, 472].map(i32::to_le_bytes).concat()
    );
    assert_eq!(floats(&file, "logits_1").0, [2, 4096]);
    assert_eq!(floats(&file, "mtp_logits_1").0, [1, 4096]);
    assert_eq!(file.tensor("greedy_0").unwrap().shape(), [3]);
    assert_eq!(
        (report.as_array().unwrap().len(), &report[1]["n_tokens"]),
        (3, &2.into())
    );
    assert!(!folder.path().join("out.safetensors.part").exists());
}

#[test]
fn logits_do_not_depend_on_how_they_are_computed() {
    // Rounding of activations before products with 4-bit weights differs with the number of columns.
    const TOLERANCE: f32 = 0.1;
    let folder = tempfile::tempdir().unwrap();
    let (whole, _) = logits(folder.path(), &["--mtp"]);
    let whole = SafeTensors::deserialize(&whole).unwrap();
    let variants: [&[&str]; 4] = [
        &["--ubatch", "1"],
        &["--parallel", "3"],
        &["--rewind", "2"],
        &["--rewind", "2", "--rewind-by", "snapshot"],
    ];
    for flags in variants {
        let (other, _) = logits(folder.path(), &[&["--mtp"], flags].concat());
        let other = SafeTensors::deserialize(&other).unwrap();
        for name in whole.names().iter().filter(|n| n.contains("logits")) {
            let ((shape, a), (other_shape, b)) = (floats(&whole, name), floats(&other, name));
            assert_eq!(shape, other_shape, "{flags:?}: {name}");
            let worst = a
                .iter()
                .zip(&b)
                .map(|(x, y)| (x - y).abs())
                .fold(0.0, f32::max);
            assert!(worst < TOLERANCE, "{flags:?}: {name} differs by {worst}");
        }
        assert_eq!(
            whole.tensor("greedy_0").unwrap().data(),
            other.tensor("greedy_0").unwrap().data(),
            "{flags:?}"
        );
    }
}

#[test]
fn logits_say_what_is_wrong_with_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let (prompts, out) = (folder.path().join("p.json"), folder.path().join("o"));
    for (content, wanted) in [
        ("{", "expected a JSON list"),
        ("[1]", "expected a JSON list"),
        (r#"["a", ""]"#, "prompt 1 has no tokens"),
        ("[[99999]]", "99999"),
        ("[]", "empty"),
    ] {
        std::fs::write(&prompts, content).unwrap();
        let error = refusal(&["logits", "--prompts", text(&prompts), "--out", text(&out)]);
        assert!(error.contains(wanted), "{content}: {error}");
        assert!(!out.exists(), "{content}: a file in spite of an error");
    }
    let model = made(folder.path(), "plain.gguf", &["--no-mtp", "--layers", "2"]);
    std::fs::write(&prompts, r#"["a"]"#).unwrap();
    let error = refusal(&[
        "logits",
        "-m",
        text(&model),
        "--mtp",
        "--prompts",
        text(&prompts),
        "--out",
        text(&out),
    ]);
    assert!(error.contains("no MTP head"), "{error}");
}

#[test]
fn perplexity_of_a_text_and_divergence_from_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (file, saved) = (
        folder.path().join("text.txt"),
        folder.path().join("saved.kld"),
    );
    let verse = "In the beginning God created the heaven and the earth. And the earth was without form, and void. ";
    std::fs::write(&file, verse.repeat(8)).unwrap();
    let flags = [
        "perplexity",
        "-f",
        text(&file),
        "-c",
        "64",
        "--chunks",
        "2",
        "--json",
    ];
    let plain = json(&flags);
    let saving = json(&[&flags[..], &["--save-logits", text(&saved)]].concat());
    assert_eq!(plain, saving);
    assert_eq!(
        (&plain["chunks"], &plain["scored"]),
        (&2.into(), &(2 * 31).into())
    );
    let value = plain["perplexity"].as_f64().unwrap();
    assert!(
        (1.0..200.0).contains(&value),
        "a known verse, repeated: {value}"
    );

    // Two batch sizes round alike, up to the 16 bits of the file.
    let same = json(&["perplexity", "--kl-base", text(&saved), "--json"]);
    assert!(same["kl"]["value"].as_f64().unwrap().abs() < 1e-4, "{same}");
    assert!(same["same_top"]["value"].as_f64().unwrap() > 0.95, "{same}");
    assert!(
        (same["perplexity"]["value"].as_f64().unwrap() / value - 1.0).abs() < 0.02,
        "{same}"
    );

    // Another model is far away; llama.cpp's names of the flags work too.
    let other = made(folder.path(), "other.gguf", &[]);
    let far = stdout(&[
        "perplexity",
        "-m",
        text(&other),
        "--kl-divergence",
        "--kl-divergence-base",
        text(&saved),
        "--chunks",
        "1",
    ]);
    assert!(
        far.contains("Mean    KLD:   ") && far.contains("Same top p:"),
        "{far}"
    );

    let error = refusal(&["perplexity", "-f", text(&file), "-c", "4096"]);
    assert!(error.contains("at least 8192"), "{error}");
    std::fs::write(&saved, "_logits_").unwrap();
    assert!(refusal(&["perplexity", "--kl-base", text(&saved)]).contains("saved.kld"));
}

#[test]
fn synth_makes_models_that_load_and_answer() {
    let folder = tempfile::tempdir().unwrap();
    let narrow = "--hidden 256 --heads 2 --ff 512 --expert-ff 64 --experts 16 --vocab 512";
    let cases = [
        "--like tiny-ling --type F16 --layers 2".to_owned(),
        "--like tiny-ling --type Q4_K --layers 4 --experts 8 --seed 7".to_owned(),
        "--like tiny-ling --type IQ2_XXS --q-lora 0 --no-mtp".to_owned(),
        "--like tiny-ling --type Q8_0 --expert-type planes --layers 2".to_owned(),
        "--like tiny-ling --type F16 --expert-type Q4_0 --layers 2".to_owned(),
        format!("--like ling-2.6-flash --layers 4 {narrow}"),
        format!("--like ling-2.6-1t --layers 8 {narrow} --type Q8_0 --output-tensor-type F16"),
    ];
    for (i, flags) in cases.iter().enumerate() {
        let path = folder.path().join(format!("{i}.gguf"));
        let synth = ["synth", "-o", text(&path)].into_iter();
        stdout(&synth.chain(flags.split_whitespace()).collect::<Vec<_>>());
        let report = json(&["inspect", text(&path), "--json"]);
        assert_eq!(
            report["runs"]["status"], "yes",
            "{flags:?}: {}",
            report["runs"]
        );
        let run = ["run", "-m", text(&path)].into_iter();
        let raw = "-no-cnv -p Hello -n 2 --temp 0 --ignore-eos".split_whitespace();
        let answer = stdout(&run.chain(raw).collect::<Vec<_>>());
        assert!(answer.len() > "Hello".len(), "{flags:?}: {answer:?}");
    }
}

#[test]
fn synth_splits_and_repeats_and_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("split.gguf");
    let report = json(&[
        "synth",
        "--like",
        "tiny-ling",
        "-o",
        text(&path),
        "--split-max-size",
        "4M",
        "--json",
    ]);
    let files: Vec<PathBuf> = serde_json::from_value(report["files"].clone()).unwrap();
    assert!(files.len() >= 3, "{report}");
    let whole = made(folder.path(), "whole.gguf", &[]);
    let again = made(folder.path(), "again.gguf", &[]);
    assert!(
        std::fs::read(&whole).unwrap() == std::fs::read(again).unwrap(),
        "the seed is the same"
    );
    let sizes = |path: &Path| json(&["inspect", text(path), "--json"])["bytes"].clone();
    assert_eq!(sizes(&files[1]), sizes(&whole));

    assert_eq!(
        json(&["synth", "--like", "ling-2.6-flash", "--dry-run", "--json"])["bytes"],
        60_582_416_384u64
    );
    let error = refusal(&[
        "synth",
        "--like",
        "tiny-ling",
        "-o",
        "x.gguf",
        "--experts-used",
        "99",
    ]);
    assert!(
        error.contains("experts-used: expected 1 to 16, found 99"),
        "{error}"
    );
    let error = refusal(&[
        "synth",
        "--like",
        "tiny-ling",
        "-o",
        "x.gguf",
        "--type",
        "I8",
    ]);
    assert!(error.contains("I8"), "{error}");
    assert!(refusal(&["synth", "--like", "nothing", "-o", "x.gguf"]).contains("nothing"));
}

#[test]
fn licenses_cover_all_that_is_inside() {
    let all = stdout(&["licenses"]);
    for part in [
        "the oxling authors",
        "The ggml authors",
        "clap",
        "tokenizers",
        "MIT OR Apache-2.0",
    ] {
        assert!(all.contains(part), "no `{part}`");
    }
    let all = json(&["licenses", "--json"]);
    assert!(all["crates"].as_array().unwrap().len() > 150);
}
