//! Values and header fields as bytes.

#![forbid(unsafe_code)]

use super::layout::{MAGIC, VERSION};
use super::types::TensorInfo;
use super::value::{Array, Value};

/// The first 24 bytes of a file.
pub(super) fn start(out: &mut Vec<u8>, tensor_count: usize, entry_count: usize) {
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((tensor_count as u64).to_le_bytes());
    out.extend((entry_count as u64).to_le_bytes());
}

/// Bytes that [`start`] writes.
pub(super) const START_BYTES: u64 = 24;

/// A metadata entry.
pub(super) fn entry(out: &mut Vec<u8>, key: &str, value: &Value) {
    string(out, key.as_bytes());
    out.extend(value.value_type().id().to_le_bytes());
    match value {
        Value::U8(number) => out.push(*number),
        Value::I8(number) => out.extend(number.to_le_bytes()),
        Value::U16(number) => out.extend(number.to_le_bytes()),
        Value::I16(number) => out.extend(number.to_le_bytes()),
        Value::U32(number) => out.extend(number.to_le_bytes()),
        Value::I32(number) => out.extend(number.to_le_bytes()),
        Value::U64(number) => out.extend(number.to_le_bytes()),
        Value::I64(number) => out.extend(number.to_le_bytes()),
        Value::F32(number) => out.extend(number.to_le_bytes()),
        Value::F64(number) => out.extend(number.to_le_bytes()),
        Value::Bool(flag) => out.push(u8::from(*flag)),
        Value::String(text) => string(out, text.as_bytes()),
        Value::Array(elements) => array(out, elements),
    }
}

fn array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.element_type().id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(numbers) => out.extend(numbers),
        Array::I8(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::U16(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::I16(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::U32(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::I32(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::U64(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::I64(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::F32(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::F64(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::Bool(flags) => out.extend(flags.iter().map(|&flag| u8::from(flag))),
        Array::String(texts) => texts.iter().for_each(|text| string(out, text.as_bytes())),
        Array::Array(arrays) => arrays.iter().for_each(|inner| self::array(out, inner)),
    }
}

/// A tensor entry, with the offset relative to the data section.
pub(super) fn tensor(out: &mut Vec<u8>, info: &TensorInfo, offset: u64) {
    string(out, info.name.as_bytes());
    out.extend((info.shape.n_dims() as u32).to_le_bytes());
    out.extend(
        info.shape
            .dims()
            .iter()
            .flat_map(|extent| extent.to_le_bytes()),
    );
    out.extend(info.ty.id().to_le_bytes());
    out.extend(offset.to_le_bytes());
}

/// Bytes that [`tensor`] writes.
pub(super) fn tensor_bytes(info: &TensorInfo) -> u64 {
    8 + info.name.len() as u64 + 4 + 8 * info.shape.n_dims() as u64 + 4 + 8
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}
