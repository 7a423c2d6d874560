//! Why a grammar cannot be used.

#![forbid(unsafe_code)]

/// A grammar, a schema or an expression cannot be used. The message is for whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstrainError {
    /// The model's vocabulary does not fit the tables that masks are made from.
    #[error("this model's vocabulary cannot be constrained: {reason}")]
    Vocabulary {
        /// Why.
        reason: String,
    },
    /// The text is longer, or nested deeper, than any that is meant.
    #[error("the {what} has {found} {unit}, at most {most} are allowed")]
    TooLarge {
        /// What of the request.
        what: &'static str,
        /// Its size.
        found: usize,
        /// Of what.
        unit: &'static str,
        /// The bound.
        most: usize,
    },
    /// The schema is no schema, or says what cannot be enforced.
    #[error("JSON schema: {message}")]
    Schema {
        /// What is wrong, and where.
        message: String,
    },
    /// The lark grammar is wrong.
    #[error("lark grammar: {message}")]
    Lark {
        /// What is wrong, and where.
        message: String,
    },
    /// The regular expression is wrong.
    #[error("regular expression: {message}")]
    Regex {
        /// What is wrong.
        message: String,
    },
    /// The GBNF grammar is wrong.
    #[error("grammar, line {line}, column {column}: {message}")]
    Gbnf {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// The functions of the request are not what a grammar can be made from.
    #[error("tools: {message}")]
    Tools {
        /// What is wrong, and where.
        message: String,
    },
    /// The grammar asks for too much work.
    #[error("compiling the grammar was given up after {seconds} s")]
    TooSlow {
        /// The bound.
        seconds: u64,
    },
    /// The thread that compiles could not start, or panicked.
    #[error("the grammar's thread failed: {reason}")]
    Thread {
        /// Why.
        reason: String,
    },
}

impl ConstrainError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Gbnf { .. } => {
                Some("a GBNF grammar is rules such as `root ::= \"yes\" | \"no\"`".to_owned())
            }
            Self::Lark { .. } => Some("a lark grammar starts at its rule `start`".to_owned()),
            Self::TooLarge { .. } | Self::TooSlow { .. } => Some("say less with it".to_owned()),
            Self::Schema { .. }
            | Self::Regex { .. }
            | Self::Tools { .. }
            | Self::Vocabulary { .. }
            | Self::Thread { .. } => None,
        }
    }
}
