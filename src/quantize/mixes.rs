//! Which tensor gets which type in a mix: llama.cpp's choices as a table of rules.

use super::file_type::Mix;
use super::roles::{Role, block_of};
use crate::gguf::{GgmlType, Metadata, MetadataError};

/// What the rules ask about a model.
#[derive(Debug, Clone, Default)]
pub(super) struct ModelFacts {
    pub arch: String,
    /// Blocks, MTP heads included.
    pub n_block: u32,
    pub n_expert: u32,
    /// Query heads per key head of the first block; 0 where it has no keys of that kind.
    pub n_gqa: u32,
    /// Of the size class in which eight query heads share a small matrix of values.
    pub is_70b: bool,
    /// Token embedding and output are one tensor.
    pub tied: bool,
    pub imatrix: bool,
    /// Tensors with the role of values.
    pub n_attn_v: u32,
}

impl ModelFacts {
    /// Reads the facts from a model's metadata and names.
    pub(super) fn read<'a>(
        metadata: &Metadata,
        names: impl Iterator<Item = &'a str>,
        imatrix: bool,
    ) -> Result<Self, MetadataError> {
        let arch = metadata.require_str("general.architecture")?.to_owned();
        let first = |key: &str| first_of(metadata, &format!("{arch}.{key}"));
        let n_block = first("block_count").unwrap_or(0);
        let n_head = first("attention.head_count").unwrap_or(0);
        let n_head_kv = first("attention.head_count_kv").unwrap_or(n_head);
        let trunk = n_block.saturating_sub(first("nextn_predict_layers").unwrap_or(0));
        let n_expert = first("expert_count").unwrap_or(0);
        let roles: Vec<Role> = names.map(Role::of).collect();
        Ok(Self {
            n_block,
            n_expert,
            n_gqa: n_head.checked_div(n_head_kv).unwrap_or(0),
            is_70b: match arch.as_str() {
                "llama" => trunk == 80 && n_head != n_head_kv,
                "qwen2" | "deci" | "olmo" => trunk == 80,
                "jais2" => trunk == 68,
                _ => false,
            },
            tied: !roles.contains(&Role::Output),
            imatrix,
            n_attn_v: roles.iter().filter(|role| **role == Role::AttnV).count() as u32,
            arch,
        })
    }
}

/// A number, or the first of a list with one per block; 0 where that is no count.
fn first_of(metadata: &Metadata, key: &str) -> Option<u32> {
    let value = metadata.get(key)?;
    let number = match value.as_array() {
        Some(list) => list.integers()?.next(),
        None => value.as_integer(),
    };
    Some(number.and_then(|n| u32::try_from(n).ok()).unwrap_or(0))
}

