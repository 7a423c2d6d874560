//! `oxling logits`: logits of prompts at every position, under the keys the reference scripts use.

mod file;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use oxling::engine::{Engine, EngineConfig, EngineError};
use oxling::memory::{SeqId, Work};
use oxling::model::Model;
use oxling::tokenizer::EncodeOptions;
use serde::{Deserialize, Serialize};

use super::model_args::{ComputeArgs, ModelArgs, read_text};
use super::outputs::{files_of, refuse_same_file};
use super::progress::count_bar;

/// Write logits of prompts at every position, for comparison with a reference.
///
/// PROMPTS is a JSON list; each element is a text, or a list of token ids. For prompt i the output holds
/// ids_i int32 [T], logits_i float32 [T, vocab], with --mtp mtp_logits_i float32 [T-1, vocab] (row t predicts token
/// t+2 from the hidden state of token t and token t+1), and greedy_i int32, the greedy continuation.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling logits --prompts prompts.json --out logits.safetensors
  oxling logits -m model.gguf --prompts prompts.json --out l.safetensors --mtp --greedy 0
  oxling logits -m model.gguf --prompts prompts.json --out l.safetensors --ubatch 1   # one token at a time
  oxling logits -m model.gguf --prompts prompts.json --out l.safetensors --parallel 4 # four prompts at once")]
pub struct LogitsArgs {
    /// JSON list of prompts: texts or lists of token ids; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Where to write the tensors.
    #[arg(short = 'o', long, value_name = "FILE")]
    out: PathBuf,
    /// Prompts computed together, as sequences of one batch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    parallel: u32,
    /// Tokens to continue each prompt by, always taking the likeliest.
    #[arg(long, value_name = "N", default_value_t = 24)]
    greedy: u32,
    /// Also write the logits of the MTP head.
    #[arg(long)]
    mtp: bool,
    /// Check of roll-back: compute wrong tokens for the last N of each prompt first, go back, then the right ones.
    #[arg(long, value_name = "N", default_value_t = 0)]
    rewind: u32,
    /// How --rewind goes back.
    #[arg(long, value_name = "HOW", value_enum, default_value_t = RewindBy::Checkpoint)]
    rewind_by: RewindBy,
    /// Print what was computed as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// How a sequence is put back to an earlier token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RewindBy {
    /// By a copy of the recurrent state, taken before.
    Checkpoint,
    /// By the states that memory keeps of the newest tokens.
    Snapshot,
}

/// A prompt as the JSON file gives it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompt {
    Ids(Vec<u32>),
    Text(String),
}

/// What one prompt gave.
struct Answer {
    ids: Vec<u32>,
    logits: Vec<f32>,
    mtp_logits: Vec<f32>,
    greedy: Vec<u32>,
}

