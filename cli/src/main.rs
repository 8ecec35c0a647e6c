//! The `gable` command.
#![forbid(unsafe_code)]
#![allow(rustdoc::broken_intra_doc_links)] // doc comments are help texts, where brackets mean "optional"

mod bench;
mod catalogue;
mod chat;
mod doctor;
mod exit;
mod imatrix;
mod inspect;
mod interrupt;
mod locate;
mod logits;
mod new_file;
mod npy;
mod options;
mod perplexity;
mod pull;
mod quantize;
mod run;
mod statistics;
mod tokenize;

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
    /// Show a text as tokens
    Tokenize(tokenize::TokenizeArgs),
    /// Show what a model's file holds
    Inspect(inspect::InspectArgs),
    /// Show the scores of the next token
    Logits(logits::LogitsArgs),
    /// Measure speed
    Bench(bench::BenchArgs),
    /// Measure how well a text is foreseen
    Perplexity(perplexity::PerplexityArgs),
    /// Convert a model to other element types
    Quantize(quantize::QuantizeArgs),
    /// Collect how much each column of a model's matrices matters
    Imatrix(imatrix::ImatrixArgs),
    /// Show what this machine offers
    Doctor(doctor::DoctorArgs),
}

fn main() -> ExitCode {
    let args = options::with_long_names(std::env::args_os());
    exit::code(match Cli::parse_from(args).command {
        Command::Pull(args) => pull::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Imatrix(args) => imatrix::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    })
}
