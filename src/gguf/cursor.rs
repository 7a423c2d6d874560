//! Bounded reading of the header. Nothing here takes memory in proportion to a number the file merely claims.

#![forbid(unsafe_code)]

use std::path::Path;

use super::error::{Field, GgufError};
use super::layout::{MAX_ARRAY_DEPTH, Violation};
use super::value::{Array, GgufString, Value, ValueType};

/// Elements reserved up front for lists whose elements vary in size. Longer lists grow as elements are really read.
const RESERVED_ELEMENTS: u64 = 1024;

/// A position in the bytes of one file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    path: &'a Path,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], path: &'a Path) -> Self {
        Self {
            bytes,
            position: 0,
            path,
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.path
    }

    pub(super) fn position(&self) -> u64 {
        self.position as u64
    }

    fn remaining(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    pub(super) fn invalid(
        &self,
        field: Field<'_>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> GgufError {
        GgufError::Invalid {
            path: self.path.to_owned(),
            field: field.to_string(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub(super) fn violation(&self, field: Field<'_>, violation: Violation) -> GgufError {
        self.invalid(field, violation.expected, violation.found)
    }

    pub(super) fn truncated(&self, field: Field<'_>, needed: u64) -> GgufError {
        GgufError::Truncated {
            path: self.path.to_owned(),
            field: field.to_string(),
            needed,
            size: self.bytes.len() as u64,
        }
    }

    /// The next `count` bytes.
    fn take(&mut self, count: u64, field: Field<'_>) -> Result<&'a [u8], GgufError> {
        if count > self.remaining() {
            return Err(self.truncated(field, self.position().saturating_add(count)));
        }
        let start = self.position;
        self.position += count as usize;
        Ok(&self.bytes[start..self.position])
    }

    fn array<const N: usize>(&mut self, field: Field<'_>) -> Result<[u8; N], GgufError> {
        match self.bytes[self.position..].first_chunk::<N>() {
            Some(chunk) => {
                self.position += N;
                Ok(*chunk)
            }
            None => Err(self.truncated(field, self.position().saturating_add(N as u64))),
        }
    }

    pub(super) fn u32(&mut self, field: Field<'_>) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: Field<'_>) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A count of things that take at least `min_bytes` each, refused when the rest of the file cannot hold them.
    fn count(&mut self, min_bytes: u64, field: Field<'_>) -> Result<u64, GgufError> {
        let count = self.u64(field)?;
        self.check_count(count, min_bytes, field)?;
        Ok(count)
    }

    /// Refuses a count of things that take at least `min_bytes` each when the rest of the file cannot hold them.
    pub(super) fn check_count(
        &self,
        count: u64,
        min_bytes: u64,
        field: Field<'_>,
    ) -> Result<(), GgufError> {
        let most = self.remaining() / min_bytes;
        if count > most {
            let expected = format!("at most {most}, as {} bytes are left", self.remaining());
            return Err(self.invalid(field, expected, count.to_string()));
        }
        Ok(())
    }

    /// The bytes of a string, with its length checked against the file and against `max_bytes`.
    pub(super) fn string(
        &mut self,
        max_bytes: u64,
        field: Field<'_>,
    ) -> Result<&'a [u8], GgufError> {
        let length = self.u64(field)?;
        if length > max_bytes {
            return Err(self.invalid(
                field,
                format!("at most {max_bytes} bytes"),
                format!("{length} bytes"),
            ));
        }
        self.take(length, field)
    }

    /// A value of the type whose tag comes first.
    pub(super) fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let value_type = self.value_type(Field::Key(key, "type"))?;
        let field = Field::Key(key, "value");
        Ok(match value_type {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.array(field)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.array(field)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.array(field)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.array(field)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(self.array(field)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.array(field)?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(self.array(field)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.array(field)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array(field)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array(field)?)),
            ValueType::Bool => {
                let [byte] = self.array(field)?;
                Value::Bool(self.bool(byte, field)?)
            }
            ValueType::String => Value::String(GgufString::from(self.string(u64::MAX, field)?)),
            ValueType::Array => Value::Array(self.array_value(key, 1)?),
        })
    }

    fn value_type(&mut self, field: Field<'_>) -> Result<ValueType, GgufError> {
        let id = self.u32(field)?;
        let last = ValueType::ALL.len() - 1;
        ValueType::from_id(id).ok_or_else(|| {
            self.invalid(
                field,
                format!("a value type from 0 to {last}"),
                id.to_string(),
            )
        })
    }

    fn bool(&self, byte: u8, field: Field<'_>) -> Result<bool, GgufError> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.invalid(field, "a bool, 0 or 1", other.to_string())),
        }
    }

    fn array_value(&mut self, key: &str, depth: usize) -> Result<Array, GgufError> {
        let field = Field::Key(key, "element type");
        if depth > MAX_ARRAY_DEPTH {
            let expected = format!("arrays nested at most {MAX_ARRAY_DEPTH} deep");
            return Err(self.invalid(Field::Key(key, "nesting"), expected, "deeper nesting"));
        }
        let element_type = self.value_type(field)?;
        let count = self.count(element_type.min_bytes(), Field::Key(key, "length"))?;
        let field = Field::Key(key, "value");

        /// Reads numbers of one size: the count is known to fit the file.
        macro_rules! numbers {
            ($variant:ident, $number:ty) => {{
                const SIZE: usize = size_of::<$number>();
                let bytes = self.take(count * SIZE as u64, field)?;
                let (chunks, _) = bytes.as_chunks::<SIZE>();
                Array::$variant(
                    chunks
                        .iter()
                        .map(|chunk| <$number>::from_le_bytes(*chunk))
                        .collect(),
                )
            }};
        }
        Ok(match element_type {
            ValueType::U8 => Array::U8(self.take(count, field)?.to_vec()),
            ValueType::I8 => numbers!(I8, i8),
            ValueType::U16 => numbers!(U16, u16),
            ValueType::I16 => numbers!(I16, i16),
            ValueType::U32 => numbers!(U32, u32),
            ValueType::I32 => numbers!(I32, i32),
            ValueType::U64 => numbers!(U64, u64),
            ValueType::I64 => numbers!(I64, i64),
            ValueType::F32 => numbers!(F32, f32),
            ValueType::F64 => numbers!(F64, f64),
            ValueType::Bool => {
                let bytes = self.take(count, field)?;
                let bools = bytes.iter().map(|&byte| self.bool(byte, field));
                Array::Bool(bools.collect::<Result<_, _>>()?)
            }
            ValueType::String => {
                let mut strings = Vec::with_capacity(reserved(count));
                for index in 0..count {
                    let bytes = self.string(u64::MAX, Field::Element(key, index, "value"))?;
                    strings.push(GgufString::from(bytes));
                }
                Array::String(strings)
            }
            ValueType::Array => {
                let mut arrays = Vec::with_capacity(reserved(count));
                for _ in 0..count {
                    arrays.push(self.array_value(key, depth + 1)?);
                }
                Array::Array(arrays)
            }
        })
    }
}

/// How many elements to reserve for a list that claims `count`.
pub(super) fn reserved(count: u64) -> usize {
    count.min(RESERVED_ELEMENTS) as usize
}
