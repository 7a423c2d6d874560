//! AVX-512 with its 8-bit dot product (VNNI): Ice Lake and Zen 4 on (it takes VBMI as well).
//!
//! `vpdpbusd` multiplies unsigned with signed bytes, so weights enter as `w + 128`; records carry what takes it back.

pub(super) mod attention;
mod codes;
mod dot;
mod panel;
mod planes;
mod prepare;
mod tile;

pub use dot::dot;
pub use prepare::{fill_records, rotate, swiglu};
pub use tile::{PANEL_ROWS, Panel, TILE_COLUMNS, tile};

/// Whether this machine has what these kernels use.
pub fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
}
