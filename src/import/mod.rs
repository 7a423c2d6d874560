//! Checkpoints become model files: JANGTQ bundles with their 2-bit experts bit for bit, and Hugging Face checkpoints.
//!
//! [`source`] reads folders of safetensors; [`codec`] and [`mxtq`] know how their matrices are stored; an architecture
//! says which tensors the new file has and what each is made from; [`Policy`] says in which type. Then
//! [`crate::convert`] does the work.

#![forbid(unsafe_code)]

mod bailing;
pub mod codec;
mod config;
mod error;
pub mod mxtq;
mod plan;
mod policy;
pub mod source;
mod sources;
mod tokenizer;
mod verify;
mod wanted;
mod weights;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use config::Config;
use plan::Planned;
use source::Checkpoint;
use weights::{Codecs, Weight};

use crate::convert::{self, Control, Conversion, ConvertOptions};
use crate::gguf::{Array, GgmlType, GgufString, Metadata, Shape, TensorPlan, Value};
use crate::model::arch::bailing_hybrid;
use crate::planes::{self, PlaneLayout};
use crate::quantize::FileType;

pub use error::ImportError;
pub use policy::{ExpertForm, Experts, Policy};
pub use verify::{ClassError, Verification};
pub use wanted::{Class, Projection};

/// Seed of a bundle that names none.
const DEFAULT_SEED: u64 = 42;

/// A checkpoint that was read and checked, and the plan of the file it becomes.
pub struct Import {
    checkpoint: Checkpoint,
    metadata: Metadata,
    planned: Vec<Planned>,
}

/// What a tensor of the plan is.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanLine {
    /// Name in the new file.
    pub name: String,
    /// What it is.
    pub class: Class,
    /// How the checkpoint stores it.
    pub from: String,
    /// How the file stores it.
    pub to: String,
    /// Weights.
    pub n_weights: u64,
    /// Bytes in the file.
    pub bytes: u64,
}

impl PlanLine {
    /// Bits per weight in the file.
    pub fn bits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.n_weights.max(1) as f64
    }
}

impl Import {
    /// Reads the headers and settings of a checkpoint and plans the file. Nothing large is read yet.
    ///
    /// # Errors
    /// Anything that keeps the checkpoint from being imported, as far as settings and headers show it.
    pub fn open(folder: &Path, policy: &Policy) -> Result<Self, ImportError> {
        let checkpoint = Checkpoint::open(folder)?;
        let jang = checkpoint.json("jang_config.json")?.unwrap_or(Json::Null);
        check_architecture(&checkpoint)?;
        check_format(&checkpoint, &jang)?;
        let seed = seed(&checkpoint, &jang)?;
        let codecs = Codecs::new(&checkpoint, seed)?;
        let config = Config::new(folder, source::CONFIG, checkpoint.config());
        let mut dims = bailing::Dims::read(&config)?;
        drop_absent_mtp(&checkpoint, &mut dims);
        let wanted = bailing::wanted(&dims, has_router_bias(&config)?);
        let planned = plan::resolve(&checkpoint, &codecs, wanted, policy, bailing::ARCHITECTURE)?;
        refuse_no_planes(policy, &planned)?;

        let mut metadata = Metadata::new();
        write_general(&checkpoint, &jang, &planned, &mut metadata);
        bailing::write_keys(&config, &dims, &mut metadata)?;
        tokenizer::write_keys(&checkpoint, dims.n_vocab, "bailingmoe2", &mut metadata)?;
        write_sampling(&checkpoint, &mut metadata)?;
        write_provenance(&checkpoint, &jang, &planned, &mut metadata);
        plane_layout(&planned, codecs.seed())
            .iter()
            .for_each(|layout| layout.write(&mut metadata));
        // Better said now than by the loader, after hours of writing.
        bailing_hybrid::check(&folder.join(source::CONFIG), &metadata)
            .map_err(ImportError::Keys)?;
        Ok(Self {
            checkpoint,
            metadata,
            planned,
        })
    }

    /// Gives the model another name than the source's.
    pub fn set_name(&mut self, name: &str) {
        self.metadata.insert("general.name", name);
    }

