//! Plans and results for people and for programs.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use oxling::gguf::GgmlType;
use oxling::quantize::{FileType, Planned, QuantizePlan, Reason};
use serde_json::{Value, json};

use super::target::Target;
use crate::cli::table::{Align, Table, human_bytes};

/// Bits per weight of a type.
fn bits(ty: GgmlType) -> f64 {
    ty.type_size() as f64 * 8.0 / ty.block_size() as f64
}

/// The list of types at the end of the help.
pub fn types_help() -> String {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right), ("", Align::Left)]);
    for file_type in FileType::all() {
        let (bits, note) = match (file_type, file_type.base()) {
            (FileType::Mix(mix), Some(base)) => (format!("{:.2}", bits(base)), mix.note()),
            (_, Some(base)) => (format!("{:.2}", bits(base)), "this type throughout"),
            _ => (
                String::new(),
                "tensors as they are, but for --tensor-type and its like",
            ),
        };
        table.row([file_type.name().to_owned(), bits, note.to_owned()]);
    }
    let mut types = Vec::new();
    // Writing to memory does not fail.
    let _ = table.write(&mut types);
    format!(
        "Types, with the bits per weight of most matrices:\n{}\n\
         Q3_K, Q4_K and Q5_K stand for their M mixes, and llama.cpp's numbers are understood. --tensor-type and its\n\
         like take the types of single tensors: Q4_K, IQ3_S, F16 ...\n\n\
         Examples:\n  \
         oxling quantize model-F16.gguf model-Q4_K_M.gguf Q4_K_M\n  \
         oxling quantize model-F16.gguf Q4_K_M --dry-run            # what it would do, and how large it would be\n  \
         oxling imatrix -m model-F16.gguf -f text.txt -o model.imatrix.gguf\n  \
         oxling quantize --imatrix model.imatrix.gguf model-F16.gguf model-IQ2_M.gguf IQ2_M\n  \
         oxling quantize --tensor-type 'ffn_.*_exps=IQ2_S' --tensor-type 'attn_.*=Q6_K' \\\n    \
         --imatrix model.imatrix.gguf model-F16.gguf small.gguf Q4_K_M\n  \
         oxling quantize --split-max-size 20G model-F16.gguf model-Q8_0.gguf Q8_0",
        String::from_utf8_lossy(&types)
    )
}

/// A note on a tensor's type.
fn note(tensor: &Planned) -> String {
    let note = match tensor.reason {
        Reason::Kept(why) => why.to_owned(),
        Reason::Mix => String::new(),
        Reason::Named => "as asked".to_owned(),
        Reason::Fallback { wanted } => {
            format!("rows of {} do not fit {wanted}", tensor.shape.ne()[0])
        }
    };
    match (note.is_empty(), tensor.importance) {
        (_, false) => note,
        (true, true) => "with importances".to_owned(),
        (false, true) => format!("{note}, with importances"),
    }
}

fn bits_of(bytes: u64, weights: u64) -> f64 {
    bytes as f64 * 8.0 / weights.max(1) as f64
}

/// Prints the plan.
pub fn plan(plan: &QuantizePlan<'_>, target: &Target, as_json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let report = Report::new(plan, target);
        writeln!(out, "{}", serde_json::to_string_pretty(&report.0)?)?;
        return Ok(());
    }
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("shape", Align::Left),
        ("from", Align::Left),
        ("to", Align::Left),
        ("bits/weight", Align::Right),
        ("size", Align::Right),
        ("", Align::Left),
    ]);
    for tensor in plan.tensors() {
        table.row([
            tensor.name.clone(),
            tensor.shape.to_string(),
            tensor.from.to_string(),
            tensor.to.to_string(),
            format!("{:.2}", tensor.bits_per_weight()),
            human_bytes(tensor.bytes()),
            note(tensor),
        ]);
    }
    table.write(&mut out)?;
    writeln!(out, "\n{}", totals(plan))?;
    Ok(())
}

fn totals(plan: &QuantizePlan<'_>) -> String {
    let weights = plan.n_weights();
    let side = |bytes: u64| {
        let bits = bits_of(bytes, weights);
        format!("{} ({bits:.2} bits per weight)", human_bytes(bytes))
    };
    format!("{} -> {}", side(plan.source_bytes()), side(plan.bytes()))
}

/// Says what is going to be done: sizes, types and tensors that get another type than the mix says.
pub fn summary(plan: &QuantizePlan<'_>, target: &Target) {
    anstream::eprintln!("{}: {}", target.file_type, totals(plan));
    let mut types: BTreeMap<GgmlType, usize> = BTreeMap::new();
    let mut fallbacks: BTreeMap<(GgmlType, GgmlType, u64), usize> = BTreeMap::new();
    for tensor in plan.tensors() {
        *types.entry(tensor.to).or_default() += 1;
        if let Reason::Fallback { wanted } = tensor.reason {
            let kind = (wanted, tensor.to, tensor.shape.ne()[0]);
            *fallbacks.entry(kind).or_default() += 1;
        }
    }
    let types: Vec<String> = types.iter().map(|(ty, n)| format!("{n} {ty}")).collect();
    anstream::eprintln!("tensors: {}", types.join(", "));
    for ((wanted, used, row), n) in fallbacks {
        anstream::eprintln!("{n} tensors get {used} instead of {wanted}, for rows of {row}");
    }
}

/// The plan as JSON, and later the result with it.
pub struct Report(Value);

impl Report {
    /// The plan.
    pub fn new(plan: &QuantizePlan<'_>, target: &Target) -> Self {
        let tensor = |t: &Planned| {
            json!({
                "name": t.name, "shape": t.shape.dims(), "from": t.from.name(), "to": t.to.name(),
                "bits_per_weight": t.bits_per_weight(), "bytes": t.bytes(), "importance": t.importance,
                "note": note(t),
            })
        };
        let weights = plan.n_weights();
        Self(json!({
            "type": target.file_type.name(),
            "weights": weights,
            "source_bytes": plan.source_bytes(),
            "bytes": plan.bytes(),
            "bits_per_weight": bits_of(plan.bytes(), weights),
            "tensors": plan.tensors().iter().map(tensor).collect::<Vec<_>>(),
        }))
    }

    /// Prints the result.
    pub fn done(mut self, files: Vec<PathBuf>, seconds: f64, as_json: bool) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if !as_json {
            for file in files {
                writeln!(out, "{}", file.display())?;
            }
            return Ok(());
        }
        if let Some(report) = self.0.as_object_mut() {
            report.insert("files".into(), json!(files));
            report.insert("seconds".into(), json!(seconds));
        }
        writeln!(out, "{}", serde_json::to_string_pretty(&self.0)?)?;
        Ok(())
    }
}
