//! Flags that constrain answers, by llama.cpp's names.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use oxling::constrain::GrammarSpec;
use serde_json::Value;

use super::errors::hinted;
use super::model_args::read_text;

/// What answers must be.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Constraints (thoughts are free, the answer is not)")]
#[group(multiple = false)]
pub struct GrammarArgs {
    /// Grammar of the answer, in GBNF.
    #[arg(long, value_name = "GRAMMAR", allow_hyphen_values = true)]
    grammar: Option<String>,
    /// The same from a file.
    #[arg(long, value_name = "FILE")]
    grammar_file: Option<PathBuf>,
    /// JSON schema of the answer; `{}` is any JSON.
    #[arg(short = 'j', long, value_name = "SCHEMA", allow_hyphen_values = true)]
    json_schema: Option<String>,
    /// The same from a file [-jf].
    #[arg(long, value_name = "FILE")]
    json_schema_file: Option<PathBuf>,
}

impl GrammarArgs {
    /// What was asked for.
    ///
    /// # Errors
    /// A file that cannot be read, or a schema that is no JSON.
    pub fn spec(&self) -> Result<Option<GrammarSpec>> {
        let text = |given: &Option<String>, file: &Option<PathBuf>| -> Result<Option<String>> {
            match (given, file) {
                (Some(text), _) => Ok(Some(text.clone())),
                (None, Some(path)) => Ok(Some(read_text(path)?)),
                (None, None) => Ok(None),
            }
        };
        if let Some(grammar) = text(&self.grammar, &self.grammar_file)? {
            return Ok(Some(GrammarSpec::Gbnf(grammar)));
        }
        let schema = text(&self.json_schema, &self.json_schema_file)?;
        let from = match &self.json_schema_file {
            Some(path) => path.display().to_string(),
            None => "--json-schema".to_owned(),
        };
        schema.map(|json| read_schema(&from, &json)).transpose()
    }
}

fn read_schema(from: &str, json: &str) -> Result<GrammarSpec> {
    let schema: Value = serde_json::from_str(json).map_err(|e| {
        hinted(
            format!("{from}: {e}"),
            r#"expected a JSON schema, as in '{"type": "object"}'"#,
        )
    })?;
    Ok(GrammarSpec::JsonSchema(schema))
}
