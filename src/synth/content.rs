//! Random weights, encoded once and used many times.

use std::collections::BTreeMap;

use half::f16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::SynthError;
use crate::ggml::quantize;
use crate::gguf::{GgmlType, Writer};
use crate::planes::{Codebook, Levels, encode_row, row_bytes};

/// What a tensor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Near-normal weights of variance `1 / ne[0]`.
    Random,
    /// The same as planes, of variance `2 / ne[0]`: a row holds each weight twice.
    Planes,
    /// Random signs, F32.
    Signs,
    /// Ones, F32.
    Ones,
    /// Zeros, F32.
    Zeros,
    /// Zeros of any type, which nobody writes.
    Hole,
}

impl Content {
    /// What a file without random weights has instead.
    pub(super) fn sparse(self) -> Self {
        match self {
            Self::Random | Self::Planes => Self::Hole,
            small => small,
        }
    }
}

/// Weights in one pool: enough that rows of a matrix differ, few enough to encode in a moment with the slowest type.
const POOL_WEIGHTS: u64 = 1 << 21;
const MIN_POOL_ROWS: u64 = 64;
/// Bytes made and written at once by one thread.
const PIECE_BYTES: u64 = 8 << 20;

/// Best levels for a normal variable in two bits, times its deviation.
const NORMAL_LEVELS: (f32, f32) = (0.4528, 1.5104);

/// The codebook of rows of `width` weights.
pub(super) fn codebook(width: u64) -> Codebook {
    let (a, b) = NORMAL_LEVELS;
    let deviation = 1.0 / (width as f32).sqrt();
    [-b, -a, a, b].map(|level| level * deviation)
}

/// Encoded rows of one type and length.
#[derive(Debug)]
struct Pool {
    row_bytes: usize,
    /// Parts of a row that belong together block by block: two if the rows are planes.
    n_parts: usize,
    block_bytes: usize,
    rows: Vec<u8>,
}

/// The pools a model needs.
#[derive(Debug)]
pub(super) struct Pools(BTreeMap<PoolKey, Pool>);

/// Type, length of rows, whether they are planes.
type PoolKey = (u32, u64, bool);

impl Pools {
    /// Makes a pool for every type and row length of random content.
    pub(super) fn make(
        rows: impl Iterator<Item = (GgmlType, u64, Content)>,
        seed: u64,
    ) -> Result<Self, SynthError> {
        let mut wanted: Vec<(GgmlType, u64, bool)> = rows
            .filter(|r| matches!(r.2, Content::Random | Content::Planes))
            .map(|(ty, row, content)| (ty, row, content == Content::Planes))
            .collect();
        wanted.sort_by_key(|&(ty, row, planes)| (ty.id(), row, planes));
        wanted.dedup();
        let made = wanted.into_par_iter().map(|(ty, row, planes)| {
            let pool = if planes {
                Pool::planes(row, seed)?
            } else {
                Pool::make(ty, row, seed)?
            };
            Ok(((ty.id(), row, planes), pool))
        });
        Ok(Self(made.collect::<Result<_, SynthError>>()?))
    }
}

