//! What handlers make of a loaded model: chat setup, grammars, defaults.

use std::sync::Arc;

use super::config::{ServerConfig, TemplateChoice};
use crate::chat::tools::ToolFormat;
use crate::chat::{ChatTemplate, TemplateError};
use crate::constrain::{ConstrainError, Constrainer, GrammarSpec, Grammars, Start};
use crate::server::api::request::Defaults;
use crate::server::api::request::chat::ChatSetup;
use crate::server::api::{ApiError, ErrorKind};
use crate::server::status::ModelInfo;

/// Template for models that have none.
const FALLBACK: &str = "chatml";
/// Longest name of a model that an answer repeats.
const NAME_BYTES: usize = 256;

/// The model and what is made of it.
#[derive(Debug)]
pub struct Loaded {
    /// Facts about it.
    pub info: Arc<ModelInfo>,
    /// What chats need, or why there are none.
    chat: Result<ChatSetup, String>,
    grammars: Result<Grammars, String>,
    /// What requests get if they do not say otherwise.
    pub defaults: Defaults,
    /// Whether markers of thoughts and calls are control tokens, so that these must become text.
    show_control: bool,
}

impl Loaded {
    /// Prepares everything that does not depend on requests.
    pub fn new(info: Arc<ModelInfo>, config: &ServerConfig) -> Self {
        let defaults = Defaults {
            sampling: info.sampling.clone(),
            n_predict: config.n_predict,
            n_max: info.n_slots,
            speculation: info.speculation.clone(),
        };
        let chat = chat_setup(&info, config, defaults.clone());
        let grammars = Grammars::new(&info.tokenizer);
        for why in [
            chat.as_ref().err().map(ToString::to_string),
            grammars.as_ref().err().map(ToString::to_string),
        ] {
            why.iter().for_each(|why| tracing::warn!("{why}"));
        }
        let show_control = chat.as_ref().is_ok_and(|chat| {
            let tags = [chat.tags.open.as_str(), chat.tags.close.as_str()];
            let mut marks = chat.format.markers().iter().copied().chain(tags);
            marks.any(|text| {
                let id = info.tokenizer.token_id(text);
                id.is_some_and(|id| info.tokenizer.is_control(id))
            })
        });
        Self {
            chat: chat.map_err(|e| e.to_string()),
            grammars: grammars.map_err(|e| e.to_string()),
            info,
            defaults,
            show_control,
        }
    }

    /// What chats need.
    ///
    /// # Errors
    /// The template cannot be used.
    pub fn chat(&self) -> Result<&ChatSetup, ApiError> {
        self.chat.as_ref().map_err(ApiError::not_supported)
    }

    /// Whether control tokens of a chat must become text.
    pub fn shows_control(&self) -> bool {
        self.show_control
    }

    /// Makes a constraint.
    ///
    /// # Errors
    /// The grammar or schema is wrong; the message says where.
    pub fn constrainer(
        &self,
        spec: &GrammarSpec,
        start: Start,
    ) -> Result<Box<dyn Constrainer>, ApiError> {
        let grammars = self.grammars.as_ref().map_err(ApiError::not_supported)?;
        grammars.compile(spec, start).map_err(|e| match e {
            ConstrainError::Thread { .. } => ApiError::new(ErrorKind::Server, e.to_string()),
            ConstrainError::Vocabulary { .. } => ApiError::not_supported(e.to_string()),
            _ => ApiError::invalid(e.to_string()),
        })
    }

    /// The name an answer bears: that of the request, or the model's.
    pub fn name(&self, asked: Option<&str>) -> String {
        let asked = asked.filter(|name| !name.is_empty() && name.len() <= NAME_BYTES);
        asked.unwrap_or(&self.info.name).to_owned()
    }
}

fn chat_setup(
    info: &ModelInfo,
    config: &ServerConfig,
    defaults: Defaults,
) -> Result<ChatSetup, TemplateError> {
    let tokenizer = &info.tokenizer;
    let text = |id: Option<u32>| id.map_or("", |id| tokenizer.token_text(id));
    let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
    let template = match (&config.template, &info.chat_template) {
        (TemplateChoice::Source(source), _) => ChatTemplate::new(source, bos, eos)?,
        (TemplateChoice::Builtin(name), _) => ChatTemplate::builtin(name, bos, eos)?,
        (TemplateChoice::Model, Some(source)) => ChatTemplate::new(source, bos, eos)?,
        (TemplateChoice::Model, None) => {
            tracing::warn!("the model has no chat template: using {FALLBACK}");
            ChatTemplate::builtin(FALLBACK, bos, eos)?
        }
    };
    Ok(ChatSetup {
        tokenizer: Arc::clone(tokenizer),
        format: ToolFormat::detect(template.source()),
        tags: template.reasoning_tags(),
        template,
        kwargs: config.template_kwargs.clone(),
        thinking: config.thinking,
        split_thoughts: config.split_thoughts,
        prefill_assistant: config.prefill_assistant,
        defaults,
    })
}
