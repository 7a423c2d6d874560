//! Time by operation.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use oxling::bench::Test;
use oxling::ggml::Profile;

use super::super::table::{Align, Table};

/// Time of each operation in one run of a test.
pub struct Operations {
    test: Test,
    /// Operation and type of its first operand, calls, time; the longest first.
    rows: Vec<((String, String), usize, Duration)>,
}

impl Operations {
    /// Sums up what a clock around each operation of a test said.
    pub fn new(test: Test, profile: Profile) -> Self {
        let mut sums: HashMap<(String, String), (usize, Duration)> = HashMap::new();
        for (op, _, ty, time) in profile.entries {
            let sum = sums.entry((op, ty)).or_default();
            *sum = (sum.0 + 1, sum.1 + time);
        }
        let mut rows: Vec<_> = sums
            .into_iter()
            .map(|(key, (n, time))| (key, n, time))
            .collect();
        rows.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.0.cmp(&b.0)));
        Self { test, rows }
    }

    /// Writes a table.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        use Align::{Left, Right};
        let mut table = Table::new(&[
            ("operation", Left),
            ("operand", Left),
            ("calls", Right),
            ("ms", Right),
            ("share", Right),
        ]);
        let total: Duration = self.rows.iter().map(|r| r.2).sum();
        for ((op, ty), calls, time) in &self.rows {
            let share = time.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE);
            table.row([
                op.clone(),
                ty.clone(),
                calls.to_string(),
                format!("{:.3}", time.as_secs_f64() * 1e3),
                format!("{:.1} %", share * 100.0),
            ]);
        }
        let ms = total.as_secs_f64() * 1e3;
        writeln!(
            out,
            "\n{}: {ms:.3} ms with a clock around each operation",
            self.test
        )?;
        table.write(out)
    }
}
