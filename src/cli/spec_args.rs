//! Flags of speculative decoding, by llama.cpp's names.

#![forbid(unsafe_code)]

use std::str::FromStr;

use anyhow::Result;
use clap::Args;
use oxling::engine::EngineConfig;
use oxling::engine::speculation::{DraftType, SpeculationParams};
use oxling::model::Model;

use super::errors::hinted;

/// How tokens are guessed ahead.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Speculation (guesses change the speed, never the text)")]
pub struct SpecArgs {
    /// Where guesses come from: the model's MTP head (`mtp`), what followed the latest words when they came before
    /// (`ngram`), or nowhere (`none`). `auto` is mtp for models that have a head, otherwise none. On CPUs they pay
    /// for 2-bit experts rather than for 4 bits: `oxling speculation` measures it.
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "none",
        env = "LLAMA_ARG_SPEC_TYPE"
    )]
    pub spec_type: SpecType,
    /// Most tokens to guess per step; each keeps one more recurrent state.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=16),
          env = "LLAMA_ARG_SPEC_DRAFT_N_MAX")]
    pub spec_draft_n_max: u32,
    /// Drop guesses when there are fewer than this.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        env = "LLAMA_ARG_SPEC_DRAFT_N_MIN"
    )]
    pub spec_draft_n_min: u32,
    /// Stop guessing at the first token the head gives less than this probability.
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.0,
        env = "LLAMA_ARG_SPEC_DRAFT_P_MIN"
    )]
    pub spec_draft_p_min: f32,
    /// Let the head choose among the first N tokens of the vocabulary only, 0: among all. They are the frequent ones, and
    /// a guess then reads less; a token beyond them is never guessed, and comes all the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub spec_draft_vocab: u32,
    /// Always guess as many tokens as allowed. Otherwise their number follows what they cost and bring, down to none.
    #[arg(long)]
    pub no_spec_adapt: bool,
    /// Accept the first guess of a step with the first probability, and so on, whatever was drawn: measures speed on
    /// random weights; the text means nothing.
    #[arg(long, value_name = "P,P,...", value_delimiter = ',')]
    pub spec_synth_rates: Vec<f32>,
}

/// Value of `--spec-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecType {
    /// The head of models that have one.
    Auto,
    /// This.
    Of(DraftType),
}

/// Types of llama.cpp that need a second model or tables of their own.
const NOT_HERE: &[&str] = &[
    "draft-simple",
    "draft-eagle3",
    "draft-dflash",
    "draft-dspark",
    "ngram-map-k",
    "ngram-map-k4v",
    "ngram-mod",
    "ngram-cache",
];

impl FromStr for SpecType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if NOT_HERE.contains(&text) {
            return Err("not built; use mtp (draft-mtp), ngram (ngram-simple) or none".to_owned());
        }
        text.parse().map(Self::Of)
    }
}

impl SpecArgs {
    /// Whether the model's head should be loaded, if it has one.
    pub fn wants_head(&self) -> bool {
        matches!(
            self.spec_type,
            SpecType::Auto | SpecType::Of(DraftType::Mtp)
        ) && self.spec_draft_n_max > 0
    }

    /// Parameters for a loaded model, checked; sets up the engine for them.
    ///
    /// # Errors
    /// A head that is asked for and not there, or values that cannot work.
    pub fn params(&self, model: &Model, config: &mut EngineConfig) -> Result<SpeculationParams> {
        self.params_for(model.network().has_mtp(), config)
    }

    /// As [`Self::params`], for a model that is not loaded yet.
    ///
    /// # Errors
    /// As [`Self::params`].
    pub fn params_for(
        &self,
        has_head: bool,
        config: &mut EngineConfig,
    ) -> Result<SpeculationParams> {
        let draft = match self.spec_type {
            _ if self.spec_draft_n_max == 0 => DraftType::None,
            SpecType::Of(DraftType::Mtp) if !has_head => {
                return Err(hinted(
                    "the model has no MTP head to guess with",
                    "use --spec-type ngram, or leave it out",
                ));
            }
            SpecType::Of(draft) => draft,
            SpecType::Auto if has_head => DraftType::Mtp,
            SpecType::Auto => DraftType::None,
        };
        let params = SpeculationParams {
            draft,
            n_max: self.spec_draft_n_max,
            n_min: self.spec_draft_n_min,
            p_min: self.spec_draft_p_min,
            adapt: !self.no_spec_adapt,
            synth_rates: self.spec_synth_rates.clone(),
        };
        params.validate().map_err(|e| {
            let limits =
                "0 <= --spec-draft-n-min <= --spec-draft-n-max <= 16, probabilities are 0 to 1";
            hinted(e.to_string(), limits)
        })?;
        config.n_snapshots = params.n_snapshots();
        config.mtp = draft == DraftType::Mtp;
        config.draft_vocab = self.spec_draft_vocab;
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_our_names_and_llama_cpps() {
        let mtp = SpecType::Of(DraftType::Mtp);
        for (name, expected) in [
            ("auto", SpecType::Auto),
            ("mtp", mtp),
            ("draft-mtp", mtp),
            ("ngram-simple", SpecType::Of(DraftType::Ngram)),
            ("none", SpecType::Of(DraftType::None)),
        ] {
            assert_eq!(name.parse(), Ok(expected), "{name}");
        }
        for wrong in NOT_HERE.iter().chain(&["", "MTP"]) {
            assert!(wrong.parse::<SpecType>().is_err(), "{wrong}");
        }
    }
}
