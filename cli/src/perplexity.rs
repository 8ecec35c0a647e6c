//! `gable perplexity`: how well a model foresees a text, and how far it is from another one or from exact numbers.
//!
//! Method and output are llama-perplexity's: the text is cut into chunks of the context's length, each begins anew, and
//! the second half of it is scored, so that every scored token has at least half a context before it. With a stride,
//! chunks overlap and the last `stride` tokens of each are scored. `--whole` scores every token of one text.

mod blame;
mod chunks;
mod comparison;
mod estimate;

use crate::exit::say;
use crate::feed::{self, Feed};
use crate::options::{ModelArgs, SessionArgs, count, read_text, usage};
use crate::statistics::{mean_and_deviation, negative_log};
use anyhow::Result;
use chunks::Plan;
use clap::ValueEnum;
use comparison::Comparisons;
use estimate::{Estimate, count_of, eta, text_bytes};
use gable_kernels::Pool;
use gable_kernels::gemm::Phase;
use gable_model::forward::Numerics;
use gable_model::model::Model;
use gable_model::session::SessionOptions;
use gable_model::tokenizer::{EncodeOptions, Tokenizer};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Options of `gable perplexity`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable perplexity -f wiki.test.raw
  gable perplexity -f wiki.test.raw -c 1024 --chunks 20 --json
  gable perplexity -f wiki.test.raw --vs exact
  gable perplexity -m model-q4_k.gguf --vs model-f16.gguf -f wiki.test.raw
  gable perplexity -m model-q4_k.gguf --vs model-f16.gguf -f wiki.test.raw -c 128 --blame
  gable perplexity -f passage.txt --whole --tokens 512

The base of a comparison is what stands after --vs; divergences are those of -m from it.")]
pub struct PerplexityArgs {
    /// The text; `-` is stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Scores every token of a text that is shorter than the context
    #[arg(long, conflicts_with = "ppl_stride")]
    whole: bool,
    /// Runs another model, or the same with exact numbers, beside it and compares: MODEL or `exact`
    #[arg(long, value_name = "WHAT")]
    vs: Option<String>,
    /// Ranks tensors by what their quantization costs: KL divergence per MiB, one after the other
    #[arg(long, requires = "vs", conflicts_with = "ppl_stride")]
    blame: bool,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
    /// In which order of summation, and how, tokens are fed
    #[arg(long, value_enum, default_value_t = PhaseName::Prompt)]
    phase: PhaseName,
    /// Uses only the first N tokens
    #[arg(long, value_name = "N", value_parser = count(2, 1 << 30))]
    tokens: Option<usize>,
    /// Uses only the first N chunks (with --blame one, if nothing is said); -1 for all
    #[arg(long, value_name = "N", value_parser = chunk_count, allow_negative_numbers = true)]
    chunks: Option<usize>,
    /// Chunks overlap: each begins N tokens after the one before, and its last N tokens are scored
    #[arg(long, value_name = "N", value_parser = count(0, 1 << 24), default_value_t = 0)]
    ppl_stride: usize,
    /// 0: one line of running estimates; 1: a line for each chunk, with mean and error of the log-probability
    #[arg(long, value_name = "0|1", value_parser = count(0, 1), default_value_t = 0)]
    ppl_output_type: usize,
    #[arg(long, hide = true)]
    kl_divergence: bool,
    #[arg(long, alias = "save-all-logits", value_name = "FILE", hide = true)]
    kl_divergence_base: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    session: SessionArgs,
}

/// `--phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PhaseName {
    /// Many tokens at a time
    Prompt,
    /// One token at a time
    Decode,
}

impl From<PhaseName> for Phase {
    fn from(name: PhaseName) -> Phase {
        match name {
            PhaseName::Prompt => Phase::Prompt,
            PhaseName::Decode => Phase::Decode,
        }
    }
}

/// What a comparison's base is.
enum Base {
    /// The same model, f32 everywhere.
    Exact,
    /// Another model, run as ours is.
    Other(Arc<Model>),
}

