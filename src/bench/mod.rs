//! Measuring the speed of an engine: sweeps over context and batch, repeated tests, and charts of them.
//!
//! What is timed is what llama.cpp's tools time: computing, without tokenising and without sampling. Tokens are random,
//! since a model of experts is faster on a text that repeats itself. Only where guesses ahead are measured, texts are
//! read and written, since nobody can guess noise.

#![forbid(unsafe_code)]

mod chart;
mod classes;
mod runs;
mod samples;
mod speculative;

pub use chart::{Chart, Line, svg};
pub use classes::Class;
pub use runs::{Cell, CellOptions, CellTimes, Test, profile_test, run_cell, run_test, warm_up};
pub use samples::{Samples, ratio};
pub use speculative::{Compared, Comparison, Draw, Generator, n_ctx_speculated};
