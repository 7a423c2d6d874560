//! A chat: turns from the user, answers from the model, commands in between.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use oxling::engine::Finish;

use super::command::{Command, help};
use super::conversation::Conversation;
use super::editor::{Input, Reader};
use super::screen::{Screen, note};
use super::session::{Prompt, Session};
use super::settings;
use super::stream::Answer;
use crate::cli::errors::{hinted, warn};
use crate::cli::interrupt::{exit_code, told_to_end};
use crate::cli::model_args::read_text;

/// A chat with a model.
pub struct Chat {
    session: Session,
    conversation: Conversation,
    /// Tell thoughts from answers.
    split_thoughts: bool,
    /// A person sits at stdin: errors are said and the chat goes on.
    interactive: bool,
    screen: Screen,
    /// Text that goes before the next message.
    attached: String,
    /// Answers to the last message so far.
    attempt: u64,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Done,
    Stopped,
    Leave,
}

impl Chat {
    /// A chat that has not begun.
    pub fn new(
        session: Session,
        conversation: Conversation,
        split_thoughts: bool,
        interactive: bool,
    ) -> Self {
        Self {
            session,
            conversation,
            split_thoughts,
            interactive,
            screen: Screen::new(),
            attached: String::new(),
            attempt: 0,
        }
    }

    /// Answers one message and ends.
    pub fn once(mut self, text: &str) -> Result<ExitCode> {
        Ok(match self.say(text)? {
            Turn::Stopped => exit_code(),
            Turn::Done | Turn::Leave => ExitCode::SUCCESS,
        })
    }

    /// Answers `first`, if there is one, then what the reader brings; only one message if `single`.
    pub fn run(
        mut self,
        first: Option<String>,
        single: bool,
        mut reader: Reader,
    ) -> Result<ExitCode> {
        let mut next = first;
        loop {
            let input = match next.take() {
                Some(text) => Input::Text(text),
                None => reader.next()?,
            };
            let text = match input {
                Input::Text(text) => text,
                Input::End => return Ok(ExitCode::SUCCESS),
                Input::Interrupted => return Ok(exit_code()),
            };
            let asked = self.conversation.len();
            let turn = match self.turn(&text) {
                Ok(turn) => turn,
                Err(e) if self.interactive && !is_output_gone(&e) => {
                    warn(&e);
                    Turn::Done
                }
                Err(e) => return Err(e),
            };
            if self.interactive {
                note("");
            }
            match turn {
                Turn::Leave => return Ok(ExitCode::SUCCESS),
                Turn::Stopped if !self.interactive || told_to_end() => return Ok(exit_code()),
                _ if single && self.conversation.len() > asked => return Ok(ExitCode::SUCCESS),
                _ => {}
            }
        }
    }

    /// A message or a command.
    fn turn(&mut self, text: &str) -> Result<Turn> {
        if text.trim().is_empty() && self.attached.is_empty() {
            return Ok(Turn::Done);
        }
        match Command::parse(text) {
            Some(command) => self.command(command?),
            None => self.say(text),
        }
    }

    fn say(&mut self, text: &str) -> Result<Turn> {
        // A space before a `/` was only there to make it a message.
        let text = text
            .strip_prefix(' ')
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(text);
        self.attempt = 0;
        let attached = std::mem::take(&mut self.attached);
        self.conversation.ask(&format!("{attached}{text}"));
        let turn = self.answer();
        // A message without an answer is as if it had not been: it can be said again.
        if self.conversation.waits_for_answer() {
            self.conversation.take_back("user");
            self.attached = attached;
        }
        turn
    }

    /// Lets the model answer the last message.
    fn answer(&mut self) -> Result<Turn> {
        let prompt = self.prompt()?;
        let tags = self
            .split_thoughts
            .then(|| self.conversation.template().reasoning_tags());
        let Answer {
            content,
            reasoning,
            finish,
        } = self
            .session
            .answer(&prompt, tags, self.attempt, &mut self.screen)?;
        if finish.is_none() {
            note("stopped before the answer; the message is forgotten");
            return Ok(Turn::Stopped);
        }
        self.conversation.answer(&content, &reasoning);
        Ok(if finish == Some(Finish::Cancelled) {
            Turn::Stopped
        } else {
            Turn::Done
        })
    }