/// A condition of a rule.
#[derive(Debug, Clone, Copy)]
enum When {
    /// At least so many query heads share a key head.
    Gqa(u32),
    /// At least so many experts.
    Experts(u32),
    /// Exactly eight experts: the size class of Mixtral.
    EightExperts,
    Imatrix(bool),
    /// The block is in the first 1/N of the model.
    FirstPart(u32),
    /// As `FirstPart`, over the tensors of this role seen so far.
    FirstSeen(u32),
    /// Fewer than so many tensors of this role were seen.
    SeenBelow(u32),
    /// The first and last eighth, and every third block between: where bits help most.
    MoreBits,
    /// Neither in the first nor in the last eighth.
    Middle,
    Arch(&'static str),
    NotArch(&'static str),
    /// Rows are no whole blocks of the mix's type.
    OddRows,
    /// The mix's type is another than this.
    BaseIsNot(GgmlType),
}

/// A choice for some mixes (all, if none is named) where all conditions hold.
struct Rule {
    mixes: &'static [Mix],
    when: &'static [When],
    /// `None` keeps the mix's type, and no later rule is asked.
    ty: Option<GgmlType>,
}

/// Rules of a role, the first that fits decides.
struct Chapter {
    role: Role,
    rules: &'static [Rule],
}

const fn rule(mixes: &'static [Mix], when: &'static [When], ty: GgmlType) -> Rule {
    Rule {
        mixes,
        when,
        ty: Some(ty),
    }
}

const fn keep(when: &'static [When]) -> Rule {
    Rule {
        mixes: ANY,
        when,
        ty: None,
    }
}

use GgmlType as T;
use Mix as M;
use When as W;

const ANY: &[Mix] = &[];
/// Mixes below three bits, where attention must be spared.
const LOW: &[Mix] = &[
    M::IQ1_S,
    M::IQ1_M,
    M::IQ2_XXS,
    M::IQ2_XS,
    M::IQ2_S,
    M::IQ2_M,
];
const IQ2_UPPER: &[Mix] = &[M::IQ2_S, M::IQ2_M];
const IQ1: &[Mix] = &[M::IQ1_S, M::IQ1_M];
const IQ4: &[Mix] = &[M::IQ4_NL, M::IQ4_XS];

#[rustfmt::skip]
const CHAPTERS: &[Chapter] = &[
    // Every logit depends on the output, so it gets more bits than the rest.
    Chapter { role: Role::Output, rules: &[
        rule(ANY, &[W::Arch("falcon")], T::Q8_0),
        rule(ANY, &[W::OddRows], T::Q8_0),
        rule(LOW, &[], T::Q5_K),
        rule(&[M::IQ3_XXS], &[], T::Q5_K),
        rule(ANY, &[W::BaseIsNot(T::Q8_0)], T::Q6_K),
    ]},
    // Rows are looked up, not summed: errors do not average out.
    Chapter { role: Role::TokenEmbd, rules: &[
        rule(IQ2_UPPER, &[], T::IQ3_S),
        rule(LOW, &[], T::Q2_K),
        rule(&[M::IQ3_XXS], &[], T::IQ3_S),
        rule(&[M::TQ1_0, M::TQ2_0, M::Q2_0], &[], T::Q4_K),
    ]},
    // Values are small where heads share them, and go straight into the residual stream.
    Chapter { role: Role::AttnV, rules: &[
        rule(LOW, &[W::Gqa(4)], T::Q4_K),
        rule(LOW, &[W::Experts(4)], T::Q4_K),
        rule(IQ2_UPPER, &[], T::IQ3_S),
        rule(LOW, &[], T::Q2_K),
        rule(ANY, &[W::EightExperts], T::Q8_0),
        rule(&[M::Q2_K, M::Q2_K_S], &[W::Gqa(4)], T::Q4_K),
        rule(&[M::Q2_K], &[], T::Q3_K),
        rule(&[M::IQ3_XXS, M::IQ3_XS, M::IQ3_S], &[W::Gqa(4)], T::Q4_K),
        rule(&[M::IQ3_XXS], &[W::Imatrix(false)], T::IQ3_S),
        rule(&[M::IQ3_M], &[], T::Q4_K),
        rule(&[M::Q3_K_M], &[W::SeenBelow(2)], T::Q5_K),
        rule(&[M::Q3_K_M], &[], T::Q4_K),
        rule(&[M::Q3_K_L], &[], T::Q5_K),
        rule(IQ4, &[W::Gqa(4)], T::Q5_K),
        rule(&[M::Q4_K_M, M::Q5_K_M], &[W::MoreBits], T::Q6_K),
        rule(&[M::Q4_K_S], &[W::SeenBelow(4)], T::Q5_K),
    ]},
    Chapter { role: Role::AttnK, rules: &[
        rule(LOW, &[W::EightExperts], T::Q4_K),
        rule(ANY, &[W::EightExperts], T::Q8_0),
        rule(&[M::IQ3_XS], &[], T::IQ3_XXS),
        rule(&[M::IQ3_XXS], &[], T::IQ2_S),
    ]},
    // Queries bear rough rounding best: softmax only compares.
    Chapter { role: Role::AttnQ, rules: &[
        rule(&[M::IQ3_XS], &[], T::IQ3_XXS),
        rule(&[M::IQ3_XXS], &[], T::IQ2_S),
    ]},
    Chapter { role: Role::AttnOutput, rules: &[
        rule(LOW, &[W::EightExperts], T::Q5_K),
        rule(IQ1, &[], T::IQ2_XXS),
        rule(IQ2_UPPER, &[], T::IQ3_S),
        rule(&[M::Q3_K_L], &[W::Arch("falcon")], T::Q4_K),
        keep(&[W::Arch("falcon")]),
        rule(&[M::Q2_K, M::IQ3_XXS, M::IQ3_XS, M::IQ3_S, M::IQ3_M, M::Q3_K_S, M::Q3_K_M, M::IQ4_NL, M::IQ4_XS,
               M::Q4_K_S, M::Q4_K_M], &[W::EightExperts], T::Q5_K),
        keep(&[W::EightExperts]),
        rule(&[M::Q2_K], &[], T::Q3_K),
        rule(&[M::IQ3_XXS], &[], T::IQ3_S),
        rule(&[M::Q3_K_M, M::IQ3_M], &[], T::Q4_K),
        rule(&[M::Q3_K_L], &[], T::Q5_K),
    ]},
    // Inputs of the down projection have outliers, most of all in the first blocks.
    Chapter { role: Role::FfnDown, rules: &[
        rule(IQ2_UPPER, &[W::FirstSeen(8)], T::IQ3_S),
        rule(LOW, &[W::FirstSeen(8)], T::Q2_K),
        rule(&[M::Q2_K], &[], T::Q3_K),
        rule(&[M::Q2_K_S], &[W::FirstPart(8)], T::Q4_K),
        rule(&[M::IQ3_XXS], &[W::Imatrix(false), W::FirstPart(8)], T::Q4_K),
        rule(&[M::IQ3_XXS], &[W::Imatrix(false)], T::Q3_K),
        rule(&[M::Q3_K_M], &[W::FirstPart(16)], T::Q5_K),
        rule(&[M::Q3_K_M], &[W::NotArch("falcon")], T::Q4_K),
        rule(&[M::Q3_K_M], &[W::MoreBits], T::Q4_K),
        rule(&[M::IQ3_M], &[W::FirstPart(8)], T::Q4_K),
        rule(&[M::IQ3_M], &[W::EightExperts, W::MoreBits], T::Q4_K),
        rule(&[M::Q3_K_L], &[W::Arch("falcon")], T::Q4_K),
        rule(&[M::Q3_K_L], &[], T::Q5_K),
        rule(&[M::Q4_K_M], &[W::Arch("falcon"), W::FirstPart(16)], T::Q6_K),
        rule(&[M::Q4_K_M], &[W::Arch("falcon"), W::MoreBits], T::Q5_K),
        rule(&[M::Q4_K_M], &[W::NotArch("falcon"), W::MoreBits], T::Q6_K),
        rule(IQ4, &[W::Imatrix(false), W::FirstPart(8)], T::Q5_K),
        rule(&[M::Q5_K_M], &[W::MoreBits], T::Q6_K),
        rule(&[M::Q4_K_S], &[W::NotArch("falcon"), W::FirstPart(8)], T::Q5_K),
        // An importance matrix tempts these two into clipping the outliers.
        rule(&[M::Q4_0], &[W::Imatrix(true), W::FirstPart(8)], T::Q4_1),
        rule(&[M::Q5_0], &[W::Imatrix(true), W::FirstPart(8)], T::Q5_1),
    ]},
    Chapter { role: Role::FfnGate, rules: &[rule(&[M::IQ3_XS], &[W::Middle], T::IQ3_XXS)] },
    Chapter { role: Role::FfnUp, rules: &[rule(&[M::IQ3_XS], &[W::Middle], T::IQ3_XXS)] },
];

/// Architectures whose projections of attention are stacks too, and which are no experts.
const STACKED_ATTENTION: &[&str] = &["bailing_hybrid", "bailingmoe3"];
/// Never below Q8_0 in this architecture, unless asked for by name.
const SPARED: &[(&str, &[&str])] = &[("glm5-next", &["attn_q_a", "attn_q_b", "nextn.eh_proj"])];

/// A tensor whose type is to be chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub name: &'a str,
    pub ne: [u64; 4],
}

/// Chooses types, tensor by tensor in llama.cpp's order: some rules count what came before.
pub(super) struct Chooser<'a> {
    mix: Mix,
    model: &'a ModelFacts,
    seen: [u32; 4],
}

