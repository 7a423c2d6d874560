//! Where every byte of the files to be written goes: which tensor in which part, and at which offset.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::encode;
use super::error::{Field, GgufError};
use super::layout::{self, ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_ARRAY_DEPTH, Violation, align_up};
use super::metadata::Metadata;
use super::split::{self, COUNT_KEY, MAX_PARTS, NO_KEY, TENSORS_KEY};
use super::types::{GgmlType, Shape, TensorInfo};
use super::value::Value;

/// A tensor that is going to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlan {
    /// Name, unique in the model, at most 63 bytes.
    pub name: String,
    /// Element type.
    pub ty: GgmlType,
    /// Extents; a row must be whole blocks of the type.
    pub shape: Shape,
}

/// How to lay a model out in files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterOptions {
    /// Largest file. A model that needs more is split into parts; a part holds at least one tensor, however large.
    pub split_max_bytes: Option<u64>,
    /// Alignment of tensor data, a power of two; if unset, that of `general.alignment`, else 32.
    pub alignment: Option<u32>,
}

/// One file to be written.
#[derive(Debug)]
pub(super) struct FilePlan {
    pub(super) path: PathBuf,
    /// Everything before the tensor data, padding included.
    pub(super) header: Vec<u8>,
    /// Bytes of the whole file.
    pub(super) bytes: u64,
}

/// All files, and the tensors with their file (as `shard`) and position in it.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) files: Vec<FilePlan>,
    pub(super) tensors: Vec<TensorInfo>,
}

/// Lays out a model. The same input gives the same bytes.
pub(super) fn lay_out(
    target: &Path,
    mut metadata: Metadata,
    tensors: Vec<TensorPlan>,
    options: &WriterOptions,
) -> Result<Layout, GgufError> {
    let rules = Rules { path: target };
    for key in [NO_KEY, COUNT_KEY, TENSORS_KEY] {
        metadata.remove(key);
    }
    rules.check_metadata(&metadata)?;
    let alignment = rules.settle_alignment(&mut metadata, options)?;
    let mut tensors = rules.check_tensors(tensors)?;

    let mut whole = Part::new(&metadata);
    tensors
        .iter()
        .for_each(|tensor| whole.add(tensor, alignment));
    let fits = options
        .split_max_bytes
        .is_none_or(|limit| whole.file_bytes(alignment) <= limit);
    let parts = match (fits, options.split_max_bytes) {
        (false, Some(limit)) => divide(&metadata, &tensors, alignment, limit),
        _ => vec![tensors.len()],
    };
    if parts.len() as u64 > MAX_PARTS {
        let found = format!("{} parts", parts.len());
        return Err(rules.broken(
            Field::Header(COUNT_KEY),
            format!("at most {MAX_PARTS} parts"),
            found,
        ));
    }
    let mut files = Vec::with_capacity(parts.len());
    let mut rest = tensors.as_mut_slice();
    let total = rest.len();
    for (no, &in_part) in parts.iter().enumerate() {
        let (part, after) = rest.split_at_mut(in_part);
        rest = after;
        let numbers = PartNumbers {
            no,
            count: parts.len(),
            tensors: total,
        };
        files.push(lay_out_file(&rules, &metadata, part, alignment, numbers)?);
    }
    Ok(Layout { files, tensors })
}

/// The rules of the format, for the file that is going to be written.
struct Rules<'a> {
    path: &'a Path,
}

