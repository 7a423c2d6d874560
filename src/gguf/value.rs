//! Metadata values, typed as in the file and kept without loss.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::Utf8Error;

/// A string as the file holds it: bytes that should be UTF-8 but need not be (vocabularies hold broken characters).
#[derive(Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct GgufString(Box<[u8]>);

impl GgufString {
    /// The bytes as in the file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text.
    ///
    /// # Errors
    /// The bytes are not UTF-8.
    pub fn to_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.0)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for GgufString {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

impl From<String> for GgufString {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}

impl From<&[u8]> for GgufString {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<Vec<u8>> for GgufString {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl AsRef<[u8]> for GgufString {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for GgufString {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other.as_bytes()
    }
}

impl PartialEq<&str> for GgufString {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == *other.as_bytes()
    }
}

impl fmt::Display for GgufString {
    /// Bytes that are not UTF-8 become U+FFFD.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for GgufString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// Declares the tag, value and array types from one list.
macro_rules! value_types {
    ($($variant:ident = $id:literal, $name:literal, $plural:literal, $rust:ty;)*) => {
        /// The type tag stored before a metadata value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum ValueType {
            $(#[doc = concat!("`", $name, "`")] $variant = $id,)*
        }

        impl ValueType {
            /// Every tag, by ascending id.
            pub const ALL: &'static [ValueType] = &[$(ValueType::$variant),*];

            /// The tag with this id.
            pub fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// `u32`, `string`, `array` ...
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        /// One metadata value.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Value {
            $(#[doc = concat!("`", $name, "`")] $variant($rust),)*
        }

        impl Value {
            /// The tag of this value.
            pub fn value_type(&self) -> ValueType {
                match self {
                    $(Self::$variant(_) => ValueType::$variant,)*
                }
            }
        }

        /// Values of one type. Arrays may hold arrays.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Array {
            $(#[doc = concat!("Elements of type `", $name, "`.")] $variant(Vec<$rust>),)*
        }

        impl Array {
            /// An empty array that holds elements of this type.
            pub fn empty(element_type: ValueType) -> Self {
                match element_type {
                    $(ValueType::$variant => Self::$variant(Vec::new()),)*
                }
            }

            /// The tag of the elements.
            pub fn element_type(&self) -> ValueType {
                match self {
                    $(Self::$variant(_) => ValueType::$variant,)*
                }
            }

            /// Number of elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Self::$variant(elements) => elements.len(),)*
                }
            }

            /// `array of u32`, `array of strings` ...
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => concat!("array of ", $plural),)*
                }
            }

            fn write_elements(&self, f: &mut fmt::Formatter<'_>, limit: usize) -> fmt::Result {
                match self {
                    $(Self::$variant(elements) => {
                        for (index, element) in elements.iter().take(limit).enumerate() {
                            let comma = if index == 0 { "" } else { ", " };
                            write!(f, "{comma}{element}")?;
                        }
                    })*
                }
                Ok(())
            }
        }

        $(
            impl From<$rust> for Value {
                fn from(value: $rust) -> Self {
                    Self::$variant(value)
                }
            }

            impl From<Vec<$rust>> for Array {
                fn from(elements: Vec<$rust>) -> Self {
                    Self::$variant(elements)
                }
            }

            impl From<Vec<$rust>> for Value {
                fn from(elements: Vec<$rust>) -> Self {
                    Self::Array(Array::$variant(elements))
                }
            }
        )*
    };
}

value_types! {
    U8     =  0, "u8",     "u8",      u8;
    I8     =  1, "i8",     "i8",      i8;
    U16    =  2, "u16",    "u16",     u16;
    I16    =  3, "i16",    "i16",     i16;
    U32    =  4, "u32",    "u32",     u32;
    I32    =  5, "i32",    "i32",     i32;
    F32    =  6, "f32",    "f32",     f32;
    Bool   =  7, "bool",   "bools",   bool;
    String =  8, "string", "strings", GgufString;
    Array  =  9, "array",  "arrays",  Array;
    U64    = 10, "u64",    "u64",     u64;
    I64    = 11, "i64",    "i64",     i64;
    F64    = 12, "f64",    "f64",     f64;
}

impl ValueType {
    /// The id stored in files.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Fewest bytes a value of this type takes in a file, without its tag.
    pub fn min_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

impl From<Vec<&str>> for Value {
    fn from(texts: Vec<&str>) -> Self {
        Self::Array(Array::String(
            texts.into_iter().map(GgufString::from).collect(),
        ))
    }
}

impl Value {
    /// `u32`, `string`, `array of f32` ...
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Array(array) => array.type_name(),
            scalar => scalar.value_type().name(),
        }
    }

    /// The value of any integer type; `None` for everything else.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// The value of either float type; `None` for everything else.
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// The array; `None` for scalars.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl Array {
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Levels of arrays inside arrays: 1 for an array of scalars.
    pub fn depth(&self) -> usize {
        match self {
            Self::Array(inner) => 1 + inner.iter().map(Array::depth).max().unwrap_or(0),
            _ => 1,
        }
    }

    /// The elements of any integer type, or `None` for other arrays.
    pub fn integers(&self) -> Option<Box<dyn Iterator<Item = i128> + '_>> {
        fn widen<T: Copy + Into<i128>>(elements: &[T]) -> Box<dyn Iterator<Item = i128> + '_> {
            Box::new(elements.iter().map(|&element| element.into()))
        }
        Some(match self {
            Self::U8(elements) => widen(elements),
            Self::I8(elements) => widen(elements),
            Self::U16(elements) => widen(elements),
            Self::I16(elements) => widen(elements),
            Self::U32(elements) => widen(elements),
            Self::I32(elements) => widen(elements),
            Self::U64(elements) => widen(elements),
            Self::I64(elements) => widen(elements),
            _ => return None,
        })
    }
}

/// Elements of an array that `Display` prints before it sums up.
const SHOWN_ELEMENTS: usize = 8;

impl fmt::Display for Array {
    /// The first elements, then how many there are: `[1, 2, 3, ... 157184 in all]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        self.write_elements(f, SHOWN_ELEMENTS)?;
        if self.len() > SHOWN_ELEMENTS {
            write!(f, ", ... {} in all", self.len())?;
        }
        f.write_str("]")
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(value) => fmt::Display::fmt(value, f),
            Self::I8(value) => fmt::Display::fmt(value, f),
            Self::U16(value) => fmt::Display::fmt(value, f),
            Self::I16(value) => fmt::Display::fmt(value, f),
            Self::U32(value) => fmt::Display::fmt(value, f),
            Self::I32(value) => fmt::Display::fmt(value, f),
            Self::U64(value) => fmt::Display::fmt(value, f),
            Self::I64(value) => fmt::Display::fmt(value, f),
            Self::F32(value) => fmt::Display::fmt(value, f),
            Self::F64(value) => fmt::Display::fmt(value, f),
            Self::Bool(value) => fmt::Display::fmt(value, f),
            Self::String(value) => fmt::Display::fmt(value, f),
            Self::Array(value) => fmt::Display::fmt(value, f),
        }
    }
}
