//! Broken files through the program: one error that names what is wrong, exit code 1, never a crash.

#[path = "common/broken.rs"]
mod broken;
#[path = "common/edit.rs"]
mod edit;

use assert_cmd::cargo::cargo_bin_cmd;
use edit::Draft;
use oxling::gguf::GgmlType;

/// Runs the program, which must fail with one error, and gives that line.
fn refusal(args: &[&str]) -> String {
    let mut command = cargo_bin_cmd!("oxling");
    command
        .env("NO_COLOR", "1")
        .env("LLAMA_ARG_THREADS", "1")
        .args(args);
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "{args:?}: {:?}\n{stderr}",
        output.status
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "{args:?}: output beside an error"
    );
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    let errors: Vec<&str> = stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{args:?}: {stderr}");
    errors[0].to_owned()
}

#[test]
fn broken_containers_are_refused_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for case in broken::cases() {
        let path = case.write(folder.path());
        let path = path.to_str().unwrap();
        for args in [
            vec!["inspect", path],
            vec!["tokenize", "-m", path, "-p", "x"],
        ] {
            let error = refusal(&args);
            for part in [path, case.field, case.phrase] {
                assert!(
                    error.contains(part),
                    "{}: no `{part}` in `{error}`",
                    case.name
                );
            }
        }
    }
    let error = refusal(&["inspect", folder.path().to_str().unwrap()]);
    assert!(error.contains("a directory"), "{error}");
}

