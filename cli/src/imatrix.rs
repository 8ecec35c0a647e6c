//! `gable imatrix`: how much each column of each matrix matters, from the squares of what passes through the model.

use crate::exit::{Interrupted, say};
use crate::interrupt::Interrupt;
use crate::new_file::NewFile;
use crate::options::{ReadingArgs, count, read_text, usage};
use anyhow::{Context, Result, bail};
use gable_kernels::gemm::Phase;
use gable_model::RunError;
use gable_model::imatrix::{Collector, Imatrix};
use gable_model::session::Session;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Options of `gable imatrix`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable imatrix -m model-f16.gguf -f calibration.txt\n  \
                        gable imatrix -m model-f16.gguf -f more.txt --in-file imatrix.gguf -o both.gguf")]
pub struct ImatrixArgs {
    /// The text; `-` is stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// The file to write
    #[arg(short, long, visible_alias = "output-file", value_name = "FILE", default_value = "imatrix.gguf")]
    output: PathBuf,
    /// Adds what an earlier run has collected
    #[arg(long, value_name = "FILE")]
    in_file: Vec<PathBuf>,
    /// Uses only the first N chunks
    #[arg(long, value_name = "N", value_parser = count(1, 1 << 30))]
    chunks: Option<usize>,
    /// Also collects for the output matrix
    #[arg(long)]
    process_output: bool,
    /// One JSON object about what was written
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// Runs the command.
pub fn run(args: &ImatrixArgs) -> Result<()> {
    let path = args.reading.model.path()?;
    args.reading.session.threads.placement.pin()?;
    let model = args.reading.model.open_to_run()?;
    let tokenizer = model.tokenizer();
    let earlier = args.in_file.iter().map(|p| Imatrix::open(p)).collect::<Result<Vec<_>, _>>()?;
    let text = read_text(&args.file)?;
    let encode = args.reading.encoding();
    let ids = tokenizer.encode(&text, encode)?;
    let context = match args.reading.session.ctx_size {
        Some(0) => model.config().max_seq_len,
        Some(n) => n,
        None => 512,
    };
    if context < 2 {
        return Err(usage("a context of at least 2 tokens is needed"));
    }
    if ids.len() < context {
        bail!(
            "the text has {} tokens, but chunks of {context} are needed; give more text or a smaller -c",
            ids.len()
        );
    }
    let mut options = args.reading.session.session_options(&model)?;
    options.max_positions = context;
    options.max_logits = if args.process_output { options.batch } else { 1 };
    let pool = args.reading.session.threads.pool(&mut options);
    let mut session = Session::new(Arc::clone(&model), pool, options)?;
    // Begun first: a name that cannot be written is known before the work.
    let sources: Vec<_> = args.in_file.iter().chain([&path]).map(PathBuf::as_path).collect();
    let file = NewFile::create(&args.output, &sources)?;
    say(&format!("{}: {}", model.name(), args.reading.session.features(options.kernels)));

    let wanted = (ids.len() / context).min(args.chunks.unwrap_or(usize::MAX));
    let interrupt = Interrupt::watch()?;
    session.set_cancel(interrupt.flag());
    let mut collector = Collector::new(args.process_output);
    let (passed, pressed) = interrupt.during(|| -> Result<(), RunError> {
        let bar = ProgressBar::new(u64::try_from(wanted).unwrap_or(0)).with_style(style());
        for chunk in ids.chunks_exact(context).take(wanted) {
            let mut chunk = chunk.to_vec();
            if let (true, Some(bos), Some(start)) = (tokenizer.adds_bos(), tokenizer.bos(), chunk.first_mut())
            {
                *start = bos;
            }
            session.truncate(0)?;
            for piece in chunk.chunks(options.batch.max(1)) {
                session.observe(Phase::Prompt, piece, |_| args.process_output, &mut collector)?;
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    });
    if pressed {
        return Err(Interrupted.into());
    }
    passed?;
    let mut imatrix = collector.finish(&model)?;
    imatrix.datasets = vec![args.file.display().to_string()];
    imatrix.chunk_count = u32::try_from(wanted).unwrap_or(u32::MAX);
    imatrix.chunk_size = u32::try_from(context).unwrap_or(u32::MAX);
    for other in &earlier {
        imatrix.merge(other)?;
    }
    let writing = || format!("could not write {}", args.output.display());
    imatrix.write(file).with_context(writing)?.commit()?;
    if args.json {
        let json = serde_json::json!({
            "output": args.output, "matrices": imatrix.len(), "chunks": wanted, "chunk_tokens": context,
        });
        writeln!(std::io::stdout(), "{json}")?;
    }
    say(&format!(
        "{} matrices, {wanted} chunks of {context} tokens: {}",
        imatrix.len(),
        args.output.display()
    ));
    Ok(())
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("[{bar:30}] chunk {pos} of {len}, {eta} left");
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
