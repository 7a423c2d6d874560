//! llama.cpp's files: a GGUF with two tensors per entry, `NAME.in_sum2` and `NAME.counts`.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use super::{Entry, ImatrixError, ImportanceMatrix, legacy};
use crate::gguf::{
    GgmlType, Gguf, GgufError, Metadata, Shape, TensorInfo, TensorPlan, Writer, WriterOptions,
};

const GENERAL_TYPE: &str = "general.type";
const TYPE: &str = "imatrix";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
/// Largest count that F32 tensors and f64 arithmetic agree on.
const MAX_COUNT: f32 = 9e15;

impl ImportanceMatrix {
    /// Reads a file of either form.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn open(path: &Path) -> Result<Self, ImatrixError> {
        if starts_as_gguf(path)? {
            Self::read(&Gguf::open(path)?, path)
        } else {
            legacy::read(path)
        }
    }

    fn read(gguf: &Gguf, path: &Path) -> Result<Self, ImatrixError> {
        let invalid = |field: &str, expected: &str, found: String| ImatrixError::Invalid {
            path: path.to_owned(),
            field: field.to_owned(),
            expected: expected.to_owned(),
            found,
        };
        let metadata = gguf.metadata();
        match metadata.get(GENERAL_TYPE).map(ToString::to_string) {
            // Early files do not say it.
            None if gguf.tensors().iter().any(|t| t.name.ends_with(SUMS)) => {}
            Some(ty) if ty == TYPE => {}
            Some(ty) => return Err(invalid(GENERAL_TYPE, TYPE, ty)),
            None => return Err(invalid(GENERAL_TYPE, TYPE, "a file without it".into())),
        }
        let texts = metadata.string_array(DATASETS).ok().flatten();
        let number = |key: &str| metadata.u32(key).ok().flatten().unwrap_or(0);
        let mut matrix = Self {
            path: path.to_owned(),
            datasets: texts
                .unwrap_or_default()
                .iter()
                .map(ToString::to_string)
                .collect(),
            chunk_count: number(CHUNK_COUNT),
            chunk_size: number(CHUNK_SIZE),
            ..Self::default()
        };
        let counts: HashMap<&str, &TensorInfo> = gguf
            .tensors()
            .iter()
            .filter_map(|t| Some((t.name.strip_suffix(COUNTS)?, t)))
            .collect();
        for tensor in gguf.tensors() {
            let Some(name) = tensor.name.strip_suffix(SUMS) else {
                continue;
            };
            let lone = || invalid(name, "a tensor of counts for the sums", "none".into());
            let counted = counts.get(name).ok_or_else(lone)?;
            for part in [tensor, *counted] {
                if part.ty != GgmlType::F32 {
                    return Err(invalid(&part.name, "F32", part.ty.to_string()));
                }
            }
            let whole = |c: f32| (0.0..=MAX_COUNT).contains(&c).then(|| c.round() as u64);
            let numbers: Option<Vec<u64>> = floats(gguf.data(counted)).map(whole).collect();
            let entry = numbers.and_then(|n| Entry::new(floats(gguf.data(tensor)).collect(), n));
            let unsound = || {
                let expected = "finite sums of squares, of equal length for each count";
                invalid(name, expected, "something else".into())
            };
            matrix.insert(name, entry.ok_or_else(unsound)?);
        }
        if matrix.is_empty() {
            return Err(invalid("tensors", "sums of squares", "none".into()));
        }
        Ok(matrix)
    }

    /// Writes a file in GGUF form. Entries that saw nothing are left out, as llama.cpp does.
    ///
    /// # Errors
    /// There is nothing to write, or the disk refuses.
    pub fn save(&self, path: &Path) -> Result<(), ImatrixError> {
        let seen = |entry: &Entry| entry.counts.iter().any(|&count| count > 0);
        let entries: Vec<(&str, &Entry)> = self.entries().filter(|(_, e)| seen(e)).collect();
        if entries.is_empty() {
            return Err(ImatrixError::Empty);
        }
        let mut metadata = Metadata::new();
        metadata.insert(GENERAL_TYPE, TYPE);
        let datasets: Vec<&str> = self.datasets.iter().map(String::as_str).collect();
        metadata.insert(DATASETS, datasets);
        metadata.insert(CHUNK_COUNT, self.chunk_count);
        metadata.insert(CHUNK_SIZE, self.chunk_size);
        let mut plans = Vec::new();
        let mut contents: Vec<Vec<f32>> = Vec::new();
        for (name, entry) in entries {
            let n_counts = entry.counts.len() as u64;
            let width = entry.sums.len() as u64 / n_counts;
            plans.push(plan(path, format!("{name}{SUMS}"), [width, n_counts])?);
            contents.push(entry.sums.clone());
            plans.push(plan(path, format!("{name}{COUNTS}"), [1, n_counts])?);
            contents.push(entry.counts.iter().map(|&count| count as f32).collect());
        }
        let writer = Writer::create(path, metadata, plans, &WriterOptions::default())?;
        for (index, values) in contents.iter().enumerate() {
            writer.write_tensor(index, bytemuck::cast_slice(values))?;
        }
        writer.finish()?;
        Ok(())
    }
}

fn plan(path: &Path, name: String, dims: [u64; 2]) -> Result<TensorPlan, ImatrixError> {
    let shape = Shape::new(&dims).map_err(|e| ImatrixError::Invalid {
        path: path.to_owned(),
        field: name.clone(),
        expected: "sums and counts".into(),
        found: e.to_string(),
    })?;
    Ok(TensorPlan {
        name,
        ty: GgmlType::F32,
        shape,
    })
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn starts_as_gguf(path: &Path) -> Result<bool, ImatrixError> {
    let mut start = [0; 4];
    // Folders, pipes and empty files are for the reader to describe.
    let regular = std::fs::metadata(path).is_ok_and(|a| a.is_file() && a.len() > 4);
    if !regular {
        return Ok(true);
    }
    let io = |source| {
        ImatrixError::Gguf(GgufError::Io {
            path: path.to_owned(),
            action: "open the file",
            source,
        })
    };
    let mut file = std::fs::File::open(path).map_err(io)?;
    file.read_exact(&mut start).map_err(io)?;
    Ok(&start == b"GGUF")
}
