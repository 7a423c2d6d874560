//! The written file against the checkpoint, on a sample of rows.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::mxtq::unrotate;
use super::plan::Planned;
use super::policy::Form;
use super::wanted::Class;
use super::{Import, ImportError, Weight};
use crate::convert::ConvertError;
use crate::ggml::dequantize;
use crate::gguf::Gguf;

/// Rows of each tensor that are looked at.
const ROWS: u64 = 16;

/// Errors by kind of tensor, in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    /// One entry per kind and form.
    pub classes: Vec<ClassError>,
}

/// How far products of sampled rows are from those of the checkpoint.
///
/// An error is `|(w' - w) . x|` over the size that `w . x` has for inputs like `x`: the length of `w` times the root mean
/// square of `x`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassError {
    /// Kind of tensor.
    pub class: Class,
    /// How the checkpoint stores it.
    pub from: String,
    /// How the file stores it.
    pub to: String,
    /// Rows that were looked at.
    pub n_rows: u64,
    /// Mean error of a product.
    pub mean: f64,
    /// Largest error of a product.
    pub worst: f64,
    /// Where the largest error is.
    pub worst_at: String,
}

/// Errors so far.
struct Sum {
    entry: ClassError,
    total: f64,
    n: u64,
}

impl Import {
    /// Multiplies sampled rows of every tensor with the inputs of `n_tokens` tokens: with the weights as the checkpoint
    /// means them, and as a reader of the file gets them. Inputs as wide as the model are embeddings of tokens spread
    /// over the vocabulary, of mean square 1; others are normal random numbers.
    ///
    /// # Errors
    /// The file or the checkpoint cannot be read.
    pub fn verify(&self, gguf: &Gguf, n_tokens: u32) -> Result<Verification, ImportError> {
        let mut inputs = Inputs::new(self, n_tokens)?;
        let mut sums: BTreeMap<(Class, String, String), Sum> = BTreeMap::new();
        for planned in &self.planned {
            let key = (planned.wanted.class, planned.from(), planned.to());
            let sum = sums.entry(key).or_insert_with(|| Sum::new(planned));
            self.compare(planned, gguf, inputs.of(planned.wanted.ne[0] as usize), sum)?;
        }
        let classes = sums.into_values().map(Sum::finish).collect();
        Ok(Verification { classes })
    }

    fn compare(
        &self,
        planned: &Planned,
        gguf: &Gguf,
        inputs: &[Vec<f32>],
        sum: &mut Sum,
    ) -> Result<(), ImportError> {
        let failed = |problem| ConvertError::Source {
            tensor: planned.wanted.name.clone(),
            problem,
        };
        let values = planned.values(&self.checkpoint);
        let n_rows: u64 = planned.wanted.ne[1..].iter().product();
        let (granule, width) = (values.granule(), planned.wanted.ne[0] as usize);
        let step = (n_rows / ROWS).max(1);
        let mut source = Vec::new();
        for row in (0..n_rows).step_by(step as usize).take(ROWS as usize) {
            let first = row / granule * granule;
            values
                .values(first..first + granule, &mut source)
                .map_err(failed)?;
            let at = (row - first) as usize * width;
            let theirs = &source[at..at + width];
            let ours = self.row_of_file(planned, gguf, row)?;
            sum.add(theirs, &ours, inputs, || {
                format!("{}, row {row}", planned.wanted.name)
            });
        }
        Ok(())
    }

