//! `oxling batched-bench`: speed against context and batch, as llama-batched-bench measures and prints it.

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{ArgAction, Args, ValueEnum};
use oxling::bench::{Cell, CellOptions, CellTimes, Chart, Line, run_cell, svg, warm_up};
use oxling::engine::{Engine, EngineConfig};
use oxling::model::Model;

use super::counts::{Counts, all};
use super::errors::hinted;
use super::model_args::{ComputeArgs, GpuLayers, ModelArgs, OnOffAuto};
use super::outputs::{files_of, refuse_same_file};
use super::progress::count_bar;

/// Measure speed against context and batch: the table of llama-batched-bench.
///
/// Each combination of -npp, -ntg and -npl is a row: -npl prompts of -npp tokens are computed together, then each
/// sequence generates -ntg tokens. Rows that need more than -c tokens in all are left out.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxling batched-bench -m model.gguf -c 16384 -npp 512,1024,4096 -ntg 128 -npl 1,2,4
  oxling batched-bench -m model.gguf -c 8192 -npp 128-4096*2 -ntg 32 -npl 1,4 --plot sweep.svg
  oxling batched-bench -m model.gguf -c 4096 -npp 512 -ntg 128 -npl 8 -pps --output-format jsonl")]
pub struct BatchedBenchArgs {
    /// Tokens per prompt: numbers and ranges, comma-separated [-npp].
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    npp: Vec<Counts>,
    /// Tokens generated per sequence [-ntg].
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    ntg: Vec<Counts>,
    /// Sequences computed together [-npl].
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1")]
    npl: Vec<Counts>,
    /// One prompt, computed once and copied to all sequences [-pps].
    #[arg(long, action = ArgAction::SetTrue)]
    pps: bool,
    /// Sequences generate one after the other instead of together [-tgs].
    #[arg(long, action = ArgAction::SetTrue)]
    tgs: bool,
    /// A table, or one JSON object per line.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Md)]
    output_format: Format,
    /// Draw the rates as SVG, for print and for dark screens.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Markdown.
    Md,
    /// JSON lines.
    Jsonl,
}

/// A cell with its times in seconds and its rates in tokens per second; rates of nothing are 0.
struct Row {
    cell: Cell,
    t_pp: f64,
    t_tg: f64,
    speed_pp: f64,
    speed_tg: f64,
    speed: f64,
}

impl Row {
    fn new(cell: Cell, shared: bool, times: CellTimes) -> Self {
        let (t_pp, t_tg) = (times.prompt.as_secs_f64(), times.generation.as_secs_f64());
        let rate = |n: f64, t: f64| if n > 0.0 && t > 0.0 { n / t } else { 0.0 };
        let n_seq = f64::from(cell.n_seq);
        let prompts = if shared { 1.0 } else { n_seq };
        Self {
            cell,
            t_pp,
            t_tg,
            speed_pp: rate(prompts * f64::from(cell.n_prompt), t_pp),
            speed_tg: rate(n_seq * f64::from(cell.n_gen), t_tg),
            speed: rate(cell.n_kv() as f64, t_pp + t_tg),
        }
    }

    fn markdown(&self) -> String {
        let Cell {
            n_prompt,
            n_gen,
            n_seq,
        } = self.cell;
        format!(
            "|{n_prompt:6} | {n_gen:6} | {n_seq:4} | {:6} | {:8.3} | {:8.2} | {:8.3} | {:8.2} | {:8.3} | {:8.2} |",
            self.cell.n_kv(),
            self.t_pp,
            self.speed_pp,
            self.t_tg,
            self.speed_tg,
            self.t_pp + self.t_tg,
            self.speed
        )
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let real = |v: f64| format!("{v:.6}");
        vec![
            ("pp", self.cell.n_prompt.to_string()),
            ("tg", self.cell.n_gen.to_string()),
            ("pl", self.cell.n_seq.to_string()),
            ("n_kv", self.cell.n_kv().to_string()),
            ("t_pp", real(self.t_pp)),
            ("speed_pp", real(self.speed_pp)),
            ("t_tg", real(self.t_tg)),
            ("speed_tg", real(self.speed_tg)),
            ("t", real(self.t_pp + self.t_tg)),
            ("speed", real(self.speed)),
        ]
    }
}

