//! Multi-head latent attention: keys and values of all heads are one latent row per token, `c | k_pe`.
//!
//! Absorbed: `score = (k_b^T q_nope | q_pe) . (c | k_pe)`, `out_h = v_b[h] (softmax . c)`. Of many tokens, by making keys
//! and values: `score = (q_nope | q_pe) . (k_b c | k_pe)`, `out_h = softmax . (v_b[h] c)`.

use super::decoder::Mixer;
use crate::ggml::{DType, GraphError, Rope, Tensor, quantize};
use crate::memory::{MemorySpec, Reader, RowSpec};
use crate::model::loader::{Loader, Part, Role, WeightId};
use crate::model::step::{Heads, Mask, Span, Step};

/// From this many tokens of a sequence on keys and values are made. Making them is level with what it saves at
/// `latent (nope + value) / (2 latent - nope - value)`: 171 tokens of Ling-2.6-flash.
const MADE_FROM: u32 = 256;

/// Sizes of an MLA layer.
#[derive(Debug, Clone)]
pub struct MlaParams {
    /// Model width.
    pub n_embd: u32,
    /// Heads.
    pub n_head: u32,
    /// Width of the query's latent; `None` if queries come straight from the input.
    pub q_lora: Option<u32>,
    /// Width of the latent of keys and values.
    pub kv_lora: u32,
    /// Width of a head's part without rotation.
    pub nope: u32,
    /// Width of a head's rotated part.
    pub rope_dim: u32,
    /// Width of a value head.
    pub v_dim: u32,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Rotation.
    pub rope: Rope,
    /// Factor on the scores.
    pub scale: f32,
}

/// Where queries come from.
#[derive(Debug, Clone)]
enum Query {
    Direct(WeightId),
    LowRank {
        a: WeightId,
        norm: WeightId,
        b: WeightId,
    },
}

/// Weights of an MLA layer.
#[derive(Debug, Clone)]
pub struct Mla {
    params: MlaParams,
    query: Query,
    kv_a: WeightId,
    kv_a_norm: WeightId,
    k_b: WeightId,
    v_b: WeightId,
    out: WeightId,
    rows: String,
}

impl Mla {
    /// Names the tensors of block `layer` and asks for its rows. A fused `attn_kv_b` is split while loading.
    pub fn load(
        loader: &mut Loader<'_>,
        memory: &mut MemorySpec,
        params: &MlaParams,
        layer: u32,
    ) -> Self {
        let p = params;
        let part = Part::Layer(layer);
        let name = |suffix: &str| format!("blk.{layer}.{suffix}.weight");
        let (n_embd, heads, kv_lora) = (
            u64::from(p.n_embd),
            u64::from(p.n_head),
            u64::from(p.kv_lora),
        );
        let (nope, rope, v_dim) = (u64::from(p.nope), u64::from(p.rope_dim), u64::from(p.v_dim));
        let query = match p.q_lora.map(u64::from) {
            Some(rank) => Query::LowRank {
                a: loader.tensor(part, &name("attn_q_a"), &[n_embd, rank], Role::Matrix),
                norm: loader.tensor(part, &name("attn_q_a_norm"), &[rank], Role::Vector),
                b: loader.tensor(
                    part,
                    &name("attn_q_b"),
                    &[rank, heads * (nope + rope)],
                    Role::Matrix,
                ),
            },
            None => Query::Direct(loader.tensor(
                part,
                &name("attn_q"),
                &[n_embd, heads * (nope + rope)],
                Role::Matrix,
            )),
        };
        let (k_b, v_b) = if loader.has(&name("attn_k_b")) || !loader.has(&name("attn_kv_b")) {
            let k_b = loader.tensor(
                part,
                &name("attn_k_b"),
                &[nope, kv_lora, heads],
                Role::Matrix,
            );
            (
                k_b,
                loader.tensor(
                    part,
                    &name("attn_v_b"),
                    &[kv_lora, v_dim, heads],
                    Role::Matrix,
                ),
            )
        } else {
            split_kv_b(loader, p, layer)
        };
        let rows = format!("blk.{layer}.latent");
        memory.rows.push(RowSpec {
            name: rows.clone(),
            n_head: 1,
            head_width: kv_lora + rope,
            read_by: Some(Reader {
                n_head: heads,
                value_width: kv_lora,
                value_in_row: true,
            }),
            device: loader.device(part),
        });
        Self {
            params: p.clone(),
            query,
            kv_a: loader.tensor(
                part,
                &name("attn_kv_a_mqa"),
                &[n_embd, kv_lora + rope],
                Role::Matrix,
            ),
            kv_a_norm: loader.tensor(part, &name("attn_kv_a_norm"), &[kv_lora], Role::Vector),
            k_b,
            v_b,
            out: loader.tensor(
                part,
                &name("attn_output"),
                &[heads * v_dim, n_embd],
                Role::Matrix,
            ),
            rows,
        }
    }
}