    /// A row of weights as a reader of the file gets it.
    fn row_of_file(
        &self,
        planned: &Planned,
        gguf: &Gguf,
        row: u64,
    ) -> Result<Vec<f32>, ImportError> {
        let name = &planned.wanted.name;
        let missing = || ImportError::Missing {
            folder: gguf.shards()[0].path().to_owned(),
            tensor: name.clone(),
            shape: planned.ne(),
            more: 0,
        };
        let info = gguf.tensor(name).ok_or_else(missing)?;
        let width = info.shape.ne()[0];
        let bytes = info.ty.row_bytes(width).ok_or_else(missing)? as usize;
        let data = gguf.data(info);
        let mut values = Vec::new();
        let at = row as usize * bytes;
        dequantize(
            info.ty,
            data.get(at..at + bytes).ok_or_else(missing)?,
            width,
            &mut values,
        )
        .map_err(|source| ConvertError::Encode {
            tensor: name.clone(),
            source,
        })?;
        if let (Form::Planes(_), Some(Weight::Mxtq(weight))) = (planned.form, planned.parts.first())
        {
            let (sign, size) = values.split_at(values.len() / 2);
            values = sign.iter().zip(size).map(|(a, b)| a + b).collect();
            unrotate(&mut values, weight.codec.signs());
        }
        Ok(values)
    }
}

impl Sum {
    fn new(planned: &Planned) -> Self {
        Self {
            entry: ClassError {
                class: planned.wanted.class,
                from: planned.from(),
                to: planned.to(),
                n_rows: 0,
                mean: 0.0,
                worst: 0.0,
                worst_at: String::new(),
            },
            total: 0.0,
            n: 0,
        }
    }

    fn add(
        &mut self,
        theirs: &[f32],
        ours: &[f32],
        inputs: &[Vec<f32>],
        place: impl Fn() -> String,
    ) {
        let length = theirs
            .iter()
            .map(|w| f64::from(*w).powi(2))
            .sum::<f64>()
            .sqrt();
        for x in inputs {
            let size =
                (x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
            let terms = theirs.iter().zip(ours).zip(x);
            let difference: f64 = terms
                .map(|((a, b), x)| (f64::from(*b) - f64::from(*a)) * f64::from(*x))
                .sum();
            // A row of zeros has no size; then any difference is whole.
            let error = match difference.abs() {
                0.0 => 0.0,
                d if length * size > 0.0 => d / (length * size),
                _ => f64::INFINITY,
            };
            self.total += error;
            self.n += 1;
            if error > self.entry.worst || error.is_nan() {
                self.entry.worst = error;
                self.entry.worst_at = place();
            }
        }
        self.entry.n_rows += 1;
    }

    fn finish(mut self) -> ClassError {
        self.entry.mean = self.total / self.n.max(1) as f64;
        self.entry
    }
}

/// Inputs by width.
struct Inputs {
    by_width: BTreeMap<usize, Vec<Vec<f32>>>,
    n: u32,
}

impl Inputs {
    fn new(import: &Import, n: u32) -> Result<Self, ImportError> {
        let mut by_width = BTreeMap::new();
        if let Some(embedding) = import
            .planned
            .iter()
            .find(|p| p.wanted.class == Class::Embedding)
        {
            let [width, n_vocab] = [0, 1].map(|i| embedding.wanted.ne[i]);
            let values = embedding.values(&import.checkpoint);
            let mut rows = Vec::new();
            for i in 0..u64::from(n) {
                let token = i * n_vocab / u64::from(n);
                let mut row = Vec::new();
                values
                    .values(token..token + 1, &mut row)
                    .map_err(|problem| ConvertError::Source {
                        tensor: embedding.wanted.name.clone(),
                        problem,
                    })?;
                let square = row.iter().map(|x| x * x).sum::<f32>() / width as f32;
                row.iter_mut()
                    .for_each(|x| *x /= (square + f32::MIN_POSITIVE).sqrt());
                rows.push(row);
            }
            by_width.insert(width as usize, rows);
        }
        Ok(Self { by_width, n })
    }

    fn of(&mut self, width: usize) -> &[Vec<f32>] {
        self.by_width.entry(width).or_insert_with(|| {
            let mut rng = ChaCha8Rng::seed_from_u64(width as u64);
            // Twelve uniform numbers make a normal one, near enough.
            let mut normal = || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
            (0..self.n)
                .map(|_| (0..width).map(|_| normal()).collect())
                .collect()
        })
    }
}
