//! `gable look tokens`: a text as the pieces that a model sees.

use super::OfText;
use super::terminal::{fit, shown};
use anyhow::Result;
use gable_model::look::group_words;
use serde_json::json;

/// Options of `gable look tokens`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gable look tokens 'a fluffy blue creature roamed the verdant forest'\n  \
                        gable look tokens -m gemma3 --json -f text.txt\n\n\
                        Patches of text only: models of sound and pictures are not read here."
)]
pub struct TokensArgs {
    #[command(flatten)]
    of: OfText,
}

/// Runs the command.
pub fn run(args: &TokensArgs) -> Result<()> {
    let (look, text, ids) = args.of.open()?;
    let tokenizer = look.model().tokenizer();
    let words = group_words(tokenizer, &ids);
    args.of.common.print(
        || {
            let tokens: Vec<_> = ids
                .iter()
                .map(|&id| json!({ "id": id, "piece": look.piece(id), "bytes": tokenizer.piece(id) }))
                .collect();
            json!({ "text": text, "tokens": tokens, "words": words.iter().map(|w| [w.start, w.end]).collect::<Vec<_>>() })
        },
        |out, screen| {
            writeln!(out, "{}", screen.strong("position      id  piece               bytes"))?;
            for (i, &id) in ids.iter().enumerate() {
                let bytes: Vec<String> = tokenizer.piece(id).iter().map(|b| format!("{b:02x}")).collect();
                writeln!(out, "{i:>8} {id:>7}  {} {}", fit(&shown(&look.piece(id)), 19), bytes.join(" "))?;
            }
            let round_trip = tokenizer.decode(&ids) == text;
            writeln!(
                out,
                "\n{} tokens, {} words; decoding them gives {}",
                ids.len(),
                words.len(),
                if round_trip { "the text again" } else { "another text (control tokens, or spaces)" }
            )
        },
    )
}
