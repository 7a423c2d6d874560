//! How matrices are stored in a checkpoint, and their rows as f32.
//!
//! One form is one file: plain numbers, MLX's affine groups, FP8 with scales, packed integers.

#![forbid(unsafe_code)]

mod affine;
mod fp8;
mod options;
mod packed;
mod part;
mod plain;

#[cfg(test)]
mod tests;

use std::ops::Range;

use super::source::{Checkpoint, Dtype, SourceError, StoredTensor, TensorFiles};

pub use affine::Affine;
pub use fp8::{Fp8, Fp8Scale};
pub use options::{AffineSpec, CodecOptions};
pub use packed::PackedInt;

/// The form a matrix is stored in, and the tensors that hold it.
#[derive(Clone, Debug)]
pub enum Stored {
    /// Numbers, one beside the other.
    Plain(StoredTensor),
    /// MLX's codes with scales and offsets.
    Affine(Affine),
    /// FP8 with scales.
    Fp8(Fp8),
    /// compressed-tensors' packed integers.
    PackedInt(PackedInt),
}

/// A matrix, a stack of matrices or a vector of a checkpoint, whatever form it is stored in.
#[derive(Clone, Debug)]
pub struct StoredMatrix {
    stored: Stored,
    shape: Vec<u64>,
}

impl StoredMatrix {
    /// Finds the tensor of a module, `base` being its name without `.weight`. Its parts are checked against each other;
    /// values are not read. A tensor whose whole name is `base` is found as well. None where there is nothing.
    ///
    /// # Errors
    /// A part that is missing, of another type or of another shape; a form that is known but not read.
    pub fn find(
        ckpt: &Checkpoint,
        base: &str,
        options: &CodecOptions,
    ) -> Result<Option<Self>, SourceError> {
        let files = ckpt.files();
        let part = |suffix: &str| files.tensor(&format!("{base}{suffix}"));
        if let Some(other) = part(".qweight") {
            return Err(part::unsupported(files, other, "GPTQ or AWQ integers"));
        }
        if let Some(packed) = part(".weight_packed") {
            if let Some(weight) = part(".weight") {
                let found = format!("`{}` beside it", weight.name);
                return Err(part::wrong(files, packed, "parts", "one form", found));
            }
            let (matrix, shape) = PackedInt::find(files, packed, base)?;
            let stored = Stored::PackedInt(matrix);
            return Ok(Some(Self { stored, shape }));
        }
        let Some(weight) = part(".weight") else {
            if let Some(orphan) = [".scales", ".biases"].into_iter().find_map(part) {
                part::beside(files, orphan, &format!("{base}.weight"))?;
            }
            return Ok(part("").map(Self::plain));
        };
        let scale = part(".weight_scale_inv").or(part(".weight_scale"));
        let is_fp8 = matches!(weight.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2);
        if scale.is_some() || is_fp8 {
            let scale = match scale {
                Some(scale) => scale,
                None => part::beside(files, weight, &format!("{base}.weight_scale_inv"))?,
            };
            let fp8 = Fp8::new(files, weight, scale, options.fp8_block())?;
            let shape = weight.shape.clone();
            let stored = Stored::Fp8(fp8);
            return Ok(Some(Self { stored, shape }));
        }
        let is_codes = weight.dtype == Dtype::U32 && weight.shape.len() > 1;
        if is_codes || part(".scales").is_some() || part(".biases").is_some() {
            let (affine, shape) = Affine::find(ckpt, weight, base, options)?;
            let stored = Stored::Affine(affine);
            return Ok(Some(Self { stored, shape }));
        }
        Ok(Some(Self::plain(weight)))
    }

    /// A tensor of plain numbers.
    pub fn plain(tensor: &StoredTensor) -> Self {
        Self {
            stored: Stored::Plain(tensor.clone()),
            shape: tensor.shape.clone(),
        }
    }

    /// The form and the tensors that hold it.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Logical dimensions, outermost first: `[out, in]`, `[n, out, in]` or `[n]`.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Weights of a row: the last dimension.
    pub fn row_len(&self) -> u64 {
        part::row_len(&self.shape)
    }

    /// Rows: the product of all dimensions but the last.
    pub fn n_rows(&self) -> u64 {
        part::n_rows(&self.shape)
    }

