//! Masks computed on another thread while the model computes.

#![forbid(unsafe_code)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

/// A mask, or why there is none.
pub(super) type Mask = Result<Arc<SimpleVob>, String>;

/// A matcher that its owner and the worker use in turn.
pub(super) struct Shared {
    state: Mutex<State>,
    back: Condvar,
}

/// What the two share.
pub(super) struct State {
    /// `None` while the worker has it.
    matcher: Option<Matcher>,
    /// The mask of the matcher's state, once known.
    mask: Option<Mask>,
    /// Whether the worker is to compute the mask.
    queued: bool,
}

/// A matcher that is here.
pub(super) struct Turn<'a> {
    state: MutexGuard<'a, State>,
}

impl Shared {
    pub(super) fn new(matcher: Matcher) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                matcher: Some(matcher),
                mask: None,
                queued: false,
            }),
            back: Condvar::new(),
        })
    }

    /// The owner's turn: takes a job back that has not begun, and waits for one that has.
    pub(super) fn turn(&self) -> Turn<'_> {
        let mut state = self.lock();
        state.queued = false;
        while state.matcher.is_none() {
            state = self
                .back
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Turn { state }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave the state half changed: matchers are moved in and out whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker's turn.
    fn work(&self) {
        let mut state = self.lock();
        if !std::mem::take(&mut state.queued) || state.mask.is_some() {
            return;
        }
        let Some(matcher) = state.matcher.take() else {
            return;
        };
        drop(state);
        let mut give_back = GiveBack {
            shared: self,
            matcher: Some(matcher),
            mask: None,
        };
        if let Some(matcher) = &mut give_back.matcher {
            give_back.mask = Some(compute(matcher));
        }
    }
}

/// Gives the matcher back, even out of a panic: its owner waits for it.
struct GiveBack<'a> {
    shared: &'a Shared,
    matcher: Option<Matcher>,
    mask: Option<Mask>,
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.matcher = self.matcher.take();
        state.mask = Some(
            self.mask
                .take()
                .unwrap_or_else(|| Err("computing the mask panicked".to_owned())),
        );
        drop(state);
        self.shared.back.notify_all();
    }
}

fn compute(matcher: &mut Matcher) -> Mask {
    matcher
        .compute_mask_or_eos()
        .map(Arc::new)
        .map_err(|e| message(&e.to_string()))
}

/// What an error of the grammar library says, without its state and without quoting a whole grammar.
pub(super) fn message(error: &str) -> String {
    const MOST_CHARS: usize = 400;
    let mut text = error;
    for extra in ["\n<state>", "\n<non-verbose", "\n<backtrace>"] {
        text = text.split(extra).next().unwrap_or_default();
    }
    let text = text.trim();
    match text.char_indices().nth(MOST_CHARS) {
        Some((at, _)) => format!("{} ...", &text[..at]),
        None => text.to_owned(),
    }
}

impl Turn<'_> {
    /// The matcher, for what does not change its state.
    pub(super) fn look<R>(&mut self, f: impl FnOnce(&mut Matcher) -> R) -> Option<R> {
        self.state.matcher.as_mut().map(f)
    }

    /// The matcher, for what does.
    pub(super) fn change<R>(&mut self, f: impl FnOnce(&mut Matcher) -> R) -> Option<R> {
        self.state.mask = None;
        self.look(f)
    }

    /// The mask of the present state.
    pub(super) fn mask(&mut self) -> Mask {
        if let Some(mask) = &self.state.mask {
            return mask.clone();
        }
        let mask = self
            .look(compute)
            .unwrap_or_else(|| Err("the matcher is lost".to_owned()));
        self.state.mask = Some(mask.clone());
        mask
    }
}

/// The thread that computes masks ahead. It ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    jobs: Sender<Arc<Shared>>,
}

impl Worker {
    /// Starts the thread; `None` if there can be no more threads, which costs time only.
    pub(super) fn start() -> Option<Self> {
        let (jobs, queue): (Sender<Arc<Shared>>, Receiver<Arc<Shared>>) = channel();
        let run = move || {
            while let Ok(job) = queue.recv() {
                job.work();
            }
        };
        let name = "grammar-masks".to_owned();
        match thread::Builder::new().name(name).spawn(run) {
            Ok(_) => Some(Self { jobs }),
            Err(error) => {
                tracing::warn!("masks are not computed ahead: {error}");
                None
            }
        }
    }

    /// Asks for the mask of the matcher's present state.
    pub(super) fn ask(&self, shared: &Arc<Shared>) {
        let mut state = shared.lock();
        if state.mask.is_some() || state.queued || state.matcher.is_none() {
            return;
        }
        state.queued = true;
        drop(state);
        // Without a worker the owner computes the mask itself.
        let _ = self.jobs.send(Arc::clone(shared));
    }
}
