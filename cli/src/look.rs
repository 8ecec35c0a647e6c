//! `gable look`: what a model's vectors mean, and what happens inside a forward pass.
//!
//! The computations are those of [`gable_model::look`]; a file here asks one question and prints the answer.

mod analogy;
mod attention;
mod context;
mod direction;
mod ffn;
mod heads;
mod lens;
mod next;
mod order;
mod positions;
mod report;
mod step;
mod story;
pub mod svg;
pub mod terminal;
mod tokens;
mod vector;
mod window;

use crate::options::{ModelArgs, NumericsName, PromptArgs, ThreadArgs, usage};
use anyhow::Result;
use clap::Subcommand;
use gable_kernels::{Kernels, Pool};
use gable_model::RunError;
use gable_model::look::{Look, Scored};
use gable_model::model::Model;
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::sync::Arc;
use terminal::Screen;

const EXAMPLES: &str = "Examples:\n  gable look tokens 'a fluffy blue creature roamed the verdant forest'\n  \
    gable look analogy 'king - man + woman'\n  \
    gable look lens 'The capital of France is'\n  \
    gable look report 'a fluffy blue creature roamed the verdant forest' -o look.html\n\n\
    Memory: weights stay in the mapped file and are read a row or a panel at a time. Beside what a \
    run takes (cache, one row of logits), a search takes 4 bytes per token of the vocabulary and vector, at most 16 \
    vectors at a time; a recorded pass keeps 4 bytes per value it shows, of texts of at most 512 tokens.";

/// Options of `gable look`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, subcommand_required = true)]
pub struct LookArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A text in pieces: ids and bytes
    Tokens(tokens::TokensArgs),
    /// A word's vector: its row of the embedding matrix, and its neighbours
    Vector(vector::VectorArgs),
    /// Sums of words: "king - man + woman", "Rome + Germany = Berlin + Italy"
    Analogy(analogy::AnalogyArgs),
    /// A meaning as a direction, from pairs of words: how plural is a word?
    Direction(direction::DirectionArgs),
    /// One head: queries, keys, scores, and who listens to whom
    Attention(attention::AttentionArgs),
    /// Which heads link two words, and what they write
    Heads(heads::HeadsArgs),
    /// The same word in several texts, layer by layer
    Context(context::ContextArgs),
    /// The same words in another order: what position does
    Order(order::OrderArgs),
    /// What the model would say after each layer
    Lens(lens::LensArgs),
    /// The guess at every position of a text
    Positions(positions::PositionsArgs),
    /// The next token at several temperatures, and why
    Next(next::NextArgs),
    /// Whole continuations at several temperatures, side by side
    Story(story::StoryArgs),
    /// The prediction loop, one token at a time
    Step(step::StepArgs),
    /// What a feed-forward layer asks and writes
    Ffn(ffn::FfnArgs),
    /// How much of a text a guess needs, and where the last token looks
    Window(window::WindowArgs),
    /// All of it on one page: a single HTML file that works offline
    Report(report::ReportArgs),
}

/// Runs the command.
pub fn run(args: &LookArgs) -> Result<()> {
    let result = match &args.what {
        What::Tokens(args) => tokens::run(args),
        What::Vector(args) => vector::run(args),
        What::Analogy(args) => analogy::run(args),
        What::Direction(args) => direction::run(args),
        What::Attention(args) => attention::run(args),
        What::Heads(args) => heads::run(args),
        What::Context(args) => context::run(args),
        What::Order(args) => order::run(args),
        What::Lens(args) => lens::run(args),
        What::Positions(args) => positions::run(args),
        What::Next(args) => next::run(args),
        What::Story(args) => story::run(args),
        What::Step(args) => step::run(args),
        What::Ffn(args) => ffn::run(args),
        What::Window(args) => window::run(args),
        What::Report(args) => report::run(args),
    };
    // A word, layer or text that cannot be looked at is a matter of the command line.
    result.map_err(|error| match error.downcast_ref::<RunError>() {
        Some(RunError::Option { .. } | RunError::NotOneToken { .. }) => usage(error.to_string()),
        _ => error,
    })
}