/// Where a tensor stands among those of its role.
struct Place {
    seen: u32,
    /// Number that `FirstSeen` and `MoreBits` of values divide.
    n_seen: u32,
    block: u32,
    n_block: u32,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(mix: Mix, model: &'a ModelFacts) -> Self {
        Self {
            mix,
            model,
            seen: [0; 4],
        }
    }

    /// The type the mix gives a tensor, whether or not its rows fit.
    pub(super) fn choose(&mut self, tensor: Subject<'_>) -> GgmlType {
        let base = self.mix.base();
        let spared = SPARED.iter().any(|(arch, parts)| {
            *arch == self.model.arch && parts.iter().any(|part| tensor.name.contains(part))
        });
        if spared && base.is_quantized() {
            return T::Q8_0;
        }
        let mut role = Role::of(tensor.name);
        if role == Role::TokenEmbd && self.model.tied {
            role = Role::Output;
        }
        if self.mix == M::MXFP4_MOE {
            let attention = STACKED_ATTENTION.contains(&self.model.arch.as_str())
                && !matches!(role, Role::FfnUp | Role::FfnGate | Role::FfnDown);
            let expert = tensor.ne[2] > 1 && role != Role::Output && !attention;
            return if expert { T::MXFP4 } else { T::Q8_0 };
        }
        let place = self.place(role, tensor.name);
        let rules = CHAPTERS
            .iter()
            .find(|chapter| chapter.role == role)
            .map_or(&[][..], |chapter| chapter.rules);
        let fits = |rule: &&Rule| {
            (rule.mixes.is_empty() || rule.mixes.contains(&self.mix))
                && rule.when.iter().all(|w| self.holds(*w, &place, tensor))
        };
        let ty = rules
            .iter()
            .find(fits)
            .and_then(|rule| rule.ty)
            .unwrap_or(base);
        let cheap = role == Role::AttnV && self.model.is_70b && !LOW.contains(&self.mix);
        match ty {
            // Eight query heads share this matrix: bits cost little here.
            T::Q3_K | T::Q4_K if cheap => T::Q5_K,
            ty => ty,
        }
    }

