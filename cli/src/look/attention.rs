//! `gable look attention`: one head over a text.

use super::svg::heat_map;
use super::terminal::{Screen, fit, shown, signed};
use super::{OfText, write_file};
use anyhow::Result;
use gable_model::look::{HeadPattern, Look, group_words, merge_words};
use serde_json::json;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;

/// Options of `gable look attention`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    gable look attention -l 10 -H 6 'a fluffy blue creature roamed the verdant forest' --word creature\n  \
    gable look attention -l 16 -H 0 --pieces --hide-sink -f text.txt --svg head.svg\n\n\
    Rows listen, columns are listened to; a row adds up to one. Many heads rest on the first token (the sink) when they \
    have nothing to say: --hide-sink leaves its column out. Texts of at most 512 tokens; keeps 8 bytes per head of the \
    layer and pair of tokens while it runs.")]
pub struct AttentionArgs {
    /// The layer, from 0
    #[arg(short, long, value_name = "N")]
    layer: usize,
    /// The head, from 0
    #[arg(short = 'H', long, value_name = "N")]
    head: usize,
    /// The word whose query, scores and weights are shown in numbers [default: the last]
    #[arg(long, value_name = "WORD")]
    word: Option<String>,
    /// Shows pieces, not words joined from them
    #[arg(long)]
    pieces: bool,
    /// Leaves out the column of the first token
    #[arg(long)]
    hide_sink: bool,
    /// Draws the heat map into a file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    of: OfText,
}

/// Runs the command.
pub fn run(args: &AttentionArgs) -> Result<()> {
    let (look, _, ids) = args.of.open()?;
    let pattern = look.head_pattern(&ids, args.layer, args.head)?;
    let last = ids.len().saturating_sub(1);
    let listening = match &args.word {
        Some(word) => look.find_word(&ids, word)?.end.saturating_sub(1),
        None => last,
    };
    let words: Vec<Range<usize>> = if args.pieces {
        (0..ids.len()).map(|i| i..i.saturating_add(1)).collect()
    } else {
        group_words(look.model().tokenizer(), &ids)
    };
    let names: Vec<String> = words.iter().map(|range| name(&look, &ids, range)).collect();
    let mut merged = merge_words(&pattern.weights, &words);
    let sink = mean_on_first(&merged);
    if args.hide_sink {
        merged.iter_mut().for_each(|row| row.iter_mut().take(1).for_each(|first| *first = 0.0));
    }
    if let Some(path) = &args.svg {
        let hidden = if args.hide_sink { ", first token hidden" } else { "" };
        let title = format!("layer {}, head {}{hidden}", args.layer, args.head);
        write_file(path, &heat_map(&title, &names, &merged))?;
    }
    let pieces: Vec<String> = ids.iter().map(|&id| look.piece(id)).collect();
    args.of.common.print(
        || {
            // -inf is no JSON: positions that a row does not see are left out.
            let visible: Vec<&[f32]> = pattern
                .scores
                .iter()
                .enumerate()
                .map(|(i, row)| row.get(..i.saturating_add(1)).unwrap_or_default())
                .collect();
            json!({
                "layer": args.layer, "head": args.head, "ids": ids, "pieces": pieces, "q": pattern.q,
                "k": pattern.k, "scores": visible, "weights": pattern.weights,
                "words": names, "word_weights": merged, "mean_on_first": sink,
            })
        },
        |out, screen| {
            writeln!(out, "{}", screen.strong(&format!("layer {}, head {}", args.layer, args.head)))?;
            let hidden = if args.hide_sink { " (hidden below)" } else { "" };
            writeln!(out, "{:.0} % of the weight lies on the first token{hidden}\n", sink * 100.0)?;
            picture(out, screen, &names, &merged)?;
            row(out, screen, &pieces, &pattern, listening)
        },
    )
}

