//! Progress bars on stderr, off when stderr is no terminal.

use std::io::IsTerminal;

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

fn target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}
