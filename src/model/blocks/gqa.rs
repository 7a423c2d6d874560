//! Grouped-query attention: each head of keys and values serves `n_head / n_head_kv` heads of queries.
//!
//! Queries, keys and values come from three matrices or a fused one, with biases if the file has them; queries and keys
//! are normed per head where the architecture says so, then rotated. Memory holds a row of keys and a row of values.

use super::decoder::Mixer;
use super::linear::Linear;
use crate::ggml::{GraphError, Rope, RopeKind, Tensor};
use crate::memory::{MemorySpec, Reader, RowSpec};
use crate::model::LoadError;
use crate::model::blocks::decoder::DecoderParams;
use crate::model::blocks::rope::rope_from_keys;
use crate::model::hparams::Keys;
use crate::model::loader::{Loader, Part, Role, WeightId};
use crate::model::step::{Heads, Mask, Step};

/// Sizes of a grouped-query attention layer.
#[derive(Debug, Clone)]
pub struct GqaParams {
    /// Model width.
    pub n_embd: u32,
    /// Heads of queries.
    pub n_head: u32,
    /// Heads of keys and of values.
    pub n_head_kv: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Whether queries and keys are normed per head.
    pub qk_norm: bool,
    /// Epsilon of those norms.
    pub eps: f32,
    /// Rotation.
    pub rope: Rope,
}

impl GqaParams {
    /// Reads and checks `attention.*` and `rope.*`.
    ///
    /// # Errors
    /// A key is missing or makes no sense.
    pub fn read(
        keys: &Keys<'_>,
        trunk: &DecoderParams,
        kind: RopeKind,
        qk_norm: bool,
    ) -> Result<Self, LoadError> {
        let n_head = keys.head_count()?;
        let n_head_kv = keys.extent_or("attention.head_count_kv", n_head)?;
        keys.check(
            n_head.is_multiple_of(n_head_kv),
            "attention.head_count_kv",
            format!("a divisor of attention.head_count ({n_head})"),
            n_head_kv,
        )?;
        let head_dim = keys.head_width("attention.key_length", trunk.n_embd / n_head)?;
        let v_dim = keys.head_width("attention.value_length", trunk.n_embd / n_head)?;
        keys.check(
            v_dim == head_dim,
            "attention.value_length",
            format!("{head_dim}, as attention.key_length"),
            v_dim,
        )?;
        keys.check(
            head_dim.is_multiple_of(2),
            "attention.key_length",
            "an even number",
            head_dim,
        )?;
        let n_rot = keys.rope_dims(head_dim, head_dim)?;
        Ok(Self {
            n_embd: trunk.n_embd,
            n_head,
            n_head_kv,
            head_dim,
            qk_norm,
            eps: trunk.eps,
            rope: rope_from_keys(keys, kind, n_rot, trunk.n_ctx_train)?,
        })
    }
}

/// Where queries, keys and values come from.
#[derive(Debug, Clone)]
enum Projection {
    Fused(Linear),
    Split { q: Linear, k: Linear, v: Linear },
}

/// Index of the norm of queries and of that of keys.
const QUERIES: usize = 0;
const KEYS: usize = 1;

/// Queries (if wanted), keys and values: (head width, head, token) each.
struct Projected<'g> {
    q: Option<Tensor<'g>>,
    k: Tensor<'g>,
    v: Tensor<'g>,
}

/// Weights of a grouped-query attention layer.
#[derive(Debug, Clone)]
pub struct Gqa {
    params: GqaParams,
    projection: Projection,
    norms: Option<[WeightId; 2]>,
    /// Divisors of the rotation's frequencies (`rope_freqs`, Llama 3).
    factors: Option<WeightId>,
    out: Linear,
    keys: String,
    values: String,
}

