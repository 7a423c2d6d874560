//! Products that our own kernels compute on the CPU: custom nodes of a graph.
//!
//! A node runs on ggml's threads like any other. What it needs to know beyond its operands travels in the pointer that
//! ggml hands to its function, as a number.

use std::ffi::c_int;
use std::ptr::NonNull;

use ggml_sys as sys;

use super::graph::{Builder, Tensor};
use super::ops::{contiguous, ensure, is};
use super::store::set_name;
use super::{DType, GraphError};
use crate::kernels::{
    self, Columns, Experts, Format, Isa, Layout, Lists, Record, Rounding, Rows, Share,
};

type Result<T> = std::result::Result<T, GraphError>;
pub(super) type Raw = *mut sys::ggml_tensor;

/// Activations as our kernels read them.
#[derive(Debug, Clone, Copy)]
pub struct Quantized<'g> {
    records: Tensor<'g>,
    layout: Layout,
    width: i64,
    columns: i64,
}

/// A matrix that has a kernel, or one for each expert.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'g> {
    tensor: Tensor<'g>,
    format: Format,
}

impl<'g> Matrix<'g> {
    /// Whether `tensor` has a kernel here: its type, its place, this machine. `planes` says that it holds binary planes.
    pub fn new(tensor: Tensor<'g>, planes: bool) -> Option<Self> {
        let format = match (tensor.dtype(), planes) {
            (DType::IQ4_NL, false) => Format::Iq4Nl,
            (DType::Q4_0, false) => Format::Q4_0,
            (DType::Q8_0, false) => Format::Q8_0,
            (DType::Q2_K, false) => Format::Q2K,
            (DType::Q3_K, false) => Format::Q3K,
            (DType::Q4_K, false) => Format::Q4K,
            (DType::Q5_K, false) => Format::Q5K,
            (DType::Q6_K, false) => Format::Q6K,
            (DType::Q1_0, true) => Format::Planes,
            _ => return None,
        };
        let matrix = Self { tensor, format };
        let width = matrix.width();
        let [_, rows, experts, one] = tensor.ne();
        let whole = width > 0 && width % format.block() as i64 == 0 && rows > 0 && experts > 0;
        let dense = tensor.nb()[1] >= format.row_bytes(usize::try_from(width).ok()?);
        let chosen = kernels::best().is_some_and(|isa| isa.is_for(format));
        let known = chosen && is_host(tensor) && whole && dense && one == 1;
        known.then_some(matrix)
    }

    /// What its activations must look like.
    pub fn layout(&self) -> Layout {
        self.format.layout()
    }

    /// Weights in a row.
    pub fn width(&self) -> i64 {
        let stored = self.tensor.ne()[0];
        if self.format == Format::Planes {
            stored / 2
        } else {
            stored
        }
    }

    /// Whether `other` has the same format and shape.
    pub fn is_like(&self, other: &Self) -> bool {
        self.format == other.format && self.tensor.ne() == other.tensor.ne()
    }

    fn rows(&self) -> i64 {
        self.tensor.ne()[1]
    }

    fn experts(&self) -> i64 {
        self.tensor.ne()[2]
    }
}

impl<'g> Builder<'g> {
    /// `x {width, a, b}` F32 in 8 bits, for the matrices whose layout this is.
    pub fn quantize(&self, x: Tensor<'g>, layout: Layout) -> Result<Quantized<'g>> {
        ensure_kernels("quantize", x)?;
        ensure(
            is_columns(x) && x.ne()[0] % 32 == 0,
            "quantize",
            "x is F32 with dense columns of whole blocks",
            &[x],
        )?;
        let records = self.records(x, &mut [x.raw.as_ptr()], quantize_node, Ask::of(layout))?;
        Ok(quantized(records, layout, x))
    }

    /// `H (signs * x)` in 8 bits, for matrices of binary planes: `x {width, a, b}` F32, `signs {width}` F32, `H` the
    /// orthonormal Hadamard matrix in natural order.
    pub fn rotate_and_quantize(&self, x: Tensor<'g>, signs: Tensor<'g>) -> Result<Quantized<'g>> {
        ensure_kernels("rotate_and_quantize", x)?;
        let width = x.ne()[0];
        let power = u64::try_from(width).is_ok_and(|w| w.is_power_of_two() && w >= 128);
        let fits = signs.ne() == [width, 1, 1, 1] && is(signs, DType::F32) && contiguous(signs);
        ensure(
            is_columns(x) && power && fits,
            "rotate_and_quantize",
            "x is F32 with dense columns, a power of two wide, and has a sign for each number",
            &[x, signs],
        )?;
        let mut sources = [x.raw.as_ptr(), signs.raw.as_ptr()];
        let layout = Layout::Whole;
        let records = self.records(x, &mut sources, rotate_node, Ask::of(layout))?;
        Ok(quantized(records, layout, x))
    }

