//! What the user sees: the answer on stdout, all else on stderr.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Color, Style};

/// Writes an answer as it comes.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    /// Bytes of the present answer that ended in the middle of a line.
    open_line: bool,
    open_thought: bool,
    /// White space at the end of a thought so far: shown only if the thought goes on.
    thought_space: String,
}

const THOUGHT: Style = Style::new()
    .dimmed()
    .fg_color(Some(Color::Ansi(AnsiColor::Cyan)));
const NOTE: Style = Style::new().dimmed();

impl Screen {
    pub fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            open_line: false,
            open_thought: false,
            thought_space: String::new(),
        }
    }

    /// A piece of the answer, written at once and unchanged, except that a terminal gets no control characters.
    pub fn content(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.end_thought()?;
        let mut out = io::stdout().lock();
        out.write_all(
            if self.terminal {
                for_terminal(text)
            } else {
                Cow::Borrowed(text)
            }
            .as_bytes(),
        )?;
        out.flush()?;
        self.open_line = !text.ends_with('\n');
        Ok(())
    }

    /// A piece of a thought.
    pub fn thought(&mut self, text: &str) -> io::Result<()> {
        let text = if self.open_thought {
            text
        } else {
            text.trim_start()
        };
        let shown = text.trim_end();
        if shown.is_empty() {
            self.thought_space += text;
            return Ok(());
        }
        self.open_thought = true;
        let space = std::mem::replace(&mut self.thought_space, text[shown.len()..].to_owned());
        // Each piece carries its own style, so that an abrupt end leaves the terminal as it was.
        let mut err = anstream::stderr().lock();
        write!(err, "{THOUGHT}{space}{}{THOUGHT:#}", for_terminal(shown))?;
        err.flush()
    }

    fn end_thought(&mut self) -> io::Result<()> {
        self.thought_space.clear();
        if std::mem::take(&mut self.open_thought) {
            write!(anstream::stderr().lock(), "\n\n")?;
        }
        Ok(())
    }

    /// The answer is complete: its last line ends.
    pub fn end(&mut self) -> io::Result<()> {
        self.end_thought()?;
        if std::mem::take(&mut self.open_line) {
            let mut out = io::stdout().lock();
            out.write_all(b"\n")?;
            out.flush()?;
        }
        Ok(())
    }
}

/// A side remark in a line of its own on stderr.
pub fn note(text: &str) {
    // There is nowhere left to report that stderr is closed.
    let _ = writeln!(
        anstream::stderr().lock(),
        "{NOTE}{}{NOTE:#}",
        for_terminal(text)
    );
}

/// The text without control characters, with which a model could change what the terminal shows or does.
fn for_terminal(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    text.chars()
        .map(|c| {
            if harmless(c) {
                c
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect::<String>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_cannot_command_the_terminal() {
        assert_eq!(for_terminal("a\tb\n\u{e9}"), "a\tb\n\u{e9}");
        assert_eq!(
            for_terminal("\x1b]0;x\x07\u{9b}2J\r"),
            "\u{fffd}]0;x\u{fffd}\u{fffd}2J\u{fffd}"
        );
    }
}
