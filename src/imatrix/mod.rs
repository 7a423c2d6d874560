//! Importance matrices: how much each column of a weight matters, measured on a text.
//!
//! For every matrix product with a stored weight the squares of the inputs are summed up, column by column and expert
//! by expert. Encoders then spend their precision where inputs are large. Files are llama.cpp's, in both of its forms.

#![forbid(unsafe_code)]

mod collect;
mod error;
mod file;
mod legacy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use collect::{CollectOptions, Collected, collect, measurable};
pub use error::ImatrixError;

/// Largest mean square that encoders can work with: their errors are products of this, of weights and of squares.
const MAX_IMPORTANCE: f32 = 1e18;

/// What was measured for one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Sums of squares: one per column, for each matrix of a stack.
    sums: Vec<f32>,
    /// Rows that were summed up: one number for all matrices, or one for each.
    counts: Vec<u64>,
}

impl Entry {
    /// An entry, if `sums` are finite, not negative and of equal length for each count.
    pub fn new(sums: Vec<f32>, counts: Vec<u64>) -> Option<Self> {
        let sound = !counts.is_empty()
            && !sums.is_empty()
            && sums.len().is_multiple_of(counts.len())
            && sums.iter().all(|s| s.is_finite() && *s >= 0.0);
        let entry = Self { sums, counts };
        // A mean beyond reason would overflow in the encoders.
        let bounded = |e: &Self| e.importance().iter().all(|v| *v <= MAX_IMPORTANCE);
        (sound && bounded(&entry)).then_some(entry)
    }

    /// Sums of squares, matrix by matrix.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// Rows that were summed up: one number for all matrices, or one for each.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Mean squares of the columns; ones for experts that no token chose.
    pub fn importance(&self) -> Vec<f32> {
        let width = self.sums.len() / self.counts.len();
        let groups = self.sums.chunks_exact(width).zip(&self.counts);
        let mean = |(sums, &count): (&[f32], &u64)| -> Vec<f32> {
            match count {
                0 => vec![1.0; sums.len()],
                _ => sums.iter().map(|sum| sum / count as f32).collect(),
            }
        };
        groups.flat_map(mean).collect()
    }

    /// The same means from so many times the rows.
    fn scaled(&self, factor: u32) -> Self {
        Self {
            sums: self.sums.iter().map(|sum| sum * factor as f32).collect(),
            counts: self
                .counts
                .iter()
                .map(|count| count.saturating_mul(u64::from(factor)))
                .collect(),
        }
    }

    /// Adds what was measured elsewhere; `false` if the shapes differ.
    fn merge(&mut self, other: &Self) -> bool {
        if self.sums.len() != other.sums.len() {
            return false;
        }
        let n = self.counts.len().max(other.counts.len());
        let (mine, theirs) = (self.counts.len(), other.counts.len());
        if ![mine, theirs].iter().all(|&len| len == n || len == 1) {
            return false;
        }
        let at = |counts: &[u64], i: usize| counts[i.min(counts.len() - 1)];
        self.counts = (0..n)
            .map(|i| at(&self.counts, i).saturating_add(at(&other.counts, i)))
            .collect();
        for (sum, more) in self.sums.iter_mut().zip(&other.sums) {
            *sum += more;
        }
        true
    }
}

/// Importances of a model's tensors.
#[derive(Debug, Clone, Default)]
pub struct ImportanceMatrix {
    path: PathBuf,
    datasets: Vec<String>,
    chunk_count: u32,
    chunk_size: u32,
    entries: BTreeMap<String, Entry>,
}

impl ImportanceMatrix {
    /// Nothing yet, for chunks of `chunk_size` tokens.
    pub fn new(chunk_size: u32) -> Self {
        Self {
            chunk_size,
            ..Self::default()
        }
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the texts.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// Chunks that were computed.
    pub fn chunk_count(&self) -> u32 {
        self.chunk_count
    }

    /// Tokens of a chunk; 0 if the file does not say.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What was measured for a tensor.
    pub fn entry(&self, tensor: &str) -> Option<&Entry> {
        self.entries.get(tensor)
    }

    /// Tensors and what was measured for them, by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), entry))
    }

    /// Drops the tensors that are not wanted.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.entries.retain(|name, _| wanted(name));
    }

    /// Sets what was measured for a tensor.
    pub fn insert(&mut self, tensor: &str, entry: Entry) {
        self.entries.insert(tensor.to_owned(), entry);
    }

    /// Notes the text and the number of chunks.
    pub fn note(&mut self, dataset: &str, chunks: u32) {
        if !self.datasets.iter().any(|known| known == dataset) {
            self.datasets.push(dataset.to_owned());
        }
        self.chunk_count = self.chunk_count.saturating_add(chunks);
    }

    /// Adds what was measured elsewhere on the same model.
    ///
    /// # Errors
    /// A tensor has another shape there.
    pub fn merge(&mut self, other: &Self) -> Result<(), ImatrixError> {
        // The older form counts chunks; everything else counts rows.
        let rows = match other.chunk_size {
            0 => self.chunk_size.max(1),
            _ => 1,
        };
        for (name, entry) in &other.entries {
            let entry = &entry.scaled(rows);
            let Some(mine) = self.entries.get_mut(name) else {
                self.insert(name, entry.clone());
                continue;
            };
            let expected = mine.sums.len();
            if !mine.merge(entry) {
                return Err(ImatrixError::Shape {
                    path: other.path.clone(),
                    tensor: name.clone(),
                    expected,
                    found: entry.sums.len(),
                });
            }
        }
        for dataset in &other.datasets {
            self.note(dataset, 0);
        }
        self.chunk_count = self.chunk_count.saturating_add(other.chunk_count);
        if self.chunk_size == 0 {
            self.chunk_size = other.chunk_size;
        }
        Ok(())
    }
}
