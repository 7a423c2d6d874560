use super::*;
use crate::gguf::Gguf;
use crate::tokenizer::{EncodeOptions, Tokenizer};

fn tiny() -> Dims {
    PRESETS[2].dims
}

fn recipe(dims: Dims, ty: GgmlType) -> Recipe {
    let name = "test".to_owned();
    Recipe {
        name,
        dims,
        ty,
        output_ty: None,
        embedding_ty: None,
        experts: None,
        seed: 1,
        split_max_bytes: None,
        sparse: false,
    }
}

fn make(recipe: &Recipe, folder: &std::path::Path) -> PathBuf {
    let path = folder.join("made.gguf");
    Blueprint::new(recipe)
        .unwrap()
        .write(&path, &|_| ())
        .unwrap()
        .remove(0)
}

#[test]
fn shapes_are_those_of_the_published_models() {
    let flash = Blueprint::new(&recipe(PRESETS[0].dims, GgmlType::IQ4_NL)).unwrap();
    // 540 tensors and about 104 billion weights of the trunk, 3.2 billion more of the MTP head.
    assert_eq!(flash.tensors.len(), 540);
    assert_eq!(flash.n_params() / 100_000_000, 1074);
    let one_t = Blueprint::new(&recipe(PRESETS[1].dims, GgmlType::IQ4_NL)).unwrap();
    assert!(
        (990_000_000_000..1_050_000_000_000).contains(&one_t.n_params()),
        "{}",
        one_t.n_params()
    );
}

#[test]
fn the_same_seed_gives_the_same_file_and_another_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    for seed in [1, 1, 2] {
        let path = make(
            &Recipe {
                seed,
                ..recipe(tiny(), GgmlType::IQ4_NL)
            },
            folder.path(),
        );
        bytes.push(std::fs::read(path).unwrap());
    }
    assert!(bytes[0] == bytes[1]);
    assert!(bytes[0] != bytes[2]);
}

#[test]
fn a_sparse_file_is_the_same_but_for_weights_that_are_zero() {
    for experts in [None, Some(ExpertType::Planes)] {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let files = [false, true].map(|sparse| Recipe {
            sparse,
            experts,
            ..recipe(tiny(), GgmlType::IQ4_NL)
        });
        let paths = [0, 1].map(|i| make(&files[i], folders[i].path()));
        let [full, sparse] = paths.clone().map(|path| Gguf::open(&path).unwrap());
        assert_eq!(full.metadata().len(), sparse.metadata().len());
        for (a, b) in full.tensors().iter().zip(sparse.tensors()) {
            assert_eq!(
                (&a.name, a.ty, a.offset, a.bytes),
                (&b.name, b.ty, b.offset, b.bytes)
            );
            let empty = sparse.data(b).iter().all(|&byte| byte == 0);
            let small = a.ty == GgmlType::F32 && a.shape.n_dims() == 1;
            assert!(
                if small {
                    full.data(a) == sparse.data(b)
                } else {
                    empty || a.ty == GgmlType::F32
                },
                "{}",
                a.name
            );
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            let used = paths.map(|path| 512 * std::fs::metadata(path).unwrap().blocks());
            assert!(used[1] < used[0] / 4, "{used:?} bytes on the disk");
        }
    }
}

#[test]
fn weights_have_the_variance_that_keeps_activations_finite() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&make(&recipe(tiny(), GgmlType::F32), folder.path())).unwrap();
    let mut seen = 0;
    for info in gguf.tensors().iter().filter(|t| t.shape.n_dims() > 1) {
        let values: &[f32] = bytemuck::cast_slice(gguf.data(info));
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        let fan_in = info.shape.ne()[0] as f64;
        // Five standard errors of a sample of this size.
        let tolerance = 5.0 * (2.0 / n).sqrt();
        assert!(
            mean.abs() * fan_in.sqrt() < tolerance,
            "{}: mean {mean}",
            info.name
        );
        assert!(
            (variance * fan_in - 1.0).abs() < tolerance,
            "{}: variance {variance}",
            info.name
        );
        let rows: std::collections::HashSet<&[u8]> = gguf
            .data(info)
            .chunks(info.shape.ne()[0] as usize * 4)
            .collect();
        assert!(
            rows.len() as u64 * 100 > info.shape.rows() * 99,
            "{}: rows repeat",
            info.name
        );
        seen += 1;
    }
    assert!(seen > 50);
}

#[test]
fn any_text_has_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&make(&recipe(tiny(), GgmlType::Q4_0), folder.path())).unwrap();
    let tokenizer = Tokenizer::from_metadata(gguf.metadata()).unwrap();
    assert_eq!(tokenizer.n_vocab(), 4096);
    let text = "naïve 東京 🙂\r\n\u{1}<role>HUMAN</role>";
    let ids = tokenizer.encode(
        text,
        EncodeOptions {
            add_special: false,
            parse_special: true,
        },
    );
    assert_eq!(tokenizer.decode(&ids, true), text.as_bytes());
    assert_eq!(tokenizer.eos(), tokenizer.token_id("<|role_end|>"));
}

