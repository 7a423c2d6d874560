//! Files that are written must not be those that are read.

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ArgMatches;
use oxling::gguf::Gguf;

use super::errors::hinted;

/// Refuses to write to a file that is read, whatever the names that lead to it.
pub fn refuse_same_file<'a>(out: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let Some(there) = identity(out) else {
        return Ok(());
    };
    match inputs
        .into_iter()
        .find(|input| identity(input).as_ref() == Some(&there))
    {
        None => Ok(()),
        Some(input) => Err(hinted(
            format!(
                "{} is not written: it is read as {}",
                out.display(),
                input.display()
            ),
            "choose another name for the output",
        )),
    }
}

/// The files of a model.
pub fn files_of(gguf: &Gguf) -> impl Iterator<Item = &Path> {
    gguf.shards().iter().map(|shard| shard.path())
}

/// What two names of one file have in common.
#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let there = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some((there.dev(), there.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok().filter(|path| path.is_file())
}

/// Opens a log, which goes on where an earlier one ended. Files that the command line names otherwise are no logs, and
/// models never are.
pub fn open_log(path: &Path, matches: &ArgMatches) -> Result<File> {
    let cannot = || format!("cannot write log file {}", path.display());
    let named = named(matches);
    refuse_same_file(path, named.iter().map(PathBuf::as_path))?;
    // Only a file: reading a pipe would wait for a writer.
    if identity(path).is_some() {
        let mut start = [0; 4];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
        if read.is_ok() && start == *b"GGUF" {
            return Err(hinted(
                "it holds a model",
                "choose another name with --log-file",
            ))
            .with_context(cannot);
        }
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(cannot)
}

/// Everything the command line says beside the log's own name, as if it were a path.
fn named(matches: &ArgMatches) -> Vec<PathBuf> {
    let Some((_, command)) = matches.subcommand() else {
        return Vec::new();
    };
    let ids = command.ids().filter(|id| *id != "log_file");
    let raw = ids.filter_map(|id| command.try_get_raw(id.as_str()).ok().flatten());
    raw.flatten().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_file_is_known_by_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("model"), "x").unwrap();
        fs::write(at("other"), "x").unwrap();
        fs::hard_link(at("model"), at("hard")).unwrap();
        std::os::unix::fs::symlink(at("model"), at("soft")).unwrap();
        let (model, other) = (at("model"), at("other"));
        let inputs = [other.as_path(), model.as_path()];
        for (out, refused) in [
            ("model", true),
            ("hard", true),
            ("soft", true),
            ("other", true),
            ("new", false),
            (".", false),
        ] {
            let done = refuse_same_file(&at(out), inputs);
            assert_eq!(done.is_err(), refused, "{out}: {done:?}");
        }
        assert!(refuse_same_file(&at("other"), [model.as_path()]).is_ok());
    }
}
