//! Lightning attention: a linear recurrence with one fixed decay per head.
//!
//! `S_t = e^g S_{t-1} + k_t v_t^T`, `y_t = (q_t / sqrt(d))^T S_t`, the state including the current token; then an RMS
//! norm over groups of channels, a sigmoid gate, and the output matrix.

use super::decoder::Mixer;
use crate::ggml::{DType, GraphError, Rope, Tensor};
use crate::memory::{ConstantSpec, MemorySpec, PlaneSpec};
use crate::model::loader::{Loader, Part, Role, WeightId};
use crate::model::step::{Mask, Step};

/// `softplus(DT) = 1`: the scan applies softplus to its time step, this recurrence has none.
const DT: f32 = 0.541_324_85;

/// Metal's blocked scan takes value heads of 64. Value columns are independent, so wider heads are cut into heads
/// of 64 that share keys, queries and decay: same numbers, same layout of the state.
const VALUE_HEAD: u32 = 64;

/// Name of the constant time step in memory.
const TIME_STEP: &str = "scan.dt";

/// Sizes of a Lightning layer.
#[derive(Debug, Clone)]
pub struct LightningParams {
    /// Model width.
    pub n_embd: u32,
    /// Heads.
    pub n_head: u32,
    /// Width of a head, keys and values alike.
    pub head_dim: u32,
    /// Number of channel groups of the output norm.
    pub norm_groups: u32,
    /// Epsilon of the query and key norms.
    pub eps: f32,
    /// Epsilon of the output norm.
    pub group_eps: f32,
    /// Rotation of queries and keys.
    pub rope: Rope,
}

/// Weights of a Lightning layer.
#[derive(Debug, Clone)]
pub struct Lightning {
    params: LightningParams,
    qkv: WeightId,
    q_norm: WeightId,
    k_norm: WeightId,
    gate: WeightId,
    out_norm: WeightId,
    out: WeightId,
    decay: WeightId,
    state: String,
}

impl Lightning {
    /// Names the tensors of block `layer` of `n_layer` and asks for its state.
    pub fn load(
        loader: &mut Loader<'_>,
        memory: &mut MemorySpec,
        params: &LightningParams,
        layer: u32,
        n_layer: u32,
    ) -> Self {
        let part = Part::Layer(layer);
        let (n_embd, d, heads) = (
            u64::from(params.n_embd),
            u64::from(params.head_dim),
            u64::from(params.n_head),
        );
        let width = d * heads;
        let name = |suffix: &str| format!("blk.{layer}.{suffix}.weight");
        let cut = params.head_cuts();
        let device = loader.device(part);
        let state = format!("blk.{layer}.state");
        memory.planes.push(PlaneSpec {
            name: state.clone(),
            width: d * d * heads,
            device,
        });
        if !memory.constants.iter().any(|c| c.name == TIME_STEP) {
            memory.constants.push(ConstantSpec {
                name: TIME_STEP.into(),
                value: DT,
                per_token: heads * u64::from(cut),
                device,
            });
        }
        let mut tensor =
            |suffix, shape: &[u64], role| loader.tensor(part, &name(suffix), shape, role);
        let qkv = tensor("attn_qkv", &[n_embd, 3 * width], Role::Matrix);
        let q_norm = tensor("attn_q_norm", &[d], Role::Vector);
        let k_norm = tensor("attn_k_norm", &[d], Role::Vector);
        let gate = tensor("attn_gate", &[n_embd, width], Role::Matrix);
        let out_norm = tensor("layer_output_norm", &[width], Role::Vector);
        let out = tensor("attn_output", &[width, n_embd], Role::Matrix);
        let decay = load_decays(loader, params, layer, n_layer);
        Self {
            params: params.clone(),
            qkv,
            q_norm,
            k_norm,
            gate,
            out_norm,
            out,
            decay,
            state,
        }
    }
}

impl Mixer for Lightning {
    /// The state knows no masks: only trunks have such blocks.
    fn build<'g>(
        &self,
        s: &Step<'g, '_>,
        x: Tensor<'g>,
        _: Mask,
    ) -> Result<Tensor<'g>, GraphError> {
        let (g, p, n) = (s.g(), &self.params, s.n_tokens());
        let (d, heads) = (i64::from(p.head_dim), i64::from(p.n_head));
        let qkv = s.linear(self.qkv, x)?;
        let row = qkv.nb()[1];
        let part = |i: usize| {
            g.view(
                qkv,
                &[d, heads, n],
                &[d as usize * 4, row],
                i * (d * heads) as usize * 4,
            )
        };
        let q = g.rope(
            s.norm(self.q_norm, part(0)?, p.eps)?,
            s.positions(),
            None,
            &p.rope,
        )?;
        let k = g.rope(
            s.norm(self.k_norm, part(1)?, p.eps)?,
            s.positions(),
            None,
            &p.rope,
        )?;
        let y = s.scan(
            &self.state,
            TIME_STEP,
            q,
            k,
            part(2)?,
            s.weight(self.decay)?,
        )?;

        let gate = s.linear(self.gate, x)?;
        s.linear(self.out, self.norm_and_gate(s, y, gate)?)
    }

    fn remember<'g>(&self, s: &Step<'g, '_>, x: Tensor<'g>) -> Result<(), GraphError> {
        self.build(s, x, Mask::Causal).map(drop)
    }
}

