//! Models written in pieces are the models written at once.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::ggml::quantize;
use crate::gguf::{GgmlType, Gguf, Shape};

/// Row `r` holds `r`, `r + 1/2`, ... in a pattern that no two rows share.
struct Ramp {
    width: u64,
    granule: u64,
    fails_at: Option<u64>,
}

impl Ramp {
    fn row(&self, row: u64) -> impl Iterator<Item = f32> {
        (0..self.width).map(move |i| (row as f32 * 0.37 + i as f32 * 0.11).sin())
    }
}

impl Values for Ramp {
    fn values(&self, rows: Range<u64>, out: &mut Vec<f32>) -> Result<(), SourceProblem> {
        assert_eq!(rows.start % self.granule, 0, "a granule was cut");
        if self.fails_at.is_some_and(|row| rows.contains(&row)) {
            return Err(SourceProblem {
                message: "row is gone".into(),
                hint: Some("look for it".into()),
            });
        }
        out.clear();
        rows.for_each(|row| out.extend(self.row(row)));
        Ok(())
    }

    fn granule(&self) -> u64 {
        self.granule
    }
}

fn ramp(name: &str, ty: GgmlType, dims: &[u64], granule: u64) -> Conversion<'static> {
    Conversion {
        plan: TensorPlan {
            name: name.into(),
            ty,
            shape: Shape::new(dims).unwrap(),
        },
        source: Source::Values(Box::new(Ramp {
            width: dims[0],
            granule,
            fails_at: None,
        })),
        importance: None,
    }
}

fn control<'a>(progress: &'a (dyn Fn(Progress<'_>) + Sync), cancel: &'a AtomicBool) -> Control<'a> {
    Control { progress, cancel }
}

#[test]
fn any_number_of_threads_gives_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = [
        ramp("a", GgmlType::Q8_0, &[4096, 1000], 7),
        ramp("b", GgmlType::F32, &[3], 1),
        ramp("c", GgmlType::IQ4_NL, &[256, 30, 5], 1),
    ];
    let mut files = Vec::new();
    for n_threads in [1, 2, 5] {
        let path = folder.path().join(format!("{n_threads}.gguf"));
        let bytes = AtomicU64::new(0);
        let progress = |p: Progress<'_>| {
            if let Progress::Bytes(n) = p {
                bytes.fetch_add(n, Ordering::Relaxed);
            }
        };
        let options = ConvertOptions {
            n_threads: Some(n_threads),
            ..ConvertOptions::default()
        };
        let cancel = AtomicBool::new(false);
        write(
            &path,
            Metadata::new(),
            &tensors,
            &options,
            &control(&progress, &cancel),
        )
        .unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let total: u64 = gguf.tensors().iter().map(|t| t.bytes).sum();
        assert_eq!(bytes.into_inner(), total);
        files.push(std::fs::read(&path).unwrap());
        for (info, tensor) in gguf.tensors().iter().zip(&tensors) {
            let ramp = Ramp {
                width: info.shape.ne()[0],
                granule: 1,
                fails_at: None,
            };
            let values: Vec<f32> = (0..info.shape.rows()).flat_map(|r| ramp.row(r)).collect();
            let mut expected = Vec::new();
            quantize(tensor.plan.ty, &values, ramp.width, None, &mut expected).unwrap();
            assert_eq!(gguf.data(info), expected, "{}", info.name);
        }
    }
    assert!(files.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn each_matrix_of_a_stack_has_its_own_importance() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let (width, rows, n) = (256u64, 6u64, 3u64);
    let importance: Vec<f32> = (0..width * n).map(|i| 1.0 + (i % 97) as f32).collect();
    let mut tensor = ramp("e", GgmlType::Q2_K, &[width, rows, n], 1);
    tensor.importance = Some(importance.clone().into());
    let cancel = AtomicBool::new(false);
    write(
        &path,
        Metadata::new(),
        &[tensor],
        &ConvertOptions::default(),
        &control(&|_| {}, &cancel),
    )
    .unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let ramp = Ramp {
        width,
        granule: 1,
        fails_at: None,
    };
    let mut expected = Vec::new();
    for matrix in 0..n {
        let values: Vec<f32> = (matrix * rows..(matrix + 1) * rows)
            .flat_map(|r| ramp.row(r))
            .collect();
        let set = &importance[(matrix * width) as usize..((matrix + 1) * width) as usize];
        quantize(GgmlType::Q2_K, &values, width, Some(set), &mut expected).unwrap();
    }
    assert_eq!(gguf.data(&gguf.tensors()[0]), expected);
}

#[test]
fn a_failure_or_a_stop_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, b"earlier").unwrap();
    let mut tensors = vec![ramp("a", GgmlType::F32, &[1024, 5000], 1)];
    let cancel = AtomicBool::new(true);
    let stopped = write(
        &path,
        Metadata::new(),
        &tensors,
        &ConvertOptions::default(),
        &control(&|_| {}, &cancel),
    );
    assert!(matches!(stopped, Err(ConvertError::Cancelled)));

    tensors[0].source = Source::Values(Box::new(Ramp {
        width: 1024,
        granule: 1,
        fails_at: Some(4000),
    }));
    let cancel = AtomicBool::new(false);
    let failed = write(
        &path,
        Metadata::new(),
        &tensors,
        &ConvertOptions::default(),
        &control(&|_| {}, &cancel),
    )
    .unwrap_err();
    assert_eq!(failed.to_string(), "tensor `a`: row is gone");
    assert_eq!(failed.hint().as_deref(), Some("look for it"));

    assert_eq!(std::fs::read(&path).unwrap(), b"earlier");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_a_killed_writer_left_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(folder.path().join("m.gguf.part"), vec![7; 100_000]).unwrap();
    let cancel = AtomicBool::new(false);
    let tensors = [ramp("a", GgmlType::F32, &[4, 2], 1)];
    write(
        &path,
        Metadata::new(),
        &tensors,
        &ConvertOptions::default(),
        &control(&|_| {}, &cancel),
    )
    .unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 1000);
    Gguf::open(&path).unwrap();
}
