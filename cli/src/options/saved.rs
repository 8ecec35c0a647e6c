//! Where a session is kept between two runs of the program.

use crate::exit::say;
use crate::new_file::NewFile;
use anyhow::{Context, Result};
use gable_model::mapped_file::MappedFile;
use gable_model::session::Session;
use std::path::{Path, PathBuf};

/// A file with a session.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Saved session")]
pub struct SavedArgs {
    /// Keeps what was read in this file: what the next prompt has in common with it is not read again, and without a prompt
    /// its text goes on. A chat keeps its messages too and goes on with them
    #[arg(long, visible_alias = "session", value_name = "FILE")]
    prompt_cache: Option<PathBuf>,
    /// Keeps what was generated too (a chat always does)
    #[arg(long, requires = "prompt_cache")]
    prompt_cache_all: bool,
    /// Reads the file, if it is there, and leaves it as it is
    #[arg(long, requires = "prompt_cache", conflicts_with = "prompt_cache_all")]
    prompt_cache_ro: bool,
}

/// When a session is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saving {
    /// Never.
    Never,
    /// After the prompt, without its last token, which gives the scores of the next.
    Prompt,
    /// In the end.
    All,
}

impl SavedArgs {
    /// When it is to be written.
    pub fn saving(&self) -> Saving {
        match (&self.prompt_cache, self.prompt_cache_all) {
            (None, _) => Saving::Never,
            _ if self.prompt_cache_ro => Saving::Never,
            (_, true) => Saving::All,
            (_, false) => Saving::Prompt,
        }
    }

    /// Whether there is a file to go on from.
    pub fn exists(&self) -> bool {
        self.prompt_cache.as_ref().is_some_and(|path| path.exists())
    }

    /// Goes on from the file, if there is one, and gives the note that is in it.
    pub fn restore(&self, session: &mut Session) -> Result<Vec<u8>> {
        let Some(path) = self.prompt_cache.as_deref().filter(|path| path.exists()) else {
            return Ok(Vec::new());
        };
        let file = MappedFile::open(path)?;
        let note = session.restore(file.bytes()).with_context(|| {
            format!("{}: cannot be gone on from; remove it, or name another file", path.display())
        })?;
        say(&format!("{} tokens restored from {}", session.tokens().len(), path.display()));
        Ok(note.to_vec())
    }

    /// Writes the session to the file, which is whole afterwards or as before.
    pub fn save(&self, session: &Session, note: &[u8]) -> Result<()> {
        let Some(path) = &self.prompt_cache else { return Ok(()) };
        let model = session.model();
        let sources: Vec<&Path> = model.files().files().iter().map(|file| file.path()).collect();
        let mut file = NewFile::create(path, &sources)?;
        session.save(note, &mut file).with_context(|| format!("could not write {}", path.display()))?;
        file.commit()
    }
}
