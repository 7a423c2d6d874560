//! The messages of a chat, how they become a prompt, and how they are kept in a file.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oxling::chat::{ChatRequest, ChatTemplate, Content, Message, TemplateError};
use oxling::publish::publish;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cli::errors::hinted;

/// Messages and what the template is told beside them.
#[derive(Debug)]
pub struct Conversation {
    template: ChatTemplate,
    kwargs: Map<String, Value>,
    messages: Vec<Message>,
    thinking: Option<bool>,
}

/// The file of a conversation.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    messages: Vec<Message>,
}

impl Conversation {
    /// An empty conversation.
    pub fn new(template: ChatTemplate, kwargs: Map<String, Value>) -> Self {
        Self {
            template,
            kwargs,
            messages: Vec::new(),
            thinking: None,
        }
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Sets, replaces or, with an empty text, removes the system message.
    pub fn set_system(&mut self, text: &str) {
        if self.system().is_some() {
            self.messages.remove(0);
        }
        if !text.is_empty() {
            self.messages.insert(0, Message::new("system", text));
        }
    }

    /// The system message.
    pub fn system(&self) -> Option<&str> {
        self.messages
            .first()
            .filter(|message| message.role == "system")
            .and_then(text_of)
    }

    /// Asks for thinking, against it, or leaves it to the template.
    ///
    /// # Errors
    /// The template has no switch for it.
    pub fn set_thinking(&mut self, thinking: Option<bool>) -> Result<()> {
        if thinking.is_some() && self.template.thinking_switch().is_none() {
            return Err(hinted(
                "the chat template has no switch for thinking",
                "leave -rea at auto",
            ));
        }
        self.thinking = thinking;
        Ok(())
    }

    /// Whether the model was told not to think, by a switch or by the template's own variable.
    pub fn forbids_thinking(&self) -> bool {
        let told = self.kwargs.get("enable_thinking").and_then(Value::as_bool);
        self.thinking.or(told) == Some(false)
    }

    /// What was asked for about thinking.
    pub fn thinking(&self) -> Option<bool> {
        self.thinking
    }

    /// Forgets all messages but the system message.
    pub fn clear(&mut self) {
        let keep = usize::from(self.system().is_some());
        self.messages.truncate(keep);
    }

    /// Adds the user's message.
    pub fn ask(&mut self, text: &str) {
        self.messages.push(Message::new("user", text));
    }

    /// Adds the answer.
    pub fn answer(&mut self, content: &str, reasoning: &str) {
        let reasoning_content = (!reasoning.is_empty()).then(|| reasoning.to_owned());
        self.messages.push(Message {
            reasoning_content,
            ..Message::new("assistant", content)
        });
    }

    /// Takes back the newest message if it is by `role`.
    pub fn take_back(&mut self, role: &str) -> Option<Message> {
        self.messages.pop_if(|message| message.role == role)
    }

    /// Adds a message that was taken back.
    pub fn put_back(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Whether the newest message waits for an answer.
    pub fn waits_for_answer(&self) -> bool {
        self.messages
            .last()
            .is_some_and(|message| message.role == "user")
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// The prompt, with the start of an answer at its end if `open`.
    pub fn prompt(&self, open: bool) -> Result<String, TemplateError> {
        let mut request = ChatRequest {
            messages: self.messages.clone(),
            add_generation_prompt: open,
            kwargs: self.kwargs.clone(),
            ..ChatRequest::default()
        };
        if let Some(think) = self.thinking {
            self.template.set_thinking(&mut request, think);
        }
        self.template.render(&request)
    }

    /// Writes the messages as JSON, beside the file first, so that a file under its name is always whole.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut json = serde_json::to_string_pretty(&Saved {
            messages: self.messages.clone(),
        })?;
        json.push('\n');
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let written = std::fs::write(&part, json).and_then(|()| publish(&part, path));
        if written.is_err() {
            // Nothing is left behind, and a failure to tidy up says nothing new.
            let _ = std::fs::remove_file(&part);
        }
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Replaces all messages by those of a file.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let saved: Saved = serde_json::from_str(&text).map_err(|e| {
            hinted(
                format!("{}: {e}", path.display()),
                "expected a file that /save wrote",
            )
        })?;
        self.messages = saved.messages;
        Ok(())
    }
}

/// The text of a message that is only text.
pub fn text_of(message: &Message) -> Option<&str> {
    match &message.content {
        Some(Content::Text(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> Conversation {
        let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}\
                      {% if add_generation_prompt %}[assistant]{% if enable_thinking %}<think>{% endif %}{% endif %}";
        Conversation::new(ChatTemplate::new(source, "", "").unwrap(), Map::new())
    }

    #[test]
    fn messages_become_prompts() {
        let mut chat = conversation();
        chat.set_system("Be brief.");
        chat.ask("Hi");
        assert_eq!(
            chat.prompt(true).unwrap(),
            "[system]Be brief.[user]Hi[assistant]"
        );
        assert_eq!(chat.prompt(false).unwrap(), "[system]Be brief.[user]Hi");
        chat.set_thinking(Some(true)).unwrap();
        assert_eq!(
            chat.prompt(true).unwrap(),
            "[system]Be brief.[user]Hi[assistant]<think>"
        );
        chat.answer("Yo", "");
        assert!(chat.take_back("user").is_none());
        assert_eq!(text_of(&chat.take_back("assistant").unwrap()), Some("Yo"));
        chat.clear();
        assert_eq!((chat.len(), chat.system()), (1, Some("Be brief.")));
        chat.set_system("");
        assert_eq!(chat.len(), 0);
    }

    #[test]
    fn a_conversation_comes_back_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chat.json");
        let mut chat = conversation();
        chat.ask("Hi");
        chat.answer("Yo", "short");
        chat.save(&path).unwrap();
        let mut other = conversation();
        other.load(&path).unwrap();
        assert_eq!(other.messages, chat.messages);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::write(&path, "{}").unwrap();
        assert!(other.load(&path).is_err());
        assert!(chat.save(&dir.path().join("none/chat.json")).is_err());
    }
}
