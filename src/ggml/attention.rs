//! Attention that our own kernels compute on the CPU: one custom node, or two where few queries look at many keys.

use std::ffi::{c_int, c_void};

use ggml_sys as sys;

use super::graph::{Builder, Tensor, dtype_of};
use super::ops::{contiguous, dense_rows, ensure, is};
use super::products::{Raw, is_host, share};
use super::{DType, GraphError};
use crate::kernels::attention::{
    self, Attention, BLOCK_ROWS, CHUNK, Kernel, Latents, Stored, Vectors, Way, attend,
    attend_parts, join_parts,
};
use crate::kernels::{FEW_COLUMNS, Rounding, Share};

type Result<T> = std::result::Result<T, GraphError>;

/// From this many heads on, those that share a key fill a block. Fewer are faster along, measured for single tokens.
const MANY_HEADS: i64 = BLOCK_ROWS as i64;
/// From this many blocks of queries on, threads have enough to do without dividing the keys.
const MANY_BLOCKS: usize = 8;

/// Whether our kernel computes attention over rows of this type in the memory of this machine.
pub fn attends(rows: DType) -> bool {
    attention::best().is_some() && stored(rows).is_some()
}

impl<'g> Builder<'g> {
    /// Whether our kernel can read these keys and values: their types, their place, this machine.
    pub fn can_attend(&self, k: Tensor<'g>, v: Tensor<'g>) -> bool {
        attends(k.dtype()) && k.dtype() == v.dtype() && is_host(k) && is_host(v)
    }

