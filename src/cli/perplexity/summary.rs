//! The summary of a comparison, in llama.cpp's lines.

use std::io::{self, Write};

use oxling::eval::{Divergence, Mean, Spread};
use serde_json::{Value, json};

/// The lines for people.
pub fn write(out: &mut dyn Write, all: &Divergence) -> io::Result<()> {
    let ((now, now_error), (base, base_error)) =
        (all.nll().perplexity(), all.base_nll().perplexity());
    let (ratio, ratio_error) = all.ratio().perplexity();
    writeln!(out, "====== Perplexity statistics ======")?;
    writeln!(
        out,
        "Mean PPL(Q)                   : {now:10.6} ± {now_error:10.6}"
    )?;
    writeln!(
        out,
        "Mean PPL(base)                : {base:10.6} ± {base_error:10.6}"
    )?;
    writeln!(
        out,
        "Cor(ln(PPL(Q)), ln(PPL(base))): {:6.2}%",
        100.0 * all.correlation()
    )?;
    writeln!(
        out,
        "Mean ln(PPL(Q)/PPL(base))     : {:10.6} ± {:10.6}",
        all.ratio().mean(),
        all.ratio().error()
    )?;
    writeln!(
        out,
        "Mean PPL(Q)/PPL(base)         : {ratio:10.6} ± {ratio_error:10.6}"
    )?;
    writeln!(out, "Mean PPL(Q)-PPL(base)         : {:10.6}", now - base)?;
    writeln!(out, "\n====== KL divergence statistics ======")?;
    writeln!(
        out,
        "Mean    KLD: {:10.6} ± {:10.6}",
        all.kl().mean(),
        all.kl().error()
    )?;
    if let Some(spread) = all.kl_spread() {
        write_spread(out, "KLD", &spread, 1.0, "")?;
    }
    writeln!(out, "\n====== Token probability statistics ======")?;
    writeln!(
        out,
        "Mean    Δp: {:7.3} ± {:5.3} %",
        100.0 * all.change().mean(),
        100.0 * all.change().error()
    )?;
    if let Some(spread) = all.change_spread() {
        write_spread(out, "Δp", &spread, 100.0, "%")?;
    }
    writeln!(out, "RMS Δp    : {:7.3} %", 100.0 * all.change_rms())?;
    let (same, error) = all.same_top();
    writeln!(
        out,
        "Same top p: {:6.3} ± {:5.3} %",
        100.0 * same,
        100.0 * error
    )
}

fn write_spread(
    out: &mut dyn Write,
    what: &str,
    spread: &Spread,
    factor: f64,
    unit: &str,
) -> io::Result<()> {
    let mut line =
        |label: &str, value: f64| writeln!(out, "{label:7} {what}: {:10.6}{unit}", value * factor);
    line("Maximum", spread.max)?;
    for (label, value) in ["99.9%", "99.0%", "95.0%", "90.0%"].iter().zip(spread.high) {
        line(label, value)?;
    }
    line("Median", spread.median)?;
    for (label, value) in ["10.0%", "5.0%", "1.0%", "0.1%"].iter().zip(spread.low) {
        line(label, value)?;
    }
    line("Minimum", spread.min)
}

/// The same for programs.
pub fn json(all: &Divergence) -> Value {
    let perplexity = |m: &Mean| json!({ "value": m.perplexity().0, "error": m.perplexity().1 });
    let mean = |m: &Mean| json!({ "value": m.mean(), "error": m.error() });
    let (same, same_error) = all.same_top();
    json!({
        "scored": all.kl().count(),
        "perplexity": perplexity(all.nll()),
        "base_perplexity": perplexity(all.base_nll()),
        "correlation": all.correlation(),
        "ln_ratio": mean(all.ratio()),
        "kl": mean(all.kl()),
        "kl_spread": all.kl_spread(),
        "probability_change": mean(all.change()),
        "probability_change_rms": all.change_rms(),
        "probability_change_spread": all.change_spread(),
        "same_top": { "value": same, "error": same_error },
    })
}
