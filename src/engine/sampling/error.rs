//! What can go wrong while a sampler is configured or a token is drawn.

use thiserror::Error;

/// An error of the sampling module.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SamplingError {
    /// A parameter is outside what the formula behind it can work with.
    #[error("sampling parameter {name} is {value}, allowed is {allowed}")]
    OutOfRange {
        /// Name of the parameter as in [`SamplingParams`](super::SamplingParams).
        name: &'static str,
        /// The value that was given.
        value: String,
        /// The range in words.
        allowed: &'static str,
    },
    /// A name in a sampler list is not known.
    #[error("unknown sampler {name:?}")]
    UnknownSampler {
        /// The name that was given.
        name: String,
    },
    /// A letter in a sampler sequence is not known.
    #[error("unknown sampler letter {letter:?} in {sequence:?}")]
    UnknownLetter {
        /// The letter that was given.
        letter: char,
        /// The whole sequence.
        sequence: String,
    },
    /// A logit bias names a token that the model does not have.
    #[error("logit bias for token {token}, but the model has {n_vocab} tokens")]
    UnknownToken {
        /// The token id that was given.
        token: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// A row of logits does not fit the vocabulary.
    #[error("a row of {found} logits was given, the vocabulary has {expected} tokens")]
    LogitsLength {
        /// Size of the vocabulary.
        expected: usize,
        /// Length of the row.
        found: usize,
    },
    /// Every logit is NaN or minus infinity, biases included.
    #[error(
        "no token can be drawn at output position {position}: {nan} of {n_vocab} logits are NaN, \
         the others are minus infinity or forbidden by a bias"
    )]
    NoCandidate {
        /// Count of tokens accepted before this one.
        position: u64,
        /// How many of the logits are NaN.
        nan: usize,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// The constraint (a grammar) forbids every token that could be drawn.
    #[error("the constraint allows no token at output position {position}")]
    ConstraintAllowsNothing {
        /// Count of tokens accepted before this one.
        position: u64,
    },
}

impl SamplingError {
    /// What a user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownSampler { name } if name == "infill" => {
                Some("infill serves fill-in-the-middle prompts, which are not supported".into())
            }
            Self::UnknownSampler { .. } => {
                let names: Vec<&str> = super::SamplerKind::ALL.iter().map(|k| k.name()).collect();
                Some(format!("known samplers: {}", names.join(", ")))
            }
            Self::UnknownLetter { .. } => {
                let letters: Vec<String> = super::SamplerKind::ALL
                    .iter()
                    .map(|k| format!("{} = {}", k.letter(), k.name()))
                    .collect();
                Some(format!("known letters: {}", letters.join(", ")))
            }
            Self::NoCandidate { nan, .. } if *nan > 0 => {
                Some("the model computes NaN: check the file, or try another backend".into())
            }
            Self::NoCandidate { .. } => {
                Some("check logit_bias and ignore_eos: something must stay allowed".into())
            }
            _ => None,
        }
    }
}
