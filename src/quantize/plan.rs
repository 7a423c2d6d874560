//! What becomes of each tensor.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::QuantizeError;
use super::file_type::{FileType, Mix};
use super::mixes::{Chooser, ModelFacts, Subject, fitting};
use super::overrides::Override;
use super::roles::{Role, block_of, kept};
use super::source::{Files, Rows};
use crate::convert::{self, Control, Conversion, ConvertOptions, Source};
use crate::ggml::{can_encode, needs_importance};
use crate::gguf::{GgmlType, Gguf, Metadata, Shape, TensorInfo, TensorPlan};
use crate::imatrix::ImportanceMatrix;
use crate::planes::PlaneLayout;

/// ggml's version of its quantised formats.
const QUANTIZATION_VERSION: u32 = 2;

/// What to make of a model.
#[derive(Debug, Clone)]
pub struct Request {
    /// The mix or type.
    pub file_type: FileType,
    /// Types of tensors named by pattern; the first that matches decides.
    pub overrides: Vec<Override>,
    /// Type of the output matrix.
    pub output_ty: Option<GgmlType>,
    /// Type of the token embedding.
    pub embedding_ty: Option<GgmlType>,
    /// One type throughout, without the mix's exceptions.
    pub pure: bool,
    /// Leave the output matrix as it is.
    pub leave_output: bool,
    /// Quantise what is quantised already.
    pub allow_requantize: bool,
}

impl Request {
    /// A file type without further wishes.
    pub fn new(file_type: FileType) -> Self {
        Self {
            file_type,
            overrides: Vec::new(),
            output_ty: None,
            embedding_ty: None,
            pure: false,
            leave_output: false,
            allow_requantize: false,
        }
    }
}

/// Why a tensor gets its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It stays as it is, because of what it is.
    Kept(&'static str),
    /// The file type says so.
    Mix,
    /// The user named it.
    Named,
    /// Its rows are no whole blocks of the wanted type.
    Fallback {
        /// The wanted type.
        wanted: GgmlType,
    },
}

/// What becomes of a tensor.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Name.
    pub name: String,
    /// Extents.
    pub shape: Shape,
    /// Type in the source.
    pub from: GgmlType,
    /// Type in the new file.
    pub to: GgmlType,
    /// Why.
    pub reason: Reason,
    /// Whether the importance matrix has values for it.
    pub importance: bool,
}

impl Planned {
    /// Bytes in the new file.
    pub fn bytes(&self) -> u64 {
        self.shape.bytes(self.to).unwrap_or(0)
    }

    /// Bits per weight in the new file.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes() as f64 * 8.0 / self.shape.elements() as f64
    }
}

/// All decisions about a model, in the order of its file.
#[derive(Debug)]
pub struct QuantizePlan<'a> {
    gguf: &'a Gguf,
    metadata: Metadata,
    tensors: Vec<Planned>,
    importances: Vec<Option<Arc<[f32]>>>,
    unused_patterns: Vec<String>,
}

impl<'a> QuantizePlan<'a> {
    /// Decides on every tensor.
    ///
    /// # Errors
    /// A type that cannot be made, a source that is quantised already, or an importance matrix that is missing or of
    /// another model.
    pub fn new(
        gguf: &'a Gguf,
        request: &Request,
        imatrix: Option<&ImportanceMatrix>,
    ) -> Result<Self, QuantizeError> {
        check_types(request)?;
        let mut tensors = types(gguf, request, imatrix.is_some())?;
        if !request.allow_requantize {
            check_sources(&tensors)?;
        }
        let importances = importances(&mut tensors, imatrix)?;
        check_importances(&tensors, request, imatrix.is_some())?;
        let unused = |pattern: &&Override| !tensors.iter().any(|t| pattern.matches(&t.name));
        let unused_patterns = request.overrides.iter().filter(unused);
        Ok(Self {
            gguf,
            metadata: metadata(gguf, request, imatrix),
            unused_patterns: unused_patterns.map(|p| p.pattern().to_owned()).collect(),
            tensors,
            importances,
        })
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[Planned] {
        &self.tensors
    }

    /// Patterns that match no tensor.
    pub fn unused_patterns(&self) -> &[String] {
        &self.unused_patterns
    }

    /// Bytes of all tensors in the new file.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(Planned::bytes).sum()
    }

    /// Bytes of all tensors in the source.
    pub fn source_bytes(&self) -> u64 {
        self.gguf.tensors().iter().map(|t| t.bytes).sum()
    }

    /// Weights in the model.
    pub fn n_weights(&self) -> u64 {
        self.tensors.iter().map(|t| t.shape.elements()).sum()
    }

