//! The `gable` command.
#![forbid(unsafe_code)]

mod catalogue;
mod chat;
mod exit;
mod interrupt;
mod locate;
mod options;
mod pull;
mod run;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Run, measure and look inside transformers on the CPU.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch a model into the cache
    Pull(pull::PullArgs),
    /// Continue a text
    Run(run::RunArgs),
    /// Talk with a model
    Chat(chat::ChatArgs),
}

fn main() -> ExitCode {
    let args = options::with_long_names(std::env::args_os());
    exit::code(match Cli::parse_from(args).command {
        Command::Pull(args) => pull::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Chat(args) => chat::run(&args),
    })
}
