//! `gable perplexity`: how well a model foresees a text, and how far its fast numbers are from the exact ones.
//!
//! The method is llama.cpp's: the text is cut into chunks of the context's length, and the second half of each is
//! scored, so that every scored token has at least half a context before it. `--whole` scores every token of one text.

use crate::exit::say;
use crate::logits::ROWS;
use crate::options::{ModelArgs, SessionArgs, count, read_text, usage};
use crate::statistics::{divergence, log_sum_exp, mean_and_deviation, percentile, top1};
use anyhow::{Result, bail};
use clap::ValueEnum;
use gable_kernels::gemm::Phase;
use gable_model::forward::Numerics;
use gable_model::session::Session;
use gable_model::tokenizer::EncodeOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Options of `gable perplexity`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable perplexity -f wiki.test.raw -c 512\n  \
                        gable perplexity -f passage.txt --whole --tokens 512 --vs exact")]
pub struct PerplexityArgs {
    /// The text; `-` is stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Scores every token of a text that is shorter than the context
    #[arg(long)]
    whole: bool,
    /// Runs exact numerics beside and compares
    #[arg(long, value_name = "WHAT", value_enum)]
    vs: Option<Versus>,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
    /// In which order of summation, and how, tokens are fed
    #[arg(long, value_enum, default_value_t = PhaseName::Prompt)]
    phase: PhaseName,
    /// Uses only the first N tokens
    #[arg(long, value_name = "N", value_parser = count(2, 1 << 30))]
    tokens: Option<usize>,
    /// Uses only the first N chunks
    #[arg(long, value_name = "N", value_parser = count(1, 1 << 30))]
    chunks: Option<usize>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    session: SessionArgs,
}

/// What to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Versus {
    /// The same model in f32
    Exact,
}

/// `--phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PhaseName {
    /// Many tokens at a time
    Prompt,
    /// One token at a time
    Decode,
}

/// What was found at the scored positions.
#[derive(Debug, Default)]
struct Scores {
    nll: Vec<f64>,
    nll_exact: Vec<f64>,
    divergence: Vec<f64>,
    agreements: usize,
}