    /// Tokens of the prompt, and how many of them are the conversation before the answer begins.
    fn prompt(&self) -> Result<Prompt> {
        let text = self.conversation.prompt(true)?;
        let tokens = self.session.encode(&text, false);
        // Some templates refuse to end with the user's message; then only the whole prompt is stable.
        let closed = self
            .conversation
            .prompt(false)
            .map(|text| self.session.encode(&text, false))
            .unwrap_or_default();
        let stable = tokens
            .iter()
            .zip(&closed)
            .take_while(|(a, b)| a == b)
            .count();
        Ok(Prompt {
            text,
            tokens,
            stable,
            thoughtless: self.conversation.forbids_thinking(),
        })
    }

    fn command(&mut self, command: Command) -> Result<Turn> {
        match command {
            Command::Help => note(&help()),
            Command::Exit => return Ok(Turn::Leave),
            Command::Clear => {
                self.conversation.clear();
                self.attached.clear();
                note("a new conversation");
            }
            Command::Regen => return self.regen(),
            Command::Read(path) => self.read(&path)?,
            Command::Save(path) => {
                self.conversation.save(&path)?;
                note(&format!(
                    "{} messages are in {}",
                    self.conversation.len(),
                    path.display()
                ));
            }
            Command::Load(path) => {
                self.conversation.load(&path)?;
                note(&format!(
                    "{} messages from {}",
                    self.conversation.len(),
                    path.display()
                ));
            }
            Command::Settings => self.show_settings()?,
            Command::Set(name, value) => self.set(&name, &value)?,
        }
        Ok(Turn::Done)
    }

    /// Answers the last message again, with other draws.
    fn regen(&mut self) -> Result<Turn> {
        let old = self.conversation.take_back("assistant");
        if !self.conversation.waits_for_answer() {
            if let Some(old) = old {
                self.conversation.put_back(old);
            }
            return Err(hinted(
                "there is no message to answer again",
                "say something first",
            ));
        }
        self.attempt += 1;
        let turn = self.answer();
        if let Some(old) = old.filter(|_| self.conversation.waits_for_answer()) {
            self.conversation.put_back(old);
        }
        turn
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let text = read_text(path)?;
        note(&format!(
            "{} bytes of {} go before the next message",
            text.len(),
            path.display()
        ));
        self.attached += &text;
        if !self.attached.ends_with('\n') {
            self.attached.push('\n');
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "system" => self.conversation.set_system(value),
            "thinking" => {
                let thinking = match value {
                    "on" => Some(true),
                    "off" => Some(false),
                    "auto" => None,
                    _ => {
                        return Err(hinted(
                            format!("thinking: found {value}"),
                            "it is on, off or auto",
                        ));
                    }
                };
                self.conversation.set_thinking(thinking)?;
            }
            "n_predict" | "predict" | "n" => {
                let n: i64 = value.parse().context("n_predict: expected a number")?;
                self.session.options_mut().n_predict = u32::try_from(n).ok();
            }
            _ => settings::set(&mut self.session.sampling, name, value)?,
        }
        note(&format!(
            "{name} is {}",
            if value.is_empty() { "empty" } else { value }
        ));
        Ok(())
    }

    fn show_settings(&mut self) -> Result<()> {
        let thinking = match self.conversation.thinking() {
            Some(true) => "on",
            Some(false) => "off",
            None => "auto",
        };
        let n_predict = self.session.options_mut().n_predict.map_or(-1, i64::from);
        let own = [
            (
                "system".to_owned(),
                format!("{:?}", self.conversation.system().unwrap_or_default()),
            ),
            ("thinking".to_owned(), thinking.to_owned()),
            ("n_predict".to_owned(), n_predict.to_string()),
        ];
        for (name, value) in own
            .into_iter()
            .chain(settings::list(&self.session.sampling)?)
        {
            note(&format!("  {name:<24} {value}"));
        }
        Ok(())
    }
}

/// Whether the error is that nobody reads stdout any more.
pub fn is_output_gone(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
