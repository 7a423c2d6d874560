//! Arm: NEON with its 8-bit dot product (Armv8.2 with `dotprod`: Apple's M1, Cortex-A76, Neoverse N1 on), and with its
//! products of 8-bit matrices (`i8mm`: Apple's M2, Cortex-A715, Neoverse V1 on), which do twice as much at once.
//!
//! Both multiply signed with signed bytes, so weights enter as they are. Attention takes neither.

mod attention;
mod codes;
mod dot;
mod k_quants;
mod matrix_tile;
mod ops;
mod panel;
mod prepare;
mod tile;

use std::arch::is_aarch64_feature_detected;

pub use attention::ATTENTION;

use super::Format;
use super::activation::Order;
use super::isa::Isa;

/// With dot products.
pub static DOT: Isa = Isa {
    name: "NEON with dot product",
    available: has_dot,
    formats: &Format::ALL,
    some_dozens: &[],
    order: Order::ByBit,
    panel_rows: tile::PANEL_ROWS,
    tile_columns: tile::TILE_COLUMNS,
    dot: dot::dot,
    unpack: panel::unpack::<false>,
    tile: tile::tile,
    fill_records: prepare::fill_records,
    rotate: prepare::rotate,
    swiglu: prepare::swiglu,
    exponentials: prepare::exponentials,
    gated_norm: prepare::gated_norm,
};

/// With products of matrices for many columns.
pub static MATRIX: Isa = Isa {
    name: "NEON with dot product and products of matrices",
    available: has_matrix,
    unpack: panel::unpack::<true>,
    tile: matrix_tile::tile,
    ..DOT
};

fn has_dot() -> bool {
    is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod")
}

fn has_matrix() -> bool {
    has_dot() && is_aarch64_feature_detected!("i8mm")
}
