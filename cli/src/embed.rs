//! `gable embed`: vectors of texts.

use crate::exit::say;
use crate::npy;
use crate::options::{ReadingArgs, read_text, usage};
use anyhow::{Context, Result};
use clap::ValueEnum;
use gable_model::embed::{Embedder, Pooling};
use gable_model::model::Model;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Texts that are read before the first are computed.
const READ_AHEAD: usize = 64;

/// Options of `gable embed`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable embed -m MiniLM-folder 'A cat sits on a mat'\n  \
                        gable embed -m model.gguf -f lines.txt --json\n  \
                        gable embed -m model.gguf -f lines.txt -o vectors.npy --pooling cls")]
pub struct EmbedArgs {
    /// The texts; without any, and without -p and -f, each line of stdin is one
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// A text, instead of TEXT
    #[arg(short, long, value_name = "TEXT", conflicts_with = "texts", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Each line of a file is a text; `-` is stdin
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["texts", "prompt"])]
    file: Option<PathBuf>,
    /// How the vectors of a text's tokens become one [default: as the model says; or mean for encoders, last for others]
    #[arg(long, value_name = "KIND", value_enum)]
    pooling: Option<PoolingName>,
    /// Leaves vectors as long as they are; else their length is 1, and products of two are cosines
    #[arg(long)]
    no_normalize: bool,
    /// Cuts texts that are too long, but keeps the token that ends them; else they are an error
    #[arg(long)]
    truncate: bool,
    /// JSON lines: a text's number, its tokens and its vector
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// f32 .npy file of shape [texts, width], instead of text on stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// `--pooling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PoolingName {
    /// Mean of all tokens
    Mean,
    /// First token
    Cls,
    /// Last token
    Last,
}

impl From<PoolingName> for Pooling {
    fn from(name: PoolingName) -> Pooling {
        match name {
            PoolingName::Mean => Pooling::Mean,
            PoolingName::Cls => Pooling::Cls,
            PoolingName::Last => Pooling::Last,
        }
    }
}

/// Runs the command.
pub fn run(args: &EmbedArgs) -> Result<()> {
    args.reading.session.threads.placement.pin()?;
    let model = args.reading.model.open_to_run()?;
    let texts = args.texts()?;
    let mut options = args.reading.session.session_options(&model)?;
    let limit = options.max_positions;
    let ids = args.ids(&model, &texts, limit)?;
    // Texts go through the model whole: room for the longest is enough.
    options.max_positions = ids.iter().map(Vec::len).max().unwrap_or(1).clamp(1, limit.max(1));
    let pool = args.reading.session.threads.pool(&mut options);
    let pooling = args.pooling.map_or_else(|| Pooling::of_model(&model), Pooling::from);
    let width = model.config().d_model;
    let mut embedder = Embedder::new(Arc::clone(&model), pool, options, pooling, !args.no_normalize)?;
    match &args.output {
        Some(path) => write_npy(path, &mut embedder, &ids, width).with_context(|| path.display().to_string()),
        None => print(&mut embedder, &ids, args.json),
    }
}

impl EmbedArgs {
    fn texts(&self) -> Result<Vec<String>> {
        if let Some(text) = &self.prompt {
            return Ok(vec![text.clone()]);
        }
        if !self.texts.is_empty() {
            return Ok(self.texts.clone());
        }
        let path = self.file.as_deref().unwrap_or(Path::new("-"));
        let lines: Vec<String> = read_text(path)?.lines().map(str::to_owned).collect();
        if lines.is_empty() {
            return Err(usage("no text; write some after the options, or give a file with -f"));
        }
        Ok(lines)
    }

    /// The tokens of each text, at most `limit`.
    fn ids(&self, model: &Model, texts: &[String], limit: usize) -> Result<Vec<Vec<u32>>> {
        let mut all = Vec::with_capacity(texts.len());
        let mut cut = 0_usize;
        for (i, text) in texts.iter().enumerate() {
            let number = i.saturating_add(1);
            let mut ids = model.tokenizer().encode(text, self.reading.encoding())?;
            if ids.is_empty() {
                return Err(usage(format!("text {number} has no tokens")));
            }
            if ids.len() > limit && !self.truncate {
                return Err(usage(format!(
                    "text {number} has {} tokens, but there is room for {limit}; cut it with --truncate",
                    ids.len()
                )));
            }
            if ids.len() > limit {
                cut = cut.saturating_add(1);
                let end = ids.last().copied().filter(|_| model.tokenizer().adds_eos());
                ids.truncate(limit);
                if let (Some(last), Some(end)) = (ids.last_mut(), end) {
                    *last = end;
                }
            }
            all.push(ids);
        }
        if cut > 0 {
            say(&format!("{cut} of {} texts were cut to {limit} tokens", texts.len()));
        }
        Ok(all)
    }
}

/// A line for each text: JSON, or its numbers.
fn print(embedder: &mut Embedder, ids: &[Vec<u32>], json: bool) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (group, texts) in ids.chunks(READ_AHEAD).enumerate() {
        let first = group.saturating_mul(READ_AHEAD);
        let mut lines = String::new();
        embedder.embed(texts, |i, vector| {
            let line = match json {
                true => serde_json::json!({
                    "index": first.saturating_add(i), "tokens": texts.get(i).map_or(0, Vec::len), "embedding": vector,
                })
                .to_string(),
                false => vector.iter().map(f32::to_string).collect::<Vec<_>>().join(" "),
            };
            lines.push_str(&line);
            lines.push('\n');
        })?;
        out.write_all(lines.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

fn write_npy(path: &Path, embedder: &mut Embedder, ids: &[Vec<u32>], width: usize) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&npy::header(ids.len(), width))?;
    for texts in ids.chunks(READ_AHEAD) {
        let mut bytes = Vec::new();
        embedder.embed(texts, |_, vector| vector.iter().for_each(|x| bytes.extend(x.to_le_bytes())))?;
        out.write_all(&bytes)?;
    }
    out.flush()?;
    Ok(())
}
