//! What happens around the model: tokenising, sampling, opening a file.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use oxling::engine::sampling::{Sampler, SamplingParams, VocabView};
use oxling::gguf::Gguf;
use oxling::tokenizer::{EncodeOptions, Tokenizer};

/// The size of Ling-2.6-flash's vocabulary.
const N_VOCAB: usize = 157_184;
const TEXT: &str = include_str!("../README.md");

fn model() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-ling-IQ4_NL.gguf")
}

fn files(c: &mut Criterion) {
    c.bench_function("gguf/open", |b| {
        b.iter(|| Gguf::open(&model()).expect("opens"))
    });
    let gguf = Gguf::open(&model()).expect("opens");
    c.bench_function("tokenizer/load", |b| {
        b.iter(|| Tokenizer::from_metadata(gguf.metadata()).expect("loads"));
    });
}

fn tokens(c: &mut Criterion) {
    let gguf = Gguf::open(&model()).expect("opens");
    let tokenizer = Tokenizer::from_metadata(gguf.metadata()).expect("loads");
    let ids = tokenizer.encode(TEXT, EncodeOptions::default());
    let mut group = c.benchmark_group("tokenizer");
    group.throughput(Throughput::Bytes(TEXT.len() as u64));
    group.bench_function("encode", |b| {
        b.iter(|| tokenizer.encode(black_box(TEXT), EncodeOptions::default()))
    });
    group.bench_function("decode", |b| {
        b.iter(|| tokenizer.decode(black_box(&ids), true))
    });
    group.finish();
}

/// A vocabulary without texts.
struct Numbers;

impl VocabView for Numbers {
    fn n_vocab(&self) -> usize {
        N_VOCAB
    }

    fn token_bytes(&self, _: u32) -> std::borrow::Cow<'_, [u8]> {
        std::borrow::Cow::Borrowed(b"")
    }

    fn eog_tokens(&self) -> std::borrow::Cow<'_, [u32]> {
        std::borrow::Cow::Borrowed(&[])
    }
}

fn sampling(c: &mut Criterion) {
    let vocab: Arc<dyn VocabView> = Arc::new(Numbers);
    let logits: Vec<f32> = (0..N_VOCAB)
        .map(|i| (i * 7919 % 10_007) as f32 / 500.0)
        .collect();
    let greedy = SamplingParams {
        temp: 0.0,
        ..SamplingParams::default()
    };
    for (name, params) in [("greedy", greedy), ("default", SamplingParams::default())] {
        let mut sampler = Sampler::new(&params, &vocab, 4096).expect("valid parameters");
        c.bench_function(&format!("sampling/{name}"), |b| {
            b.iter(|| sampler.sample(black_box(&logits), None).expect("a token"));
        });
    }
}

criterion_group!(benches, files, tokens, sampling);
criterion_main!(benches);
