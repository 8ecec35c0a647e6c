//! `gable batch`: answers a file of requests, many at the same time.
//!
//! ```text
//! IN.jsonl   {"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": [...], "max_tokens": 64}}
//! OUT.jsonl  {"custom_id": "a", "response": {"status_code": 200, "body": {...}}, "error": null}
//! ```
//!
//! A record's answer follows from the record and the options alone: not from the others, from how many are in the making
//! at the same time, from the shard, or from whether the program was stopped in between. The order of the answers is
//! that in which they were complete.

mod answer;
mod output;
mod record;

use crate::exit::{Interrupted, say};
use crate::interrupt::Interrupt;
use crate::options::{GenerationArgs, ModelArgs, SamplingArgs, SessionArgs, count, read_text};
use anyhow::Result;
use gable_kernels::{KernelError, Kernels};
use gable_model::RunError;
use gable_model::batch::{BatchDecoder, Finished};
use output::Output;
use record::{Record, Requests};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Options of `gable batch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable batch requests.jsonl answers.jsonl -m model.gguf -np 8
  gable batch requests.jsonl answers.jsonl --resume
  gable batch requests.jsonl answers-2.jsonl --shard 2/4

Input is one JSON object per line, as OpenAI's batch interface takes them: custom_id, url (/v1/chat/completions or
/v1/completions) and body. Of a body, messages or prompt, max_tokens, temperature, top_p, top_k, min_p, seed, stop,
presence_penalty, frequency_penalty, logit_bias and response_format (json_schema, json_object) are read; the options
above are the defaults. Without a seed, a record's is made from its custom_id and --seed (0 if that is not given). An
answer does not depend on -np, --shard or --resume. Each is on the disk before the next is written.")]
pub struct BatchArgs {
    /// Requests, a JSON object per line; `-` is stdin
    #[arg(value_name = "IN.jsonl")]
    input: PathBuf,
    /// Answers, a JSON object per line, in the order in which they are complete
    #[arg(value_name = "OUT.jsonl")]
    output: PathBuf,
    /// Requests that are answered at the same time (-np); each has a context of its own (-c)
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count(1, 256))]
    parallel: usize,
    /// Answers only every N-th request, from the I-th on, counted from 1
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,
    /// Goes on with an output that is there: requests that it has answers of are left out
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// `--shard I/N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shard {
    i: usize,
    n: usize,
}

fn shard(text: &str) -> Result<Shard, String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((i, n)) if 1 <= i && i <= n => Ok(Shard { i, n }),
        _ => Err("write I/N with I from 1 to N, e.g. 1/4".to_owned()),
    }
}

impl Shard {
    /// Whether the record at this place of the input, from 0, is to be answered.
    fn holds(self, place: usize) -> bool {
        place % self.n == self.i.saturating_sub(1)
    }
}

/// Runs the command.
pub fn run(args: &BatchArgs) -> Result<()> {
    args.session.threads.placement.pin()?;
    let kernels = Kernels::new().map_err(|error| crate::options::usage(error.to_string()))?;
    let mut sampling = args.sampling.config()?;
    if args.sampling.seed < 0 {
        sampling.seed = 0;
    }
    let records = record::read(&args.input, &read_text(&args.input)?)?;
    let model = args.model.open_to_run()?;
    args.generation.ban_end(&mut sampling, model.tokenizer());
    let mut options = args.session.session_options(&model)?;
    let pool = args.session.threads.pool(&mut options);
    args.session.habits.say_what_is_ignored();
    let mut decoder = BatchDecoder::new(Arc::clone(&model), pool, options, args.parallel)?;
    let interrupt = Interrupt::watch()?;
    decoder.set_cancel(interrupt.flag());
    let output = Output::open(&args.output, &args.input, args.resume)?;
    let requests = Requests::new(&model, sampling, args.generation.options())?;
    say(&format!("{}: {}, {} at a time", model.name(), args.session.features(kernels), args.parallel));
    let mut work = Work { records: &records, requests, decoder, output, counts: Counts::default() };
    let start = Instant::now();
    let (done, pressed) = interrupt.during(|| work.all(args.shard));
    work.counts.say(start.elapsed().as_secs_f64());
    match done {
        Err(error) if pressed && is_cancel(&error) => {
            say("stopped; --resume goes on");
            Err(Interrupted.into())
        }
        Ok(()) if pressed => Err(Interrupted.into()),
        done => done,
    }
}

