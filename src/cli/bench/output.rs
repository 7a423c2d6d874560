//! Results in llama-bench's formats.

#![forbid(unsafe_code)]

use std::io::{self, Write};

use clap::ValueEnum;
use oxling::bench::{Samples, ratio};

use super::plan::Plan;
use super::record::Record;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table.
    Md,
    /// A JSON list.
    Json,
    /// A JSON object per line.
    Jsonl,
    /// Quoted values, comma-separated.
    Csv,
    /// Statements that fill a table.
    Sql,
}

/// Prints results as they come.
pub struct Printer {
    format: Format,
    columns: Vec<Column>,
    n_records: usize,
}

/// A column of the Markdown table.
struct Column {
    field: &'static str,
    title: &'static str,
    width: usize,
    left: bool,
}

/// Columns between those of the model and those of the result: field, title, width.
const OPTIONAL: [(&str, &str, usize); 12] = [
    ("n_gpu_layers", "ngl", 3),
    ("n_cpu_moe", "n_cpu_moe", 10),
    ("n_threads", "threads", 7),
    ("n_batch", "n_batch", 7),
    ("n_ubatch", "n_ubatch", 8),
    ("type_k", "type_k", 6),
    ("flash_attn", "fa", 3),
    ("kernels", "kernels", 7),
    ("devices", "dev", 12),
    ("load_mode", "lm", 10),
    ("spec_type", "spec", 5),
    ("spec_n_max", "n_max", 5),
];

/// Columns behind the result, where tests guess ahead.
const GUESSES: [(&str, &str, usize); 4] = [
    ("plain", "plain", 20),
    ("spec_ratio", "ratio", 13),
    ("spec_acceptance", "right", 5),
    ("spec_mean_len", "len", 5),
];

impl Printer {
    /// A printer that has printed nothing yet.
    pub fn new(format: Format, plan: &Plan) -> Self {
        let column = |(field, title, width): (&'static str, &'static str, usize)| Column {
            field,
            title,
            width,
            left: matches!(field, "model_type" | "backends" | "devices" | "spec_type"),
        };
        let on_gpu = oxling::ggml::devices()
            .iter()
            .any(oxling::ggml::Device::is_gpu);
        let shown = |field: &str| match field {
            "n_gpu_layers" => on_gpu,
            "n_threads" => !on_gpu || plan.varies(field),
            _ => plan.varies(field),
        };
        let model = [
            ("model_type", "model", 30),
            ("model_size", "size", 10),
            ("model_n_params", "params", 10),
            ("backends", "backend", 10),
        ];
        let result = [("test", "test", 15), ("t/s", "t/s", 20)];
        let guesses = GUESSES.into_iter().filter(|_| plan.speculates());
        let optional = OPTIONAL.into_iter().filter(|(field, ..)| shown(field));
        Self {
            format,
            columns: model
                .into_iter()
                .chain(optional)
                .chain(result)
                .chain(guesses)
                .map(column)
                .collect(),
            n_records: 0,
        }
    }

    /// Prints a result, and what comes before the first.
    pub fn record(&mut self, out: &mut dyn Write, record: &Record) -> io::Result<()> {
        let first = self.n_records == 0;
        self.n_records += 1;
        match self.format {
            Format::Md => {
                if first {
                    self.heading(out)?;
                }
                self.row(out, |column| cell(record, column.field))?;
            }
            Format::Json => {
                write!(out, "{}", if first { "[\n" } else { ",\n" })?;
                let text = serde_json::to_string_pretty(&record.json())?;
                write!(out, "  {}", text.replace('\n', "\n  "))?;
            }
            Format::Jsonl => writeln!(out, "{}", record.json())?,
            Format::Csv => {
                if first {
                    writeln!(out, "{}", names(record).join(","))?;
                }
                let quoted = |v: String| format!("\"{}\"", v.replace('"', "\"\""));
                writeln!(out, "{}", values(record, "", quoted).join(","))?;
            }
            Format::Sql => {
                if first {
                    create_table(out, record)?;
                }
                let quoted = |v: String| format!("'{}'", v.replace('\'', "''"));
                writeln!(
                    out,
                    "INSERT INTO llama_bench ({}) VALUES ({});",
                    names(record).join(", "),
                    values(record, "NULL", quoted).join(", ")
                )?;
            }
        }
        out.flush()
    }

