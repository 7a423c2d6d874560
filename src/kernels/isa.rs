//! The kernels of each kind of machine, and the choice among them.

use std::ops::Range;
use std::sync::OnceLock;

use super::activation::Order;
use super::panel::Panel;
use super::{Format, Layout, Record, Rows};

type NormOfThree = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// Kernels for one kind of machine. Its functions may be called where [`Isa::is_available`].
#[derive(Debug)]
pub struct Isa {
    /// What the machine must have, in the makers' words.
    pub name: &'static str,
    pub(super) available: fn() -> bool,
    /// What they are chosen for. They can compute every format, but others do not leave ggml's behind, or were not measured.
    pub(super) formats: &'static [Format],
    /// Formats whose `dot` leaves tiles behind up to [`super::SOME_DOZENS`] of columns, with the bits of each alone.
    pub(super) some_dozens: &'static [Format],
    /// How it wants the numbers that meet planes.
    pub(super) order: Order,
    /// Rows of a panel.
    pub(super) panel_rows: usize,
    /// Columns of a tile.
    pub(super) tile_columns: usize,
    /// Few columns, or some dozens: `dot(rows, range, columns, out)` sets `out[column * range.len() + row - range.start]`.
    pub(super) dot: unsafe fn(&Rows, Range<usize>, &[*const Record], &mut [f32]),
    /// Many columns: `unpack(panel, rows, row, record)` takes the rows from `row` on and the records from `record` on, as
    /// many as fit and are there. Rows past the end repeat the last one.
    pub(super) unpack: unsafe fn(&mut Panel, &Rows, usize, usize),
    /// `tile(panel, columns, sums)` adds the products with up to `tile_columns` columns to `sums[column * panel_rows + row]`.
    /// A column starts at the panel's first record.
    pub(super) tile: unsafe fn(&Panel, &[*const Record], &mut [f32]),
    /// Fills records from numbers.
    pub(super) fill_records: unsafe fn(Order, Layout, &[f32], &mut [Record]),
    /// The orthonormal Hadamard transform of `x * signs`, in place.
    pub(super) rotate: unsafe fn(&mut [f32], &[f32]),
    /// `gate = silu(gate) * up`.
    pub(super) swiglu: unsafe fn(&mut [f32], &[f32]),
    /// `x = e^x`.
    pub(super) exponentials: unsafe fn(&mut [f32]),
    /// `gated_norm(y, w, gate, eps, out)`: `out = y / rms(y) * w * sigmoid(gate)`.
    pub(super) gated_norm: NormOfThree,
}

impl Isa {
    /// Whether this machine has what these kernels use.
    pub fn is_available(&self) -> bool {
        (self.available)()
    }

    /// Whether products with weights of this format are worth asking for.
    pub fn is_for(&self, format: Format) -> bool {
        self.formats.contains(&format)
    }
}

/// All kernels built for this architecture, the fastest first.
#[cfg(target_arch = "x86_64")]
const ALL: &[&Isa] = &[
    &super::avx512::ISA,
    &super::avx2::VNNI_512,
    &super::avx2::VNNI,
    &super::avx2::PLAIN,
];
/// All kernels built for this architecture, the fastest first.
#[cfg(target_arch = "aarch64")]
const ALL: &[&Isa] = &[&super::neon::MATRIX, &super::neon::DOT];
/// None are built for this architecture: ggml's compute everything.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ALL: &[&Isa] = &[];

/// All kernels built for this architecture, the fastest first.
pub fn all() -> &'static [&'static Isa] {
    ALL
}

/// The fastest kernels this machine can run.
pub fn best() -> Option<&'static Isa> {
    static BEST: OnceLock<Option<&Isa>> = OnceLock::new();
    *BEST.get_or_init(|| ALL.iter().find(|isa| isa.is_available()).copied())
}

/// Whether there are any.
pub fn available() -> bool {
    best().is_some()
}
