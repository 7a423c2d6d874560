//! AVX-512 with its 8-bit dot product (VNNI): Ice Lake and Zen 4 on (it takes VBMI as well).
//!
//! `vpdpbusd` multiplies unsigned with signed bytes, so weights enter as `w + 128`; records carry what takes it back.

mod attention;
mod codes;
mod dot;
mod k_quants;
mod lanes;
mod panel;
mod planes;
mod prepare;
mod products;
mod quads;
mod sixteen;
mod tile;
mod units;

pub use attention::ATTENTION;

use super::Format;
use super::activation::Order;
use super::isa::Isa;

/// These kernels.
pub static ISA: Isa = Isa {
    name: "AVX-512 with VNNI and VBMI",
    available,
    formats: &[
        Format::Iq4Nl,
        Format::Q4_0,
        Format::Q8_0,
        Format::Planes,
        Format::Q3K,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
    ],
    some_dozens: &[Format::Iq4Nl, Format::Q4_0, Format::Q8_0],
    order: Order::Straight,
    panel_rows: tile::PANEL_ROWS,
    tile_columns: tile::TILE_COLUMNS,
    dot: dot::dot,
    unpack: panel::unpack,
    tile: tile::tile,
    fill_records: prepare::fill_records,
    rotate: prepare::rotate,
    swiglu: prepare::swiglu,
    exponentials: prepare::exponentials,
    gated_norm: prepare::gated_norm,
};

fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
}
