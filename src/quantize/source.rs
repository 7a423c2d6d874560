//! Rows of a model's tensors, read from its files as they are asked for.

use std::fs::File;
use std::ops::Range;

use crate::convert::{Bytes, SourceProblem, Values};
use crate::ggml::dequantize;
use crate::gguf::{GgmlType, Gguf, GgufError, TensorInfo};
use crate::positioned::PositionedFile;

/// Largest weight that an F16, or the F16 scale of a block, can hold.
const F16_MAX: f32 = 65504.0;

/// The files of a model, opened for reading at any position: a mapping would fill memory with pages.
#[derive(Debug)]
pub(super) struct Files(Vec<PositionedFile>);

impl Files {
    pub(super) fn open(gguf: &Gguf) -> Result<Self, GgufError> {
        let open = |shard: &crate::gguf::Shard| {
            let file = File::open(shard.path()).map_err(|source| GgufError::Io {
                path: shard.path().to_owned(),
                action: "open the file",
                source,
            })?;
            Ok(PositionedFile::new(file))
        };
        gguf.shards()
            .iter()
            .map(open)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Rows of one tensor.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    files: &'a Files,
    info: &'a TensorInfo,
    to: GgmlType,
}

impl<'a> Rows<'a> {
    /// Rows that will be stored as `to`.
    pub(super) fn new(files: &'a Files, info: &'a TensorInfo, to: GgmlType) -> Self {
        Self { files, info, to }
    }

    fn read(&self, rows: Range<u64>, out: &mut Vec<u8>) -> Result<(), SourceProblem> {
        let row_bytes = self.info.bytes / self.info.shape.rows();
        let length = ((rows.end - rows.start) * row_bytes) as usize;
        // Every byte is overwritten: only what was not there before needs zeros.
        out.resize(length, 0);
        let offset = self.info.offset + rows.start * row_bytes;
        self.files.0[self.info.shard]
            .read_exact_at(out, offset)
            .map_err(|e| SourceProblem {
                message: format!("rows {rows:?} cannot be read: {e}"),
                hint: Some("the file changed or its disk fails: fetch or make it again".into()),
            })
    }

    /// Encoders do not check values, and some of ggml's abort on what they cannot place.
    fn check(&self, first_row: u64, values: &[f32]) -> Result<(), SourceProblem> {
        let limit = match self.to {
            GgmlType::F32 | GgmlType::BF16 => f32::MAX,
            _ => F16_MAX,
        };
        let beyond = |v: &f32| v.is_nan() || v.abs() > limit;
        let Some(at) = values.iter().position(beyond) else {
            return Ok(());
        };
        let width = self.info.shape.ne()[0];
        let (row, value) = (first_row + at as u64 / width, values[at]);
        Err(SourceProblem {
            message: format!("row {row} holds {value}, which {} cannot hold", self.to),
            hint: Some(if value.is_finite() {
                "keep that tensor in a wider type: --tensor-type NAME=BF16".into()
            } else {
                "the model is damaged: fetch or make it again".into()
            }),
        })
    }
}

impl Bytes for Rows<'_> {
    fn bytes(&self, rows: Range<u64>, out: &mut Vec<u8>) -> Result<(), SourceProblem> {
        self.read(rows, out)
    }
}

impl Values for Rows<'_> {
    fn values(&self, rows: Range<u64>, out: &mut Vec<f32>) -> Result<(), SourceProblem> {
        let mut bytes = Vec::new();
        let first_row = rows.start;
        self.read(rows, &mut bytes)?;
        out.clear();
        dequantize(self.info.ty, &bytes, self.info.shape.ne()[0], out).map_err(|e| {
            SourceProblem {
                message: e.to_string(),
                hint: None,
            }
        })?;
        self.check(first_row, out)
    }
}