    /// Decodes the given rows in place of what `out` holds. Beside `out`, a few MiB or one row are in memory.
    ///
    /// # Errors
    /// Rows past the last one, a failed read, NaN or infinity in a weight, a scale or an offset, too little memory.
    pub fn rows(
        &self,
        ckpt: &Checkpoint,
        rows: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), SourceError> {
        let files = ckpt.files();
        out.clear();
        let main = self.main();
        if rows.start > rows.end || rows.end > self.n_rows() {
            let expected = format!("a range within its {} rows", self.n_rows());
            let found = format!("{} to {}", rows.start, rows.end);
            return Err(part::wrong(files, main, "rows", expected, found));
        }
        let len = self.row_len();
        if len == 0 || rows.is_empty() {
            return Ok(());
        }
        let first = rows.start;
        // Rows are within the tensor, so their product is; a row that does not fit memory fails here.
        part::reserve(files, main, (rows.end - first).saturating_mul(len), out)?;
        self.append(files, rows, out)?;
        part::check_finite(files, main, first, len, out)
    }

    fn append(
        &self,
        files: &TensorFiles,
        rows: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), SourceError> {
        let len = self.row_len();
        // Room for at least one row was made before.
        let row_len = len as usize;
        match &self.stored {
            Stored::Plain(tensor) => {
                plain::append(files, tensor, rows.start * len..rows.end * len, out)
            }
            Stored::Affine(affine) => affine.append(files, rows, row_len, out),
            Stored::Fp8(fp8) => fp8.append(files, rows, row_len, out),
            Stored::PackedInt(packed) => packed.append(files, rows, row_len, out),
        }
    }

    /// The form in a few words: `bf16`, `affine 8-bit g64`, `fp8 e4m3 128x128`, `int4 g32`.
    pub fn form(&self) -> String {
        match &self.stored {
            Stored::Plain(tensor) => tensor.dtype.name().to_lowercase(),
            Stored::Affine(affine) => format!("affine {}-bit g{}", affine.bits, affine.group_size),
            Stored::Fp8(fp8) => {
                let kind = match fp8.weight.dtype {
                    Dtype::F8_E5M2 => "e5m2",
                    _ => "e4m3",
                };
                match fp8.per {
                    Fp8Scale::Block([rows, columns]) => format!("fp8 {kind} {rows}x{columns}"),
                    Fp8Scale::Row => format!("fp8 {kind} per row"),
                    Fp8Scale::Tensor => format!("fp8 {kind} per tensor"),
                }
            }
            Stored::PackedInt(packed) => {
                let zero = match packed.zero_point {
                    Some(_) => " with zero points",
                    None => "",
                };
                format!("int{} g{}{zero}", packed.bits, packed.group_size)
            }
        }
    }

    /// Bytes of all parts in the checkpoint.
    pub fn stored_bytes(&self) -> u64 {
        self.parts().iter().map(|part| part.bytes).sum()
    }

    /// Names of all parts in the checkpoint, the one that holds the weights first.
    pub fn tensor_names(&self) -> Vec<&str> {
        let parts = self.parts();
        parts.into_iter().map(|part| part.name.as_str()).collect()
    }

    /// The part that holds the weights themselves.
    fn main(&self) -> &StoredTensor {
        match &self.stored {
            Stored::Plain(tensor) => tensor,
            Stored::Affine(affine) => &affine.weight,
            Stored::Fp8(fp8) => &fp8.weight,
            Stored::PackedInt(packed) => &packed.packed,
        }
    }

    fn parts(&self) -> Vec<&StoredTensor> {
        let mut parts = vec![self.main()];
        match &self.stored {
            Stored::Plain(_) => {}
            Stored::Affine(affine) => parts.extend([&affine.scales, &affine.biases]),
            Stored::Fp8(fp8) => parts.push(&fp8.scale),
            Stored::PackedInt(packed) => {
                parts.extend([&packed.scale, &packed.shape]);
                parts.extend(&packed.zero_point);
            }
        }
        parts
    }
}

/// All elements of a plain tensor of any files, a sidecar's for example, in place of what `out` holds.
///
/// # Errors
/// A failed read, a value that is not a finite f32, too little memory.
pub fn plain_values(
    files: &TensorFiles,
    tensor: &StoredTensor,
    out: &mut Vec<f32>,
) -> Result<(), SourceError> {
    let (rows, len) = (part::n_rows(&tensor.shape), part::row_len(&tensor.shape));
    part::factors(files, tensor, 0..rows, len, out)
}
