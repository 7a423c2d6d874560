//! The demo model, and engines over it whose results repeat.

use std::path::Path;
use std::sync::Arc;

use oxling::engine::EngineConfig;
use oxling::gguf::Gguf;
use oxling::model::{LoadOptions, Model};

/// The model, its MTP head included.
pub fn model() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-ling-IQ4_NL.gguf");
    let gguf = Arc::new(Gguf::open(&path).expect("demo model"));
    Model::load(gguf, &LoadOptions::default(), &mut |_, _| {}).expect("loads")
}

/// One thread, since spinning threads of parallel tests starve each other; four states per sequence.
pub fn config() -> EngineConfig {
    EngineConfig {
        n_ctx: 256,
        n_threads: 1,
        n_threads_batch: 1,
        mtp: true,
        n_snapshots: 4,
        ..EngineConfig::default()
    }
}
