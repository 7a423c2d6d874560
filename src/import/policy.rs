//! Which type each tensor of the new file gets.

#![forbid(unsafe_code)]

use std::str::FromStr;

use super::ImportError;
use super::sources::as_q4_0;
use super::wanted::{Class, Projection, Wanted};
use super::weights::Weight;
use crate::ggml;
use crate::gguf::GgmlType;
use crate::planes::{Levels, is_width};
use crate::quantize;

/// How routed experts are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertForm {
    /// Two binary planes per matrix: 2-bit codes bit for bit.
    Planes,
    /// Decoded, and encoded again.
    Type(GgmlType),
}

/// How each of an expert's matrices is stored; what is unset follows from the checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Experts {
    /// Gate matrices.
    pub gate: Option<ExpertForm>,
    /// Up matrices.
    pub up: Option<ExpertForm>,
    /// Down matrices.
    pub down: Option<ExpertForm>,
}

impl Experts {
    /// The same for all three.
    pub fn all(form: ExpertForm) -> Self {
        Self {
            gate: Some(form),
            up: Some(form),
            down: Some(form),
        }
    }

    /// Of one matrix.
    pub fn of(&self, projection: Projection) -> Option<ExpertForm> {
        match projection {
            Projection::Gate => self.gate,
            Projection::Up => self.up,
            Projection::Down => self.down,
        }
    }
}

/// `planes`, a type, or one of them for a matrix: `planes`, `IQ4_NL`, `planes,down=Q8_0`.
impl FromStr for Experts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut experts = Self::default();
        for part in text.split(',') {
            let (which, form) = part.split_once('=').unwrap_or(("", part));
            let form = match form.trim() {
                form if form.eq_ignore_ascii_case("planes") => ExpertForm::Planes,
                form => ExpertForm::Type(form.parse().map_err(|_| UNKNOWN_FORM.to_owned())?),
            };
            match which.trim() {
                "" => experts = Self::all(form),
                "gate" => experts.gate = Some(form),
                "up" => experts.up = Some(form),
                "down" => experts.down = Some(form),
                _ => return Err(UNKNOWN_FORM.to_owned()),
            }
        }
        Ok(experts)
    }
}

const UNKNOWN_FORM: &str = "expected planes, or a type such as IQ4_NL, Q2_K, Q4_K, Q8_0, F16; \
     for one matrix of the three: planes,down=Q8_0";

/// Types the user asked for; what is unset follows from the checkpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// Every matrix that nothing below speaks of.
    pub outtype: Option<GgmlType>,
    /// Matrices other than routed experts.
    pub dense: Option<GgmlType>,
    /// Routed experts.
    pub experts: Experts,
    /// Token embedding.
    pub embedding: Option<GgmlType>,
    /// Output matrix.
    pub output: Option<GgmlType>,
}

/// What becomes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// Values, encoded to a type.
    Values(GgmlType),
    /// 2-bit codes as planes.
    Planes(Levels),
    /// 4-bit codes as `Q4_0`.
    Int4,
}

impl Policy {
    /// The form of a tensor made from `parts`, which all are stored alike.
    pub(super) fn form(&self, wanted: &Wanted, parts: &[Weight]) -> Result<Form, ImportError> {
        let Some(first) = parts.first() else {
            return Ok(Form::Values(GgmlType::F32));
        };
        if matches!(wanted.class, Class::Norm | Class::Router) {
            return Ok(Form::Values(GgmlType::F32));
        }
        let asked = match wanted.class {
            Class::Expert(projection) => match self.experts.of(projection) {
                Some(ExpertForm::Planes) => {
                    return match first {
                        // A mixed bundle has planes where it can.
                        Weight::Mxtq(_) => Ok(natural(wanted, parts, first)),
                        Weight::Stored(_) => planes(wanted, parts).map(Form::Planes),
                    };
                }
                Some(ExpertForm::Type(ty)) => Some(ty),
                None => self.outtype,
            },
            Class::Embedding => self.embedding.or(self.dense).or(self.outtype),
            Class::Output => self.output.or(self.dense).or(self.outtype),
            _ => self.dense.or(self.outtype),
        };
        let form = match asked {
            Some(ty) => Form::Values(ty),
            None => natural(wanted, parts, first),
        };
        match form {
            Form::Values(ty) => Ok(Form::Values(fit(wanted, ty)?)),
            other => Ok(other),
        }
    }
}

/// The form that keeps what the checkpoint has, at about its size.
fn natural(wanted: &Wanted, parts: &[Weight], first: &Weight) -> Form {
    match first {
        Weight::Mxtq(weight) => match (planes(wanted, parts), weight.codec.bits().get()) {
            (Ok(levels), _) => Form::Planes(levels),
            (Err(_), ..=2) => Form::Values(GgmlType::Q2_K),
            (Err(_), 3..=4) => Form::Values(GgmlType::IQ4_NL),
            (Err(_), _) => Form::Values(GgmlType::Q8_0),
        },
        Weight::Stored(_) if parts.iter().all(|p| as_q4_0(p).is_some()) => Form::Int4,
        Weight::Stored(matrix) => Form::Values(match matrix.form().as_str() {
            "bf16" => GgmlType::BF16,
            "f16" | "f32" | "f64" => GgmlType::F16,
            form if form.starts_with("fp8") => GgmlType::BF16,
            _ => GgmlType::Q8_0,
        }),
    }
}

/// Planes want rows of whole `Q1_0` blocks that one Hadamard matrix rotates, and symmetric levels.
fn planes(wanted: &Wanted, parts: &[Weight]) -> Result<Levels, ImportError> {
    let refused = |expected, found: String| ImportError::Planes {
        tensor: wanted.name.clone(),
        expected,
        found,
    };
    let mut levels = None;
    for part in parts {
        let Weight::Mxtq(weight) = part else {
            return Err(refused("experts of 2-bit MXTQ codes", part.form()));
        };
        if weight.codec.bits().get() != 2 {
            return Err(refused("experts of 2-bit MXTQ codes", part.form()));
        }
        let n = weight.codec.row_len();
        if !is_width(n as u64) {
            return Err(refused(
                "rows of a power of two, at least 128",
                n.to_string(),
            ));
        }
        levels = Levels::from_codebook(weight.codec.book()).ok();
    }
    levels.ok_or_else(|| refused("a symmetric codebook", "another".into()))
}

/// `ty`, or the nearest type whose blocks the rows are made of.
fn fit(wanted: &Wanted, ty: GgmlType) -> Result<GgmlType, ImportError> {
    let row = wanted.ne[0];
    let fitting = quantize::fitting(ty, row);
    // Asks ggml once with a row of zeros, before hours of work.
    let zeros = vec![0.0; row as usize];
    ggml::quantize(fitting, &zeros, row, None, &mut Vec::new()).map_err(|e| ImportError::Type {
        tensor: wanted.name.clone(),
        ty: fitting,
        problem: e.to_string(),
    })?;
    Ok(fitting)
}
