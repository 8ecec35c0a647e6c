//! `gable roofline`: what this machine can do at most, and how near each kernel comes.
//!
//! ```text
//! limit = min(peak of the arithmetic, operations per byte x speed of the memory that holds the operands)
//! ```
//!
//! The peak is the best of several loops, the speed of memory the best of several ways to read it, measured right before
//! and right behind the kernel. Nothing can be faster than that; what comes out faster shows that a probe is wrong.

mod attention;
mod blocks;
mod case;
mod dense;
mod machine;
mod measure;
mod picture;
mod rowwise;
mod table;

use crate::bench::{cpu, numbers};
use crate::caches::Sizes;
use crate::exit::say;
use crate::limits::{Memory, Prober};
use crate::look::write_file;
use crate::options::usage;
use anyhow::{Result, bail};
use case::{Row, Setting};
use gable_kernels::pool::default_threads;
use gable_kernels::{Kernels, Pool};
use indicatif::{ProgressBar, ProgressStyle};
use machine::Roofs;
use measure::{Measured, Measurement, Verdict};
use regex::Regex;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Rounds of which the middle one counts: all in all, and where it shall be quick.
const ROUNDS: [usize; 2] = [5, 3];
/// Most threads, as everywhere.
const MOST_THREADS: usize = 1024;

/// Options of `gable roofline`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable roofline
  gable roofline --quick --svg roofline.svg
  gable roofline -t 1-4 --only 'dense bf16|attention'
  gable roofline --only Q4_K --json | jq '.kernels[] | {kernel, share, bound}'

