//! `gable look analogy`: sums and differences of words.

use super::svg::parallelogram;
use super::terminal::{bar, fit, shown, signed};
use super::{Common, scored_json, write_file};
use anyhow::Result;
use gable_model::look::{Analogy, Expression, Look, Word};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Rows of `W_E` that are shown.
const DIMENSIONS: usize = 6;

/// Options of `gable look analogy`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gable look analogy 'king - man + woman'\n  \
                  gable look analogy 'king - man + woman = queen' --svg queen.svg\n  \
                  gable look analogy 'Rome + Germany = Berlin + Italy'\n  \
                  gable look analogy -m gemma3 'uncle - man + woman'\n\n\
                  Answers are the words nearest by cosine, those of the expression left out in every spelling. It does not always work: \
                  try 'sushi - Japan + Italy = pizza'.",
    allow_negative_numbers = true
)]
pub struct AnalogyArgs {
    /// Words with + and - between them, and at most one =
    #[arg(allow_hyphen_values = true)]
    expression: String,
    /// Answers to show
    #[arg(short, value_name = "N", default_value_t = 8)]
    k: usize,
    /// Draws the parallelogram into a file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &AnalogyArgs) -> Result<()> {
    let look = args.common.look()?;
    let expression = look.expression(&args.expression)?;
    let analogy = look.analogy(&expression, args.k)?;
    if let Some(path) = &args.svg {
        let Some(picture) = &analogy.picture else {
            return Err(crate::options::usage(
                "a parallelogram needs four words in all, two on each side once signs are moved: \
                 'a - b + c', or 'a + b = c + d'",
            ));
        };
        write_file(path, &parallelogram(picture))?;
    }
    let words = words(&expression, &analogy, &look);
    let mut columns = Vec::new();
    for word in &words {
        columns.push(look.embedding(word.id)?);
    }
    args.common.print(
        || {
            let steps: Vec<_> = analogy
                .steps
                .iter()
                .map(|(words, cos)| json!({ "words": words.each_ref().map(|w| &w.text), "cosine": cos }))
                .collect();
            let picture = analogy.picture.as_ref().map(|p| {
                json!({ "corners": p.corners.each_ref().map(|w| &w.text), "points": p.points, "kept": p.kept })
            });
            json!({
                "expression": args.expression, "answers": scored_json(&look, &analogy.answers),
                "cosine_of_sides": analogy.sides, "rank_of_right": analogy.rank, "steps": steps,
                "picture": picture,
            })
        },
        |out, screen| {
            if expression.right.is_empty() || analogy.rank.is_some() {
                writeln!(out, "{}", screen.strong(&side(&expression.left)))?;
                for (i, s) in analogy.answers.iter().enumerate() {
                    let name = fit(&shown(&look.piece(s.id)), 20);
                    let place = i.saturating_add(1);
                    writeln!(out, "{place:>4}  {name} {:.3} {}", s.score, bar(f64::from(s.score), 30))?;
                }
            }
            if let Some(cosine) = analogy.sides {
                let sides = [side(&expression.left), side(&expression.right)];
                writeln!(out, "cos({}, {}) = {cosine:.3}", sides[0], sides[1])?;
            }
            if let Some(rank) = analogy.rank {
                writeln!(out, "{} is answer number {rank}", side(&expression.right))?;
            }
            for ([a, b, c, d], cosine) in &analogy.steps {
                let [a, b, c, d] = [a, b, c, d].map(|w| &w.text);
                writeln!(out, "cos({a} - {b}, {c} - {d}) = {cosine:.3}")?;
            }
            if let Some(picture) = &analogy.picture {
                let kept = picture.kept * 100.0;
                writeln!(out, "the plane of both steps holds {kept:.0} % of the figure; --svg FILE draws it")?;
            }
            matrix(out, &words, &columns)
        },
    )
}

/// The expression's words and the first answer, each once.
fn words(expression: &Expression, analogy: &Analogy, look: &Look) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let answer = analogy.answers.first().filter(|_| expression.right.is_empty());
    let answer = answer.map(|s| Word { text: look.piece(s.id).trim().to_owned(), id: s.id });
    let all = expression.left.iter().chain(&expression.right).map(|(_, word)| word.clone());
    for word in all.chain(answer) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

fn side(terms: &[(f32, Word)]) -> String {
    let mut text = String::new();
    for (i, (sign, word)) in terms.iter().enumerate() {
        text.push_str(match (i, *sign < 0.0) {
            (0, false) => "",
            (0, true) => "-",
            (_, false) => " + ",
            (_, true) => " - ",
        });
        text.push_str(&word.text);
    }
    text
}

/// Words as columns of `W_E`, a few dimensions as rows.
fn matrix(out: &mut dyn Write, words: &[Word], columns: &[Vec<f32>]) -> std::io::Result<()> {
    let names: Vec<String> = words.iter().map(|w| fit(&w.text, 9)).collect();
    let all = columns.first().map_or(0, Vec::len);
    writeln!(out, "\nW_E, a column per word ({DIMENSIONS} of {all} dimensions)\n    {}", names.join(" "))?;
    for row in 0..DIMENSIONS.min(all) {
        let value = |c: &Vec<f32>| fit(&signed(f64::from(c.get(row).copied().unwrap_or(0.0)), 4), 9);
        let values: Vec<String> = columns.iter().map(value).collect();
        writeln!(out, "  [ {}]", values.join(" "))?;
    }
    Ok(())
}
