//! Chat requests: messages to a prompt, and how its answer is read.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::fields::Fields;
use super::options::{Defaults, Options};
use super::prompt::Prompt;
use super::{boundaries, messages};
use crate::chat::tools::ToolFormat;
use crate::chat::{ChatRequest, ChatTemplate, Message, ReasoningSplitter, ReasoningTags};
use crate::constrain::{GrammarSpec, Start, ToolChoice};
use crate::server::api::ApiError;
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// Tags that no text has: with them thoughts stay in the answer as they are.
const NO_TAG: &str = "\u{10fffe}no tag\u{10ffff}";

/// What chats need beside the request.
#[derive(Debug)]
pub struct ChatSetup {
    /// Text to tokens.
    pub tokenizer: Arc<Tokenizer>,
    /// Turns messages into a prompt.
    pub template: ChatTemplate,
    /// How the model writes calls.
    pub format: ToolFormat,
    /// How it marks thoughts.
    pub tags: ReasoningTags,
    /// Variables of the template for all requests.
    pub kwargs: Map<String, Value>,
    /// Whether to think; `None` leaves it to the template.
    pub thinking: Option<bool>,
    /// Whether thoughts are told from the answer.
    pub split_thoughts: bool,
    /// Whether a trailing assistant message is continued.
    pub prefill_assistant: bool,
    /// What requests get if they do not say otherwise.
    pub defaults: Defaults,
}

/// How the text of an answer becomes content, thoughts and calls.
#[derive(Debug, Clone)]
pub struct Reading {
    /// How calls are written.
    pub format: ToolFormat,
    /// How thoughts are marked.
    pub tags: ReasoningTags,
    /// Functions that may be called.
    pub tools: Option<Value>,
    /// Whether there may be several calls.
    pub parallel: bool,
}

/// A chat request, ready to be computed.
#[derive(Debug, Clone)]
pub struct ChatCall {
    /// The prompt.
    pub prompt: Prompt,
    /// What all requests have.
    pub options: Options,
    /// How the answer is read.
    pub reading: Reading,
    /// Where the constraint starts.
    pub start: Start,
}

/// A conversation with what belongs to it.
struct Conversation {
    request: ChatRequest,
    /// Text of an assistant message that is to be continued.
    prefill: Option<Message>,
    thinking: Option<bool>,
    /// `None`: no calls.
    choice: Option<ToolChoice>,
    tools: Vec<Value>,
}

impl ChatSetup {
    /// The prompt of a request as text, and the conversation it came from.
    ///
    /// # Errors
    /// Messages or tools that are none, or that the template refuses.
    pub fn render(&self, f: &Fields<'_>) -> Result<String, ApiError> {
        let conversation = self.conversation(f)?;
        self.render_conversation(&conversation)
    }

    /// Reads a whole request.
    ///
    /// # Errors
    /// As [`Self::render`], or a field that is wrong.
    pub fn read(&self, f: &Fields<'_>) -> Result<ChatCall, ApiError> {
        let mut options = Options::read(f, &self.defaults, &self.tokenizer)?;
        let conversation = self.conversation(f)?;
        let parallel = f.bool("parallel_tool_calls")?.unwrap_or(true);
        let text = self.render_conversation(&conversation)?;
        let reading = self.reading(f, &conversation, parallel)?;
        let start = match Start::for_prompt(self.tags.clone(), &text) {
            // A model that was told not to think does not get around a constraint by thinking.
            Start::AfterReasoning(_) if conversation.thinking == Some(false) => Start::Now,
            start => start,
        };
        if reading.tools.is_some() || conversation.choice != Some(ToolChoice::Auto) {
            options.constraint = self.constraint(options.constraint, &conversation, parallel)?;
        }
        let prompt = self.tokens(&conversation, text)?;
        Ok(ChatCall {
            prompt,
            options,
            reading,
            start,
        })
    }

