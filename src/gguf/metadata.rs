//! The ordered key-value store of a file, with getters that convert only without loss.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::value::{Array, GgufString, Value};

/// A key is absent, or its value is not of the type asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// A required key is not in the file.
    #[error("metadata key `{key}` is missing, expected {expected}")]
    Missing {
        /// The key.
        key: String,
        /// The type asked for.
        expected: &'static str,
    },
    /// The value has another type, or does not fit the type asked for.
    #[error("metadata key `{key}`: expected {expected}, found {found}")]
    WrongType {
        /// The key.
        key: String,
        /// The type asked for.
        expected: &'static str,
        /// The type found, with the value where it is short.
        found: String,
    },
}

impl MetadataError {
    /// The key in question.
    pub fn key(&self) -> &str {
        match self {
            Self::Missing { key, .. } | Self::WrongType { key, .. } => key,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => Some(
                "the file was made by an older or a different converter: convert the model again"
                    .to_owned(),
            ),
            Self::WrongType { .. } => None,
        }
    }
}

/// Metadata of a file: keys in file order, each once.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Metadata {
    /// No entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index
            .get(key)
            .map(|&position| &self.entries[position].1)
    }

    /// Whether the key is present.
    pub fn contains_key(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// Sets a key. A new key goes to the end; an existing one keeps its place, and its old value is returned.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        if let Some(&position) = self.index.get(&key) {
            return Some(std::mem::replace(&mut self.entries[position].1, value));
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        None
    }

    /// Takes a key out; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let position = self.index.remove(key)?;
        for moved in self.index.values_mut().filter(|moved| **moved > position) {
            *moved -= 1;
        }
        Some(self.entries.remove(position).1)
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn convert<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, MetadataError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        convert(value)
            .map(Some)
            .ok_or_else(|| MetadataError::WrongType {
                key: key.to_owned(),
                expected,
                found: describe(value),
            })
    }

    fn integer<T: TryFrom<i128>>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, MetadataError> {
        self.convert(key, expected, |value| T::try_from(value.as_integer()?).ok())
    }

    fn integers<T: TryFrom<i128>>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<Vec<T>>, MetadataError> {
        self.convert(key, expected, |value| {
            value
                .as_array()?
                .integers()?
                .map(|element| T::try_from(element).ok())
                .collect()
        })
    }

    /// A string that must be UTF-8.
    ///
    /// # Errors
    /// Not a string, or not UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&str>, MetadataError> {
        self.convert(key, STR, |value| match value {
            Value::String(text) => text.to_str().ok(),
            _ => None,
        })
    }

    /// A bool, or an integer that is 0 or 1.
    ///
    /// # Errors
    /// Any other value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, MetadataError> {
        self.convert(key, BOOL, |value| match value {
            Value::Bool(flag) => Some(*flag),
            other => match other.as_integer()? {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            },
        })
    }

    /// A float of either width, rounded to f32.
    ///
    /// # Errors
    /// Not a float.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, MetadataError> {
        self.convert(key, F32, |value| value.as_float().map(|float| float as f32))
    }

    /// A float of either width.
    ///
    /// # Errors
    /// Not a float.
    pub fn f64(&self, key: &str) -> Result<Option<f64>, MetadataError> {
        self.convert(key, F64, Value::as_float)
    }

    /// The array of floats of either width, rounded to f32.
    ///
    /// # Errors
    /// Not an array of floats.
    pub fn f32_array(&self, key: &str) -> Result<Option<Vec<f32>>, MetadataError> {
        self.convert(key, F32_ARRAY, |value| match value.as_array()? {
            Array::F32(elements) => Some(elements.clone()),
            Array::F64(elements) => Some(elements.iter().map(|&element| element as f32).collect()),
            _ => None,
        })
    }

    /// The array of bools, or of integers that are all 0 or 1.
    ///
    /// # Errors
    /// Any other value.
    pub fn bool_array(&self, key: &str) -> Result<Option<Vec<bool>>, MetadataError> {
        self.convert(key, BOOL_ARRAY, |value| match value.as_array()? {
            Array::Bool(flags) => Some(flags.clone()),
            other => other
                .integers()?
                .map(|element| match element {
                    0 => Some(false),
                    1 => Some(true),
                    _ => None,
                })
                .collect(),
        })
    }

    /// The array of strings.
    ///
    /// # Errors
    /// Not an array of strings.
    pub fn string_array(&self, key: &str) -> Result<Option<&[GgufString]>, MetadataError> {
        self.convert(key, STRING_ARRAY, |value| match value.as_array()? {
            Array::String(elements) => Some(elements.as_slice()),
            _ => None,
        })
    }
}

