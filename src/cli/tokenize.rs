//! `oxling tokenize`: how a text becomes tokens, and back.

mod lines;

use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use oxling::tokenizer::{EncodeOptions, Tokenizer};
use serde_json::json;

use super::escapes::unescape;
use super::model_args::ModelArgs;

/// Show how a text becomes tokens, or tokens a text.
///
/// Needs only the vocabulary of a file, so vocabularies without weights and models that do not run here will do.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling tokenize -p 'The capital of France'
  oxling tokenize -m model.gguf -f text.txt --ids --show-count
  echo -n 'Hello' | oxling tokenize -m model.gguf --stdin --json
  oxling tokenize -m model.gguf --decode '[976, 9029, 328]'")]
pub struct TokenizeArgs {
    /// Text to tokenize.
    #[arg(
        short = 'p',
        long,
        value_name = "TEXT",
        group = "input",
        allow_hyphen_values = true
    )]
    prompt: Option<String>,
    /// File to tokenize; `-` is stdin.
    #[arg(short = 'f', long, value_name = "FILE", group = "input")]
    file: Option<PathBuf>,
    /// Tokenize what comes from stdin.
    #[arg(long, group = "input")]
    stdin: bool,
    /// Token ids to turn into text: numbers with commas or spaces between, in brackets or not.
    #[arg(long, value_name = "IDS", group = "input")]
    decode: Option<String>,
    /// File with one JSON value a line, each a text; prints one JSON object a line. `-` is stdin. A value is a
    /// string, or an object with `text` or `hex` (bytes) and, if wanted, `add_special` and `parse_special`; null
    /// asks for the ids with a special use. An answer has `ids`, and in `hex` the bytes they give back.
    #[arg(long, value_name = "FILE", group = "input")]
    json_lines: Option<PathBuf>,
    /// Print the ids alone, as a list.
    #[arg(long)]
    ids: bool,
    /// Do not add the tokens the model wants at the start and end of a text.
    #[arg(long)]
    no_bos: bool,
    /// Read markers such as <|endoftext|> as plain text.
    #[arg(long)]
    no_parse_special: bool,
    /// Leave sequences such as \n in -p as they are.
    #[arg(long)]
    no_escape: bool,
    /// Print the number of tokens too.
    #[arg(long)]
    show_count: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub fn run(args: &TokenizeArgs) -> Result<()> {
    let gguf = args.model.open()?;
    let tokenizer = Tokenizer::from_metadata(gguf.metadata()).with_context(|| {
        gguf.shards()
            .first()
            .map_or_else(String::new, |shard| shard.path().display().to_string())
    })?;
    if let Some(ids) = &args.decode {
        return decode(args, &tokenizer, ids);
    }
    let options = EncodeOptions {
        add_special: !args.no_bos,
        parse_special: !args.no_parse_special,
    };
    if let Some(path) = &args.json_lines {
        return answer_lines(&tokenizer, options, path);
    }
    let text = input(args)?;
    print(args, &tokenizer, &tokenizer.encode_bytes(&text, options))
}

fn answer_lines(tokenizer: &Tokenizer, options: EncodeOptions, path: &Path) -> Result<()> {
    let out = BufWriter::new(std::io::stdout().lock());
    if path.as_os_str() == "-" {
        return lines::run(tokenizer, options, std::io::stdin().lock(), out);
    }
    let file =
        std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    lines::run(tokenizer, options, BufReader::new(file), out)
        .with_context(|| path.display().to_string())
}

/// The text, which need not be UTF-8 where it comes from a file.
fn input(args: &TokenizeArgs) -> Result<Vec<u8>> {
    match (&args.prompt, &args.file) {
        (Some(text), _) if args.no_escape => Ok(text.clone().into_bytes()),
        (Some(text), _) => Ok(unescape(text)?.into_bytes()),
        (_, Some(path)) if path.as_os_str() != "-" => read(path),
        (_, file) if args.stdin || file.is_some() => {
            let mut bytes = Vec::new();
            let mut stdin = std::io::stdin().lock();
            stdin.read_to_end(&mut bytes).context("cannot read stdin")?;
            Ok(bytes)
        }
        _ => bail!("nothing to tokenize: give a text with -p, a file with -f, or --stdin"),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn print(args: &TokenizeArgs, tokenizer: &Tokenizer, ids: &[u32]) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let piece = |id: u32| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
    if args.json {
        let tokens: Vec<_> = ids
            .iter()
            .map(|&id| json!({ "id": id, "piece": piece(id) }))
            .collect();
        let all = json!({ "count": ids.len(), "ids": ids, "tokens": tokens });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(out.flush()?);
    }
    if args.ids {
        let list = ids
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        writeln!(out, "[{list}]")?;
    } else {
        for &id in ids {
            writeln!(out, "{id:>6} -> '{}'", piece(id))?;
        }
    }
    if args.show_count {
        writeln!(out, "Total number of tokens: {}", ids.len())?;
    }
    Ok(out.flush()?)
}

fn decode(args: &TokenizeArgs, tokenizer: &Tokenizer, text: &str) -> Result<()> {
    let mut from_stdin = String::new();
    let text = if text == "-" {
        std::io::stdin()
            .lock()
            .read_to_string(&mut from_stdin)
            .context("cannot read stdin")?;
        &from_stdin
    } else {
        text
    };
    let words = text
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']'))
        .filter(|word| !word.is_empty());
    let mut ids = Vec::new();
    for word in words {
        let id: u32 = word
            .parse()
            .ok()
            .with_context(|| format!("{word:?} is not a token id"))?;
        if id as usize >= tokenizer.n_vocab() {
            bail!(
                "token {id} is outside the vocabulary of {} tokens",
                tokenizer.n_vocab()
            );
        }
        ids.push(id);
    }
    let bytes = tokenizer.detokenize(&ids, true);
    let mut out = std::io::stdout().lock();
    if args.json {
        let all =
            json!({ "count": ids.len(), "ids": ids, "text": String::from_utf8_lossy(&bytes) });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    } else {
        out.write_all(&bytes)?;
        writeln!(out)?;
    }
    Ok(())
}