/// What every way of looking shares.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Numbers that passes through the model compute with; searches among words are always exact
    #[arg(long, value_name = "KIND", value_enum, env = "GABLE_NUMERICS", default_value_t = NumericsName::Fast,
        help_heading = "Computation")]
    numerics: NumericsName,
    /// One JSON object instead of a picture
    #[arg(long)]
    json: bool,
}

impl Common {
    /// Opens the model.
    fn look(&self) -> Result<Look> {
        self.look_with(self.model.open()?)
    }

    /// Opens another model to be looked at in the same way.
    fn look_at(&self, model: &str) -> Result<Look> {
        let path = crate::locate::model(model)?;
        self.look_with(Arc::new(Model::open(&path, &self.model.open_options())?))
    }

    fn look_with(&self, model: Arc<Model>) -> Result<Look> {
        let kernels = Kernels::new().map_err(|error| usage(error.to_string()))?;
        let pool = Arc::new(Pool::new(self.threads.threads()));
        Ok(Look::new(model, kernels, pool, self.numerics.into()))
    }

    /// Writes one of the two forms to stdout.
    fn print(
        &self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce(&mut dyn Write, &Screen) -> std::io::Result<()>,
    ) -> Result<()> {
        let mut out = BufWriter::new(std::io::stdout().lock());
        if self.json {
            writeln!(out, "{}", json())?;
        } else {
            let screen = Screen::of_stdout();
            let mut picture = Vec::new();
            text(&mut picture, &screen)?;
            // Tables are made to fit; sentences are broken.
            for line in String::from_utf8_lossy(&picture).lines() {
                writeln!(out, "{}", terminal::wrapped(line, screen.width))?;
            }
        }
        out.flush()?;
        Ok(())
    }
}

/// The text that is looked at, and what every way of looking shares.
#[derive(Debug, clap::Args)]
struct OfText {
    #[command(flatten)]
    text: PromptArgs,
    #[command(flatten)]
    common: Common,
}

impl OfText {
    /// Opens the model and reads the text.
    fn open(&self) -> Result<(Look, String, Vec<u32>)> {
        let text = required_text(&self.text)?;
        let look = self.common.look()?;
        let ids = look.encode(&text)?;
        Ok((look, text, ids))
    }
}

/// Writes a picture to a file.
pub fn write_file(path: &std::path::Path, text: &str) -> Result<()> {
    use anyhow::Context;
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// A list of tokens with scores.
fn scored_json(look: &Look, list: &[Scored]) -> Value {
    list.iter().map(|s| json!({ "id": s.id, "piece": look.piece(s.id), "score": s.score })).collect()
}

/// A list of tokens with probabilities.
fn guesses_json(look: &Look, list: &[(u32, f64)]) -> Value {
    list.iter().map(|(id, p)| json!({ "id": id, "piece": look.piece(*id), "p": p })).collect()
}

/// `word 0.72  word 0.63 ...`
fn scored_line(look: &Look, list: &[Scored]) -> String {
    let one = |s: &Scored| format!("{} {:.2}", terminal::shown(&look.piece(s.id)), s.score);
    list.iter().map(one).collect::<Vec<_>>().join("  ")
}

/// `word 72.1%  word 6.3% ...`
fn guesses_line(look: &Look, list: &[(u32, f64)]) -> String {
    let one =
        |(id, p): &(u32, f64)| format!("{} {}", terminal::shown(&look.piece(*id)), terminal::percent(*p));
    list.iter().map(one).collect::<Vec<_>>().join("  ")
}

/// The text of a prompt, which must be there.
fn required_text(text: &PromptArgs) -> Result<String> {
    text.read()?.ok_or_else(|| usage("no text; write it after the options, or give -f FILE, or - for stdin"))
}