/// Runs the command.
pub fn run(args: &PerplexityArgs) -> Result<()> {
    if args.kl_divergence || args.kl_divergence_base.is_some() {
        return Err(usage("logits need no file here: --vs BASE.gguf runs both models side by side"));
    }
    args.session.threads.placement.pin()?;
    let model = args.model.open_to_run()?;
    let base = match args.vs.as_deref() {
        None => None,
        Some("exact") => Some(Base::Exact),
        Some(name) => Some(Base::Other(other(name, &model)?)),
    };
    let text = read_text(&args.file)?;
    say("perplexity: tokenizing the input ..");
    let start = Instant::now();
    let mut ids =
        model.tokenizer().encode(&text, EncodeOptions { add_special: true, parse_special: false })?;
    say(&format!("perplexity: tokenization took {:.3} ms", start.elapsed().as_secs_f64() * 1e3));
    ids.truncate(args.tokens.unwrap_or(usize::MAX));
    let plan = Plan::new(args, &model, ids.len())?;
    let mut options = args.session.session_options(&model)?;
    options.max_positions = plan.context;
    options.max_logits = feed::ROWS;
    options.every_position = true;
    let pool = args.session.threads.pool(&mut options);
    say(&format!(
        "perplexity: calculating perplexity over {} chunks, n_ctx={}, batch_size={}, n_seq=1",
        plan.chunks, plan.context, options.batch
    ));
    let job = Job { args, ids: &ids, plan, options, pool };
    match base {
        Some(base) if args.blame => blame::run(&job, model, base),
        Some(base) => compare(&job, &model, &base),
        None => estimate(&job, &model),
    }
}

/// What is fed and how.
struct Job<'a> {
    args: &'a PerplexityArgs,
    ids: &'a [u32],
    plan: Plan,
    options: SessionOptions,
    pool: Arc<Pool>,
}

impl Job<'_> {
    fn feed(&self, model: &Arc<Model>, options: SessionOptions) -> Result<Feed> {
        Feed::new(model, &self.pool, options, self.args.phase.into())
    }

    /// The base's session: exact numbers, or ours for another model.
    fn base(&self, model: &Arc<Model>, base: &Base) -> Result<Feed> {
        let mut options = self.options;
        match base {
            Base::Exact => {
                (options.numerics, options.cache_type) = (Numerics::Exact, None);
                self.feed(model, options)
            }
            Base::Other(other) => self.feed(other, options),
        }
    }

    /// The tokens of a chunk, the first replaced by BOS where the model begins with it.
    fn chunk(&self, tokenizer: &Tokenizer, i: usize) -> Vec<u32> {
        let mut chunk = self.plan.chunk(self.ids, i).to_vec();
        if let (true, Some(bos), Some(start)) = (tokenizer.adds_bos(), tokenizer.bos(), chunk.first_mut()) {
            *start = bos;
        }
        chunk
    }

    /// Calls `f(i, chunk)` for each chunk; says after the first how long all will take.
    fn for_chunks(
        &self,
        tokenizer: &Tokenizer,
        mut f: impl FnMut(usize, &[u32]) -> Result<()>,
    ) -> Result<()> {
        for i in 0..self.plan.chunks {
            let start = Instant::now();
            f(i, &self.chunk(tokenizer, i))?;
            if i == 0 {
                say(&eta(start.elapsed().as_secs_f64(), self.plan.chunks));
            }
        }
        Ok(())
    }
}

/// The perplexity alone.
fn estimate(job: &Job<'_>, model: &Arc<Model>) -> Result<()> {
    let (args, plan) = (job.args, job.plan);
    let mut feed = job.feed(model, job.options)?;
    let (mut nll, mut bytes) = (Vec::new(), 0);
    let mut out = std::io::stdout().lock();
    job.for_chunks(model.tokenizer(), |i, chunk| {
        feed.score(chunk, plan.first, |pool, logits, targets| {
            bytes = text_bytes(model.tokenizer(), targets, bytes);
            nll.extend(feed::spread(pool, targets.len(), |j| {
                negative_log(logits.row(j), targets.get(j).copied().unwrap_or(u32::MAX))
            }));
        })?;
        if !args.json && !args.whole {
            let (mean, deviation) = mean_and_deviation(&nll);
            match args.ppl_output_type {
                0 => write!(out, "[{}]{:.4},", i.saturating_add(1), mean.exp())?,
                _ if args.ppl_stride > 0 => writeln!(out, "{:8}  {:.4}", plan.start(i), mean.exp())?,
                _ => {
                    let error = deviation / count_of(&nll).sqrt();
                    writeln!(out, "{:8}  {:.4}  {mean:4.6}  {error:4.6}", plan.start(i), mean.exp())?;
                }
            }
            out.flush()?;
        }
        Ok(())
    })?;
    let found = Estimate::new(&nll, bytes);
    say_what_ran(job, model, nll.len());
    if args.json {
        writeln!(out, "{}", json(job, model, &found, Vec::new()))?;
        return Ok(());
    }
    if !args.whole {
        writeln!(out)?;
    }
    found.print(&mut out)
}

