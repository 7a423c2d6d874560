//! Saved predictions: the file of llama.cpp's `--kl-divergence-base`.
//!
//! `_logits_`, then i32 context, vocabulary and number of chunks, then all tokens as i32, then one row per scored
//! position. A row is a scale and the smallest log-probability as f32, then a u16 per token (padded to an even
//! number), so that log-probability = scale * value + smallest. What is 16 below the best counts as the smallest.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::text::Chunks;
use super::{EvalError, log_sum_exp};
use crate::publish::publish;

const MAGIC: &[u8; 8] = b"_logits_";
/// Log-probabilities further below the best than this are not told apart.
const RANGE: f32 = 16.0;
/// u16 values that the scale and the smallest log-probability take.
const ROW_HEAD: usize = 4;

/// u16 values of one row.
fn row_len(n_vocab: usize) -> usize {
    n_vocab.next_multiple_of(2) + ROW_HEAD
}

/// Writes predictions, under the target's name only when complete.
#[derive(Debug)]
pub struct BaseWriter {
    target: PathBuf,
    temporary: PathBuf,
    out: BufWriter<File>,
    finished: bool,
}

impl BaseWriter {
    /// Creates the file and writes its header.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(target: &Path, chunks: &Chunks, n_vocab: u32) -> Result<Self, EvalError> {
        let mut temporary = target.as_os_str().to_owned();
        temporary.push(".part");
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|source| EvalError::Io {
            path: temporary.clone(),
            action: "create the file",
            source,
        })?;
        let mut writer = Self {
            target: target.to_owned(),
            temporary,
            out: BufWriter::new(file),
            finished: false,
        };
        let mut header = MAGIC.to_vec();
        for number in [chunks.n_ctx() as u32, n_vocab, chunks.len() as u32] {
            header.extend(number.to_le_bytes());
        }
        header.extend(chunks.tokens().iter().flat_map(|token| token.to_le_bytes()));
        writer.put(&header)?;
        Ok(writer)
    }

    /// Adds the rows of the next chunk.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&mut self, rows: &[&[f32]]) -> Result<(), EvalError> {
        let packed: Vec<Vec<u8>> = rows.par_iter().map(|logits| pack(logits)).collect();
        packed.iter().try_for_each(|row| self.put(row))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn finish(mut self) -> Result<(), EvalError> {
        let done = self
            .out
            .flush()
            .and_then(|()| publish(&self.temporary, &self.target));
        done.map_err(|source| self.error(source))?;
        self.finished = true;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), EvalError> {
        self.out
            .write_all(bytes)
            .map_err(|source| self.error(source))
    }

    fn error(&self, source: std::io::Error) -> EvalError {
        EvalError::Io {
            path: self.target.clone(),
            action: "write the predictions",
            source,
        }
    }
}

impl Drop for BaseWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody is left to tell.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// One row of the file.
fn pack(logits: &[f32]) -> Vec<u8> {
    let (max, log_sum) = log_sum_exp(logits);
    let min = logits
        .iter()
        .copied()
        .fold(f32::INFINITY, f32::min)
        .max(max - RANGE);
    let scale = (max - min) / 65535.0;
    let mut out = Vec::with_capacity(2 * row_len(logits.len()));
    out.extend(scale.to_le_bytes());
    out.extend((min - log_sum).to_le_bytes());
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    out.extend(
        logits
            .iter()
            .flat_map(|&l| (((l - min).max(0.0) * inverse).round_ties_even() as u16).to_le_bytes()),
    );
    out.resize(2 * row_len(logits.len()), 0);
    out
}

/// Reads predictions, chunk by chunk.
#[derive(Debug)]
pub struct BaseReader {
    path: PathBuf,
    input: BufReader<File>,
    chunks: Chunks,
    n_vocab: usize,
}

impl BaseReader {
    /// Opens a file. `bos` replaces the first token of each chunk, if the model wants it.
    ///
    /// # Errors
    /// The file cannot be read, is none of predictions, or is shorter than it says.
    pub fn open(path: &Path, bos: Option<u32>) -> Result<Self, EvalError> {
        let io = |source| EvalError::Io {
            path: path.to_owned(),
            action: "read the predictions",
            source,
        };
        let broken = |field, expected: &str, found: String| EvalError::Base {
            path: path.to_owned(),
            field,
            expected: expected.to_owned(),
            found,
        };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut input = BufReader::new(file);
        let mut head = [0u8; 20];
        input.read_exact(&mut head).map_err(io)?;
        if head[..8] != *MAGIC {
            return Err(broken(
                "magic",
                "`_logits_`",
                format!("{:?}", String::from_utf8_lossy(&head[..8])),
            ));
        }
        let number = |i: usize| {
            u64::from(u32::from_le_bytes([
                head[8 + 4 * i],
                head[9 + 4 * i],
                head[10 + 4 * i],
                head[11 + 4 * i],
            ]))
        };
        let (n_ctx, n_vocab, n_chunk) = (number(0), number(1), number(2));
        if !(4..=1 << 24).contains(&n_ctx) || !(1..=1 << 24).contains(&n_vocab) || n_chunk > 1 << 24
        {
            return Err(broken(
                "header",
                "a context, a vocabulary and a number of chunks",
                format!("{n_ctx}, {n_vocab}, {n_chunk}"),
            ));
        }
        let rows = n_ctx - 1 - n_ctx / 2;
        let per_chunk = 4 * n_ctx + rows * 2 * row_len(n_vocab as usize) as u64;
        let needed = n_chunk.saturating_mul(per_chunk).saturating_add(20);
        if size < needed {
            return Err(broken(
                "size",
                &format!("{needed} bytes for {n_chunk} chunks"),
                format!("{size} bytes"),
            ));
        }
        let mut bytes = vec![0u8; (4 * n_ctx * n_chunk) as usize];
        input.read_exact(&mut bytes).map_err(io)?;
        let tokens = bytes
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let chunks = Chunks::of_base(tokens, n_ctx as usize, bos);
        Ok(Self {
            path: path.to_owned(),
            input,
            chunks,
            n_vocab: n_vocab as usize,
        })
    }

