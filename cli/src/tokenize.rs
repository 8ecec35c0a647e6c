//! `gable tokenize`: a text as the model's tokens. A file that holds only a vocabulary is enough.

use crate::options::{ModelArgs, read_text, usage};
use anyhow::Result;
use gable_model::gguf::Gguf;
use gable_model::model::Model;
use gable_model::tokenizer::{EncodeOptions, Tokenizer};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Options of `gable tokenize`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable tokenize 'The capital of France is'\n  \
                        gable tokenize -m vocabulary.gguf --json -f text.txt\n  echo hello | gable tokenize --no-bos -")]
pub struct TokenizeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; `-` reads stdin
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// Reads the text from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Prints {"ids":[...],"pieces":[...]}
    #[arg(long)]
    json: bool,
    /// Reads names of control tokens as those tokens
    #[arg(long)]
    parse_special: bool,
    /// Adds no tokens at the text's ends
    #[arg(long)]
    no_bos: bool,
}

/// Runs the command.
pub fn run(args: &TokenizeArgs) -> Result<()> {
    let text = match (args.text.as_deref(), &args.file) {
        (Some("-"), _) => read_text(Path::new("-"))?,
        (Some(text), _) => text.to_owned(),
        (None, Some(file)) => read_text(file)?,
        (None, None) => {
            return Err(usage("no text; write it after the options, or give -f FILE, or - for stdin"));
        }
    };
    let options = EncodeOptions { add_special: !args.no_bos, parse_special: args.parse_special };
    let path = args.model.path()?;
    // The tokenizer alone is read from a GGUF file: it need not hold a model that this program can run.
    if path.extension().is_some_and(|e| e == "gguf") {
        let mut file = Gguf::open_with(&path, args.model.access.access())?;
        for (key, value) in &args.model.override_kv {
            file.metadata_mut().set_override(key, value.clone())?;
        }
        let tokenizer = Tokenizer::from_gguf(file.metadata(), args.model.pre.as_deref())?;
        print(&tokenizer, &tokenizer.encode(&text, options)?, args.json)
    } else {
        let model: Arc<Model> = args.model.open()?;
        print(model.tokenizer(), &model.tokenizer().encode(&text, options)?, args.json)
    }
}

fn print(tokenizer: &Tokenizer, ids: &[u32], json: bool) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let piece = |id: u32| String::from_utf8_lossy(tokenizer.piece(id)).into_owned();
    if json {
        let pieces: Vec<String> = ids.iter().map(|&id| piece(id)).collect();
        writeln!(out, "{}", serde_json::json!({ "ids": ids, "pieces": pieces }))?;
    } else {
        for &id in ids {
            writeln!(out, "{id:>7}  {:?}", piece(id))?;
        }
    }
    out.flush()?;
    Ok(())
}