    fn conversation(&self, f: &Fields<'_>) -> Result<Conversation, ApiError> {
        let mut list = messages::messages(f)?;
        let tools = messages::tools(f)?;
        let choice = messages::tool_choice(f, &tools)?;
        let prefill = self.take_prefill(f, &mut list)?;
        let mut kwargs = self.kwargs.clone();
        if let Some(given) = f.object("chat_template_kwargs")? {
            kwargs.extend(given.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        let effort = f.str("reasoning_effort")?;
        if let Some(effort) = effort.filter(|&effort| effort != "none") {
            kwargs.insert("reasoning_effort".to_owned(), effort.into());
        }
        let asked = kwargs.get("enable_thinking").and_then(Value::as_bool);
        let thinking = match effort {
            Some("none") => Some(false),
            _ => asked.or(f.bool("enable_thinking")?).or(self.thinking),
        };
        let shown = !tools.is_empty() && choice.is_some();
        let mut request = ChatRequest {
            messages: list,
            tools: shown.then(|| Value::Array(tools.clone())),
            add_generation_prompt: f.bool("add_generation_prompt")?.unwrap_or(true)
                || prefill.is_some(),
            kwargs,
        };
        if let Some(think) = thinking {
            self.template.set_thinking(&mut request, think);
        }
        Ok(Conversation {
            request,
            prefill,
            thinking,
            choice,
            tools,
        })
    }

    /// Takes a trailing assistant message out, if it is to be continued.
    fn take_prefill(
        &self,
        f: &Fields<'_>,
        list: &mut Vec<Message>,
    ) -> Result<Option<Message>, ApiError> {
        let asked = f.bool("continue_final_message")?;
        if asked == Some(true) && f.bool("add_generation_prompt")? == Some(true) {
            let reason = "cannot be used together with 'add_generation_prompt'";
            return Err(ApiError::field("continue_final_message", reason));
        }
        let is_answer = |message: &Message| message.role == "assistant";
        let last_is_answer = list.last().is_some_and(is_answer);
        if asked == Some(true) && !last_is_answer {
            let reason = "needs a conversation that ends with a message of the assistant";
            return Err(ApiError::field("continue_final_message", reason));
        }
        let wanted = asked.unwrap_or(self.prefill_assistant);
        if !wanted || !last_is_answer {
            return Ok(None);
        }
        if list.len() >= 2 && is_answer(&list[list.len() - 2]) {
            let reason = "two messages of the assistant at the end: only one can be continued";
            return Err(ApiError::field("messages", reason));
        }
        if list.last().is_some_and(|last| last.tool_calls.is_some()) {
            // A call cannot go on; the model answers after it as templates have it.
            return Ok(None);
        }
        Ok(list.pop())
    }

    fn render_conversation(&self, conversation: &Conversation) -> Result<String, ApiError> {
        let mut text = self.template.render(&conversation.request)?;
        let Some(message) = &conversation.prefill else {
            return Ok(text);
        };
        let inside = ReasoningSplitter::for_prompt(self.tags.clone(), &text).is_reasoning();
        let content = messages::text_of(message);
        if let Some(thought) = &message.reasoning_content {
            if !inside {
                text.push_str(&self.tags.open);
                text.push('\n');
            }
            text.push_str(thought);
        }
        let in_thought = inside || message.reasoning_content.is_some();
        if in_thought && !content.is_empty() {
            text.push('\n');
            text.push_str(&self.tags.close);
            text.push_str("\n\n");
        }
        text.push_str(&content);
        Ok(text)
    }

    fn reading(
        &self,
        f: &Fields<'_>,
        conversation: &Conversation,
        parallel: bool,
    ) -> Result<Reading, ApiError> {
        let split = match f.str("reasoning_format")? {
            None => self.split_thoughts,
            Some("none") => false,
            Some("auto" | "deepseek" | "deepseek-legacy") => true,
            Some(other) => {
                let reason = format!("expected none, auto or deepseek, found '{other}'");
                return Err(ApiError::field("reasoning_format", reason));
            }
        };
        let parse = f.bool("parse_tool_calls")?.unwrap_or(true);
        Ok(Reading {
            format: self.format,
            tags: match split {
                true => self.tags.clone(),
                false => ReasoningTags::new(NO_TAG, NO_TAG),
            },
            tools: conversation.request.tools.clone().filter(|_| parse),
            parallel,
        })
    }

    fn constraint(
        &self,
        given: Option<GrammarSpec>,
        conversation: &Conversation,
        parallel: bool,
    ) -> Result<Option<GrammarSpec>, ApiError> {
        let Some(choice) = conversation
            .choice
            .as_ref()
            .filter(|_| !conversation.tools.is_empty())
        else {
            return Ok(given);
        };
        match &given {
            None | Some(GrammarSpec::JsonObject | GrammarSpec::JsonSchema(_)) => {}
            Some(_) => {
                let reason = "cannot be used together with a grammar or a regex; set tool_choice \
                              to none for the answer";
                return Err(ApiError::field("tools", reason));
            }
        }
        Ok(Some(GrammarSpec::ToolCalls {
            format: self.format,
            tools: Value::Array(conversation.tools.clone()),
            choice: choice.clone(),
            parallel,
            answer: given.map(Box::new),
        }))
    }

    fn tokens(&self, conversation: &Conversation, text: String) -> Result<Prompt, ApiError> {
        let options = EncodeOptions {
            add_special: true,
            parse_special: true,
        };
        let mut tokens = self.tokenizer.encode(&text, options);
        // Many templates write the start token that the tokenizer adds as well.
        if let Some(bos) = self.tokenizer.bos()
            && tokens.starts_with(&[bos, bos])
        {
            tokens.remove(0);
        }
        if tokens.is_empty() {
            return Err(ApiError::field("messages", "the prompt has no tokens"));
        }
        let ends = boundaries::in_text(&self.template, &conversation.request, &text);
        let boundaries = boundaries::in_tokens(&self.tokenizer, &tokens, text.len(), &ends);
        Ok(Prompt {
            tokens,
            text,
            boundaries,
        })
    }
}
