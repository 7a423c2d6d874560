#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use super::*;

/// A small generator with a fixed seed: the mutations must be the same on every run.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[test]
fn five_thousand_mutations_of_a_header_never_panic() {
    let mut bytes = small_header_of_the_demo_model();
    let header_bytes = bytes.len() - data_bytes(&bytes);
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    let (mut refused, mut accepted) = (0, 0);
    for _ in 0..5000 {
        let changes: Vec<(usize, u8)> = (0..1 + random.below(3))
            .map(|_| {
                let at = random.below(header_bytes);
                let old = bytes[at];
                bytes[at] = if random.below(2) == 0 {
                    old ^ (1 << random.below(8))
                } else {
                    random.below(256) as u8
                };
                (at, old)
            })
            .collect();
        let length = if random.below(4) == 0 {
            random.below(bytes.len())
        } else {
            bytes.len()
        };
        let path = Path::new("mutant.gguf");
        match parse(&bytes[..length], path) {
            Ok(header) => {
                accepted += 1;
                for info in &header.tensors {
                    assert!(
                        info.offset + info.bytes <= length as u64,
                        "{info:?} is outside"
                    );
                    assert_eq!(info.shape.bytes(info.ty), Some(info.bytes));
                }
            }
            Err(error) => {
                refused += 1;
                let message = error.to_string();
                assert!(message.starts_with("mutant.gguf: "), "{message}");
                assert!(!message.contains('\n') && message.len() < 1000, "{message}");
            }
        }
        changes.iter().rev().for_each(|&(at, old)| bytes[at] = old);
    }
    assert!(
        refused > 1000 && accepted > 100,
        "{refused} refused, {accepted} accepted"
    );
}

fn data_bytes(file: &[u8]) -> usize {
    let header = parse(file, Path::new("demo")).unwrap();
    file.len() - header.tensors.iter().map(|info| info.offset).min().unwrap() as usize
}

/// The demo model's metadata and tensor table with a short vocabulary, so that mutations hit its structure.
fn small_header_of_the_demo_model() -> Vec<u8> {
    let model = Gguf::open(&demo_model_path()).unwrap();
    let mut metadata = model.metadata().clone();
    for (key, value) in model.metadata().iter() {
        let shortened = match value {
            Value::Array(Array::String(words)) => Value::from(words[..8].to_vec()),
            Value::Array(Array::I32(numbers)) => Value::from(numbers[..8].to_vec()),
            Value::String(text) => {
                Value::from(GgufString::from(&text.as_bytes()[..text.len().min(16)]))
            }
            other => other.clone(),
        };
        metadata.insert(key, shortened);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    let plans = model
        .tensors()
        .iter()
        .map(|info| plan(&info.name, info.ty, &[info.ty.block_size(), 2]));
    write_model(&path, metadata, plans.collect(), &WriterOptions::default());
    fs::read(&path).unwrap()
}

#[test]
fn every_prefix_of_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    write_model(
        &path,
        sample_metadata(),
        sample_tensors(),
        &WriterOptions::default(),
    );
    let bytes = fs::read(&path).unwrap();
    let last = parse(&bytes, &path).unwrap().tensors.pop().unwrap();
    for length in 0..(last.offset + last.bytes) as usize {
        let error = parse(&bytes[..length], &path).unwrap_err();
        assert_eq!(error.path(), path);
        assert!(error.hint().is_some(), "{length}: {error}");
    }
    // Padding after the last tensor carries nothing, and some writers leave it out.
    parse(&bytes[..(last.offset + last.bytes) as usize], &path).unwrap();
}
