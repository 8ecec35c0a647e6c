//! `gable look lens`: a vector on its way to a word.

use super::terminal::{bar, fit, percent, shown};
use super::{OfText, guesses_json, guesses_line};
use crate::options::usage;
use anyhow::Result;
use gable_model::look::{lens_sites, top};
use serde_json::json;

/// Options of `gable look lens`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable look lens 'The capital of France is' --target Paris\n  \
    gable look lens --word creature 'a fluffy blue creature roamed the verdant forest'\n\n\
    After every layer the vector is put through the last norm and W_U, as if the model ended there. Early layers of \
    small models show punctuation: their vectors are not made to be read yet. Texts of at most 512 tokens; keeps 12 \
    bytes per token, layer and dimension.")]
pub struct LensArgs {
    /// A word whose place is followed; its first token counts [default: what the model says in the end]
    #[arg(long, value_name = "WORD")]
    target: Option<String>,
    /// The word whose vector is followed [default: the last token]
    #[arg(long, value_name = "WORD")]
    word: Option<String>,
    /// Guesses to show per layer
    #[arg(short, value_name = "N", default_value_t = 5)]
    k: usize,
    #[command(flatten)]
    of: OfText,
}

/// Runs the command.
pub fn run(args: &LensArgs) -> Result<()> {
    let (look, text, ids) = args.of.open()?;
    let (recording, logits) = look.record(&ids, lens_sites)?;
    let last = ids.len().saturating_sub(1);
    let position = match &args.word {
        Some(word) => look.find_word(&ids, word)?.end.saturating_sub(1),
        None => last,
    };
    let target = match &args.target {
        Some(word) => look.target(word)?,
        None if position == last => {
            top(&logits, 1, |_| true).first().map(|s| s.id).ok_or_else(|| usage("no prediction"))?
        }
        None => *ids.get(position.saturating_add(1)).unwrap_or(&0),
    };
    let layers = look.lens(&recording, position, Some(target), args.k)?;
    let piece = |id: u32| shown(&look.piece(id));
    args.of.common.print(
        || {
            let layers: Vec<_> = layers
                .iter()
                .map(|l| {
                    json!({
                        "layer": l.layer, "norm": l.norm, "attention": l.update.map(|u| u.attention),
                        "ffn": l.update.map(|u| u.ffn), "top": guesses_json(&look, &l.top),
                        "rank": l.target.map(|t| t.0), "p": l.target.map(|t| t.1),
                    })
                })
                .collect();
            json!({ "text": text, "position": position, "target": { "id": target, "piece": look.piece(target) },
                "layers": layers })
        },
        |out, screen| {
            let at = ids.get(position).map_or_else(String::new, |&id| piece(id));
            let title = format!("the vector of {at} on its way to {}", piece(target));
            writeln!(out, "{}", screen.strong(&title))?;
            // The bars go first where there is little room.
            let bars: usize = if screen.width < 70 { 0 } else { 8 };
            let update = fit("attention:ffn", bars.saturating_add(8));
            writeln!(out, "after   length  {update}     rank  probability  would say")?;
            for l in &layers {
                let share = l.update.map_or_else(String::new, |u| {
                    let attention = u.attention_share() * 100.0;
                    format!("{} {attention:>3.0}:{:<3.0}", fit(&bar(attention / 100.0, bars), bars), 100.0 - attention)
                });
                let (rank, p) = l.target.map_or((0, 0.0), |t| t);
                let line = format!(
                    "{:>5}  {:>7.1}  {}  {rank:>7}  {:>11}  {}",
                    l.layer,
                    l.norm,
                    fit(&share, bars.saturating_add(8)),
                    percent(p),
                    guesses_line(&look, &l.top)
                );
                writeln!(out, "{}", fit(&line, screen.width).trim_end())?;
            }
            Ok(())
        },
    )
}