    /// `softmax(scale * k q + mask) v`: `{v_width, heads, tokens, sequences}`.
    ///
    /// `q {width, tokens, heads, sequences}` is F32; `k` and `v {width, rows, shared, sequences}` are alike, of F16, BF16
    /// or F32, and neighbouring heads share one; `mask {rows, tokens, 1, sequences}` is F16. Up to [`FEW_COLUMNS`]
    /// tokens, and any number if they are to be as alone, get the same bits together and alone.
    pub fn attend(
        &self,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        mask: Tensor<'g>,
        scale: f32,
        rounding: Rounding,
    ) -> Result<Tensor<'g>> {
        self.ensure_attends(q, k, v, mask)?;
        let ([_, tokens, heads, seqs], [_, rows, shared, _]) = (q.ne(), k.ne());
        let few = tokens <= FEW_COLUMNS as i64;
        let alone = few || rounding == Rounding::Alone;
        let way = if alone && heads / shared < MANY_HEADS {
            Way::Along
        } else {
            Way::Across
        };
        let info = Info { scale, way }.number();
        let mut sources = [q, k, v, mask].map(|t| t.raw.as_ptr());
        let out = (DType::F32, [v.ne()[0], heads, tokens, seqs]);
        // SAFETY: the tensors are valid; addresses are not followed.
        let a = unsafe { attention_of(&sources, info) };
        if rows <= CHUNK as i64 || a.all_blocks() >= MANY_BLOCKS {
            return self.node("ATTENTION", out, &mut sources, whole_node, info);
        }
        let len = attention::parts_len(&a).and_then(|n| i64::try_from(n).ok());
        let Some(len) = len.filter(|n| *n < i64::MAX / 8) else {
            ensure(false, "attend", "the parts fit an address", &[q, k])?;
            return Ok(q);
        };
        let parts = (DType::F32, [len, 1, 1, 1]);
        let parts = self.node("ATTENTION_PARTS", parts, &mut sources, parts_node, info)?;
        let [q, k, v, mask] = sources;
        let mut sources = [q, k, v, mask, parts.raw.as_ptr()];
        self.node("ATTENTION_JOIN", out, &mut sources, join_node, info)
    }

    /// Whether our kernel can make keys and values of these rows' latents: their type and place, and widths that are
    /// multiples of 16. `k {key, latent, heads}` and `v {latent, value, heads}` are weights.
    pub fn can_attend_latents(&self, rows: Tensor<'g>, k: Tensor<'g>, v: Tensor<'g>) -> bool {
        let (row, [key, latent, ..], [_, value, ..]) = (rows.ne()[0], k.ne(), v.ne());
        self.can_attend(rows, rows)
            && [k, v].into_iter().all(|w| is_host(w) && contiguous(w))
            && [row, key, latent, value].iter().all(|n| n % 16 == 0)
    }

    /// Attention over latents: row `r` gives head `h` the key `k[h] latent | end` and the value `v[h] latent`. Gives
    /// `{value, heads, tokens, sequences}`.
    ///
    /// `q {key + end, tokens, heads, sequences}` is F32; `rows {latent + end, rows, 1, sequences}` and the weights are as
    /// [`Self::can_attend_latents`] takes them; `mask` and `scale` are those of [`Self::attend`]. Keys and values are made
    /// for every row: that pays from some hundreds of tokens on.
    pub fn attend_latents(
        &self,
        q: Tensor<'g>,
        rows: Tensor<'g>,
        (k, v): (Tensor<'g>, Tensor<'g>),
        mask: Tensor<'g>,
        scale: f32,
    ) -> Result<Tensor<'g>> {
        self.ensure_attends_latents(q, rows, (k, v))?;
        self.ensure_mask(q, rows, mask)?;
        let (k, v) = (self.decoded(k)?, self.decoded(v)?);
        let [_, tokens, heads, seqs] = q.ne();
        let out = (DType::F32, [v.ne()[1], heads, tokens, seqs]);
        let way = Way::Across;
        let info = Info { scale, way }.number();
        let mut sources = [q, rows, rows, mask, k, v].map(|t| t.raw.as_ptr());
        self.node("ATTENTION_LATENTS", out, &mut sources, latents_node, info)
    }

    fn ensure_attends_latents(
        &self,
        q: Tensor<'g>,
        rows: Tensor<'g>,
        (k, v): (Tensor<'g>, Tensor<'g>),
    ) -> Result<()> {
        let (a, row) = (q.ne(), rows.ne());
        let ([key, latent, heads, one], values) = (k.ne(), v.ne());
        ensure(
            a.iter().chain(&row).chain(&values).all(|n| *n > 0)
                && row[0] >= latent
                && a[0] == key + row[0] - latent
                && (a[2], row[2], one) == (heads, 1, 1)
                && (values[0], values[2], values[3]) == (latent, heads, 1)
                && a[3] == row[3],
            "attend_latents",
            "q, rows and matrices agree in widths, heads and sequences",
            &[q, rows, k, v],
        )?;
        ensure(
            self.can_attend_latents(rows, k, v) && is(q, DType::F32) && dense_rows(q),
            "attend_latents",
            "q is F32 with dense rows, rows and matrices have a kernel",
            &[q, rows, k, v],
        )?;
        ensure(
            dense_rows(rows),
            "attend_latents",
            "rows are dense",
            &[rows],
        )
    }

    fn ensure_mask(&self, q: Tensor<'g>, k: Tensor<'g>, mask: Tensor<'g>) -> Result<()> {
        let (a, b) = (q.ne(), k.ne());
        ensure(
            is(mask, DType::F16) && contiguous(mask) && mask.ne() == [b[1], a[1], 1, a[3]],
            "attend",
            "the mask is F16 and covers the scores",
            &[q, k, mask],
        )
    }

    fn ensure_attends(
        &self,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        mask: Tensor<'g>,
    ) -> Result<()> {
        let (a, b, c) = (q.ne(), k.ne(), v.ne());
        let all = [a, b, c].iter().flatten().all(|n| *n > 0);
        ensure(
            all && a[0] == b[0]
                && a[2] % b[2] == 0
                && (b[1], b[2], b[3]) == (c[1], c[2], c[3])
                && a[3] == b[3],
            "attend",
            "q, k and v agree in width, heads, rows and sequences",
            &[q, k, v],
        )?;
        ensure(
            self.can_attend(k, v) && is(q, DType::F32) && [q, k, v].into_iter().all(dense_rows),
            "attend",
            "q is F32, k and v have a kernel, rows are dense",
            &[q, k, v],
        )?;
        self.ensure_mask(q, k, mask)
    }
}

fn stored(ty: DType) -> Option<Stored> {
    match ty {
        DType::F16 => Some(Stored::F16),
        DType::BF16 => Some(Stored::Bf16),
        DType::F32 => Some(Stored::F32),
        _ => None,
    }
}

/// What a node must know beyond its operands, as a number that is never zero.
#[derive(Clone, Copy)]
struct Info {
    scale: f32,
    way: Way,
}

