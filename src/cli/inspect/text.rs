//! The report for people.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use super::report::{ReadingReport, Report, Share};
use crate::cli::table::{Align, Table, human_bytes};

const HEADING: Style = Style::new().bold();

fn heading(out: &mut dyn Write, text: &str) -> io::Result<()> {
    writeln!(out, "{HEADING}{text}{HEADING:#}")
}

/// Everything but the list of tensors.
pub fn overview(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    summary(out, report)?;
    writeln!(out)?;
    metadata(out, report)?;
    if report.n_tensors > 0 {
        for (title, shares) in [
            ("size by type", &report.types),
            ("size by part", &report.parts),
        ] {
            writeln!(out)?;
            heading(out, title)?;
            share_table(shares, report.bytes).write(out)?;
        }
    }
    if !report.devices.is_empty() {
        writeln!(out)?;
        devices(out, report)?;
    }
    if !report.memory.is_empty() {
        writeln!(out)?;
        memory(out, report)?;
    }
    if let Some(of_token) = &report.reading {
        writeln!(out)?;
        reading(out, of_token)?;
    }
    Ok(())
}

fn summary(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let name = report.name.as_deref().unwrap_or("(no name)");
    heading(out, &name.escape_debug().to_string())?;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    let mut line = |what: &str, value: String| table.row([what.to_owned(), value]);
    for file in &report.files {
        line(
            "file",
            format!("{} ({})", file.path.display(), human_bytes(file.bytes)),
        );
    }
    line(
        "architecture",
        report
            .architecture
            .clone()
            .map_or("(none)".into(), |a| a.escape_debug().to_string()),
    );
    line(
        "weights",
        format!(
            "{} in {} tensors, {}, {:.2} bits each",
            count(report.parameters),
            report.n_tensors,
            human_bytes(report.bytes),
            report.bits_per_weight
        ),
    );
    if let Some(sizes) = &report.sizes {
        let mtp = if sizes.mtp { "with" } else { "no" };
        line(
            "blocks",
            format!(
                "{} of width {}, {mtp} MTP head",
                sizes.n_layer, sizes.n_embd
            ),
        );
        line("vocabulary", sizes.n_vocab.to_string());
        line(
            "context",
            format!("{} tokens in training", sizes.n_ctx_train),
        );
    }
    if let Some(tokenizer) = &report.tokenizer {
        line(
            "tokenizer",
            match (tokenizer.kind, &tokenizer.error) {
                (Some(kind), _) => format!(
                    "{kind} ({}), {} tokens",
                    tokenizer.pre.as_deref().unwrap_or("-"),
                    tokenizer.n_vocab.unwrap_or(0)
                ),
                (None, Some(error)) => format!("cannot be used: {error}"),
                _ => String::new(),
            },
        );
    }
    table.write(out)?;
    verdict(out, report)
}

fn verdict(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let color = match report.runs.status {
        "yes" => AnsiColor::Green,
        "vocabulary only" => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    let style = Style::new().bold().fg_color(Some(color.into()));
    writeln!(
        out,
        "  {style}runs: {}{style:#} ({})",
        report.runs.status, report.runs.detail
    )?;
    match &report.runs.hint {
        Some(hint) => writeln!(out, "  hint: {hint}"),
        None => Ok(()),
    }
}

/// The metadata.
pub fn metadata(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    heading(out, "metadata")?;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left), ("", Align::Left)]);
    for entry in &report.metadata {
        table.row([
            entry.key.escape_debug().to_string(),
            entry.ty.to_owned(),
            entry.text.clone(),
        ]);
    }
    table.write(out)
}