impl Mixer for Mla {
    fn build<'g>(
        &self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
        mask: Mask,
    ) -> Result<Tensor<'g>, GraphError> {
        self.remember(s, x)?;
        let (g, p, n) = (s.g(), &self.params, s.n_tokens());
        let (heads, nope, rope) = (
            i64::from(p.n_head),
            i64::from(p.nope),
            i64::from(p.rope_dim),
        );
        let q = match &self.query {
            Query::Direct(q) => s.linear(*q, x)?,
            Query::LowRank { a, norm, b } => {
                s.linear(*b, s.norm(*norm, s.linear(*a, x)?, p.eps)?)?
            }
        };
        let q = g.reshape(q, &[nope + rope, heads, n])?;
        let q_pe = g.rope(g.columns(q, nope, rope)?, s.positions(), None, &p.rope)?;
        let q_nope = g.columns(q, 0, nope)?;

        let makes_keys = s.makes_keys(&self.rows, (self.k_b, self.v_b))?;
        let mut out: Option<Tensor<'g>> = None;
        for span in s.spans(|n_tokens| makes_keys && n_tokens >= MADE_FROM) {
            let q = (s.of_span(q_nope, &span)?, s.of_span(q_pe, &span)?);
            let part = match span.long {
                true => self.made(s, &span, q, mask)?,
                false => self.absorbed(s, &span, q, mask)?,
            };
            out = Some(match out {
                None => part,
                Some(before) => g.concat(before, part, 2)?,
            });
        }
        let out = out.ok_or(GraphError::Alloc {
            what: "attention over no tokens",
        })?;
        s.linear(self.out, g.reshape(out, &[i64::from(p.v_dim) * heads, n])?)
    }

    fn remember<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<(), GraphError> {
        let (g, p, n) = (s.g(), &self.params, s.n_tokens());
        let (kv_lora, rope) = (i64::from(p.kv_lora), i64::from(p.rope_dim));
        let kv = s.linear(self.kv_a, x)?;
        let latent = s.norm(self.kv_a_norm, g.columns(kv, 0, kv_lora)?, p.eps)?;
        let row = kv.nb()[1];
        let k_pe = g.view(
            kv,
            &[rope, 1, n],
            &[rope as usize * 4, row],
            kv_lora as usize * 4,
        )?;
        let k_pe = g.rope(k_pe, s.positions(), None, &p.rope)?;
        let row = g.concat(latent, g.reshape(k_pe, &[rope, n])?, 0)?;
        s.store_rows(&self.rows, row)
    }
}