/// A word's text, its pieces joined.
fn name(look: &Look, ids: &[u32], range: &Range<usize>) -> String {
    ids.get(range.clone()).unwrap_or_default().iter().map(|&id| look.piece(id)).collect()
}

/// Mean weight on the first column over all rows but the first.
fn mean_on_first(weights: &[Vec<f32>]) -> f32 {
    let rows = weights.get(1..).unwrap_or_default();
    rows.iter().filter_map(|row| row.first()).sum::<f32>() / rows.len().max(1) as f32
}

/// The heat map: numbers where there is room for them, shades where not.
fn picture(
    out: &mut dyn Write,
    screen: &Screen,
    names: &[String],
    weights: &[Vec<f32>],
) -> std::io::Result<()> {
    const SHADES: [&str; 5] = [" ", "\u{2591}", "\u{2592}", "\u{2593}", "\u{2588}"];
    let label = names.iter().map(|n| console::measure_text_width(n.trim())).max().unwrap_or(1).clamp(4, 14);
    let room = screen.width.saturating_sub(label.saturating_add(5)) / names.len().max(1);
    if room == 0 {
        let words = names.len();
        return writeln!(
            out,
            "{words} words do not fit this terminal; --svg FILE and `gable look report` draw them"
        );
    }
    let cell = room.min(5);
    let highest = weights.iter().flatten().copied().fold(f32::MIN_POSITIVE, f32::max);
    if cell >= 4 {
        let heads: Vec<String> = (0..names.len()).map(|j| format!("{j:>cell$}")).collect();
        writeln!(out, "{}{}", " ".repeat(label.saturating_add(4)), heads.concat())?;
    }
    for (i, (name, row)) in names.iter().zip(weights).enumerate() {
        let name = fit(&shown(name.trim()), label);
        write!(out, "{i:>3} {name}")?;
        for weight in row.iter().take(i.saturating_add(1)) {
            let share = weight / highest;
            let text = if cell >= 4 {
                fit(&format!(" {}", format!("{weight:.2}").trim_start_matches('0')), cell)
            } else {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "five shades")]
                let shade = (share.clamp(0.0, 1.0) * 4.0).ceil() as usize;
                SHADES.get(shade).unwrap_or(&" ").repeat(cell)
            };
            write!(out, "{}", screen.heat(&text, share))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// One query against all keys: scores and their softmax.
fn row(
    out: &mut dyn Write,
    screen: &Screen,
    pieces: &[String],
    pattern: &HeadPattern,
    listening: usize,
) -> std::io::Result<()> {
    let numbers = |v: Option<&Vec<f32>>| {
        let first = v.into_iter().flatten().take(4);
        let list: Vec<String> = first.map(|x| signed(f64::from(*x), 2)).collect();
        format!("[{} ...]", list.join(" "))
    };
    let piece = |i: usize| pieces.get(i).map_or_else(String::new, |p| shown(p));
    writeln!(out, "\n{}", screen.strong(&format!("what {} (token {listening}) asks", piece(listening))))?;
    writeln!(out, "q = {}", numbers(pattern.q.get(listening)))?;
    writeln!(out, "{}", fit("token            k                              score  softmax", screen.width))?;
    let scores = pattern.scores.get(listening).into_iter().flatten();
    let weights = pattern.weights.get(listening).into_iter().flatten();
    for (j, (score, weight)) in scores.zip(weights).enumerate().take(listening.saturating_add(1)) {
        let (name, key) = (fit(&piece(j), 16), fit(&numbers(pattern.k.get(j)), 29));
        if *score == f32::NEG_INFINITY {
            writeln!(out, "{name} {key}     -inf   0.000  beyond the window")?;
        } else {
            let room = screen.width.saturating_sub(66).min(30);
            writeln!(
                out,
                "{name} {key} {:>8.2}   {weight:.3}  {}",
                score,
                super::terminal::bar(f64::from(*weight), room)
            )?;
        }
    }
    Ok(())
}
