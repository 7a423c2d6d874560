//! The engine thread's start: the model is found, downloaded if it has to be, and loaded, while the server answers.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use oxling::gguf::Metadata;
use oxling::hub::Event;
use oxling::server::protocol::Loading;
use oxling::server::worker::{EngineHandle, WorkerConfig, spawn_after};

use super::ServeArgs;
use crate::cli::errors::hinted;

/// Slots if nobody says how many.
const SLOTS: u32 = 4;

/// Why the model cannot be served, for whoever ends the program.
#[derive(Debug, Clone, Default)]
pub struct Failure(Arc<Mutex<Option<anyhow::Error>>>);

impl Failure {
    /// Keeps the error; gives its words.
    fn note(&self, error: anyhow::Error) -> String {
        let words = format!("{error:#}");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        words
    }

    /// The error, once there is one.
    pub fn take(&self) -> Option<anyhow::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Fewest tokens of a slot that can hold a prompt and an answer.
const FEWEST_TOKENS: u32 = 16;

/// Slots asked for.
fn n_slots(args: &ServeArgs) -> u32 {
    u32::try_from(args.server.parallel).unwrap_or(SLOTS).max(1)
}

/// Refuses a context that leaves its slots nothing to answer with.
pub fn check_slots(args: &ServeArgs) -> Result<()> {
    let (n_ctx, n_slots) = (args.compute.ctx_size, n_slots(args));
    if n_ctx == 0 || n_ctx / n_slots >= FEWEST_TOKENS {
        return Ok(());
    }
    Err(hinted(
        format!(
            "-c {n_ctx} shared out among {n_slots} slots (-np) leaves {} tokens each, too few to answer",
            n_ctx / n_slots
        ),
        format!(
            "make the context larger, with at least -c {}, or take fewer slots",
            n_slots * FEWEST_TOKENS
        ),
    ))
}

/// Starts the engine thread.
pub fn spawn(args: &ServeArgs, failure: &Failure) -> EngineHandle {
    let (args, failure) = (args.clone(), failure.clone());
    spawn_after(args.server.queue, move |tell| {
        prepare(&args, &failure, tell).map_err(|e| failure.note(e))
    })
}

/// Finds the model, and what it has to do with the settings.
fn prepare(args: &ServeArgs, failure: &Failure, tell: &dyn Fn(Loading)) -> Result<WorkerConfig> {
    let mut now = Loading::default();
    let gguf = args.model.open_telling(&mut |event| {
        follow(&mut now, event);
        tell(now.clone());
    })?;
    let mut config = args.compute.engine_config()?;
    config.n_seq = n_slots(args);
    let head = has_head(gguf.metadata()) && args.spec.wants_head();
    let speculation = args.spec.params_for(head, &mut config)?;
    let sampling = args.sampling.params(gguf.metadata())?;
    let (model, failure) = (args.model.clone(), failure.clone());
    Ok(WorkerConfig {
        load: Box::new(move |progress| {
            let loaded = model.load_telling(gguf, head, progress);
            loaded.map_err(|e| failure.note(e))
        }),
        alias: args.server.alias.clone(),
        engine: config,
        sampling,
        speculation,
        queue: args.server.queue,
        prefill_budget: args.server.prefill_budget,
        cache_ram: u64::try_from(args.server.cache_ram).map_or(u64::MAX, |mib| mib << 20),
        exact: args.server.exact,
    })
}

/// Follows a download.
fn follow(now: &mut Loading, event: &Event<'_>) {
    match event {
        Event::Advanced(bytes) => now.done += bytes,
        Event::Downloading { name, from, bytes } => {
            *now = Loading::stage(format!("downloading {}", name.base()), *bytes);
            now.done = *from;
        }
        Event::Checking { name, bytes } => {
            *now = Loading::stage(format!("checking {}", name.base()), *bytes);
        }
        Event::Waiting { name } => {
            let what = format!("waiting for another program that downloads {}", name.base());
            *now = Loading::stage(what, 0);
        }
        Event::Retrying { seconds, .. } => {
            let what = format!("the download failed, trying again in {seconds:.0} s");
            *now = Loading::stage(what, 0);
        }
        _ => {}
    }
}

/// Whether the file says that it has an MTP head.
fn has_head(md: &Metadata) -> bool {
    let architecture = md.str("general.architecture").ok().flatten();
    let n = architecture.map(|name| md.u32(&format!("{name}.nextn_predict_layers")));
    matches!(n, Some(Ok(Some(n))) if n > 0)
}
