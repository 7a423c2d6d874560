//! What a file can be quantised to: llama.cpp's mixes by name and number, and single types.

use std::fmt;
use std::str::FromStr;

use crate::gguf::GgmlType;

/// Declares the enum and its table from one list.
macro_rules! mixes {
    ($($variant:ident = $id:literal, $base:ident, $note:literal;)*) => {
        /// A mix of types under one name. The discriminants are llama.cpp's `general.file_type`.
        #[expect(non_camel_case_types, reason = "the names are the format's own")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Mix {
            $(#[doc = $note] $variant = $id,)*
        }

        impl Mix {
            /// Every mix, smallest first.
            pub const ALL: &'static [Mix] = &[$(Mix::$variant),*];

            /// The name users write.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }

            /// The type of most matrices.
            pub fn base(self) -> GgmlType {
                match self {
                    $(Self::$variant => GgmlType::$base,)*
                }
            }

            /// A word on what it is good for.
            pub fn note(self) -> &'static str {
                match self {
                    $(Self::$variant => $note,)*
                }
            }
        }
    };
}

mixes! {
    // variant = llama.cpp's number, type of most matrices, a word
    Q1_0      = 40, Q1_0,    "signs and a scale: for models trained that way";
    IQ1_S     = 24, IQ1_S,   "smallest; needs an importance matrix, coherent only for very large models";
    TQ1_0     = 36, TQ1_0,   "ternary, packed: for models trained that way";
    IQ1_M     = 31, IQ1_M,   "a little above IQ1_S; needs an importance matrix";
    IQ2_XXS   = 19, IQ2_XXS, "smallest that large models bear; needs an importance matrix";
    TQ2_0     = 37, TQ2_0,   "ternary, fast: for models trained that way";
    Q2_0      = 41, Q2_0,    "four levels and a scale: for models trained that way";
    IQ2_XS    = 20, IQ2_XS,  "needs an importance matrix";
    IQ2_S     = 28, IQ2_XS,  "IQ2_XS with better attention; needs an importance matrix";
    IQ2_M     = 29, IQ2_S,   "best of the 2-bit IQ mixes; needs an importance matrix";
    Q2_K_S    = 21, Q2_K,    "Q2_K almost throughout; needs an importance matrix";
    Q2_K      = 10, Q2_K,    "2 bits with 3-bit attention: noticeable loss, fast";
    IQ3_XXS   = 23, IQ3_XXS, "about 3 bits; needs an importance matrix";
    IQ3_XS    = 22, IQ3_S,   "between IQ3_XXS and IQ3_S; needs an importance matrix";
    Q3_K_S    = 11, Q3_K,    "3 bits throughout";
    IQ3_S     = 26, IQ3_S,   "better than Q3_K_S at its size";
    IQ3_M     = 27, IQ3_S,   "IQ3_S with 4-bit attention";
    Q3_K_M    = 12, Q3_K,    "3 bits with 4-bit attention and feed-forward outputs";
    Q3_K_L    = 13, Q3_K,    "3 bits with 5-bit attention and feed-forward outputs";
    IQ4_XS    = 30, IQ4_XS,  "smallest without much loss";
    MXFP4_MOE = 38, MXFP4,   "MXFP4 experts, Q8_0 otherwise: for models trained in MXFP4";
    Q4_0      =  2, Q4_0,    "fast; Q4_K_S is better at its size";
    IQ4_NL    = 25, IQ4_NL,  "4 bits in blocks of 32, for rows that K-quants do not fit";
    Q4_K_S    = 14, Q4_K,    "4 bits, little loss";
    Q4_K_M    = 15, Q4_K,    "4 bits with some 6-bit matrices: the usual choice";
    Q4_1      =  3, Q4_1,    "old; Q4_K_M is better at its size";
    Q5_0      =  8, Q5_0,    "old; Q5_K_S is better at its size";
    Q5_K_S    = 16, Q5_K,    "5 bits, hardly any loss";
    Q5_K_M    = 17, Q5_K,    "5 bits with some 6-bit matrices";
    Q5_1      =  9, Q5_1,    "old; Q5_K_M is better at its size";
    Q6_K      = 18, Q6_K,    "close to lossless";
    Q8_0      =  7, Q8_0,    "as good as lossless, and quick to make";
    F16       =  1, F16,     "half precision";
    BF16      = 32, BF16,    "half precision with the range of F32";
    F32       =  0, F32,     "single precision";
}

