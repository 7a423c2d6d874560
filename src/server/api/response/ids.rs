//! Names and times of answers.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt as _;
use rand::distr::Alphanumeric;

/// A name that will not come again: a prefix and 32 letters and digits.
pub fn unique(prefix: &str) -> String {
    let mut name = prefix.to_owned();
    name.extend(
        rand::rng()
            .sample_iter(Alphanumeric)
            .take(32)
            .map(char::from),
    );
    name
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map(|time| time.as_secs()).unwrap_or_default()
}

/// Name of this build, as llama-server writes it: it starts with `b`.
pub fn fingerprint() -> String {
    format!("b-oxling-{}", env!("CARGO_PKG_VERSION"))
}
