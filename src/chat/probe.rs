//! What a template can do, found by rendering it.

#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use super::message::{ChatRequest, Content, Message};
use super::template::ChatTemplate;

/// How thinking is turned on and off.
#[derive(Debug, Clone, PartialEq)]
pub enum ThinkingSwitch {
    /// By a variable of the template.
    Variable {
        /// Its name.
        name: &'static str,
        /// Its value for thinking.
        on: Value,
        /// Its value for not thinking.
        off: Value,
    },
    /// By a text in the system message.
    System {
        /// The text for thinking.
        on: &'static str,
        /// The text for not thinking.
        off: &'static str,
    },
}

/// A text no template has.
const MARK: &str = "oxling-probe-7f3a";
/// Ling's words, for templates that set them without asking.
const LING_ON: &str = "detailed thinking on";
const LING_OFF: &str = "detailed thinking off";

impl ChatTemplate {
    /// Whether a system message reaches the prompt.
    pub fn supports_system(&self) -> bool {
        let messages = vec![Message::new("system", MARK), Message::new("user", "x")];
        self.render(&ChatRequest {
            messages,
            add_generation_prompt: true,
            ..ChatRequest::default()
        })
        .is_ok_and(|prompt| prompt.contains(MARK))
    }

    /// Whether the template knows thoughts: it can be told to think, or writes those of the last answer.
    pub fn supports_thinking(&self) -> bool {
        self.thinking_switch().is_some() || self.writes_reasoning()
    }

    fn writes_reasoning(&self) -> bool {
        let answer = Message {
            reasoning_content: Some(MARK.to_owned()),
            ..Message::new("assistant", "y")
        };
        self.render(&ChatRequest {
            messages: vec![Message::new("user", "x"), answer],
            ..ChatRequest::default()
        })
        .is_ok_and(|prompt| prompt.contains(MARK))
    }

    /// How thinking is turned on and off, None if the template does not say.
    pub fn thinking_switch(&self) -> Option<ThinkingSwitch> {
        let prompt = |name: &str, value: &Value| {
            let kwargs: Map<String, Value> =
                [(name.to_owned(), value.clone())].into_iter().collect();
            let messages = vec![Message::new("user", "x")];
            self.render(&ChatRequest {
                messages,
                add_generation_prompt: true,
                kwargs,
                tools: None,
            })
            .ok()
        };
        let variables = [
            ("enable_thinking", json!(true), json!(false)),
            ("thinking", json!(true), json!(false)),
            ("thinking_option", json!("on"), json!("off")),
        ];
        for (name, on, off) in variables {
            // Asking for a variable that the source never names would only cost time.
            if self.source().contains(name) && prompt(name, &on) != prompt(name, &off) {
                return Some(ThinkingSwitch::Variable { name, on, off });
            }
        }
        let says = self.source().contains(LING_OFF) || self.source().contains(LING_ON);
        says.then_some(ThinkingSwitch::System {
            on: LING_ON,
            off: LING_OFF,
        })
    }

    /// Asks for thinking or against it. False if the template has no switch; the request is then as before.
    pub fn set_thinking(&self, request: &mut ChatRequest, think: bool) -> bool {
        match self.thinking_switch() {
            None => return false,
            Some(ThinkingSwitch::Variable { name, on, off }) => {
                request
                    .kwargs
                    .insert(name.to_owned(), if think { on } else { off });
            }
            Some(ThinkingSwitch::System { on, off }) => {
                let (wanted, other) = if think { (on, off) } else { (off, on) };
                say_in_system(&mut request.messages, wanted, other);
            }
        }
        true
    }
}

/// Puts `wanted` at the end of the system message and takes `other` out.
fn say_in_system(messages: &mut Vec<Message>, wanted: &str, other: &str) {
    if messages
        .first()
        .is_none_or(|message| message.role != "system")
    {
        messages.insert(0, Message::new("system", ""));
    }
    let Some(Content::Text(text)) = messages
        .first_mut()
        .and_then(|message| message.content.as_mut())
    else {
        return;
    };
    *text = text.replace(other, "").trim_end().to_owned();
    if !text.contains(wanted) {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(wanted);
    }
}
