//! `gable score`: how probable a model holds given texts, or given continuations of a prompt.
//!
//! ```text
//! {"text": T}                          -> sum of ln P(token | tokens before) over the tokens of T
//! {"prompt": P, "choices": [A, B]}     -> the same over the tokens of A after P, of B after P; which is the best
//! ```
//!
//! A choice is tokenized together with its prompt, as the model would meet it. Where a token of one of them reaches
//! across the border, all choices of the line are scored from before that token on, so that they stay comparable.

use crate::exit::say;
use crate::feed::{self, Feed};
use crate::options::{ReadingArgs, read_text, usage};
use crate::run::encode_open;
use crate::statistics::negative_log;
use anyhow::{Context, Result, bail};
use gable_kernels::gemm::Phase;
use gable_model::model::Model;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::PathBuf;

/// Options of `gable score`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable score 'The dog bites the man.' 'Man the bites dog the.'
  gable score -p 'The capital of France is' ' Paris' ' Rome'
  gable score -f tasks.jsonl > scores.jsonl

Input is one JSON object per line, {\"text\": T} or {\"prompt\": P, \"choices\": [A, B, ...]}; other keys are passed on.
Output is one JSON object per line; log-probabilities are natural logarithms.")]
pub struct ScoreArgs {
    /// Texts, or with -p continuations
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// Scores the texts as continuations of this one
    #[arg(short, long, value_name = "TEXT", requires = "texts", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Reads lines of JSON from a file; `-` is stdin
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["texts", "prompt"])]
    file: Option<PathBuf>,
    /// Adds each token with its log-probability
    #[arg(long)]
    tokens: bool,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// Runs the command.
pub fn run(args: &ScoreArgs) -> Result<()> {
    args.reading.session.threads.placement.pin()?;
    let tasks = tasks(args)?;
    let model = args.reading.model.open_to_run()?;
    let mut options = args.reading.session.session_options(&model)?;
    options.max_logits = feed::ROWS;
    let pool = args.reading.session.threads.pool(&mut options);
    let feed = Feed::new(&model, &pool, options, Phase::Prompt)?;
    say(&format!("{}: {}", model.name(), args.reading.session.features(options.kernels)));
    let mut scorer = Scorer { args, model: &model, feed, max: options.max_positions };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (i, task) in tasks.into_iter().enumerate() {
        let found = scorer.task(task).with_context(|| format!("line {}", i.saturating_add(1)))?;
        writeln!(out, "{}", Value::Object(found))?;
        out.flush()?;
    }
    Ok(())
}

/// One line of input.
struct Task {
    /// Keys that are passed on.
    given: Map<String, Value>,
    prompt: Option<String>,
    texts: Vec<String>,
}

fn tasks(args: &ScoreArgs) -> Result<Vec<Task>> {
    if let Some(path) = &args.file {
        let text = read_text(path)?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        return lines
            .map(|(i, line)| {
                Task::parse(line).with_context(|| format!("{}, line {}", path.display(), i.saturating_add(1)))
            })
            .collect();
    }
    if args.texts.is_empty() {
        return Err(usage("no text; write some after the options, or give -f FILE with lines of JSON"));
    }
    Ok(match &args.prompt {
        Some(prompt) => {
            let given = Map::from_iter([("prompt".to_owned(), prompt.as_str().into())]);
            vec![Task { given, prompt: Some(prompt.clone()), texts: args.texts.clone() }]
        }
        None => {
            let task = |text: &String| {
                let given = Map::from_iter([("text".to_owned(), text.as_str().into())]);
                Task { given, prompt: None, texts: vec![text.clone()] }
            };
            args.texts.iter().map(task).collect()
        }
    })
}

impl Task {
    fn parse(line: &str) -> Result<Task> {
        const FORMS: &str = "write {\"text\": T} or {\"prompt\": P, \"choices\": [A, B]}";
        let value: Value = serde_json::from_str(line).context("is not JSON")?;
        let Value::Object(mut given) = value else { bail!("is no object; {FORMS}") };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let string = |key: &str| given.get(key).and_then(text);
        let (prompt, choices) = (string("prompt"), given.get("choices").and_then(Value::as_array));
        match (string("text"), prompt, choices) {
            (Some(text), None, None) => Ok(Task { given, prompt: None, texts: vec![text] }),
            (None, Some(prompt), Some(choices)) if !choices.is_empty() => {
                let texts: Option<Vec<String>> = choices.iter().map(text).collect();
                let Some(texts) = texts else { bail!("a choice is no string; {FORMS}") };
                given.remove("choices");
                Ok(Task { given, prompt: Some(prompt), texts })
            }
            _ => bail!("has neither of the two forms; {FORMS}"),
        }
    }
}

