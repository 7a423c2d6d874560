//! Where messages come from: an editor with history in a terminal, lines of stdin otherwise.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::io::{self, BufRead as _, IsTerminal, Write as _};
use std::path::PathBuf;

use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::config::Behavior;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Cmd, ConditionalEventHandler, Config, Context, Editor, Event, EventContext, EventHandler,
    Helper, KeyEvent, Movement, RepeatCount,
};

use super::command::COMMANDS;
use super::{settings, turns};

const PROMPT: &str = "> ";
const PROMPT_STYLE: Style = Style::new()
    .bold()
    .fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
const HISTORY_LINES: usize = 1000;

/// What came from the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A message or a command.
    Text(String),
    /// Nothing more.
    End,
    /// Ctrl-C at an empty prompt.
    Interrupted,
}

/// A source of messages.
pub enum Reader {
    /// A terminal.
    Terminal(Box<Terminal>),
    /// Lines of stdin, with a prompt or without.
    Lines { inverted: bool, prompt: bool },
}

/// A terminal with history.
pub struct Terminal {
    editor: Editor<Lines, DefaultHistory>,
    history: Option<PathBuf>,
    inverted: bool,
}

impl Reader {
    /// The editor where stdin is a terminal, lines otherwise or if `simple`.
    pub fn new(inverted: bool, simple: bool) -> Result<Self> {
        let terminal = io::stdin().is_terminal();
        if !terminal || simple {
            return Ok(Self::Lines {
                inverted,
                prompt: terminal,
            });
        }
        Ok(Self::Terminal(Box::new(
            Terminal::new(inverted).context("cannot use this terminal; try --simple-io")?,
        )))
    }

    /// Waits for the next message.
    pub fn next(&mut self) -> Result<Input> {
        match self {
            Self::Terminal(terminal) => terminal.next(),
            Self::Lines { inverted, prompt } => next_line(*inverted, *prompt),
        }
    }
}

/// Reads lines of stdin until they make a message.
fn next_line(inverted: bool, prompt: bool) -> Result<Input> {
    let mut lines = String::new();
    loop {
        if prompt {
            let mut err = anstream::stderr().lock();
            // Without stderr there is no prompt, and nobody to miss it.
            let _ =
                write!(err, "{PROMPT_STYLE}{PROMPT}{PROMPT_STYLE:#}").and_then(|()| err.flush());
        }
        let n = io::stdin()
            .lock()
            .read_line(&mut lines)
            .context("cannot read stdin")?;
        if n == 0 {
            return Ok(if lines.is_empty() {
                Input::End
            } else {
                Input::Text(turns::finish(&lines, inverted))
            });
        }
        let line = lines.strip_suffix('\n').unwrap_or(&lines);
        if let Some(text) = turns::assemble(line.strip_suffix('\r').unwrap_or(line), inverted) {
            return Ok(Input::Text(text));
        }
    }
}

impl Terminal {
    fn new(inverted: bool) -> rustyline::Result<Self> {
        // With stdout in a file, the editor talks to the terminal itself.
        let (behavior, choice) = if io::stdout().is_terminal() {
            (Behavior::Stdio, anstream::AutoStream::choice(&io::stdout()))
        } else {
            (
                Behavior::PreferTerm,
                anstream::AutoStream::choice(&io::stderr()),
            )
        };
        let config = Config::builder()
            .behavior(behavior)
            .max_history_size(HISTORY_LINES)?
            .history_ignore_space(true)
            .auto_add_history(true)
            .completion_type(rustyline::CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        let colored = choice != anstream::ColorChoice::Never;
        editor.set_helper(Some(Lines {
            inverted,
            colored,
            files: FilenameCompleter::new(),
        }));
        editor.bind_sequence(
            KeyEvent::ctrl('c'),
            EventHandler::Conditional(Box::new(ClearOrLeave)),
        );
        let history = history_file();
        if let Some(path) = &history {
            // The first session has no history, and a broken one is no reason not to chat.
            let _ = editor.load_history(path);
        }
        Ok(Self {
            editor,
            history,
            inverted,
        })
    }

    fn next(&mut self) -> Result<Input> {
        let input = match self.editor.readline(PROMPT) {
            Ok(lines) => Input::Text(turns::finish(&lines, self.inverted)),
            Err(ReadlineError::Eof) => Input::End,
            Err(ReadlineError::Interrupted) => Input::Interrupted,
            Err(e) => return Err(e).context("cannot read from the terminal"),
        };
        if let Some(path) = &self.history {
            // As above: a history that cannot be written is only missed later.
            let _ = self.editor.append_history(path);
        }
        Ok(input)
    }
}

/// The history file, in a folder that exists then.
fn history_file() -> Option<PathBuf> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let folder = variable("XDG_STATE_HOME")
        .or_else(|| variable("LOCALAPPDATA"))
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))?
        .join("oxling");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

/// Ctrl-C empties the line, and leaves when it is empty.
struct ClearOrLeave;

impl ConditionalEventHandler for ClearOrLeave {
    fn handle(
        &self,
        _: &Event,
        _: RepeatCount,
        _: bool,
        context: &EventContext<'_>,
    ) -> Option<Cmd> {
        Some(if context.line().is_empty() {
            Cmd::Interrupt
        } else {
            Cmd::Kill(Movement::WholeBuffer)
        })
    }
}

/// Knows when a message is complete, and how commands go on.
struct Lines {
    inverted: bool,
    colored: bool,
    files: FilenameCompleter,
}

impl Helper for Lines {}

impl Hinter for Lines {
    type Hint = String;
}

impl Highlighter for Lines {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        if !self.colored {
            return Cow::Borrowed(prompt);
        }
        Cow::Owned(format!("{PROMPT_STYLE}{prompt}{PROMPT_STYLE:#}"))
    }
}

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match turns::assemble(context.input(), self.inverted) {
            Some(_) => ValidationResult::Valid(None),
            None => ValidationResult::Incomplete,
        })
    }
}

impl Completer for Lines {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        if ["/read ", "/save ", "/load "]
            .iter()
            .any(|command| typed.starts_with(command))
        {
            return self.files.complete(line, pos, context);
        }
        Ok(complete_command(typed))
    }
}

/// Commands, or settings after `/set`, that go on from the text: where they start, and what they are.
fn complete_command(typed: &str) -> (usize, Vec<Pair>) {
    let pair = |text: &str| Pair {
        display: text.to_owned(),
        replacement: format!("{text} "),
    };
    if let Some(name) = typed.strip_prefix("/set ") {
        let own = ["system", "thinking", "n_predict"].map(str::to_owned);
        let names = own.into_iter().chain(settings::names());
        let found = names
            .filter(|known| known.starts_with(name))
            .map(|known| pair(&known));
        return (typed.len() - name.len(), found.collect());
    }
    if !typed.starts_with('/') {
        return (0, Vec::new());
    }
    let found = COMMANDS
        .iter()
        .filter(|(name, ..)| name.starts_with(typed))
        .map(|(name, ..)| pair(name));
    (0, found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_settings_are_completed() {
        let found = |typed: &str| {
            let (start, pairs) = complete_command(typed);
            (
                start,
                pairs
                    .into_iter()
                    .map(|pair| pair.display)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            found("/re"),
            (0, vec!["/regen".to_owned(), "/read".to_owned()])
        );
        assert_eq!(found("hello"), (0, vec![]));
        assert_eq!(
            found("/set top_"),
            (
                5,
                vec!["top_k".into(), "top_p".into(), "top_n_sigma".into()]
            )
        );
        assert_eq!(found("/set th"), (5, vec!["thinking".into()]));
    }
}
