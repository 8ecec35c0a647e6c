//! `gable profile`: where the time goes, operation by operation, and how near each is to what the machine can do.
//!
//! A text is generated as `gable run` does it, and the session keeps when each operation of each pass begins and ends.
//! What lies between the passes is sampling up to the moment a token is drawn, and turning it into text behind that.
//!
//! ```text
//! wall = operations of all passes + sampling + text + rest
//! ```

mod breakdown;
mod picture;
mod table;

use crate::exit::{Interrupted, say};
use crate::interrupt::Interrupt;
use crate::limits::Prober;
use crate::look::write_file;
use crate::options::{ModelArgs, PromptArgs, SamplingArgs, SessionArgs, count};
use crate::run::encode_open;
use crate::statistics::Random;
use anyhow::Result;
use breakdown::Breakdown;
use gable_model::RunError;
use gable_model::generate::{GenerateOptions, generate_with};
use gable_model::model::Model;
use gable_model::sampler::{Sampler, SamplerConfig};
use gable_model::session::Session;
use gable_model::timeline::TimedPass;
use gable_model::tokenizer::EncodeOptions;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Options of `gable profile`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable profile
  gable profile -m model.gguf -n 32 -f prompt.txt
  gable profile --n-prompt 4096 -n 8 --svg timeline.svg
  gable profile --json | jq '.phases[1].operations[0]'

GFLOP/s counts what the mathematics asks for, two operations per weight and row; GB/s weights and cache. The limit is the
machine's, measured at the same moment with nothing else in the way: reading as much memory, and multiplying registers.
Forking, joining and waiting for the slowest thread are part of each operation's time.")]
pub struct ProfileArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    /// Tokens of a prompt of random tokens, where no text is given
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count(1, 1 << 20), help_heading = "Prompt")]
    n_prompt: usize,
    /// Tokens to generate; 0 for the prompt alone
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = count(0, 1 << 20))]
    n_predict: usize,
    /// Measures the first run, in which pages come from the disk and caches are cold
    #[arg(long)]
    no_warmup: bool,
    /// Draws a prompt's pass and a token's pass, operation by operation
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// A run with its times, all since the timeline's beginning.
#[derive(Debug)]
pub struct Measured {
    /// The passes, prompt first.
    passes: Vec<TimedPass>,
    /// When each token was drawn.
    drawn: Vec<Duration>,
    /// When the last text was handed out.
    end: Duration,
    /// What `gable run` prints: reading the prompt and drawing a token, generating the others.
    wall: [Duration; 2],
}

/// Runs the command.
pub fn run(args: &ProfileArgs) -> Result<()> {
    args.session.threads.placement.pin()?;
    let config = args.sampling.config()?;
    let text = args.prompt.read()?;
    let model = args.model.open_to_run()?;
    let ids = match &text {
        Some(text) => {
            let options = EncodeOptions { add_special: true, ..Default::default() };
            encode_open(model.tokenizer(), text, options)?
        }
        None => random_ids(&model, args.n_prompt),
    };
    let mut options = args.session.session_options(&model)?;
    let needed = ids.len().saturating_add(args.n_predict);
    if args.session.ctx_size.is_none() {
        options.max_positions = needed;
    }
    if needed > options.max_positions {
        return Err(RunError::ContextFull { needed, max: options.max_positions }.into());
    }
    args.session.habits.say_what_is_ignored();
    let pool = args.session.threads.pool(&mut options);
    let mut session = Session::new(Arc::clone(&model), Arc::clone(&pool), options)?;
    let interrupt = Interrupt::watch()?;
    session.set_cancel(interrupt.flag());
    say(&format!("{}: {}", model.name(), args.session.features(options.kernels)));
    let prober = Prober::for_model(options.kernels, pool, &model)?;
    let threads = [options.prompt_threads, options.decode_threads];
    let threads = threads.map(|n| n.unwrap_or_else(|| args.session.threads.threads()));
    let limits = || threads.map(|n| prober.probe(n));
    let (measured, pressed) = interrupt.during(|| -> Result<_, RunError> {
        if !args.no_warmup {
            measure(&mut session, &config, &ids, args.n_predict)?;
            session.truncate(0)?;
        }
        let before = limits();
        let measured = measure(&mut session, &config, &ids, args.n_predict)?;
        let after = limits();
        Ok((measured, [before[0].best(after[0]), before[1].best(after[1])]))
    });
    if pressed {
        return Err(Interrupted.into());
    }
    let (measured, limits) = measured?;
    let breakdown =
        Breakdown::new(&model, &options, &measured, limits, threads.map(|n| prober.fork_and_join(n)));
    if let Some(path) = &args.svg {
        write_file(path, &picture::svg(model.name(), model.config().n_layers, &measured))?;
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if args.json {
        let how = (options.kernels.isa().name(), args.session.numerics.name(), threads);
        writeln!(out, "{}", breakdown.json(model.name(), how))?;
    } else {
        table::print(&mut out, &breakdown)?;
    }
    out.flush()?;
    Ok(())
}

/// Reads the prompt and generates `n` tokens, whatever they are, as `gable run` does; nobody reads the text.
pub fn measure(
    session: &mut Session,
    config: &SamplerConfig,
    ids: &[u32],
    n: usize,
) -> Result<Measured, RunError> {
    let model = Arc::clone(session.model());
    let mut sampler = Sampler::new(config.clone(), model.config().vocab_size)?;
    let options = GenerateOptions { max_tokens: n, ignore_eos: true, ..GenerateOptions::default() };
    session.start_timeline();
    let zero = session.timeline().map_or_else(std::time::Instant::now, |timeline| timeline.zero());
    let mut drawn = Vec::with_capacity(n);
    let stats = generate_with(
        session,
        model.tokenizer(),
        &mut sampler,
        ids,
        &options,
        &mut |_| ControlFlow::Continue(()),
        &mut |_| drawn.push(zero.elapsed()),
    )?;
    let end = zero.elapsed();
    let passes = session.timeline().map_or_else(Vec::new, |timeline| timeline.passes().to_vec());
    Ok(Measured { passes, drawn, end, wall: [stats.prompt_time, stats.decode_time] })
}

/// Any tokens, the same ones every time.
fn random_ids(model: &Model, n: usize) -> Vec<u32> {
    let mut random = Random::new();
    let vocabulary = model.config().vocab_size;
    (0..n).map(|_| u32::try_from(random.below(vocabulary)).unwrap_or(0)).collect()
}