impl Info {
    /// The scale in the upper half: machines with a kernel have addresses of 64 bits.
    fn number(self) -> usize {
        let way = 1 + u64::from(self.way == Way::Across);
        (u64::from(self.scale.to_bits()) << 32 | way) as usize
    }

    fn of(number: usize) -> Self {
        let number = number as u64;
        Self {
            scale: f32::from_bits((number >> 32) as u32),
            way: if number & 3 == 2 {
                Way::Across
            } else {
                Way::Along
            },
        }
    }
}

/// The attention over some operands, whose shapes were checked.
///
/// # Safety
/// They are valid tensors.
unsafe fn attention_of(sources: &[Raw], info: usize) -> Attention {
    // SAFETY: the caller's word.
    let [q, k, v, mask] = std::array::from_fn(|i| unsafe { &*sources[i] });
    let Info { scale, way } = Info::of(info);
    Attention {
        q: vectors(q),
        k: vectors(k),
        v: vectors(v),
        stored: dtype_of(k).and_then(stored).unwrap_or(Stored::F32),
        mask: mask.data.cast_const().cast(),
        n_keys: k.ne[1] as usize,
        n_heads: q.ne[2] as usize,
        n_key_heads: k.ne[2] as usize,
        n_tokens: q.ne[1] as usize,
        n_seqs: q.ne[3] as usize,
        scale,
        way,
        latents: None,
    }
}

fn vectors(x: &sys::ggml_tensor) -> Vectors {
    Vectors {
        data: x.data.cast_const().cast(),
        token: x.nb[1],
        head: x.nb[2],
        seq: x.nb[3],
        width: x.ne[0] as usize,
    }
}

/// A node at work: who computes it, its attention, its result and this thread's share.
///
/// # Safety
/// `to` is a node of [`Builder::attend`] in a graph that is being computed.
unsafe fn work(
    to: Raw,
    index: c_int,
    of: c_int,
    info: *mut c_void,
) -> Option<(&'static Kernel, Attention, *mut f32, Share)> {
    let kernel = attention::best()?;
    // SAFETY: the caller's word.
    unsafe {
        let to = &*to;
        let a = attention_of(&to.src[..4], info.addr());
        Some((kernel, a, to.data.cast(), share(index, of)))
    }
}

unsafe extern "C" fn whole_node(to: Raw, index: c_int, of: c_int, info: *mut c_void) {
    // SAFETY: ggml computes this node; its operands were checked when it was made, and each thread has its share.
    unsafe {
        if let Some((kernel, a, out, share)) = work(to, index, of, info) {
            attend(kernel, &a, out, share);
        }
    }
}

unsafe extern "C" fn latents_node(to: Raw, index: c_int, of: c_int, info: *mut c_void) {
    // SAFETY: as above; sources 4 and 5 are the matrices, decoded.
    unsafe {
        if let Some((kernel, a, out, share)) = work(to, index, of, info) {
            let [k, v] = std::array::from_fn(|i| &*(*to).src[4 + i]);
            let a = Attention {
                k: Vectors { head: 0, ..a.k },
                v: Vectors {
                    width: v.ne[1] as usize,
                    ..a.v
                },
                n_key_heads: a.n_heads,
                latents: Some(Latents {
                    k: k.data.cast_const().cast(),
                    v: v.data.cast_const().cast(),
                    width: k.ne[1] as usize,
                    key: k.ne[0] as usize,
                }),
                ..a
            };
            attend(kernel, &a, out, share);
        }
    }
}

unsafe extern "C" fn parts_node(to: Raw, index: c_int, of: c_int, info: *mut c_void) {
    // SAFETY: as above; the result has room for all parts.
    unsafe {
        if let Some((kernel, a, parts, share)) = work(to, index, of, info) {
            attend_parts(kernel, &a, parts, share);
        }
    }
}

unsafe extern "C" fn join_node(to: Raw, index: c_int, of: c_int, info: *mut c_void) {
    // SAFETY: as above; source 4 holds what `parts_node` wrote for the same operands.
    unsafe {
        if let Some((kernel, a, out, share)) = work(to, index, of, info) {
            let parts = (*(*to).src[4]).data.cast_const().cast();
            join_parts(kernel, &a, parts, out, share);
        }
    }
}
