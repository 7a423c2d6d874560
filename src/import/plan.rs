//! Every tensor of the new file, found in the checkpoint, checked, and given its form.

#![forbid(unsafe_code)]

use std::collections::HashSet;

use super::ImportError;
use super::mxtq::Codec;
use super::policy::{Form, Policy};
use super::source::Checkpoint;
use super::sources::{Int4, KeyHeads, Planes, Stack, ValueHeads};
use super::wanted::{Recipe, Wanted};
use super::weights::{Codecs, Weight};
use crate::convert::{Conversion, Source};
use crate::gguf::{GgmlType, Shape, TensorPlan};

/// A tensor of the new file and what it is made from.
pub(super) struct Planned {
    pub wanted: Wanted,
    /// One weight, or one per expert.
    pub parts: Vec<Weight>,
    pub form: Form,
}

impl Planned {
    /// Type in the file.
    pub fn ty(&self) -> GgmlType {
        match self.form {
            Form::Values(ty) => ty,
            Form::Planes(_) => GgmlType::Q1_0,
            Form::Int4 => GgmlType::Q4_0,
        }
    }

    /// Shape in the file: a row of planes is twice as long as the row of weights.
    pub fn ne(&self) -> Vec<u64> {
        let mut ne = self.wanted.ne.clone();
        if matches!(self.form, Form::Planes(_)) {
            ne[0] *= 2;
        }
        ne
    }

    /// Weights of the tensor.
    pub fn n_weights(&self) -> u64 {
        self.wanted.ne.iter().product()
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        let ne = self.ne();
        let rows: u64 = ne[1..].iter().product();
        self.ty().row_bytes(ne[0]).unwrap_or(0) * rows
    }

    /// How the checkpoint stores it.
    pub fn from(&self) -> String {
        let form = self.parts.first().map(Weight::form).unwrap_or_default();
        match self.parts.len() {
            1 => form,
            n => format!("{n} x {form}"),
        }
    }

    /// How the file stores it.
    pub fn to(&self) -> String {
        match self.form {
            Form::Planes(_) => "planes (Q1_0)".to_owned(),
            _ => self.ty().name().to_owned(),
        }
    }

    /// The conversion that writes it.
    pub fn conversion<'a>(
        &'a self,
        checkpoint: &'a Checkpoint,
    ) -> Result<Conversion<'a>, ImportError> {
        let shape = Shape::new(&self.ne()).map_err(|e| ImportError::Type {
            tensor: self.wanted.name.clone(),
            ty: self.ty(),
            problem: e.to_string(),
        })?;
        Ok(Conversion {
            plan: TensorPlan {
                name: self.wanted.name.clone(),
                ty: self.ty(),
                shape,
            },
            source: self.source(checkpoint),
            importance: None,
        })
    }

    fn source<'a>(&'a self, checkpoint: &'a Checkpoint) -> Source<'a> {
        let parts = &self.parts;
        let each = parts.first().map_or(1, Weight::n_rows).max(1);
        match (&self.wanted.recipe, self.form) {
            (_, Form::Planes(levels)) => Source::Bytes(Box::new(Planes {
                checkpoint,
                parts,
                each,
                levels,
            })),
            (_, Form::Int4) => Source::Bytes(Box::new(Int4 {
                checkpoint,
                parts,
                each,
            })),
            (_, Form::Values(_)) => Source::Values(self.values(checkpoint)),
        }
    }

    /// The tensor's values, whatever its form in the file.
    pub fn values<'a>(
        &'a self,
        checkpoint: &'a Checkpoint,
    ) -> Box<dyn crate::convert::Values + 'a> {
        let parts = &self.parts;
        let each = parts.first().map_or(1, Weight::n_rows).max(1);
        match &self.wanted.recipe {
            Recipe::Heads {
                nope, v_dim, keys, ..
            } => {
                let (nope, v_dim) = (u64::from(*nope), u64::from(*v_dim));
                let fused = &parts[0];
                if *keys {
                    let latent = self.wanted.ne[1];
                    Box::new(KeyHeads {
                        checkpoint,
                        fused,
                        nope,
                        v_dim,
                        latent,
                    })
                } else {
                    Box::new(ValueHeads {
                        checkpoint,
                        fused,
                        nope,
                        v_dim,
                    })
                }
            }
            _ => Box::new(Stack {
                checkpoint,
                parts,
                each,
            }),
        }
    }
}

/// Finds what `wanted` asks for. Missing tensors are counted, so that one error tells of all of them.
pub(super) fn resolve(
    checkpoint: &Checkpoint,
    codecs: &Codecs,
    wanted: Vec<Wanted>,
    policy: &Policy,
    architecture: &'static str,
) -> Result<Vec<Planned>, ImportError> {
    let finder = Finder { checkpoint, codecs };
    let mut missing = Missing::default();
    let mut planned = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let parts = finder.parts(&wanted, &mut missing)?;
        if missing.n > 0 {
            continue;
        }
        let form = policy.form(&wanted, &parts)?;
        planned.push(Planned {
            wanted,
            parts,
            form,
        });
    }
    if let Some((tensor, shape)) = missing.first {
        return Err(ImportError::Missing {
            folder: checkpoint.folder().to_owned(),
            tensor,
            shape,
            more: missing.n - 1,
        });
    }
    refuse_unknown(checkpoint, &planned, architecture)?;
    Ok(planned)
}

