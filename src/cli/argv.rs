//! llama.cpp's spelling of flags, rewritten into the one that clap reads.
//!
//! llama.cpp has long flags behind one dash (`-ngl 99`), takes `_` for `-` in names, and answers removed flags with
//! their successors. Values, and all that follows `--`, stay as they are.

#![forbid(unsafe_code)]

mod tables;

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command};

use super::errors::hinted;
use tables::{NOT_YET, RENAMED, SHORT};

/// Rewrites `args`, the program's name first, for the parser `root`, which must be built.
///
/// # Errors
/// A flag behind one dash that is not known, or one of llama.cpp's that was renamed or is not built yet.
pub fn normalise(
    root: &Command,
    args: impl IntoIterator<Item = OsString>,
) -> anyhow::Result<Vec<OsString>> {
    let mut args = args.into_iter().peekable();
    let mut out: Vec<OsString> = args.next().into_iter().collect();
    let mut command = root;
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str().filter(|text| is_flag(text)) else {
            if std::ptr::eq(command, root) {
                command = arg
                    .to_str()
                    .and_then(|name| root.find_subcommand(name))
                    .unwrap_or(root);
            }
            out.push(arg);
            continue;
        };
        if text == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        let (flag, value) = text
            .split_once('=')
            .map_or((text, None), |(flag, value)| (flag, Some(value)));
        let flag = rewrite(command, flag, value.is_some())?;
        let taker =
            find(command, &flag).filter(|arg| value.is_none() && takes_value(arg, args.peek()));
        out.push(
            value
                .map_or_else(|| flag.clone(), |value| format!("{flag}={value}"))
                .into(),
        );
        if let Some(taker) = taker {
            out.extend(args.next().map(|value| readable(taker, value)));
        }
    }
    Ok(out)
}

/// The subcommand in `args`, for messages.
pub fn subcommand(root: &Command, args: &[OsString]) -> Option<String> {
    let mut names = args.iter().skip(1).filter_map(|arg| arg.to_str());
    names
        .find_map(|name| root.find_subcommand(name))
        .map(|command| command.get_name().to_owned())
}

/// Whether the text is a flag rather than a value: `-` is stdin and `-1` a number.
fn is_flag(text: &str) -> bool {
    text.len() > 1 && text.starts_with('-') && !is_number(text)
}

fn is_number(text: &str) -> bool {
    let digits = text.trim_start_matches('-').trim_start_matches('.');
    digits.starts_with(|c: char| c.is_ascii_digit()) && text.parse::<f64>().is_ok()
}

/// Whether the parser will take the next argument as this flag's value.
fn takes_value(arg: &Arg, next: Option<&OsString>) -> bool {
    let next_is_flag = next.and_then(|next| next.to_str()).is_some_and(is_flag);
    arg.get_action().takes_values() && (arg.is_allow_hyphen_values_set() || !next_is_flag)
}

/// A value as clap reads it: to clap `-.5` is a flag.
fn readable(taker: &Arg, value: OsString) -> OsString {
    let fraction = value.to_str().filter(|text| is_number(text));
    match fraction.and_then(|text| text.strip_prefix("-.")) {
        Some(digits) if !taker.is_allow_hyphen_values_set() => format!("-0.{digits}").into(),
        _ => value,
    }
}

/// The environment variable that had the wrong value which an error is about.
pub fn variable_behind(root: &Command, args: &[OsString], error: &clap::Error) -> Option<String> {
    let name = subcommand(root, args)?;
    let command = root.find_subcommand(name)?;
    let ContextValue::String(wrong) = error.get(ContextKind::InvalidArg)? else {
        return None;
    };
    let arg = command
        .get_arguments()
        .find(|arg| arg.to_string() == *wrong)?;
    let given = args.iter().filter_map(|arg| arg.to_str()).any(|text| {
        let flag = text.split_once('=').map_or(text, |(flag, _)| flag);
        flag.starts_with('-') && find(command, flag).is_some_and(|f| f.get_id() == arg.get_id())
    });
    let variable = arg.get_env().filter(|_| !given)?;
    std::env::var_os(variable)?;
    Some(variable.to_string_lossy().into_owned())
}

/// The argument that a flag, dashes included, stands for.
fn find<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    match flag.strip_prefix("--") {
        Some(name) => find_long(command, name),
        None => {
            let mut chars = flag.trim_start_matches('-').chars();
            let short = chars.next().filter(|_| chars.next().is_none())?;
            command.get_arguments().find(|arg| {
                arg.get_short_and_visible_aliases()
                    .is_some_and(|all| all.contains(&short))
            })
        }
    }
}

fn find_long<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
    })
}

/// The flag as clap knows it.
fn rewrite(command: &Command, flag: &str, has_value: bool) -> anyhow::Result<String> {
    let name = flag.trim_start_matches('-').replace('_', "-");
    if flag.starts_with("--") {
        if find_long(command, &name).is_none() {
            known_elsewhere(flag, &name)?;
        }
        return Ok(format!("--{name}"));
    }
    if name.chars().count() == 1 {
        if find(command, flag).is_none() {
            known_elsewhere(flag, &name)?;
        }
        return Ok(flag.to_owned());
    }
    let long = SHORT
        .iter()
        .find(|(short, _)| *short == name)
        .map(|(_, long)| *long);
    if let Some(long) = long.filter(|long| find_long(command, long).is_some()) {
        return Ok(format!("--{long}"));
    }
    if is_cluster(command, &flag[1..]) || (has_value && name.chars().count() == 1) {
        return Ok(flag.to_owned());
    }
    known_elsewhere(flag, &name)?;
    let hint = if find_long(command, &name).is_some() {
        format!("write `--{name}`")
    } else {
        format!(
            "`{} --help` lists the flags",
            command.get_bin_name().unwrap_or("oxling")
        )
    };
    Err(hinted(format!("unknown flag `{flag}`"), hint))
}

