//! `oxling speculation`: what guessing ahead brings for a model, and whether the texts stay the same.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use oxling::bench::{Draw, Generator};
use oxling::engine::speculation::{DraftStats, DraftType, SpeculationParams};
use oxling::engine::{EngineConfig, vocab_of};
use oxling::model::Model;
use oxling::tokenizer::EncodeOptions;
use serde::Deserialize;
use serde_json::json;

use super::errors::hinted;
use super::model_args::{ComputeArgs, ModelArgs, read_text};
use super::progress::count_bar;
use super::sampling_args::SamplingArgs;
use super::table::{Align, Table};

/// Texts to continue when no file is given.
const PROMPTS: [&str; 4] = [
    "Once upon a time there was",
    "The capital of France is",
    "1 + 1 = 2. 2 + 2 = 4. 3 + 3 =",
    "In the beginning God created the heaven",
];

/// Measure what guessing ahead brings: acceptance, speed, and whether the texts stay the same.
///
/// Each prompt is continued without guesses, then with each number of them, in turns, so that a machine that gets slower
/// meanwhile slows all of them. PROMPTS is a JSON list of texts or of objects with `text` and `domain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling speculation -m model.gguf --temp 0 -n 128
  oxling speculation -m model.gguf --prompts prompts.json --parallel 4
  oxling speculation -m random.gguf --spec-synth-rates 0.85 --ignore-eos    # weights of `oxling synth`")]
pub struct SpeculationArgs {
    /// JSON list of prompts; `-` is stdin. Without it, four short ones.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Tokens to continue each prompt by.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    predict: u32,
    /// Numbers of guesses to try, comma-separated; `auto` chooses while running, up to 3.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,2,3,auto"
    )]
    drafts: Vec<String>,
    /// Where guesses come from: mtp or ngram.
    #[arg(long, value_name = "TYPE", default_value = "mtp")]
    spec_type: DraftType,
    /// Accept guesses with these probabilities instead of by what is drawn; the texts mean nothing then.
    #[arg(long, value_name = "P,P,...", value_delimiter = ',')]
    spec_synth_rates: Vec<f32>,
    /// Let the head choose among the first N tokens of the vocabulary only; 0: among all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    spec_draft_vocab: u32,
    /// Prompts continued together, as sequences of one batch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallel: u32,
    /// Times each prompt is continued; the fastest counts.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// A prompt as the JSON file gives it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Given {
    Text(String),
    Of { text: String, domain: String },
}

struct Prompt {
    domain: String,
    tokens: Vec<u32>,
}

/// One way to continue all prompts.
struct Case {
    label: String,
    generator: Generator,
    texts: Vec<Vec<u32>>,
    seconds: f64,
    domains: BTreeMap<String, DraftStats>,
}

impl Case {
    fn new(
        model: &Model,
        label: &str,
        params: &SpeculationParams,
        config: &EngineConfig,
    ) -> Result<Self> {
        Ok(Self {
            label: label.to_owned(),
            generator: Generator::new(model, params, config)?,
            texts: Vec::new(),
            seconds: 0.0,
            domains: BTreeMap::new(),
        })
    }

    /// Continues as many prompts as there are sequences; gives the texts and the time without that of the prompts.
    fn write(&mut self, prompts: &[&Prompt], how: &How) -> Result<(Vec<Vec<u32>>, f64)> {
        let tokens: Vec<&[u32]> = prompts.iter().map(|p| p.tokens.as_slice()).collect();
        self.generator.forget()?;
        self.generator.read(&tokens)?;
        let start = Instant::now();
        let texts = self
            .generator
            .write(prompts.len(), how.n_predict, &how.draw)?;
        let seconds = start.elapsed().as_secs_f64();
        self.generator.rest();
        Ok((texts, seconds))
    }

