//! Sampling flags by llama.cpp's names. What is not given comes from the file, then from llama.cpp's defaults.

#![forbid(unsafe_code)]

use std::str::FromStr;

use anyhow::Result;
use clap::Args;
use oxling::engine::sampling::{SamplerKind, SamplingParams};
use oxling::gguf::Metadata;

use super::errors::hinted;
use super::escapes::unescape;

/// How tokens are drawn.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sampling (defaults in brackets; a file may bring its own)")]
pub struct SamplingArgs {
    /// Seed of the random draws; the same seed gives the same text. -1: a new one each time [-1].
    #[arg(short = 's', long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<i64>,
    /// Samplers in their order, separated by `;`
    /// [penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature].
    #[arg(long, value_name = "LIST")]
    samplers: Option<String>,
    /// The same as letters [edskypmxt].
    #[arg(
        long,
        alias = "sampling-seq",
        value_name = "LETTERS",
        conflicts_with = "samplers"
    )]
    sampler_seq: Option<String>,
    /// Temperature; 0 always takes the likeliest token [0.8].
    #[arg(
        long,
        alias = "temperature",
        value_name = "N",
        allow_negative_numbers = true,
        env = "LLAMA_ARG_TEMPERATURE"
    )]
    temp: Option<f32>,
    /// Keep the K likeliest tokens; 0: off [40].
    #[arg(
        long,
        value_name = "K",
        allow_negative_numbers = true,
        env = "LLAMA_ARG_TOP_K"
    )]
    top_k: Option<i32>,
    /// Keep the likeliest tokens that reach this probability together; 1: off [0.95].
    #[arg(long, value_name = "P", env = "LLAMA_ARG_TOP_P")]
    top_p: Option<f32>,
    /// Keep tokens with at least this share of the likeliest one's probability; 0: off [0.05].
    #[arg(long, value_name = "P", env = "LLAMA_ARG_MIN_P")]
    min_p: Option<f32>,
    /// Locally typical sampling; 1: off [1].
    #[arg(long, alias = "typical-p", value_name = "P")]
    typical: Option<f32>,
    /// Keep logits within N standard deviations of the largest; -1: off [-1].
    #[arg(
        long,
        alias = "top-nsigma",
        value_name = "N",
        allow_negative_numbers = true
    )]
    top_n_sigma: Option<f32>,
    /// Probability that XTC drops the likeliest tokens; 0: off [0].
    #[arg(long, value_name = "P")]
    xtc_probability: Option<f32>,
    /// Probability from which XTC counts a token as likely [0.1].
    #[arg(long, value_name = "P")]
    xtc_threshold: Option<f32>,
    /// Tokens of the past that the penalties look at; 0: off, -1: all [64].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    repeat_last_n: Option<i32>,
    /// Penalty for repeated tokens; 1: off [1].
    #[arg(long, value_name = "N", env = "LLAMA_ARG_REPEAT_PENALTY")]
    repeat_penalty: Option<f32>,
    /// Penalty for tokens that occurred; 0: off [0].
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        env = "LLAMA_ARG_PRESENCE_PENALTY"
    )]
    presence_penalty: Option<f32>,
    /// Penalty for each time a token occurred; 0: off [0].
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        env = "LLAMA_ARG_FREQUENCY_PENALTY"
    )]
    frequency_penalty: Option<f32>,
    /// DRY: penalty for going on with a repeated sequence; 0: off [0].
    #[arg(long, value_name = "N")]
    dry_multiplier: Option<f32>,
    /// DRY: growth of the penalty per token [1.75].
    #[arg(long, value_name = "N")]
    dry_base: Option<f32>,
    /// DRY: length of a repetition that costs nothing [2].
    #[arg(long, value_name = "N")]
    dry_allowed_length: Option<u32>,
    /// DRY: tokens of the past that are scanned; 0: off, -1: all [64].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    dry_penalty_last_n: Option<i32>,
    /// DRY: a text that ends a repetition, once for each; `none` for no such text [\n : " *].
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    dry_sequence_breaker: Vec<String>,
    /// Dynamic temperature: range around the temperature; 0: off [0].
    #[arg(long, value_name = "N")]
    dynatemp_range: Option<f32>,
    /// Dynamic temperature: exponent [1].
    #[arg(long, value_name = "N")]
    dynatemp_exp: Option<f32>,
    /// Mirostat version: 0: off, 1 or 2; then only the temperature works beside it [0].
    #[arg(long, value_name = "N")]
    mirostat: Option<u8>,
    /// Mirostat: target entropy, tau [5].
    #[arg(long, value_name = "N")]
    mirostat_ent: Option<f32>,
    /// Mirostat: learning rate, eta [0.1].
    #[arg(long, value_name = "N")]
    mirostat_lr: Option<f32>,
    /// Adaptive-p: probability near which tokens are picked; -1: off [-1].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    adaptive_target: Option<f32>,
    /// Adaptive-p: decay of the average [0.9].
    #[arg(long, value_name = "N")]
    adaptive_decay: Option<f32>,
    /// Change the logit of a token, as in `15043+1` or `15043-1`; `15043-inf` forbids it.
    #[arg(short = 'l', long, value_name = "TOKEN(+/-)BIAS")]
    logit_bias: Vec<LogitBias>,
    /// Never end the answer: forbid all end-of-generation tokens.
    #[arg(long)]
    ignore_eos: bool,
}

