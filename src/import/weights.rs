//! Weights of a checkpoint as rows of values, MXTQ among them.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;

use super::ImportError;
use super::codec::{CodecOptions, StoredMatrix, plain_values};
use super::mxtq::{Bits, Codec, MxtqError};
use super::source::{Checkpoint, Dtype, SourceError, StoredTensor, TensorFiles};

/// Bytes of an MXTQ norm.
const NORM_BYTES: u64 = 2;

/// What decoding needs beside the tensors themselves.
pub(super) struct Codecs {
    options: CodecOptions,
    seed: u64,
    sidecar: Option<TensorFiles>,
    made: Mutex<BTreeMap<(usize, u32), Arc<Codec>>>,
}

impl Codecs {
    pub fn new(checkpoint: &Checkpoint, seed: u64) -> Result<Self, SourceError> {
        Ok(Self {
            options: CodecOptions::from_config(checkpoint)?,
            seed,
            sidecar: checkpoint.sidecar()?,
            made: Mutex::default(),
        })
    }

    /// Seed of the rotation signs.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Signs and codebook for rows of `n_in`, computed once and checked against the sidecar.
    fn get(&self, n_in: usize, bits: Bits) -> Result<Arc<Codec>, ImportError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(codec) = made.get(&(n_in, bits.get())) {
            return Ok(codec.clone());
        }
        let codec = Arc::new(Codec::new(n_in, bits, self.seed));
        if let Some(sidecar) = &self.sidecar {
            let signs = format!("signs.{n_in}.{}", self.seed);
            refuse_other_seeds(sidecar, n_in, self.seed)?;
            compare(sidecar, &signs, codec.signs(), 0)?;
            // The published tables may differ in the last bit of a sum.
            compare(
                sidecar,
                &format!("codebook.{n_in}.{}", bits.get()),
                codec.book(),
                1,
            )?;
        }
        made.insert((n_in, bits.get()), codec.clone());
        Ok(codec)
    }
}

/// A sidecar with signs for rows of `n_in`, but of other seeds only, belongs to other weights than these settings say.
fn refuse_other_seeds(sidecar: &TensorFiles, n_in: usize, seed: u64) -> Result<(), ImportError> {
    let start = format!("signs.{n_in}.");
    let seeds: Vec<(&StoredTensor, &str)> = sidecar
        .tensors()
        .iter()
        .filter_map(|tensor| Some((tensor, tensor.name.strip_prefix(&start)?)))
        .collect();
    let ours = seed.to_string();
    match seeds.first() {
        Some((first, _)) if !seeds.iter().any(|(_, found)| *found == ours) => {
            let found: Vec<&str> = seeds.iter().map(|(_, found)| *found).collect();
            Err(ImportError::Seed {
                path: sidecar.path_of(first).to_owned(),
                n_in,
                expected: seed,
                found: found.join(", "),
            })
        }
        _ => Ok(()),
    }
}

/// Checks values of the sidecar, where it has them, to `max_ulps` steps of F32.
fn compare(
    sidecar: &TensorFiles,
    name: &str,
    ours: &[f32],
    max_ulps: u32,
) -> Result<(), ImportError> {
    let Some(tensor) = sidecar.tensor(name) else {
        return Ok(());
    };
    let path = sidecar.path_of(tensor).to_owned();
    let differs = |index, expected: String, found: String| ImportError::Sidecar {
        path: path.clone(),
        tensor: name.to_owned(),
        index,
        expected,
        found,
    };
    let mut theirs = Vec::new();
    let n = tensor.shape.iter().product::<u64>();
    if n != ours.len() as u64 {
        return Err(differs(0, format!("{} values", ours.len()), format!("{n}")));
    }
    plain_values(sidecar, tensor, &mut theirs)?;
    let far = |(a, b): (&f32, &f32)| {
        let same_sign = a.is_sign_negative() == b.is_sign_negative();
        !same_sign || a.to_bits().abs_diff(b.to_bits()) > max_ulps
    };
    match ours.iter().zip(&theirs).position(far) {
        Some(i) => Err(differs(i, ours[i].to_string(), theirs[i].to_string())),
        None => Ok(()),
    }
}

/// A matrix, a stack of matrices or a vector of the checkpoint.
#[derive(Clone)]
pub(super) enum Weight {
    Stored(StoredMatrix),
    Mxtq(Mxtq),
}

/// A matrix or a stack of them in MXTQ.
#[derive(Clone)]
pub(super) struct Mxtq {
    packed: StoredTensor,
    norms: StoredTensor,
    bits_tensor: String,
    shape: Vec<u64>,
    pub codec: Arc<Codec>,
}

impl Weight {
    /// The weight of a module whose rows have `n_in` elements. Parts are checked against each other; `None` where
    /// there is nothing.
    pub fn find(
        checkpoint: &Checkpoint,
        codecs: &Codecs,
        base: &str,
        n_in: u64,
    ) -> Result<Option<Self>, ImportError> {
        match checkpoint.tensor(&format!("{base}.tq_packed")) {
            Some(packed) => {
                let mxtq = Mxtq::find(checkpoint, codecs, base, packed, n_in)?;
                Ok(Some(Self::Mxtq(mxtq)))
            }
            None => {
                let found = StoredMatrix::find(checkpoint, base, &codecs.options)?;
                Ok(found.map(Self::Stored))
            }
        }
    }