    /// Metadata of the new file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors of the new file in their order.
    pub fn plan(&self) -> Vec<PlanLine> {
        let line = |p: &Planned| PlanLine {
            name: p.wanted.name.clone(),
            class: p.wanted.class,
            from: p.from(),
            to: p.to(),
            n_weights: p.n_weights(),
            bytes: p.bytes(),
        };
        self.planned.iter().map(line).collect()
    }

    /// Bytes of the checkpoint's tensors.
    pub fn source_bytes(&self) -> u64 {
        self.checkpoint.total_bytes()
    }

    /// Writes the file, or its parts, and gives their paths.
    ///
    /// # Errors
    /// The first thing that goes wrong; then nothing is left at `path` that was not there before.
    pub fn write(
        &self,
        path: &Path,
        options: &ConvertOptions,
        control: &Control<'_>,
    ) -> Result<Vec<PathBuf>, ImportError> {
        let mut conversions = Vec::with_capacity(self.planned.len());
        for planned in &self.planned {
            conversions.push(planned.conversion(&self.checkpoint)?);
        }
        let signs = signs(&self.planned);
        for (width, signs) in &signs {
            conversions.push(Conversion {
                plan: TensorPlan {
                    name: planes::signs_name(*width),
                    ty: GgmlType::F32,
                    shape: Shape::row(*width),
                },
                source: convert::Source::Values(Box::new(Constant(signs))),
                importance: None,
            });
        }
        Ok(convert::write(
            path,
            self.metadata.clone(),
            &conversions,
            options,
            control,
        )?)
    }
}

/// A vector that is in memory.
struct Constant<'a>(&'a [f32]);

impl convert::Values for Constant<'_> {
    fn values(&self, _: Range<u64>, out: &mut Vec<f32>) -> Result<(), convert::SourceProblem> {
        out.clear();
        out.extend_from_slice(self.0);
        Ok(())
    }
}

/// The declaration of the planes, if there are any.
fn plane_layout(planned: &[Planned], seed: u64) -> Option<PlaneLayout> {
    let mut layout = PlaneLayout {
        seed: seed as u32,
        ..PlaneLayout::default()
    };
    for (planned, codec) in plan::planes(planned) {
        layout.tensors.insert(planned.wanted.name.clone());
        if let Ok(book) = codec.book().try_into() {
            layout.codebooks.insert(codec.row_len() as u32, book);
        }
    }
    (!layout.tensors.is_empty()).then_some(layout)
}

/// The signs of each width that planes have.
fn signs(planned: &[Planned]) -> BTreeMap<u64, &[f32]> {
    plan::planes(planned)
        .map(|(_, codec)| (codec.row_len() as u64, codec.signs()))
        .collect()
}

/// Only networks whose graph this program has; by class name, as model types are shared between networks.
fn check_architecture(checkpoint: &Checkpoint) -> Result<(), ImportError> {
    let names = &checkpoint.config()["architectures"];
    let known = |name: &Json| name.as_str() == Some(bailing::ARCHITECTURE);
    if names.as_array().is_some_and(|list| list.iter().any(known)) {
        return Ok(());
    }
    Err(ImportError::Architecture {
        path: checkpoint.folder().join(source::CONFIG),
        known: bailing::ARCHITECTURE,
        found: if names.is_null() {
            "nothing".to_owned()
        } else {
            names.to_string()
        },
    })
}

/// The bundle's own statement of its format, in either of its settings.
fn check_format(checkpoint: &Checkpoint, jang: &Json) -> Result<(), ImportError> {
    for (name, json) in [
        (source::CONFIG, checkpoint.config()),
        ("jang_config.json", jang),
    ] {
        let config = Config::new(checkpoint.folder(), name, json);
        let format = config.str("weight_format")?.unwrap_or("mxtq");
        config.check(format == "mxtq", "weight_format", "\"mxtq\"", format)?;
    }
    Ok(())
}

fn seed(checkpoint: &Checkpoint, jang: &Json) -> Result<u64, ImportError> {
    for (name, json) in [
        ("jang_config.json", jang),
        (source::CONFIG, checkpoint.config()),
    ] {
        let config = Config::new(checkpoint.folder(), name, json);
        if let Some(seed) = config.size_opt("mxtq_seed")? {
            return Ok(seed.into());
        }
    }
    Ok(DEFAULT_SEED)
}