A kernel's limit is the lower of two: the peak of its arithmetic, and its operations per byte times the speed \
of the memory that holds its operands. Both are measured around each kernel. int8 operations count as GFLOP/s, \
and twice where activations come in two terms. A figure above memory's speed is void; one of more than 102 % of \
its limit is an error in the probes, and the exit code is 1.")]
pub struct RooflineArgs {
    /// Threads: 1,2 or 1-4 or 1-64*2 [default: kernels with 1 and all physical cores, the machine also with 2, 4, 8..]
    #[arg(short, long, value_name = "LIST", env = "GABLE_THREADS")]
    threads: Vec<String>,
    /// Only kernels whose kind and name match this regular expression, e.g. 'prompt Q4' or 'from DRAM'
    #[arg(long, value_name = "REGEX")]
    only: Option<String>,
    /// A smaller set, fewer rounds
    #[arg(long)]
    quick: bool,
    /// Draws the limits and the kernels below them, with the most threads
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// Everything that was found.
#[derive(Debug)]
pub struct Report {
    cpu: String,
    isa: &'static str,
    sizes: Sizes,
    roofs: Vec<Roofs>,
    rows: Vec<Measured>,
}

/// Runs the command.
pub fn run(args: &RooflineArgs) -> Result<()> {
    let kernels = Kernels::new().map_err(|error| usage(error.to_string()))?;
    let rows = args.rows()?;
    let (machine_threads, kernel_threads) = args.threads()?;
    let report = measure(args, kernels, &rows, &machine_threads, &kernel_threads)?;
    if let Some(path) = &args.svg {
        write_file(path, &picture::svg(&report)?)?;
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if args.json {
        writeln!(out, "{}", report.json())?;
    } else {
        table::print(&mut out, &report)?;
    }
    out.flush()?;
    report.check()
}

impl RooflineArgs {
    /// The kernels that are asked for.
    fn rows(&self) -> Result<Vec<Row>> {
        let only = match &self.only {
            Some(text) => Some(Regex::new(text).map_err(|e| usage(format!("--only {text}: {e}")))?),
            None => None,
        };
        let all = [dense::rows(), blocks::rows(), attention::rows(), rowwise::rows()];
        let mut rows: Vec<Row> = all.into_iter().flatten().filter(|row| row.quick || !self.quick).collect();
        let known = rows.len();
        rows.retain(|row| only.as_ref().is_none_or(|only| only.is_match(&row.title())));
        if rows.is_empty() {
            let only = self.only.as_deref().unwrap_or_default();
            return Err(usage(format!("--only {only}: none of the {known} kernels is called so")));
        }
        Ok(rows)
    }

    /// Numbers of threads for the machine's limits, and those of them for kernels.
    fn threads(&self) -> Result<(Vec<usize>, Vec<usize>)> {
        let most = default_threads();
        if self.threads.is_empty() {
            let doubling = std::iter::successors(Some(1_usize), |n| n.checked_mul(2));
            let mut machine: Vec<usize> = doubling.take_while(|&n| n < most).collect();
            machine.push(most);
            let mut kernels = vec![1, most];
            kernels.dedup();
            return Ok((machine, kernels));
        }
        let mut given = numbers(&self.threads)?;
        given.sort_unstable();
        given.dedup();
        match given.iter().find(|n| !(1..=MOST_THREADS).contains(n)) {
            Some(n) => Err(usage(format!("-t {n}: allowed: 1 to {MOST_THREADS}"))),
            None => Ok((given.clone(), given)),
        }
    }
}

fn measure(
    args: &RooflineArgs,
    kernels: Kernels,
    rows: &[Row],
    machine_threads: &[usize],
    kernel_threads: &[usize],
) -> Result<Report> {
    let sizes = Sizes::here();
    let most = machine_threads.last().copied().unwrap_or(1);
    let bytes = sizes.beyond();
    let memory = Memory::with_mapped(kernels, bytes).or_else(|error| {
        say(&format!("note: {error:#}; memory of the process alone is measured"));
        Memory::new(kernels, bytes)
    })?;
    let mut prober = Prober::of(kernels, Arc::new(Pool::new(most)), memory);
    let mut report =
        Report { cpu: cpu(), isa: kernels.isa().name(), sizes, roofs: Vec::new(), rows: Vec::new() };
    let steps = machine_threads.len().saturating_add(rows.len());
    let progress = progress(steps);
    for &threads in machine_threads {
        progress.set_message(format!("the machine with {}", table::threads(threads)));
        report.roofs.push(Roofs::measure(&mut prober, sizes, threads));
        progress.inc(1);
    }
    let setting = Setting { kernels, sizes };
    let [thorough, quick] = ROUNDS;
    let rounds = if args.quick { quick } else { thorough };
    let mut measurement = Measurement { prober: &mut prober, sizes, rounds };
    for row in rows {
        progress.set_message(row.title());
        let mut case = row.case(&setting)?;
        for &threads in kernel_threads {
            let found = measurement.kernel((row.group, &row.name), &mut case, threads)?;
            for roofs in report.roofs.iter_mut().filter(|roofs| roofs.threads == threads) {
                roofs.raise(&found);
            }
            report.rows.push(found);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(report)
}

/// A bar on stderr, if that is a terminal.
fn progress(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(u64::try_from(steps).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

impl Report {
    fn json(&self) -> Value {
        let Sizes { l1, l2, l3 } = self.sizes;
        json!({
            "cpu": self.cpu, "isa": self.isa, "cache_bytes": { "L1": l1, "L2": l2, "L3": l3 },
            "machine": self.roofs.iter().map(Roofs::json).collect::<Vec<_>>(),
            "kernels": self.rows.iter().map(Measured::json).collect::<Vec<_>>(),
        })
    }

    /// An error if anything is faster than it can be.
    fn check(&self) -> Result<()> {
        let wrong: Vec<String> = self
            .rows
            .iter()
            .filter(|row| row.verdict() == Verdict::TooFast)
            .map(|row| {
                let threads = table::threads(row.threads);
                format!("{} {}, {threads}: {}", row.group.name(), row.name, row.figures())
            })
            .collect();
        if !wrong.is_empty() {
            bail!("the probes miss what this machine can do, or it changed meanwhile; {}", wrong.join("; "));
        }
        Ok(())
    }
}
