//! Ids that llama.cpp gives on vocabularies of ours, one for each family. `scripts/tokenizer-parity --write` made
//! them; the same script compares on far more texts.

use serde_json::Value;

use super::*;

fn data() -> Value {
    serde_json::from_str(include_str!("../../../tests/data/tokenizer_llama_cpp.json"))
        .expect("the file is JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| {
            u8::from_str_radix(str::from_utf8(pair).expect("ASCII"), 16).expect("two digits")
        })
        .collect()
}

/// The vocabulary of a byte-level family: bytes, the file's pairs, whole words, special tokens.
fn byte_family(data: &Value, values: &Value) -> Metadata {
    let alphabet = bpe::byte_alphabet();
    let encode = |raw: &[u8]| -> String { raw.iter().map(|&b| alphabet[usize::from(b)]).collect() };
    let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let mut merges = Vec::new();
    for pair in list(&data["pairs"]) {
        let pair = bytes(text(pair));
        merges.push(format!("{} {}", encode(&pair[..1]), encode(&pair[1..])));
        tokens.push(encode(&pair));
    }
    if values["words"] == true {
        tokens.extend(
            list(&data["words"])
                .iter()
                .map(|w| encode(text(w).as_bytes())),
        );
    }
    let mut types = vec![1; tokens.len()];
    for special in list(&values["special"]) {
        tokens.push(text(&special[0]).to_owned());
        types.push(special[1].as_i64().expect("a type") as i32);
    }
    let mut md = Metadata::new();
    md.insert("tokenizer.ggml.tokens", strings(&tokens));
    md.insert("tokenizer.ggml.token_type", types);
    md.insert("tokenizer.ggml.merges", strings(&merges));
    md
}

fn piece_family(values: &Value) -> Metadata {
    let pieces: Vec<(&str, f32, i32)> = list(&values["pieces"])
        .iter()
        .map(|piece| {
            let score = piece[1].as_f64().expect("a score") as f32;
            (
                text(&piece[0]),
                score,
                piece[2].as_i64().expect("a type") as i32,
            )
        })
        .collect();
    sentence_pieces(&pieces)
}

fn family(data: &Value, values: &Value) -> Tokenizer {
    let mut md = match values["pieces"] {
        Value::Null => byte_family(data, values),
        _ => piece_family(values),
    };
    let keys = values.as_object().expect("an object");
    for (key, value) in keys.iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        match value {
            Value::Bool(flag) => md.insert(key, *flag),
            Value::Number(id) => md.insert(key, id.as_u64().expect("an id") as u32),
            other => md.insert(key, GgufString::from(text(other))),
        };
    }
    Tokenizer::from_metadata(&md).expect("a sound vocabulary")
}

#[test]
fn every_family_encodes_as_llama_cpp_does() {
    let data = data();
    let texts: Vec<Vec<u8>> = list(&data["texts"])
        .iter()
        .map(|hex| bytes(text(hex)))
        .collect();
    let families = data["families"].as_object().expect("an object");
    assert!(families.len() >= 14);
    for (name, expected) in families {
        let tokenizer = family(&data, &expected["values"]);
        let mut compared = 0;
        for (index, (text, ids)) in texts.iter().zip(list(&expected["ids"])).enumerate() {
            // Where llama.cpp is not the model's own tokenizer, the file has no ids.
            let Value::Array(ids) = ids else { continue };
            let options = EncodeOptions {
                add_special: index % 3 == 0,
                parse_special: index % 4 != 0,
            };
            let found = tokenizer.encode_bytes(text, options);
            let ids: Vec<u64> = ids.iter().filter_map(Value::as_u64).collect();
            assert!(
                found
                    .iter()
                    .map(|&id| u64::from(id))
                    .eq(ids.iter().copied()),
                "{name}, {options:?}, {:?}: {found:?} instead of {ids:?}",
                String::from_utf8_lossy(text)
            );
            compared += 1;
        }
        assert!(compared + 10 > texts.len(), "{name}: {compared}");
    }
}

#[test]
fn every_family_has_llama_cpps_start_and_end() {
    let data = data();
    for (name, expected) in data["families"].as_object().expect("an object") {
        let tokenizer = family(&data, &expected["values"]);
        let found = serde_json::json!({
            "n_vocab": tokenizer.n_vocab(),
            "bos": tokenizer.bos(),
            "eos": tokenizer.eos(),
            "add_bos": tokenizer.add_bos(),
            "add_eos": tokenizer.add_eos(),
            "eog": tokenizer.eog(),
        });
        assert_eq!(found, expected["about"], "{name}");
    }
}