/// Runs the command.
pub fn run(args: &BatchedBenchArgs) -> Result<()> {
    let cells = cells(args)?;
    let config = args.compute.engine_config()?;
    let gguf = args.model.open()?;
    if let Some(path) = &args.plot {
        refuse_same_file(path, files_of(&gguf))?;
    }
    let plot = args.plot.as_deref().map(checked_plot).transpose()?;
    let model = args.model.load_for(gguf, false)?;
    let limit = match args.compute.ctx_size {
        0 => model.sizes().n_ctx_train,
        n => n,
    };
    let cells = fitting(cells, limit)?;
    let settings = settings(args, &config, limit);
    let mut out = std::io::stdout().lock();
    if args.output_format == Format::Md {
        write_head(&mut out, &settings)?;
    }
    let options = CellOptions {
        shared_prompt: args.pps,
        separate: args.tgs,
    };
    let bar = count_bar("rows", cells.len() as u64);
    let mut rows = Vec::with_capacity(cells.len());
    for cell in cells {
        let row = Row::new(cell, args.pps, measure(&model, &config, cell, options)?);
        bar.suspend(|| {
            let line = match args.output_format {
                Format::Md => row.markdown(),
                Format::Jsonl => json_line(&settings, &row),
            };
            writeln!(out, "{line}").and_then(|()| out.flush())
        })?;
        rows.push(row);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.output_format == Format::Md {
        writeln!(out)?;
    }
    if let Some(path) = plot {
        let drawing = svg(&charts(&model.name(), &rows));
        std::fs::write(path, drawing).with_context(|| cannot_write(path))?;
    }
    Ok(())
}

/// All combinations, in llama-batched-bench's order.
fn cells(args: &BatchedBenchArgs) -> Result<Vec<Cell>> {
    let (npp, ntg, npl) = (all(&args.npp), all(&args.ntg), all(&args.npl));
    if npl.contains(&0) {
        return Err(hinted(
            "-npl 0: no sequence, no measurement",
            "name at least 1",
        ));
    }
    let mut cells = Vec::new();
    for &n_prompt in &npp {
        for &n_gen in &ntg {
            for &n_seq in &npl {
                let cell = Cell {
                    n_prompt,
                    n_gen,
                    n_seq,
                };
                if cell.n_kv() == 0 {
                    return Err(hinted(
                        "-npp 0 with -ntg 0: there is nothing to compute",
                        "name a number above 0 for one of them",
                    ));
                }
                cells.push(cell);
            }
        }
    }
    Ok(cells)
}

/// The cells that need no more than `limit` tokens; how many do not is said.
fn fitting(mut cells: Vec<Cell>, limit: u32) -> Result<Vec<Cell>> {
    let wanted = cells.len();
    let least = cells.iter().map(Cell::n_kv).min().unwrap_or(0);
    cells.retain(|cell| cell.n_kv() <= u64::from(limit));
    if cells.is_empty() {
        return Err(hinted(
            format!("no row fits into a context of {limit} tokens"),
            format!("the smallest needs -c {least}"),
        ));
    }
    if cells.len() < wanted {
        anstream::eprintln!(
            "left out {} of {wanted} rows that need more than {limit} tokens (-c)",
            wanted - cells.len()
        );
    }
    Ok(cells)
}

/// Each cell has an engine of its own size, so that memory never exceeds what -c allows.
fn measure(
    model: &Model,
    config: &EngineConfig,
    cell: Cell,
    options: CellOptions,
) -> Result<CellTimes> {
    let config = EngineConfig {
        n_ctx: u32::try_from(cell.per_sequence())?,
        n_seq: cell.n_seq,
        ..config.clone()
    };
    let mut engine = Engine::new(model, config)?;
    warm_up(&mut engine, cell.n_prompt, cell.n_gen)?;
    Ok(run_cell(&mut engine, cell, options)?)
}

/// The settings that llama-batched-bench prints, with its numbers: -1 and -2 for `auto` and `all`.
fn settings(
    args: &BatchedBenchArgs,
    config: &EngineConfig,
    limit: u32,
) -> Vec<(&'static str, String)> {
    let flash = match args.compute.flash_attn {
        OnOffAuto::Auto => -1,
        OnOffAuto::Off => 0,
        OnOffAuto::On => 1,
    };
    let layers = match args.model.n_gpu_layers {
        GpuLayers::Auto => -1,
        GpuLayers::Count(u32::MAX) => -2,
        GpuLayers::Count(n) => i64::from(n),
    };
    vec![
        ("n_kv_max", limit.to_string()),
        ("n_batch", config.n_batch.to_string()),
        ("n_ubatch", config.n_ubatch.to_string()),
        ("flash_attn", flash.to_string()),
        ("is_pp_shared", u8::from(args.pps).to_string()),
        ("is_tg_separate", u8::from(args.tgs).to_string()),
        ("n_gpu_layers", layers.to_string()),
        ("n_threads", config.n_threads.to_string()),
        ("n_threads_batch", config.n_threads_batch.to_string()),
    ]
}

fn write_head(out: &mut dyn Write, settings: &[(&str, String)]) -> std::io::Result<()> {
    let settings: Vec<String> = settings.iter().map(|(k, v)| format!("{k} = {v}")).collect();
    writeln!(out, "\nllama_batched_bench: {}\n", settings.join(", "))?;
    let names = [
        ("PP", 6),
        ("TG", 6),
        ("B", 4),
        ("N_KV", 6),
        ("T_PP s", 8),
        ("S_PP t/s", 8),
        ("T_TG s", 8),
        ("S_TG t/s", 8),
        ("T s", 8),
        ("S t/s", 8),
    ];
    let heads: Vec<String> = names.iter().map(|(n, w)| format!("{n:>w$} ")).collect();
    let rules: Vec<String> = names.iter().map(|(_, w)| "-".repeat(w + 1)).collect();
    writeln!(out, "|{}|", heads.join("| "))?;
    writeln!(out, "|{}|", rules.join("|-"))
}

/// A row as llama-batched-bench's JSON object, which does not say whether generation was separate.
fn json_line(settings: &[(&'static str, String)], row: &Row) -> String {
    let settings = settings.iter().filter(|(k, _)| *k != "is_tg_separate");
    let fields: Vec<String> = settings
        .cloned()
        .chain(row.fields())
        .map(|(k, v)| format!("\"{k}\": {v}"))
        .collect();
    format!("{{{}}}", fields.join(", "))
}

/// Prompt and generation rates over context, one line per batch.
fn charts(name: &str, rows: &[Row]) -> [Chart; 2] {
    let mut pairs: Vec<(u32, u32)> = rows.iter().map(|r| (r.cell.n_seq, r.cell.n_gen)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let several = pairs.iter().any(|p| p.1 != pairs[0].1);
    let chart = |what: &str, rate: fn(&Row) -> f64, counts: fn(&Cell) -> bool| {
        let line = |&(n_seq, n_gen): &(u32, u32)| Line {
            name: if several {
                format!("batch {n_seq}, tg {n_gen}")
            } else {
                format!("batch {n_seq}")
            },
            points: rows
                .iter()
                .filter(|r| (r.cell.n_seq, r.cell.n_gen) == (n_seq, n_gen) && counts(&r.cell))
                .map(|r| (f64::from(r.cell.n_prompt), rate(r)))
                .collect(),
        };
        let mut lines: Vec<Line> = pairs.iter().map(line).collect();
        lines.retain(|line| !line.points.is_empty());
        Chart {
            title: format!("{name}: {what}"),
            x: "prompt tokens per sequence".to_owned(),
            y: "tokens per second, all sequences".to_owned(),
            lines,
        }
    };
    [
        chart("prefill", |r| r.speed_pp, |c| c.n_prompt > 0),
        chart("decode", |r| r.speed_tg, |c| c.n_gen > 0),
    ]
}

/// Refuses a place that cannot be written before anything is measured; what is there stays until then.
fn checked_plot(path: &Path) -> Result<&Path> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).append(true).open(path);
    file.with_context(|| cannot_write(path))?;
    Ok(path)
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}
