//! The `gable` program as tests call it.
#![allow(dead_code, reason = "each test file uses some of it")]

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program with these arguments, its environment free of settings.
pub fn gable(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gable"));
    command.args(args).stdin(Stdio::null());
    for variable in ["GABLE_MODEL", "GABLE_THREADS", "GABLE_NUMERICS", "COLUMNS", "NO_COLOR"] {
        command.env_remove(variable);
    }
    command
}

/// Runs it, whatever comes of it.
pub fn output(args: &[&str]) -> Output {
    gable(args).output().unwrap()
}

/// What it prints; it must succeed.
pub fn stdout(args: &[&str]) -> String {
    let output = output(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The JSON it prints; it must succeed.
pub fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

/// Feeds `input` to stdin, whatever comes of it.
pub fn talk(args: &[&str], input: &str) -> Output {
    let mut command = gable(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Ends with `code` and says `words` on stderr, nothing on stdout.
pub fn fails(args: &[&str], code: i32, words: &[&str]) {
    failed(&output(args), code, words);
}

/// The same of a program that has ended.
pub fn failed(output: &Output, code: i32, words: &[&str]) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{err}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    for word in words {
        assert!(err.contains(word), "{err:?} lacks {word:?}");
    }
}

/// A model in the cache. A test that needs it fails without it.
pub fn cached(id: &str) -> PathBuf {
    let home = std::env::var_os("GABLE_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".cache").join("gable"));
    let path = home.join(format!("{id}.gguf"));
    assert!(path.is_file(), "{id} is not in the cache; fetch it with `gable pull {id}`");
    path
}

/// A file of the model crate's golden results.
pub fn golden(name: &str) -> String {
    path("../model/tests/data/golden", name)
}

/// A tiny checkpoint of the model crate.
pub fn fixture(name: &str) -> String {
    path("../model/tests/fixtures", name)
}

fn path(folder: &str, name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name);
    path.to_str().unwrap().to_owned()
}

/// `text` must be what stands in `snapshots/NAME.txt`. With `GABLE_BLESS=1` it is written there instead.
pub fn snapshot(name: &str, text: &str) {
    let path = path("snapshots", &format!("{name}.txt")).replace("/snapshots/", "/tests/snapshots/");
    if std::env::var_os("GABLE_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "{path} is out of date; look at the change and run the test with GABLE_BLESS=1. Now:\n{text}"
    );
}

/// A path of its own in the folder for temporary files, removed at the end.
pub struct Scrap(PathBuf);

impl Scrap {
    /// A name for it.
    pub fn new(name: &str) -> Scrap {
        Scrap(std::env::temp_dir().join(format!("gable-cli-{}-{name}", std::process::id())))
    }

    /// With these contents.
    pub fn file(name: &str, contents: impl AsRef<[u8]>) -> Scrap {
        let scrap = Scrap::new(name);
        std::fs::write(&scrap.0, contents).unwrap();
        scrap
    }

    /// The path.
    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// What stands in it.
    pub fn read(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for Scrap {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
