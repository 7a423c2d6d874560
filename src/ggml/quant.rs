//! Conversion between F32 and any type ggml knows, and what a type can be used for.

use std::sync::Once;

use ggml_sys as sys;

use super::{DType, GgmlError};

/// Whether a matrix of this type can be multiplied and its rows decoded on the CPU.
pub fn usable_as_matrix(ty: DType) -> bool {
    let id = ty.id() as sys::ggml_type;
    // SAFETY: every DType is below GGML_TYPE_COUNT, so both tables have an entry, which is static.
    unsafe {
        let cpu = sys::ggml_get_type_traits_cpu(id);
        let base = sys::ggml_get_type_traits(id);
        let decodes = ty == DType::F32 || (!base.is_null() && (*base).to_float.is_some());
        decodes
            && !cpu.is_null()
            && (*cpu).vec_dot.is_some()
            && ty != DType::Q8_1
            && ty != DType::Q8_K
    }
}

/// Decodes rows of `n_per_row` elements to F32. `bytes` holds whole rows.
pub fn dequantize(
    ty: DType,
    bytes: &[u8],
    n_per_row: u64,
    out: &mut Vec<f32>,
) -> Result<(), GgmlError> {
    init();
    let wrong = |what| GgmlError::Type { ty, what };
    let row = ty
        .row_bytes(n_per_row)
        .filter(|&r| r > 0)
        .ok_or_else(|| wrong("split into rows of that length"))? as usize;
    if !bytes.len().is_multiple_of(row) {
        return Err(wrong("decoded from a partial row"));
    }
    let count = bytes.len() / row * n_per_row as usize;
    if ty == DType::F32 {
        out.extend(
            bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        );
        return Ok(());
    }
    // SAFETY: every DType is below GGML_TYPE_COUNT and the table entry is static.
    let decode = unsafe { sys::ggml_get_type_traits(ty.id() as sys::ggml_type).as_ref() }
        .and_then(|t| t.to_float)
        .ok_or_else(|| wrong("decoded"))?;
    // ggml reads blocks through struct pointers: give it aligned memory.
    let mut aligned = vec![0u64; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut::<u64, u8>(&mut aligned)[..bytes.len()].copy_from_slice(bytes);
    let start = out.len();
    out.resize(start + count, 0.0);
    // SAFETY: the source holds `count` elements in whole blocks; the destination has room for as many.
    unsafe {
        decode(
            aligned.as_ptr().cast(),
            out[start..].as_mut_ptr(),
            count as i64,
        )
    };
    Ok(())
}

/// Encodes rows of `n_per_row` F32 elements; appends to `out`. `importance` weighs columns, for the types that use it.
pub fn quantize(
    ty: DType,
    values: &[f32],
    n_per_row: u64,
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<(), GgmlError> {
    init();
    let wrong = |what| GgmlError::Type { ty, what };
    let width = usize::try_from(n_per_row)
        .ok()
        .filter(|&w| w > 0 && values.len().is_multiple_of(w))
        .ok_or_else(|| wrong("encoded from partial rows"))?;
    let row = ty
        .row_bytes(n_per_row)
        .ok_or_else(|| wrong("split into rows of that length"))? as usize;
    if importance.is_some_and(|i| i.len() != width) {
        return Err(wrong("encoded with importances of another length"));
    }
    let rows = values.len() / width;
    if !can_encode(ty) || (needs_importance(ty) && importance.is_none()) {
        return Err(wrong("encoded to (without an importance matrix)"));
    }
    let start = out.len();
    out.resize(start + rows * row, 0);
    let mut aligned = vec![0u64; (rows * row).div_ceil(8)];
    // SAFETY: source and destination hold `rows` rows of the stated sizes; the importance array has one row's length or is null.
    let written = unsafe {
        sys::ggml_quantize_chunk(
            ty.id() as sys::ggml_type,
            values.as_ptr(),
            aligned.as_mut_ptr().cast(),
            0,
            rows as i64,
            n_per_row as i64,
            importance.map_or(std::ptr::null(), <[f32]>::as_ptr),
        )
    };
    if written != rows * row {
        return Err(wrong("encoded to"));
    }
    let bytes: &[u8] = bytemuck::cast_slice(&aligned);
    out[start..].copy_from_slice(&bytes[..rows * row]);
    Ok(())
}

/// Whether rows can be encoded to this type, with an importance matrix where one is needed.
pub fn can_encode(ty: DType) -> bool {
    // SAFETY: every DType is below GGML_TYPE_COUNT and the table entry is static.
    let traits = unsafe { sys::ggml_get_type_traits(ty.id() as sys::ggml_type).as_ref() };
    match ty {
        DType::F32 | DType::F16 | DType::BF16 => true,
        // Formats of activations: ggml encodes them, but stores no weights in them.
        DType::Q8_1 | DType::Q8_K => false,
        _ => {
            ty.is_quantized()
                && (needs_search(ty) || traits.is_some_and(|t| t.from_float_ref.is_some()))
        }
    }
}

/// Whether ggml's encoder cannot work without an importance matrix.
pub fn needs_importance(ty: DType) -> bool {
    // SAFETY: the query takes any type id.
    unsafe { sys::ggml_quantize_requires_imatrix(ty.id() as sys::ggml_type) }
}

/// Types without a reference encoder that `ggml_quantize_chunk` still encodes, by search.
fn needs_search(ty: DType) -> bool {
    matches!(
        ty,
        DType::IQ2_XXS
            | DType::IQ2_XS
            | DType::IQ1_S
            | DType::IQ1_M
            | DType::IQ3_XXS
            | DType::IQ2_S
            | DType::IQ3_S
    )
}

/// ggml fills its F16 table when the first context is made.
fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = super::arena::Arena::new(1, 0);
    });
}
