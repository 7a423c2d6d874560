//! Tensor element types of ggml 0.26 with their block sizes, tensor shapes, and what a file says about one tensor.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

/// Declares the enum and its table from one list, so that a type cannot be in one and not in the other.
macro_rules! ggml_types {
    ($($variant:ident = $id:literal, $name:literal, $block:literal, $bytes:literal, $quantized:literal;)*) => {
        /// Element type of a tensor. The discriminants are ggml's type ids, as stored in files.
        #[expect(non_camel_case_types, reason = "the names are the format's own")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum GgmlType {
            $(
                #[doc = concat!("`", $name, "`: ", $bytes, " bytes per block of ", $block, " weights.")]
                $variant = $id,
            )*
        }

        impl GgmlType {
            /// Every type a file may hold, by ascending id.
            pub const ALL: &'static [GgmlType] = &[$(GgmlType::$variant),*];

            /// The type with this id, or `None` for ids ggml does not define or has removed.
            pub fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    _ => None,
                }
            }

            const fn layout(self) -> Layout {
                match self {
                    $(Self::$variant => Layout {
                        name: $name, block_size: $block, type_size: $bytes, quantized: $quantized,
                    },)*
                }
            }
        }
    };
}

struct Layout {
    name: &'static str,
    block_size: u64,
    type_size: u64,
    quantized: bool,
}

ggml_types! {
    // variant = id, name, weights per block, bytes per block, quantised
    F32     =  0, "F32",       1,   4, false;
    F16     =  1, "F16",       1,   2, false;
    Q4_0    =  2, "Q4_0",     32,  18, true;
    Q4_1    =  3, "Q4_1",     32,  20, true;
    Q5_0    =  6, "Q5_0",     32,  22, true;
    Q5_1    =  7, "Q5_1",     32,  24, true;
    Q8_0    =  8, "Q8_0",     32,  34, true;
    Q8_1    =  9, "Q8_1",     32,  36, true;
    Q2_K    = 10, "Q2_K",    256,  84, true;
    Q3_K    = 11, "Q3_K",    256, 110, true;
    Q4_K    = 12, "Q4_K",    256, 144, true;
    Q5_K    = 13, "Q5_K",    256, 176, true;
    Q6_K    = 14, "Q6_K",    256, 210, true;
    Q8_K    = 15, "Q8_K",    256, 292, true;
    IQ2_XXS = 16, "IQ2_XXS", 256,  66, true;
    IQ2_XS  = 17, "IQ2_XS",  256,  74, true;
    IQ3_XXS = 18, "IQ3_XXS", 256,  98, true;
    IQ1_S   = 19, "IQ1_S",   256,  50, true;
    IQ4_NL  = 20, "IQ4_NL",   32,  18, true;
    IQ3_S   = 21, "IQ3_S",   256, 110, true;
    IQ2_S   = 22, "IQ2_S",   256,  82, true;
    IQ4_XS  = 23, "IQ4_XS",  256, 136, true;
    I8      = 24, "I8",        1,   1, false;
    I16     = 25, "I16",       1,   2, false;
    I32     = 26, "I32",       1,   4, false;
    I64     = 27, "I64",       1,   8, false;
    F64     = 28, "F64",       1,   8, false;
    IQ1_M   = 29, "IQ1_M",   256,  56, true;
    BF16    = 30, "BF16",      1,   2, false;
    TQ1_0   = 34, "TQ1_0",   256,  54, true;
    TQ2_0   = 35, "TQ2_0",   256,  66, true;
    MXFP4   = 39, "MXFP4",    32,  17, true;
    NVFP4   = 40, "NVFP4",    64,  36, true;
    Q1_0    = 41, "Q1_0",    128,  18, true;
    Q2_0    = 42, "Q2_0",     64,  18, true;
}

/// Ids ggml has given out and taken back, with the name the type had.
const REMOVED: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

impl GgmlType {
    /// The id stored in files, equal to ggml's `enum ggml_type`.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The name as users write it: `Q4_K`, `IQ4_NL`, `F16`.
    pub fn name(self) -> &'static str {
        self.layout().name
    }

    /// Weights per block; 1 for plain types.
    pub fn block_size(self) -> u64 {
        self.layout().block_size
    }

    /// Bytes per block.
    pub fn type_size(self) -> u64 {
        self.layout().type_size
    }

    /// Bytes of a row of `ne0` weights; `None` if `ne0` is not whole blocks or the size overflows.
    pub fn row_bytes(self, ne0: u64) -> Option<u64> {
        if !ne0.is_multiple_of(self.block_size()) {
            return None;
        }
        (ne0 / self.block_size()).checked_mul(self.type_size())
    }

    /// Whether weights share scales in blocks (ggml's `is_quantized`).
    pub fn is_quantized(self) -> bool {
        self.layout().quantized
    }

    /// The name a removed type id had, or `None` if the id was never given out or is in use.
    pub fn removed_name(id: u32) -> Option<&'static str> {
        REMOVED
            .iter()
            .find(|(removed, _)| *removed == id)
            .map(|(_, name)| *name)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A type name that ggml does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown tensor type `{name}`")]
pub struct UnknownType {
    /// The name as given.
    pub name: String,
}

impl UnknownType {
    /// The names that would have been accepted.
    pub fn hint(&self) -> Option<String> {
        let names: Vec<&str> = GgmlType::ALL.iter().map(|ty| ty.name()).collect();
        Some(format!("known types: {}", names.join(", ")))
    }
}

impl FromStr for GgmlType {
    type Err = UnknownType;

    /// Accepts any case: `iq4_nl`, `IQ4_NL`, `q4_K`.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL
            .iter()
            .find(|ty| ty.name().eq_ignore_ascii_case(name));
        known.copied().ok_or_else(|| UnknownType {
            name: name.to_owned(),
        })
    }
}

