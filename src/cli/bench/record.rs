//! One result with the fields of llama-bench.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use oxling::bench::{Samples, Test, ratio};
use oxling::engine::EngineConfig;
use oxling::engine::speculation::{DraftStats, DraftType};
use oxling::ggml::Device;
use oxling::model::Model;
use oxling::quantize::FileType;
use serde_json::{Map, Value, json};

use super::super::model_args::{GpuLayers, LoadMode, OnOffAuto};
use super::measure::Measured;
use super::plan::Setup;

/// A test's result: what llama-bench's JSON objects have, in its order, `samples_*` last.
pub struct Record {
    /// All fields but the samples.
    pub fields: Map<String, Value>,
    /// The repetitions.
    pub samples: Samples,
    /// The repetitions without guesses, if there were guesses.
    pub plain: Option<Samples>,
    /// The test.
    pub test: Test,
}

impl Record {
    /// The result of a test. Fields for which this program has no setting hold llama-bench's defaults; `speculates` adds
    /// those of guesses.
    pub fn new(
        model: &Model,
        setup: &Setup,
        test: Test,
        measured: &Measured,
        speculates: bool,
    ) -> Result<Self> {
        let samples = measured.samples.clone();
        let (avg_ns, stddev_ns) = samples.time();
        let (avg_ts, stddev_ts) = samples.rate();
        let result = [
            ("n_prompt", json!(test.n_prompt)),
            ("n_gen", json!(test.n_gen)),
            ("n_depth", json!(test.n_depth)),
            ("test_time", json!(utc(SystemTime::now()))),
            ("avg_ns", json!(avg_ns)),
            ("stddev_ns", json!(stddev_ns)),
            ("avg_ts", json!(avg_ts)),
            ("stddev_ts", json!(stddev_ts)),
        ];
        let mut fields: Map<String, Value> = machine(model)?
            .into_iter()
            .chain(settings(setup, &measured.config))
            .chain(result)
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        if speculates {
            let guesses = guesses(measured).into_iter();
            fields.extend(guesses.map(|(name, value)| (name.to_owned(), value)));
        }
        Ok(Self {
            fields,
            samples,
            plain: measured.compared.as_ref().map(|c| c.0.clone()),
            test,
        })
    }

    /// The JSON object.
    pub fn json(&self) -> Value {
        let mut all = self.fields.clone();
        all.insert("samples_ns".into(), json!(self.samples.ns));
        all.insert("samples_ts".into(), json!(self.samples.rates()));
        Value::Object(all)
    }

    /// A field as text; switches are 1 and 0.
    pub fn text(&self, field: &str) -> String {
        match self.fields.get(field) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(on)) => u8::from(*on).to_string(),
            Some(Value::Number(n)) if n.is_f64() => format!("{:.6}", n.as_f64().unwrap_or(0.0)),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        }
    }
}