#[test]
fn rows_that_do_not_fit_a_type_get_the_nearest_that_does() {
    let blueprint = Blueprint::new(&recipe(PRESETS[0].dims, GgmlType::Q4_K)).unwrap();
    let expected = Fallback {
        tensor: "attn_k_b".into(),
        row: 128,
        wanted: GgmlType::Q4_K,
        used: GgmlType::Q5_0,
    };
    assert_eq!(blueprint.fallbacks(), [expected]);
    let odd = Dims {
        kv_lora: 100,
        ..tiny()
    };
    let blueprint = Blueprint::new(&recipe(odd, GgmlType::IQ4_NL)).unwrap();
    assert_eq!(blueprint.fallbacks()[0].used, GgmlType::F16);
}

#[test]
fn impossible_sizes_are_refused() {
    type Change = fn(&mut Dims);
    let cases: [(&str, Change); 6] = [
        ("experts-used", |d| d.experts_used = 17),
        ("experts", |d| d.experts = 18),
        ("heads times head-dim", |d| d.norm_groups = 3),
        ("vocab", |d| d.vocab = 100),
        ("hidden", |d| d.hidden = 0),
        ("dense-layers", |d| d.dense_layers = 9),
    ];
    for (name, change) in cases {
        let mut dims = tiny();
        change(&mut dims);
        match Blueprint::new(&recipe(dims, GgmlType::F16)) {
            Err(SynthError::Size { what, .. }) => assert_eq!(what, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn groups_follow_a_changed_number_of_experts() {
    for (experts, used, groups) in [
        (64, 8, (8, 4)),
        (4, 2, (4, 2)),
        (6, 6, (6, 6)),
        (1, 1, (1, 1)),
        (7, 2, (7, 4)),
    ] {
        let mut dims = Dims {
            experts,
            experts_used: used,
            ..PRESETS[0].dims
        };
        dims.fit_groups();
        assert_eq!((dims.groups, dims.groups_used), groups, "{experts} experts");
        dims.check().unwrap();
    }
}

/// Rows of planes have the norm of other rows, hold each weight as a code of the codebook, and are declared.
#[test]
fn experts_can_be_planes() {
    let folder = tempfile::tempdir().unwrap();
    let dims = Dims {
        layers: 3,
        expert_ff: 512,
        ..tiny()
    };
    let recipe = Recipe {
        experts: Some(ExpertType::Planes),
        ..recipe(dims, GgmlType::Q8_0)
    };
    let plain = Recipe {
        experts: None,
        ..recipe.clone()
    };
    let count = |recipe: &Recipe| Blueprint::new(recipe).unwrap().n_params();
    assert_eq!(count(&recipe), count(&plain));
    let gguf = Gguf::open(&make(&recipe, folder.path())).unwrap();
    let layout = crate::planes::PlaneLayout::of(&gguf).unwrap();
    // Three blocks with experts, three matrices each; rows of 256 and of 512 weights.
    assert_eq!((layout.tensors.len(), layout.codebooks.len()), (9, 2));
    for name in &layout.tensors {
        let info = gguf.tensor(name).unwrap();
        let row = info.shape.ne()[0];
        let codebook = layout.codebooks[&(row as u32 / 2)];
        let mut values = Vec::new();
        crate::ggml::dequantize(info.ty, gguf.data(info), row, &mut values).unwrap();
        // Rows of few blocks have few turns, so some repeat.
        let row_bytes = (info.bytes / info.shape.rows()) as usize;
        let rows: std::collections::HashSet<&[u8]> = gguf.data(info).chunks(row_bytes).collect();
        assert!(
            rows.len() as u64 * 2 > info.shape.rows(),
            "{name}: rows repeat"
        );
        for row in values.chunks(row as usize) {
            let (s, u) = row.split_at(row.len() / 2);
            let norm = s.iter().zip(u).map(|(s, u)| (s + u).powi(2)).sum::<f32>();
            // Scales are F16.
            assert!((norm - 1.0).abs() < 2e-3, "{name}: a row of norm {norm}");
            let levels = [s[0].abs(), u[0].abs()];
            let ratio = (levels[0] - levels[1]) / (levels[0] + levels[1]);
            assert!(
                (ratio - codebook[2] / codebook[3]).abs() < 2e-3,
                "{name}: {levels:?}"
            );
            assert!(s.iter().all(|v| v.abs() == levels[0]), "{name}");
            assert!(u.iter().all(|v| v.abs() == levels[1]), "{name}");
        }
    }
    let odd = Dims {
        expert_ff: 96,
        ..tiny()
    };
    let blueprint = Blueprint::new(&Recipe {
        dims: odd,
        ..recipe
    })
    .unwrap();
    let fallback = &blueprint.fallbacks()[0];
    assert_eq!(
        (fallback.tensor.as_str(), fallback.used),
        ("ffn_down_exps", GgmlType::Q8_0)
    );
}