/// Some checkpoints state an MTP block and leave its tensors out; others carry one unstated.
fn drop_absent_mtp(checkpoint: &Checkpoint, dims: &mut bailing::Dims) {
    let prefix = format!("model.layers.{}.", dims.n_layer);
    let there = checkpoint
        .tensors()
        .iter()
        .any(|t| t.name.starts_with(&prefix));
    if !there && dims.n_mtp > 0 {
        tracing::warn!(
            "config.json states an MTP block, but the checkpoint has no tensors of it: importing without"
        );
    }
    dims.n_mtp = there.into();
}

fn has_router_bias(config: &Config<'_>) -> Result<bool, ImportError> {
    config.bool_or("moe_router_enable_expert_bias", true)
}

/// Asking for planes where nothing can have them is a mistake to hear of.
fn refuse_no_planes(policy: &Policy, planned: &[Planned]) -> Result<(), ImportError> {
    let asked = |p: &&Planned| match p.wanted.class {
        Class::Expert(projection) => policy.experts.of(projection) == Some(ExpertForm::Planes),
        _ => false,
    };
    match planned.iter().find(asked) {
        Some(p) if plan::planes(planned).next().is_none() => Err(ImportError::Planes {
            tensor: p.wanted.name.clone(),
            expected: "2-bit MXTQ codes in rows of a power of two, at least 128",
            found: p.from(),
        }),
        _ => Ok(()),
    }
}

fn write_general(checkpoint: &Checkpoint, jang: &Json, planned: &[Planned], md: &mut Metadata) {
    let folder = folder_name(checkpoint.folder());
    let name = jang["source_model"]["name"].as_str().unwrap_or(&folder);
    md.insert("general.architecture", "bailing_hybrid");
    md.insert("general.type", "model");
    md.insert("general.name", name);
    md.insert("general.file_type", file_type(planned));
    md.insert("general.quantization_version", 2u32);
}

/// llama.cpp's mark of a file whose type is a guess.
const GUESSED: u32 = 1024;

/// The number llama.cpp gives to files mostly of one type.
fn file_type(planned: &[Planned]) -> u32 {
    let mut bytes = std::collections::BTreeMap::new();
    for p in planned {
        bytes.entry(p.ty().id()).or_insert((0, p.ty())).0 += p.bytes();
    }
    bytes
        .into_values()
        .max_by_key(|(n, _)| *n)
        .and_then(|(_, ty)| ty.name().parse::<FileType>().ok()?.id())
        .unwrap_or(GUESSED)
}

/// `general.sampling.*` from `generation_config.json`, where it has any.
fn write_sampling(checkpoint: &Checkpoint, md: &mut Metadata) -> Result<(), ImportError> {
    const NAME: &str = "generation_config.json";
    let json = checkpoint.json(NAME)?.unwrap_or(Json::Null);
    let config = Config::new(checkpoint.folder(), NAME, &json);
    for (key, name) in [
        ("temperature", "temp"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("repetition_penalty", "penalty_repeat"),
    ] {
        if let Some(value) = config.f32_opt(key)? {
            md.insert(format!("general.sampling.{name}"), value);
        }
    }
    if let Some(k) = config.size_opt("top_k")? {
        md.insert("general.sampling.top_k", k as i32);
    }
    Ok(())
}

/// Where the file comes from and what became of each kind of tensor.
fn write_provenance(checkpoint: &Checkpoint, jang: &Json, planned: &[Planned], md: &mut Metadata) {
    md.insert("oxling.import.version", env!("CARGO_PKG_VERSION"));
    md.insert("oxling.import.source", folder_name(checkpoint.folder()));
    if let Some(profile) = jang["profile"].as_str() {
        md.insert("oxling.import.source_profile", profile);
    }
    let mut lines: Vec<String> = Vec::new();
    for p in planned {
        let line = format!("{}: {} to {}", p.wanted.class, p.from(), p.to());
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let lines = lines.into_iter().map(GgufString::from).collect();
    md.insert("oxling.import.policy", Value::Array(Array::String(lines)));
}

/// The folder's own name, without the path to it: a file should not tell of its maker's disk.
fn folder_name(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    full.file_name().map_or_else(
        || "checkpoint".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}