    fn place(&mut self, role: Role, name: &str) -> Place {
        let counter = match role {
            Role::AttnV => 0,
            Role::FfnDown => 1,
            Role::FfnGate => 2,
            Role::FfnUp => 3,
            _ => return self.place_at(0, 0, name),
        };
        let seen = self.seen[counter];
        self.seen[counter] += 1;
        let n_seen = if role == Role::AttnV {
            self.model.n_attn_v
        } else {
            self.model.n_block
        };
        let mut place = self.place_at(seen, n_seen, name);
        if role == Role::AttnV {
            (place.block, place.n_block) = (seen, n_seen);
        }
        place
    }

    /// Models with experts may have several tensors of a role in a block, so there the name tells the block.
    fn place_at(&self, seen: u32, n_seen: u32, name: &str) -> Place {
        let named = block_of(name).filter(|_| self.model.n_expert > 1);
        Place {
            seen,
            n_seen,
            block: named.unwrap_or(seen),
            n_block: self.model.n_block,
        }
    }

    fn holds(&self, when: When, place: &Place, tensor: Subject<'_>) -> bool {
        let (i, n) = (place.block, place.n_block);
        let last_eighth = u64::from(i) >= 7 * u64::from(n) / 8;
        let base = self.mix.base();
        match when {
            W::Gqa(least) => self.model.n_gqa >= least,
            W::Experts(least) => self.model.n_expert >= least,
            W::EightExperts => self.model.n_expert == 8,
            W::Imatrix(wanted) => self.model.imatrix == wanted,
            W::FirstPart(part) => i < n / part,
            W::FirstSeen(part) => place.seen < place.n_seen / part,
            W::SeenBelow(limit) => place.seen < limit,
            W::MoreBits => i < n / 8 || last_eighth || i.wrapping_sub(n / 8) % 3 == 2,
            W::Middle => i >= n / 8 && !last_eighth,
            W::Arch(arch) => self.model.arch == arch,
            W::NotArch(arch) => self.model.arch != arch,
            W::OddRows => !tensor.ne[0].is_multiple_of(base.block_size()),
            W::BaseIsNot(ty) => base != ty,
        }
    }
}

/// The type itself if rows of `row` weights are whole blocks of it, else the nearest with blocks of 32 as llama.cpp
/// chooses, else F16.
pub fn fitting(wanted: GgmlType, row: u64) -> GgmlType {
    let fits = |ty: T| row.is_multiple_of(ty.block_size());
    if fits(wanted) {
        return wanted;
    }
    let small = match wanted {
        T::IQ1_S
        | T::IQ1_M
        | T::IQ2_XXS
        | T::IQ2_XS
        | T::IQ2_S
        | T::IQ3_XXS
        | T::IQ3_S
        | T::IQ4_XS => T::IQ4_NL,
        T::Q4_K => T::Q5_0,
        T::Q5_K => T::Q5_1,
        T::Q6_K => T::Q8_0,
        _ => T::Q4_0,
    };
    if fits(small) { small } else { T::F16 }
}
