//! `gable look vector`: a word's row of the embedding matrix.

use super::terminal::{bar, fit, shown, signed};
use super::{Common, scored_json};
use anyhow::Result;
use gable_model::look::norm;
use serde_json::json;

/// Options of `gable look vector`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable look vector king\n  gable look vector king --all --json\n  \
                        gable look vector -m gemma3 niece -k 20")]
pub struct VectorArgs {
    /// A word with a token of its own
    word: String,
    /// Neighbours to show
    #[arg(short, value_name = "N", default_value_t = 10)]
    k: usize,
    /// Prints every number, not the first eight
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &VectorArgs) -> Result<()> {
    let look = args.common.look()?;
    let word = look.word(&args.word)?;
    let vector = look.embedding(word.id)?;
    let near = look.embeddings()?.nearest(&vector, args.k, &[word.id])?;
    let matrix = &look.model().weights().embedding;
    let count = if args.all { vector.len() } else { 8 };
    let tied = look.model().weights().output.is_none();
    args.common.print(
        || {
            json!({
                "word": word.text, "id": word.id, "piece": look.piece(word.id), "norm": norm(&vector),
                "vector": vector, "nearest": scored_json(&look, &near),
                "matrix": { "rows": matrix.rows(), "cols": matrix.cols(), "type": matrix.format().name(),
                    "parameters": matrix.rows().saturating_mul(matrix.cols()), "tied": tied },
            })
        },
        |out, screen| {
            let parameters = matrix.rows().saturating_mul(matrix.cols());
            writeln!(
                out,
                "W_E: {} words x {} dimensions = {parameters} parameters, {}, {} bytes{}",
                matrix.rows(),
                matrix.cols(),
                matrix.format().name(),
                matrix.n_bytes(),
                if tied { "; W_U is the same matrix (tied)" } else { "" }
            )?;
            writeln!(
                out,
                "E({}): row {}, length {:.4}",
                shown(&look.piece(word.id)),
                word.id,
                norm(&vector)
            )?;
            let numbers: Vec<String> = vector.iter().take(count).map(|x| signed(f64::from(*x), 4)).collect();
            let rest = if args.all { "" } else { " ..." };
            writeln!(out, "  [{}{rest}]", numbers.join(" "))?;
            writeln!(out, "\n{}", screen.strong("nearest words (cosine)"))?;
            for s in &near {
                let name = fit(&shown(&look.piece(s.id)), 20);
                writeln!(out, "  {name} {:.3} {}", s.score, bar(f64::from(s.score), 30))?;
            }
            Ok(())
        },
    )
}
