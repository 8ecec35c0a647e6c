//! `gable look order`: the same words in another order.

use super::terminal::fit;
use super::{Common, guesses_json, guesses_line};
use anyhow::Result;
use gable_model::look::{Distribution, Look, top};
use serde_json::json;

/// Options of `gable look order`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  gable look order 'dog bites man' 'man bites dog'\n\n\
    The embedding knows no positions: before the first layer each word is the same in both texts. Positions enter where \
    queries and keys are turned by them, and from there a word hears others at other distances, or not at all.")]
pub struct OrderArgs {
    /// A text
    first: String,
    /// The same words otherwise
    second: String,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &OrderArgs) -> Result<()> {
    let look = args.common.look()?;
    // A space before the first word makes it the same token as in the middle of a text.
    let spaced = |text: &str| look.encode(&format!(" {}", text.trim()));
    let (a, b) = (spaced(&args.first)?, spaced(&args.second)?);
    let shared = look.shared_words(&a, &b)?;
    if shared.is_empty() {
        return Err(crate::options::usage("the texts have no word in common"));
    }
    let next = [best(&look, &a)?, best(&look, &b)?];
    let n_layers = look.model().config().n_layers;
    let layers = [0, 1, n_layers / 4, n_layers / 2, n_layers.saturating_mul(3) / 4, n_layers];
    args.common.print(
        || {
            let words: Vec<_> = shared
                .iter()
                .map(|w| json!({ "word": w.text, "places": w.places, "cosines": w.cosines }))
                .collect();
            json!({
                "first": args.first, "second": args.second, "words": words,
                "next_first": guesses_json(&look, &next[0]), "next_second": guesses_json(&look, &next[1]),
            })
        },
        |out, screen| {
            let heads: Vec<String> = layers.iter().map(|l| format!("{:>6}", format!("L{l}"))).collect();
            let title = format!("{} place   cosine after layer\n{}", fit("word", 14), " ".repeat(20));
            writeln!(out, "{}{}", screen.strong(&title), heads.join(" "))?;
            for word in &shared {
                let [x, y] = word.places.map(|p| p.saturating_add(1));
                let cells: Vec<String> = layers
                    .iter()
                    .map(|l| format!("{:>6.3}", word.cosines.get(*l).copied().unwrap_or(0.0)))
                    .collect();
                writeln!(out, "{} {x}, {y}  {}", fit(&word.text, 14), cells.join(" "))?;
            }
            for (text, next) in [&args.first, &args.second].into_iter().zip(&next) {
                let line = format!("{text} ...  {}", guesses_line(&look, next));
                writeln!(out, "\n{}", fit(&line, screen.width).trim_end())?;
            }
            Ok(())
        },
    )
}

fn best(look: &Look, ids: &[u32]) -> Result<Vec<(u32, f64)>> {
    let logits = look.next_logits(ids)?;
    let p = Distribution::new(&logits, 1.0);
    Ok(top(&logits, 5, |_| true).iter().map(|s| (s.id, p.of(s.id))).collect())
}
