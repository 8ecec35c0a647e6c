//! `gable logits`: the scores of the next token, or of every position.

use crate::npy;
use crate::options::{PromptArgs, ReadingArgs, usage};
use crate::statistics::top_tokens;
use anyhow::{Context, Result};
use gable_kernels::gemm::Phase;
use gable_model::session::Session;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of logits held at once: a row of a large vocabulary is a megabyte.
pub const ROWS: usize = 64;

/// Options of `gable logits`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable logits 'The capital of France is'\n  \
                        gable logits --ids ids.json --numerics exact\n  gable logits --all -o logits.npy -f text.txt")]
pub struct LogitsArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    /// Takes token ids from a JSON file: [1,2,3] or {"ids":[1,2,3]}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "prompt", "file"])]
    ids: Option<PathBuf>,
    /// Every position's logits, into a file (-o)
    #[arg(long, requires = "output")]
    all: bool,
    /// f32 .npy file of shape [tokens, vocabulary]
    #[arg(short, long, value_name = "FILE", requires = "all")]
    output: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// Runs the command.
pub fn run(args: &LogitsArgs) -> Result<()> {
    args.reading.session.threads.placement.pin()?;
    let model = args.reading.model.open_to_run()?;
    let tokenizer = model.tokenizer();
    let ids = match (&args.ids, args.prompt.read()?) {
        (Some(path), _) => read_ids(path)?,
        (None, Some(text)) => tokenizer.encode(&text, args.reading.encoding())?,
        (None, None) => return Err(usage("no prompt; write it after the options, or give --ids FILE")),
    };
    if ids.is_empty() {
        return Err(usage("the prompt has no tokens"));
    }
    let mut options = args.reading.session.session_options(&model)?;
    options.max_logits = if args.all { ROWS } else { 1 };
    let pool = args.reading.session.threads.pool(&mut options);
    let mut session = Session::new(Arc::clone(&model), pool, options)?;
    let last = match &args.output {
        Some(path) => write_all(&mut session, &ids, path).with_context(|| path.display().to_string())?,
        None => session.prefill(&ids)?.to_vec(),
    };
    let top: Vec<_> = top_tokens(&last, 20)
        .into_iter()
        .map(|(id, logprob)| {
            let piece = String::from_utf8_lossy(tokenizer.piece(id)).into_owned();
            let logit = usize::try_from(id).ok().and_then(|i| last.get(i));
            serde_json::json!({ "id": id, "piece": piece, "logit": logit, "logprob": logprob })
        })
        .collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::json!({ "ids": ids, "top": top }))?;
    Ok(())
}

/// Streams every position's logits into the file; gives the last row.
fn write_all(session: &mut Session, ids: &[u32], path: &Path) -> Result<Vec<f32>> {
    let vocabulary = session.model().config().vocab_size;
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&npy::header(ids.len(), vocabulary))?;
    let mut last = Vec::new();
    for piece in ids.chunks(ROWS) {
        let logits = session.observe(Phase::Prompt, piece, |_| true, &mut ())?;
        for i in 0..logits.rows() {
            for x in logits.row(i) {
                out.write_all(&x.to_le_bytes())?;
            }
        }
        if let Some(i) = logits.rows().checked_sub(1) {
            last = logits.row(i).to_vec();
        }
    }
    out.flush()?;
    Ok(last)
}

fn read_ids(path: &Path) -> Result<Vec<u32>> {
    let text = crate::options::read_text(path)?;
    let mut value: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    if let Some(ids) = value.get_mut("ids") {
        value = ids.take();
    }
    serde_json::from_value(value)
        .with_context(|| format!("{} must hold [1,2,3] or {{\"ids\":[1,2,3]}}", path.display()))
}