/// Most dimensions a tensor can have in ggml.
pub const MAX_DIMS: usize = 4;

/// Extents of a tensor, fastest-varying first as in ggml: `ne[0]` is the length of a row.
///
/// Holds 1 to 4 dimensions, each at least 1, and at most `i64::MAX` elements in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    ne: [u64; MAX_DIMS],
    n_dims: usize,
}

/// Why a list of extents is not a [`Shape`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Not 1 to 4 dimensions.
    #[error("expected 1 to 4 dimensions, found {found}")]
    Dimensions {
        /// The number given.
        found: usize,
    },
    /// A dimension is 0.
    #[error("dimension {dim} is 0, expected at least 1")]
    Zero {
        /// Index of the dimension.
        dim: usize,
    },
    /// More elements than a signed 64-bit count can hold.
    #[error("the dimensions multiply to more than 2^63 elements")]
    TooLarge,
}

impl Shape {
    /// A shape from 1 to 4 extents, `ne[0]` first.
    ///
    /// # Errors
    /// No or more than 4 extents, an extent of 0, or a product above `i64::MAX`.
    pub fn new(dims: &[u64]) -> Result<Self, ShapeError> {
        if dims.is_empty() || dims.len() > MAX_DIMS {
            return Err(ShapeError::Dimensions { found: dims.len() });
        }
        let mut ne = [1; MAX_DIMS];
        let mut elements: u64 = 1;
        for (dim, &extent) in dims.iter().enumerate() {
            if extent == 0 {
                return Err(ShapeError::Zero { dim });
            }
            elements = elements
                .checked_mul(extent)
                .filter(|&product| i64::try_from(product).is_ok())
                .ok_or(ShapeError::TooLarge)?;
            ne[dim] = extent;
        }
        Ok(Self {
            ne,
            n_dims: dims.len(),
        })
    }

    /// A vector of `n` elements, at least one.
    pub fn row(n: u64) -> Self {
        Self {
            ne: [n.max(1), 1, 1, 1],
            n_dims: 1,
        }
    }

    /// All four extents, padded with 1.
    pub fn ne(&self) -> [u64; MAX_DIMS] {
        self.ne
    }

    /// How many dimensions the file states, 1 to 4.
    pub fn n_dims(&self) -> usize {
        self.n_dims
    }

    /// The extents the file states.
    pub fn dims(&self) -> &[u64] {
        &self.ne[..self.n_dims]
    }

    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.ne.iter().product()
    }

    /// Number of rows of `ne[0]` weights.
    pub fn rows(&self) -> u64 {
        self.ne[1..].iter().product()
    }

    /// Bytes of a tensor of this shape; `None` if a row is not whole blocks or the size overflows.
    pub fn bytes(&self, ty: GgmlType) -> Option<u64> {
        ty.row_bytes(self.ne[0])?.checked_mul(self.rows())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extents: Vec<String> = self.dims().iter().map(u64::to_string).collect();
        f.pad(&format!("[{}]", extents.join(", ")))
    }
}

/// One tensor of a file: everything but its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique among all shards, shorter than ggml's 64-byte buffer.
    pub name: String,
    /// Element type.
    pub ty: GgmlType,
    /// Extents.
    pub shape: Shape,
    /// Index into [`Gguf::shards`](super::Gguf::shards).
    pub shard: usize,
    /// Position of the first byte, from the start of the shard's file.
    pub offset: u64,
    /// Length in bytes, without padding.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_lead_back_to_the_type() {
        for &ty in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
            assert_eq!(ty.name().to_lowercase().parse(), Ok(ty));
            assert_eq!(
                GgmlType::removed_name(ty.id()),
                None,
                "{ty} is listed as removed"
            );
        }
        let error = "Q9_9".parse::<GgmlType>().unwrap_err();
        assert_eq!(error.to_string(), "unknown tensor type `Q9_9`");
        assert!(error.hint().is_some_and(|hint| hint.contains("IQ4_NL")));
    }

    #[test]
    fn every_id_below_the_last_is_in_use_or_removed() {
        for id in 0..=42 {
            let known = GgmlType::from_id(id).is_some();
            assert_ne!(known, GgmlType::removed_name(id).is_some(), "id {id}");
        }
        assert_eq!(GgmlType::from_id(43), None);
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(GgmlType::IQ4_NL.row_bytes(4096), Some(4096 / 32 * 18));
        assert_eq!(GgmlType::Q1_0.row_bytes(256), Some(36));
        assert_eq!(GgmlType::Q4_K.row_bytes(128), None);
        assert_eq!(GgmlType::F64.row_bytes(u64::MAX / 4), None);
    }

    #[test]
    fn shapes_are_checked() {
        assert_eq!(Shape::new(&[]), Err(ShapeError::Dimensions { found: 0 }));
        assert_eq!(
            Shape::new(&[1; 5]),
            Err(ShapeError::Dimensions { found: 5 })
        );
        assert_eq!(Shape::new(&[4, 0]), Err(ShapeError::Zero { dim: 1 }));
        assert_eq!(Shape::new(&[1 << 32, 1 << 31]), Err(ShapeError::TooLarge));
        assert_eq!(Shape::new(&[u64::MAX]), Err(ShapeError::TooLarge));
        let shape = Shape::new(&[64, 3, 2]).unwrap();
        assert_eq!(
            (shape.ne(), shape.elements(), shape.rows()),
            ([64, 3, 2, 1], 384, 6)
        );
        assert_eq!(shape.bytes(GgmlType::Q8_0), Some(6 * 68));
        assert_eq!(shape.to_string(), "[64, 3, 2]");
    }
}
