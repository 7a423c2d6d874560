//! Time by operation and by part of the network.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::Hash;
use std::io::{self, Write};
use std::time::Duration;

use oxling::bench::{Class, Test};
use oxling::ggml::{Profile, Timed};

use super::super::table::{Align, Table};

/// Time of each operation in one run of a test.
pub struct Operations {
    test: Test,
    /// By operation and type of its first operand.
    by_operation: Sums<(String, String)>,
    by_class: Sums<Class>,
}

/// Calls and time of each kind, the longest first.
struct Sums<K>(Vec<(K, usize, Duration)>);

impl<K: Hash + Ord> Sums<K> {
    fn new(profile: &Profile, kind: impl Fn(&Timed) -> K) -> Self {
        let mut sums: HashMap<K, (usize, Duration)> = HashMap::new();
        for timed in &profile.entries {
            let sum = sums.entry(kind(timed)).or_default();
            *sum = (sum.0 + 1, sum.1 + timed.time);
        }
        let rows = sums.into_iter().map(|(key, (n, time))| (key, n, time));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.0.cmp(&b.0)));
        Self(rows)
    }

    /// Seconds of all kinds that pass.
    fn seconds(&self, test: impl Fn(&K) -> bool) -> f64 {
        let passing = self.0.iter().filter(|row| test(&row.0));
        passing.map(|row| row.2.as_secs_f64()).sum()
    }

    /// Writes a table; `names` gives the first cells of a row.
    fn write<const N: usize>(
        &self,
        out: &mut dyn Write,
        titles: [&'static str; N],
        names: impl Fn(&K) -> [String; N],
    ) -> io::Result<()> {
        let numbers = ["calls", "ms", "share"].map(|title| (title, Align::Right));
        let titles = titles.map(|title| (title, Align::Left));
        let mut table = Table::new(&[&titles[..], &numbers].concat());
        let total = self.seconds(|_| true);
        for (key, calls, time) in &self.0 {
            let numbers = [
                calls.to_string(),
                format!("{:.3}", time.as_secs_f64() * 1e3),
                percent(time.as_secs_f64(), total),
            ];
            table.row(names(key).into_iter().chain(numbers));
        }
        table.write(out)
    }
}

fn percent(part: f64, total: f64) -> String {
    format!("{:.1} %", 100.0 * part / total.max(f64::MIN_POSITIVE))
}

impl Operations {
    /// Sums up what a clock around each operation of a test said.
    pub fn new(test: Test, profile: &Profile) -> Self {
        Self {
            test,
            by_operation: Sums::new(profile, |t| (t.op.clone(), t.ty.clone())),
            by_class: Sums::new(profile, Class::of),
        }
    }

    /// Writes both tables, and how much is left beside products with weights.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let total = self.by_class.seconds(|_| true);
        let ms = total * 1e3;
        writeln!(
            out,
            "\n{}: {ms:.3} ms with a clock around each operation",
            self.test
        )?;
        let names = |(op, ty): &(String, String)| [op.clone(), ty.clone()];
        self.by_operation
            .write(out, ["operation", "operand"], names)?;
        writeln!(out)?;
        self.by_class
            .write(out, ["part of the network"], |class| [class.to_string()])?;
        let beside = self.by_class.seconds(|class| !class.is_product());
        let rounding = self.by_class.seconds(|class| *class == Class::Rounding);
        writeln!(
            out,
            "not products with weights: {} (rounding for products, {}, is part of them)",
            percent(beside, total),
            percent(rounding, total)
        )
    }
}