impl Mla {
    /// A row of memory: the latent and what comes after it.
    fn row(&self) -> Heads<'_> {
        Heads {
            rows: &self.rows,
            n: 1,
            width: i64::from(self.params.kv_lora) + i64::from(self.params.rope_dim),
        }
    }

    /// Attention of the span's queries by keys and values of each head: `{v_dim, heads, tokens}`.
    fn made<'g>(
        &self,
        s: &Step<'g, '_>,
        span: &Span,
        (q_nope, q_pe): (Tensor<'g>, Tensor<'g>),
        mask: Mask,
    ) -> Result<Tensor<'g>, GraphError> {
        let g = s.g();
        let q = g.permute(g.concat(q_nope, q_pe, 0)?, [0, 2, 1, 3])?;
        let matrices = (self.k_b, self.v_b);
        s.attend_latents(span, q, self.row(), matrices, self.params.scale, mask)
    }

    /// The same by queries for latents.
    fn absorbed<'g>(
        &self,
        s: &Step<'g, '_>,
        span: &Span,
        (q_nope, q_pe): (Tensor<'g>, Tensor<'g>),
        mask: Mask,
    ) -> Result<Tensor<'g>, GraphError> {
        let g = s.g();
        let q_latent = self.per_head(s, self.k_b, q_nope)?;
        let q = g.concat(q_latent, g.permute(q_pe, [0, 2, 1, 3])?, 0)?;
        let values = Heads {
            width: i64::from(self.params.kv_lora),
            ..self.row()
        };
        let latent = s.attend_span(span, q, (self.row(), values), self.params.scale, mask)?;
        // A head's tokens side by side: ggml's products of F32 round otherwise where they are not.
        let latent = g.dense(latent)?;
        let out = self.per_head(s, self.v_b, g.permute(latent, [0, 2, 1, 3])?)?;
        g.dense(g.permute(out, [0, 2, 1, 3])?)
    }

    /// Each head's matrix times its part of `x`, whose axes are (width, head, token); gives (width, token, head).
    fn per_head<'g>(
        &self,
        s: &Step<'g, '_>,
        w: WeightId,
        x: Tensor<'g>,
    ) -> Result<Tensor<'g>, GraphError> {
        let (g, w) = (s.g(), s.weight(w)?);
        if !s.by_column(w) {
            return g.mul_mat(w, g.permute(x, [0, 2, 1, 3])?);
        }
        let ([width, heads, n, _], nb) = (x.ne(), x.nb());
        let columns = g.view(x, &[width, 1, heads, n], &[nb[1], nb[1], nb[2]], 0)?;
        let out = g.reshape(g.mul_mat(w, columns)?, &[w.ne()[1], heads, n])?;
        g.permute(out, [0, 2, 1, 3])
    }
}

/// Splits `attn_kv_b {kv_lora, heads * (nope + v)}` into the absorbed pair: keys transposed per head, values as they are.
/// F32 stays F32; other types become F16, since quantised blocks run along the axis that the transposition breaks up.
fn split_kv_b(loader: &mut Loader<'_>, p: &MlaParams, layer: u32) -> (WeightId, WeightId) {
    let part = Part::Layer(layer);
    let (kv_lora, nope, v_dim, heads) = (
        p.kv_lora as usize,
        p.nope as usize,
        p.v_dim as usize,
        p.n_head as usize,
    );
    let shape = [kv_lora as u64, (heads * (nope + v_dim)) as u64];
    let fused = loader.values(&format!("blk.{layer}.attn_kv_b.weight"), &shape);
    let Some((ty, values)) = fused else {
        return (WeightId::MISSING, WeightId::MISSING);
    };
    let (mut keys, mut vals) = (
        Vec::with_capacity(heads * nope * kv_lora),
        Vec::with_capacity(heads * v_dim * kv_lora),
    );
    for head in values.chunks_exact(kv_lora * (nope + v_dim)) {
        let (k, v) = head.split_at(kv_lora * nope);
        keys.extend((0..kv_lora).flat_map(|c| (0..nope).map(move |d| k[d * kv_lora + c])));
        vals.extend_from_slice(v);
    }
    let to = if ty == DType::F32 {
        DType::F32
    } else {
        DType::F16
    };
    let mut derive = |name: &str, values: &[f32], shape: [usize; 3]| {
        let mut bytes = Vec::new();
        // F32 and F16 always encode; an error would leave the tensor short, which loading reports.
        if let Err(e) = quantize(to, values, shape[0] as u64, None, &mut bytes) {
            tracing::error!("{e}");
        }
        loader.derived(
            part,
            &format!("blk.{layer}.{name}.weight"),
            to,
            &shape.map(|n| n as u64),
            bytes,
        )
    };
    (
        derive("attn_k_b", &keys, [nope, kv_lora, heads]),
        derive("attn_v_b", &vals, [kv_lora, v_dim, heads]),
    )
}