/// What is wrong with a model, how to make it so, and what the error must name.
type Case = (&'static str, fn(&mut Draft), &'static [&'static str]);

const KEYS: &[Case] = &[
    (
        "no architecture",
        |d| drop(d.metadata.remove("general.architecture")),
        &["general.architecture"],
    ),
    (
        "architecture is a number",
        |d| drop(d.metadata.insert("general.architecture", 7u32)),
        &["general.architecture", "u32"],
    ),
    (
        "no blocks",
        |d| d.unset("block_count"),
        &["bailing_hybrid.block_count"],
    ),
    (
        "zero blocks",
        |d| d.set("block_count", 0u32),
        &["bailing_hybrid.block_count", "0"],
    ),
    (
        "only the MTP block",
        |d| d.set("block_count", 1u32),
        &["bailing_hybrid.block_count"],
    ),
    (
        "four billion blocks",
        |d| d.set("block_count", u32::MAX),
        &["bailing_hybrid.block_count", "4294967295"],
    ),
    (
        "blocks in words",
        |d| d.set("block_count", "nine"),
        &["bailing_hybrid.block_count", "string"],
    ),
    (
        "negative blocks",
        |d| d.set("block_count", -9i32),
        &["bailing_hybrid.block_count"],
    ),
    (
        "two MTP blocks",
        |d| d.set("nextn_predict_layers", 2u32),
        &["bailing_hybrid.nextn_predict_layers"],
    ),
    (
        "no width",
        |d| d.unset("embedding_length"),
        &["bailing_hybrid.embedding_length"],
    ),
    (
        "zero width",
        |d| d.set("embedding_length", 0u32),
        &["bailing_hybrid.embedding_length"],
    ),
    (
        "huge width",
        |d| d.set("embedding_length", 1u32 << 31),
        &["bailing_hybrid.embedding_length"],
    ),
    (
        "no epsilon",
        |d| d.unset("attention.layer_norm_rms_epsilon"),
        &["attention.layer_norm_rms_epsilon"],
    ),
    (
        "epsilon is not a number",
        |d| d.set("attention.layer_norm_rms_epsilon", f32::NAN),
        &["layer_norm_rms_epsilon"],
    ),
    (
        "negative epsilon",
        |d| d.set("attention.layer_norm_rms_epsilon", -1f32),
        &["layer_norm_rms_epsilon"],
    ),
    (
        "no heads",
        |d| d.unset("attention.head_count"),
        &["attention.head_count"],
    ),
    (
        "zero heads",
        |d| d.set("attention.head_count", 0u32),
        &["attention.head_count"],
    ),
    (
        "huge heads",
        |d| d.set("attention.head_count", 1u32 << 30),
        &["attention.head_count"],
    ),
    (
        "heads as wide as a sea",
        |d| d.set("attention.key_length", 1u32 << 24),
        &["attention.key_length"],
    ),
    (
        "heads of an odd width",
        |d| d.set("attention.key_length", 63u32),
        &["attention.key_length", "even"],
    ),
    (
        "a stretch of nothing",
        |d| {
            d.set("rope.scaling.type", "linear");
            d.set("rope.scaling.factor", 1e-38f32);
        },
        &["rope.scaling.factor"],
    ),
    (
        "experts that weigh next to nothing",
        |d| d.set("expert_weights_scale", 1e-6f32),
        &["expert_weights_scale"],
    ),
    (
        "no rank",
        |d| d.unset("attention.kv_lora_rank"),
        &["attention.kv_lora_rank"],
    ),
    (
        "zero rank",
        |d| d.set("attention.kv_lora_rank", 0u32),
        &["attention.kv_lora_rank"],
    ),
    (
        "short pattern",
        |d| d.set("attention.head_count_kv", vec![0i32, 1]),
        &["attention.head_count_kv"],
    ),
    (
        "pattern in words",
        |d| d.set("attention.head_count_kv", "0001"),
        &["attention.head_count_kv", "string"],
    ),
    (
        "value width",
        |d| d.set("attention.value_length", 32u32),
        &["attention.value_length"],
    ),
    (
        "norm groups",
        |d| d.set("attention.group_norm_groups", 3u32),
        &["attention.group_norm_groups"],
    ),
    (
        "more rotation than head",
        |d| d.set("rope.dimension_count", 512u32),
        &["rope.dimension_count"],
    ),
    (
        "odd rotation",
        |d| d.set("rope.dimension_count", 31u32),
        &["rope.dimension_count"],
    ),
    (
        "frequency is not a number",
        |d| d.set("rope.freq_base", f32::NAN),
        &["rope.freq_base"],
    ),
    (
        "no experts",
        |d| d.unset("expert_count"),
        &["bailing_hybrid.expert_count"],
    ),
    (
        "zero experts",
        |d| d.set("expert_count", 0u32),
        &["bailing_hybrid.expert_count"],
    ),
    (
        "more used than there are",
        |d| d.set("expert_used_count", 17u32),
        &["expert_used_count", "17"],
    ),
    (
        "groups that do not divide",
        |d| d.set("expert_group_count", 5u32),
        &["expert_group_count"],
    ),
    (
        "more groups used",
        |d| d.set("expert_group_used_count", 5u32),
        &["expert_group_used_count"],
    ),
    (
        "another gate",
        |d| d.set("expert_gating_func", 1u32),
        &["expert_gating_func", "sigmoid"],
    ),
    (
        "no expert width",
        |d| d.unset("expert_feed_forward_length"),
        &["expert_feed_forward_length"],
    ),
    (
        "huge shared width",
        |d| d.set("expert_shared_count", u32::MAX),
        &["expert_shared_count"],
    ),
    (
        "scale is not a number",
        |d| d.set("expert_weights_scale", "much"),
        &["expert_weights_scale", "string"],
    ),
    (
        "context in words",
        |d| d.set("context_length", "long"),
        &["context_length", "string"],
    ),
];

const ARCHITECTURES: &[Case] = &[
    (
        "a falcon",
        |d| drop(d.metadata.insert("general.architecture", "falcon")),
        &["`falcon` is not supported"],
    ),
    (
        "the sibling",
        |d| drop(d.metadata.insert("general.architecture", "bailingmoe2.5")),
        &["bailingmoe2.5", "another converter"],
    ),
    (
        "Ling 3",
        |d| drop(d.metadata.insert("general.architecture", "bailingmoe3")),
        &["bailingmoe3", "Ling 3.0"],
    ),
    (
        "Ling 3 by another name",
        |d| d.put("blk.0.ssm_conv1d_q.weight", GgmlType::F32, &[4]),
        &["ssm_conv1d_q", "Ling 3.0"],
    ),
];

const TENSORS: &[Case] = &[
    ("no tensors", |d| d.tensors.clear(), &["0 tensors"]),
    (
        "no embedding",
        |d| d.drop_tensor("token_embd.weight"),
        &["`token_embd.weight` is missing"],
    ),
    (
        "no final norm",
        |d| d.drop_tensor("output_norm.weight"),
        &["`output_norm.weight` is missing"],
    ),
    (
        "no experts",
        |d| d.drop_tensor("blk.2.ffn_up_exps.weight"),
        &["`blk.2.ffn_up_exps.weight` is missing"],
    ),
    (
        "no latent",
        |d| d.drop_tensor("blk.3.attn_k_b.weight"),
        &["blk.3.attn_k_b.weight"],
    ),
    (
        "narrow norm",
        |d| d.put("blk.0.attn_norm.weight", GgmlType::F32, &[255]),
        &["blk.0.attn_norm.weight", "[255]", "[256]"],
    ),
    (
        "turned matrix",
        |d| d.put("blk.0.ffn_down.weight", GgmlType::F16, &[256, 768]),
        &["blk.0.ffn_down.weight", "[256, 768]"],
    ),
    (
        "missing experts",
        |d| d.put("blk.1.ffn_up_exps.weight", GgmlType::F16, &[256, 128, 15]),
        &["blk.1.ffn_up_exps.weight"],
    ),
    (
        "more dimensions",
        |d| d.put("output.weight", GgmlType::F16, &[256, 4096, 2]),
        &["output.weight"],
    ),
    (
        "another width of embedding",
        |d| d.put("token_embd.weight", GgmlType::F16, &[128, 4096]),
        &["token_embd.weight"],
    ),
    (
        "fewer rows than tokens",
        |d| d.put("token_embd.weight", GgmlType::F16, &[256, 4000]),
        &["4000"],
    ),
    (
        "quantised norm",
        |d| d.put("blk.0.attn_norm.weight", GgmlType::Q8_0, &[256]),
        &["blk.0.attn_norm.weight", "Q8_0"],
    ),
    (
        "integer matrix",
        |d| d.put("blk.0.ffn_up.weight", GgmlType::I32, &[256, 768]),
        &["blk.0.ffn_up.weight", "I32"],
    ),
    (
        "activation type",
        |d| d.put("blk.0.ffn_up.weight", GgmlType::Q8_K, &[256, 768]),
        &["blk.0.ffn_up.weight", "Q8_K"],
    ),
    (
        "integer embedding",
        |d| d.put("token_embd.weight", GgmlType::I8, &[256, 4096]),
        &["token_embd.weight", "I8"],
    ),
];

/// For commands that load the MTP head; `oxling run` leaves it out.
const MTP: &[Case] = &[
    (
        "half an MTP head",
        |d| d.drop_tensor("blk.8.nextn.hnorm.weight"),
        &["`blk.8.nextn.hnorm.weight` is missing"],
    ),
    (
        "an MTP head without its router",
        |d| d.drop_tensor("blk.8.ffn_gate_inp.weight"),
        &["blk.8.ffn_gate_inp.weight"],
    ),
];

const TOKENIZERS: &[Case] = &[
    (
        "no tokenizer",
        |d| drop(d.metadata.remove("tokenizer.ggml.model")),
        &["tokenizer.ggml.model"],
    ),
    (
        "another tokenizer",
        |d| drop(d.metadata.insert("tokenizer.ggml.model", "bert")),
        &["bert"],
    ),
    (
        "no tokens",
        |d| drop(d.metadata.remove("tokenizer.ggml.tokens")),
        &["tokenizer.ggml.tokens"],
    ),
    (
        "tokens that are numbers",
        |d| drop(d.metadata.insert("tokenizer.ggml.tokens", vec![1u32, 2])),
        &["tokenizer.ggml.tokens"],
    ),
    (
        "an unknown split rule",
        |d| drop(d.metadata.insert("tokenizer.ggml.pre", "no-such-rule")),
        &["no-such-rule"],
    ),
    (
        "too few types",
        |d| {
            drop(
                d.metadata
                    .insert("tokenizer.ggml.token_type", vec![1i32; 9]),
            )
        },
        &["tokenizer.ggml.token_type"],
    ),
    (
        "a merge of nothing",
        |d| drop(d.metadata.insert("tokenizer.ggml.merges", vec!["abc"])),
        &["tokenizer.ggml.merges"],
    ),
    (
        "an end outside",
        |d| drop(d.metadata.insert("tokenizer.ggml.eos_token_id", 99_999u32)),
        &["tokenizer.ggml.eos_token_id"],
    ),
];

/// Flags that make the program compute one token of raw text.
const RUN: &[&str] = &["run", "-no-cnv", "-p", "x", "-n", "1"];

/// Gives each case to a command, which must refuse it.
fn check(command: &[&str], cases: &[Case]) {
    let folder = tempfile::tempdir().unwrap();
    let demo = Draft::demo();
    let path = folder.path().join("model.gguf");
    let name = path.to_str().unwrap();
    let mut wrong = Vec::new();
    for (what, change, wanted) in cases {
        let mut draft = demo.clone();
        change(&mut draft);
        draft.write(&path);
        let error = refusal(&[command, &["-m", name]].concat());
        let mut wanted = wanted.iter().copied().chain([name]);
        if let Some(part) = wanted.find(|part| !error.contains(part)) {
            wrong.push(format!("{what}: no `{part}` in `{error}`"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn keys_that_are_missing_or_impossible() {
    check(RUN, KEYS);
}

#[test]
fn architectures_that_do_not_run() {
    check(RUN, ARCHITECTURES);
}

#[test]
fn tensors_that_do_not_fit() {
    check(RUN, TENSORS);
}

#[test]
fn tokenizers_that_cannot_work() {
    check(RUN, TOKENIZERS);
}

#[test]
fn mtp_heads_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = folder.path().join("prompts.json");
    std::fs::write(&prompts, r#"["x"]"#).unwrap();
    let out = folder.path().join("out");
    let (prompts, out) = (prompts.to_str().unwrap(), out.to_str().unwrap());
    check(
        &["logits", "--mtp", "--prompts", prompts, "--out", out],
        MTP,
    );
}
