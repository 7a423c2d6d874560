//! Sizes of a `bailing_hybrid` model, and those of known models.

use super::SynthError;

/// Sizes of a model. Field names follow the keys of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    /// Blocks of the trunk.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Heads of both kinds of attention.
    pub heads: u32,
    /// Width of a head: Lightning keys and values, MLA's values and the part of its keys without rotation.
    pub head_dim: u32,
    /// Rotated dimensions.
    pub rope_dims: u32,
    /// Rank of MLA's queries; 0 for a full matrix.
    pub q_lora: u32,
    /// Rank of MLA's keys and values.
    pub kv_lora: u32,
    /// Every n-th block is MLA.
    pub interval: u32,
    /// Groups of the norm after Lightning attention.
    pub norm_groups: u32,
    /// Leading blocks without experts.
    pub dense_layers: u32,
    /// Width of their feed-forward.
    pub ff: u32,
    /// Experts of a block.
    pub experts: u32,
    /// Experts a token uses.
    pub experts_used: u32,
    /// Groups the experts are divided into.
    pub groups: u32,
    /// Groups a token may choose from.
    pub groups_used: u32,
    /// Width of an expert.
    pub expert_ff: u32,
    /// Tokens.
    pub vocab: u32,
    /// Context length.
    pub context: u32,
    /// Whether there is an MTP head.
    pub mtp: bool,
}

/// A model whose sizes are known.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Name for the command line.
    pub name: &'static str,
    /// Its sizes.
    pub dims: Dims,
}

/// Ling-2.6-flash: 104 billion weights, 7.4 billion per token.
const FLASH: Dims = Dims {
    layers: 32,
    hidden: 4096,
    heads: 32,
    head_dim: 128,
    rope_dims: 64,
    q_lora: 1536,
    kv_lora: 512,
    interval: 8,
    norm_groups: 4,
    dense_layers: 1,
    ff: 9216,
    experts: 256,
    experts_used: 8,
    groups: 8,
    groups_used: 4,
    expert_ff: 1024,
    vocab: 157_184,
    context: 131_072,
    mtp: true,
};

/// Ling-2.6-1T: what is published of it, and the ranks of its smaller sibling.
const ONE_T: Dims = Dims {
    layers: 80,
    hidden: 8192,
    heads: 64,
    dense_layers: 4,
    ff: 18_432,
    expert_ff: 2048,
    ..FLASH
};

/// The demo model.
const TINY: Dims = Dims {
    layers: 8,
    hidden: 256,
    heads: 4,
    head_dim: 64,
    rope_dims: 32,
    q_lora: 192,
    kv_lora: 128,
    interval: 4,
    norm_groups: 4,
    dense_layers: 1,
    ff: 768,
    experts: 16,
    experts_used: 4,
    groups: 4,
    groups_used: 2,
    expert_ff: 128,
    vocab: 4096,
    context: 4096,
    mtp: true,
};

/// All known models.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "ling-2.6-flash",
        dims: FLASH,
    },
    Preset {
        name: "ling-2.6-1t",
        dims: ONE_T,
    },
    Preset {
        name: "tiny-ling",
        dims: TINY,
    },
];

impl Dims {
    /// Blocks of the file, the MTP head's included.
    pub fn blocks(&self) -> u32 {
        self.layers + u32::from(self.mtp)
    }

    /// Whether a block attends to rows (MLA); the others are Lightning. The MTP head's always does.
    pub fn is_mla(&self, block: u32) -> bool {
        block >= self.layers || (block + 1).is_multiple_of(self.interval)
    }

    /// Checks that a model of these sizes can exist.
    ///
    /// # Errors
    /// The first size that does not fit.
    pub fn check(&self) -> Result<(), SynthError> {
        let positive = [
            ("layers", self.layers, 2047),
            ("hidden", self.hidden, 1 << 20),
            ("heads", self.heads, 1 << 12),
            ("head-dim", self.head_dim, 1 << 12),
            ("kv-lora", self.kv_lora, 1 << 16),
            ("interval", self.interval, 2048),
            ("norm-groups", self.norm_groups, 1 << 12),
            ("experts", self.experts, 1 << 14),
            ("experts-used", self.experts_used, self.experts),
            ("expert-groups", self.groups, self.experts),
            ("expert-groups-used", self.groups_used, self.groups),
            ("expert-ff", self.expert_ff, 1 << 20),
            ("context", self.context, 1 << 24),
        ];
        for (what, found, most) in positive {
            within(what, found, 1, most)?;
        }
        within("vocab", self.vocab, super::vocab::FEWEST, 1 << 24)?;
        within("ff", self.ff, u32::from(self.dense_layers > 0), 1 << 20)?;
        within("q-lora", self.q_lora, 0, 1 << 16)?;
        within("dense-layers", self.dense_layers, 0, self.layers)?;
        within("rope-dims", self.rope_dims, 2, self.head_dim)?;
        divides("rope-dims", self.rope_dims, 2)?;
        divides("experts", self.experts, self.groups)?;
        divides(
            "heads times head-dim",
            self.heads * self.head_dim,
            self.norm_groups,
        )?;
        let open = self.groups_used * (self.experts / self.groups);
        within("experts-used", self.experts_used, 1, open)
    }

    /// Makes groups of experts fit a changed number of experts: as many as possible up to the known model's, with at
    /// least the same share open to a token.
    pub fn fit_groups(&mut self) {
        let experts = self.experts.max(1);
        let share = f64::from(self.groups_used) / f64::from(self.groups.max(1));
        self.groups = (1..=self.groups.clamp(1, experts))
            .rev()
            .find(|&g| experts.is_multiple_of(g))
            .unwrap_or(1);
        let needed = self.experts_used.div_ceil(experts / self.groups);
        self.groups_used = ((share * f64::from(self.groups)).ceil() as u32)
            .max(needed)
            .clamp(1, self.groups);
    }
}

fn within(what: &'static str, found: u32, least: u32, most: u32) -> Result<(), SynthError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(SynthError::Size {
        what,
        expected: format!("{least} to {most}"),
        found: found.into(),
    })
}

fn divides(what: &'static str, found: u32, by: u32) -> Result<(), SynthError> {
    if found.is_multiple_of(by) {
        return Ok(());
    }
    Err(SynthError::Size {
        what,
        expected: format!("a multiple of {by}"),
        found: found.into(),
    })
}
