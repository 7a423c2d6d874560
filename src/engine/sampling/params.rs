//! Sampling parameters: names, defaults and ranges as users of llama.cpp know them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::SamplingError;

/// One member of the sampler chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SamplerKind {
    /// Repetition, frequency and presence penalties.
    Penalties,
    /// "Don't repeat yourself": penalises tokens that extend a repeated sequence.
    Dry,
    /// Keeps logits within n standard deviations of the largest.
    TopNSigma,
    /// Keeps the k most probable tokens.
    TopK,
    /// Locally typical sampling.
    TypicalP,
    /// Nucleus sampling.
    TopP,
    /// Keeps tokens with at least a share of the largest probability.
    MinP,
    /// "Exclude top choices": sometimes drops all but the least probable of the likely tokens.
    Xtc,
    /// Temperature, fixed or dynamic.
    Temperature,
    /// Picks tokens near a target probability; always the last step, wherever it stands.
    AdaptiveP,
}

impl SamplerKind {
    /// All kinds, those of the default chain first and in its order.
    pub const ALL: [Self; 10] = [
        Self::Penalties,
        Self::Dry,
        Self::TopNSigma,
        Self::TopK,
        Self::TypicalP,
        Self::TopP,
        Self::MinP,
        Self::Xtc,
        Self::Temperature,
        Self::AdaptiveP,
    ];

