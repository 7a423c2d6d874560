//! AVX2: x86-64 from Haswell and Zen on.
//!
//! Where there is no 8-bit dot product, `vpmaddubsw` multiplies unsigned with signed bytes and adds pairs in 16 bits, where it saturates. So the weight gives its
//! size and the activation its sign: two products of at most 128 * 127 fit. Weights in digits of 4 bits, or of one, are
//! unsigned anyway, and all the pairs of a block fit; of those of 5 and 6 bits four and two steps do.

mod attention;
mod codes;
mod dot;
mod groups;
mod k_quants;
mod panel;
mod planes;
mod prepare;
mod tile;
mod vnni;

pub use attention::ATTENTION;

use super::Format;
use super::activation::Order;
use super::isa::Isa;

/// Without any 8-bit dot product.
pub static PLAIN: Isa = Isa {
    name: "AVX2 with FMA and F16C",
    available: has_avx2,
    // Not Q2_K, Q3_K and Q6_K: fewer tokens than fill a tile are slower than ggml's.
    formats: &[
        Format::Iq4Nl,
        Format::Q4_0,
        Format::Q8_0,
        Format::Planes,
        Format::Q4K,
        Format::Q5K,
    ],
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

/// With the dot product for many columns: Alder Lake on.
pub static VNNI: Isa = Isa {
    name: "AVX2 with AVX-VNNI",
    available: || has_avx2() && is_x86_feature_detected!("avxvnni"),
    unpack: panel::unpack::<true>,
    tile: vnni::short::tile,
    ..PLAIN
};

/// With the same instruction as AVX-512 encodes it: machines that have it without VBMI, as Cascade Lake.
pub static VNNI_512: Isa = Isa {
    name: "AVX2 with AVX-512's VNNI",
    available: || {
        has_avx2() && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl")
    },
    unpack: panel::unpack::<true>,
    tile: vnni::long::tile,
    ..PLAIN
};

fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}