    /// As [`Self::write`], several times: the fastest counts, and acceptance of the first.
    fn measure(&mut self, prompts: &[&Prompt], how: &How, repeat: u32) -> Result<()> {
        let before: Vec<DraftStats> = self.generator.stats().cloned().collect();
        let (texts, mut best) = self.write(prompts, how)?;
        for ((prompt, stats), before) in prompts.iter().zip(self.generator.stats()).zip(&before) {
            let domain = self.domains.entry(prompt.domain.clone()).or_default();
            domain.add(&stats.since(before));
        }
        for _ in 1..repeat {
            best = self.write(prompts, how)?.1.min(best);
        }
        self.texts.extend(texts);
        self.seconds += best;
        Ok(())
    }

    fn stats(&self) -> DraftStats {
        let mut sum = DraftStats::default();
        self.domains.values().for_each(|s| sum.add(s));
        sum
    }

    /// Tokens per second. The first token of a text came with its prompt.
    fn rate(&self) -> f64 {
        let n: usize = self.texts.iter().map(|t| t.len().saturating_sub(1)).sum();
        n as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Seconds of a step in which all sequences check as many guesses as this case is about.
    fn step_seconds(&self, parallel: u32) -> Option<f64> {
        let drafts: u32 = self.label.parse().ok()?;
        self.generator
            .engine()
            .costs()
            .step((parallel * (drafts + 1)) as usize)
    }

    /// Seconds of one guess for all sequences.
    fn guess_seconds(&self, parallel: u32) -> Option<f64> {
        self.label.parse::<u32>().ok()?;
        self.generator.engine().costs().draft(parallel as usize)
    }

    fn same_as(&self, plain: &Self) -> usize {
        let pairs = self.texts.iter().zip(&plain.texts);
        pairs.filter(|(a, b)| a == b).count()
    }
}

/// How texts are continued.
struct How {
    draw: Draw,
    n_predict: u32,
}

/// Runs the command.
pub fn run(args: &SpeculationArgs) -> Result<()> {
    let gguf = args.model.open()?;
    let mut sampling = args.sampling.params(gguf.metadata())?;
    // All ways must draw the same.
    sampling.seed = sampling.seed.or(Some(0));
    let head = args.spec_type == DraftType::Mtp;
    let model = args.model.load_for(gguf, head)?;
    if head && !model.network().has_mtp() {
        return Err(hinted(
            "the model has no MTP head to guess with",
            "try --spec-type ngram",
        ));
    }
    let prompts = prompts(args, &model)?;
    let mut cases = cases(args, &model, &prompts)?;
    let draw = Draw {
        params: sampling,
        vocab: vocab_of(&model),
    };
    let how = How {
        draw,
        n_predict: args.predict,
    };
    let bar = count_bar("prompts", prompts.len() as u64);
    for batch in prompts.chunks(args.parallel as usize) {
        for case in &mut cases {
            let together = case.generator.n_seq();
            let batch: Vec<&Prompt> = batch.iter().collect();
            for part in batch.chunks(together) {
                case.measure(part, &how, args.repeat)?;
            }
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    if args.json {
        return report_json(&cases);
    }
    report(args, &cases)
}

fn prompts(args: &SpeculationArgs, model: &Model) -> Result<Vec<Prompt>> {
    let given: Vec<Given> = match &args.prompts {
        None => PROMPTS.map(|text| Given::Text(text.to_owned())).into(),
        Some(path) => serde_json::from_str(&read_text(path)?).with_context(|| {
            format!(
                "{}: expected a JSON list of texts, or of objects with text and domain",
                path.display()
            )
        })?,
    };
    let options = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    let mut all = Vec::with_capacity(given.len());
    for (i, prompt) in given.into_iter().enumerate() {
        let (text, domain) = match prompt {
            Given::Text(text) => (text, "all".to_owned()),
            Given::Of { text, domain } => (text, domain),
        };
        let tokens = model.tokenizer().encode(&text, options);
        ensure!(!tokens.is_empty(), "prompt {i} has no tokens");
        all.push(Prompt { domain, tokens });
    }
    ensure!(!all.is_empty(), "the list of prompts is empty");
    Ok(all)
}

/// Without guesses one by one; without guesses together, if that is something else; and each number of guesses.
fn cases(args: &SpeculationArgs, model: &Model, prompts: &[Prompt]) -> Result<Vec<Case>> {
    let mut config = args.compute.engine_config()?;
    if config.n_ctx == 0 {
        let longest = prompts.iter().map(|p| p.tokens.len()).max().unwrap_or(0);
        config.n_ctx = longest as u32 + args.predict + 1;
    }
    config.draft_vocab = args.spec_draft_vocab;
    let plain = SpeculationParams::default();
    let mut cases = vec![Case::new(model, "none", &plain, &config)?];
    config.n_seq = args.parallel;
    if args.parallel > 1 {
        let label = format!("none, {} together", args.parallel);
        cases.push(Case::new(model, &label, &plain, &config)?);
    }
    for drafts in &args.drafts {
        let auto = drafts == "auto";
        let n_max = if auto { Ok(3) } else { drafts.parse() };
        let params = SpeculationParams {
            draft: args.spec_type,
            n_max: n_max
                .with_context(|| format!("--drafts: `{drafts}` is no number and not `auto`"))?,
            adapt: auto,
            synth_rates: args.spec_synth_rates.clone(),
            ..SpeculationParams::default()
        };
        cases.push(Case::new(model, drafts, &params, &config)?);
    }
    Ok(cases)
}

fn milliseconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".into(), |s| format!("{:.3}", 1000.0 * s))
}

fn rates_text(stats: &DraftStats) -> String {
    let texts: Vec<String> = stats
        .acceptance()
        .iter()
        .map(|r| format!("{r:.2}"))
        .collect();
    texts.join(" ")
}

fn report(args: &SpeculationArgs, cases: &[Case]) -> Result<()> {
    use Align::{Left, Right};
    let mut out = std::io::stdout().lock();
    let fake = !args.spec_synth_rates.is_empty();
    let mut table = Table::new(&[
        ("guesses", Left),
        ("same texts", Right),
        ("right, by position", Left),
        ("tokens/step", Right),
        ("step ms", Right),
        ("guess ms", Right),
        ("t/s", Right),
        ("ratio", Right),
    ]);
    // Against as many sequences at once without guesses.
    let plain = &cases[usize::from(args.parallel > 1)];
    for case in cases {
        let stats = case.stats();
        table.row([
            case.label.clone(),
            if fake {
                "-".into()
            } else {
                format!("{}/{}", case.same_as(&cases[0]), case.texts.len())
            },
            rates_text(&stats),
            format!("{:.2}", stats.mean_length()),
            milliseconds(case.step_seconds(args.parallel)),
            milliseconds(case.guess_seconds(args.parallel)),
            format!("{:.1}", case.rate()),
            format!("{:.2}", case.rate() / plain.rate()),
        ]);
    }
    table.write(&mut out)?;
    let Some(case) = cases.iter().rfind(|c| c.label.parse::<u32>().is_ok()) else {
        return Ok(());
    };
    if case.domains.len() > 1 {
        writeln!(out, "\nright with {} guesses, by position:", case.label)?;
        let mut table = Table::new(&[("domain", Left), ("right", Left), ("tokens/step", Right)]);
        for (domain, stats) in &case.domains {
            let length = format!("{:.2}", stats.mean_length());
            table.row([domain.clone(), rates_text(stats), length]);
        }
        table.write(&mut out)?;
    }
    Ok(())
}

fn report_json(cases: &[Case]) -> Result<()> {
    let of = |stats: &DraftStats| {
        json!({
            "steps": stats.steps,
            "drafting_steps": stats.drafting_steps,
            "drafted": stats.drafted,
            "accepted": stats.accepted,
            "acceptance": stats.acceptance(),
            "mean_length": stats.mean_length(),
        })
    };
    let cases: Vec<_> = cases
        .iter()
        .map(|case| {
            let domains: BTreeMap<_, _> = case.domains.iter().map(|(d, s)| (d, of(s))).collect();
            json!({
                "drafts": case.label,
                "texts": case.texts.len(),
                "same": case.same_as(&cases[0]),
                "tokens_per_second": case.rate(),
                "all": of(&case.stats()),
                "domains": domains,
            })
        })
        .collect();
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &cases)?;
    writeln!(out)?;
    Ok(())
}