impl Gqa {
    /// Names the tensors of block `layer` and asks for its rows.
    pub fn load(
        loader: &mut Loader<'_>,
        memory: &mut MemorySpec,
        params: &GqaParams,
        layer: u32,
    ) -> Self {
        let p = params;
        let part = Part::Layer(layer);
        let name = |suffix: &str| format!("blk.{layer}.{suffix}");
        let (n_embd, d) = (u64::from(p.n_embd), u64::from(p.head_dim));
        let (n_q, n_kv) = (u64::from(p.n_head) * d, u64::from(p.n_head_kv) * d);
        let projection = if loader.has(&name("attn_qkv.weight")) {
            let shape = [n_embd, n_q + 2 * n_kv];
            Projection::Fused(Linear::load(loader, part, &name("attn_qkv"), shape))
        } else {
            let mut matrix =
                |which: &str, n_out| Linear::load(loader, part, &name(which), [n_embd, n_out]);
            Projection::Split {
                q: matrix("attn_q", n_q),
                k: matrix("attn_k", n_kv),
                v: matrix("attn_v", n_kv),
            }
        };
        let norms = p.qk_norm.then(|| {
            ["attn_q_norm.weight", "attn_k_norm.weight"]
                .map(|which| loader.tensor(part, &name(which), &[d], Role::Vector))
        });
        let n_freqs = u64::from(p.rope.n_dims / 2);
        let [keys, values] = ["keys", "values"].map(name);
        let rows = |name: &str, read_by| RowSpec {
            name: name.to_owned(),
            n_head: u64::from(p.n_head_kv),
            head_width: d,
            read_by,
            device: loader.device(part),
        };
        let reader = Reader {
            n_head: u64::from(p.n_head),
            value_width: d,
            value_in_row: false,
        };
        memory.rows.push(rows(&keys, Some(reader)));
        memory.rows.push(rows(&values, None));
        Self {
            params: p.clone(),
            projection,
            norms,
            factors: loader.optional(part, "rope_freqs.weight", &[n_freqs], Role::Vector),
            out: Linear::load(loader, part, &name("attn_output"), [n_q, n_embd]),
            keys,
            values,
        }
    }

    fn project<'g>(
        &self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
        with_queries: bool,
    ) -> Result<Projected<'g>, GraphError> {
        let (g, p) = (s.g(), &self.params);
        let d = i64::from(p.head_dim);
        let (heads, kv) = (i64::from(p.n_head), i64::from(p.n_head_kv));
        match &self.projection {
            Projection::Split { q, k, v } => {
                let project = |w: &Linear, n: i64| {
                    let y = w.build(s, x)?;
                    g.reshape(y, &[d, n, y.ne()[1]])
                };
                Ok(Projected {
                    q: with_queries.then(|| project(q, heads)).transpose()?,
                    k: project(k, kv)?,
                    v: project(v, kv)?,
                })
            }
            Projection::Fused(w) => {
                let all = w.build(s, x)?;
                let part = |start: i64, n: i64| {
                    let shape = [d, n, all.ne()[1]];
                    let strides = [d as usize * 4, all.nb()[1]];
                    g.view(all, &shape, &strides, (start * d) as usize * 4)
                };
                Ok(Projected {
                    q: with_queries.then(|| part(0, heads)).transpose()?,
                    k: part(heads, kv)?,
                    v: part(heads + kv, kv)?,
                })
            }
        }
    }

    /// Norm and rotation of [`QUERIES`] or [`KEYS`].
    fn place<'g>(
        &self,
        s: &Step<'g, '_>,
        mut x: Tensor<'g>,
        which: usize,
    ) -> Result<Tensor<'g>, GraphError> {
        if let Some(norms) = self.norms {
            x = s.norm(norms[which], x, self.params.eps)?;
        }
        let factors = self.factors.map(|f| s.weight(f)).transpose()?;
        s.g().rope(x, s.positions(), factors, &self.params.rope)
    }

    /// Writes the tokens' rows.
    fn store<'g>(&self, s: &Step<'g, '_>, k: Tensor<'g>, v: Tensor<'g>) -> Result<(), GraphError> {
        let g = s.g();
        for (rows, x) in [(&self.keys, self.place(s, k, KEYS)?), (&self.values, v)] {
            let [d, n, t, _] = x.ne();
            s.store_rows(rows, g.reshape(g.dense(x)?, &[d * n, t])?)?;
        }
        Ok(())
    }
}

impl Mixer for Gqa {
    fn build<'g>(
        &self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
        mask: Mask,
    ) -> Result<Tensor<'g>, GraphError> {
        let (g, p) = (s.g(), &self.params);
        let Projected { q, k, v } = self.project(s, x, true)?;
        let q = q.ok_or(GraphError::Alloc {
            what: "queries that were asked for",
        })?;
        self.store(s, k, v)?;
        let heads = |rows| Heads {
            rows,
            n: i64::from(p.n_head_kv),
            width: i64::from(p.head_dim),
        };
        let scale = 1.0 / (p.head_dim as f32).sqrt();
        let q = g.permute(self.place(s, q, QUERIES)?, [0, 2, 1, 3])?;
        let y = s.attend(q, heads(&self.keys), heads(&self.values), scale, mask)?;
        let y = g.dense(g.permute(y, [0, 2, 1, 3])?)?;
        let [d, n, t, _] = y.ne();
        self.out.build(s, g.reshape(y, &[d * n, t])?)
    }

    fn remember<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<(), GraphError> {
        let Projected { k, v, .. } = self.project(s, x, false)?;
        self.store(s, k, v)
    }
}