/// Whether the text behind one dash is several flags without values (`vv`), or one with a number (`t4`).
fn is_cluster(command: &Command, text: &str) -> bool {
    let takes =
        |c: char| find(command, &format!("-{c}")).map(|arg| arg.get_action().takes_values());
    let Some(first) = text.chars().next() else {
        return false;
    };
    match takes(first) {
        Some(true) => OsStr::new(&text[first.len_utf8()..])
            .to_str()
            .is_some_and(is_number),
        Some(false) => text.chars().all(|c| takes(c) == Some(false)),
        None => false,
    }
}

/// An error for flags of llama.cpp that this program has elsewhere or not yet.
fn known_elsewhere(flag: &str, name: &str) -> anyhow::Result<()> {
    if let Some((_, instead)) = RENAMED.iter().find(|(names, _)| names.contains(&name)) {
        return Err(hinted(
            format!("`{flag}` is not a flag here"),
            format!("use `{instead}` instead"),
        ));
    }
    let matches = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => *pattern == name,
    };
    if let Some((_, hint)) = NOT_YET.iter().find(|(names, _)| names.iter().any(matches)) {
        return Err(hinted(format!("`{flag}` is not supported yet"), *hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    fn root() -> Command {
        let value = |long: &'static str| Arg::new(long).long(long);
        let run = Command::new("run")
            .arg(value("prompt").short('p').allow_hyphen_values(true))
            .arg(
                value("predict")
                    .short('n')
                    .alias("n-predict")
                    .allow_negative_numbers(true),
            )
            .arg(value("temp").allow_negative_numbers(true))
            .arg(value("n-gpu-layers").alias("gpu-layers"))
            .arg(value("flash-attn"))
            .arg(value("top-k"))
            .arg(value("spec-draft-n-max"))
            .arg(value("file").short('f'))
            .arg(
                Arg::new("single-turn")
                    .long("single-turn")
                    .action(ArgAction::SetTrue),
            )
            .arg(
                Arg::new("no-conversation")
                    .long("no-conversation")
                    .action(ArgAction::SetTrue),
            );
        let mut root = Command::new("oxling")
            .arg(
                Arg::new("verbose")
                    .short('v')
                    .long("verbose")
                    .action(ArgAction::Count)
                    .global(true),
            )
            .subcommand(run)
            .subcommand(Command::new("inspect").arg(Arg::new("file")));
        root.build();
        root
    }

    fn rewritten(args: &str) -> Result<String, String> {
        let args = ["oxling"]
            .into_iter()
            .chain(args.split(' '))
            .map(OsString::from);
        let done = normalise(&root(), args).map_err(|e| e.to_string())?;
        Ok(done[1..]
            .iter()
            .map(|arg| arg.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn flags_are_rewritten_and_values_are_not() {
        let cases = [
            ("run -ngl 99 -st", "run --n-gpu-layers 99 --single-turn"),
            ("run -ngl=99", "run --n-gpu-layers=99"),
            ("run -no_cnv --top_k 5", "run --no-conversation --top-k 5"),
            ("run --top_k=a_b", "run --top-k=a_b"),
            (
                "run --n_predict -1 --temp -1",
                "run --n-predict -1 --temp -1",
            ),
            ("run -n -1 --temp -.5", "run -n -1 --temp -0.5"),
            ("run -p -.5", "run -p -.5"),
            ("run -p -st -st", "run -p -st --single-turn"),
            ("run -p --top_k", "run -p --top_k"),
            ("run -f - -st", "run -f - --single-turn"),
            ("run -f a_b", "run -f a_b"),
            ("run -- -st --top_k", "run -- -st --top_k"),
            ("run -vv -n4", "run -vv -n4"),
            ("-v run -fa on", "-v run --flash-attn on"),
            ("run --gpu_layers 3", "run --gpu-layers 3"),
            ("inspect some_file", "inspect some_file"),
        ];
        for (given, expected) in cases {
            assert_eq!(rewritten(given).as_deref(), Ok(expected), "{given}");
        }
    }

    #[test]
    fn what_llama_cpp_has_and_we_do_not_is_said() {
        let cases = [
            ("run --draft-max 4", "`--draft-max` is not a flag here"),
            ("run --no_mmap", "`--no_mmap` is not a flag here"),
            ("run -mu a/b", "`-mu` is not supported yet"),
            (
                "run --lora-scaled x",
                "`--lora-scaled` is not supported yet",
            ),
            ("run -fprompt.txt", "unknown flag `-fprompt.txt`"),
            ("run -temp 0", "unknown flag `-temp`"),
            ("inspect -st", "unknown flag `-st`"),
        ];
        for (given, expected) in cases {
            assert_eq!(
                rewritten(given).as_ref().map_err(String::as_str),
                Err(expected),
                "{given}"
            );
        }
    }

    #[test]
    fn the_tables_agree_with_the_commands() {
        let mut root = <super::super::Cli as clap::CommandFactory>::command();
        root.build();
        for (short, long) in SHORT {
            let mut commands = root.get_subcommands();
            assert!(
                commands.any(|command| find_long(command, long).is_some()),
                "-{short} stands for --{long}, which no command has"
            );
        }
        let run = root.find_subcommand("run").unwrap();
        for (names, _) in RENAMED.iter().chain(NOT_YET) {
            let shadowed: Vec<_> = names
                .iter()
                .filter(|name| find_long(run, name).is_some())
                .collect();
            assert!(shadowed.is_empty(), "{shadowed:?} are flags of run");
        }
    }
}
