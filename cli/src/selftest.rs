//! `gable selftest`: every kernel on this CPU against the reference, and many threads against one.

mod threads;

use crate::options::count;
use anyhow::{Result, bail};
use gable_kernels::Kernels;
use gable_kernels::selfcheck::{Effort, Outcome, run as check};
use serde_json::json;
use std::io::Write;

/// Options of `gable selftest`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable selftest
  gable selftest --quick && echo fine
  gable selftest -t 8 --json

Ends with 0 if everything is right and with 1 if anything is wrong. Every instruction set of the CPU takes part.")]
pub struct SelftestArgs {
    /// Threads that are compared with one; 1 for none [default: all there are, at least 2]
    #[arg(short, long, value_name = "N", value_parser = count(1, 1024))]
    threads: Option<usize>,
    /// Fewer shapes
    #[arg(long)]
    quick: bool,
    /// One JSON object per check
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &SelftestArgs) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let (mut checks, mut wrong, mut written) = (0_usize, 0_usize, Ok(()));
    let mut report = |kernel: &Outcome| {
        checks = checks.saturating_add(1);
        wrong = wrong.saturating_add(usize::from(!kernel.passed()));
        let line = if args.json { json_line(kernel) } else { kernel.to_string() };
        if written.is_ok() {
            written = writeln!(out, "{line}");
        }
    };
    let _ = check(if args.quick { Effort::Quick } else { Effort::Full }, &mut report);
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(all.max(2));
    if threads > 1 {
        for kernels in Kernels::every_available() {
            report(&threads::compare(kernels, threads));
        }
    }
    written?;
    if !args.json {
        writeln!(out, "{checks} checks, {wrong} wrong; 1 and {threads} threads")?;
    }
    if wrong > 0 {
        bail!("{wrong} of {checks} checks found wrong results; GABLE_ISA can choose another instruction set");
    }
    Ok(())
}

fn json_line(o: &Outcome) -> String {
    json!({
        "isa": o.isa.name(), "kernel": o.kernel, "values": o.cases, "worst": o.worst, "passed": o.passed(),
        "failure": o.failure,
    })
    .to_string()
}