    /// `w x`: `{rows, columns}`.
    pub fn product(
        &self,
        w: Matrix<'g>,
        x: Quantized<'g>,
        rounding: Rounding,
    ) -> Result<Tensor<'g>> {
        self.ensure_fits("product", w, x)?;
        ensure(w.experts() == 1, "product", "w is one matrix", &[w.tensor])?;
        let mut sources = [w.tensor.raw.as_ptr(), x.records.raw.as_ptr()];
        let ne = [w.rows(), x.columns, 1, 1];
        self.node(
            "PRODUCT",
            (DType::F32, ne),
            &mut sources,
            product_node,
            Ask::new(w.format, rounding).0,
        )
    }

    /// `silu(gate x) * (up x)`: `{rows, columns}`.
    pub fn swiglu_product(
        &self,
        gate: Matrix<'g>,
        up: Matrix<'g>,
        x: Quantized<'g>,
        rounding: Rounding,
    ) -> Result<Tensor<'g>> {
        const OP: &str = "swiglu_product";
        self.ensure_fits(OP, gate, x)?;
        ensure(
            gate.is_like(&up) && gate.experts() == 1,
            OP,
            "gate and up are alike, one matrix each",
            &[gate.tensor, up.tensor],
        )?;
        let mut sources = [gate.tensor, x.records, up.tensor].map(|t| t.raw.as_ptr());
        let ne = [gate.rows(), x.columns, 1, 1];
        self.node(
            "PRODUCT_SWIGLU",
            (DType::F32, ne),
            &mut sources,
            swiglu_product_node,
            Ask::new(gate.format, rounding).0,
        )
    }

    /// The products with the matrices of chosen experts, `ids {n_used, n}` I32: `{rows, n_used, n}`. `x` has a column
    /// per token or one per choice.
    pub fn expert_products(
        &self,
        w: Matrix<'g>,
        x: Quantized<'g>,
        ids: Tensor<'g>,
        rounding: Rounding,
    ) -> Result<Tensor<'g>> {
        self.ensure_chosen("expert_products", w, x, ids)?;
        let mut sources = [
            w.tensor.raw.as_ptr(),
            x.records.raw.as_ptr(),
            ids.raw.as_ptr(),
        ];
        let ne = [w.rows(), ids.ne()[0], ids.ne()[1], 1];
        self.node(
            "EXPERTS",
            (DType::F32, ne),
            &mut sources,
            experts_node,
            Ask::new(w.format, rounding).0,
        )
    }

    /// `silu(gate x) * (up x)` with the matrices of chosen experts, `ids {n_used, n}`: `{rows, n_used, n}`.
    pub fn expert_swiglu(
        &self,
        gate: Matrix<'g>,
        up: Matrix<'g>,
        x: Quantized<'g>,
        ids: Tensor<'g>,
        rounding: Rounding,
    ) -> Result<Tensor<'g>> {
        self.ensure_chosen("expert_swiglu", gate, x, ids)?;
        ensure(
            gate.is_like(&up),
            "expert_swiglu",
            "gate and up are alike",
            &[gate.tensor, up.tensor],
        )?;
        let mut sources = [
            gate.tensor.raw.as_ptr(),
            x.records.raw.as_ptr(),
            ids.raw.as_ptr(),
            up.tensor.raw.as_ptr(),
        ];
        let ne = [gate.rows(), ids.ne()[0], ids.ne()[1], 1];
        self.node(
            "EXPERTS_SWIGLU",
            (DType::F32, ne),
            &mut sources,
            swiglu_node,
            Ask::new(gate.format, rounding).0,
        )
    }

    /// The products of each choice's column with its expert's matrix, times `weights {1, n_used, n}`, added up over a
    /// token's choices: `{rows, n}`.
    pub fn expert_sum(
        &self,
        w: Matrix<'g>,
        x: Quantized<'g>,
        ids: Tensor<'g>,
        weights: Tensor<'g>,
        rounding: Rounding,
    ) -> Result<Tensor<'g>> {
        self.ensure_chosen("expert_sum", w, x, ids)?;
        let [n_used, n, ..] = ids.ne();
        ensure(
            is(weights, DType::F32)
                && contiguous(weights)
                && weights.ne() == [1, n_used, n, 1]
                && x.columns == n_used * n,
            "expert_sum",
            "there is a column and a weight for each choice",
            &[x.records, ids, weights],
        )?;
        let mut sources = [
            w.tensor.raw.as_ptr(),
            x.records.raw.as_ptr(),
            ids.raw.as_ptr(),
            weights.raw.as_ptr(),
        ];
        let ne = [w.rows(), n, 1, 1];
        self.node(
            "EXPERTS_SUM",
            (DType::F32, ne),
            &mut sources,
            sum_node,
            Ask::new(w.format, rounding).0,
        )
    }

    fn ensure_fits(&self, op: &'static str, w: Matrix<'g>, x: Quantized<'g>) -> Result<()> {
        let fits = w.width() == x.width && w.layout() == x.layout;
        let rule = "x was quantised for matrices like w";
        ensure(fits, op, rule, &[w.tensor, x.records])
    }

    fn ensure_chosen(
        &self,
        op: &'static str,
        w: Matrix<'g>,
        x: Quantized<'g>,
        ids: Tensor<'g>,
    ) -> Result<()> {
        self.ensure_fits(op, w, x)?;
        let [n_used, n, a, b] = ids.ne();
        ensure(
            is(ids, DType::I32)
                && ids.nb()[0] == 4
                && a * b == 1
                && [n, n_used * n].contains(&x.columns),
            op,
            "ids are I32, one list per token, and x has a column per token or choice",
            &[x.records, ids],
        )?;
        self.ensure_bound(op, ids, w.experts())
    }

    fn records(
        &self,
        x: Tensor<'g>,
        sources: &mut [Raw],
        node: Node,
        ask: Ask,
    ) -> Result<Tensor<'g>> {
        let [width, a, b, _] = x.ne();
        let sizes = usize::try_from(width).ok().zip(usize::try_from(a * b).ok());
        let bytes = sizes.and_then(|(width, columns)| kernels::quantize_bytes(width, columns));
        let bytes = bytes.and_then(|b| i64::try_from(b).ok());
        let Some(bytes) = bytes else {
            let op = "quantize";
            return ensure(false, op, "the result fits an address", &[x]).map(|()| x);
        };
        self.node(
            "QUANTIZE",
            (DType::I8, [bytes, 1, 1, 1]),
            sources,
            node,
            ask.0,
        )
    }

    /// A node that `node` computes, on all threads. `info` is what it must know beyond its sources, and not zero.
    pub(super) fn node(
        &self,
        name: &str,
        (ty, ne): (DType, [i64; 4]),
        sources: &mut [Raw],
        node: Node,
        info: usize,
    ) -> Result<Tensor<'g>> {
        // SAFETY: the sources are tensors of this graph, at most as many as a node can have; the function reads them
        // as the operation that calls this has checked them. The last pointer is a number and never followed.
        let tensor = self.call(1, || unsafe {
            sys::ggml_custom_4d(
                self.ctx(),
                ty.id() as sys::ggml_type,
                ne[0],
                ne[1],
                ne[2],
                ne[3],
                sources.as_mut_ptr(),
                sources.len() as c_int,
                Some(node),
                sys::GGML_N_TASKS_MAX,
                std::ptr::without_provenance_mut(info),
            )
        })?;
        set_name(tensor.raw, name);
        Ok(tensor)
    }
}

