//! The file of answers: it only grows, by a whole line at a time, each on the disk before the next.

use crate::new_file::same_file;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Answers, those of an earlier run included.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    file: File,
    there: HashSet<String>,
}

impl Output {
    /// Opens the file, or makes it. One that has lines is refused unless `resume`; a last line that was cut short, as a
    /// loss of power may leave it, is taken off.
    pub fn open(path: &Path, input: &Path, resume: bool) -> Result<Output> {
        if same_file(input, path) {
            bail!("{} is the input itself; write to another file", path.display());
        }
        if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
            bail!("{}: is there and is no regular file; name a file to write", path.display());
        }
        let open = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.with_context(|| format!("could not open {}", path.display()))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            bail!("{}: another process is writing this file", path.display());
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(|| format!("could not read {}", path.display()))?;
        if !text.is_empty() && !resume {
            bail!("{}: is there and has answers; --resume goes on with it", path.display());
        }
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at.saturating_add(1));
        let mut there = HashSet::new();
        for (i, line) in text.get(..whole).unwrap_or_default().split(|b| *b == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let id = serde_json::from_slice(line)
                .ok()
                .and_then(|v: Value| v.get("custom_id").and_then(Value::as_str).map(str::to_owned));
            let Some(id) = id else {
                let line = i.saturating_add(1);
                bail!("{}, line {line}: is no answer with a custom_id; name another file", path.display());
            };
            there.insert(id);
        }
        let length = u64::try_from(whole).unwrap_or(u64::MAX);
        file.set_len(length)
            .and_then(|()| file.seek(SeekFrom::Start(length)))
            .with_context(|| format!("could not shorten {}", path.display()))?;
        Ok(Output { path: path.to_owned(), file, there })
    }

    /// Whether there is an answer with this id.
    pub fn has(&self, id: &str) -> bool {
        self.there.contains(id)
    }

    /// Adds a line and waits until it is on the disk.
    pub fn append(&mut self, answer: &Value) -> Result<()> {
        self.file
            .write_all(format!("{answer}\n").as_bytes())
            .and_then(|()| self.file.sync_data())
            .with_context(|| format!("could not write {}", self.path.display()))
    }
}
