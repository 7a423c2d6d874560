//! Threads that take pieces in turn.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use half::f16;

use super::pieces::{Piece, cut};
use super::{Control, Conversion, ConvertError, Progress, Source};
use crate::ggml::quantize;
use crate::gguf::{GgmlType, Writer};

/// What the threads share.
struct Shared<'a> {
    writer: &'a Writer,
    tensors: &'a [Conversion<'a>],
    pieces: Vec<Piece>,
    next: AtomicUsize,
    /// Rows of each tensor that are still to be written.
    missing: Vec<AtomicU64>,
    stop: AtomicBool,
    error: Mutex<Option<ConvertError>>,
    control: &'a Control<'a>,
}

/// Buffers of a thread, kept from piece to piece.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
}

/// Writes all tensors.
pub(super) fn run(
    writer: &Writer,
    tensors: &[Conversion<'_>],
    n_threads: usize,
    control: &Control<'_>,
) -> Result<(), ConvertError> {
    let missing = tensors
        .iter()
        .map(|t| AtomicU64::new(t.plan.shape.rows()))
        .collect();
    let shared = Shared {
        writer,
        tensors,
        pieces: cut(tensors),
        next: AtomicUsize::new(0),
        missing,
        stop: AtomicBool::new(false),
        error: Mutex::new(None),
        control,
    };
    std::thread::scope(|scope| {
        for _ in 0..n_threads.clamp(1, shared.pieces.len().max(1)) {
            scope.spawn(|| shared.work());
        }
    });
    let error = shared
        .error
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    error.map_or(Ok(()), Err)
}

impl Shared<'_> {
    fn work(&self) {
        let mut buffers = Buffers::default();
        while !self.stop.load(Ordering::Relaxed) {
            let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            let done = if self.control.cancel.load(Ordering::Relaxed) {
                Err(ConvertError::Cancelled)
            } else {
                self.piece(piece, &mut buffers)
            };
            if let Err(error) = done {
                self.stop.store(true, Ordering::Relaxed);
                let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
                return;
            }
        }
    }

    fn piece(&self, piece: &Piece, buffers: &mut Buffers) -> Result<(), ConvertError> {
        let conversion = &self.tensors[piece.tensor];
        conversion.encode(&piece.rows, buffers)?;
        let plan = &conversion.plan;
        let row_bytes = row_bytes(conversion) as u64;
        self.writer
            .write_at(piece.tensor, piece.rows.start * row_bytes, &buffers.bytes)?;
        (self.control.progress)(Progress::Bytes(buffers.bytes.len() as u64));
        let rows = piece.rows.end - piece.rows.start;
        if self.missing[piece.tensor].fetch_sub(rows, Ordering::Relaxed) == rows {
            (self.control.progress)(Progress::Tensor(&plan.name));
        }
        Ok(())
    }
}

/// Bytes of a row; the writer has refused tensors whose rows are no whole blocks.
fn row_bytes(conversion: &Conversion<'_>) -> usize {
    let plan = &conversion.plan;
    plan.ty.row_bytes(plan.shape.ne()[0]).unwrap_or(0) as usize
}

impl Conversion<'_> {
    /// Leaves the stored form of `rows` in `buffers.bytes`.
    fn encode(&self, rows: &Range<u64>, buffers: &mut Buffers) -> Result<(), ConvertError> {
        let name = || self.plan.name.clone();
        let failed = |problem| ConvertError::Source {
            tensor: name(),
            problem,
        };
        let n_rows = (rows.end - rows.start) as usize;
        match &self.source {
            Source::Bytes(source) => {
                source
                    .bytes(rows.clone(), &mut buffers.bytes)
                    .map_err(failed)?;
                self.check(rows, "bytes", n_rows * row_bytes(self), buffers.bytes.len())
            }
            Source::Values(source) => {
                source
                    .values(rows.clone(), &mut buffers.values)
                    .map_err(failed)?;
                let width = self.plan.shape.ne()[0] as usize;
                self.check(rows, "values", n_rows * width, buffers.values.len())?;
                self.quantize(rows, buffers)
            }
        }
    }

    /// Encodes values, matrix by matrix: each may have importances of its own.
    fn quantize(&self, rows: &Range<u64>, buffers: &mut Buffers) -> Result<(), ConvertError> {
        let [width, matrix_rows, n_matrices, _] = self.plan.shape.ne();
        let sets = self.importance.as_deref().map(|all| {
            let one_each = n_matrices > 1 && all.len() as u64 == width * n_matrices;
            (all, one_each)
        });
        self.check_range(&buffers.values)?;
        buffers.bytes.clear();
        let mut start = rows.start;
        while start < rows.end {
            let matrix = start / matrix_rows;
            let importance = match sets {
                Some((all, true)) => {
                    let first = ((matrix % n_matrices) * width) as usize;
                    Some(&all[first..first + width as usize])
                }
                Some((all, false)) => Some(all),
                None => None,
            };
            let stop = match sets {
                Some((_, true)) => rows.end.min((matrix + 1) * matrix_rows),
                _ => rows.end,
            };
            let values = |row: u64| ((row - rows.start) * width) as usize;
            quantize(
                self.plan.ty,
                &buffers.values[values(start)..values(stop)],
                width,
                importance,
                &mut buffers.bytes,
            )
            .map_err(|source| ConvertError::Encode {
                tensor: self.plan.name.clone(),
                source,
            })?;
            start = stop;
        }
        Ok(())
    }

    /// F16 would turn what is too large into infinity.
    fn check_range(&self, values: &[f32]) -> Result<(), ConvertError> {
        let largest = f16::MAX.to_f32();
        let max = values.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        if self.plan.ty != GgmlType::F16 || max <= largest {
            return Ok(());
        }
        Err(ConvertError::Range {
            tensor: self.plan.name.clone(),
            ty: self.plan.ty,
            value: max,
            largest,
        })
    }

    fn check(
        &self,
        rows: &Range<u64>,
        unit: &'static str,
        expected: usize,
        found: usize,
    ) -> Result<(), ConvertError> {
        if expected == found {
            return Ok(());
        }
        Err(ConvertError::Length {
            tensor: self.plan.name.clone(),
            rows: rows.clone(),
            unit,
            expected,
            found,
        })
    }
}
