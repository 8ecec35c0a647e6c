//! `gable completions` and `gable man`: what a package puts beside the program.

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;

/// Options of `gable completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable completions bash > ~/.local/share/bash-completion/completions/gable
  gable completions zsh > ~/.zfunc/_gable
  gable completions fish > ~/.config/fish/completions/gable.fish")]
pub struct CompletionsArgs {
    /// Whose completions
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Options of `gable man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable man ~/.local/share/man/man1\n  man gable-bench")]
pub struct ManArgs {
    /// Folder for gable.1, gable-run.1 and so on; it is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints completions.
pub fn run(args: &CompletionsArgs, mut program: Command) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut program, "gable", &mut text);
    std::io::stdout().lock().write_all(&text)?;
    Ok(())
}

/// Writes the manual pages.
pub fn man(args: &ManArgs, program: Command) -> Result<()> {
    let failed = || format!("could not write manual pages into {}", args.folder.display());
    std::fs::create_dir_all(&args.folder).with_context(failed)?;
    clap_mangen::generate_to(program, &args.folder).with_context(failed)?;
    Ok(())
}