    /// The name used in lists of samplers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Penalties => "penalties",
            Self::Dry => "dry",
            Self::TopNSigma => "top_n_sigma",
            Self::TopK => "top_k",
            Self::TypicalP => "typ_p",
            Self::TopP => "top_p",
            Self::MinP => "min_p",
            Self::Xtc => "xtc",
            Self::Temperature => "temperature",
            Self::AdaptiveP => "adaptive_p",
        }
    }

    /// The letter used in sampler sequences.
    pub fn letter(self) -> char {
        match self {
            Self::Penalties => 'e',
            Self::Dry => 'd',
            Self::TopNSigma => 's',
            Self::TopK => 'k',
            Self::TypicalP => 'y',
            Self::TopP => 'p',
            Self::MinP => 'm',
            Self::Xtc => 'x',
            Self::Temperature => 't',
            Self::AdaptiveP => 'a',
        }
    }

    /// The kind with this letter.
    pub fn from_letter(letter: char) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.letter() == letter)
    }

    /// Reads a list separated by `;`, such as `top_k;top_p;temperature`. An empty text is an empty
    /// chain.
    ///
    /// # Errors
    /// [`SamplingError::UnknownSampler`] with the first name that is not known.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, SamplingError> {
        text.split(';')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::parse)
            .collect()
    }

    /// Reads a sequence of letters, such as `edskypmxt`.
    ///
    /// # Errors
    /// [`SamplingError::UnknownLetter`] with the first letter that is not known.
    pub fn parse_letters(sequence: &str) -> Result<Vec<Self>, SamplingError> {
        let kind = |letter| {
            Self::from_letter(letter).ok_or_else(|| SamplingError::UnknownLetter {
                letter,
                sequence: sequence.to_owned(),
            })
        };
        sequence.chars().map(kind).collect()
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SamplerKind {
    type Err = SamplingError;

    /// Case, `-` and `_` do not matter; `temp`, `nucleus`, `typ` and `typical` are short forms.
    fn from_str(name: &str) -> Result<Self, SamplingError> {
        let plain = name.replace(['-', '_'], "").to_ascii_lowercase();
        match plain.as_str() {
            "penalties" => Ok(Self::Penalties),
            "dry" => Ok(Self::Dry),
            "topnsigma" => Ok(Self::TopNSigma),
            "topk" => Ok(Self::TopK),
            "typp" | "typ" | "typical" | "typicalp" => Ok(Self::TypicalP),
            "topp" | "nucleus" => Ok(Self::TopP),
            "minp" => Ok(Self::MinP),
            "xtc" => Ok(Self::Xtc),
            "temperature" | "temp" => Ok(Self::Temperature),
            "adaptivep" => Ok(Self::AdaptiveP),
            _ => Err(SamplingError::UnknownSampler {
                name: name.to_owned(),
            }),
        }
    }
}

impl TryFrom<String> for SamplerKind {
    type Error = SamplingError;

    fn try_from(name: String) -> Result<Self, SamplingError> {
        name.parse()
    }
}

impl From<SamplerKind> for String {
    fn from(kind: SamplerKind) -> Self {
        kind.name().to_owned()
    }
}

/// How tokens are drawn. The serde names are those of llama.cpp's HTTP interface; absent fields
/// take their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingParams {
    /// Seed of the random draws; absent, -1 or 4294967295 take a random one.
    #[serde(deserialize_with = "seed_field")]
    pub seed: Option<u64>,
    /// Samplers in the order in which they are applied.
    pub samplers: Vec<SamplerKind>,
    /// Temperature; 0 or less picks the most probable token.
    #[serde(rename = "temperature", alias = "temp")]
    pub temp: f32,
    /// Dynamic temperature: spread around the temperature, chosen by entropy (0 = off).
    pub dynatemp_range: f32,
    /// Dynamic temperature: how entropy maps to temperature.
    pub dynatemp_exponent: f32,
    /// Keep the k most probable tokens (0 or less = off).
    pub top_k: i32,
    /// Keep the most probable tokens that together reach this probability (1 = off).
    pub top_p: f32,
    /// Keep tokens with at least this share of the largest probability (0 = off).
    pub min_p: f32,
    /// Locally typical sampling: probability to reach (1 = off).
    #[serde(rename = "typical_p", alias = "typ_p")]
    pub typ_p: f32,
    /// Keep logits within this many standard deviations of the largest (0 or less = off).
    pub top_n_sigma: f32,
    /// Probability that XTC acts on a token (0 = off).
    pub xtc_probability: f32,
    /// Probability from which XTC counts a token as a top choice (above 0.5 = off).
    pub xtc_threshold: f32,
    /// Filters that know it keep at least this many tokens.
    pub min_keep: u32,
    /// Tokens of the past that the penalties look at (0 = off, -1 = context size).
    #[serde(rename = "repeat_last_n", alias = "penalty_last_n")]
    pub penalty_last_n: i32,
    /// Divides positive and multiplies negative logits of past tokens (1 = off).
    #[serde(rename = "repeat_penalty", alias = "penalty_repeat")]
    pub penalty_repeat: f32,
    /// Taken from a logit for each time the token was seen (0 = off).
    #[serde(rename = "frequency_penalty", alias = "penalty_freq")]
    pub penalty_freq: f32,
    /// Taken from a logit once if the token was seen (0 = off).
    #[serde(rename = "presence_penalty", alias = "penalty_present")]
    pub penalty_present: f32,
    /// DRY: strength of the penalty (0 = off).
    pub dry_multiplier: f32,
    /// DRY: growth of the penalty per repeated token beyond the allowed length (below 1 = off).
    pub dry_base: f32,
    /// DRY: repeated tokens that cost nothing.
    pub dry_allowed_length: u32,
    /// DRY: tokens of the past that are scanned for repetitions (0 = off, -1 = context size).
    pub dry_penalty_last_n: i32,
    /// DRY: texts that end a repeated sequence.
    pub dry_sequence_breakers: Vec<String>,
    /// Mirostat version (0 = off, 1, 2); replaces all samplers but the temperature.
    pub mirostat: u8,
    /// Mirostat: target surprise in bits.
    pub mirostat_tau: f32,
    /// Mirostat: learning rate.
    pub mirostat_eta: f32,
    /// Adaptive-p: probability near which tokens are picked (negative = off).
    pub adaptive_target: f32,
    /// Adaptive-p: decay of the average, 0.99 at most; the memory is 1/(1-decay) tokens.
    pub adaptive_decay: f32,
    /// Added to the logits of tokens before all samplers; minus infinity forbids a token
    /// (`false` in JSON).
    #[serde(with = "bias_field")]
    pub logit_bias: Vec<(u32, f32)>,
    /// Forbid all end-of-generation tokens.
    pub ignore_eos: bool,
    /// Report the probabilities of this many tokens at each position.
    pub n_probs: u32,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            seed: None,
            samplers: SamplerKind::ALL
                .into_iter()
                .filter(|&kind| kind != SamplerKind::AdaptiveP)
                .collect(),
            temp: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typ_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            min_keep: 0,
            penalty_last_n: 64,
            penalty_repeat: 1.0,
            penalty_freq: 0.0,
            penalty_present: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: 64,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            adaptive_target: -1.0,
            adaptive_decay: 0.9,
            logit_bias: Vec::new(),
            ignore_eos: false,
            n_probs: 0,
        }
    }
}

/// Checks `value` against `ok` and names the parameter if it fails.
fn check(
    name: &'static str,
    value: f32,
    allowed: &'static str,
    ok: impl Fn(f32) -> bool,
) -> Result<(), SamplingError> {
    if value.is_finite() && ok(value) {
        return Ok(());
    }
    Err(SamplingError::OutOfRange {
        name,
        value: value.to_string(),
        allowed,
    })
}

impl SamplingParams {
    /// A seed as users write it: a negative number or 4294967295 mean "a random one".
    pub fn seed_from_number(number: i64) -> Option<u64> {
        u64::try_from(number)
            .ok()
            .filter(|&seed| seed != u64::from(u32::MAX))
    }