const STR: &str = "a UTF-8 string";
const BOOL: &str = "a bool";
const F32: &str = "a float";
const F64: &str = "a float";
const F32_ARRAY: &str = "an array of floats";
const BOOL_ARRAY: &str = "an array of bools";
const STRING_ARRAY: &str = "an array of strings";
const U32: &str = "an integer from 0 to 2^32-1";
const I32: &str = "an integer from -2^31 to 2^31-1";
const U64: &str = "an integer of at least 0";
const I64: &str = "an integer up to 2^63-1";
const U32_ARRAY: &str = "an array of integers from 0 to 2^32-1";
const I32_ARRAY: &str = "an array of integers from -2^31 to 2^31-1";
const U64_ARRAY: &str = "an array of integers of at least 0";

macro_rules! integer_getters {
    ($($name:ident -> $rust:ty, $expected:ident, $doc:literal;)*) => {
        impl Metadata {
            $(
                #[doc = $doc]
                ///
                /// # Errors
                /// Another type, or a value that does not fit.
                pub fn $name(&self, key: &str) -> Result<Option<$rust>, MetadataError> {
                    self.integer(key, $expected)
                }
            )*
        }
    };
}

integer_getters! {
    u32 -> u32, U32, "An integer of any width that fits u32.";
    i32 -> i32, I32, "An integer of any width that fits i32.";
    u64 -> u64, U64, "An integer of any width that fits u64.";
    i64 -> i64, I64, "An integer of any width that fits i64.";
}

macro_rules! integer_array_getters {
    ($($name:ident -> $rust:ty, $expected:ident, $doc:literal;)*) => {
        impl Metadata {
            $(
                #[doc = $doc]
                ///
                /// # Errors
                /// A scalar, another element type, or an element that does not fit.
                pub fn $name(&self, key: &str) -> Result<Option<Vec<$rust>>, MetadataError> {
                    self.integers(key, $expected)
                }
            )*
        }
    };
}

integer_array_getters! {
    u32_array -> u32, U32_ARRAY, "The array of integers of any width that fit u32.";
    i32_array -> i32, I32_ARRAY, "The array of integers of any width that fit i32.";
    u64_array -> u64, U64_ARRAY, "The array of integers of any width that fit u64.";
}

macro_rules! required_getters {
    ($($required:ident, $optional:ident -> $rust:ty, $expected:ident;)*) => {
        impl Metadata {
            $(
                #[doc = concat!("Like [`Metadata::", stringify!($optional), "`] for a key that must be there.")]
                ///
                /// # Errors
                /// The key is absent, or its value is of another type.
                pub fn $required(&self, key: &str) -> Result<$rust, MetadataError> {
                    self.$optional(key)?.ok_or_else(|| MetadataError::Missing {
                        key: key.to_owned(),
                        expected: $expected,
                    })
                }
            )*
        }
    };
}

required_getters! {
    require_u32, u32 -> u32, U32;
    require_i32, i32 -> i32, I32;
    require_u64, u64 -> u64, U64;
    require_i64, i64 -> i64, I64;
    require_f32, f32 -> f32, F32;
    require_f64, f64 -> f64, F64;
    require_bool, bool -> bool, BOOL;
    require_str, str -> &str, STR;
    require_u32_array, u32_array -> Vec<u32>, U32_ARRAY;
    require_i32_array, i32_array -> Vec<i32>, I32_ARRAY;
    require_u64_array, u64_array -> Vec<u64>, U64_ARRAY;
    require_f32_array, f32_array -> Vec<f32>, F32_ARRAY;
    require_bool_array, bool_array -> Vec<bool>, BOOL_ARRAY;
    require_string_array, string_array -> &[GgufString], STRING_ARRAY;
}

/// Longest piece of a value quoted in an error message.
const QUOTED_CHARS: usize = 40;

