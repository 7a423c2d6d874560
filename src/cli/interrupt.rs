//! Ctrl-C and SIGTERM: the first stops what is being computed, the second, or one in between, leaves the program.

#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use anyhow::{Context, Result};
use tokio::sync::Notify;

/// Exit code of a program that Ctrl-C ended, by the shells' convention.
const INTERRUPTED: u8 = 130;
/// The same of SIGTERM.
const TERMINATED: u8 = 143;

/// Whether SIGTERM came.
static TOLD_TO_END: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Default)]
struct Flags {
    /// Pieces of work that can be stopped.
    busy: AtomicUsize,
    stop: AtomicBool,
    /// Wakes whoever waits for `stop`.
    stopped: Notify,
}

/// Hears of Ctrl-C and SIGTERM.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<Flags>);

/// While this lives, the first signal only asks to stop.
#[derive(Debug)]
pub struct Busy(Arc<Flags>);

/// What the system sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    CtrlC,
    #[cfg(unix)]
    Terminate,
}

/// Whether the program was told to end, not only to stop what it computes.
pub fn told_to_end() -> bool {
    TOLD_TO_END.load(Ordering::SeqCst)
}

/// Exit code of a program that a signal ended.
pub fn exit_code() -> ExitCode {
    exit_number().into()
}

fn exit_number() -> u8 {
    if told_to_end() {
        TERMINATED
    } else {
        INTERRUPTED
    }
}

impl Flags {
    fn hear(&self, signal: Signal) {
        if signal != Signal::CtrlC {
            TOLD_TO_END.store(true, Ordering::SeqCst);
        }
        let busy = self.busy.load(Ordering::SeqCst) > 0;
        if busy && !self.stop.swap(true, Ordering::SeqCst) {
            self.stopped.notify_one();
            return;
        }
        if busy {
            tracing::info!("told to end once more: leaving at once");
        }
        std::process::exit(i32::from(exit_number()));
    }
}

impl Interrupt {
    /// Listens from now on. A program has one listener: all calls give the same.
    pub fn listen() -> Result<Self> {
        static LISTENING: OnceLock<Interrupt> = OnceLock::new();
        if let Some(listening) = LISTENING.get() {
            return Ok(listening.clone());
        }
        let flags = Arc::new(Flags::default());
        start(Arc::clone(&flags)).context("cannot listen to Ctrl-C")?;
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

/// Hears signals on a thread of its own, from when this returns.
fn start(flags: Arc<Flags>) -> io::Result<()> {
    let (ready, answer) = mpsc::channel();
    let listen = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(e) => return drop(ready.send(Err(e))),
        };
        runtime.block_on(async {
            let mut signals = match Signals::new() {
                Ok(signals) => signals,
                Err(e) => return drop(ready.send(Err(e))),
            };
            // Whoever waits for the answer goes on; should it be gone, signals are heard all the same.
            let _ = ready.send(Ok(()));
            loop {
                flags.hear(signals.next().await);
            }
        });
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listen)?;
    answer.recv().unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// SIGINT and SIGTERM. SIGHUP stays with the system: `nohup` says what becomes of it.
#[cfg(unix)]
struct Signals {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.int.recv() => Signal::CtrlC,
            _ = self.term.recv() => Signal::Terminate,
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) -> Signal {
        self.0.recv().await;
        Signal::CtrlC
    }
}

impl Busy {
    /// Set by the first signal.
    pub fn stop(&self) -> &AtomicBool {
        &self.0.stop
    }

    /// Comes with the first signal. One task may wait.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let flags = Arc::clone(&self.0);
        async move {
            while !flags.stop.load(Ordering::SeqCst) {
                flags.stopped.notified().await;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}
