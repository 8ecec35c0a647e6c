//! `gable look direction`: a meaning as a direction, and how much of it words have.

use super::Common;
use super::terminal::{bar, fit, signed};
use crate::options::usage;
use anyhow::Result;
use gable_model::look::{Direction, Word, leave_one_out};
use serde_json::json;

/// Options of `gable look direction`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable look direction cat:cats dog:dogs car:cars tree:trees \\\n      \
                        --test house:houses,bird:birds --score apple,apples,one,two,seven,ten\n  \
                        gable look direction man:woman king:queen boy:girl --score nurse,engineer,actress\n\n\
                        A score is the dot product of a word's vector with the direction, which has length 1.")]
pub struct DirectionArgs {
    /// Pairs FROM:TO; the direction is the mean of the differences
    #[arg(value_name = "FROM:TO", required = true)]
    pairs: Vec<String>,
    /// Words to measure
    #[arg(long, value_name = "WORD,...", value_delimiter = ',')]
    score: Vec<String>,
    /// Pairs that the direction is not made from: does it tell their words apart?
    #[arg(long, value_name = "FROM:TO,...", value_delimiter = ',')]
    test: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &DirectionArgs) -> Result<()> {
    let look = args.common.look()?;
    let read = |list: &[String]| -> Result<Vec<(Word, Word)>> {
        list.iter()
            .map(|pair| {
                let (from, to) = pair.split_once(':').ok_or_else(|| {
                    usage(format!("{pair:?} is no pair; write two words with a colon, e.g. cat:cats"))
                })?;
                Ok((look.word(from)?, look.word(to)?))
            })
            .collect()
    };
    let (pairs, tests) = (read(&args.pairs)?, read(&args.test)?);
    let vectors = look.pairs(&pairs)?;
    let direction = Direction::new(&vectors)?;
    let each = if vectors.len() > 1 { leave_one_out(&vectors)? } else { Vec::new() };
    let held_out: Vec<(f64, f64)> =
        look.pairs(&tests)?.iter().map(|(a, b)| (direction.score(a), direction.score(b))).collect();
    let mut scores = Vec::new();
    for word in &args.score {
        let word = look.word(word)?;
        scores.push((direction.score(&look.embedding(word.id)?), word));
    }
    scores.sort_by(|a, b| b.0.total_cmp(&a.0));
    let right = |list: &[bool]| list.iter().filter(|r| **r).count();
    let tested: Vec<bool> = held_out.iter().map(|(a, b)| b > a).collect();
    args.common.print(
        || {
            let test: Vec<_> = tests
                .iter()
                .zip(&held_out)
                .map(|((a, b), (x, y))| json!({ "from": a.text, "to": b.text, "scores": [x, y], "right": y > x }))
                .collect();
            let words: Vec<_> = scores.iter().map(|(x, w)| json!({ "word": w.text, "score": x })).collect();
            json!({
                "pairs": args.pairs, "length": direction.length, "middle": direction.middle,
                "leave_one_out": { "right": right(&each), "of": each.len() },
                "held_out": { "right": right(&tested), "of": tested.len(), "pairs": test }, "scores": words,
            })
        },
        |out, screen| {
            writeln!(
                out,
                "direction from {} pairs: mean difference of length {:.3}, middle at {}",
                pairs.len(),
                direction.length,
                signed(direction.middle, 3)
            )?;
            if !each.is_empty() {
                let (right, of) = (right(&each), each.len());
                writeln!(out, "each pair by the direction of the others: {right} of {of} right")?;
            }
            if !tests.is_empty() {
                writeln!(out, "held-out pairs: {} of {} right", right(&tested), tested.len())?;
                for ((a, b), (x, y)) in tests.iter().zip(&held_out) {
                    let verdict = if y > x { "" } else { "  wrong" };
                    let names = fit(&format!("{} : {}", a.text, b.text), 28);
                    writeln!(out, "  {names} {} : {}{verdict}", signed(*x, 3), signed(*y, 3))?;
                }
            }
            if !scores.is_empty() {
                writeln!(out, "\n{}", screen.strong("E(word) . direction, most first"))?;
                let widest = scores.iter().map(|(x, _)| x.abs()).fold(f64::MIN_POSITIVE, f64::max);
                for (x, word) in &scores {
                    let length = bar(x.abs() / widest, 20);
                    let (left, right) = if *x < 0.0 { (length, String::new()) } else { (String::new(), length) };
                    let left: String = left.chars().rev().collect();
                    writeln!(out, "  {} {} {left:>20}|{right}", fit(&word.text, 16), signed(*x, 3))?;
                }
            }
            Ok(())
        },
    )
}
