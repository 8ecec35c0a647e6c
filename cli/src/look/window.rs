//! `gable look window`: how much of a text a guess needs, and where the last token looks.

use super::terminal::{bar, fit, percent, shown};
use super::{Common, guesses_json, guesses_line};
use crate::options::read_text;
use anyhow::Result;
use gable_model::look::group_words;
use serde_json::json;
use std::path::PathBuf;

/// Options of `gable look window`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  gable look window story.txt --target Rodger\n\n\
    where story.txt ends in \"Therefore, the murderer was the\" (white space at its end is cut off). The whole story \
    has to end up in the last vector, for only that one is made into the guess. Holds 4 bytes per layer and token.")]
pub struct WindowArgs {
    /// A text file; `-` is stdin
    file: PathBuf,
    /// The word that is to come; its first token counts
    #[arg(long, value_name = "WORD")]
    target: String,
    /// Words to show of where the last token looks
    #[arg(short = 'n', long, value_name = "N", default_value_t = 12)]
    top: usize,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &WindowArgs) -> Result<()> {
    let text = read_text(&args.file)?;
    let look = args.common.look()?;
    let ids = look.encode(text.trim_end())?;
    let target = look.target(&args.target)?;
    let visible = look.visible(&ids, target, 4)?;
    let layers = look.last_row(&ids)?;
    let words = group_words(look.model().tokenizer(), &ids);
    // Mean over the layers; what rests on the first token is told apart.
    let share = |position: usize| -> f32 {
        let sum: f32 = layers.iter().filter_map(|row| row.get(position)).sum();
        sum / layers.len().max(1) as f32
    };
    let sink = share(0);
    let mut looks: Vec<(String, usize, f32)> = words
        .iter()
        .filter(|range| range.start > 0)
        .map(|range| {
            let pieces = ids.get(range.clone()).unwrap_or_default();
            let name: String = pieces.iter().map(|&id| look.piece(id)).collect();
            (name, range.start, range.clone().map(share).sum())
        })
        .collect();
    looks.sort_by(|a, b| b.2.total_cmp(&a.2));
    args.common.print(
        || {
            let visible: Vec<_> = visible
                .iter()
                .map(|v| {
                    json!({ "tokens": v.tokens, "rank": v.target.0, "p": v.target.1, "top": guesses_json(&look, &v.top) })
                })
                .collect();
            let looks: Vec<_> =
                looks.iter().map(|(w, at, x)| json!({ "word": w, "position": at, "weight": x })).collect();
            json!({ "target": look.piece(target), "tokens": ids.len(), "visible": visible,
                "first_token": sink, "looks": looks, "layers": layers })
        },
        |out, screen| {
            let title = format!("how likely {} is when the last tokens are all there is", shown(&look.piece(target)));
            writeln!(out, "{}", screen.strong(&title))?;
            writeln!(out, "tokens     rank  probability           would say")?;
            for v in &visible {
                let line = format!(
                    "{:>6}  {:>7}  {:>7} {}  {}",
                    v.tokens,
                    v.target.0,
                    percent(v.target.1),
                    fit(&bar(v.target.1, 12), 12),
                    guesses_line(&look, &v.top)
                );
                writeln!(out, "{}", fit(&line, screen.width).trim_end())?;
            }
            let title = format!(
                "\nwhere the last token looks (mean of all heads and layers; {:.0} % rest on the first token)",
                sink * 100.0
            );
            writeln!(out, "{}", screen.strong(&title))?;
            let most = looks.first().map_or(f32::MIN_POSITIVE, |l| l.2);
            for (word, at, weight) in looks.iter().take(args.top) {
                let length = bar(f64::from(weight / most), 30);
                writeln!(out, "{} token {at:>5}  {:>6} {length}", fit(&shown(word.trim()), 18), percent(f64::from(*weight)))?;
            }
            Ok(())
        },
    )
}