fn ensure_kernels(op: &'static str, x: Tensor<'_>) -> Result<()> {
    let rule = "this machine has kernels";
    ensure(kernels::available(), op, rule, &[x])
}

/// Whether the bytes of a stored tensor, or of a view of one, are this machine's memory.
pub(super) fn is_host(tensor: Tensor<'_>) -> bool {
    // SAFETY: a valid tensor's `view_src` is null or a valid tensor; a buffer, if there is one, is alive with its tensor.
    unsafe {
        let root = NonNull::new(tensor.raw.as_ref().view_src).unwrap_or(tensor.raw);
        let buffer = root.as_ref().buffer;
        !buffer.is_null() && sys::ggml_backend_buffer_is_host(buffer)
    }
}

fn is_columns(x: Tensor<'_>) -> bool {
    let [width, a, b, one] = x.ne();
    is(x, DType::F32) && x.nb()[0] == 4 && width > 0 && a * b > 0 && one == 1
}

fn quantized<'g>(records: Tensor<'g>, layout: Layout, x: Tensor<'g>) -> Quantized<'g> {
    let [width, a, b, _] = x.ne();
    Quantized {
        records,
        layout,
        width,
        columns: a * b,
    }
}

/// What a node must know beyond its operands, as a number that is never zero.
#[derive(Clone, Copy)]
struct Ask(usize);

