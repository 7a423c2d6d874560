//! Incremental output equals whole output.

use std::sync::Arc;

use super::super::Utf8Stream;
use super::*;

#[test]
fn any_bytes_in_any_pieces_give_the_lossy_text_of_all() {
    let mut random = Random(5);
    for _ in 0..3000 {
        let mut bytes: Vec<u8> = Vec::new();
        for _ in 0..random.below(12) {
            match random.below(3) {
                0 => bytes.push(random.below(256) as u8),
                1 => bytes.push(
                    *random.pick(&[0x80, 0xBF, 0xC2, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0x9F, 0xA0]),
                ),
                _ => bytes.extend(random.text(2).bytes()),
            }
        }
        let mut stream = Utf8Stream::default();
        let mut text = String::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + random.below(rest.len()));
            text += &stream.push(piece);
            rest = after;
        }
        text += &stream.finish();
        assert_eq!(text, String::from_utf8_lossy(&bytes), "{bytes:02X?}");
        assert!(!stream.is_pending());
    }
}

#[test]
fn nothing_is_held_longer_than_needed() {
    let mut stream = Utf8Stream::default();
    assert_eq!(stream.push(b"a\xF0\x9F"), "a");
    assert!(stream.is_pending());
    assert_eq!(stream.push(b"\x99\x82b"), "\u{1F642}b");
    assert_eq!(stream.push(b"\xE2\x82"), "");
    assert_eq!(
        stream.push(b"x"),
        "\u{FFFD}x",
        "an impossible byte is certain at once"
    );
    assert_eq!(stream.push(b"\xFF"), "\u{FFFD}");
    assert_eq!(stream.push(b"\xE2"), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
    assert_eq!(stream.finish(), "");
}

#[test]
fn tokens_that_split_characters_stream_to_the_whole_text() {
    let tokenizer = Arc::new(demo());
    let mut random = Random(6);
    for _ in 0..300 {
        let text = random.text(16);
        let mut decoder = tokenizer.detokenizer(true);
        let mut streamed: String = tokenizer
            .encode(&text, PARSED)
            .into_iter()
            .map(|id| decoder.push(id))
            .collect();
        streamed += &decoder.finish();
        assert_eq!(streamed, text);
    }
    let mut hidden = tokenizer.detokenizer(false);
    assert_eq!(
        hidden.push(2) + &hidden.push(u32::MAX),
        "",
        "structure and ids outside the vocabulary"
    );
}
