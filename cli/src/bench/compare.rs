//! `gable bench compare`: which of two results is faster, or that they cannot be told apart.
//!
//! The measure is the ratio of the medians; its 95 % interval is bootstrapped from the repetitions. Only an interval that
//! does not contain 1 is a difference.

use super::table::{grid, line};
use crate::options::{read_text, usage};
use crate::statistics::{median, ratio_of_medians};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Options of `gable bench compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable bench -o json > before.json; gable bench -o json > after.json
  gable bench compare before.json after.json
  llama-bench -o jsonl -m model.gguf > other.jsonl; gable bench compare other.jsonl after.json --json")]
pub struct CompareArgs {
    /// Result of `gable bench` or llama-bench with -o json or -o jsonl
    #[arg(value_name = "A.json")]
    before: PathBuf,
    /// The result that is called faster or slower
    #[arg(value_name = "B.json")]
    after: PathBuf,
    /// One JSON object per test
    #[arg(long)]
    json: bool,
}

/// Repetitions that a verdict needs on both sides.
const LEAST: usize = 3;

/// Runs the command.
pub fn run(args: &CompareArgs) -> Result<()> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let contests = contests(&before, &after);
    if contests.is_empty() {
        bail!(
            "{} and {} have no test in common; the same -p, -n, -d, -t, -b and -ub are needed",
            args.before.display(),
            args.after.display()
        );
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        for contest in &contests {
            writeln!(out, "{}", contest.json(["a", "b"]))?;
        }
        return Ok(());
    }
    write!(out, "{}", table(&contests, ["A", "B"]))?;
    let few = contests.iter().map(|c| c.a.len().min(c.b.len())).min().unwrap_or(0);
    if few < 5 {
        writeln!(out, "\nwith {few} repetitions intervals are rough; -r makes more")?;
    }
    Ok(())
}

/// Two sets of speeds of one test.
#[derive(Debug, Clone)]
pub struct Contest {
    /// Name of the test.
    pub test: String,
    /// Threads.
    pub threads: u64,
    /// Tokens per second.
    pub a: Vec<f64>,
    /// Tokens per second.
    pub b: Vec<f64>,
}

/// How B stands to A.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// B is faster.
    Faster,
    /// B is slower.
    Slower,
    /// The interval contains 1, or there are too few repetitions.
    NotDistinguishable,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::NotDistinguishable => "not distinguishable",
        }
    }
}

impl Contest {
    /// Ratio of B's median to A's, its 95 % interval, and what it means.
    pub fn verdict(&self) -> (f64, (f64, f64), Verdict) {
        let (ratio, (low, high)) = ratio_of_medians(&self.b, &self.a);
        let verdict = match () {
            () if self.a.len().min(self.b.len()) < LEAST => Verdict::NotDistinguishable,
            () if low > 1.0 => Verdict::Faster,
            () if high < 1.0 => Verdict::Slower,
            () => Verdict::NotDistinguishable,
        };
        (ratio, (low, high), verdict)
    }

    /// Medians, ratio, interval and verdict; `names` are those of A and B.
    pub fn json(&self, names: [&str; 2]) -> Value {
        let (ratio, (low, high), verdict) = self.verdict();
        json!({
            "test": self.test, "n_threads": self.threads, format!("{}_ts", names[0]): median(&self.a),
            format!("{}_ts", names[1]): median(&self.b), "ratio": ratio, "ratio_low": low, "ratio_high": high,
            "verdict": verdict.name(),
        })
    }
}

/// The contests as a table; `names` are those of A and B.
pub fn table(contests: &[Contest], names: [&str; 2]) -> String {
    let titles = names.map(|name| format!("{name} t/s"));
    let ratio = format!("{}/{}", names[1], names[0]);
    let columns = [
        ("test", 15),
        ("threads", 7),
        (&*titles[0], 15),
        (&*titles[1], 15),
        (&*ratio, 17),
        ("95 %", 15),
        ("verdict", -19),
    ];
    let mut out = grid(&columns);
    for c in contests {
        let (ratio, (low, high), verdict) = c.verdict();
        let cells = [
            c.test.clone(),
            c.threads.to_string(),
            format!("{:.2}", median(&c.a)),
            format!("{:.2}", median(&c.b)),
            format!("{ratio:.3}"),
            format!("{low:.3} to {high:.3}"),
            verdict.name().to_owned(),
        ];
        out += &line(cells.into_iter().zip(columns.map(|c| c.1)));
    }
    out
}

/// The rows of a result: a JSON array, or an object per line.
fn read(path: &Path) -> Result<Vec<Value>> {
    let text = read_text(path)?;
    let rows =
        parse(&text).with_context(|| format!("{}: no result with -o json or jsonl", path.display()))?;
    if rows.is_empty() {
        return Err(usage(format!("{} has no rows", path.display())));
    }
    Ok(rows)
}

/// The rows of what llama-bench prints with `-o json` or `-o jsonl`.
pub fn parse(text: &str) -> Result<Vec<Value>> {
    if text.trim_start().starts_with('[') {
        return Ok(serde_json::from_str(text)?);
    }
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Every test that both have, in A's order. Models are told apart where one of the sides has several.
pub fn contests(a: &[Value], b: &[Value]) -> Vec<Contest> {
    const KEYS: [&str; 8] =
        ["n_prompt", "n_gen", "n_depth", "n_threads", "n_batch", "n_ubatch", "type_k", "type_v"];
    let several =
        |rows: &[Value]| rows.windows(2).any(|w| matches!(w, [a, b] if a["model_type"] != b["model_type"]));
    let with_model = several(a) || several(b);
    let same = |a: &Value, b: &Value| {
        KEYS.iter().all(|key| a[key] == b[key]) && (!with_model || a["model_type"] == b["model_type"])
    };
    let mut out = Vec::new();
    for row in a {
        let Some(other) = b.iter().find(|other| same(row, other)) else { continue };
        let number = |key: &str| row[key].as_u64().unwrap_or(0);
        let count = |key: &str| usize::try_from(number(key)).unwrap_or(usize::MAX);
        let test = super::options::Test {
            prompt: count("n_prompt"),
            generate: count("n_gen"),
            depth: count("n_depth"),
        };
        let name = match with_model {
            true => format!("{} {}", row["model_type"].as_str().unwrap_or(""), test.name()),
            false => test.name(),
        };
        out.push(Contest { test: name, threads: number("n_threads"), a: speeds(row), b: speeds(other) });
    }
    out
}

/// Tokens per second of a row's repetitions.
pub fn speeds(row: &Value) -> Vec<f64> {
    row["samples_ts"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}