impl Ask {
    fn new(format: Format, rounding: Rounding) -> Self {
        let index = Format::ALL
            .iter()
            .position(|f| *f == format)
            .unwrap_or_default();
        Self(1 + index + if rounding == Rounding::Alone { 16 } else { 0 })
    }

    fn of(layout: Layout) -> Self {
        Self(1 + usize::from(layout == Layout::Whole))
    }

    fn format(self) -> Format {
        Format::ALL[(self.0 - 1) % 16 % Format::ALL.len()]
    }

    fn rounding(self) -> Rounding {
        if self.0 > 16 {
            Rounding::Alone
        } else {
            Rounding::Fast
        }
    }

    fn layout(self) -> Layout {
        if self.0 == 2 {
            Layout::Whole
        } else {
            Layout::Blocks
        }
    }
}

pub(super) type Node = unsafe extern "C" fn(Raw, c_int, c_int, *mut std::ffi::c_void);

/// A node at work: one thread's view of its tensors, whose shapes were checked when the graph was built.
struct Work<'t> {
    to: &'t sys::ggml_tensor,
    share: Share,
    ask: Ask,
    isa: &'static Isa,
}

impl<'t> Work<'t> {
    /// Nothing where there are no kernels, which building the graph has excluded.
    ///
    /// # Safety
    /// `to` is a node of a graph that is being computed.
    unsafe fn new(to: Raw, index: c_int, of: c_int, ask: *mut std::ffi::c_void) -> Option<Self> {
        Some(Self {
            // SAFETY: the caller's word.
            to: unsafe { &*to },
            share: share(index, of),
            ask: Ask(ask.addr()),
            isa: kernels::best()?,
        })
    }

    fn source(&self, i: usize) -> &'t sys::ggml_tensor {
        // SAFETY: the operation gave the node this many sources.
        unsafe { &*self.to.src[i] }
    }

    fn out(&self) -> *mut f32 {
        self.to.data.cast()
    }

    /// The rows of source `i`.
    fn rows(&self, i: usize) -> Rows {
        let (w, format) = (self.source(i), self.ask.format());
        let stored = w.ne[0] as usize;
        Rows {
            data: w.data.cast_const().cast(),
            stride: w.nb[1],
            n_rows: w.ne[1] as usize,
            width: if format == Format::Planes {
                stored / 2
            } else {
                stored
            },
            format,
        }
    }

    /// The columns of source 1, of the width of `rows`.
    fn columns(&self, rows: &Rows) -> Columns {
        let x = self.source(1);
        let per_column = kernels::record_stride(rows.width) * size_of::<Record>();
        Columns {
            data: first_record(x),
            n: (x.ne[0] as usize - align_of::<Record>()) / per_column,
            width: rows.width,
            rounding: self.ask.rounding(),
        }
    }

    /// The choices of source 2 among the matrices of source 0.
    fn experts(&self) -> Experts {
        let (w, ids) = (self.source(0), self.source(2));
        Experts {
            n_expert: w.ne[2] as usize,
            n_used: ids.ne[0] as usize,
            n_tokens: ids.ne[1] as usize,
            ids: ids.data.cast_const().cast(),
            ids_stride: ids.nb[1] / size_of::<i32>(),
            expert_stride: w.nb[2],
        }
    }

    /// Column `i` of source 0.
    fn numbers(&self, i: usize) -> &'t [f32] {
        let x = self.source(0);
        let (a, b) = (i % x.ne[1] as usize, i / x.ne[1] as usize);
        // SAFETY: the column is inside the tensor, its numbers are dense; nobody writes a source.
        unsafe {
            let first = x
                .data
                .cast_const()
                .cast::<u8>()
                .add(a * x.nb[1] + b * x.nb[2]);
            std::slice::from_raw_parts(first.cast(), x.ne[0] as usize)
        }
    }
}

pub(super) fn share(index: c_int, of: c_int) -> Share {
    Share {
        index: index as usize,
        of: of as usize,
    }
}