/// Runs the command.
pub fn run(args: &LogitsArgs) -> Result<()> {
    let text = read_text(&args.prompts)?;
    let prompts: Vec<Prompt> = serde_json::from_str(&text).with_context(|| {
        format!(
            "{}: expected a JSON list of texts or lists of token ids",
            args.prompts.display()
        )
    })?;
    ensure!(
        !prompts.is_empty(),
        "{}: the list of prompts is empty",
        args.prompts.display()
    );
    let gguf = args.model.open()?;
    refuse_same_file(&args.out, files_of(&gguf).chain([args.prompts.as_path()]))?;
    let model = args.model.load_for(gguf, true)?;
    let ids = encode(&model, prompts)?;
    let mut engine = Engine::new(&model, config(args, &ids)?)?;
    if args.mtp && !model.network().has_mtp() {
        return Err(EngineError::NoMtp.into());
    }
    let bar = count_bar("prompts", ids.len() as u64);
    let mut answers = Vec::with_capacity(ids.len());
    for batch in ids.chunks(args.parallel as usize) {
        answers.extend(compute(&mut engine, args, batch)?);
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    file::save(&args.out, &model, args.mtp, &answers)?;
    report(&model, &answers, args.json)
}

/// Token ids of every prompt; none may be empty.
fn encode(model: &Model, prompts: Vec<Prompt>) -> Result<Vec<Vec<u32>>> {
    let options = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    let mut all = Vec::with_capacity(prompts.len());
    for (i, prompt) in prompts.into_iter().enumerate() {
        let ids = match prompt {
            Prompt::Ids(ids) => ids,
            Prompt::Text(text) => model.tokenizer().encode(&text, options),
        };
        ensure!(!ids.is_empty(), "prompt {i} has no tokens");
        all.push(ids);
    }
    Ok(all)
}

/// The engine the flags ask for, with a context just large enough unless one was asked for.
fn config(args: &LogitsArgs, ids: &[Vec<u32>]) -> Result<EngineConfig> {
    let longest = ids.iter().map(Vec::len).max().unwrap_or(1) as u32;
    let mut config = args.compute.engine_config()?;
    config.n_seq = args.parallel;
    config.mtp = args.mtp;
    if config.n_ctx == 0 {
        config.n_ctx = longest + args.greedy;
    }
    if args.rewind > 0 && args.rewind_by == RewindBy::Snapshot {
        ensure!(
            config.n_ubatch > args.rewind,
            "--rewind {} by snapshot needs as many tokens and one more in a micro-batch, not {}",
            args.rewind,
            config.n_ubatch
        );
        config.n_snapshots = args.rewind + 1;
    }
    Ok(config)
}

/// Computes prompts as sequences of one batch, then continues them together.
fn compute(engine: &mut Engine, args: &LogitsArgs, batch: &[Vec<u32>]) -> Result<Vec<Answer>> {
    for seq in 0..batch.len() as u32 {
        engine.clear(SeqId(seq))?;
    }
    let mut answers: Vec<Answer> = batch
        .iter()
        .map(|ids| Answer {
            ids: ids.clone(),
            logits: Vec::new(),
            mtp_logits: Vec::new(),
            greedy: Vec::new(),
        })
        .collect();
    let mut done = vec![0; batch.len()];
    if args.rewind > 0 {
        done = wrong_turn(engine, args, batch, &mut answers)?;
    }
    let rest: Vec<&[u32]> = batch.iter().zip(&done).map(|(ids, &n)| &ids[n..]).collect();
    step(engine, args.mtp, &rest, &mut answers)?;
    // The head says nothing about the first token: it has no predecessor.
    let n_vocab = engine.model().n_vocab() as usize;
    for answer in answers.iter_mut().filter(|a| !a.mtp_logits.is_empty()) {
        answer.mtp_logits.drain(..n_vocab);
    }
    continue_greedily(engine, args.greedy, &mut answers)?;
    Ok(answers)
}

/// Appends `tokens` to the sequences and their logits to the answers.
fn step(engine: &mut Engine, mtp: bool, tokens: &[&[u32]], answers: &mut [Answer]) -> Result<()> {
    let work = tokens.iter().enumerate().filter(|(_, t)| !t.is_empty());
    let work: Vec<Work<'_>> = work
        .map(|(i, &tokens)| Work {
            seq: SeqId(i as u32),
            tokens,
            outputs: (0..tokens.len() as u32).collect(),
        })
        .collect();
    let output = engine.step(&work, mtp)?;
    for (item, work) in work.iter().enumerate() {
        let answer = &mut answers[work.seq.0 as usize];
        for &token in &work.outputs {
            answer.logits.extend(
                output
                    .logits(item, token)
                    .context("a row of logits is missing")?,
            );
            if mtp {
                let row = output
                    .mtp_logits(item, token)
                    .context("a row of MTP logits is missing")?;
                answer.mtp_logits.extend(row);
            }
        }
    }
    Ok(())
}

/// Computes each prompt up to its last `rewind` tokens, goes on with other tokens, and goes back. Gives the number of
/// tokens that stay.
fn wrong_turn(
    engine: &mut Engine,
    args: &LogitsArgs,
    batch: &[Vec<u32>],
    answers: &mut [Answer],
) -> Result<Vec<usize>> {
    let keep: Vec<usize> = batch
        .iter()
        .map(|ids| ids.len().saturating_sub(args.rewind as usize))
        .collect();
    // A snapshot of the state after token n needs token n in the same graph as those after it.
    let before = usize::from(args.rewind_by == RewindBy::Snapshot);
    let first: Vec<&[u32]> = batch
        .iter()
        .zip(&keep)
        .map(|(ids, &n)| &ids[..n.saturating_sub(before)])
        .collect();
    step(engine, args.mtp, &first, answers)?;
    for (i, (ids, &keep)) in batch.iter().zip(&keep).enumerate() {
        let seq = SeqId(i as u32);
        let checkpoint = engine.checkpoint(seq)?;
        let common = &ids[first[i].len()..keep];
        let wrong: Vec<u32> = common
            .iter()
            .chain(ids[keep..].iter().rev())
            .copied()
            .collect();
        let outputs: Vec<u32> = (0..common.len() as u32).collect();
        let output = engine.step(
            &[Work {
                seq,
                tokens: &wrong,
                outputs,
            }],
            args.mtp,
        )?;
        for token in 0..common.len() as u32 {
            answers[i].logits.extend(
                output
                    .logits(0, token)
                    .context("a row of logits is missing")?,
            );
            if args.mtp {
                let row = output
                    .mtp_logits(0, token)
                    .context("a row of MTP logits is missing")?;
                answers[i].mtp_logits.extend(row);
            }
        }
        match args.rewind_by {
            _ if keep == 0 => engine.clear(seq)?,
            RewindBy::Checkpoint => engine.restore(seq, &checkpoint)?,
            RewindBy::Snapshot => engine.truncate(seq, keep as u32)?,
        }
    }
    Ok(keep)
}

/// Continues all sequences by the likeliest tokens, one of each per step.
fn continue_greedily(engine: &mut Engine, n: u32, answers: &mut [Answer]) -> Result<()> {
    let n_vocab = engine.model().n_vocab() as usize;
    let mut next: Vec<u32> = answers
        .iter()
        .map(|a| argmax(&a.logits[a.logits.len() - n_vocab..]))
        .collect();
    for done in 0..n {
        for (answer, &token) in answers.iter_mut().zip(&next) {
            answer.greedy.push(token);
        }
        if done + 1 == n {
            break;
        }
        let work: Vec<Work<'_>> = next
            .iter()
            .enumerate()
            .map(|(i, token)| Work {
                seq: SeqId(i as u32),
                tokens: std::slice::from_ref(token),
                outputs: vec![0],
            })
            .collect();
        let output = engine.step(&work, false)?;
        next = (0..answers.len())
            .map(|i| {
                output
                    .logits(i, 0)
                    .map(argmax)
                    .context("a row of logits is missing")
            })
            .collect::<Result<_>>()?;
    }
    Ok(())
}

/// The first of the largest values.
fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = i;
        }
    }
    best as u32
}

/// One line of the report.
#[derive(Serialize)]
struct Row<'a> {
    prompt: usize,
    n_tokens: usize,
    greedy: &'a [u32],
    text: String,
}

fn report(model: &Model, answers: &[Answer], json: bool) -> Result<()> {
    let rows: Vec<Row<'_>> = answers
        .iter()
        .enumerate()
        .map(|(prompt, a)| Row {
            prompt,
            n_tokens: a.ids.len(),
            greedy: &a.greedy,
            text: String::from_utf8_lossy(&model.tokenizer().decode(&a.greedy, true)).into_owned(),
        })
        .collect();
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    for row in &rows {
        writeln!(
            out,
            "{:>4} {:>6} tokens  {:?}",
            row.prompt, row.n_tokens, row.text
        )?;
    }
    Ok(())
}
