//! Options of how the machine is used: threads, the CPUs they run on, and how model files come into memory.

use super::{count, usage};
use anyhow::{Context, Result};
use gable_kernels::Pool;
use gable_kernels::pool::default_threads;
use gable_model::LoadError;
use gable_model::mapped_file::Access;
use gable_model::model::{Model, OpenOptions};
use gable_model::session::SessionOptions;
#[cfg(target_os = "linux")]
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Numbers of threads and where they run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Computation")]
pub struct ThreadArgs {
    /// Threads [default: physical cores this process may use]
    #[arg(short, long, value_name = "N", env = "GABLE_THREADS", value_parser = count(1, 1024))]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub placement: PlacementArgs,
}

/// What may differ from a plain number of threads.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Computation")]
pub struct PlacementArgs {
    /// Threads that read a prompt (-tb) [default: as many as generate]
    #[arg(long, value_name = "N", value_parser = count(1, 1024))]
    pub threads_batch: Option<usize>,
    /// CPUs to run on, as a mask in hexadecimal: 5 is CPUs 0 and 2
    #[arg(short = 'C', long, value_name = "MASK", value_parser = cpu_mask)]
    pub cpu_mask: Option<CpuMask>,
}

impl ThreadArgs {
    /// Threads that generate: as many as asked for, or as there are cores.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(default_threads)
    }

    /// A pool that is large enough for both phases, and which part of it each of them takes.
    pub fn pool(&self, options: &mut SessionOptions) -> Arc<Pool> {
        self.placement.pool(self.threads(), options)
    }

    /// `2`, or `2 (prompt 4)`.
    pub fn describe(&self) -> String {
        let threads = self.threads();
        match self.placement.threads_batch {
            Some(prompt) if prompt != threads => format!("{threads} (prompt {prompt})"),
            _ => threads.to_string(),
        }
    }
}

impl PlacementArgs {
    /// A pool for `threads` threads that generate.
    pub fn pool(&self, threads: usize, options: &mut SessionOptions) -> Arc<Pool> {
        let prompt = self.threads_batch.unwrap_or(threads);
        (options.decode_threads, options.prompt_threads) = (Some(threads), Some(prompt));
        Arc::new(Pool::new(threads.max(prompt)))
    }

    /// Keeps this thread, and those it will start, on the CPUs of the mask. To be called before anything else: the
    /// default number of threads is that of the CPUs left.
    pub fn pin(&self) -> Result<()> {
        match &self.cpu_mask {
            Some(mask) => mask.apply(),
            None => Ok(()),
        }
    }
}

/// The CPUs of a mask, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuMask(Vec<usize>);

/// Reads a hexadecimal number, with or without `0x`, of any length.
fn cpu_mask(text: &str) -> Result<CpuMask, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let mut cpus = Vec::new();
    for (i, c) in digits.chars().rev().enumerate() {
        let digit = c.to_digit(16).ok_or("write a hexadecimal number, e.g. 0x3 for CPUs 0 and 1")?;
        let bits = (0..4).filter(|bit| digit >> bit & 1 == 1);
        cpus.extend(bits.map(|bit| i.saturating_mul(4).saturating_add(bit)));
    }
    if cpus.is_empty() { Err("the mask names no CPU".to_owned()) } else { Ok(CpuMask(cpus)) }
}

impl CpuMask {
    #[cfg(target_os = "linux")]
    fn apply(&self) -> Result<()> {
        use nix::sched::{CpuSet, sched_setaffinity};
        let mut set = CpuSet::new();
        for &cpu in &self.0 {
            set.set(cpu)
                .map_err(|_| usage(format!("-C: CPU {cpu}, but there can be {} at most", CpuSet::count())))?;
        }
        let this_thread = nix::unistd::Pid::from_raw(0);
        sched_setaffinity(this_thread, &set)
            .with_context(|| format!("-C: could not run on CPUs {:?}, and no others", self.0))
    }

    #[cfg(not(target_os = "linux"))]
    fn apply(&self) -> Result<()> {
        Err(usage(format!("-C: this system cannot keep threads on CPUs {:?}; leave it out", self.0)))
    }
}

/// How a model's files come into memory.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct AccessArgs {
    /// Reads the model into memory instead of mapping its file
    #[arg(long)]
    pub no_mmap: bool,
    /// Keeps the model in physical memory
    #[arg(long)]
    pub mlock: bool,
}

impl AccessArgs {
    /// As the loader wants it.
    pub fn access(self) -> Access {
        Access { copied: self.no_mmap, locked: self.mlock }
    }

    /// Opens a model whose weights will all be read soon.
    pub fn open_to_run(self, path: &Path, options: &OpenOptions) -> Result<Model, LoadError> {
        // Before the vocabulary is read, which takes up to a third of a second.
        self.read_ahead(vec![path.to_path_buf()]);
        let model = Model::open(path, options)?;
        let files = model.files().files().iter().map(|file| file.path().to_path_buf());
        self.read_ahead(files.filter(|file| file != path).collect());
        Ok(model)
    }

    /// Lets the system fetch these files from the disk while a model is opened and the first of its weights are worked with.
    ///
    /// Left to itself, it reads on from where a page was missing, in small pieces and as if there were one reader.
    #[cfg(target_os = "linux")]
    fn read_ahead(self, mut files: Vec<PathBuf>) {
        files.retain(|file| file.is_file());
        if files.is_empty() {
            return;
        }
        let bytes = files
            .iter()
            .filter_map(|file| file.metadata().ok())
            .fold(0_u64, |n, file| n.saturating_add(file.len()));
        // A file that is read already needs none. One that does not fit would push its own beginning out again.
        if self.no_mmap || self.mlock || available_memory().is_some_and(|free| free < bytes) {
            return;
        }
        // Not waited for: it is a hint, and the end of the program may cut it short.
        let started = std::thread::Builder::new().name("read-ahead".to_owned()).spawn(move || {
            for file in files {
                let Ok(file) = std::fs::File::open(file) else { return };
                let len = file.metadata().ok().and_then(|file| i64::try_from(file.len()).ok()).unwrap_or(0);
                for start in (0..len).step_by(READ_AHEAD) {
                    let piece = i64::try_from(READ_AHEAD).unwrap_or(i64::MAX);
                    if posix_fadvise(&file, start, piece, PosixFadviseAdvice::POSIX_FADV_WILLNEED).is_err() {
                        return;
                    }
                }
            }
        });
        drop(started);
    }

    /// Elsewhere, systems are left to themselves.
    #[cfg(not(target_os = "linux"))]
    fn read_ahead(self, _: Vec<PathBuf>) {}
}

/// Bytes that are asked for at once: of a larger piece Linux fetches the beginning only.
#[cfg(target_os = "linux")]
const READ_AHEAD: usize = 128 << 10;

/// What the system could give without swapping, in bytes.
#[cfg(target_os = "linux")]
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_hexadecimal_and_of_any_length() {
        let cpus = |text: &str| cpu_mask(text).map(|mask| mask.0);
        assert_eq!(cpus("3"), Ok(vec![0, 1]));
        assert_eq!(cpus("0xA5"), Ok(vec![0, 2, 5, 7]));
        assert_eq!(cpus("100000000000000000"), Ok(vec![68]));
        for bad in ["", "0", "0x", "0x00", "g", "-1", "1,2"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }
}
