//! Flags of the chat template and of thinking, which `run` and `serve` share.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use oxling::chat::builtin_template_names;
use oxling::server::http::TemplateChoice;
use serde_json::{Map, Value};

use super::errors::hinted;
use super::model_args::{OnOffAuto, read_text};

/// How messages become a prompt, and whether the model thinks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Chat")]
pub struct TemplateArgs {
    /// Use the model's own template through Jinja; always so, the flag is accepted for llama.cpp's sake.
    #[arg(long, overrides_with = "no_jinja")]
    pub jinja: bool,
    #[arg(long, hide = true, overrides_with = "jinja")]
    pub no_jinja: bool,
    /// Name of a built-in chat template, or the text of one.
    #[arg(
        long,
        value_name = "NAME|TEXT",
        allow_hyphen_values = true,
        env = "LLAMA_ARG_CHAT_TEMPLATE"
    )]
    pub chat_template: Option<String>,
    /// File with a chat template.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "chat_template",
        env = "LLAMA_ARG_CHAT_TEMPLATE_FILE"
    )]
    pub chat_template_file: Option<PathBuf>,
    /// Further variables for the template, as in '{"enable_thinking": true}'.
    #[arg(
        long,
        value_name = "JSON",
        allow_hyphen_values = true,
        env = "LLAMA_ARG_CHAT_TEMPLATE_KWARGS"
    )]
    pub chat_template_kwargs: Option<String>,
    /// Let the model think before it answers; auto leaves it to the template [-rea].
    #[arg(long, value_name = "MODE", value_enum, default_value_t = OnOffAuto::Auto, env = "LLAMA_ARG_REASONING")]
    pub reasoning: OnOffAuto,
    /// Where thoughts go: `deepseek` takes them out of the answer, `none` leaves them in it with their tags.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ReasoningFormat::Auto, env = "LLAMA_ARG_THINK")]
    pub reasoning_format: ReasoningFormat,
    /// Effort the template asks for, such as `low` or `high`; `none` turns thinking off.
    #[arg(long, value_name = "LEVEL", env = "LLAMA_ARG_REASONING_EFFORT")]
    pub reasoning_effort: Option<String>,
}

/// What happens to thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReasoningFormat {
    /// As `deepseek`.
    Auto,
    /// Thoughts stay in the answer, with their tags.
    None,
    /// Thoughts are told from the answer: `run` shows them on stderr, `serve` in a field of their own.
    #[value(alias = "deepseek-legacy")]
    Deepseek,
}

impl TemplateArgs {
    /// The template these flags name.
    pub fn choice(&self) -> Result<TemplateChoice> {
        if let Some(path) = &self.chat_template_file {
            return Ok(TemplateChoice::Source(read_text(path)?));
        }
        Ok(match &self.chat_template {
            None => TemplateChoice::Model,
            Some(given)
                if builtin_template_names().any(|name| name == given) || !given.contains('{') =>
            {
                TemplateChoice::Builtin(given.clone())
            }
            Some(given) => TemplateChoice::Source(given.clone()),
        })
    }

    /// Variables for the template.
    pub fn kwargs(&self) -> Result<Map<String, Value>> {
        let mut kwargs = match &self.chat_template_kwargs {
            None => Map::new(),
            Some(json) => serde_json::from_str(json).map_err(|e| {
                hinted(
                    format!("--chat-template-kwargs: {e}"),
                    r#"expected a JSON object, as in '{"enable_thinking": true}'"#,
                )
            })?,
        };
        let effort = self.reasoning_effort.as_deref();
        if let Some(level) = effort.filter(|level| !matches!(*level, "default" | "none")) {
            kwargs.insert("reasoning_effort".to_owned(), level.into());
        }
        Ok(kwargs)
    }

    /// Whether the model thinks; `None` leaves it to the template.
    pub fn thinking(&self) -> Option<bool> {
        match self.reasoning {
            OnOffAuto::On => Some(true),
            OnOffAuto::Off => Some(false),
            OnOffAuto::Auto => (self.reasoning_effort.as_deref() == Some("none")).then_some(false),
        }
    }

    /// Whether thoughts are told from the answer.
    pub fn split_thoughts(&self) -> bool {
        self.reasoning_format != ReasoningFormat::None
    }
}
