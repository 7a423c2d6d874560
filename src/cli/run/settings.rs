//! `/set`: sampling parameters that change during a chat, by the names of the HTTP interface or of the flags.

#![forbid(unsafe_code)]

use anyhow::Result;
use oxling::engine::sampling::{SamplerKind, SamplingParams};
use serde_json::{Map, Value};

use crate::cli::errors::hinted;

/// Flags whose names differ from those of the HTTP interface.
const ALIASES: &[(&str, &str)] = &[
    ("temp", "temperature"),
    ("typical", "typical_p"),
    ("typ_p", "typical_p"),
    ("top_nsigma", "top_n_sigma"),
    ("dynatemp_exp", "dynatemp_exponent"),
    ("mirostat_ent", "mirostat_tau"),
    ("mirostat_lr", "mirostat_eta"),
];

/// Names that no chat needs to change.
const HIDDEN: &[&str] = &["n_probs", "min_keep"];

fn fields(params: &SamplingParams) -> Result<Map<String, Value>> {
    match serde_json::to_value(params)? {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}

/// Names and values, as they are set.
pub fn list(params: &SamplingParams) -> Result<Vec<(String, String)>> {
    let shown = fields(params)?
        .into_iter()
        .filter(|(name, _)| !HIDDEN.contains(&name.as_str()));
    Ok(shown.map(|(name, value)| (name, show(&value))).collect())
}

/// Names that can be set.
pub fn names() -> Vec<String> {
    list(&SamplingParams::default())
        .unwrap_or_default()
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

fn show(value: &Value) -> String {
    match value {
        // The parameters are f32, whose shortest form is what the user typed.
        Value::Number(number) if number.is_f64() => {
            (number.as_f64().unwrap_or_default() as f32).to_string()
        }
        Value::Array(list) if list.iter().all(Value::is_string) => list
            .iter()
            .filter_map(Value::as_str)
            .map(|text| text.escape_debug().to_string())
            .collect::<Vec<_>>()
            .join(";"),
        Value::Null => "-1".to_owned(),
        other => other.to_string(),
    }
}

/// Changes one parameter and checks the result. `params` is left as it was on an error.
///
/// # Errors
/// An unknown name, or a value that cannot work.
pub fn set(params: &mut SamplingParams, name: &str, value: &str) -> Result<()> {
    let name = name.trim_start_matches('-').replace('-', "_");
    let name = ALIASES
        .iter()
        .find(|(alias, _)| *alias == name)
        .map_or(name.as_str(), |(_, name)| name);
    let mut fields = fields(params)?;
    if !fields.contains_key(name) {
        return Err(hinted(
            format!("no setting `{name}`"),
            "/set lists the settings",
        ));
    }
    let new = match name {
        "samplers" => serde_json::to_value(SamplerKind::parse_list(value)?)?,
        _ => serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned())),
    };
    fields.insert(name.to_owned(), new);
    let changed: SamplingParams = serde_json::from_value(Value::Object(fields)).map_err(|e| {
        hinted(
            format!("{name}: {e}"),
            "/set lists the settings and their values",
        )
    })?;
    changed.validate()?;
    *params = changed;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_change_by_the_names_of_flags_and_of_the_interface() {
        let mut p = SamplingParams::default();
        for (name, value) in [
            ("temp", "0.1"),
            ("--top-k", "5"),
            ("samplers", "top_k;temp"),
            ("seed", "7"),
        ] {
            set(&mut p, name, value).unwrap();
        }
        assert_eq!((p.temp, p.top_k, p.seed), (0.1, 5, Some(7)));
        assert_eq!(p.samplers, [SamplerKind::TopK, SamplerKind::Temperature]);
        let listed = list(&p).unwrap();
        let shown = |name: &str| {
            listed
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(
            (shown("temperature"), shown("samplers")),
            (Some("0.1"), Some("top_k;temperature"))
        );
        set(&mut p, "seed", "-1").unwrap();
        assert_eq!(p.seed, None);
    }

    #[test]
    fn a_wrong_value_changes_nothing() {
        let mut p = SamplingParams::default();
        for (name, value) in [
            ("temp", "hot"),
            ("top_p", "2"),
            ("nonsense", "1"),
            ("samplers", "x"),
            ("n", "1"),
        ] {
            assert!(set(&mut p, name, value).is_err(), "{name} {value}");
        }
        assert_eq!(p, SamplingParams::default());
    }
}
