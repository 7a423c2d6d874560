//! `oxling pull`: a model from a hub into the cache that other tools share.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use oxling::hub::{FileName, Pulled, Reference, Revision, Wanted};
use serde::Serialize;

use super::hub_args::HubArgs;
use super::table::human_bytes;

/// Download a GGUF model; prints where its files are.
///
/// Files that are here already, also from other tools, are not downloaded again. A download that was stopped goes on
/// where it was. All parts of a split model come.
#[derive(Debug, Args)]
#[command(after_help = "\
The cache is the one of the hub's own tools: LLAMA_CACHE, HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub.
HF_ENDPOINT names another hub; HTTPS_PROXY and SSL_CERT_FILE are heeded. Exit code 130 after Ctrl-C.

Examples:
  oxling pull ORG/NAME                   # Q4_K_M, else Q8_0, else the first model
  oxling pull ORG/NAME:IQ4_NL            # this quantisation
  oxling pull ORG/NAME --file a/b.gguf   # this file
  oxling inspect \"$(oxling pull ORG/NAME | head -n 1)\"")]
pub struct PullArgs {
    /// Repository, and the quantisation wanted, in any case.
    #[arg(value_name = "REPO[:QUANT]")]
    reference: Reference,
    /// The very file, by its path in the repository [-hff].
    #[arg(long = "file", alias = "hf-file", value_name = "NAME")]
    file: Option<FileName>,
    /// Branch, tag or commit.
    #[arg(long, value_name = "NAME", default_value = "main")]
    revision: Revision,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// What is here now.
#[derive(Serialize)]
struct Report {
    repo: String,
    revision: String,
    commit: String,
    files: Vec<FileReport>,
}

#[derive(Serialize)]
struct FileReport {
    name: String,
    path: PathBuf,
    bytes: u64,
    cached: bool,
}

/// Runs the command.
pub fn run(args: &PullArgs) -> Result<()> {
    let wanted = Wanted {
        repo: args.reference.repo.clone(),
        tag: args.reference.tag.clone(),
        file: args.file.clone(),
        revision: args.revision.clone(),
    };
    let pulled = args.hub.pull(&wanted, &mut |_| {})?;
    anstream::eprintln!("{}", summary(&pulled));
    let mut out = std::io::stdout().lock();
    if args.json {
        let report = report(&wanted, pulled);
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        for file in &pulled.files {
            writeln!(out, "{}", file.path.display())?;
        }
    }
    Ok(())
}

fn summary(pulled: &Pulled) -> String {
    let bytes = pulled.files.iter().map(|file| file.bytes).sum();
    let files = match pulled.files.len() {
        1 => "1 file".to_owned(),
        n => format!("{n} files"),
    };
    let before = match pulled.files.iter().all(|file| file.cached) {
        true => ", here before",
        false => "",
    };
    format!("{files}, {}{before}", human_bytes(bytes))
}

fn report(wanted: &Wanted, pulled: Pulled) -> Report {
    let file = |file: oxling::hub::PulledFile| FileReport {
        name: file.name.to_string(),
        path: file.path,
        bytes: file.bytes,
        cached: file.cached,
    };
    Report {
        repo: wanted.repo.to_string(),
        revision: wanted.revision.to_string(),
        commit: pulled.commit,
        files: pulled.files.into_iter().map(file).collect(),
    }
}
