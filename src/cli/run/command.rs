//! Commands of a chat: lines that start with `/`.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Result;

use crate::cli::errors::hinted;

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Lists the commands.
    Help,
    /// Leaves.
    Exit,
    /// Starts a new conversation.
    Clear,
    /// Answers the last message again.
    Regen,
    /// Puts a file's text before the next message.
    Read(PathBuf),
    /// Writes the conversation to a file.
    Save(PathBuf),
    /// Reads a conversation from a file.
    Load(PathBuf),
    /// Shows the settings.
    Settings,
    /// Changes a setting.
    Set(String, String),
}

/// Names, arguments and meanings, for help and completion.
pub const COMMANDS: &[(&str, &str, &str)] = &[
    ("/help", "", "list the commands"),
    ("/regen", "", "answer the last message again"),
    (
        "/clear",
        "",
        "start a new conversation; the system prompt stays",
    ),
    ("/read", "FILE", "put a file's text before the next message"),
    ("/save", "FILE", "write the conversation to a file"),
    ("/load", "FILE", "go on with a conversation from a file"),
    (
        "/set",
        "NAME VALUE",
        "change a setting (/set temp 0.2, /set system TEXT, /set thinking on); alone: list them",
    ),
    ("/exit", "", "leave, as Ctrl-D does"),
];

impl Command {
    /// The command in this text; `None` if the text is a message.
    ///
    /// # Errors
    /// An unknown command, or one without what it needs.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        let text = text.strip_prefix('/')?;
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        Some(Self::from_parts(name, rest.trim()))
    }

    fn from_parts(name: &str, rest: &str) -> Result<Self> {
        let file = |make: fn(PathBuf) -> Self| match rest {
            "" => Err(hinted(
                format!("/{name} needs a file"),
                format!("/{name} FILE"),
            )),
            path => Ok(make(PathBuf::from(path))),
        };
        match name {
            "help" | "?" => Ok(Self::Help),
            "exit" | "quit" => Ok(Self::Exit),
            "clear" => Ok(Self::Clear),
            "regen" => Ok(Self::Regen),
            "read" => file(Self::Read),
            "save" => file(Self::Save),
            "load" => file(Self::Load),
            "set" => match rest.split_once(char::is_whitespace) {
                Some((name, value)) => Ok(Self::Set(name.to_owned(), value.trim().to_owned())),
                None if rest.is_empty() => Ok(Self::Settings),
                None if rest == "system" => Ok(Self::Set(rest.to_owned(), String::new())),
                None => Err(hinted(
                    format!("/set {rest} needs a value"),
                    "/set lists the settings and their values",
                )),
            },
            _ => Err(hinted(
                format!("no command /{name}"),
                "/help lists the commands; a space before the `/` makes it a message",
            )),
        }
    }
}

/// The commands, one in a line.
pub fn help() -> String {
    let mut lines: Vec<String> = COMMANDS
        .iter()
        .map(|(name, args, meaning)| format!("  {:<16} {meaning}", format!("{name} {args}")))
        .collect();
    lines.push(
        "  a trailing \\ or a block between \"\"\" makes a message of several lines".to_owned(),
    );
    lines.push("  Ctrl-C stops an answer, and leaves when there is none".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        let set = |name: &str, value: &str| Command::Set(name.to_owned(), value.to_owned());
        let cases = [
            ("/help", Command::Help),
            ("/quit", Command::Exit),
            ("/read  a file.txt ", Command::Read("a file.txt".into())),
            ("/set", Command::Settings),
            ("/set temp 0.5", set("temp", "0.5")),
            (
                "/set system Be brief.\nAlways.",
                set("system", "Be brief.\nAlways."),
            ),
            ("/set system", set("system", "")),
        ];
        for (text, command) in cases {
            assert_eq!(Command::parse(text).unwrap().unwrap(), command, "{text}");
        }
        assert!(Command::parse("and/or").is_none());
        for wrong in ["/nonsense", "/read", "/save  ", "/set temp", "/"] {
            assert!(Command::parse(wrong).unwrap().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_listed_command_exists() {
        for (name, args, _) in COMMANDS {
            let given = format!("{name} {args}");
            assert!(Command::parse(&given).unwrap().is_ok(), "{given}");
        }
    }
}
