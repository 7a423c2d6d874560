//! Parameters of rotary embedding.

/// How rotary embedding pairs the dimensions of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeKind {
    /// Pairs `(2i, 2i+1)`.
    Norm,
    /// Pairs `(i, i + n/2)`.
    Neox,
}

/// Rotary embedding, YaRN included. `ext_factor` 0 switches YaRN off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Pairing.
    pub kind: RopeKind,
    /// Leading dimensions that rotate; the rest pass.
    pub n_dims: u32,
    /// Context length of training, for YaRN.
    pub n_ctx_orig: u32,
    /// Base of the frequencies.
    pub freq_base: f32,
    /// Factor on positions: 1 / context extension.
    pub freq_scale: f32,
    /// YaRN's mix of extrapolation: 0 or 1.
    pub ext_factor: f32,
    /// Factor on the rotated values.
    pub attn_factor: f32,
    /// YaRN's upper rotation count.
    pub beta_fast: f32,
    /// YaRN's lower rotation count.
    pub beta_slow: f32,
}