    /// Prints what comes after the last result.
    pub fn finish(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.format {
            Format::Md => writeln!(out, "\nbuild: {} (0)", env!("CARGO_PKG_VERSION")),
            Format::Json => writeln!(out, "\n]"),
            _ => Ok(()),
        }
    }

    fn heading(&self, out: &mut dyn Write) -> io::Result<()> {
        self.row(out, |column| column.title.to_owned())?;
        let rules = self.columns.iter().map(|column| {
            let rule = "-".repeat(column.width - usize::from(!column.left));
            if column.left {
                format!(" {rule} ")
            } else {
                format!(" {rule}: ")
            }
        });
        writeln!(out, "|{}|", rules.collect::<Vec<_>>().join("|"))
    }

    fn row(&self, out: &mut dyn Write, cell: impl Fn(&Column) -> String) -> io::Result<()> {
        let cells = self.columns.iter().map(|column| {
            let (text, width) = (cell(column), column.width);
            if column.left {
                format!(" {text:<width$} ")
            } else {
                format!(" {text:>width$} ")
            }
        });
        writeln!(out, "|{}|", cells.collect::<Vec<_>>().join("|"))
    }
}

/// A value as the table shows it.
fn cell(record: &Record, field: &str) -> String {
    let number = || {
        record
            .fields
            .get(field)
            .and_then(serde_json::Value::as_f64)
            .unwrap_or(0.0)
    };
    let scaled = |small: (f64, &str), large: (f64, &str)| {
        let (unit, name) = if number() < large.0 { small } else { large };
        format!("{:.2} {name}", number() / unit)
    };
    match field {
        "model_size" => scaled((f64::from(1 << 20), "MiB"), (f64::from(1 << 30), "GiB")),
        "model_n_params" => scaled((1e6, "M"), (1e9, "B")),
        "test" => record.test.to_string(),
        "t/s" => with_spread(Some(record.samples.rate())),
        "plain" => with_spread(record.plain.as_ref().map(Samples::rate)),
        "spec_ratio" => {
            let plain = record.plain.as_ref().map(Samples::rate);
            with_spread(plain.and_then(|plain| ratio(record.samples.rate(), plain)))
        }
        "spec_acceptance" | "spec_mean_len" if !record.text(field).is_empty() => {
            format!("{:.2}", number())
        }
        _ => record.text(field),
    }
}

fn with_spread(value: Option<(f64, f64)>) -> String {
    value.map_or_else(String::new, |(mean, deviation)| {
        format!("{mean:.2} ± {deviation:.2}")
    })
}

fn names(record: &Record) -> Vec<&str> {
    record.fields.keys().map(String::as_str).collect()
}

/// Values as text; `null` is what stands for those that are not known.
fn values(record: &Record, null: &str, quoted: impl Fn(String) -> String) -> Vec<String> {
    let fields = record.fields.iter();
    fields
        .map(|(field, value)| match value {
            serde_json::Value::Null => null.to_owned(),
            _ => quoted(record.text(field)),
        })
        .collect()
}

fn create_table(out: &mut dyn Write, record: &Record) -> io::Result<()> {
    let columns = record.fields.iter().map(|(name, value)| {
        let ty = match value {
            serde_json::Value::String(_) => "TEXT",
            serde_json::Value::Number(n) if n.is_f64() => "REAL",
            // Another record may have a value where the first has none.
            serde_json::Value::Null if name != "spec_n_max" => "REAL",
            _ => "INTEGER",
        };
        format!("  {name} {ty}")
    });
    let columns = columns.collect::<Vec<_>>().join(",\n");
    writeln!(
        out,
        "CREATE TABLE IF NOT EXISTS llama_bench (\n{columns}\n);\n"
    )
}
