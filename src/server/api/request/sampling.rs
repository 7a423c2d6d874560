//! Sampling parameters of a request, over the server's defaults.

use serde_json::{Map, Value};

use super::fields::{Fields, float_of, int_of, kind_of};
use crate::engine::sampling::{SamplerKind, SamplingParams};
use crate::server::api::ApiError;
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// Most biases of one request: beyond it the list is an attack, not a wish.
const MOST_BIASES: usize = 1 << 16;

/// Takes over what the request says and checks the result.
///
/// # Errors
/// A field of the wrong type, or a value no sampler can work with.
pub fn apply(
    f: &Fields<'_>,
    p: &mut SamplingParams,
    tokenizer: &Tokenizer,
) -> Result<(), ApiError> {
    floats(f, p)?;
    integers(f, p)?;
    if let Some(value) = f.get("samplers") {
        p.samplers = samplers(value)?;
    }
    if let Some(texts) = f.texts("dry_sequence_breakers")? {
        p.dry_sequence_breakers = texts;
    }
    if let Some(value) = f.get("logit_bias") {
        p.logit_bias.extend(biases(value, tokenizer)?);
    }
    if let Some(ignore) = f.bool("ignore_eos")? {
        p.ignore_eos = ignore;
    }
    Ok(p.validate()?)
}

fn floats(f: &Fields<'_>, p: &mut SamplingParams) -> Result<(), ApiError> {
    let table: [(&[&str], &mut f32); 18] = [
        (&["temperature", "temp"], &mut p.temp),
        (&["dynatemp_range"], &mut p.dynatemp_range),
        (&["dynatemp_exponent"], &mut p.dynatemp_exponent),
        (&["top_p"], &mut p.top_p),
        (&["min_p"], &mut p.min_p),
        (&["typical_p", "typ_p"], &mut p.typ_p),
        (&["top_n_sigma"], &mut p.top_n_sigma),
        (&["xtc_probability"], &mut p.xtc_probability),
        (&["xtc_threshold"], &mut p.xtc_threshold),
        (
            &["repeat_penalty", "repetition_penalty"],
            &mut p.penalty_repeat,
        ),
        (&["frequency_penalty"], &mut p.penalty_freq),
        (&["presence_penalty"], &mut p.penalty_present),
        (&["dry_multiplier"], &mut p.dry_multiplier),
        (&["dry_base"], &mut p.dry_base),
        (&["mirostat_tau"], &mut p.mirostat_tau),
        (&["mirostat_eta"], &mut p.mirostat_eta),
        (&["adaptive_target"], &mut p.adaptive_target),
        (&["adaptive_decay"], &mut p.adaptive_decay),
    ];
    for (names, target) in table {
        if let Some((name, value)) = f.first(names) {
            *target = float_of(name, value)? as f32;
        }
    }
    Ok(())
}

fn integers(f: &Fields<'_>, p: &mut SamplingParams) -> Result<(), ApiError> {
    if let Some(seed) = f.int("seed")? {
        p.seed = SamplingParams::seed_from_number(seed);
    }
    let wide = i64::from(i32::MAX);
    for (name, target) in [
        ("top_k", &mut p.top_k),
        ("repeat_last_n", &mut p.penalty_last_n),
        ("dry_penalty_last_n", &mut p.dry_penalty_last_n),
    ] {
        if let Some(n) = f.int_in(name, -wide, wide)? {
            *target = i32::try_from(n).unwrap_or(*target);
        }
    }
    for (name, target) in [
        ("min_keep", &mut p.min_keep),
        ("dry_allowed_length", &mut p.dry_allowed_length),
    ] {
        if let Some(n) = f.int_in(name, 0, wide)? {
            *target = u32::try_from(n).unwrap_or(*target);
        }
    }
    if let Some(version) = f.int_in("mirostat", 0, 2)? {
        p.mirostat = u8::try_from(version).unwrap_or_default();
    }
    Ok(())
}

/// A list of names, a list in one text (`top_k;temperature`), or letters (`kt`).
fn samplers(value: &Value) -> Result<Vec<SamplerKind>, ApiError> {
    match value {
        Value::String(text) if text.contains(';') => Ok(SamplerKind::parse_list(text)?),
        Value::String(text) => Ok(text
            .parse()
            .map(|one| vec![one])
            .or_else(|_| SamplerKind::parse_letters(text))?),
        Value::Array(list) => list
            .iter()
            .map(|item| match item {
                Value::String(name) => Ok(name.parse::<SamplerKind>()?),
                other => Err(ApiError::field(
                    "samplers",
                    format!("expected names, found {}", kind_of(other)),
                )),
            })
            .collect(),
        other => Err(ApiError::field(
            "samplers",
            format!("expected an array of names, found {}", kind_of(other)),
        )),
    }
}

/// `{"id": bias}` as OpenAI has it, or `[[id, bias], ["text", false]]` as llama-server has it.
fn biases(value: &Value, tokenizer: &Tokenizer) -> Result<Vec<(u32, f32)>, ApiError> {
    let mut all = Vec::new();
    match value {
        Value::Object(map) => from_object(map, tokenizer, &mut all)?,
        Value::Array(list) => {
            for item in list {
                match item.as_array().map(Vec::as_slice) {
                    Some([token, bias]) => add_bias(token, bias, tokenizer, &mut all)?,
                    _ => {
                        return Err(ApiError::field(
                            "logit_bias",
                            "expected pairs [token, bias]",
                        ));
                    }
                }
            }
        }
        other => {
            return Err(ApiError::field(
                "logit_bias",
                format!("expected an object or an array, found {}", kind_of(other)),
            ));
        }
    }
    if all.len() > MOST_BIASES {
        let many = format!("{} biases, at most {MOST_BIASES} are taken", all.len());
        return Err(ApiError::field("logit_bias", many));
    }
    Ok(all)
}

fn from_object(
    map: &Map<String, Value>,
    tokenizer: &Tokenizer,
    all: &mut Vec<(u32, f32)>,
) -> Result<(), ApiError> {
    for (token, bias) in map {
        let token = token
            .parse::<i64>()
            .map_or_else(|_| Value::String(token.clone()), Value::from);
        add_bias(&token, bias, tokenizer, all)?;
    }
    Ok(())
}

fn add_bias(
    token: &Value,
    bias: &Value,
    tokenizer: &Tokenizer,
    all: &mut Vec<(u32, f32)>,
) -> Result<(), ApiError> {
    let bias = match bias {
        Value::Bool(false) => f32::NEG_INFINITY,
        number => float_of("logit_bias", number)? as f32,
    };
    if let Value::String(text) = token {
        let tokens = tokenizer.encode(text, EncodeOptions::default());
        all.extend(tokens.into_iter().map(|token| (token, bias)));
        return Ok(());
    }
    let id = int_of("logit_bias", token)?;
    let known = u32::try_from(id)
        .ok()
        .filter(|&id| (id as usize) < tokenizer.n_vocab());
    match known {
        Some(id) => all.push((id, bias)),
        None => {
            let n = tokenizer.n_vocab();
            let reason = format!("token {id} is not one of the model's {n}");
            return Err(ApiError::field("logit_bias", reason));
        }
    }
    Ok(())
}