#[derive(Default)]
struct Missing {
    first: Option<(String, Vec<u64>)>,
    n: usize,
}

impl Missing {
    fn note(&mut self, tensor: String, shape: &[u64]) {
        self.n += 1;
        self.first.get_or_insert_with(|| (tensor, shape.to_vec()));
    }
}

struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    codecs: &'a Codecs,
}

impl Finder<'_> {
    /// The weights a tensor is made from; none if any is missing.
    fn parts(&self, wanted: &Wanted, missing: &mut Missing) -> Result<Vec<Weight>, ImportError> {
        let rows_first: Vec<u64> = wanted.ne.iter().rev().copied().collect();
        match &wanted.recipe {
            Recipe::Matrix { base } => self.one(base, &rows_first, missing),
            Recipe::Vector { names } => {
                for name in names {
                    if self.checkpoint.tensor(name).is_some() {
                        return self.one(name, &rows_first, missing);
                    }
                }
                missing.note(names[0].clone(), &rows_first);
                Ok(Vec::new())
            }
            Recipe::Heads {
                base,
                n_head,
                nope,
                v_dim,
                keys,
            } => {
                let latent = if *keys { wanted.ne[1] } else { wanted.ne[0] };
                let rows = u64::from(*n_head) * u64::from(nope + v_dim);
                self.one(base, &[rows, latent], missing)
            }
            Recipe::Experts { stacked, each } => {
                if let Some(found) = self.find(stacked, &rows_first)? {
                    return Ok(vec![found]);
                }
                let mut parts = Vec::with_capacity(each.len());
                for base in each {
                    match self.find(base, &rows_first[1..])? {
                        Some(found) => parts.push(found),
                        None => missing.note(format!("{base}.weight"), &rows_first[1..]),
                    }
                }
                same_form(self.checkpoint, &parts)?;
                Ok(parts)
            }
        }
    }

    fn one(
        &self,
        base: &str,
        shape: &[u64],
        missing: &mut Missing,
    ) -> Result<Vec<Weight>, ImportError> {
        let found = self.find(base, shape)?;
        if found.is_none() {
            missing.note(format!("{base}.weight"), shape);
        }
        Ok(found.into_iter().collect())
    }

    /// A weight of this shape, under its name with or without `.weight`.
    fn find(&self, base: &str, shape: &[u64]) -> Result<Option<Weight>, ImportError> {
        let base = base.strip_suffix(".weight").unwrap_or(base);
        let n_in = shape.last().copied().unwrap_or(1);
        let Some(weight) = Weight::find(self.checkpoint, self.codecs, base, n_in)? else {
            return Ok(None);
        };
        if weight.shape() != shape {
            return Err(ImportError::Shape {
                folder: self.checkpoint.folder().to_owned(),
                tensor: weight
                    .tensor_names()
                    .first()
                    .map_or(base, |n| *n)
                    .to_owned(),
                expected: shape.to_vec(),
                found: weight.shape().to_vec(),
            });
        }
        Ok(Some(weight))
    }
}

/// Experts of one tensor must be stored alike, or no form fits them all.
fn same_form(checkpoint: &Checkpoint, parts: &[Weight]) -> Result<(), ImportError> {
    let Some(first) = parts.first() else {
        return Ok(());
    };
    let form = first.form();
    match parts.iter().find(|part| part.form() != form) {
        None => Ok(()),
        Some(other) => {
            let tensor = |w: &Weight| {
                w.tensor_names()
                    .first()
                    .copied()
                    .unwrap_or_default()
                    .to_owned()
            };
            Err(super::source::SourceError::Tensor {
                path: checkpoint.folder().to_owned(),
                tensor: tensor(other),
                field: "form",
                expected: format!("{form}, as `{}`", tensor(first)),
                found: other.form(),
            }
            .into())
        }
    }
}

/// Buffers that some exports save and that follow from the settings.
const BUFFERS: [&str; 2] = [".rotary_emb.inv_freq", ".slope"];

/// A tensor that nothing is made from may hold what the network needs: it is not passed over in silence.
fn refuse_unknown(
    checkpoint: &Checkpoint,
    planned: &[Planned],
    architecture: &'static str,
) -> Result<(), ImportError> {
    let used: HashSet<&str> = planned
        .iter()
        .flat_map(|p| &p.parts)
        .flat_map(Weight::tensor_names)
        .collect();
    let buffer = |name: &str| BUFFERS.iter().any(|end| name.ends_with(end));
    let mut unknown = checkpoint
        .tensors()
        .iter()
        .map(|t| t.name.as_str())
        .filter(|name| !used.contains(name) && !buffer(name));
    match unknown.next() {
        None => Ok(()),
        Some(tensor) => Err(ImportError::Unknown {
            folder: checkpoint.folder().to_owned(),
            architecture,
            tensor: tensor.to_owned(),
            more: unknown.count(),
        }),
    }
}

/// The tensors that become planes, and what they are coded with.
pub(super) fn planes(planned: &[Planned]) -> impl Iterator<Item = (&Planned, &Codec)> {
    planned
        .iter()
        .filter_map(|p| match (p.form, p.parts.first()?) {
            (Form::Planes(_), Weight::Mxtq(weight)) => Some((p, &*weight.codec)),
            _ => None,
        })
}