impl Pool {
    fn make(ty: GgmlType, row: u64, seed: u64) -> Result<Self, SynthError> {
        let n_rows = (POOL_WEIGHTS / row).max(MIN_POOL_ROWS);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::from(ty.id()) << 48 | row);
        let scale = 1.0 / (row as f32).sqrt();
        let values: Vec<f32> = (0..n_rows * row)
            .map(|_| near_normal(rng.random()) * scale)
            .collect();
        let mut rows = Vec::new();
        let plain = quantize(ty, &values, row, None, &mut rows);
        if plain.is_err() {
            // The smallest types want to know which columns matter: here, all alike.
            rows.clear();
            let importance = vec![1.0; row as usize];
            quantize(ty, &values, row, Some(&importance), &mut rows)
                .map_err(|source| SynthError::Encode { ty, source })?;
        }
        Ok(Self {
            row_bytes: rows.len() / n_rows as usize,
            n_parts: 1,
            block_bytes: ty.type_size() as usize,
            rows,
        })
    }

    /// Rows of `row / 2` weights as planes: the nearest codes of near-normal weights, each row of norm 1.
    fn planes(row: u64, seed: u64) -> Result<Self, SynthError> {
        let width = row / 2;
        let n_rows = (POOL_WEIGHTS / width).max(MIN_POOL_ROWS);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1 << 62 | row);
        let codebook = codebook(width);
        let middle = (NORMAL_LEVELS.0 + NORMAL_LEVELS.1) / 2.0;
        let levels = Levels::from_codebook(&codebook)?;
        let size = row_bytes(width as usize);
        let mut rows = vec![0; n_rows as usize * size];
        for row in rows.chunks_exact_mut(size) {
            let code = |x: f32| u8::from(x >= -middle) + u8::from(x >= 0.0) + u8::from(x >= middle);
            let codes: Vec<u8> = (0..width)
                .map(|_| code(near_normal(rng.random())))
                .collect();
            let squares = codes.iter().map(|&c| codebook[usize::from(c)].powi(2));
            let norm = 1.0 / squares.sum::<f32>().sqrt();
            let packed: Vec<u8> = codes
                .chunks(4)
                .map(|four| four.iter().rev().fold(0, |byte, code| byte << 2 | code))
                .collect();
            encode_row(&packed, f16::from_f32(norm), &levels, row)?;
        }
        Ok(Self {
            row_bytes: size,
            n_parts: 2,
            block_bytes: GgmlType::Q1_0.type_size() as usize,
            rows,
        })
    }

    /// Appends one of the pool's rows, turned by a whole number of blocks.
    fn push_row(&self, rng: &mut ChaCha8Rng, out: &mut Vec<u8>) {
        let row = rng.random_range(0..self.rows.len() / self.row_bytes);
        let part_bytes = self.row_bytes / self.n_parts;
        let turn = rng.random_range(0..part_bytes / self.block_bytes) * self.block_bytes;
        for part in self.rows[row * self.row_bytes..][..self.row_bytes].chunks(part_bytes) {
            let (head, tail) = part.split_at(turn);
            out.extend_from_slice(tail);
            out.extend_from_slice(head);
        }
    }
}

/// A number of mean 0 and variance 1: the sum of four uniform ones, which every machine computes alike.
fn near_normal(bits: u64) -> f32 {
    let sum: i64 = (0..4).map(|i| (bits >> (16 * i) & 0xffff) as i64).sum();
    // Four uniform numbers of 0 to 65535 have the mean 2 * 65535 and the variance (65536^2 - 1) / 3.
    const DEVIATION: f32 = 37837.227;
    (sum - 2 * 65535) as f32 / DEVIATION
}

/// A run of rows of one tensor.
struct Piece {
    tensor: usize,
    first_row: u64,
    n_rows: u64,
}

/// Fills every tensor of a file.
pub(super) fn fill(
    writer: &Writer,
    contents: &[Content],
    pools: &Pools,
    seed: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), SynthError> {
    let mut pieces = Vec::new();
    for (tensor, info) in writer.tensors().iter().enumerate() {
        if contents[tensor] == Content::Hole {
            writer.leave_zero(tensor)?;
            continue;
        }
        let rows = info.shape.rows();
        let step = (PIECE_BYTES / (info.bytes / rows).max(1)).max(1);
        let starts = (0..rows).step_by(step as usize);
        pieces.extend(starts.map(|first_row| Piece {
            tensor,
            first_row,
            n_rows: step.min(rows - first_row),
        }));
    }
    pieces.into_par_iter().try_for_each(|piece| {
        let info = &writer.tensors()[piece.tensor];
        let row_bytes = info.bytes / info.shape.rows();
        let mut bytes = Vec::with_capacity((piece.n_rows * row_bytes) as usize);
        let content = contents[piece.tensor];
        let key = (info.ty.id(), info.shape.ne()[0], content == Content::Planes);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1 << 63 | (piece.tensor as u64) << 32 | piece.first_row);
        match (content, pools.0.get(&key)) {
            (Content::Random | Content::Planes, Some(pool)) => {
                (0..piece.n_rows).for_each(|_| pool.push_row(&mut rng, &mut bytes));
            }
            (Content::Signs, _) => {
                let n = piece.n_rows * row_bytes / 4;
                let sign = |up: bool| if up { 1f32 } else { -1.0 };
                bytes.extend((0..n).flat_map(|_| sign(rng.random()).to_le_bytes()));
            }
            (Content::Ones, _) => bytes.extend(
                1f32.to_le_bytes()
                    .repeat((piece.n_rows * row_bytes / 4) as usize),
            ),
            _ => bytes.resize((piece.n_rows * row_bytes) as usize, 0),
        }
        writer.write_at(piece.tensor, piece.first_row * row_bytes, &bytes)?;
        progress(bytes.len() as u64);
        Ok(())
    })
}
