//! A `tokenizer.json` as the tokenizer keys of a model file.
//!
//! How text is cut into words is a regular expression in one and a name in the other. The name is found by behaviour:
//! it is right if both tokenizers give the same ids for texts that tell the known rules apart.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value as Json;
use tokenizers::Tokenizer as Reference;

use super::ImportError;
use super::config::Config;
use super::source::Checkpoint;
use crate::gguf::{Array, GgufString, Metadata, Value};
use crate::tokenizer::{EncodeOptions, Tokenizer, pre_names};

const FILE: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";

/// Types of tokens, as model files number them.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Texts on which the known rules differ: digits, contractions, case, scripts, marks, spaces, line ends, symbols.
const PROBES: &[&str] = &[
    "Hello, World! I'VE seen it's they'll we'd I'm you're don't",
    "0 1 12 123 1234 12345 1234567890 3.14159 x2y3 1,000,000",
    "  two   three    four\t tab\t\ttabs \n line\n\n lines\n\n\n  indented\r\n\r\nwindows\r",
    "camelCase PascalCase snake_case kebab-case HTTPServer iPhone \u{c9}COLE \u{e9}cole",
    "fn main() { println!(\"{}\", a[i] += 1); } // comment /* x */ <tag/> && || != ==",
    "\u{4f60}\u{597d}\u{ff0c}\u{4e16}\u{754c}\u{3002}2024\u{5e74}\u{3053}\u{3093}\u{306b}\u{3061}\u{306f} \u{ac00}\u{b098}\u{b2e4}",
    "\u{41f}\u{440}\u{438}\u{432}\u{435}\u{442} \u{43c}\u{438}\u{440} \u{3ba}\u{3cc}\u{3c3}\u{3bc}\u{3b5} \u{645}\u{631}\u{62d}\u{628}\u{627} \u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947}",
    "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{1f1eb}\u{1f1f7} \u{2192}\u{2264}\u{20ac}\u{a3} \u{2026}\u{201c}q\u{201d} \u{2018}s\u{2019}",
    "'S 'T'LL 'x' ''' don\u{2019}t ...!!!??? --- *** ### a'b c'd \u{a0}nbsp\u{3000}wide",
];

/// Adds the tokenizer's keys: tokens, types, merges, rule, special ids, chat template.
pub(super) fn write_keys(
    checkpoint: &Checkpoint,
    n_vocab: u32,
    expected_pre: &str,
    md: &mut Metadata,
) -> Result<(), ImportError> {
    let path = checkpoint.folder().join(FILE);
    let text = checkpoint
        .text(FILE)?
        .ok_or_else(|| ImportError::Tokenizer {
            path: path.clone(),
            what: "tokenizer".into(),
            expected: "the file".into(),
            found: "nothing".into(),
        })?;
    let file = File {
        path,
        json: parse(checkpoint, &text)?,
    };
    let settings = checkpoint.json(SETTINGS)?.unwrap_or(Json::Null);
    let generation = checkpoint
        .json("generation_config.json")?
        .unwrap_or(Json::Null);

    file.check_kind()?;
    md.insert("tokenizer.ggml.model", "gpt2");
    md.insert("tokenizer.ggml.pre", expected_pre);
    file.write_tokens(n_vocab, md)?;
    file.write_merges(md)?;
    file.write_special(&settings, &generation, checkpoint, n_vocab, md)?;
    write_template(checkpoint, &settings, md)?;
    let reference = Reference::from_bytes(text.as_bytes())
        .map_err(|e| file.wrong("tokenizer", "one the tokenizers library can load", e))?;
    let pre = file.find_rule(&reference, expected_pre, md)?;
    md.insert("tokenizer.ggml.pre", pre);
    write_further_ends(&generation, checkpoint, md)
}

fn parse(checkpoint: &Checkpoint, text: &str) -> Result<Json, ImportError> {
    serde_json::from_str(text).map_err(|source| {
        let path = checkpoint.folder().join(FILE);
        super::source::SourceError::Json { path, source }.into()
    })
}

/// A parsed `tokenizer.json`.
struct File {
    path: PathBuf,
    json: Json,
}

