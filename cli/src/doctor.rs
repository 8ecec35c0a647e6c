//! `gable doctor`: what this machine offers, and what is made of it.

use crate::bench::cpu;
use crate::catalogue;
use crate::options::usage;
use anyhow::Result;
use gable_kernels::Kernels;
use gable_kernels::pool::default_threads;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of `gable doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gable doctor\n  GABLE_ISA=avx2 gable doctor\n  gable doctor --no-bandwidth"
)]
pub struct DoctorArgs {
    /// Does not measure memory
    #[arg(long)]
    no_bandwidth: bool,
}

/// Runs the command.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let kernels = Kernels::new().map_err(|error| usage(error.to_string()))?;
    let mut out = std::io::stdout().lock();
    let levels: Vec<String> = Kernels::every_available().map(|k| k.isa().to_string()).collect();
    let forced = std::env::var("GABLE_ISA").map_or_else(|_| "best".to_owned(), |v| format!("GABLE_ISA={v}"));
    let threads = default_threads();
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    writeln!(out, "cpu           {}", cpu())?;
    writeln!(out, "isa           {} ({forced}); available: {}", kernels.isa(), levels.join(", "))?;
    writeln!(
        out,
        "threads       {threads}: physical cores among the {logical} logical ones this process may use"
    )?;
    let mut largest = 0_usize;
    for i in 0..8 {
        let folder = PathBuf::from(format!("/sys/devices/system/cpu/cpu0/cache/index{i}"));
        let Some(size) = read(&folder.join("size")) else { continue };
        let field = |name: &str| read(&folder.join(name)).unwrap_or_default();
        writeln!(
            out,
            "cache         L{} {} {size}, shared by cpus {}",
            field("level"),
            field("type"),
            field("shared_cpu_list")
        )?;
        let kib = size.trim_end_matches('K').parse::<usize>().unwrap_or(0);
        largest = largest.max(kib.saturating_mul(1024));
    }
    let pages = read(Path::new("/sys/kernel/mm/transparent_hugepage/enabled"));
    writeln!(out, "huge pages    {}", pages.as_deref().unwrap_or("unknown"))?;
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    for key in ["MemTotal", "MemAvailable"] {
        let line = memory.lines().find_map(|line| line.strip_prefix(key)).unwrap_or(": unknown");
        writeln!(out, "memory        {key} {}", line.trim_start_matches(':').trim())?;
    }
    let mut folder = None;
    for model in &catalogue::MODELS {
        let path = model.path();
        let state = if path.is_file() { "present" } else { "not fetched" };
        writeln!(out, "model         {:<14} {state}", model.id)?;
        folder = path.parent().map(Path::to_path_buf);
    }
    if let Some(folder) = folder {
        writeln!(out, "model folder  {}", folder.display())?;
    }
    if !args.no_bandwidth {
        // Four times the last cache, so that it cannot help; bounded, because it is only a look.
        let bytes = largest.saturating_mul(4).clamp(64 << 20, 1 << 30);
        let buffer = vec![1_u64; bytes / 8];
        let mut counts = vec![1, threads];
        counts.dedup();
        for n in counts {
            let best = (0..5).map(|_| bandwidth(&buffer, n)).fold(0.0, f64::max);
            writeln!(out, "read          {best:.1} GB/s with {n} thread{}", if n == 1 { "" } else { "s" })?;
        }
    }
    Ok(())
}

/// GB/s of summing the buffer once, split over threads.
#[expect(clippy::cast_precision_loss, reason = "a speed")]
fn bandwidth(buffer: &[u64], threads: usize) -> f64 {
    let part = buffer.len().div_ceil(threads.max(1)).max(1);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in buffer.chunks(part) {
            scope.spawn(move || {
                black_box(part.chunks(64).fold([0_u64; 64], |mut sums, chunk| {
                    sums.iter_mut().zip(chunk).for_each(|(s, &x)| *s = s.wrapping_add(x));
                    sums
                }))
            });
        }
    });
    size_of_val(buffer) as f64 / start.elapsed().as_secs_f64().max(1e-9) / 1e9
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
