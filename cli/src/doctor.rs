//! `gable doctor`: what this machine offers, and what is made of it.

mod product;

use crate::bench::cpu;
use crate::caches::{Sizes, caches, read};
use crate::catalogue;
use crate::limits::Prober;
use crate::options::{count, usage};
use anyhow::Result;
use gable_kernels::pool::default_threads;
use gable_kernels::{Kernels, Pool};
use product::Type;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Options of `gable doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable doctor
  GABLE_ISA=avx2 gable doctor
  gable doctor --no-bandwidth --json
  gable doctor --explain 1 4096 4096
  gable doctor --explain 128 1536 576 --type Q4_0 -t 4")]
pub struct DoctorArgs {
    /// Does not measure memory
    #[arg(long)]
    no_bandwidth: bool,
    /// Says instead how a product of M rows of K values with N columns (weight rows) is computed, and why
    #[arg(long, num_args = 3, value_names = ["M", "N", "K"], value_parser = count(1, 1 << 24))]
    explain: Option<Vec<usize>>,
    /// Type of its weights: f32, f16, bf16, int8, or a block format such as Q4_K
    #[arg(long = "type", value_name = "TYPE", default_value = "f32", requires = "explain", value_parser = Type::parse)]
    of: Type,
    /// Threads that compute it, or read memory [default: physical cores this process may use]
    #[arg(short, long, value_name = "N", env = "GABLE_THREADS", value_parser = count(1, 1024))]
    threads: Option<usize>,
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
    let mut out = std::io::stdout().lock();
    let asked = args.threads.unwrap_or_else(default_threads);
    if let Some(shape) = &args.explain {
        let &[m, n, k] = shape.as_slice() else { return Err(usage("--explain wants M, N and K")) };
        return product::explain(&mut out, kernels, args.of, [m, n, k], asked, args.json);
    }
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
    say_caches(&mut report);
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
        // So much that no cache can help; bounded, because it is only a look.
        let bytes = Sizes::here().beyond().min(1 << 30);
        let prober = Prober::new(kernels, Arc::new(Pool::new(asked)), bytes)?;
        let mut counts = vec![1, asked];
        counts.dedup();
        let mut found = Map::new();
        for n in counts {
            let best = prober.read(n) / 1e9;
            report.line("read", format!("{best:.1} GB/s with {n} thread{}", if n == 1 { "" } else { "s" }));
            found.insert(n.to_string(), best.into());
        }
        report.key("read_gb_s", found);
    }
    if args.json {
        writeln!(out, "{}", Value::Object(report.json))?;
    } else {
        for (title, text) in &report.lines {
            writeln!(out, "{title:<13} {text}")?;
        }
    }
    Ok(())
}

/// The caches of the first CPU.
fn say_caches(report: &mut Report) {
    let mut all = Vec::new();
    for cache in caches() {
        let (level, kind, size, cpus) = (cache.level, cache.kind, cache.size, cache.shared);
        report.line("cache", format!("L{level} {kind} {size}, shared by cpus {cpus}"));
        all.push(json!({ "level": level, "type": kind, "size": size, "shared_cpus": cpus }));
    }
    report.key("caches", all);
}
