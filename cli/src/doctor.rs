//! `gable doctor`: what this machine offers, and what is made of it.

use crate::bench::cpu;
use crate::catalogue;
use crate::limits::Prober;
use crate::options::usage;
use anyhow::Result;
use gable_kernels::pool::default_threads;
use gable_kernels::{Kernels, Pool};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Options of `gable doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gable doctor\n  GABLE_ISA=avx2 gable doctor\n  gable doctor --no-bandwidth --json"
)]
pub struct DoctorArgs {
    /// Does not measure memory
    #[arg(long)]
    no_bandwidth: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Findings as lines for people, and by name for scripts.
#[derive(Default)]
struct Report {
    lines: Vec<(&'static str, String)>,
    json: Map<String, Value>,
}

impl Report {
    fn line(&mut self, title: &'static str, text: String) {
        self.lines.push((title, text));
    }

    fn key(&mut self, name: &str, value: impl Into<Value>) {
        self.json.insert(name.to_owned(), value.into());
    }
}

/// Runs the command.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let kernels = Kernels::new().map_err(|error| usage(error.to_string()))?;
    let mut report = Report::default();
    let levels: Vec<&str> = Kernels::every_available().map(|k| k.isa().name()).collect();
    let forced = std::env::var("GABLE_ISA").map_or_else(|_| "best".to_owned(), |v| format!("GABLE_ISA={v}"));
    let threads = default_threads();
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    report.line("cpu", cpu());
    report.key("cpu", cpu());
    report.line("isa", format!("{} ({forced}); available: {}", kernels.isa(), levels.join(", ")));
    report.key("isa", kernels.isa().name());
    report.key("isas", levels);
    report.line(
        "threads",
        format!("{threads}: physical cores among the {logical} logical ones this process may use"),
    );
    report.key("threads", threads);
    report.key("logical_cpus", logical);
    let largest = caches(&mut report);
    let pages = read(Path::new("/sys/kernel/mm/transparent_hugepage/enabled"));
    report.line("huge pages", pages.clone().unwrap_or_else(|| "unknown".to_owned()));
    report.key("huge_pages", pages);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    for key in ["MemTotal", "MemAvailable"] {
        let line = memory.lines().find_map(|line| line.strip_prefix(key)).unwrap_or(": unknown");
        let text = line.trim_start_matches(':').trim();
        report.line("memory", format!("{key} {text}"));
        report.key(key, text);
    }
    let mut models = Map::new();
    for model in &catalogue::MODELS {
        let there = model.path().is_file();
        let state = if there { "present" } else { "not fetched" };
        report.line("model", format!("{:<14} {state}", model.id));
        models.insert(model.id.to_owned(), there.into());
    }
    report.key("models", models);
    if let Some(folder) =
        catalogue::MODELS.iter().find_map(|model| model.path().parent().map(Path::to_path_buf))
    {
        report.line("model folder", folder.display().to_string());
        report.key("model_folder", folder.display().to_string());
    }
    if !args.no_bandwidth {
        // Four times the last cache, so that it cannot help; bounded, because it is only a look.
        let bytes = largest.saturating_mul(4).clamp(64 << 20, 1 << 30);
        let prober = Prober::new(kernels, Arc::new(Pool::new(threads)), bytes)?;
        let mut counts = vec![1, threads];
        counts.dedup();
        let mut found = Map::new();
        for n in counts {
            let best = prober.read(n) / 1e9;
            report.line("read", format!("{best:.1} GB/s with {n} thread{}", if n == 1 { "" } else { "s" }));
            found.insert(n.to_string(), best.into());
        }
        report.key("read_gb_s", found);
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", Value::Object(report.json))?;
    } else {
        for (title, text) in &report.lines {
            writeln!(out, "{title:<13} {text}")?;
        }
    }
    Ok(())
}

/// The caches of the first CPU; gives the size of the largest in bytes.
fn caches(report: &mut Report) -> usize {
    let (mut largest, mut all) = (0_usize, Vec::new());
    for i in 0..8 {
        let folder = PathBuf::from(format!("/sys/devices/system/cpu/cpu0/cache/index{i}"));
        let Some(size) = read(&folder.join("size")) else { continue };
        let field = |name: &str| read(&folder.join(name)).unwrap_or_default();
        let (level, kind, cpus) = (field("level"), field("type"), field("shared_cpu_list"));
        report.line("cache", format!("L{level} {kind} {size}, shared by cpus {cpus}"));
        all.push(json!({ "level": level, "type": kind, "size": size, "shared_cpus": cpus }));
        let kib = size.trim_end_matches('K').parse::<usize>().unwrap_or(0);
        largest = largest.max(kib.saturating_mul(1024));
    }
    report.key("caches", all);
    largest
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