fn is_cancel(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<RunError>(), Some(RunError::Kernel(KernelError::Cancelled)))
}

/// What was done.
#[derive(Debug, Default)]
struct Counts {
    answered: usize,
    refused: usize,
    there: usize,
    prompt: usize,
    shared: usize,
    generated: usize,
}

impl Counts {
    fn say(&self, seconds: f64) {
        let Counts { answered, refused, there, prompt, shared, generated } = *self;
        #[expect(clippy::cast_precision_loss, reason = "for people to read")]
        let rate = generated as f64 / seconds.max(1e-9);
        say(&format!("{answered} requests answered, {refused} refused, {there} were answered before"));
        say(&format!("{prompt} prompt tokens, {shared} of them shared with another prompt"));
        say(&format!("{generated} tokens generated: {seconds:.3} s, {rate:.2} tokens/s"));
    }
}

struct Work<'a> {
    records: &'a [Record],
    requests: Requests<'a>,
    decoder: BatchDecoder,
    output: Output,
    counts: Counts,
}

impl Work<'_> {
    fn all(&mut self, shard: Option<Shard>) -> Result<()> {
        let records = self.records;
        let wanted = records.iter().enumerate().filter(|(i, _)| shard.is_none_or(|s| s.holds(*i)));
        let mut waiting = wanted;
        loop {
            while self.decoder.has_room() {
                let Some((i, record)) = waiting.next() else { break };
                if self.output.has(&record.custom_id) {
                    self.counts.there = self.counts.there.saturating_add(1);
                } else {
                    self.begin(i, record)?;
                }
            }
            if self.decoder.is_empty() {
                return Ok(());
            }
            for finished in self.decoder.step()? {
                self.write(finished)?;
            }
        }
    }

    /// Begins with a record, or answers at once what is wrong with it.
    fn begin(&mut self, i: usize, record: &Record) -> Result<()> {
        let request = match self.requests.request(i, record) {
            Ok(request) => request,
            Err(error) => return self.refuse(record, &format!("{error:#}")),
        };
        match self.decoder.add(request) {
            Ok(finished) => finished.map_or(Ok(()), |finished| self.write(finished)),
            // The record's fault, not the machine's.
            Err(error @ (RunError::ContextFull { .. } | RunError::Option { .. })) => {
                self.refuse(record, &error.to_string())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn refuse(&mut self, record: &Record, message: &str) -> Result<()> {
        self.counts.refused = self.counts.refused.saturating_add(1);
        self.output.append(&answer::refusal(record, message))
    }

    fn write(&mut self, finished: Finished) -> Result<()> {
        let Some(record) = self.records.get(finished.id) else { return Ok(()) };
        match finished.stop {
            Ok(stop) => {
                let counts = &mut self.counts;
                counts.answered = counts.answered.saturating_add(1);
                counts.prompt = counts.prompt.saturating_add(finished.prompt_tokens);
                counts.shared = counts.shared.saturating_add(finished.shared_tokens);
                counts.generated = counts.generated.saturating_add(finished.generated_tokens);
                let answer = answer::answer(record, self.requests.model_name(), &finished, stop);
                self.output.append(&answer)
            }
            Err(error) => self.refuse(record, &error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_in_one_shard() {
        let shards: Vec<Shard> = (1..=3).map(|i| shard(&format!("{i}/3")).unwrap()).collect();
        for place in 0..10 {
            assert_eq!(shards.iter().filter(|s| s.holds(place)).count(), 1);
        }
        for bad in ["", "0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3"] {
            assert!(shard(bad).is_err(), "{bad}");
        }
    }
}
