//! How the program reports that it cannot do what was asked: one `error:` line, one `hint:` line, exit code 1.

#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::ExitCode;

use anstyle::{AnsiColor, Color, Style};
use clap::error::ErrorKind;
use oxling::eval::EvalError;
use oxling::hub::HubError;

use super::interrupt::exit_code;

/// An error of the command line itself, with a way out.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Hinted {
    message: String,
    hint: String,
}

/// An error with a way out.
pub fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hinted {
        message: message.into(),
        hint: hint.into(),
    })
}

/// Prints an error and what to do about it; gives the exit code.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    let closed = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    if error
        .chain()
        .filter_map(|cause| cause.downcast_ref())
        .any(closed)
    {
        // A reader that went away has seen enough.
        return ExitCode::SUCCESS;
    }
    let stopped = |cause: &HubError| matches!(cause, HubError::Stopped);
    if error.chain().filter_map(|e| e.downcast_ref()).any(stopped) {
        anstream::eprintln!("stopped; run it again to go on from here");
        return exit_code();
    }
    let stopped = |cause: &EvalError| matches!(cause, EvalError::Cancelled);
    if error.chain().filter_map(|e| e.downcast_ref()).any(stopped) {
        anstream::eprintln!("stopped; nothing was written");
        return exit_code();
    }
    print(&message_of(error), hint_of(error).as_deref());
    ExitCode::FAILURE
}

/// Prints the error of a session that goes on.
pub fn warn(error: &anyhow::Error) {
    print(&message_of(error), hint_of(error).as_deref());
}

/// Prints what clap found wrong in our form, or the help it was asked for; gives the exit code. `variable` is the
/// environment's that had the wrong value.
pub fn usage(error: &clap::Error, command: Option<&str>, variable: Option<&str>) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that went away has seen enough.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::FAILURE
        }
        _ => {
            let (mut message, hint) = summarise(&error.render().to_string(), command);
            if let Some(variable) = variable {
                message = format!("{variable}: {message}");
            }
            print(&message, Some(&hint));
            ExitCode::FAILURE
        }
    }
}

fn print(message: &str, hint: Option<&str>) {
    let bold = |color: AnsiColor| Style::new().bold().fg_color(Some(Color::Ansi(color)));
    let (red, cyan) = (bold(AnsiColor::Red), bold(AnsiColor::Cyan));
    let mut err = anstream::stderr().lock();
    // There is nowhere left to report that stderr is closed.
    let _ = writeln!(err, "{red}error:{red:#} {message}");
    if let Some(hint) = hint {
        let _ = writeln!(err, "{cyan}hint:{cyan:#} {hint}");
    }
}

/// The chain of causes in one line; causes that the error above them quotes already are left out.
fn message_of(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.ends_with(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message.replace('\n', " ")
}

/// The hint of the first error in the chain that has one.
fn hint_of(error: &anyhow::Error) -> Option<String> {
    use oxling::{
        chat, constrain, engine, ggml, gguf, imatrix, import, model, quantize, server, synth,
        tokenizer,
    };
    macro_rules! first_hint {
        ($cause:expr, $($kind:ty),+ $(,)?) => {
            None$(.or_else(|| $cause.downcast_ref::<$kind>().and_then(|e| e.hint())))+
        };
    }
    let own = error.chain().find_map(|cause| {
        if let Some(own) = cause.downcast_ref::<Hinted>() {
            return Some(own.hint.clone());
        }
        first_hint!(
            cause,
            model::LoadError,
            gguf::GgufError,
            gguf::MetadataError,
            tokenizer::TokenizerError,
            chat::TemplateError,
            constrain::ConstrainError,
            engine::EngineError,
            engine::sampling::SamplingError,
            ggml::GgmlError,
            EvalError,
            synth::SynthError,
            quantize::QuantizeError,
            imatrix::ImatrixError,
            import::ImportError,
            server::http::ServeError,
            HubError,
        )
    });
    own.or_else(|| {
        error
            .chain()
            .find_map(|cause| cause.downcast_ref::<io::Error>())
            .and_then(file_hint)
    })
}

/// A way out of trouble with files, where the system's words leave one open.
fn file_hint(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "check the path, and from which folder it starts",
        io::ErrorKind::PermissionDenied => "check who may use the file",
        io::ErrorKind::StorageFull => "make room on that disk, or choose another one",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Clap's report as a message and a hint, each in one line.
fn summarise(report: &str, command: Option<&str>) -> (String, String) {
    let help = match command {
        Some(command) => format!("`oxling {command} --help` explains the flags"),
        None => "`oxling --help` lists the commands".to_owned(),
    };
    let (mut message, mut hints) = (Vec::new(), Vec::new());
    for line in report
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        if let Some(values) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            hints.push(values.to_owned());
        } else if let Some(tip) = line.strip_prefix("tip:") {
            hints.push(tip.trim().to_owned());
        } else {
            message.push(line.strip_prefix("error:").unwrap_or(line).trim());
        }
    }
    let hint = if hints.is_empty() {
        help
    } else {
        hints.join("; ")
    };
    (message.join(" "), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_clap_become_one_error_and_one_hint() {
        let cases = [
            (
                "error: invalid value 'x' for '--temp <N>': invalid float literal\n\nFor more information, try '--help'.\n",
                "invalid value 'x' for '--temp <N>': invalid float literal",
                "`oxling run --help` explains the flags",
            ),
            (
                "error: invalid value 'x' for '--color <WHEN>'\n  [possible values: on, off]\n\nFor more information, try",
                "invalid value 'x' for '--color <WHEN>'",
                "possible values: on, off",
            ),
            (
                "error: unexpected argument '--tmp' found\n\n  tip: a similar argument exists: '--temp'\n\nUsage: oxling run\n",
                "unexpected argument '--tmp' found",
                "a similar argument exists: '--temp'",
            ),
            (
                "error: the following required arguments were not provided:\n  --out <FILE>\n\nUsage: x\n",
                "the following required arguments were not provided: --out <FILE>",
                "`oxling run --help` explains the flags",
            ),
        ];
        for (report, message, hint) in cases {
            assert_eq!(
                summarise(report, Some("run")),
                (message.to_owned(), hint.to_owned())
            );
        }
    }

    #[test]
    fn a_cause_that_is_quoted_already_is_not_said_twice() {
        let error = anyhow::anyhow!("no room")
            .context("a.gguf: no room")
            .context("cannot load");
        assert_eq!(message_of(&error), "cannot load: a.gguf: no room");
        assert_eq!(
            hint_of(&hinted("a", "b").context("c")).as_deref(),
            Some("b")
        );
    }
}