/// Runs the command.
#[expect(clippy::cast_precision_loss, reason = "counts of tokens")]
pub fn run(args: &PerplexityArgs) -> Result<()> {
    args.session.threads.placement.pin()?;
    let model = args.model.open_to_run()?;
    let tokenizer = model.tokenizer();
    let text = read_text(&args.file)?;
    let mut ids = tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: false })?;
    ids.truncate(args.tokens.unwrap_or(usize::MAX));
    let context = match args.session.ctx_size {
        Some(0) => model.config().max_seq_len,
        Some(n) => n,
        None if args.whole => ids.len().max(2),
        None => 512,
    };
    if context < 2 || ids.len() < 2 {
        return Err(usage("at least two tokens are needed: one to begin with and one to score"));
    }
    if args.whole && ids.len() > context {
        bail!("the text has {} tokens and the context {context}; raise -c or limit --tokens", ids.len());
    }
    if !args.whole && ids.len() < context.saturating_mul(2) {
        bail!(
            "the text has {} tokens, but chunks of {context} need at least {}; give more text, a smaller -c, \
             or --whole",
            ids.len(),
            context.saturating_mul(2)
        );
    }
    let mut options = args.session.session_options(&model)?;
    options.max_positions = context;
    options.max_logits = ROWS;
    let pool = args.session.threads.pool(&mut options);
    let mut session = Session::new(Arc::clone(&model), Arc::clone(&pool), options)?;
    let mut exact = match args.vs {
        Some(Versus::Exact) => {
            (options.numerics, options.cache_type) = (Numerics::Exact, None);
            Some(Session::new(Arc::clone(&model), pool, options)?)
        }
        None => None,
    };

    let mut scores = Scores::default();
    let mut out = std::io::stdout().lock();
    let first = if args.whole { 0 } else { context / 2 };
    let limit = args.chunks.unwrap_or(usize::MAX);
    for (i, chunk) in ids.chunks(context).filter(|c| args.whole || c.len() == context).take(limit).enumerate()
    {
        let mut chunk = chunk.to_vec();
        if let (true, Some(bos), Some(start)) = (tokenizer.adds_bos(), tokenizer.bos(), chunk.first_mut()) {
            *start = bos;
        }
        score(&mut session, exact.as_mut(), &chunk, first, args.phase, &mut scores)?;
        if !args.json && !args.whole {
            let (mean, _) = mean_and_deviation(&scores.nll);
            write!(out, "[{}]{:.4},", i.saturating_add(1), mean.exp())?;
            out.flush()?;
        }
    }
    let (mean, deviation) = mean_and_deviation(&scores.nll);
    let n = scores.nll.len() as f64;
    let (ppl, error) = (mean.exp(), mean.exp() * deviation / n.sqrt());
    let (mean_exact, _) = mean_and_deviation(&scores.nll_exact);
    let (kl, _) = mean_and_deviation(&scores.divergence);
    let mut sorted = scores.divergence.clone();
    sorted.sort_by(f64::total_cmp);
    let (p99, max) = (percentile(&sorted, 0.99), percentile(&sorted, 1.0));
    let top = scores.agreements as f64 / n;
    say(&format!(
        "{}: {} tokens scored, {}",
        model.name(),
        scores.nll.len(),
        args.session.features(options.kernels)
    ));
    if args.json {
        let mut json = serde_json::json!({
            "model": model.name(), "tokens": ids.len(), "scored": scores.nll.len(), "n_ctx": context,
            "ppl": ppl, "ppl_error": error, "nll": mean,
        });
        if let (true, Some(map)) = (exact.is_some(), json.as_object_mut()) {
            let values = [("nll_exact", mean_exact), ("kl_mean", kl), ("kl_p99", p99), ("kl_max", max)];
            map.extend(values.map(|(key, x)| (key.to_owned(), x.into())));
            map.insert("top1_agreement".to_owned(), top.into());
        }
        writeln!(out, "{json}")?;
        return Ok(());
    }
    if !args.whole {
        writeln!(out)?;
    }
    writeln!(out, "Final estimate: PPL = {ppl:.4} +/- {error:.5}")?;
    if exact.is_some() {
        writeln!(out, "Mean NLL: {mean:.5}, exact {mean_exact:.5}")?;
        writeln!(out, "KL divergence: mean {kl:.6}, 99 % {p99:.6}, maximum {max:.6}")?;
        writeln!(out, "Same top token: {:.2} %", top * 100.0)?;
    }
    Ok(())
}

/// Feeds one chunk and scores what each position from `first` on says of its successor.
fn score(
    session: &mut Session,
    mut exact: Option<&mut Session>,
    chunk: &[u32],
    first: usize,
    phase: PhaseName,
    scores: &mut Scores,
) -> Result<()> {
    session.truncate(0)?;
    if let Some(exact) = exact.as_deref_mut() {
        exact.truncate(0)?;
    }
    let (phase, step) = match phase {
        PhaseName::Prompt => (Phase::Prompt, ROWS),
        PhaseName::Decode => (Phase::Decode, 1),
    };
    // The last token of a chunk has no successor in it.
    let last = chunk.len().saturating_sub(1);
    let step = step.min(512);
    for start in (0..last).step_by(step) {
        let end = start.saturating_add(step).min(last);
        let piece = chunk.get(start..end).unwrap_or_default();
        let scored = |i: usize| start.saturating_add(i) >= first;
        let next = chunk.iter().skip(start.max(first).saturating_add(1));
        let logits = session.observe(phase, piece, scored, &mut ())?;
        let yardstick = match exact.as_deref_mut() {
            Some(exact) => Some(exact.observe(phase, piece, scored, &mut ())?),
            None => None,
        };
        for (i, &target) in (0..logits.rows()).zip(next) {
            let row = logits.row(i);
            scores.nll.push(negative_log(row, target));
            if let Some(yardstick) = &yardstick {
                let true_row = yardstick.row(i);
                scores.nll_exact.push(negative_log(true_row, target));
                scores.divergence.push(divergence(true_row, row));
                scores.agreements =
                    scores.agreements.saturating_add(usize::from(top1(true_row) == top1(row)));
            }
        }
    }
    Ok(())
}

fn negative_log(logits: &[f32], target: u32) -> f64 {
    let score = usize::try_from(target).ok().and_then(|i| logits.get(i)).copied().unwrap_or(f32::NAN);
    log_sum_exp(logits) - f64::from(score)
}
