//! Models with experts stored as planes: the graph against plain loops, and declarations that cannot be followed.

#[path = "common/plain_ling.rs"]
mod plain_ling;
#[path = "common/planes.rs"]
mod planes;
#[path = "common/tiny.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod tiny;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use oxling::engine::{Engine, EngineConfig};
use oxling::ggml::DType;
use oxling::gguf::{GgmlType, Gguf, Metadata, Shape, TensorPlan, Value, Writer, WriterOptions};
use oxling::memory::{SeqId, Work};
use oxling::model::{LoadError, LoadOptions, Model};
use oxling::planes::{PlaneLayout, signs_name};
use tiny::TinyLing;

/// F32 sums of a few hundred terms against f64, on logits of size about 1.
const F32_TOLERANCE: f64 = 2e-4;

/// The CPU rounds inputs of planes to 8 bits, and so does the plain network. Where F32 and f64 fall on two sides of a
/// step, that position and those after it differ by the size of the rounding: few do.
const EXACT_SHARE: f64 = 0.5;

/// The size of that rounding, 0.06 at worst here; as with any quantised type.
const EIGHT_BITS: f64 = 0.15;

const TOKENS: [u32; 23] = [
    84, 104, 101, 32, 99, 97, 112, 105, 116, 97, 108, 32, 111, 102, 32, 70, 114, 97, 110, 99, 101,
    32, 105,
];

/// A tiny model some of whose expert matrices are planes.
struct Case {
    hp: TinyLing,
    planes: &'static [&'static str],
}

const ALL: &[&str] = &["gate", "up", "down"];

fn cases() -> Vec<Case> {
    let base = TinyLing {
        n_layer: 3,
        n_embd: 128,
        n_ff: 128,
        ..TinyLing::BASE
    };
    let case = |planes, hp| Case { hp, planes };
    vec![
        case(ALL, base.clone()),
        case(
            ALL,
            TinyLing {
                name: "wide inputs, no MTP block",
                n_embd: 256,
                mtp: false,
                ..base.clone()
            },
        ),
        case(
            ALL,
            TinyLing {
                name: "wide experts, one per token",
                n_ff: 256,
                n_used: 1,
                n_group: 1,
                n_group_used: 1,
                ..base.clone()
            },
        ),
        case(
            ALL,
            TinyLing {
                name: "wider than every backend's fast transform",
                n_embd: 1024,
                n_layer: 1,
                interval: 8,
                scalar_kv: true,
                n_dense: 0,
                n_expert: 4,
                n_group: 1,
                n_group_used: 1,
                ..base.clone()
            },
        ),
        case(
            ALL,
            TinyLing {
                name: "every expert",
                n_expert: 4,
                n_used: 4,
                n_group: 1,
                n_group_used: 1,
                ..base.clone()
            },
        ),
        case(
            &["gate", "up"],
            TinyLing {
                name: "down is F32",
                ..base.clone()
            },
        ),
        case(
            &["up"],
            TinyLing {
                name: "gate and down are F32",
                ..base.clone()
            },
        ),
        case(
            &["down"],
            TinyLing {
                name: "gate and up are F32, no shared expert, one expert",
                n_shared: 0,
                n_used: 1,
                ..base
            },
        ),
    ]
}

/// A model before it is written.
#[derive(Clone)]
struct Draft {
    metadata: Metadata,
    tensors: BTreeMap<String, (GgmlType, Vec<u64>, Vec<u8>)>,
}

impl Draft {
    /// The model of a case, and its planes by name.
    fn of(case: &Case, weights: &BTreeMap<String, Vec<f32>>) -> (Self, BTreeMap<String, Vec<u8>>) {
        let mut draft = Self {
            metadata: case.hp.metadata(),
            tensors: BTreeMap::new(),
        };
        let (mut layout, mut encoded) = (PlaneLayout::default(), BTreeMap::new());
        for (name, shape) in case.hp.shapes() {
            let mut shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
            let is_planes = |p: &&str| name.contains(&format!("ffn_{p}_exps"));
            if !case.planes.iter().any(is_planes) {
                let bytes = bytemuck::cast_slice(&weights[&name]).to_vec();
                draft.tensors.insert(name, (GgmlType::F32, shape, bytes));
                continue;
            }
            let width = shape[0];
            let signs = bytemuck::cast_slice(&planes::signs(width as usize)).to_vec();
            draft
                .tensors
                .insert(signs_name(width), (GgmlType::F32, vec![width], signs));
            let bytes = planes::encode(&weights[&name], width as usize);
            encoded.insert(name.clone(), bytes.clone());
            layout.tensors.insert(name.clone());
            shape[0] *= 2;
            draft.tensors.insert(name, (GgmlType::Q1_0, shape, bytes));
        }
        layout.write(&mut draft.metadata);
        (draft, encoded)
    }