/// A text's tokens and what the model holds of them.
struct Scored {
    text: String,
    ids: Vec<u32>,
    logprobs: Vec<f64>,
}

impl Scored {
    fn logprob(&self) -> f64 {
        self.logprobs.iter().sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "bytes of a text")]
    fn per_byte(&self) -> f64 {
        self.logprob() / self.text.len().max(1) as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "tokens of a text")]
    fn json(&self, model: &Model, tokens: bool) -> Map<String, Value> {
        let mean = self.logprob() / self.logprobs.len() as f64;
        let mut map = Map::new();
        map.insert("logprob".to_owned(), self.logprob().into());
        map.insert("tokens".to_owned(), self.logprobs.len().into());
        map.insert("bytes".to_owned(), self.text.len().into());
        map.insert("mean_logprob".to_owned(), mean.into());
        map.insert("logprob_per_byte".to_owned(), self.per_byte().into());
        if tokens {
            let token = |(&id, &logprob): (&u32, &f64)| {
                let piece = String::from_utf8_lossy(model.tokenizer().piece(id)).into_owned();
                json!({ "id": id, "piece": piece, "logprob": logprob })
            };
            let list: Vec<Value> = self.ids.iter().zip(&self.logprobs).map(token).collect();
            map.insert("token_logprobs".to_owned(), list.into());
        }
        map
    }
}

struct Scorer<'a> {
    args: &'a ScoreArgs,
    model: &'a Model,
    feed: Feed,
    max: usize,
}

impl Scorer<'_> {
    fn task(&mut self, task: Task) -> Result<Map<String, Value>> {
        let Task { given: mut out, prompt, texts } = task;
        let scored = self.score(prompt.as_deref(), texts)?;
        let tokens = self.args.tokens;
        if prompt.is_none() {
            out.extend(scored.iter().flat_map(|s| s.json(self.model, tokens)));
            return Ok(out);
        }
        let best = |by: fn(&Scored) -> f64| {
            let best = scored.iter().enumerate().max_by(|a, b| by(a.1).total_cmp(&by(b.1)));
            best.map_or(0, |(i, _)| i)
        };
        let choice = |s: &Scored| {
            let text = Map::from_iter([("text".to_owned(), Value::from(s.text.as_str()))]);
            Value::Object(text.into_iter().chain(s.json(self.model, tokens)).collect())
        };
        out.insert("choices".to_owned(), scored.iter().map(choice).collect());
        out.insert("best".to_owned(), best(Scored::logprob).into());
        out.insert("best_per_byte".to_owned(), best(Scored::per_byte).into());
        Ok(out)
    }

    /// Log-probabilities of the texts' tokens after the prompt.
    fn score(&mut self, prompt: Option<&str>, texts: Vec<String>) -> Result<Vec<Scored>> {
        let options = self.args.reading.encoding();
        let tokenizer = self.model.tokenizer();
        let before = prompt.unwrap_or("");
        let mut whole = Vec::with_capacity(texts.len());
        for text in &texts {
            whole.push(encode_open(tokenizer, &format!("{before}{text}"), options)?);
        }
        let context = tokenizer.encode(before, options)?;
        let shared = |ids: &Vec<u32>| ids.iter().zip(&context).take_while(|(a, b)| a == b).count();
        // Nothing precedes the first token, so it cannot be scored.
        let border = whole.iter().map(shared).min().unwrap_or(0).max(1);
        let mut out = Vec::with_capacity(texts.len());
        for (text, ids) in texts.into_iter().zip(whole) {
            if ids.len() <= border {
                bail!("{text:?} has no token with something before it; write more, or a prompt");
            }
            if ids.len() > self.max {
                bail!("{} tokens do not fit into a context of {}; raise -c", ids.len(), self.max);
            }
            let mut logprobs = Vec::with_capacity(ids.len());
            self.feed.score_rest(&ids, border.saturating_sub(1), |pool, logits, targets| {
                logprobs.extend(feed::spread(pool, targets.len(), |i| {
                    -negative_log(logits.row(i), targets.get(i).copied().unwrap_or(u32::MAX))
                }));
            })?;
            let ids = ids.get(border..).unwrap_or_default().to_vec();
            out.push(Scored { text, ids, logprobs });
        }
        Ok(out)
    }
}
