//! Many texts at once: one JSON value a line in, one JSON object a line out.

use std::io::{BufRead, Write};

use anyhow::{Context, Result, bail};
use oxling::tokenizer::{EncodeOptions, Tokenizer};
use serde_json::{Value, json};

/// Answers each line of `input`: a string, or an object with `text` or `hex` (bytes as hexadecimal digits, which
/// need not be UTF-8) and, where they differ from `defaults`, `add_special` and `parse_special`. Its answer has the
/// `ids` and, as `hex`, the bytes that they give back. The string's place may be taken by null, which asks for the
/// ids with a special use.
pub fn run(
    tokenizer: &Tokenizer,
    defaults: EncodeOptions,
    input: impl BufRead,
    mut out: impl Write,
) -> Result<()> {
    for (index, line) in input.lines().enumerate() {
        let place = || format!("line {}", index + 1);
        let line = line.with_context(place)?;
        let answer = match request(&line, defaults).with_context(place)? {
            None => special_ids(tokenizer),
            Some((text, options)) => {
                let ids = tokenizer.encode_bytes(&text, options);
                let hex = to_hex(&tokenizer.detokenize(&ids, true));
                json!({ "ids": ids, "hex": hex })
            }
        };
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn special_ids(tokenizer: &Tokenizer) -> Value {
    json!({
        "n_vocab": tokenizer.n_vocab(),
        "bos": tokenizer.bos(),
        "eos": tokenizer.eos(),
        "add_bos": tokenizer.add_bos(),
        "add_eos": tokenizer.add_eos(),
        "eog": tokenizer.eog(),
    })
}

type Request = (Vec<u8>, EncodeOptions);

fn request(line: &str, defaults: EncodeOptions) -> Result<Option<Request>> {
    let value: Value = serde_json::from_str(line)?;
    match value {
        Value::Null => return Ok(None),
        Value::String(text) => return Ok(Some((text.into_bytes(), defaults))),
        _ => {}
    }
    let text = match (value["text"].as_str(), value["hex"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(digits)) => from_hex(digits)?,
        _ => bail!("expected null, a string, or an object with `text` or `hex`"),
    };
    let flag = |key: &str, default| value[key].as_bool().unwrap_or(default);
    let options = EncodeOptions {
        add_special: flag("add_special", defaults.add_special),
        parse_special: flag("parse_special", defaults.parse_special),
    };
    Ok(Some((text, options)))
}

fn from_hex(digits: &str) -> Result<Vec<u8>> {
    let digits = digits.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    digits
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => Some((digit(high)? * 16 + digit(low)?) as u8),
            _ => None,
        })
        .collect::<Option<_>>()
        .context("`hex` is not pairs of hexadecimal digits")
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|half| DIGITS[usize::from(half)]);
    bytes.iter().flat_map(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxling::gguf::{GgufString, Metadata};

    /// Pieces `a` and `b` and a byte token for all else.
    fn tokenizer() -> Tokenizer {
        let mut tokens: Vec<GgufString> = ["<unk>", "<s>", "</s>", "a", "b"]
            .map(GgufString::from)
            .into();
        tokens.extend((0..=255u8).map(|byte| GgufString::from(format!("<0x{byte:02X}>").as_str())));
        let mut types = vec![2, 3, 3, 1, 1];
        types.resize(tokens.len(), 6);
        let mut md = Metadata::new();
        md.insert("tokenizer.ggml.model", GgufString::from("llama"));
        md.insert("tokenizer.ggml.tokens", tokens);
        md.insert("tokenizer.ggml.token_type", types);
        md.insert("tokenizer.ggml.add_space_prefix", false);
        Tokenizer::from_metadata(&md).unwrap()
    }

    fn answers(input: &str) -> Result<Vec<Value>> {
        let defaults = EncodeOptions {
            add_special: true,
            parse_special: true,
        };
        let mut out = Vec::new();
        run(&tokenizer(), defaults, input.as_bytes(), &mut out)?;
        let lines = String::from_utf8(out)?;
        Ok(lines
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    }

    #[test]
    fn each_line_is_a_text_with_its_own_settings() {
        let input = r#""ab"
{"text": "</s>", "add_special": false}
{"text": "<", "parse_special": false}
{"hex": "61FF"}
null
"#;
        let answers = answers(input).unwrap();
        let ids: Vec<&Value> = answers.iter().map(|answer| &answer["ids"]).collect();
        assert_eq!(
            ids[..4],
            [
                &json!([1, 3, 4]),
                &json!([2]),
                &json!([1, 65]),
                &json!([1, 3, 260])
            ]
        );
        assert_eq!(answers[3]["hex"], "3c733e61ff");
        assert_eq!(answers[4]["eog"], json!([2]));
        assert_eq!(answers[4]["add_bos"], true);
    }

    #[test]
    fn a_line_that_is_no_request_is_named() {
        for line in [
            "7",
            "{\"hex\": \"0\"}",
            "{\"hex\": \"zz\"}",
            "{}",
            "[",
            "{\"text\": 1}",
        ] {
            let error = answers(&format!("\"a\"\n{line}\n")).unwrap_err();
            assert_eq!(error.to_string(), "line 2", "{line}");
        }
    }
}