    fn write(self, path: &Path) {
        let plan = |(name, (ty, shape, _)): (&String, &(GgmlType, Vec<u64>, Vec<u8>))| TensorPlan {
            name: name.clone(),
            ty: *ty,
            shape: Shape::new(shape).unwrap(),
        };
        let plans = self.tensors.iter().map(plan).collect();
        let writer = Writer::create(path, self.metadata, plans, &WriterOptions::default()).unwrap();
        for (i, (_, _, bytes)) in self.tensors.values().enumerate() {
            writer.write_tensor(i, bytes).unwrap();
        }
        writer.finish().unwrap();
    }

    fn load(self) -> Result<Model, LoadError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        self.write(&path);
        let gguf = Arc::new(Gguf::open(&path).unwrap());
        Model::load(gguf, &LoadOptions::default(), &mut |_, _| {})
    }
}

/// Trunk and MTP logits at every position, in steps of `chunk` tokens.
fn run(model: &Model, chunk: usize, own_kernels: bool) -> Vec<(Vec<f32>, Option<Vec<f32>>)> {
    let mtp = model.network().has_mtp();
    let config = EngineConfig {
        n_threads: 1,
        n_threads_batch: 1,
        row_type: DType::F32,
        mtp,
        own_kernels,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(model, config).unwrap();
    let mut out = Vec::new();
    for part in TOKENS.chunks(chunk) {
        let work = Work {
            seq: SeqId(0),
            tokens: part,
            outputs: (0..part.len() as u32).collect(),
        };
        let step = engine.step(&[work], mtp).unwrap();
        out.extend((0..part.len() as u32).map(|t| {
            let ahead = step.mtp_logits(0, t).map(<[f32]>::to_vec);
            (step.logits(0, t).unwrap().to_vec(), ahead)
        }));
    }
    out
}

fn worst(a: &[f32], b: &[f64]) -> f64 {
    let off = a.iter().zip(b).map(|(&a, b)| (f64::from(a) - b).abs());
    off.fold(0.0, f64::max)
}

/// The largest difference of any logit, position by position.
fn distances(rows: &[(Vec<f32>, Option<Vec<f32>>)], expected: &plain_ling::Logits) -> Vec<f64> {
    let each = rows.iter().enumerate().map(|(t, (trunk, mtp))| {
        let ahead = match (mtp, t) {
            (Some(mtp), 1..) => worst(mtp, &expected.mtp[t - 1]),
            _ => 0.0,
        };
        worst(trunk, &expected.trunk[t]).max(ahead)
    });
    each.collect()
}

#[test]
fn every_mixture_equals_the_plain_network() {
    let (mut exact, mut all) = (0, 0);
    for case in cases() {
        let mut weights = case.hp.weights();
        let (draft, encoded) = Draft::of(&case, &weights);
        let model = draft
            .load()
            .unwrap_or_else(|e| panic!("{}: {e}", case.hp.name));
        let params: usize = case
            .hp
            .shapes()
            .iter()
            .map(|(_, s)| s.iter().product::<usize>())
            .sum();
        assert_eq!(model.n_params(), params as u64, "{}", case.hp.name);
        for (name, shape) in case.hp.shapes() {
            if let Some(bytes) = encoded.get(&name) {
                weights.insert(name, planes::decode(bytes, shape[0]));
            }
        }
        let rounded =
            plain_ling::forward_with(&case.hp, &weights, &TOKENS, &|name, e, x, n_out| {
                encoded
                    .get(name)
                    .map(|bytes| planes::product(bytes, e, x, n_out))
            });
        let plain = plain_ling::forward(&case.hp, &weights, &TOKENS);
        for chunk in [23, 1] {
            let rows = run(&model, chunk, false);
            let near = distances(&rows, &rounded);
            for (t, off) in near.iter().enumerate() {
                assert!(
                    *off < EIGHT_BITS,
                    "{}, steps of {chunk}: token {t} is off by {off}",
                    case.hp.name
                );
            }
            all += near.len();
            exact += near.iter().filter(|off| **off < F32_TOLERANCE).count();
            // Elsewhere rounding may change which experts are chosen.
            if case.hp.n_used == case.hp.n_expert {
                // Our own kernels round in their own way, but no further away.
                for rows in [rows, run(&model, chunk, true)] {
                    let off = distances(&rows, &plain).into_iter().fold(0.0, f64::max);
                    assert!(
                        off < EIGHT_BITS,
                        "{}, steps of {chunk}: rounding costs {off}",
                        case.hp.name
                    );
                }
            }
        }
    }
    assert!(
        exact as f64 > EXACT_SHARE * all as f64,
        "only {exact} of {all} positions equal the plain network"
    );
}

type Change = fn(&mut Draft);

const GATE: &str = "blk.1.ffn_gate_exps.weight";
const SIGNS: &str = "planes.signs.128";

/// What is wrong with a declaration, how to make it so, and what the error or its hint must say.
const BROKEN: &[(&str, Change, &[&str])] = &[
    (
        "no version",
        |d| d.unset("planes.version"),
        &["planes.version", "missing"],
    ),
    (
        "a later version",
        |d| d.set("planes.version", 2u32),
        &["planes.version", "expected 1", "found 2", "update"],
    ),
    (
        "no rotation",
        |d| d.unset("planes.rotation"),
        &["planes.rotation", "missing"],
    ),
    (
        "an unknown rotation",
        |d| d.set("planes.rotation", "givens"),
        &["planes.rotation", "givens"],
    ),
    (
        "no list of tensors",
        |d| d.unset("planes.tensors"),
        &["planes.tensors", "missing"],
    ),
    (
        "no declaration at all",
        |d| {
            for key in ["version", "rotation", "seed", "tensors"] {
                d.unset(&format!("planes.{key}"));
            }
        },
        &[GATE, "expected [128, 128, 8]", "planes.tensors"],
    ),
    (
        "one tensor is not listed",
        |d| d.list(&[GATE]),
        &[
            "blk.1.ffn_up_exps.weight",
            "[256, 128, 8]",
            "does not list it",
        ],
    ),
    (
        "an absent tensor",
        |d| d.list(&["blk.9.ffn_up_exps.weight"]),
        &["blk.9.ffn_up_exps.weight", "no such tensor"],
    ),
    (
        "a tensor of another type",
        |d| d.list(&["output.weight"]),
        &["output.weight", "Q1_0", "F32"],
    ),
    (
        "a matrix that is no expert",
        |d| {
            d.put("output.weight", GgmlType::Q1_0, &[256, 260]);
            let mut layout = PlaneLayout::read(&d.metadata).unwrap().unwrap();
            layout.tensors.insert("output.weight".to_owned());
            layout.write(&mut d.metadata);
        },
        &["output.weight", "only routed experts"],
    ),
    (
        "rows of half a block",
        |d| d.put(GATE, GgmlType::Q1_0, &[128, 128, 8]),
        &[GATE, "power of two", "128"],
    ),
    (
        "rows of three blocks",
        |d| d.put(GATE, GgmlType::Q1_0, &[768, 128, 8]),
        &[GATE, "power of two", "768"],
    ),
    (
        "rows of another length",
        |d| {
            d.put(GATE, GgmlType::Q1_0, &[512, 128, 8]);
            d.put("planes.signs.256", GgmlType::F32, &[256]);
            let ones = bytemuck::cast_slice(&[1f32; 256]).to_vec();
            d.tensors.get_mut("planes.signs.256").unwrap().2 = ones;
        },
        &[GATE, "[512, 128, 8]", "[256, 128, 8]"],
    ),
    (
        "too few experts",
        |d| d.put(GATE, GgmlType::Q1_0, &[256, 128, 7]),
        &[GATE, "7", "8"],
    ),
    (
        "no signs",
        |d| drop(d.tensors.remove(SIGNS)),
        &[SIGNS, "missing", "128"],
    ),
    (
        "signs of another length",
        |d| d.put(SIGNS, GgmlType::F32, &[64]),
        &[SIGNS, "64"],
    ),
    (
        "signs in a matrix",
        |d| d.put(SIGNS, GgmlType::F32, &[128, 2]),
        &[SIGNS, "[128, 2]"],
    ),
    (
        "signs of another type",
        |d| d.put(SIGNS, GgmlType::F16, &[128]),
        &[SIGNS, "F16"],
    ),
    (
        "a sign that is zero",
        |d| d.put(SIGNS, GgmlType::F32, &[128]),
        &[SIGNS, "value 0"],
    ),
    (
        "a sign that is no number",
        |d| {
            let (_, _, bytes) = d.tensors.get_mut(SIGNS).unwrap();
            bytes[20..24].copy_from_slice(&f32::NAN.to_le_bytes());
        },
        &[SIGNS, "value 5"],
    ),
];

impl Draft {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.metadata.insert(key, value);
    }

    fn unset(&mut self, key: &str) {
        assert!(self.metadata.remove(key).is_some(), "{key} was not there");
    }

    fn list(&mut self, names: &[&str]) {
        self.set("planes.tensors", names.to_vec());
    }

    /// Replaces a tensor, or adds it, with zeros for content.
    fn put(&mut self, name: &str, ty: GgmlType, shape: &[u64]) {
        let len = Shape::new(shape).unwrap().bytes(ty).unwrap() as usize;
        let tensor = (ty, shape.to_vec(), vec![0; len]);
        self.tensors.insert(name.to_owned(), tensor);
    }
}

#[test]
fn declarations_that_cannot_be_followed_are_refused() {
    let case = &cases()[0];
    let (draft, _) = Draft::of(case, &case.hp.weights());
    for (name, change, phrases) in BROKEN {
        let mut draft = draft.clone();
        change(&mut draft);
        let error = draft
            .load()
            .err()
            .unwrap_or_else(|| panic!("{name}: loads"));
        let text = format!("{error} / {}", error.hint().unwrap_or_default());
        for phrase in *phrases {
            assert!(text.contains(phrase), "{name}: no `{phrase}` in `{text}`");
        }
    }
}