    /// Extents, rows first: `[out, in]`, `[n, out, in]` or `[n]`.
    pub fn shape(&self) -> &[u64] {
        match self {
            Self::Stored(matrix) => matrix.shape(),
            Self::Mxtq(mxtq) => &mxtq.shape,
        }
    }

    /// Rows of `shape`, counted over all its extents but the last.
    pub fn n_rows(&self) -> u64 {
        self.shape().iter().rev().skip(1).product()
    }

    /// Appends the values of some rows. MXTQ is decoded as the format's own tools decode it.
    pub fn append(
        &self,
        checkpoint: &Checkpoint,
        rows: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), ImportError> {
        match self {
            Self::Stored(matrix) if out.is_empty() => matrix.rows(checkpoint, rows, out)?,
            Self::Stored(matrix) => {
                let mut values = Vec::new();
                matrix.rows(checkpoint, rows, &mut values)?;
                out.append(&mut values);
            }
            Self::Mxtq(mxtq) => mxtq.each_row(checkpoint, rows, |packed, norm| {
                let start = out.len();
                out.resize(start + mxtq.codec.row_len(), 0.0);
                mxtq.codec.decode_row(packed, norm, &mut out[start..])
            })?,
        }
        Ok(())
    }

    /// How the checkpoint stores it, in a few words.
    pub fn form(&self) -> String {
        match self {
            Self::Stored(matrix) => matrix.form(),
            Self::Mxtq(mxtq) => format!("mxtq {}-bit", mxtq.codec.bits().get()),
        }
    }

    /// Names of its parts.
    pub fn tensor_names(&self) -> Vec<&str> {
        match self {
            Self::Stored(matrix) => matrix.tensor_names(),
            Self::Mxtq(m) => vec![&m.packed.name, &m.norms.name, &m.bits_tensor],
        }
    }
}

impl Mxtq {
    fn find(
        checkpoint: &Checkpoint,
        codecs: &Codecs,
        base: &str,
        packed: &StoredTensor,
        n_in: u64,
    ) -> Result<Self, ImportError> {
        let files = checkpoint.files();
        let part = |suffix: &str| {
            let name = format!("{base}.{suffix}");
            files.tensor(&name).ok_or_else(|| SourceError::MissingPart {
                path: files.path_of(packed).to_owned(),
                tensor: packed.name.clone(),
                missing: name,
            })
        };
        let (norms, bits_tensor) = (part("tq_norms")?, part("tq_bits")?);
        let wrong =
            |tensor: &StoredTensor, field, expected: String, found: String| SourceError::Tensor {
                path: files.path_of(tensor).to_owned(),
                tensor: tensor.name.clone(),
                field,
                expected,
                found,
            };
        for (tensor, dtype) in [(packed, Dtype::U32), (norms, Dtype::F16)] {
            if tensor.dtype != dtype {
                let found = tensor.dtype.name().to_owned();
                return Err(wrong(tensor, "dtype", dtype.name().to_owned(), found).into());
            }
        }
        let mut bits = Vec::new();
        if bits_tensor.bytes == 0 {
            return Err(wrong(bits_tensor, "shape", "[1]".into(), "no element".into()).into());
        }
        plain_values(files, bits_tensor, &mut bits)?;
        let bits = Bits::new(bits[0] as u64).map_err(|_| {
            wrong(
                bits_tensor,
                "value",
                "1, 2, 3, 4 or 8".into(),
                bits[0].to_string(),
            )
        })?;
        let words = bits.words(n_in as usize);
        let Some((&found, outer)) = packed
            .shape
            .split_last()
            .filter(|(_, outer)| !outer.is_empty())
        else {
            let found = format!("{:?}", packed.shape);
            return Err(wrong(packed, "shape", "rows of packed words".into(), found).into());
        };
        if found != words as u64 {
            let expected = format!(
                "rows of {words} words, for {n_in} codes of {} bits",
                bits.get()
            );
            return Err(wrong(packed, "shape", expected, format!("{:?}", packed.shape)).into());
        }
        if norms.shape != outer {
            return Err(wrong(
                norms,
                "shape",
                format!("{outer:?}"),
                format!("{:?}", norms.shape),
            )
            .into());
        }
        Ok(Self {
            packed: packed.clone(),
            norms: norms.clone(),
            bits_tensor: bits_tensor.name.clone(),
            shape: [outer, &[n_in]].concat(),
            codec: codecs.get(n_in as usize, bits)?,
        })
    }

    /// Calls `f` with the packed words and the norm of each row.
    pub fn each_row(
        &self,
        checkpoint: &Checkpoint,
        rows: Range<u64>,
        mut f: impl FnMut(&[u8], f16) -> Result<(), MxtqError>,
    ) -> Result<(), ImportError> {
        let stride = self.packed.shape.last().copied().unwrap_or(0) * 4;
        let (mut words, mut norms) = (Vec::new(), Vec::new());
        checkpoint.read(
            &self.packed,
            rows.start * stride..rows.end * stride,
            &mut words,
        )?;
        checkpoint.read(
            &self.norms,
            rows.start * NORM_BYTES..rows.end * NORM_BYTES,
            &mut norms,
        )?;
        let norms = norms
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]));
        for (row, (packed, norm)) in rows.zip(words.chunks_exact(stride as usize).zip(norms)) {
            f(packed, norm).map_err(|source| ImportError::Mxtq {
                folder: checkpoint.folder().to_owned(),
                tensor: format!("{}, row {row}", self.packed.name),
                source,
            })?;
        }
        Ok(())
    }
}