/// The program, the machine and the model.
fn machine(model: &Model) -> Result<[(&'static str, Value); 9]> {
    let gpus = |name: fn(&Device) -> String| {
        let gpus = model.devices().iter().filter(|d| d.is_gpu());
        let mut names: Vec<String> = gpus.map(name).collect();
        names.dedup();
        names
    };
    let mut backends = gpus(Device::backend_name);
    if backends.is_empty() {
        backends.push("CPU".to_owned());
    }
    let path = model.gguf().shards().first().map(|s| s.path());
    let file = path.map_or(Cow::default(), |p| p.to_string_lossy());
    Ok([
        ("build_commit", json!(env!("CARGO_PKG_VERSION"))),
        ("build_number", json!(0)),
        ("cpu_info", json!(Device::cpu()?.description())),
        ("gpu_info", json!(gpus(Device::description).join(", "))),
        ("backends", json!(backends.join(","))),
        ("model_filename", json!(file)),
        ("model_type", json!(model_type(model))),
        ("model_size", json!(model.n_bytes())),
        ("model_n_params", json!(model.n_params())),
    ])
}

/// How tokens were guessed and what it brought; nothing where none were.
fn guesses(measured: &Measured) -> [(&'static str, Value); 6] {
    let (params, compared) = (&measured.speculation, &measured.compared);
    let guessing = params.draft != DraftType::None;
    let brought = compared.as_ref().map(|(_, stats)| stats);
    let share = |stats: &DraftStats| match stats.n_drafted() {
        0 => None,
        n => Some(stats.n_accepted() as f64 / n as f64),
    };
    let plain = compared.as_ref().map(|(plain, _)| plain.rate());
    let quotient = plain.and_then(|plain| ratio(measured.samples.rate(), plain));
    [
        ("spec_type", json!(params.draft.name())),
        ("spec_n_max", json!(guessing.then_some(params.n_max))),
        ("spec_acceptance", json!(brought.and_then(share))),
        ("spec_mean_len", json!(brought.map(DraftStats::mean_length))),
        ("avg_ts_plain", json!(plain.map(|p| p.0))),
        ("spec_ratio", json!(quotient.map(|q| q.0))),
    ]
}

/// What the flags chose.
fn settings(setup: &Setup, config: &EngineConfig) -> [(&'static str, Value); 26] {
    let given = &setup.model;
    let row_type = config.row_type.name().to_ascii_lowercase();
    let devices = if given.device.is_empty() {
        "auto".to_owned()
    } else {
        given.device.join("/")
    };
    let n_gpu_layers = match given.n_gpu_layers {
        GpuLayers::Auto => -1,
        GpuLayers::Count(u32::MAX) => -2,
        GpuLayers::Count(n) => i64::from(n),
    };
    let flash_attn = match setup.compute.flash_attn {
        OnOffAuto::Auto => -1,
        OnOffAuto::Off => 0,
        OnOffAuto::On => 1,
    };
    let load_mode = match given.load_mode {
        LoadMode::Auto => "auto",
        LoadMode::Mmap => "mmap",
        LoadMode::None => "none",
    };
    [
        ("n_batch", json!(setup.compute.batch_size)),
        ("n_ubatch", json!(setup.compute.ubatch_size)),
        ("n_threads", json!(config.n_threads)),
        ("cpu_mask", json!("0x0")),
        ("cpu_strict", json!(false)),
        ("poll", json!(50)),
        ("type_k", json!(row_type)),
        ("type_v", json!(row_type)),
        ("n_gpu_layers", json!(n_gpu_layers)),
        ("n_cpu_moe", json!(given.n_cpu_moe)),
        ("split_mode", json!("layer")),
        ("main_gpu", json!(0)),
        ("no_kv_offload", json!(false)),
        ("flash_attn", json!(flash_attn)),
        ("kernels", json!(setup.compute.kernels.name())),
        ("devices", json!(devices)),
        ("tensor_split", json!("0.00")),
        ("tensor_buft_overrides", json!("none")),
        ("load_mode", json!(load_mode)),
        ("lazy_mode", json!("auto")),
        ("embeddings", json!(false)),
        ("no_op_offload", json!(0)),
        ("no_host", json!(false)),
        ("repack", json!(true)),
        ("fit_target", json!(0)),
        ("fit_min_ctx", json!(0)),
    ]
}

/// Architecture, size as the file calls it, and type: `bailing_hybrid 19M IQ4_NL`.
fn model_type(model: &Model) -> String {
    let metadata = model.gguf().metadata();
    let mut words = vec![model.architecture().name.to_owned()];
    words.extend(
        metadata
            .str("general.size_label")
            .ok()
            .flatten()
            .map(str::to_owned),
    );
    let id = metadata.u32("general.file_type").ok().flatten();
    let ty = FileType::all().find(|ty| ty.id().is_some() && ty.id() == id);
    words.extend(ty.map(|ty| ty.name().to_owned()));
    words.join(" ")
}

/// A time as `2026-01-31T23:59:59Z`.
fn utc(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that start in March end with the leap day; 0000-03-01 is 719468 days before 1970.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!(
        "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        era * 400 + year + carry,
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), date);
        }
    }
}