    /// The text the predictions belong to.
    pub fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// Checks that the predictions are over a vocabulary of `n_vocab` tokens.
    ///
    /// # Errors
    /// They are not.
    pub fn check_vocab(&self, n_vocab: u32) -> Result<(), EvalError> {
        if self.n_vocab == n_vocab as usize {
            return Ok(());
        }
        let (expected, found) = (
            format!("{n_vocab} tokens, as the model has"),
            self.n_vocab.to_string(),
        );
        Err(EvalError::Base {
            path: self.path.clone(),
            field: "vocabulary",
            expected,
            found,
        })
    }

    /// Log-probabilities at the scored positions of the next chunk, one row each.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_chunk(&mut self) -> Result<Vec<Vec<f32>>, EvalError> {
        let row = 2 * row_len(self.n_vocab);
        let mut bytes = vec![0u8; self.chunks.scored().len() * row];
        let read = self.input.read_exact(&mut bytes);
        read.map_err(|source| EvalError::Io {
            path: self.path.clone(),
            action: "read the predictions",
            source,
        })?;
        Ok(bytes
            .par_chunks_exact(row)
            .map(|row| unpack(row, self.n_vocab))
            .collect())
    }
}

fn unpack(row: &[u8], n_vocab: usize) -> Vec<f32> {
    let float = |i: usize| f32::from_le_bytes([row[i], row[i + 1], row[i + 2], row[i + 3]]);
    let (scale, min) = (float(0), float(4));
    let values = row[2 * ROW_HEAD..].chunks_exact(2).take(n_vocab);
    values
        .map(|b| scale * f32::from(u16::from_le_bytes([b[0], b[1]])) + min)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three scored rows of five logits.
    fn rows() -> Vec<Vec<f32>> {
        vec![
            vec![1.0, -2.0, 0.5, 3.0, -40.0],
            vec![0.0; 5],
            vec![-1.0, -1.5, 2.0, 0.0, 1.0],
        ]
    }

    fn write(path: &Path) -> Chunks {
        let chunks = Chunks::new((0..16).map(|i| i % 5).collect(), 8, None, Some(1)).unwrap();
        let mut writer = BaseWriter::create(path, &chunks, 5).unwrap();
        let rows = rows();
        writer
            .write(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())
            .unwrap();
        writer.finish().unwrap();
        chunks
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base");
        let chunks = write(&path);
        // Header, tokens, and rows of 4 + 6 values of two bytes.
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 20 + 4 * 8 + 3 * 20);
        let mut reader = BaseReader::open(&path, None).unwrap();
        assert_eq!(reader.chunks().tokens(), chunks.tokens());
        reader.check_vocab(5).unwrap();
        assert!(reader.check_vocab(6).is_err());
        for (read, logits) in reader.next_chunk().unwrap().iter().zip(rows()) {
            let (max, log_sum) = log_sum_exp(&logits);
            for (found, logit) in read.iter().zip(logits) {
                let expected = logit.max(max - RANGE) - log_sum;
                assert!(
                    (found - expected).abs() < RANGE / 65535.0,
                    "{found} and {expected}"
                );
            }
        }
        assert!(reader.next_chunk().is_err(), "there is one chunk");
    }

    #[test]
    fn broken_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base");
        write(&path);
        let good = std::fs::read(&path).unwrap();
        let mut cases = vec![
            (good[..good.len() - 1].to_vec(), "size"),
            (good[..10].to_vec(), "predictions"),
        ];
        for (at, value, field) in [
            (0, 0, "magic"),
            (8, 0, "header"),
            (12, u32::MAX, "header"),
            (16, 77, "size"),
        ] {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            cases.push((bytes, field));
        }
        for (bytes, field) in cases {
            std::fs::write(&path, bytes).unwrap();
            let error = BaseReader::open(&path, None)
                .map(drop)
                .unwrap_err()
                .to_string();
            assert!(error.contains(field) && error.contains("base"), "{error}");
        }
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let chunks = Chunks::new(vec![0; 16], 8, None, None).unwrap();
        drop(BaseWriter::create(&folder.path().join("base"), &chunks, 5).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
