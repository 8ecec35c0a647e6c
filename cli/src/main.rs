//! The `gable` command.
#![deny(unsafe_code)]
#![allow(rustdoc::broken_intra_doc_links)] // doc comments are help texts, where brackets mean "optional"

mod batch;
mod bench;
mod caches;
mod catalogue;
mod chat;
mod completions;
mod doctor;
mod embed;
mod exit;
mod explain;
mod feed;
mod imatrix;
mod inspect;
mod interrupt;
mod limits;
mod locate;
mod logits;
mod look;
mod new_file;
mod npy;
mod options;
#[cfg(target_os = "linux")]
#[allow(unsafe_code)] // an allocator and a signal handler
mod out_of_memory;
mod perplexity;
mod profile;
mod pull;
mod quantize;
mod roofline;
mod run;
mod score;
mod selftest;
#[cfg(target_os = "linux")]
#[allow(unsafe_code)] // a signal handler
mod sigbus;
mod statistics;
mod tokenize;
mod work;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Run, measure and look inside transformers on the CPU.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    args_override_self = true, // the last one counts, as scripts that add options expect
    after_help = "Examples:
  gable run 'The capital of France is'     continues a text, with the default model
  gable chat -m model.gguf                 talks with a model
  gable bench -m model.gguf                measures its speed
  gable COMMAND --help                     shows a command's options and examples"
)]
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
    /// Answer a file of requests, many at the same time
    Batch(batch::BatchArgs),
    /// Show a text as tokens
    Tokenize(tokenize::TokenizeArgs),
    /// Show what a model's file holds
    Inspect(inspect::InspectArgs),
    /// Show the scores of the next token
    Logits(logits::LogitsArgs),
    /// Look inside: vectors, attention, layers, predictions
    Look(Box<look::LookArgs>),
    /// Make vectors of texts
    Embed(embed::EmbedArgs),
    /// Measure speed
    Bench(bench::BenchArgs),
    /// Show where the time goes, operation by operation
    Profile(Box<profile::ProfileArgs>),
    /// Measure the machine's limits and how near each kernel comes
    Roofline(roofline::RooflineArgs),
    /// Measure how well a text is foreseen
    Perplexity(perplexity::PerplexityArgs),
    /// Log-probabilities of given texts or choices
    Score(score::ScoreArgs),
    /// Show which kernel computes what, and why
    Explain(explain::ExplainArgs),
    /// Check every kernel on this CPU
    Selftest(selftest::SelftestArgs),
    /// Convert a model to other element types
    Quantize(quantize::QuantizeArgs),
    /// Collect how much each column of a model's matrices matters
    Imatrix(imatrix::ImatrixArgs),
    /// Show what this machine offers
    Doctor(doctor::DoctorArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// Write manual pages
    Man(completions::ManArgs),
}

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    {
        sigbus::watch();
        out_of_memory::watch();
    }
    let args = options::with_long_names(std::env::args_os());
    exit::code(match Cli::parse_from(args).command {
        Command::Pull(args) => pull::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Batch(args) => batch::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Look(args) => look::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Roofline(args) => roofline::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Imatrix(args) => imatrix::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => completions::man(&args, Cli::command()),
    })
}
