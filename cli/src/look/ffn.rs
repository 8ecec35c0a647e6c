//! `gable look ffn`: the questions of a feed-forward layer.

use super::terminal::{fit, shown, signed};
use super::{OfText, scored_json, scored_line};
use anyhow::Result;
use serde_json::json;

/// Options of `gable look ffn`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    gable look ffn -l 20 --word creature 'a fluffy blue creature roamed the verdant forest'\n\n\
    A feed-forward layer does the same to every token, without looking at the others: each inner row asks its question \
    of the vector, and writes its answer into it. \"fires on\" shows the other tokens of the text that said yes. Texts \
    of at most 512 tokens; keeps 4 bytes per token and inner row of the layer.")]
pub struct FfnArgs {
    /// The layer, from 0
    #[arg(short, long, value_name = "N")]
    layer: usize,
    /// The word that is asked [default: the last token]
    #[arg(long, value_name = "WORD")]
    word: Option<String>,
    /// Rows to show
    #[arg(short = 'n', long, value_name = "N", default_value_t = 6)]
    top: usize,
    /// Words to show of each
    #[arg(short, value_name = "N", default_value_t = 6)]
    k: usize,
    #[command(flatten)]
    of: OfText,
}

/// Runs the command.
pub fn run(args: &FfnArgs) -> Result<()> {
    let (look, _, ids) = args.of.open()?;
    let position = match &args.word {
        Some(word) => look.find_word(&ids, word)?.end.saturating_sub(1),
        None => ids.len().saturating_sub(1),
    };
    let neurons = look.neurons(&ids, args.layer, position, args.top, args.k)?;
    let piece = |i: usize| ids.get(i).map_or_else(String::new, |&id| look.piece(id));
    args.of.common.print(
        || {
            let list: Vec<_> = neurons
                .iter()
                .map(|n| {
                    json!({
                        "row": n.index, "activation": n.activation, "everywhere": n.everywhere,
                        "asks": scored_json(&look, &n.asks), "writes": scored_json(&look, &n.writes),
                    })
                })
                .collect();
            let pieces: Vec<String> = (0..ids.len()).map(piece).collect();
            json!({ "layer": args.layer, "position": position, "pieces": pieces, "rows": list })
        },
        |out, screen| {
            let d_ff = look.model().config().d_ff;
            let title = format!(
                "layer {}: the rows of {d_ff} that fire most on {}",
                args.layer,
                shown(&piece(position))
            );
            writeln!(out, "{}", screen.strong(&title))?;
            for n in &neurons {
                writeln!(out, "\nrow {:>5}  {}", n.index, signed(f64::from(n.activation), 2))?;
                let mut others: Vec<(usize, f32)> = n
                    .everywhere
                    .iter()
                    .copied()
                    .enumerate()
                    .filter(|(i, x)| *i != position && x.signum() == n.activation.signum())
                    .collect();
                others.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
                let others: Vec<String> = others
                    .iter()
                    .take(5)
                    .map(|(i, x)| format!("{} {}", shown(&piece(*i)), signed(f64::from(*x), 2)))
                    .collect();
                for (name, list) in [
                    ("asks for", scored_line(&look, &n.asks)),
                    ("fires on", others.join("  ")),
                    ("writes", scored_line(&look, &n.writes)),
                ] {
                    let line = format!("  {} {list}", fit(name, 8));
                    writeln!(out, "{}", fit(&line, screen.width).trim_end())?;
                }
            }
            Ok(())
        },
    )
}
