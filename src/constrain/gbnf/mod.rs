//! llama.cpp's grammars, GBNF, as lark.

#![forbid(unsafe_code)]

use super::ConstrainError;

pub(super) fn to_lark(_text: &str) -> Result<String, ConstrainError> {
    Err(ConstrainError::Gbnf {
        line: 1,
        column: 1,
        message: "not read yet".to_owned(),
    })
}