/// Names that llama.cpp takes for a mix of another name.
const ALIASES: &[(&str, Mix)] = &[
    ("Q3_K", Mix::Q3_K_M),
    ("Q4_K", Mix::Q4_K_M),
    ("Q5_K", Mix::Q5_K_M),
];

/// Types that no mix is called after; they are used throughout, under the number that llama.cpp would give the file.
const SINGLE: &[(GgmlType, u32)] = &[(GgmlType::MXFP4, 38), (GgmlType::NVFP4, 39)];

/// What to make of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A mix.
    Mix(Mix),
    /// One type throughout.
    Single(GgmlType),
    /// Every tensor as it is, but for those that are named.
    Copy,
}

impl FileType {
    /// The name users write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mix(mix) => mix.name(),
            Self::Single(ty) => ty.name(),
            Self::Copy => "COPY",
        }
    }

    /// The type of most matrices; `None` for a copy.
    pub fn base(self) -> Option<GgmlType> {
        match self {
            Self::Mix(mix) => Some(mix.base()),
            Self::Single(ty) => Some(ty),
            Self::Copy => None,
        }
    }

    /// The number for `general.file_type`; `None` for a copy, which keeps its own.
    pub fn id(self) -> Option<u32> {
        match self {
            Self::Mix(mix) => Some(mix as u32),
            Self::Single(ty) => SINGLE
                .iter()
                .find(|(single, _)| *single == ty)
                .map(|(_, id)| *id),
            Self::Copy => None,
        }
    }

    /// Everything that [`FileType::from_str`] takes, aliases and numbers aside.
    pub fn all() -> impl Iterator<Item = Self> {
        let mixes = Mix::ALL.iter().map(|&mix| Self::Mix(mix));
        let single = SINGLE.iter().map(|&(ty, _)| Self::Single(ty));
        mixes.chain(single).chain([Self::Copy])
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no file can be quantised to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown file type `{name}`")]
pub struct UnknownFileType {
    /// The name as given.
    pub name: String,
}

impl UnknownFileType {
    /// The names that would have been accepted.
    pub fn hint(&self) -> Option<String> {
        let names: Vec<&str> = FileType::all().map(FileType::name).collect();
        Some(format!("known types: {}", names.join(", ")))
    }
}

impl FromStr for FileType {
    type Err = UnknownFileType;

    /// Accepts any case, llama.cpp's aliases, and its numbers.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let same = |other: &str| other.eq_ignore_ascii_case(name);
        if let Some(file_type) = Self::all().find(|t| same(t.name())) {
            return Ok(file_type);
        }
        if let Some((_, mix)) = ALIASES.iter().find(|(alias, _)| same(alias)) {
            return Ok(Self::Mix(*mix));
        }
        let id = name.parse::<u32>().ok();
        let numbered = Mix::ALL.iter().find(|&&mix| Some(mix as u32) == id);
        numbered
            .map(|&mix| Self::Mix(mix))
            .ok_or_else(|| UnknownFileType {
                name: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_aliases_lead_to_the_type() {
        for file_type in FileType::all() {
            assert_eq!(file_type.name().to_lowercase().parse(), Ok(file_type));
        }
        for &mix in Mix::ALL {
            assert_eq!((mix as u32).to_string().parse(), Ok(FileType::Mix(mix)));
        }
        assert_eq!("q4_k".parse(), Ok(FileType::Mix(Mix::Q4_K_M)));
        let error = "Q9_K".parse::<FileType>().unwrap_err();
        assert!(error.hint().is_some_and(|hint| hint.contains("IQ4_NL")));
        assert!(
            "6".parse::<FileType>().is_err(),
            "a number that was retired"
        );
    }
}
