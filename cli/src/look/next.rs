//! `gable look next`: the next token at several temperatures, what filters keep, and why a token has its score.

use super::terminal::{bar, fit, percent, shown};
use super::{OfText, guesses_json};
use anyhow::Result;
use gable_model::look::{Distribution, Look, Scored, Why, kept, rank, top};
use gable_model::sampler::{SamplerConfig, Stage};
use serde_json::json;
use std::io::Write;

/// Options of `gable look next`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gable look next 'Once upon a time, there was a little' --temp 0.1,0.5,1,2,5\n  \
    gable look next 'The capital of France is' --why Paris,London\n\n\
    p = e^(logit/T) / sum e^(logit/T): a low temperature takes the most likely token always, a high one gives every \
    token a chance. --why needs a text of at most 512 tokens."
)]
pub struct NextArgs {
    /// Temperatures
    #[arg(long, value_name = "T,...", value_delimiter = ',', default_value = "0.1,0.5,1,2,5", value_parser = temperature, allow_negative_numbers = true)]
    temp: Vec<f64>,
    /// Tokens to show
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Shows what the top-k filter keeps
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: usize,
    /// Shows what the top-p filter keeps
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,
    /// Shows what the min-p filter keeps
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    min_p: f32,
    /// Takes the scores of these words apart: row of W_U times the last vector; a word's first token counts
    #[arg(long, value_name = "WORD,...", value_delimiter = ',')]
    why: Vec<String>,
    #[command(flatten)]
    of: OfText,
}

/// A temperature, 0 included.
pub fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(t) if t.is_finite() && t >= 0.0 => Ok(t),
        _ => Err("allowed: 0 and positive numbers".to_owned()),
    }
}

/// Runs the command.
pub fn run(args: &NextArgs) -> Result<()> {
    let (look, text, ids) = args.of.open()?;
    let logits = look.next_logits(&ids)?;
    let best = top(&logits, args.top, |_| true);
    let distributions: Vec<Distribution> = args.temp.iter().map(|t| Distribution::new(&logits, *t)).collect();
    let config =
        SamplerConfig { top_k: args.top_k, top_p: args.top_p, min_p: args.min_p, ..SamplerConfig::default() };
    config.validate()?;
    let plain = Distribution::new(&logits, 1.0);
    let mut filters = Vec::new();
    for (name, stage) in [
        (format!("top-k {}", args.top_k), Stage::TopK),
        (format!("top-p {}", args.top_p), Stage::TopP),
        (format!("min-p {}", args.min_p), Stage::MinP),
    ] {
        let list = kept(&logits, &config, stage)?;
        let mass: f64 = list.iter().map(|s| plain.of(s.id)).sum();
        filters.push((name, list, mass));
    }
    let mut targets = Vec::new();
    for word in &args.why {
        targets.push(look.target(word)?);
    }
    let whys = if targets.is_empty() { Vec::new() } else { look.why(&ids, &targets)? };
    args.of.common.print(
        || {
            let temperatures: Vec<_> = distributions
                .iter()
                .map(|d| {
                    let list: Vec<(u32, f64)> = best.iter().map(|s| (s.id, d.of(s.id))).collect();
                    json!({ "temperature": d.temperature, "entropy_bits": d.entropy, "top": guesses_json(&look, &list) })
                })
                .collect();
            let filters: Vec<_> = filters
                .iter()
                .map(|(name, list, mass)| json!({ "filter": name, "kept": list.len(), "probability": mass }))
                .collect();
            let whys: Vec<_> = targets.iter().zip(&whys).map(|(id, w)| why_json(&look, &logits, *id, w)).collect();
            json!({
                "text": text, "logits": super::scored_json(&look, &best), "temperatures": temperatures,
                "filters": filters, "why": whys,
            })
        },
        |out, screen| {
            let columns = screen.width.saturating_sub(28) / 8;
            let shown_at = distributions.get(..columns.min(distributions.len())).unwrap_or_default();
            let heads: Vec<String> =
                shown_at.iter().map(|d| format!("{:>7}", format!("T={}", d.temperature))).collect();
            let title = format!("{} {:>8} {}", fit("token", 18), "logit", heads.join(" "));
            writeln!(out, "{}", screen.strong(&title))?;
            for s in &best {
                #[expect(clippy::cast_possible_truncation, reason = "a share")]
                let cell = |d: &Distribution| {
                    screen.heat(&format!("{:>7}", percent(d.of(s.id))), d.of(s.id).sqrt() as f32)
                };
                let cells: Vec<String> = shown_at.iter().map(cell).collect();
                writeln!(out, "{} {:>8.2} {}", fit(&shown(&look.piece(s.id)), 18), s.score, cells.join(" "))?;
            }
            let bits: Vec<String> = shown_at.iter().map(|d| format!("{:>7.2}", d.entropy)).collect();
            writeln!(out, "{} {:>8} {}", fit("entropy in bits", 18), "", bits.join(" "))?;
            if shown_at.len() < distributions.len() {
                let left = distributions.len().saturating_sub(shown_at.len());
                writeln!(out, "({left} more temperatures do not fit this terminal; --json has them)")?;
            }
            writeln!(out)?;
            for (name, list, mass) in &filters {
                writeln!(out, "{}", fit(&filter_line(&look, name, list, *mass), screen.width).trim_end())?;
            }
            for (id, why) in targets.iter().zip(&whys) {
                explain(out, &look, &logits, *id, why)?;
            }
            Ok(())
        },
    )
}

fn filter_line(look: &Look, name: &str, list: &[Scored], mass: f64) -> String {
    let first: Vec<String> = list.iter().take(6).map(|s| shown(&look.piece(s.id))).collect();
    let more = if list.len() > 6 { " ..." } else { "" };
    format!(
        "{} keeps {:>6} tokens, {:>6} of the probability: {}{more}",
        fit(name, 10),
        list.len(),
        percent(mass),
        first.join(" ")
    )
}

fn explain(out: &mut dyn Write, look: &Look, logits: &[f32], id: u32, why: &Why) -> std::io::Result<()> {
    let place = rank(logits, id).unwrap_or(0);
    writeln!(out, "\nwhy {}: logit {:.2}, place {place}", shown(&look.piece(id)), why.logit)?;
    writeln!(
        out,
        "  its row of W_U . the last vector = {:.3} x {:.2} x cos {:.1} deg = {:.3} x {:.2} x {:.4}",
        why.row_norm,
        why.vector_norm,
        why.cosine.clamp(-1.0, 1.0).acos().to_degrees(),
        why.row_norm,
        why.vector_norm,
        why.cosine
    )?;
    writeln!(out, "  cosine {}", bar(why.cosine.abs(), 40))
}

fn why_json(look: &Look, logits: &[f32], id: u32, why: &Why) -> serde_json::Value {
    json!({
        "id": id, "piece": look.piece(id), "logit": why.logit, "rank": rank(logits, id),
        "row_norm": why.row_norm, "vector_norm": why.vector_norm, "cosine": why.cosine,
    })
}
