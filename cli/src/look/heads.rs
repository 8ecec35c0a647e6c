//! `gable look heads`: which heads link words, with a control, and what the best of them writes.

use super::terminal::{bar, fit, shown};
use super::{OfText, scored_json, scored_line};
use anyhow::Result;
use gable_model::look::HeadLink;
use serde_json::json;

/// Options of `gable look heads`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    gable look heads --from creature --to fluffy,blue 'a fluffy blue creature roamed the verdant forest'\n\n\
    Heads are ordered by the weakest of the wanted links: one that asks \"any adjectives before me?\" finds them all. \
    Control: a head that looks at whatever stands before (mean weight 0.5 or more) is marked and comes last, as is one \
    that rests on the first token. Texts of at most 512 tokens; keeps one layer's weights at a time.")]
pub struct HeadsArgs {
    /// The word that listens
    #[arg(long, value_name = "WORD")]
    from: String,
    /// The words it is to listen to
    #[arg(long, value_name = "WORD,...", value_delimiter = ',', required = true)]
    to: Vec<String>,
    /// Heads to show
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    top: usize,
    #[command(flatten)]
    of: OfText,
}

/// Why a head's links mean little.
fn mark(head: &HeadLink) -> &'static str {
    if head.is_previous_token_head() {
        "previous token"
    } else if head.is_first_token_head() {
        "first token"
    } else {
        ""
    }
}

/// Runs the command.
pub fn run(args: &HeadsArgs) -> Result<()> {
    let (look, _, ids) = args.of.open()?;
    let from = look.find_word(&ids, &args.from)?;
    let mut to = Vec::new();
    for word in &args.to {
        to.push(look.find_word(&ids, word)?);
    }
    let mut heads = look.heads(&ids, &from, &to)?;
    // What the control marks comes last; each part keeps its order.
    heads.sort_by_key(|head| !mark(head).is_empty());
    let listening = from.end.saturating_sub(1);
    let best = heads.first().cloned();
    let written = match &best {
        Some(best) => {
            let pattern = look.head_pattern(&ids, best.layer, best.head)?;
            look.written(&ids, &pattern, listening, 5)?
        }
        None => Vec::new(),
    };
    let piece = |i: usize| ids.get(i).map_or_else(String::new, |&id| look.piece(id));
    let marked: Vec<&HeadLink> = heads.iter().filter(|h| h.is_previous_token_head()).collect();
    args.of.common.print(
        || {
            let heads: Vec<_> = heads
                .iter()
                .map(|h| {
                    json!({
                        "layer": h.layer, "head": h.head, "links": h.links, "weakest": h.weakest,
                        "previous": h.previous, "first": h.first, "mark": mark(h),
                    })
                })
                .collect();
            let written: Vec<_> = written
                .iter()
                .map(|w| {
                    json!({
                        "position": w.position, "piece": piece(w.position), "weight": w.weight,
                        "norm": w.norm, "words": scored_json(&look, &w.words),
                    })
                })
                .collect();
            json!({ "from": args.from, "to": args.to, "heads": heads, "written": written })
        },
        |out, screen| {
            let title = format!("{} listens to {}", args.from, args.to.join(", "));
            writeln!(out, "{}", screen.strong(&title))?;
            writeln!(out, "layer head  weakest  links                 previous  first")?;
            let row = |h: &HeadLink| {
                let links: Vec<String> = h.links.iter().map(|w| format!("{w:.3}")).collect();
                format!(
                    "{:>5} {:>4}  {:>7.3}  {} {:>8.3}  {:>5.3}  {}",
                    h.layer,
                    h.head,
                    h.weakest,
                    fit(&links.join(" "), 20),
                    h.previous,
                    h.first,
                    mark(h)
                )
            };
            for head in heads.iter().filter(|h| mark(h).is_empty()).take(args.top) {
                writeln!(out, "{}", row(head))?;
            }
            writeln!(out, "\nleft out, for they look at whatever stands before ({} heads):", marked.len())?;
            let mut strongest = marked.clone();
            strongest.sort_by(|a, b| b.previous.total_cmp(&a.previous));
            for head in strongest.iter().take(args.top.min(6)) {
                writeln!(out, "{}", row(head))?;
            }
            if let Some(best) = &best {
                let title = format!(
                    "\nwhat each token wrote into {} through layer {}, head {}: weight x W_O v",
                    shown(&piece(listening)),
                    best.layer,
                    best.head
                );
                writeln!(out, "{}", screen.strong(&title))?;
                let longest = written.iter().map(|w| w.norm).fold(f64::MIN_POSITIVE, f64::max);
                for w in &written {
                    let name = fit(&shown(&piece(w.position)), 14);
                    let line = format!(
                        "{name} weight {:.3}  length {:>6.2} {} {}",
                        w.weight,
                        w.norm,
                        fit(&bar(w.norm / longest, 8), 8),
                        scored_line(&look, &w.words)
                    );
                    writeln!(out, "{}", fit(&line, screen.width).trim_end())?;
                }
            }
            Ok(())
        },
    )
}
