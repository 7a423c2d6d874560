//! `oxling completions`: completion scripts for shells.

#![forbid(unsafe_code)]

use std::io::Write as _;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling completions bash > ~/.local/share/bash-completion/completions/oxling
  oxling completions zsh > ~/.zfunc/_oxling        # with ~/.zfunc in fpath
  oxling completions fish > ~/.config/fish/completions/oxling.fish")]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes the script for the parser `root` to stdout.
pub fn run(args: &CompletionsArgs, mut root: Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut root, "oxling", &mut script);
    std::io::stdout()
        .write_all(&script)
        .context("cannot write to stdout")
}
