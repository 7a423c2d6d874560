//! AVX2: x86-64 from Haswell and Zen on, without any 8-bit dot product.
//!
//! `vpmaddubsw` multiplies unsigned with signed bytes and adds pairs in 16 bits, where it saturates. So the weight gives its
//! size and the activation its sign: two products of at most 128 * 127 fit. Where weights are of 4 bits, their offset is
//! left in, and eight pairs fit.

mod codes;
mod dot;
mod panel;
mod planes;
mod prepare;
mod tile;

use super::activation::Order;
use super::isa::Isa;

/// These kernels.
pub static ISA: Isa = Isa {
    name: "AVX2 with FMA and F16C",
    available,
    order: Order::ByBit,
    panel_rows: tile::PANEL_ROWS,
    tile_columns: tile::TILE_COLUMNS,
    dot: dot::dot,
    unpack: panel::unpack,
    tile: tile::tile,
    fill_records: prepare::fill_records,
    rotate: prepare::rotate,
    swiglu: prepare::swiglu,
};

fn available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}
