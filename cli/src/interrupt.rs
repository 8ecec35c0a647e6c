//! Ctrl-C: while the model works the first press asks it to stop; otherwise, and at the second, the program ends.

use crate::exit::say;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether Ctrl-C was pressed.
#[derive(Debug)]
pub struct Interrupt {
    pressed: Arc<AtomicBool>,
    working: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes Ctrl-C over. To be called once, after a line editor was made, which takes it over too.
    pub fn watch() -> Result<Interrupt> {
        let interrupt = Interrupt { pressed: Arc::default(), working: Arc::default() };
        let (pressed, working) = (Arc::clone(&interrupt.pressed), Arc::clone(&interrupt.working));
        ctrlc::set_handler(move || {
            if !working.load(Ordering::SeqCst) || pressed.swap(true, Ordering::SeqCst) {
                say("");
                std::process::exit(130);
            }
        })
        .context(
            "could not start a thread that watches for Ctrl-C; too little memory, or too many threads",
        )?;
        Ok(interrupt)
    }

    /// For a session to look at.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.pressed)
    }

    /// Does some work that looks at the flag; gives its result and whether Ctrl-C was pressed meanwhile.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (T, bool) {
        self.pressed.store(false, Ordering::SeqCst);
        self.working.store(true, Ordering::SeqCst);
        let result = work();
        self.working.store(false, Ordering::SeqCst);
        (result, self.pressed.swap(false, Ordering::SeqCst))
    }
}