/// A token and what is added to its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitBias(u32, f32);

impl FromStr for LogitBias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.find(['+', '-']).map(|at| text.split_at(at));
        split
            .and_then(|(token, bias)| Some(Self(token.parse().ok()?, bias.parse().ok()?)))
            .ok_or_else(|| {
                "expected a token id, a sign and a number, as in `15043+1` or `15043-inf`"
                    .to_owned()
            })
    }
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

impl SamplingArgs {
    /// Parameters for a model with this metadata, checked.
    ///
    /// # Errors
    /// A value that cannot work, an unknown sampler, or a default of the file that is of another type.
    pub fn params(&self, metadata: &Metadata) -> Result<SamplingParams> {
        let mut params = defaults_of(metadata)?;
        self.apply(&mut params)?;
        params.validate()?;
        Ok(params)
    }

    fn apply(&self, p: &mut SamplingParams) -> Result<()> {
        if let Some(seed) = self.seed {
            p.seed = SamplingParams::seed_from_number(seed);
        }
        if let Some(list) = &self.samplers {
            p.samplers = SamplerKind::parse_list(list)?;
        }
        if let Some(letters) = &self.sampler_seq {
            p.samplers = SamplerKind::parse_letters(letters)?;
        }
        set(&mut p.temp, self.temp);
        set(&mut p.top_k, self.top_k);
        set(&mut p.top_p, self.top_p);
        set(&mut p.min_p, self.min_p);
        set(&mut p.typ_p, self.typical);
        set(&mut p.top_n_sigma, self.top_n_sigma);
        set(&mut p.xtc_probability, self.xtc_probability);
        set(&mut p.xtc_threshold, self.xtc_threshold);
        set(&mut p.penalty_last_n, self.repeat_last_n);
        set(&mut p.penalty_repeat, self.repeat_penalty);
        set(&mut p.penalty_present, self.presence_penalty);
        set(&mut p.penalty_freq, self.frequency_penalty);
        set(&mut p.dry_multiplier, self.dry_multiplier);
        set(&mut p.dry_base, self.dry_base);
        set(&mut p.dry_allowed_length, self.dry_allowed_length);
        set(&mut p.dry_penalty_last_n, self.dry_penalty_last_n);
        set(&mut p.dynatemp_range, self.dynatemp_range);
        set(&mut p.dynatemp_exponent, self.dynatemp_exp);
        set(&mut p.mirostat, self.mirostat);
        set(&mut p.mirostat_tau, self.mirostat_ent);
        set(&mut p.mirostat_eta, self.mirostat_lr);
        set(&mut p.adaptive_target, self.adaptive_target);
        set(&mut p.adaptive_decay, self.adaptive_decay);
        if !self.dry_sequence_breaker.is_empty() {
            let given = self
                .dry_sequence_breaker
                .iter()
                .filter(|text| *text != "none");
            p.dry_sequence_breakers = given.map(|text| unescape(text)).collect::<Result<_>>()?;
        }
        p.logit_bias.extend(
            self.logit_bias
                .iter()
                .map(|&LogitBias(token, bias)| (token, bias)),
        );
        p.ignore_eos |= self.ignore_eos;
        Ok(())
    }
}