    /// Checks every parameter.
    ///
    /// # Errors
    /// [`SamplingError::OutOfRange`] with the first parameter that no sampler can work with.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let unit = |v: f32| (0.0..=1.0).contains(&v);
        let not_negative = |v: f32| v >= 0.0;
        let any = |_: f32| true;
        const UNIT: &str = "0 to 1";
        const NOT_NEGATIVE: &str = "a finite number, 0 or more";
        const FINITE: &str = "a finite number";

        check("temperature", self.temp, FINITE, any)?;
        check(
            "dynatemp_range",
            self.dynatemp_range,
            NOT_NEGATIVE,
            not_negative,
        )?;
        check(
            "dynatemp_exponent",
            self.dynatemp_exponent,
            NOT_NEGATIVE,
            not_negative,
        )?;
        check("top_p", self.top_p, UNIT, unit)?;
        check("min_p", self.min_p, UNIT, unit)?;
        check("typical_p", self.typ_p, UNIT, unit)?;
        check("top_n_sigma", self.top_n_sigma, FINITE, any)?;
        check("xtc_probability", self.xtc_probability, UNIT, unit)?;
        check("xtc_threshold", self.xtc_threshold, UNIT, unit)?;
        check(
            "repeat_penalty",
            self.penalty_repeat,
            "a finite number above 0 whose inverse is finite",
            |v| v > 0.0 && v.recip().is_finite(),
        )?;
        check("frequency_penalty", self.penalty_freq, FINITE, any)?;
        check("presence_penalty", self.penalty_present, FINITE, any)?;
        check(
            "dry_multiplier",
            self.dry_multiplier,
            NOT_NEGATIVE,
            not_negative,
        )?;
        check("dry_base", self.dry_base, NOT_NEGATIVE, not_negative)?;
        check(
            "mirostat_tau",
            self.mirostat_tau,
            NOT_NEGATIVE,
            not_negative,
        )?;
        check(
            "mirostat_eta",
            self.mirostat_eta,
            NOT_NEGATIVE,
            not_negative,
        )?;
        check(
            "adaptive_target",
            self.adaptive_target,
            "at most 1 (negative = off)",
            |v| v <= 1.0,
        )?;
        check("adaptive_decay", self.adaptive_decay, "0 to 0.99", |v| {
            (0.0..=0.99).contains(&v)
        })?;
        self.validate_rest()
    }

    /// The parameters that are not plain floats.
    fn validate_rest(&self) -> Result<(), SamplingError> {
        let out_of_range = |name, value: String, allowed| {
            Err(SamplingError::OutOfRange {
                name,
                value,
                allowed,
            })
        };
        for (name, last_n) in [
            ("repeat_last_n", self.penalty_last_n),
            ("dry_penalty_last_n", self.dry_penalty_last_n),
        ] {
            if last_n < -1 {
                return out_of_range(name, last_n.to_string(), "-1 (context size) or more");
            }
        }
        if self.mirostat > 2 {
            return out_of_range("mirostat", self.mirostat.to_string(), "0, 1 or 2");
        }
        if self.dry_sequence_breakers.iter().any(String::is_empty) {
            let value = format!("{:?}", self.dry_sequence_breakers);
            return out_of_range("dry_sequence_breakers", value, "texts that are not empty");
        }
        for &(token, bias) in &self.logit_bias {
            if bias.is_nan() || bias == f32::INFINITY {
                let value = format!("{bias} for token {token}");
                return out_of_range("logit_bias", value, "finite, or minus infinity to forbid");
            }
        }
        Ok(())
    }
}

/// Reads a seed that may be negative or absent.
fn seed_field<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Unsigned(u64),
        Signed(i64),
    }
    Ok(match Option::<Number>::deserialize(from)? {
        Some(Number::Unsigned(seed)) if seed != u64::from(u32::MAX) => Some(seed),
        Some(Number::Signed(number)) => SamplingParams::seed_from_number(number),
        _ => None,
    })
}

/// JSON has no infinity, so a forbidden token is written as `[id, false]`.
mod bias_field {
    use super::{Deserialize, Deserializer, Serialize, Serializer};
    use serde::de::Error;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Bias {
        Add(f32),
        Allowed(bool),
    }

    pub(super) fn serialize<S: Serializer>(list: &[(u32, f32)], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|&(token, bias)| {
            let bias = match bias {
                f32::NEG_INFINITY => Bias::Allowed(false),
                bias => Bias::Add(bias),
            };
            (token, bias)
        }))
    }

    pub(super) fn deserialize<'de, D>(from: D) -> Result<Vec<(u32, f32)>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let list = Vec::<(u32, Bias)>::deserialize(from)?;
        let plain = |(token, bias)| match bias {
            Bias::Add(bias) => Ok((token, bias)),
            Bias::Allowed(false) => Ok((token, f32::NEG_INFINITY)),
            Bias::Allowed(true) => Err(D::Error::custom("a logit bias is a number or false")),
        };
        list.into_iter().map(plain).collect()
    }
}
