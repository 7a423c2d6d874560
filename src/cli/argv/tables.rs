//! Flags of llama.cpp that are spelled otherwise here, or are not here.

#![forbid(unsafe_code)]

/// Long flags behind one dash, and ours.
pub const SHORT: &[(&str, &str)] = &[
    ("a", "alias"),
    ("cb", "cont-batching"),
    ("cmoe", "cpu-moe"),
    ("cnv", "conversation"),
    ("co", "color"),
    ("cram", "cache-ram"),
    ("ctxcp", "ctx-checkpoints"),
    ("ctk", "cache-type-k"),
    ("ctv", "cache-type-v"),
    ("dev", "device"),
    ("fa", "flash-attn"),
    ("hf", "hf-repo"),
    ("hff", "hf-file"),
    ("hfr", "hf-repo"),
    ("hft", "hf-token"),
    ("jf", "json-schema-file"),
    ("kvu", "kv-unified"),
    ("lm", "load-mode"),
    ("lv", "log-verbosity"),
    ("mli", "multiline-input"),
    ("mmp", "mmap"),
    ("ncmoe", "n-cpu-moe"),
    ("ngl", "n-gpu-layers"),
    ("no-cnv", "no-conversation"),
    ("np", "parallel"),
    ("npl", "npl"),
    ("npp", "npp"),
    ("ntg", "ntg"),
    ("oe", "output-err"),
    ("ofreq", "output-frequency"),
    ("pg", "pg"),
    ("pps", "pps"),
    ("rea", "reasoning"),
    ("sp", "special"),
    ("sps", "slot-prompt-similarity"),
    ("st", "single-turn"),
    ("sys", "system-prompt"),
    ("sysf", "system-prompt-file"),
    ("tb", "threads-batch"),
    ("to", "timeout"),
    ("tgs", "tgs"),
    ("ub", "ubatch-size"),
];

/// Flags that llama.cpp or we have under another name, and what to write.
pub const RENAMED: &[(&[&str], &str)] = &[
    (&["draft", "draft-n", "draft-max"], "--spec-draft-n-max N"),
    (&["draft-min", "draft-n-min"], "--spec-draft-n-min N"),
    (&["draft-p-min"], "--spec-draft-p-min P"),
    (&["i", "interactive", "if", "interactive-first"], "-cnv"),
    (
        &["in-prefix", "in-suffix", "in-prefix-bos"],
        "--chat-template-file FILE",
    ),
    (&["log-disable"], "-lv 0"),
    (&["mmap"], "-lm mmap"),
    (&["no-mmap"], "-lm none"),
    (&["no-perf"], "--no-show-timings"),
    (&["perf"], "--show-timings"),
];

const DOWNLOAD: &str = "-hf REPO downloads a model of a hub; name other files with -m FILE";
const PLAIN: &str = "leave it out";

/// Flags of llama.cpp that do nothing here yet, and what helps meanwhile. A `*` at the end stands for any rest.
pub const NOT_YET: &[(&[&str], &str)] = &[
    (&["mu", "model-url"], DOWNLOAD),
    (
        &["ot", "override-tensor"],
        "-cmoe and -ncmoe N keep experts on the CPU",
    ),
    (
        &["mlock", "dio", "direct-io"],
        "choose how weights are loaded with -lm mmap or -lm none",
    ),
    (
        &["keep", "context-shift", "no-context-shift"],
        "a full context ends the answer; make it larger with -c N",
    ),
    (
        &["prompt-cache", "prompt-cache-all", "prompt-cache-ro"],
        "/save and /load keep a conversation",
    ),
    (
        &["fit", "fitt", "fit-target", "fitc", "fit-ctx"],
        "`-ngl auto`, the default, places what fits",
    ),
    (
        &[
            "md",
            "model-draft",
            "spec-draft-*",
            "spec-ngram-*",
            "spec-default",
        ],
        PLAIN,
    ),
    (
        &[
            "lora*",
            "control-vector*",
            "mm",
            "mmproj*",
            "image",
            "audio",
            "video",
        ],
        PLAIN,
    ),
    (
        &["numa", "C", "Cr", "Cb", "Crb", "cpu-*", "prio*", "poll*"],
        "-t N and -tb N set the number of threads",
    ),
    (
        &["sm", "split-mode", "ts", "tensor-split", "mg", "main-gpu"],
        "-dev LIST chooses the devices",
    ),
    (
        &[
            "rope-*",
            "yarn-*",
            "override-kv",
            "check-tensors",
            "nr",
            "no-repack",
            "kvo",
            "nkvo",
        ],
        PLAIN,
    ),
    (
        &["keep-split"],
        "--split-max-size SIZE writes parts of at most that size",
    ),
    (&["max-buffer-size"], "memory stays small for any model"),
    (&["prune-layers"], PLAIN),
    (
        &["reasoning-budget*", "reasoning-preserve"],
        "-rea off turns thinking off",
    ),
];