/// Perplexity and distances of two sessions that go through the text side by side.
fn compare(job: &Job<'_>, model: &Arc<Model>, base: &Base) -> Result<()> {
    let (args, plan) = (job.args, job.plan);
    let (mut ours, mut base) = (job.feed(model, job.options)?, job.base(model, base)?);
    let (mut found, mut bytes) = (Comparisons::default(), 0);
    let mut out = std::io::stdout().lock();
    job.for_chunks(model.tokenizer(), |i, chunk| {
        feed::score_both(&mut ours, &mut base, chunk, plan.first, |new, targets| {
            bytes = text_bytes(model.tokenizer(), targets, bytes);
            found.extend(new);
        })?;
        if !args.json && !args.whole {
            write!(out, "{}", found.chunk_lines(i.saturating_add(1)))?;
            out.flush()?;
        }
        Ok(())
    })?;
    let nll = found.nll();
    let estimate = Estimate::new(&nll, bytes);
    say_what_ran(job, model, nll.len());
    if args.json {
        writeln!(out, "{}", json(job, model, &estimate, found.json()))?;
        return Ok(());
    }
    write!(out, "\n{}\n", found.blocks())?;
    estimate.print(&mut out)
}

/// The other model, which must speak of the same tokens.
fn other(name: &str, model: &Model) -> Result<Arc<Model>> {
    let path = crate::locate::model(name)?;
    let other = Arc::new(Model::open(&path, &Default::default())?);
    let (a, b) = (model.tokenizer(), other.tokenizer());
    if model.config().vocab_size != other.config().vocab_size {
        return Err(usage(format!(
            "{} has {} tokens and {} has {}: only models of one vocabulary can be compared",
            model.name(),
            model.config().vocab_size,
            other.name(),
            other.config().vocab_size
        )));
    }
    let ids = 0..u32::try_from(a.vocab_size()).unwrap_or(u32::MAX);
    if let Some(id) = ids.into_iter().find(|&id| a.piece(id) != b.piece(id)) {
        let text = |t: &Tokenizer| String::from_utf8_lossy(t.piece(id)).into_owned();
        return Err(usage(format!(
            "token {id} is {:?} in {} and {:?} in {}: only models of one vocabulary can be compared",
            text(a),
            model.name(),
            text(b),
            other.name()
        )));
    }
    Ok(other)
}

/// What was scored, the estimate, and what else was found.
fn json(
    job: &Job<'_>,
    model: &Model,
    estimate: &Estimate,
    more: Vec<(String, serde_json::Value)>,
) -> serde_json::Value {
    let mut json = head(job, model, estimate.scored);
    if let Some(map) = json.as_object_mut() {
        map.extend(estimate.json());
        map.extend(more);
    }
    json
}

/// What was scored.
fn head(job: &Job<'_>, model: &Model, scored: usize) -> serde_json::Value {
    serde_json::json!({
        "model": model.name(), "vs": job.args.vs, "tokens": job.ids.len(), "chunks": job.plan.chunks,
        "n_ctx": job.plan.context, "scored": scored,
    })
}

fn say_what_ran(job: &Job<'_>, model: &Model, scored: usize) {
    let features = job.args.session.features(job.options.kernels);
    say(&format!("{}: {scored} tokens scored, {features}", model.name()));
}

fn chunk_count(text: &str) -> Result<usize, String> {
    if text == "-1" { Ok(usize::MAX) } else { count(1, 1 << 30)(text) }
}
