//! Ratios to earlier results.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use oxling::bench::ratio;
use serde_json::{Map, Value};

use super::super::errors::hinted;
use super::super::model_args::read_text;
use super::super::table::{Align, Table};
use super::record::Record;

/// What makes two results the same test.
const TEST: [&str; 3] = ["n_prompt", "n_gen", "n_depth"];
/// Settings by which one of several results is chosen, and whose difference is said.
const SETTINGS: [&str; 9] = [
    "n_threads",
    "type_k",
    "flash_attn",
    "kernels",
    "n_ubatch",
    "n_batch",
    "n_gpu_layers",
    "spec_type",
    "spec_n_max",
];

/// Results of a file.
pub struct Other {
    path: PathBuf,
    results: Vec<Map<String, Value>>,
}

impl Other {
    /// Reads JSON or JSON lines of this program or of llama-bench.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let lines = || {
            text.lines()
                .filter(|l| !l.trim().is_empty())
                .map(serde_json::from_str)
        };
        let results: Vec<Map<String, Value>> = serde_json::from_str(&text)
            .or_else(|e| lines().collect::<Result<_, _>>().map_err(|_| e))
            .with_context(|| format!("{}: expected the JSON of a bench", path.display()))?;
        let complete = |r: &Map<String, Value>| {
            let numbers = TEST.iter().chain(&["avg_ts", "stddev_ts"]);
            numbers
                .into_iter()
                .all(|key| r.get(*key).is_some_and(Value::is_number))
        };
        if results.is_empty() || !results.iter().all(complete) {
            return Err(hinted(
                format!("{}: no results of a bench", path.display()),
                "make it with -o json",
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            results,
        })
    }

    /// Writes a row per record: both rates and their ratio.
    pub fn write(&self, out: &mut dyn Write, records: &[Record]) -> io::Result<()> {
        use Align::{Left, Right};
        let mut table = Table::new(&[
            ("test", Left),
            ("t/s", Right),
            ("there", Right),
            ("ratio", Right),
            ("other settings there", Left),
        ]);
        let with_spread = |(mean, spread): (f64, f64)| format!("{mean:.2} ± {spread:.2}");
        for record in records {
            let own = record.samples.rate();
            let Some(other) = self.find(record) else {
                let none = "-".to_owned();
                table.row([
                    record.test.to_string(),
                    with_spread(own),
                    none.clone(),
                    none,
                    String::new(),
                ]);
                continue;
            };
            let number = |key: &str| other.get(key).and_then(Value::as_f64).unwrap_or(0.0);
            let theirs = (number("avg_ts"), number("stddev_ts"));
            table.row([
                record.test.to_string(),
                with_spread(own),
                with_spread(theirs),
                ratio(own, theirs).map_or("-".to_owned(), |(r, spread)| {
                    format!("{r:.3} ± {spread:.3}")
                }),
                differences(record, other),
            ]);
        }
        writeln!(out, "\nagainst {}:", self.path.display())?;
        table.write(out)
    }

    /// The result of the same test whose settings agree most, the model file's name before all.
    fn find(&self, record: &Record) -> Option<&Map<String, Value>> {
        let same = |r: &Map<String, Value>| TEST.iter().all(|key| agrees(record, r, key));
        let mut found: Vec<&Map<String, Value>> = self.results.iter().filter(|r| same(r)).collect();
        prefer(&mut found, |r| file_name(r) == file_name(&record.fields));
        for key in SETTINGS {
            prefer(&mut found, |r| agrees(record, r, key));
        }
        found.last().copied()
    }
}

/// Leaves those that pass, if any does.
fn prefer(found: &mut Vec<&Map<String, Value>>, test: impl Fn(&Map<String, Value>) -> bool) {
    if found.iter().any(|r| test(r)) {
        found.retain(|r| test(r));
    }
}

fn agrees(record: &Record, other: &Map<String, Value>, key: &str) -> bool {
    value(other, key) == value(&record.fields, key)
}

/// A field; results that know nothing of guesses are those without any.
fn value<'a>(result: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let value = result.get(key).filter(|v| !v.is_null());
    value.filter(|v| key != "spec_type" || *v != "none")
}

fn file_name(result: &Map<String, Value>) -> Option<&str> {
    let path = result.get("model_filename")?.as_str()?;
    Path::new(path).file_name()?.to_str()
}

fn differences(record: &Record, other: &Map<String, Value>) -> String {
    let differ = SETTINGS.iter().filter(|key| !agrees(record, other, key));
    let mut all: Vec<String> = differ
        .filter_map(|key| match value(other, key) {
            None if *key == "spec_type" => Some("spec_type none".to_owned()),
            found => found.map(|value| format!("{key} {value}")),
        })
        .collect();
    if file_name(other) != file_name(&record.fields) {
        all.insert(0, file_name(other).unwrap_or("another model").to_owned());
    }
    all.join(", ")
}