/// The type of a value and the start of the value itself, on one line whatever the file says.
fn describe(value: &Value) -> String {
    let whole = value.to_string();
    let mut chars = whole.chars();
    let start: String = chars.by_ref().take(QUOTED_CHARS).collect();
    let more = if chars.next().is_some() { "..." } else { "" };
    format!("{} {}{more}", value.type_name(), start.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut metadata = Metadata::new();
        metadata.insert("u8", 200_u8);
        metadata.insert("i64", -1_i64);
        metadata.insert("large", u64::MAX);
        metadata.insert("f32", 0.5_f32);
        metadata.insert("f64", 0.25_f64);
        metadata.insert("flag", true);
        metadata.insert("text", "words");
        metadata.insert("broken", GgufString::from(&[0xff_u8][..]));
        metadata.insert("i16s", vec![0_i16, 1]);
        metadata.insert("f64s", vec![0.5_f64]);
        metadata.insert("texts", vec!["a", "b"]);
        metadata.insert("long", "x".repeat(100));
        metadata.insert("lines", vec!["a\nb"]);
        metadata
    }

    #[test]
    fn integers_convert_when_nothing_is_lost() {
        let metadata = sample();
        assert_eq!(metadata.u32("u8"), Ok(Some(200)));
        assert_eq!(metadata.i32("i64"), Ok(Some(-1)));
        assert_eq!(metadata.u64("large"), Ok(Some(u64::MAX)));
        assert_eq!(metadata.u32_array("i16s"), Ok(Some(vec![0, 1])));
        assert_eq!(metadata.bool_array("i16s"), Ok(Some(vec![false, true])));
        assert_eq!(metadata.f32("f64"), Ok(Some(0.25)));
        assert_eq!(metadata.f32_array("f64s"), Ok(Some(vec![0.5])));
        assert_eq!(metadata.bool("flag"), Ok(Some(true)));
        assert_eq!(metadata.u32("absent"), Ok(None));
    }

    #[test]
    fn what_does_not_convert_is_named() {
        let metadata = sample();
        let errors = [
            (
                metadata.u32("i64").unwrap_err(),
                "`i64`: expected an integer from 0 to 2^32-1, found i64 -1",
            ),
            (
                metadata.i64("large").unwrap_err(),
                "found u64 18446744073709551615",
            ),
            (metadata.u32("f32").unwrap_err(), "found f32 0.5"),
            (
                metadata.f32("u8").unwrap_err(),
                "expected a float, found u8 200",
            ),
            (
                metadata.bool("u8").unwrap_err(),
                "expected a bool, found u8 200",
            ),
            (
                metadata.str("broken").unwrap_err(),
                "expected a UTF-8 string, found string",
            ),
            (
                metadata.str("u8").unwrap_err(),
                "expected a UTF-8 string, found u8 200",
            ),
            (
                metadata.u32_array("u8").unwrap_err(),
                "expected an array of integers",
            ),
            (
                metadata.string_array("i16s").unwrap_err(),
                "found array of i16 [0, 1]",
            ),
            (metadata.u32("long").unwrap_err(), "xxx..."),
            (
                metadata.u32("lines").unwrap_err(),
                "found array of strings [a\\nb]",
            ),
            (
                metadata.require_u32("absent").unwrap_err(),
                "metadata key `absent` is missing",
            ),
        ];
        for (error, wanted) in errors {
            assert!(
                error.to_string().contains(wanted),
                "no `{wanted}` in `{error}`"
            );
        }
    }

    #[test]
    fn keys_keep_their_order() {
        let mut metadata = sample();
        let before: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
        assert_eq!(metadata.insert("f32", 7_u8), Some(Value::F32(0.5)));
        assert_eq!(metadata.remove("flag"), Some(Value::Bool(true)));
        assert_eq!(metadata.remove("flag"), None);
        metadata.insert("flag", false);
        let after: Vec<&str> = metadata.iter().map(|(key, _)| key).collect();
        let mut wanted: Vec<&str> = before
            .iter()
            .map(String::as_str)
            .filter(|key| *key != "flag")
            .collect();
        wanted.push("flag");
        assert_eq!(after, wanted);
        for key in wanted {
            assert!(metadata.get(key).is_some(), "{key} is lost");
        }
        assert_eq!(metadata.str("text"), Ok(Some("words")));
    }
}