/// A contiguous tensor's rows of `n` numbers, which its type is as large as.
pub(super) fn lists<T>(x: &sys::ggml_tensor, n: i64) -> Lists<T> {
    Lists {
        data: x.data.cast(),
        n: n as usize,
    }
}

/// The numbers of a vector.
///
/// # Safety
/// It is F32 and contiguous, and nobody writes it.
pub(super) unsafe fn numbers(x: &sys::ggml_tensor) -> &[f32] {
    // SAFETY: the caller's word.
    unsafe { std::slice::from_raw_parts(x.data.cast_const().cast(), x.ne[0] as usize) }
}

/// Records are aligned inside the bytes that hold them, which have room for it.
fn first_record(x: &sys::ggml_tensor) -> *mut Record {
    let bytes: *mut u8 = x.data.cast();
    bytes
        .wrapping_add(bytes.align_offset(align_of::<Record>()))
        .cast()
}

unsafe extern "C" fn quantize_node(to: Raw, index: c_int, of: c_int, ask: *mut std::ffi::c_void) {
    // SAFETY: ggml computes this node; there is room for all records, and each thread has its share.
    unsafe {
        let Some(work) = Work::new(to, index, of, ask) else {
            return;
        };
        let x = work.source(0);
        let n = (x.ne[1] * x.ne[2]) as usize;
        let numbers = |i| work.numbers(i);
        work.isa.quantize(
            work.ask.layout(),
            x.ne[0] as usize,
            n,
            numbers,
            first_record(work.to),
            work.share,
        );
    }
}

unsafe extern "C" fn rotate_node(to: Raw, index: c_int, of: c_int, ask: *mut std::ffi::c_void) {
    // SAFETY: as above; there is a sign for each number.
    unsafe {
        let Some(work) = Work::new(to, index, of, ask) else {
            return;
        };
        let (x, signs) = (work.source(0), work.source(1));
        let signs = numbers(signs);
        let n = (x.ne[1] * x.ne[2]) as usize;
        work.isa.rotate_and_quantize(
            signs,
            n,
            |i| work.numbers(i),
            first_record(work.to),
            work.share,
        );
    }
}

unsafe extern "C" fn product_node(to: Raw, index: c_int, of: c_int, ask: *mut std::ffi::c_void) {
    // SAFETY: ggml computes this node; its operands were checked when it was made, and each thread has its share.
    unsafe {
        let Some(work) = Work::new(to, index, of, ask) else {
            return;
        };
        let rows = work.rows(0);
        work.isa
            .linear(&rows, &work.columns(&rows), work.out(), work.share);
    }
}

unsafe extern "C" fn swiglu_product_node(
    to: Raw,
    index: c_int,
    of: c_int,
    ask: *mut std::ffi::c_void,
) {
    // SAFETY: as above.
    unsafe {
        let Some(work) = Work::new(to, index, of, ask) else {
            return;
        };
        let (gate, up) = (work.rows(0), work.rows(2));
        let columns = work.columns(&gate);
        let all = Experts::single(columns.n);
        work.isa
            .swiglu_experts(&gate, &up, &all, &columns, work.out(), work.share);
    }
}

unsafe extern "C" fn experts_node(to: Raw, index: c_int, of: c_int, ask: *mut std::ffi::c_void) {
    // SAFETY: as above.
    unsafe {
        let Some(work) = Work::new(to, index, of, ask) else {
            return;
        };
        let rows = work.rows(0);
        work.isa.experts(
            &rows,
            &work.experts(),
            &work.columns(&rows),
            work.out(),
            work.share,
        );
    }
}

unsafe extern "C" fn swiglu_node(to: Raw, index: c_int, of: c_int, ask: *mut std::ffi::c_void) {
    // SAFETY: as above.
    unsafe {
        let Some(work) = Work::new(to, index, of, ask) else {
            return;
        };
        let (gate, up) = (work.rows(0), work.rows(3));
        work.isa.swiglu_experts(
            &gate,
            &up,
            &work.experts(),
            &work.columns(&gate),
            work.out(),
            work.share,
        );
    }
}

unsafe extern "C" fn sum_node(to: Raw, index: c_int, of: c_int, ask: *mut std::ffi::c_void) {
    // SAFETY: as above.
    unsafe {
        let Some(work) = Work::new(to, index, of, ask) else {
            return;
        };
        let rows = work.rows(0);
        let weights = work.source(3).data.cast_const().cast();
        work.isa.experts_sum(
            &rows,
            &work.experts(),
            &work.columns(&rows),
            weights,
            work.out(),
            work.share,
        );
    }
}
