//! Ctrl-C: the first stops what is being computed, the second, or one in between, leaves the program.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};

/// Exit code of a program that Ctrl-C ended, by the shells' convention.
pub const EXIT_CODE: u8 = 130;

#[derive(Debug, Default)]
struct Flags {
    /// Pieces of work that can be stopped.
    busy: AtomicUsize,
    stop: AtomicBool,
}

/// Hears of Ctrl-C.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<Flags>);

/// While this lives, the first Ctrl-C only asks to stop.
#[derive(Debug)]
pub struct Busy(Arc<Flags>);

impl Interrupt {
    /// Listens from now on. A program has one listener: all calls give the same.
    pub fn listen() -> Result<Self> {
        static LISTENING: OnceLock<Interrupt> = OnceLock::new();
        if let Some(listening) = LISTENING.get() {
            return Ok(listening.clone());
        }
        let flags = Arc::new(Flags::default());
        let seen = Arc::clone(&flags);
        ctrlc::set_handler(move || {
            let busy = seen.busy.load(Ordering::SeqCst) > 0;
            let first = busy && !seen.stop.swap(true, Ordering::SeqCst);
            if !first {
                std::process::exit(i32::from(EXIT_CODE));
            }
        })
        .context("cannot listen to Ctrl-C")?;
        Ok(LISTENING.get_or_init(|| Self(flags)).clone())
    }

    /// Work starts that can be stopped.
    pub fn busy(&self) -> Busy {
        if self.0.busy.fetch_add(1, Ordering::SeqCst) == 0 {
            self.0.stop.store(false, Ordering::SeqCst);
        }
        Busy(Arc::clone(&self.0))
    }
}

impl Busy {
    /// Set by Ctrl-C.
    pub fn stop(&self) -> &AtomicBool {
        &self.0.stop
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}
