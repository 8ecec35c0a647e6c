//! `gable chat`: talks with a model.

/// Options of `gable chat`.
#[derive(Debug, clap::Args)]
pub struct ChatArgs {}

/// Runs the command.
pub fn run(_args: &ChatArgs) -> anyhow::Result<()> {
    Ok(())
}
