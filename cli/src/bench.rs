//! `gable bench`: prompt and generation speed, with llama-bench's flags, test names and output.
//!
//! Tokens are random, nothing is tokenized or sampled. Every test warms up at full length; repetitions go round over all
//! tests, so that a machine that slows down does so for all of them.

mod against;
mod compare;
mod host;
mod list;
mod measure;
mod options;
mod plot;
mod record;
mod sweep;
mod synthetic;
mod table;

pub use host::cpu;
pub use list::list as numbers;
pub use synthetic::weights as random_weights;

use anyhow::Result;
use clap::Subcommand;
use options::MeasureArgs;
use std::path::PathBuf;

/// Options of `gable bench`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  gable bench
  gable bench -m smollm2,gemma3 -p 128,512 -n 64 -r 3 --roofline
  gable bench -p 0 -n 32 -d 0,512 -t 1-4 -o json > before.json
  gable bench -m synthetic:llama-1b:q4_k
  gable bench -m model.gguf --against ~/llama.cpp/build/bin/llama-bench
  gable bench compare before.json after.json
  gable bench sweep --by depth --svg depth.svg

Lists are written 1,2,3 or by repeating the option, ranges 1-4, 1-9+2 or 1-64*2; all combinations run.
As in llama-bench, generation is the model's passes alone; `gable profile` says what sampling and text take besides."
)]
pub struct BenchArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Runs that llama-bench too, in turns with ours, and says which is faster
    #[arg(long, value_name = "LLAMA_BENCH", conflicts_with = "output_err")]
    against: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say which of two results is faster, or that they cannot be told apart
    Compare(compare::CompareArgs),
    /// Measure speed against depth, threads or batch, as a table and a plot
    Sweep(Box<sweep::SweepArgs>),
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    args.measure.placement.pin()?;
    match (&args.action, &args.against) {
        (Some(Action::Compare(args)), _) => compare::run(args),
        (Some(Action::Sweep(args)), _) => sweep::run(args),
        (None, Some(program)) => against::run(&args.measure, program),
        (None, None) => {
            let records = measure::run(&args.measure, &args.measure.plan()?)?;
            table::print(&mut std::io::stdout().lock(), args.measure.output, &records, args.measure.roofline)
        }
    }
}
