//! llama.cpp's older binary form: a list of names with sums, each with one number of calls.

use std::path::Path;

use super::{Entry, ImatrixError, ImportanceMatrix};

/// Longest name that is taken for one.
const MAX_NAME_BYTES: usize = 1 << 10;

/// Reads a file whole: sums of the largest models are a few hundred megabytes.
pub(super) fn read(path: &Path) -> Result<ImportanceMatrix, ImatrixError> {
    let bytes = std::fs::read(path).map_err(|source| ImatrixError::Io {
        path: path.to_owned(),
        action: "read the file",
        source,
    })?;
    parse(&bytes, path).ok_or_else(|| ImatrixError::Invalid {
        path: path.to_owned(),
        field: "content".into(),
        expected: "an importance matrix in GGUF or in llama.cpp's older form".into(),
        found: "something else".into(),
    })
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn count(&mut self) -> Option<usize> {
        let bytes = self.take(4)?.try_into().ok()?;
        usize::try_from(i32::from_le_bytes(bytes)).ok()
    }

    fn text(&mut self) -> Option<String> {
        let length = self.count().filter(|&n| n <= MAX_NAME_BYTES)?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

fn parse(bytes: &[u8], path: &Path) -> Option<ImportanceMatrix> {
    let mut cursor = Cursor(bytes);
    let mut matrix = ImportanceMatrix {
        path: path.to_owned(),
        ..ImportanceMatrix::default()
    };
    for _ in 0..cursor.count().filter(|&n| n > 0)? {
        let name = cursor.text()?;
        let calls = cursor.count()?;
        let length = cursor.count()?.checked_mul(4)?;
        let sums = cursor.take(length)?.chunks_exact(4);
        let sums = sums.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        matrix.insert(&name, Entry::new(sums.collect(), vec![calls as u64])?);
    }
    // What follows is missing in the oldest files.
    if let Some(chunks) = cursor.count() {
        matrix.chunk_count = chunks as u32;
        matrix
            .datasets
            .extend(cursor.text().filter(|t| !t.is_empty()));
    }
    Some(matrix)
}