/// llama.cpp's defaults with those that the file brings (`general.sampling.*`).
fn defaults_of(md: &Metadata) -> Result<SamplingParams> {
    let mut p = SamplingParams::default();
    if let Some(letters) = md.str("general.sampling.sequence")? {
        p.samplers = SamplerKind::parse_letters(letters)?;
    }
    let float = |key: &str| md.f32(&format!("general.sampling.{key}"));
    set(&mut p.temp, float("temp")?);
    set(&mut p.top_p, float("top_p")?);
    set(&mut p.min_p, float("min_p")?);
    set(&mut p.xtc_probability, float("xtc_probability")?);
    set(&mut p.xtc_threshold, float("xtc_threshold")?);
    set(&mut p.penalty_repeat, float("penalty_repeat")?);
    set(&mut p.mirostat_tau, float("mirostat_tau")?);
    set(&mut p.mirostat_eta, float("mirostat_eta")?);
    set(&mut p.top_k, md.i32("general.sampling.top_k")?);
    set(
        &mut p.penalty_last_n,
        md.i32("general.sampling.penalty_last_n")?,
    );
    if let Some(version) = md.u32("general.sampling.mirostat")? {
        let no = || {
            hinted(
                format!("general.sampling.mirostat: expected 0, 1 or 2, found {version}"),
                "give --mirostat",
            )
        };
        p.mirostat = u8::try_from(version).map_err(|_| no())?;
    }
    Ok(p)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use oxling::gguf::Value;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: SamplingArgs,
    }

    fn parsed(flags: &str) -> SamplingArgs {
        Only::parse_from(["x"].into_iter().chain(flags.split_whitespace())).args
    }

    #[test]
    fn flags_come_before_the_file_and_the_file_before_defaults() {
        let mut md = Metadata::default();
        md.insert("general.sampling.temp", Value::F32(0.25));
        md.insert("general.sampling.top_k", Value::I32(7));
        md.insert("general.sampling.sequence", Value::from("kt"));
        let p = parsed("--temp 0.5 --seed 3").params(&md).unwrap();
        assert_eq!((p.temp, p.top_k, p.top_p, p.seed), (0.5, 7, 0.95, Some(3)));
        assert_eq!(p.samplers, [SamplerKind::TopK, SamplerKind::Temperature]);
        let p = parsed("--sampler-seq t -s -1").params(&md).unwrap();
        assert_eq!((p.temp, p.seed), (0.25, None));
        assert_eq!(p.samplers, [SamplerKind::Temperature]);
    }

    #[test]
    fn biases_and_breakers_are_read() {
        let p = parsed(r"-l 5+1.5 -l 7-inf --dry-sequence-breaker \n --ignore-eos")
            .params(&Metadata::default())
            .unwrap();
        assert_eq!(p.logit_bias, [(5, 1.5), (7, f32::NEG_INFINITY)]);
        assert_eq!(p.dry_sequence_breakers, ["\n"]);
        assert!(p.ignore_eos);
        for wrong in ["5", "x+1", "5+", "+1"] {
            assert!(wrong.parse::<LogitBias>().is_err(), "{wrong}");
        }
        assert!(parsed("--top-p 1.5").params(&Metadata::default()).is_err());
        assert!(
            parsed("--samplers top_k;nonsense")
                .params(&Metadata::default())
                .is_err()
        );
    }
}