/// Every tensor.
pub fn tensors(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    heading(out, "tensors")?;
    let columns = [
        ("name", Align::Left),
        ("type", Align::Left),
        ("shape", Align::Left),
        ("size", Align::Right),
        ("bits", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for tensor in &report.tensors {
        let shape = tensor
            .shape
            .iter()
            .map(u64::to_string)
            .collect::<Vec<_>>()
            .join(" x ");
        table.row([
            tensor.name.escape_debug().to_string(),
            tensor.ty.to_owned(),
            shape,
            human_bytes(tensor.bytes),
            format!("{:.2}", tensor.bits_per_weight),
        ]);
    }
    table.write(out)
}

fn share_table(shares: &[Share], total: u64) -> Table {
    let columns = [
        ("", Align::Left),
        ("tensors", Align::Right),
        ("weights", Align::Right),
        ("size", Align::Right),
        ("share", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for share in shares {
        table.row([
            share.name.clone(),
            share.tensors.to_string(),
            count(share.parameters),
            human_bytes(share.bytes),
            format!("{:.1} %", share.bytes as f64 * 100.0 / total.max(1) as f64),
        ]);
    }
    table
}

fn devices(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    heading(out, "what would run where")?;
    let columns = [
        ("device", Align::Left),
        ("", Align::Left),
        ("memory", Align::Right),
        ("weights", Align::Right),
        ("", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for device in &report.devices {
        let what = match (device.blocks, device.output) {
            (0, false) if device.bytes == 0 => "nothing".to_owned(),
            (0, false) => "token embedding".to_owned(),
            (n, output) => format!("{n} blocks{}", if output { " and output" } else { "" }),
        };
        table.row([
            device.name.clone(),
            device.description.clone(),
            human_bytes(device.memory_total),
            human_bytes(device.bytes),
            what,
        ]);
    }
    table.write(out)
}

fn memory(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let (row_type, sequences) = report
        .memory
        .first()
        .map_or(("", 1), |m| (m.row_type, m.sequences));
    let plural = if sequences == 1 { "" } else { "s" };
    heading(
        out,
        &format!(
            "memory for {sequences} sequence{plural} with {row_type} rows, beside intermediate results"
        ),
    )?;
    if let Some(sizes) = &report.sizes {
        let (token, state) = (
            human_bytes(sizes.bytes_per_token),
            human_bytes(sizes.bytes_per_sequence),
        );
        writeln!(
            out,
            "  {token} per token, and {state} of recurrent state per sequence whatever its length"
        )?;
    }
    let columns = [
        ("context", Align::Right),
        ("attention rows", Align::Right),
        ("states", Align::Right),
        ("weights", Align::Right),
        ("total", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for m in &report.memory {
        table.row([
            m.context.to_string(),
            human_bytes(m.rows),
            human_bytes(m.states),
            human_bytes(m.weights),
            human_bytes(m.total),
        ]);
    }
    table.write(out)
}

fn reading(out: &mut dyn Write, reading: &ReadingReport) -> io::Result<()> {
    heading(out, "what a token of generation reads")?;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    for share in &reading.parts {
        table.row([share.name.to_owned(), human_bytes(share.bytes)]);
    }
    table.row(["all weights".to_owned(), human_bytes(reading.weights)]);
    if reading.states > 0 {
        let states = "states, read and written".to_owned();
        table.row([states, human_bytes(reading.states)]);
    }
    table.write(out)?;
    let mut columns = vec![
        ("context", Align::Right),
        ("attention rows", Align::Right),
        ("total", Align::Right),
    ];
    let mut bounds = reading.contexts.iter().map(|c| c.tokens_per_second);
    if bounds.any(|bound| bound.is_some()) {
        columns.push(("t/s at most", Align::Right));
    }
    let mut table = Table::new(&columns);
    for at in &reading.contexts {
        let bound = at.tokens_per_second.map(|rate| format!("{rate:.1}"));
        let (rows, total) = (human_bytes(at.rows), human_bytes(at.total));
        table.row(
            [at.context.to_string(), rows, total]
                .into_iter()
                .chain(bound),
        );
    }
    table.write(out)
}

/// A count in thousands, millions or billions.
fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.2} K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}
