//! Types for tensors that a user names by pattern.

use std::str::FromStr;

use fancy_regex::Regex;

use crate::gguf::GgmlType;

/// A pattern and the type of the tensors it is found in.
#[derive(Debug, Clone)]
pub struct Override {
    pattern: Regex,
    ty: GgmlType,
}

/// A text that is no `PATTERN=TYPE`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OverrideError {
    /// There is no `=`.
    #[error("expected PATTERN=TYPE, such as ffn_down=Q6_K")]
    NoType,
    /// The type is not known.
    #[error(transparent)]
    Type(#[from] crate::gguf::UnknownType),
    /// The pattern is no regular expression.
    #[error("`{pattern}` is no regular expression: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Override {
    /// The type.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// The pattern as it was given.
    pub fn pattern(&self) -> &str {
        self.pattern.as_str()
    }

    /// Whether the pattern is found in a name. One that takes too long to find counts as absent.
    pub fn matches(&self, name: &str) -> bool {
        self.pattern.is_match(name).unwrap_or(false)
    }
}

impl FromStr for Override {
    type Err = OverrideError;

    /// `PATTERN=TYPE`; the pattern is searched for anywhere in a name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pattern, ty) = text.rsplit_once('=').ok_or(OverrideError::NoType)?;
        if pattern.is_empty() {
            return Err(OverrideError::NoType);
        }
        let compiled = Regex::new(pattern).map_err(|e| OverrideError::Pattern {
            pattern: pattern.to_owned(),
            problem: e.to_string(),
        })?;
        Ok(Self {
            pattern: compiled,
            ty: ty.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_searched_for_and_types_follow_the_last_sign() {
        let odd: Override = r"\.(\d*[13579])\.attn_k=q5_k".parse().unwrap();
        assert_eq!(odd.ty(), GgmlType::Q5_K);
        assert!(odd.matches("blk.13.attn_k.weight") && !odd.matches("blk.12.attn_k.weight"));
        let but: Override = r"blk\.(?!0\.).*ffn_down=Q6_K".parse().unwrap();
        assert!(but.matches("blk.1.ffn_down.weight") && !but.matches("blk.0.ffn_down.weight"));
    }

    #[test]
    fn what_is_no_override_is_refused() {
        for (text, problem) in [
            ("ffn_down", "expected PATTERN=TYPE"),
            ("=Q4_K", "expected PATTERN=TYPE"),
            ("ffn_down=Q9", "unknown tensor type `Q9`"),
            ("ffn(=Q4_K", "no regular expression"),
        ] {
            let error = text.parse::<Override>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
