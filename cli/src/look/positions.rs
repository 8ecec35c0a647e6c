//! `gable look positions`: the guess at every position of a text.

use super::terminal::{fit, percent, shown};
use super::{OfText, guesses_json, guesses_line};
use crate::statistics::mean_and_deviation;
use anyhow::Result;
use gable_model::look::Guess;
use serde_json::json;
use std::ops::ControlFlow;

/// Options of `gable look positions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable look positions 'Once upon a time, there was a little girl'\n  \
    gable look positions -f text.txt --json\n\n\
    Every vector predicts what comes right behind it, not only the last: that is how a model learns from all of a text \
    at once. The mean of -ln p equals what `gable perplexity --whole` measures. Holds 32 rows of logits.")]
pub struct PositionsArgs {
    /// Guesses to show per position
    #[arg(short, value_name = "N", default_value_t = 3)]
    k: usize,
    #[command(flatten)]
    of: OfText,
}

/// Runs the command.
pub fn run(args: &PositionsArgs) -> Result<()> {
    let (look, _, ids) = args.of.open()?;
    let mut guesses: Vec<Guess> = Vec::new();
    look.positions(&ids, args.k, &mut |guess| {
        guesses.push(guess);
        ControlFlow::Continue(())
    })?;
    let nll: Vec<f64> = guesses.iter().filter_map(Guess::nll).collect();
    let (mean, _) = mean_and_deviation(&nll);
    let scored = nll.len();
    args.of.common.print(
        || {
            let list: Vec<_> = guesses
                .iter()
                .map(|g| {
                    json!({
                        "position": g.position, "id": g.id, "piece": look.piece(g.id), "next": g.next,
                        "rank": g.found.map(|f| f.0), "p": g.found.map(|f| f.1), "entropy": g.entropy,
                        "top": guesses_json(&look, &g.top),
                    })
                })
                .collect();
            json!({ "positions": list, "scored": scored, "nll": mean, "ppl": mean.exp() })
        },
        |out, screen| {
            writeln!(
                out,
                "{}",
                screen.strong("behind            came             p        rank   bits  expected")
            )?;
            for g in &guesses {
                let name = |id: Option<u32>| id.map_or_else(|| "?".to_owned(), |id| shown(&look.piece(id)));
                let (rank, p) = match g.found {
                    Some((rank, p)) => (rank.to_string(), percent(p)),
                    None => (String::new(), String::new()),
                };
                #[expect(clippy::cast_possible_truncation, reason = "a share")]
                let heat = g.found.map_or(0.0, |(_, p)| p as f32);
                let line = format!("{rank:>7}  {:>5.1}  {}", g.entropy, guesses_line(&look, &g.top));
                writeln!(
                    out,
                    "{}  {} {} {}",
                    fit(&name(Some(g.id)), 16),
                    fit(&name(g.next), 14),
                    screen.heat(&format!("{p:>7}"), heat),
                    fit(&line, screen.width.saturating_sub(41)).trim_end()
                )?;
            }
            if scored > 0 {
                writeln!(
                    out,
                    "\n{scored} tokens scored: mean -ln p = {mean:.5}, perplexity {:.4}",
                    mean.exp()
                )?;
            }
            Ok(())
        },
    )
}
