//! Where the user's messages come from: a line editor at a terminal, otherwise the lines of stdin.

use anyhow::{Context, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

/// A source of messages.
pub enum Input {
    /// With history.
    Editor { editor: Box<DefaultEditor>, history: PathBuf },
    /// One message a line.
    Lines,
}

/// What the user did.
pub enum Line {
    /// Wrote a line.
    Text(String),
    /// Pressed Ctrl-C.
    Interrupted,
}

impl Input {
    /// The terminal, or stdin where it is none.
    pub fn open(history: &Path) -> Result<Input> {
        if !std::io::stdin().is_terminal() {
            return Ok(Input::Lines);
        }
        let mut editor = DefaultEditor::new().context("could not set up the terminal")?;
        // There is none at the first time.
        let _ = editor.load_history(history);
        Ok(Input::Editor { editor: Box::new(editor), history: history.to_path_buf() })
    }

    /// Whether a person sits there.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Editor { .. })
    }

    /// The next line; nothing at the end.
    pub fn next(&mut self) -> Result<Option<Line>> {
        match self {
            Input::Lines => {
                let mut line = String::new();
                let n = std::io::stdin().lock().read_line(&mut line).context("could not read stdin")?;
                let text = line.trim_end_matches(['\n', '\r']);
                Ok((n > 0).then(|| Line::Text(text.to_owned())))
            }
            Input::Editor { editor, .. } => match editor.readline("> ") {
                Ok(line) => {
                    // A history that cannot be kept is no reason to stop.
                    let _ = editor.add_history_entry(&line);
                    Ok(Some(Line::Text(line)))
                }
                Err(ReadlineError::Eof) => Ok(None),
                Err(ReadlineError::Interrupted) => Ok(Some(Line::Interrupted)),
                Err(error) => Err(error).context("could not read the terminal"),
            },
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if let Input::Editor { editor, history } = self {
            let folder = history.parent().map(std::fs::create_dir_all);
            if !matches!(folder, Some(Err(_))) {
                let _ = editor.save_history(history);
            }
        }
    }
}