    /// Keys of the new file.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// Writes the model. `path` may be the source itself.
    ///
    /// # Errors
    /// The first thing that goes wrong; then nothing is left behind.
    pub fn write(
        self,
        path: &Path,
        options: &ConvertOptions,
        control: &Control<'_>,
    ) -> Result<Vec<PathBuf>, QuantizeError> {
        let files = Files::open(self.gguf)?;
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for ((planned, importance), info) in self
            .tensors
            .iter()
            .zip(self.importances)
            .zip(self.gguf.tensors())
        {
            let rows = Box::new(Rows::new(&files, info, planned.to));
            tensors.push(Conversion {
                plan: TensorPlan {
                    name: planned.name.clone(),
                    ty: planned.to,
                    shape: planned.shape,
                },
                source: if planned.from == planned.to {
                    Source::Bytes(rows)
                } else {
                    Source::Values(rows)
                },
                importance,
            });
        }
        Ok(convert::write(
            path,
            self.metadata,
            &tensors,
            options,
            control,
        )?)
    }
}

fn check_types(request: &Request) -> Result<(), QuantizeError> {
    let named = request.overrides.iter().map(Override::ty);
    let wanted = named
        .chain(request.output_ty)
        .chain(request.embedding_ty)
        .chain(request.file_type.base());
    match wanted.into_iter().find(|&ty| !can_encode(ty)) {
        Some(ty) => Err(QuantizeError::Unencodable { ty }),
        None => Ok(()),
    }
}

/// The type of each tensor, in the order of the file.
pub(super) fn types(
    gguf: &Gguf,
    request: &Request,
    imatrix: bool,
) -> Result<Vec<Planned>, QuantizeError> {
    let tensors = gguf.tensors();
    let names = tensors.iter().map(|t| t.name.as_str());
    let facts = ModelFacts::read(gguf.metadata(), names, imatrix)?;
    let planes = PlaneLayout::of(gguf)?.tensors;
    // Rules that count need llama.cpp's order: by block, then by name.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (block_of(&tensors[i].name), tensors[i].name.as_bytes()));
    let mix = match request.file_type {
        FileType::Mix(mix) if mix.base().is_quantized() && !request.pure => Some(mix),
        _ => None,
    };
    let mut chooser = mix.map(|mix| Chooser::new(mix, &facts));
    let mut decided: Vec<Option<(GgmlType, Reason)>> = vec![None; tensors.len()];
    for index in order {
        let tensor = &tensors[index];
        decided[index] = Some(match stays(&facts.arch, tensor, &planes, request) {
            Some(why) => (tensor.ty, Reason::Kept(why)),
            None => choose(tensor, request, facts.tied, chooser.as_mut()),
        });
    }
    let planned = tensors.iter().zip(decided).map(|(tensor, decision)| {
        let (to, reason) = decision.unwrap_or((tensor.ty, Reason::Mix));
        Planned {
            name: tensor.name.clone(),
            shape: tensor.shape,
            from: tensor.ty,
            to,
            reason,
            importance: false,
        }
    });
    Ok(planned.collect())
}

/// Why a tensor stays as it is.
fn stays(
    arch: &str,
    tensor: &TensorInfo,
    planes: &BTreeSet<String>,
    request: &Request,
) -> Option<&'static str> {
    use GgmlType as T;
    let matrix = tensor.shape.ne()[1..].iter().any(|&n| n > 1);
    let whole = matches!(tensor.ty, T::I8 | T::I16 | T::I32 | T::I64 | T::F64);
    if planes.contains(&tensor.name) {
        Some("binary planes, exact as they are")
    } else if !matrix {
        Some("a vector")
    } else if whole {
        Some("no weights")
    } else if request.leave_output && tensor.name == "output.weight" {
        Some("left on request")
    } else {
        kept(arch, &tensor.name)
    }
}

fn choose(
    tensor: &TensorInfo,
    request: &Request,
    tied: bool,
    chooser: Option<&mut Chooser<'_>>,
) -> (GgmlType, Reason) {
    let role = Role::of(&tensor.name);
    let serves_output = role == Role::Output || (tied && role == Role::TokenEmbd);
    let by_role = match role {
        Role::TokenEmbd => request.embedding_ty,
        _ => None,
    };
    let by_role = by_role.or(request.output_ty.filter(|_| serves_output));
    let by_name = || {
        let mut patterns = request.overrides.iter();
        patterns.find(|p| p.matches(&tensor.name)).map(Override::ty)
    };
    let subject = Subject {
        name: &tensor.name,
        ne: tensor.shape.ne(),
    };
    let (wanted, reason) = match (by_role.or_else(by_name), chooser, request.file_type.base()) {
        (Some(ty), _, _) => (ty, Reason::Named),
        (None, Some(chooser), _) => (chooser.choose(subject), Reason::Mix),
        (None, None, Some(base)) => (base, Reason::Mix),
        (None, None, None) => (tensor.ty, Reason::Mix),
    };
    let fits = fitting(wanted, tensor.shape.ne()[0]);
    if fits == wanted {
        (wanted, reason)
    } else {
        (fits, Reason::Fallback { wanted })
    }
}

