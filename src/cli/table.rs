//! Aligned tables and sizes for people.

use std::io::{self, Write};

/// On which side a column's cells are filled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells whose columns are as wide as their widest cell.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; empty ones everywhere mean no heading line.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, one cell per column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes the table, two spaces in.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = |i: usize| {
            let cells = self
                .rows
                .iter()
                .filter_map(|row| row.get(i))
                .map(|cell| cell.chars().count());
            cells.max().unwrap_or(0).max(self.columns[i].0.len())
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        if self.columns.iter().any(|(heading, _)| !heading.is_empty()) {
            let headings: Vec<String> = self
                .columns
                .iter()
                .map(|(heading, _)| (*heading).to_owned())
                .collect();
            self.write_row(out, &headings, &widths)?;
        }
        self.rows
            .iter()
            .try_for_each(|row| self.write_row(out, row, &widths))
    }

    fn write_row(&self, out: &mut dyn Write, cells: &[String], widths: &[usize]) -> io::Result<()> {
        let mut line = String::from(" ");
        for ((cell, (_, align)), width) in cells.iter().zip(&self.columns).zip(widths) {
            let padding = " ".repeat(width - cell.chars().count());
            let (before, after) = if *align == Align::Left {
                ("", padding.as_str())
            } else {
                (padding.as_str(), "")
            };
            line.push_str(&format!(" {before}{cell}{after} "));
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// Bytes in the largest unit of 1024s that leaves a whole part.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 { 0 } else { 2 };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[("name", Align::Left), ("size", Align::Right)]);
        table.row(["a".into(), "1".into()]);
        table.row(["größer".into(), "12345".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let expected = "  name     size\n  a           1\n  größer  12345\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1024), "1.00 KiB");
        assert_eq!(human_bytes(57 << 30), "57.00 GiB");
    }
}
