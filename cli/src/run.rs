//! `gable run`: continues a text.
//!
//! The text goes to stdout as it comes. What was computed with, and how fast, goes to stderr.

mod kept;

use crate::exit::{Interrupted, say};
use crate::interrupt::Interrupt;
use crate::options::{ContinueArgs, PromptArgs, SavedArgs, Saving, count, usage};
use crate::statistics::{negative_log, top_tokens};
use anyhow::Result;
use gable_kernels::Kernels;
use gable_model::RunError;
use gable_model::generate::{Drawn, GenerateOptions, GenerateStats, StopReason, generate_with};
use gable_model::sampler::Sampler;
use gable_model::session::Session;
use gable_model::speculate::SpeculationCounts;
use gable_model::tokenizer::{EncodeOptions, Tokenizer};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Options of `gable run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable run 'The capital of France is'
  gable run -m model.gguf -n 64 --temp 0 -f prompt.txt
  gable run --draft 16 -f code.rs
  gable run -m qwen2.5-coder --fim-prefix 'fn add(a: i32, b: i32) -> i32 {' --fim-suffix '}' -n 32
  gable run -j '{\"type\": \"array\", \"items\": {\"type\": \"integer\"}}' 'Three primes as JSON: '
  gable run --temp 0 -n 8 --logprobs 5 'My teacher was Professor'
  gable run --session story.session --prompt-cache-all -n 100
  echo 'Once upon a time' | gable run -")]
pub struct RunArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    /// Prints the continuation alone
    #[arg(long, help_heading = "Prompt")]
    no_display_prompt: bool,
    /// Reads names of control tokens in the prompt as those tokens
    #[arg(long, visible_alias = "special", help_heading = "Prompt")]
    parse_special: bool,
    /// Prints a JSON line for each token instead of the text: its log-probability and the N most likely tokens
    #[arg(long, value_name = "N", value_parser = count(0, 1000), help_heading = "Prompt")]
    logprobs: Option<usize>,
    /// Prints one JSON object in the end instead of the text: the text, why it ended, token counts, seconds, the seed
    #[arg(long, conflicts_with = "logprobs", help_heading = "Prompt")]
    json: bool,
    /// Writes what stands between this text and --fim-suffix, with a coder model, and prints that alone
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["text", "prompt", "file"], allow_hyphen_values = true,
        help_heading = "Prompt")]
    fim_prefix: Option<String>,
    /// What comes behind the gap
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["text", "prompt", "file"], allow_hyphen_values = true,
        help_heading = "Prompt")]
    fim_suffix: Option<String>,
    #[command(flatten)]
    how: ContinueArgs,
}

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<()> {
    let how = &args.how;
    how.session.threads.placement.pin()?;
    let mut config = how.sampling.config()?;
    let gap = args.fim_prefix.is_some() || args.fim_suffix.is_some();
    let prompt = if gap { None } else { args.prompt.read()? };
    if prompt.is_none() && !gap && !how.saved.exists() {
        return Err(usage("no prompt; write it after the options, with -p, or with -f FILE"));
    }
    let kernels = Kernels::new().map_err(|error| usage(error.to_string()))?;
    let model = how.model.open_to_run()?;
    let tokenizer = model.tokenizer();
    how.generation.ban_end(&mut config, tokenizer);
    let seed = config.seed;
    let mut sampler = Sampler::new(config, model.config().vocab_size)?;
    how.form.constrain(&mut sampler, tokenizer)?;
    let given = match &prompt {
        Some(prompt) => {
            let encode = EncodeOptions { add_special: true, parse_special: args.parse_special };
            Some(encode_open(tokenizer, prompt, encode)?)
        }
        None if gap => {
            let text = |text: &Option<String>| args.prompt.unescaped(text.as_deref().unwrap_or_default());
            Some(tokenizer.encode_gap(&text(&args.fim_prefix), &text(&args.fim_suffix))?)
        }
        None => None,
    };
    let mut session = how.session.session(&model, how.draft.max_logits())?;
    let interrupt = Interrupt::watch()?;
    session.set_cancel(interrupt.flag());
    say(&format!("{}: {}, seed {seed}", model.name(), how.session.features(kernels)));
    let note = how.saved.restore(&mut session)?;
    // Without a prompt, the text that was kept goes on.
    let kept = || session.tokens().iter().copied().chain(kept::next_of(&note)).collect();
    let ids: Vec<u32> = given.unwrap_or_else(kept);
    if ids.len() > session.max_positions() {
        // Before the prompt is printed: nothing will follow it.
        return Err(RunError::ContextFull { needed: ids.len(), max: session.max_positions() }.into());
    }
    let Some(read) = read_ahead(&how.saved, &note, &mut session, &mut sampler, &ids, &interrupt)? else {
        return Err(Interrupted.into());
    };

    let out = RefCell::new(Checked::new());
    let shift = how.shift.keep(ids.len(), session.max_positions())?;
    let scores = args.logprobs.is_some();
    let options = GenerateOptions { draft: how.draft.draft, scores, shift, ..how.generation.options() };
    let (mut text, next) = (String::new(), Cell::new(None));
    let plain = args.logprobs.is_none() && !args.json;
    if let (Some(prompt), true, false) = (&prompt, plain, args.no_display_prompt) {
        let _ = out.borrow_mut().write(prompt);
    }
    let mut on_text = |piece: &str| {
        if args.json {
            text.push_str(piece);
        }
        out.borrow_mut().write(if plain { piece } else { "" })
    };
    let mut on_token = |drawn: Drawn<'_>| {
        next.set((!drawn.ends_text).then_some(drawn.token));
        if let Some(n) = args.logprobs {
            // An error comes up at the next text.
            let _ = out.borrow_mut().write(&logprobs_line(tokenizer, &drawn, n));
        }
    };
    let (stats, pressed) = interrupt.during(|| {
        generate_with(&mut session, tokenizer, &mut sampler, read.left, &options, &mut on_text, &mut on_token)
    });
    let mut out = out.into_inner();
    if plain {
        let _ = out.write("\n");
    }
    let mut stats = stats?;
    stats.prompt_tokens = stats.prompt_tokens.saturating_add(read.tokens);
    stats.prompt_time = stats.prompt_time.saturating_add(read.time);
    if how.saved.saving() == Saving::All {
        how.saved.save(&session, &kept::with_next(&note, next.get()))?;
    }
    if args.json {
        let prompt = prompt.unwrap_or_else(|| {
            let pieces = ids.iter().map(|&id| String::from_utf8_lossy(tokenizer.piece(id)));
            if gap { pieces.collect() } else { String::new() }
        });
        let _ = out.write(&json_line(&prompt, &text, seed, &stats));
    }
    out.finish()?;
    say_timings(&stats);
    if stats.stop == StopReason::ContextFull {
        say(&format!(
            "the context of {} tokens is full; -c makes it longer, --context-shift goes on",
            session.max_positions()
        ));
    }
    if pressed { Err(Interrupted.into()) } else { Ok(()) }
}

/// What was read of a prompt before the generation, and what is left of it.
struct ReadAhead<'i> {
    left: &'i [u32],
    tokens: usize,
    time: Duration,
}

/// Forgets what a restored session does not have in common with the prompt. If the session is to be saved with the prompt
/// alone, all but its last token are read here. Nothing if somebody pressed Ctrl-C.
fn read_ahead<'i>(
    saved: &SavedArgs,
    old: &[u8],
    session: &mut Session,
    sampler: &mut Sampler,
    ids: &'i [u32],
    interrupt: &Interrupt,
) -> Result<Option<ReadAhead<'i>>> {
    let held = session.tokens().len();
    let common = session.keep_common(ids)?;
    let (kept, new) = ids.split_at_checked(common).unwrap_or((&[], ids));
    kept.iter().try_for_each(|&id| sampler.accept(id))?;
    let note = kept::with_next(old, ids.last().copied());
    // If the file holds more, or all but the last token and which that is, there is nothing new for it.
    let is_new = |head: &[u32]| !head.is_empty() || (held == common && *old != *note);
    let Some((head, last)) = new
        .split_at_checked(new.len().saturating_sub(1))
        .filter(|(head, _)| saved.saving() == Saving::Prompt && is_new(head))
    else {
        return Ok(Some(ReadAhead { left: new, tokens: 0, time: Duration::ZERO }));
    };
    let start = Instant::now();
    let (read, pressed) = interrupt.during(|| match head {
        [] => Ok(()),
        head => session.prefill(head).map(|_| ()),
    });
    if pressed {
        return Ok(None);
    }
    read?;
    let time = start.elapsed();
    head.iter().try_for_each(|&id| sampler.accept(id))?;
    saved.save(session, &note)?;
    Ok(Some(ReadAhead { left: last, tokens: head.len(), time }))
}

/// What was asked, what came, and how fast.
fn json_line(prompt: &str, text: &str, seed: u64, stats: &GenerateStats) -> String {
    let json = serde_json::json!({
        "prompt": prompt, "text": text, "stop": format!("{:?}", stats.stop), "seed": seed,
        "prompt_tokens": stats.prompt_tokens, "generated_tokens": stats.generated_tokens,
        "prompt_seconds": stats.prompt_time.as_secs_f64(), "decode_seconds": stats.decode_time.as_secs_f64(),
    });
    format!("{json}\n")
}

/// A token with its log-probability and the `n` most likely ones, before any stage of the sampler.
fn logprobs_line(tokenizer: &Tokenizer, drawn: &Drawn<'_>, n: usize) -> String {
    let token = |id: u32, logprob: f64| {
        let bytes = tokenizer.piece(id);
        serde_json::json!({
            "id": id, "piece": String::from_utf8_lossy(bytes), "bytes": bytes, "logprob": logprob,
        })
    };
    let mut json = token(drawn.token, -negative_log(drawn.logits, drawn.token));
    if let Some(map) = json.as_object_mut() {
        let top: Vec<_> =
            top_tokens(drawn.logits, n).into_iter().map(|(id, logprob)| token(id, logprob)).collect();
        map.insert("top".to_owned(), top.into());
    }
    format!("{json}\n")
}

/// Tokens of a text that goes on, whatever the vocabulary wants to end texts with.
pub fn encode_open(tokenizer: &Tokenizer, text: &str, options: EncodeOptions) -> Result<Vec<u32>, RunError> {
    let mut ids = tokenizer.encode(text, options)?;
    if tokenizer.adds_eos() {
        ids.pop();
    }
    Ok(ids)
}

/// Two lines: the prompt, the generated text.
pub fn say_timings(stats: &GenerateStats) {
    let line = |n: usize, what: &str, passes: usize, time: Duration| {
        #[expect(clippy::cast_precision_loss, reason = "for people to read")]
        let rate = passes as f64 / time.as_secs_f64().max(1e-9);
        let seconds = time.as_secs_f64();
        say(&format!("{n:>5} {what}: {seconds:.3} s, {rate:.2} tokens/s"));
    };
    line(stats.prompt_tokens, "prompt tokens processed", stats.prompt_tokens, stats.prompt_time);
    line(stats.generated_tokens, "tokens generated", stats.decoded_tokens, stats.decode_time);
    if stats.shifts > 0 {
        say(&format!("{:>5} times the context was full and shifted", stats.shifts));
    }
    let SpeculationCounts { passes, guessed, right } = stats.speculation;
    if guessed > 0 {
        say(&format!("{guessed:>5} tokens guessed, {right} of them right, in {passes} passes"));
    }
}

/// Stdout that remembers its first error and writes nothing after it.
#[derive(Debug)]
pub struct Checked {
    out: std::io::Stdout,
    result: std::io::Result<()>,
}

impl Checked {
    /// Stdout.
    pub fn new() -> Checked {
        Checked { out: std::io::stdout(), result: Ok(()) }
    }

    /// Writes and flushes; `Break` once it has failed.
    pub fn write(&mut self, text: &str) -> ControlFlow<()> {
        if self.result.is_ok() {
            self.result = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        }
        if self.result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// The first error.
    pub fn finish(self) -> std::io::Result<()> {
        self.result
    }
}
