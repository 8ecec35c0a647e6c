//! Ctrl-C: the first press asks the work to stop, a second one ends the program.

use crate::exit::say;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether Ctrl-C was pressed.
#[derive(Debug, Clone)]
pub struct Interrupt {
    flag: Arc<AtomicBool>,
}

impl Interrupt {
    /// From now on Ctrl-C sets the flag; pressed while it is set, it ends the program with code 130.
    pub fn watch() -> Result<Interrupt> {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&flag);
        ctrlc::set_handler(move || {
            if seen.swap(true, Ordering::Relaxed) {
                say("");
                std::process::exit(130);
            }
        })
        .context("could not watch for Ctrl-C")?;
        Ok(Interrupt { flag })
    }

    /// For a session to look at.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Whether it was pressed since the last call.
    pub fn take(&self) -> bool {
        self.flag.swap(false, Ordering::Relaxed)
    }
}