fn check_sources(tensors: &[Planned]) -> Result<(), QuantizeError> {
    let again = |t: &&Planned| t.from.is_quantized() && t.from != t.to;
    match tensors.iter().find(again) {
        Some(t) => Err(QuantizeError::Requantise {
            tensor: t.name.clone(),
            from: t.from,
            to: t.to,
        }),
        None => Ok(()),
    }
}

/// Importances of the tensors that are encoded to types which use them.
fn importances(
    tensors: &mut [Planned],
    imatrix: Option<&ImportanceMatrix>,
) -> Result<Vec<Option<Arc<[f32]>>>, QuantizeError> {
    let Some(imatrix) = imatrix else {
        return Ok(vec![None; tensors.len()]);
    };
    if !tensors.iter().any(|t| imatrix.entry(&t.name).is_some()) {
        return Err(QuantizeError::ForeignImportance {
            path: imatrix.path().to_owned(),
            entries: imatrix.len(),
        });
    }
    let mut all = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let wanted = tensor.from != tensor.to && tensor.to.is_quantized();
        let Some(entry) = imatrix.entry(&tensor.name).filter(|_| wanted) else {
            all.push(None);
            continue;
        };
        let values = entry.importance();
        let [row, _, matrices, _] = tensor.shape.ne();
        if values.len() as u64 == row * matrices {
            tensor.importance = true;
            all.push(Some(values.into()));
        } else if Role::of(&tensor.name) == Role::TokenEmbd {
            // Collected where the embedding serves as output too; its rows are looked up, not multiplied.
            all.push(None);
        } else {
            return Err(QuantizeError::ImportanceLength {
                path: imatrix.path().to_owned(),
                tensor: tensor.name.clone(),
                expected: row * matrices,
                found: values.len(),
            });
        }
    }
    Ok(all)
}

/// Types that are worthless without an importance matrix, as llama.cpp judges.
fn is_poor_without(ty: GgmlType, file_type: FileType) -> bool {
    use GgmlType as T;
    match ty {
        T::IQ3_XXS | T::IQ2_XXS | T::IQ2_XS | T::IQ2_S | T::IQ1_M | T::IQ1_S => true,
        T::Q2_K => file_type == FileType::Mix(Mix::Q2_K_S),
        _ => false,
    }
}

fn check_importances(
    tensors: &[Planned],
    request: &Request,
    given: bool,
) -> Result<(), QuantizeError> {
    let lacks = |t: &&Planned| {
        let looked_up = matches!(Role::of(&t.name), Role::TokenEmbd | Role::Output);
        let needed =
            needs_importance(t.to) || (!looked_up && is_poor_without(t.to, request.file_type));
        t.from != t.to && needed && !t.importance
    };
    let mut lacking = tensors.iter().filter(lacks);
    match lacking.next() {
        Some(first) => Err(QuantizeError::NeedsImportance {
            tensor: first.name.clone(),
            to: first.to,
            more: lacking.count(),
            given,
        }),
        None => Ok(()),
    }
}

/// The source's keys with what llama.cpp notes about a quantised file.
fn metadata(gguf: &Gguf, request: &Request, imatrix: Option<&ImportanceMatrix>) -> Metadata {
    let mut metadata = gguf.metadata().clone();
    metadata.insert("general.quantization_version", QUANTIZATION_VERSION);
    if let Some(id) = request.file_type.id() {
        metadata.insert("general.file_type", id);
    }
    if let Some(imatrix) = imatrix {
        let path = imatrix.path().to_string_lossy().into_owned();
        metadata.insert("quantize.imatrix.file", path);
        let datasets: BTreeSet<&str> = imatrix.datasets().iter().map(String::as_str).collect();
        if !datasets.is_empty() {
            let names: Vec<&str> = datasets.into_iter().collect();
            metadata.insert("quantize.imatrix.dataset", names.join(", "));
        }
        let entries = u32::try_from(imatrix.len()).unwrap_or(u32::MAX);
        metadata.insert("quantize.imatrix.entries_count", entries);
        if imatrix.chunk_count() > 0 {
            metadata.insert("quantize.imatrix.chunks_count", imatrix.chunk_count());
        }
    }
    metadata
}