impl Lightning {
    /// `y` normed by groups of channels, times `sigmoid(gate)`: `{width, tokens}` all.
    fn norm_and_gate<'g>(
        &self,
        s: &Step<'g, '_>,
        y: Tensor<'g>,
        gate: Tensor<'g>,
    ) -> Result<Tensor<'g>, GraphError> {
        let (g, p, n) = (s.g(), &self.params, s.n_tokens());
        let w = s.weight(self.out_norm)?;
        // The factor d^-1/2 on q scales y; the norm cancels it but for its epsilon, which takes it up instead.
        let eps = p.group_eps * p.head_dim as f32;
        if s.wants_own() && g.can_norm(w) {
            return g.gated_norm(g.dense(y)?, w, gate, p.norm_groups, eps);
        }
        let (width, groups) = (y.ne()[0], i64::from(p.norm_groups));
        let y = g.rms_norm(g.reshape(y, &[width / groups, groups, n])?, eps)?;
        let y = g.mul(g.reshape(y, &[width, n])?, w)?;
        g.mul(y, g.sigmoid(gate)?)
    }
}

/// The decay of each head of the scan: a weight that no file holds.
fn load_decays(
    loader: &mut Loader<'_>,
    params: &LightningParams,
    layer: u32,
    n_layer: u32,
) -> WeightId {
    if !loader.is_sound() {
        return WeightId::MISSING;
    }
    let cut = params.head_cuts() as usize;
    let decays = head_decays(params.n_head, layer, n_layer);
    let decays: Vec<f32> = decays
        .into_iter()
        .flat_map(|g| std::iter::repeat_n(g, cut))
        .collect();
    let name = format!("blk.{layer}.attn_decay.weight");
    let bytes = bytemuck::cast_slice(&decays).to_vec();
    loader.derived(
        Part::Layer(layer),
        &name,
        DType::F32,
        &[1, decays.len() as u64],
        bytes,
    )
}

impl LightningParams {
    /// Into how many heads each head is cut for the scan.
    fn head_cuts(&self) -> u32 {
        if self.head_dim.is_multiple_of(VALUE_HEAD) {
            self.head_dim / VALUE_HEAD
        } else {
            1
        }
    }
}

/// Exponents `g_h < 0` of the decay of each head in block `layer` of `n_layer` (MTP blocks not counted):
/// ALiBi slopes, scaled down with depth.
pub fn head_decays(n_head: u32, layer: u32, n_layer: u32) -> Vec<f32> {
    let depth = 1.0 - f64::from(layer) / f64::from(n_layer.saturating_sub(1).max(1)) + 1e-5;
    alibi_slopes(n_head)
        .into_iter()
        .map(|s| (-s * depth) as f32)
        .collect()
}

/// ALiBi's slopes: `2^(-8 (h+1) / n)` for a power of two; otherwise those of the power of two below, then every
/// second one of the power of two above.
fn alibi_slopes(n_head: u32) -> Vec<f64> {
    let geometric = |n: u32| (1..=n).map(move |h| (-8.0 * f64::from(h) / f64::from(n)).exp2());
    let below = 1 << n_head.max(1).ilog2();
    geometric(below)
        .chain(geometric(2 * below).step_by(2))
        .take(n_head as usize)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of specs: exp(g) to six digits for 32 heads and 32 layers.
    #[test]
    fn decays_match_the_corrected_formula() {
        let cases = [
            (0, 0, 0.431_320),
            (0, 31, 0.996_101),
            (1, 0, 0.443_180),
            (1, 31, 0.996_227),
            (30, 0, 0.973_231),
            (30, 31, 0.999_874),
        ];
        for (layer, head, expected) in cases {
            let decay = head_decays(32, layer, 32)[head].exp();
            assert!(
                (decay - expected).abs() < 1e-6,
                "layer {layer} head {head}: {decay} instead of {expected}"
            );
        }
        assert!((head_decays(32, 0, 32)[0] + 0.840_904_8).abs() < 1e-6);
        // 64 heads: 2^(-(h+1)/8).
        assert!((head_decays(64, 0, 80)[7] + 0.5 * 1.000_01).abs() < 1e-6);
    }

    #[test]
    fn slopes_of_odd_head_counts_follow_alibi() {
        let slopes = alibi_slopes(6);
        let expected = [0.25, 0.0625, 0.015_625, 0.003_906_25, 0.5, 0.125];
        for (s, e) in slopes.iter().zip(expected) {
            assert!((s - e).abs() < 1e-12, "{slopes:?}");
        }
        assert_eq!(alibi_slopes(1), vec![2f64.powi(-8)]);
    }

    #[test]
    fn time_step_is_one_after_softplus() {
        assert!((DT.exp().ln_1p() - 1.0).abs() < 1e-6);
    }
}
