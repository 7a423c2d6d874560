//! Progress bars on stderr, off when stderr is no terminal.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Bytes below which loading is over before a bar could be read.
const WORTH_SHOWING: u64 = 256 << 20;

/// A bar over bytes, shown only for large models.
pub struct LoadProgress {
    bar: Option<ProgressBar>,
}

impl LoadProgress {
    /// A bar that appears when it is worth it.
    pub fn new() -> Self {
        Self { bar: None }
    }

    /// `done` of `total` bytes are loaded.
    pub fn update(&mut self, done: u64, total: u64) {
        if total < WORTH_SHOWING {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| byte_bar("loading", total));
        bar.set_position(done);
    }

    /// Removes the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A bar over bytes with rate and time left.
pub fn byte_bar(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), target());
    let style = ProgressStyle::with_template(
        "{msg:<12} {wide_bar} {bytes:>10} of {total_bytes} {bytes_per_sec:>12} {eta:>5}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar
}

/// A bar over counted things with time left.
pub fn count_bar(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), target());
    let style =
        ProgressStyle::with_template("{msg:<12} {wide_bar} {human_pos:>8} of {human_len} {eta:>5}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar
}

/// A bar over bytes that also counts tensors.
pub struct TensorBar {
    bar: ProgressBar,
    what: &'static str,
    done: AtomicU64,
    total: u64,
}

/// A bar over the bytes of so many tensors, with rate and time left.
pub fn tensor_bar(what: &'static str, bytes: u64, tensors: u64) -> TensorBar {
    let bar = byte_bar(what, bytes);
    let style = ProgressStyle::with_template(
        "{msg} {wide_bar} {bytes:>10} of {total_bytes} {bytes_per_sec:>12} {eta:>5}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let bar = TensorBar {
        bar,
        what,
        done: AtomicU64::new(0),
        total: tensors,
    };
    bar.show(0);
    bar
}

impl TensorBar {
    /// So many bytes more are done.
    pub fn bytes(&self, n: u64) {
        self.bar.inc(n);
    }

    /// A tensor more is done.
    pub fn tensor(&self) {
        self.show(self.done.fetch_add(1, Ordering::Relaxed) + 1);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn show(&self, done: u64) {
        self.bar
            .set_message(format!("{}, tensor {done} of {}", self.what, self.total));
    }
}

fn target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}