impl Rules<'_> {
    fn broken(
        &self,
        field: Field<'_>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> GgufError {
        GgufError::CannotWrite {
            path: self.path.to_owned(),
            field: field.to_string(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn check<T>(&self, field: Field<'_>, outcome: Result<T, Violation>) -> Result<T, GgufError> {
        outcome.map_err(|violation| self.broken(field, violation.expected, violation.found))
    }

    fn check_metadata(&self, metadata: &Metadata) -> Result<(), GgufError> {
        for (index, (key, value)) in metadata.iter().enumerate() {
            self.check(
                Field::Entry(index as u64, "key"),
                layout::check_key(key.as_bytes()),
            )?;
            let depth = value.as_array().map_or(0, |array| array.depth());
            if depth > MAX_ARRAY_DEPTH {
                let expected = format!("arrays nested at most {MAX_ARRAY_DEPTH} deep");
                return Err(self.broken(
                    Field::Key(key, "nesting"),
                    expected,
                    format!("{depth} levels"),
                ));
            }
        }
        Ok(())
    }

    /// Makes metadata and options agree. The key is written only when it was there or differs from the default.
    fn settle_alignment(
        &self,
        metadata: &mut Metadata,
        options: &WriterOptions,
    ) -> Result<u32, GgufError> {
        let field = Field::Key(ALIGNMENT_KEY, "value");
        let alignment = match (options.alignment, metadata.get(ALIGNMENT_KEY)) {
            (Some(alignment), _) => alignment,
            (None, Some(Value::U32(alignment))) => *alignment,
            (None, Some(other)) => return Err(self.broken(field, "u32", other.type_name())),
            (None, None) => DEFAULT_ALIGNMENT,
        };
        self.check(field, layout::check_alignment(alignment))?;
        if alignment != DEFAULT_ALIGNMENT || metadata.contains_key(ALIGNMENT_KEY) {
            metadata.insert(ALIGNMENT_KEY, alignment);
        }
        Ok(alignment)
    }

    fn check_tensors(&self, plans: Vec<TensorPlan>) -> Result<Vec<TensorInfo>, GgufError> {
        let mut names = HashSet::with_capacity(plans.len());
        for (index, plan) in plans.iter().enumerate() {
            let field = Field::TensorEntry(index as u64, "name");
            self.check(field, layout::check_tensor_name(plan.name.as_bytes()))?;
            if !names.insert(plan.name.as_str()) {
                return Err(self.broken(
                    Field::Tensor(&plan.name, "name"),
                    "each tensor once",
                    "it twice",
                ));
            }
        }
        plans
            .into_iter()
            .map(|plan| self.check_shape(plan))
            .collect()
    }

    fn check_shape(&self, plan: TensorPlan) -> Result<TensorInfo, GgufError> {
        let TensorPlan { name, ty, shape } = plan;
        let Some(bytes) = shape.bytes(ty) else {
            let expected = format!("rows of a multiple of {} weights for {ty}", ty.block_size());
            return Err(self.broken(Field::Tensor(&name, "shape"), expected, shape.to_string()));
        };
        Ok(TensorInfo {
            name,
            ty,
            shape,
            shard: 0,
            offset: 0,
            bytes,
        })
    }
}

/// Sums up what a part would hold.
#[derive(Clone, Copy)]
struct Part {
    header: u64,
    data: u64,
    tensors: usize,
}

impl Part {
    fn new(metadata: &Metadata) -> Self {
        let mut entries = Vec::new();
        metadata
            .iter()
            .for_each(|(key, value)| encode::entry(&mut entries, key, value));
        Self {
            header: encode::START_BYTES + entries.len() as u64,
            data: 0,
            tensors: 0,
        }
    }

    fn add(&mut self, tensor: &TensorInfo, alignment: u32) {
        self.header += encode::tensor_bytes(tensor);
        self.data = self
            .data
            .saturating_add(align_up(tensor.bytes, alignment).unwrap_or(u64::MAX));
        self.tensors += 1;
    }

    fn file_bytes(&self, alignment: u32) -> u64 {
        align_up(self.header, alignment)
            .unwrap_or(u64::MAX)
            .saturating_add(self.data)
    }
}

/// Tensors per part, filling each part up to the limit in the order given.
fn divide(metadata: &Metadata, tensors: &[TensorInfo], alignment: u32, limit: u64) -> Vec<usize> {
    let numbers = PartNumbers {
        no: 0,
        count: 2,
        tensors: tensors.len(),
    };
    let mut part = Part::new(&numbers.metadata(metadata));
    let later = Part::new(&PartNumbers { no: 1, ..numbers }.metadata(metadata));
    let mut counts = Vec::new();
    for tensor in tensors {
        let mut grown = part;
        grown.add(tensor, alignment);
        if part.tensors > 0 && grown.file_bytes(alignment) > limit {
            counts.push(part.tensors);
            grown = later;
            grown.add(tensor, alignment);
        }
        part = grown;
    }
    counts.push(part.tensors);
    counts
}

#[derive(Clone, Copy)]
struct PartNumbers {
    no: usize,
    count: usize,
    tensors: usize,
}

impl PartNumbers {
    /// The metadata of this part: everything in the first, and in the others what is needed to read them.
    fn metadata(self, whole: &Metadata) -> Metadata {
        if self.count == 1 {
            return whole.clone();
        }
        let mut metadata = Metadata::new();
        if self.no == 0 {
            metadata = whole.clone();
        } else if let Some(alignment) = whole.get(ALIGNMENT_KEY) {
            metadata.insert(ALIGNMENT_KEY, alignment.clone());
        }
        // The value types are those of llama.cpp's splitter.
        metadata.insert(NO_KEY, self.no as u16);
        metadata.insert(COUNT_KEY, self.count as u16);
        metadata.insert(TENSORS_KEY, self.tensors as i32);
        metadata
    }
}

fn lay_out_file(
    rules: &Rules<'_>,
    whole: &Metadata,
    tensors: &mut [TensorInfo],
    alignment: u32,
    numbers: PartNumbers,
) -> Result<FilePlan, GgufError> {
    let metadata = numbers.metadata(whole);
    let mut header = Vec::new();
    encode::start(&mut header, tensors.len(), metadata.len());
    metadata
        .iter()
        .for_each(|(key, value)| encode::entry(&mut header, key, value));

    let too_large = || rules.broken(Field::Header("file size"), "less than 2^63 bytes", "more");
    let mut data_bytes: u64 = 0;
    for tensor in tensors.iter_mut() {
        encode::tensor(&mut header, tensor, data_bytes);
        tensor.shard = numbers.no;
        tensor.offset = data_bytes;
        data_bytes = align_up(tensor.bytes, alignment)
            .and_then(|padded| data_bytes.checked_add(padded))
            .ok_or_else(too_large)?;
    }
    header.resize(header.len().next_multiple_of(alignment as usize), 0);
    let header_bytes = header.len() as u64;
    let bytes = header_bytes
        .checked_add(data_bytes)
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(too_large)?;
    tensors
        .iter_mut()
        .for_each(|tensor| tensor.offset += header_bytes);

    let path = match numbers.count {
        1 => rules.path.to_owned(),
        count => split::part_path(
            rules.path,
            &part_prefix(rules.path),
            numbers.no as u64,
            count as u64,
        ),
    };
    Ok(FilePlan {
        path,
        header,
        bytes,
    })
}

/// What the names of the parts start with: the name without `.gguf` and without the numbers of an earlier split.
fn part_prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".gguf").unwrap_or(&name);
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbered = name.rsplit_once("-of-").and_then(|(start, count)| {
        let (prefix, no) = start.rsplit_once('-')?;
        (digits(no) && digits(count)).then_some(prefix)
    });
    numbered.unwrap_or(name).to_owned()
}