impl File {
    fn wrong(
        &self,
        what: impl ToString,
        expected: impl ToString,
        found: impl ToString,
    ) -> ImportError {
        ImportError::Tokenizer {
            path: self.path.clone(),
            what: what.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// Only byte-level BPE has these keys.
    fn check_kind(&self) -> Result<(), ImportError> {
        let model = &self.json["model"];
        let kind = model["type"].as_str().unwrap_or("BPE");
        if kind != "BPE" {
            return Err(self.wrong("model.type", "BPE", kind));
        }
        if model["byte_fallback"] == true {
            return Err(self.wrong("model.byte_fallback", "false (byte-level BPE)", true));
        }
        match &self.json["normalizer"] {
            Json::Null => Ok(()),
            // Model files have no key for it; readers take text as it is, which is composed nearly always.
            nfc if nfc["type"] == "NFC" => Ok(()),
            other => Err(self.wrong("normalizer", "none or NFC", other)),
        }
    }

    /// Text, id and type of every token.
    fn tokens(&self) -> Result<BTreeMap<u32, (String, i32)>, ImportError> {
        let id = |value: &Json| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let vocab = self.json["model"]["vocab"]
            .as_object()
            .ok_or_else(|| self.wrong("model.vocab", "an object", "another value"))?;
        let mut tokens = BTreeMap::new();
        for (text, value) in vocab {
            let id = id(value)
                .ok_or_else(|| self.wrong(format!("model.vocab `{text}`"), "an id", value))?;
            if let Some((earlier, _)) = tokens.insert(id, (text.clone(), NORMAL)) {
                return Err(self.wrong(
                    format!("token {id}"),
                    format!("one text, `{earlier}`"),
                    text,
                ));
            }
        }
        for token in self.json["added_tokens"].as_array().into_iter().flatten() {
            let (Some(id), Some(text)) = (id(&token["id"]), token["content"].as_str()) else {
                return Err(self.wrong("added_tokens", "an id and a content", token));
            };
            let kind = if token["special"] == true {
                CONTROL
            } else {
                USER_DEFINED
            };
            if let Some((earlier, _)) = tokens
                .insert(id, (text.to_owned(), kind))
                .filter(|(t, _)| t != text)
            {
                return Err(self.wrong(
                    format!("token {id}"),
                    format!("one text, `{earlier}`"),
                    text,
                ));
            }
        }
        Ok(tokens)
    }

    fn write_tokens(&self, n_vocab: u32, md: &mut Metadata) -> Result<(), ImportError> {
        let mut tokens = self.tokens()?;
        if let Some((&last, _)) = tokens.last_key_value().filter(|(id, _)| **id >= n_vocab) {
            return Err(self.wrong(
                "largest token id",
                format!("less than vocab_size ({n_vocab})"),
                last,
            ));
        }
        let (texts, types): (Vec<GgufString>, Vec<i32>) = (0..n_vocab)
            .map(|id| match tokens.remove(&id) {
                Some((text, kind)) => (GgufString::from(text), kind),
                None => (GgufString::from(format!("[PAD{id}]")), UNUSED),
            })
            .unzip();
        md.insert("tokenizer.ggml.tokens", Value::Array(Array::String(texts)));
        md.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        Ok(())
    }

    /// Merges are pairs, or texts with a space between the parts.
    fn write_merges(&self, md: &mut Metadata) -> Result<(), ImportError> {
        let merges = self.json["model"]["merges"]
            .as_array()
            .ok_or_else(|| self.wrong("model.merges", "a list", "another value"))?;
        let text = |merge: &Json| match merge {
            Json::String(pair) => Some(pair.clone()),
            Json::Array(pair) => match pair.as_slice() {
                [Json::String(a), Json::String(b)] if !a.contains(' ') && !b.contains(' ') => {
                    Some(format!("{a} {b}"))
                }
                _ => None,
            },
            _ => None,
        };
        let merges: Result<Vec<GgufString>, ImportError> = merges
            .iter()
            .map(|m| {
                text(m)
                    .map(GgufString::from)
                    .ok_or_else(|| self.wrong("model.merges", "a pair of texts", m))
            })
            .collect();
        md.insert(
            "tokenizer.ggml.merges",
            Value::Array(Array::String(merges?)),
        );
        Ok(())
    }

    /// Ids of special tokens: by the texts in `tokenizer_config.json`, else by the ids in the other settings.
    fn write_special(
        &self,
        settings: &Json,
        generation: &Json,
        checkpoint: &Checkpoint,
        n_vocab: u32,
        md: &mut Metadata,
    ) -> Result<(), ImportError> {
        let tokens = self.tokens()?;
        let by_text = |text: &str| {
            tokens
                .iter()
                .find(|(_, (t, _))| t == text)
                .map(|(&id, _)| id)
        };
        let config = Config::new(checkpoint.folder(), "config.json", checkpoint.config());
        let generation = Config::new(checkpoint.folder(), "generation_config.json", generation);
        for (name, key) in [
            ("bos", "bos_token_id"),
            ("eos", "eos_token_id"),
            ("unk", "unknown_token_id"),
            ("pad", "padding_token_id"),
            ("cls", "cls_token_id"),
            ("sep", "seperator_token_id"),
            ("mask", "mask_token_id"),
        ] {
            // A token is its text, or an object with the text as content.
            let entry = &settings[format!("{name}_token")];
            let named = entry.as_str().or(entry["content"].as_str());
            let id = match named {
                Some(text) => Some(by_text(text).ok_or_else(|| {
                    self.wrong(
                        format!("{name}_token `{text}` of {SETTINGS}"),
                        "a token",
                        "nothing of that text",
                    )
                })?),
                None => {
                    let ids_key = format!("{name}_token_id");
                    let ids = [generation.ids(&ids_key)?, config.ids(&ids_key)?].concat();
                    ids.first().copied()
                }
            };
            if let Some(id) = id {
                if id >= n_vocab {
                    return Err(self.wrong(
                        format!("{name}_token_id"),
                        format!("less than {n_vocab}"),
                        id,
                    ));
                }
                md.insert(format!("tokenizer.ggml.{key}"), id);
            }
        }
        for key in ["add_bos_token", "add_eos_token"] {
            let value = settings[key].as_bool().unwrap_or(false);
            md.insert(format!("tokenizer.ggml.{key}"), value);
        }
        Ok(())
    }

    /// The rule under which the new file's tokenizer gives the reference's ids on every probe.
    fn find_rule(
        &self,
        reference: &Reference,
        expected: &str,
        md: &Metadata,
    ) -> Result<&'static str, ImportError> {
        let encode = |text: &str| {
            let ids = reference.encode(text, false).map(|e| e.get_ids().to_vec());
            ids.map_err(|e| self.wrong("tokenizer", format!("one that encodes {text:?}"), e))
        };
        let goldens = PROBES
            .iter()
            .map(|text| encode(text))
            .collect::<Result<Vec<_>, _>>()?;
        let known = || {
            pre_names()
                .filter(|name| *name == expected)
                .chain(pre_names().filter(|name| *name != expected))
        };
        let mut first_difference = None;
        for name in known() {
            let mut md = md.clone();
            md.insert("tokenizer.ggml.pre", name);
            let ours = Tokenizer::from_metadata(&md)?;
            let options = EncodeOptions {
                add_special: false,
                parse_special: true,
            };
            let differs = PROBES
                .iter()
                .zip(&goldens)
                .find(|(text, ids)| ours.encode(text, options) != **ids);
            match differs {
                None => return Ok(name),
                Some((text, _)) => first_difference.get_or_insert(text),
            };
        }
        let text = first_difference.copied().unwrap_or_default();
        Err(self.wrong(
            "pre_tokenizer",
            format!("a rule this program knows, such as {expected}"),
            format!("other tokens for {text:?}"),
        ))
    }
}

/// The chat template: from its own file, or one or several in `tokenizer_config.json`.
fn write_template(
    checkpoint: &Checkpoint,
    settings: &Json,
    md: &mut Metadata,
) -> Result<(), ImportError> {
    if let Some(text) = checkpoint.text("chat_template.jinja")? {
        md.insert("tokenizer.chat_template", text);
        return Ok(());
    }
    let mut names = Vec::new();
    match &settings["chat_template"] {
        Json::String(text) => {
            md.insert("tokenizer.chat_template", text.clone());
        }
        Json::Array(list) => {
            for entry in list {
                let (Some(name), Some(text)) = (entry["name"].as_str(), entry["template"].as_str())
                else {
                    continue;
                };
                if name == "default" {
                    md.insert("tokenizer.chat_template", text);
                } else {
                    md.insert(format!("tokenizer.chat_template.{name}"), text);
                    names.push(GgufString::from(name));
                }
            }
        }
        _ => {}
    }
    if !names.is_empty() {
        md.insert(
            "tokenizer.chat_templates",
            Value::Array(Array::String(names)),
        );
    }
    Ok(())
}

/// `generation_config.json` may list further tokens that end an answer. Those a reader would not find by their text
/// get a key.
fn write_further_ends(
    generation: &Json,
    checkpoint: &Checkpoint,
    md: &mut Metadata,
) -> Result<(), ImportError> {
    let generation = Config::new(checkpoint.folder(), "generation_config.json", generation);
    for id in generation.ids("eos_token_id")? {
        let tokenizer = Tokenizer::from_metadata(md)?;
        if tokenizer.is_eog(id) {
            continue;
        }
        let free = ["eot", "eom"].map(|name| format!("tokenizer.ggml.{name}_token_id"));
        match free.into_iter().find(|key| !md.contains_key(key)) {
            Some(key) => {
                md.insert(key, id);
            }
            None => tracing::warn!("token {id} ends answers, but the file has no key left for it"),
        }
    }
    Ok(())
}
