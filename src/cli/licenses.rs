//! `oxling licenses`: the licences of what the program is made of.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::table::{Align, Table};

/// Our own licence.
const OURS: &str = include_str!("../../LICENSE");
/// Crates as name, version and licence; `scripts/licenses` writes it.
const CRATES: &str = include_str!("licenses.tsv");

/// Print the licences of what this program is made of.
///
/// The list of crates is that of the lock file: some of them are used on other systems or for tests only.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling licenses
  oxling licenses --json | jq '.crates[] | select(.license | contains(\"MPL\"))'")]
pub struct LicensesArgs {
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Name, version and licence of each crate.
fn crates() -> impl Iterator<Item = [&'static str; 3]> {
    CRATES.lines().filter_map(|line| {
        let mut cells = line.split('\t');
        Some([cells.next()?, cells.next()?, cells.next()?])
    })
}

/// Runs the command.
pub fn run(args: &LicensesArgs) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if args.json {
        let crates: Vec<_> = crates()
            .map(|[name, version, license]| json!({ "name": name, "version": version, "license": license }))
            .collect();
        let ggml = json!({ "version": oxling::ggml::version(), "text": oxling::ggml::license() });
        let all = json!({ "oxling": OURS, "ggml": ggml, "crates": crates });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(out.flush()?);
    }
    writeln!(out, "oxling\n\n{OURS}")?;
    writeln!(
        out,
        "ggml {}\n\n{}",
        oxling::ggml::version(),
        oxling::ggml::license().trim_end()
    )?;
    writeln!(
        out,
        "\nRust crates, some of them used on other systems or for tests only\n"
    )?;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left), ("", Align::Left)]);
    crates().for_each(|cells| table.row(cells.map(str::to_owned)));
    table.write(&mut out)?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_that_of_the_lock_file() {
        let lock = include_str!("../../Cargo.lock");
        let field = |package: &'static str, name: &str| {
            let line = package
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"'))
        };
        let locked: Vec<[&str; 2]> = lock
            .split("[[package]]")
            .filter(|package| field(package, "source").is_some())
            .filter_map(|package| Some([field(package, "name")?, field(package, "version")?]))
            .collect();
        let mut listed: Vec<[&str; 2]> =
            crates().map(|[name, version, _]| [name, version]).collect();
        listed.sort_unstable();
        let mut locked = locked;
        locked.sort_unstable();
        assert!(
            locked == listed,
            "run scripts/licenses: the list of crates is not that of Cargo.lock"
        );
    }
}
