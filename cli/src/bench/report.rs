//! What a benchmark prints: llama-bench's table, CSV and JSON.

use crate::statistics::mean_and_deviation;
use anyhow::Result;
use clap::ValueEnum;
use gable_model::model::Model;
use gable_model::session::SessionOptions;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Markdown table
    Md,
    /// Comma-separated, all values quoted
    Csv,
    /// One array
    Json,
    /// One object per line
    Jsonl,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct About {
    file: String,
    kind: String,
    bytes: usize,
    params: usize,
    threads: usize,
    batches: (usize, usize),
    cache_type: &'static str,
    isa: String,
}

impl About {
    /// What the columns say of a model and how it is run.
    pub fn new(
        model: &Model,
        path: &Path,
        options: &SessionOptions,
        threads: usize,
        batches: (usize, usize),
    ) -> About {
        let tensors = model.files().tensors();
        let sum = |f: fn(&gable_model::tensor_table::TensorInfo) -> usize| {
            tensors.iter().fold(0_usize, |n, t| n.saturating_add(f(t)))
        };
        let params = sum(|t| t.dims.elements());
        About {
            file: path.display().to_string(),
            kind: format!("{} {} {}", model.config().architecture, rounded(params), main_format(model)),
            bytes: sum(|t| t.n_bytes),
            params,
            threads,
            batches,
            cache_type: options.cache_type().name(),
            isa: options.kernels.isa().to_string(),
        }
    }
}

/// The format that holds most of the bytes of the layers.
fn main_format(model: &Model) -> String {
    let mut sums: Vec<(&'static str, usize)> = Vec::new();
    for tensor in model.files().tensors().iter().filter(|t| t.dims.len() > 1) {
        let name = tensor.format.name();
        match sums.iter_mut().find(|(other, _)| *other == name) {
            Some((_, n)) => *n = n.saturating_add(tensor.dims.elements()),
            None => sums.push((name, tensor.dims.elements())),
        }
    }
    sums.iter().max_by_key(|(_, n)| *n).map_or_else(|| "F32".to_owned(), |(name, _)| name.to_uppercase())
}

/// `135M`, `1.5B`.
#[expect(clippy::cast_precision_loss, reason = "for people to read")]
pub fn rounded(params: usize) -> String {
    let n = params as f64;
    match n {
        n if n >= 9.95e9 => format!("{:.0}B", n / 1e9),
        n if n >= 9.995e8 => format!("{:.1}B", n / 1e9),
        n => format!("{:.0}M", n / 1e6),
    }
}

/// One line of the result.
#[derive(Debug, Clone)]
pub struct Measured {
    about: About,
    prompt: usize,
    generate: usize,
    depth: usize,
    samples: Vec<u64>,
}

impl Measured {
    /// A test (prompt, generated, depth) and the nanoseconds of its repetitions.
    pub fn new(about: About, (prompt, generate, depth): (usize, usize, usize), samples: Vec<u64>) -> Self {
        Measured { about, prompt, generate, depth, samples }
    }

    /// `pp512`, `tg128`, `pp512+tg128`, with ` @ d512`.
    fn test(&self) -> String {
        let depth = if self.depth > 0 { format!(" @ d{}", self.depth) } else { String::new() };
        match (self.prompt, self.generate) {
            (p, 0) => format!("pp{p}{depth}"),
            (0, g) => format!("tg{g}{depth}"),
            (p, g) => format!("pp{p}+tg{g}{depth}"),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "nanoseconds and tokens of one test")]
    fn speeds(&self) -> Vec<f64> {
        let n = self.prompt.saturating_add(self.generate) as f64;
        self.samples.iter().map(|&ns| n * 1e9 / ns as f64).collect()
    }

    /// Keys in llama-bench's order, then our own.
    fn json(&self) -> Value {
        let a = &self.about;
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one test")]
        let ns: Vec<f64> = self.samples.iter().map(|&n| n as f64).collect();
        let ((avg_ns, stddev_ns), speeds) = (mean_and_deviation(&ns), self.speeds());
        let (avg_ts, stddev_ts) = mean_and_deviation(&speeds);
        json!({
            "build_commit": env!("CARGO_PKG_VERSION"), "build_number": 0, "cpu_info": cpu(), "gpu_info": "",
            "backends": "CPU", "model_filename": a.file, "model_type": a.kind, "model_size": a.bytes,
            "model_n_params": a.params, "n_batch": a.batches.0, "n_ubatch": a.batches.1, "n_threads": a.threads,
            "type_k": a.cache_type, "type_v": a.cache_type, "n_gpu_layers": 0, "flash_attn": true,
            "use_mmap": true, "embeddings": false, "n_prompt": self.prompt, "n_gen": self.generate,
            "n_depth": self.depth, "test_time": now(), "avg_ns": avg_ns.round(), "stddev_ns": stddev_ns.round(),
            "avg_ts": avg_ts, "stddev_ts": stddev_ts, "samples_ns": self.samples, "samples_ts": speeds,
            "isa": a.isa,
        })
    }
}

/// Writes the results to stdout.
pub fn print(form: Form, rows: &[Measured]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match form {
        Form::Md => write!(out, "{}", table(rows))?,
        Form::Json => {
            let all: Vec<Value> = rows.iter().map(Measured::json).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        }
        Form::Jsonl => {
            for row in rows {
                writeln!(out, "{}", row.json())?;
            }
        }
        Form::Csv => {
            for (i, row) in rows.iter().enumerate() {
                let json = row.json();
                let fields = || json.as_object().into_iter().flatten().filter(|(_, v)| !v.is_array());
                if i == 0 {
                    writeln!(out, "{}", fields().map(|(k, _)| k.as_str()).collect::<Vec<_>>().join(","))?;
                }
                let quoted = fields().map(|(_, v)| match v {
                    Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
                    other => format!("\"{other}\""),
                });
                writeln!(out, "{}", quoted.collect::<Vec<_>>().join(","))?;
            }
        }
    }
    out.flush()?;
    Ok(())
}

/// llama-bench's table; columns whose value is not the default appear where it puts them.
#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn table(rows: &[Measured]) -> String {
    let any = |f: &dyn Fn(&About) -> bool| rows.iter().any(|row| f(&row.about));
    let mut columns: Vec<(&str, isize)> =
        vec![("model", -30), ("size", 10), ("params", 10), ("backend", -10), ("threads", 7)];
    let optional = [
        ("n_batch", 8, any(&|a| a.batches.0 != 2048)),
        ("n_ubatch", 8, any(&|a| a.batches.1 != 512)),
        ("type_k", 6, any(&|a| a.cache_type != "f16")),
        ("type_v", 6, any(&|a| a.cache_type != "f16")),
    ];
    columns.extend(optional.iter().filter(|c| c.2).map(|c| (c.0, if c.0 == "n_batch" { 7 } else { c.1 })));
    columns.extend([("test", 15), ("t/s", 20)]);
    let cell = |text: &str, width: isize| {
        let n = width.unsigned_abs();
        if width < 0 { format!(" {text:<n$} |") } else { format!(" {text:>n$} |") }
    };
    let mut out = String::from("|");
    columns.iter().for_each(|&(name, width)| out.push_str(&cell(name, width)));
    out.push_str("\n|");
    for &(_, width) in &columns {
        let dashes = "-".repeat(width.unsigned_abs().saturating_sub(usize::from(width > 0)));
        out.push_str(&format!(" {dashes}{} |", if width > 0 { ":" } else { "" }));
    }
    out.push('\n');
    for row in rows {
        let a = &row.about;
        let (mean, deviation) = mean_and_deviation(&row.speeds());
        let (bytes, params) = (a.bytes as f64, a.params as f64);
        out.push('|');
        for &(name, width) in &columns {
            let text = match name {
                "model" => a.kind.clone(),
                "size" if bytes < 1024.0 * 1024.0 * 1024.0 => format!("{:.2} MiB", bytes / 1048576.0),
                "size" => format!("{:.2} GiB", bytes / 1073741824.0),
                "params" if params < 1e9 => format!("{:.2} M", params / 1e6),
                "params" => format!("{:.2} B", params / 1e9),
                "backend" => "CPU".to_owned(),
                "threads" => a.threads.to_string(),
                "n_batch" => a.batches.0.to_string(),
                "n_ubatch" => a.batches.1.to_string(),
                "type_k" | "type_v" => a.cache_type.to_owned(),
                "test" => row.test(),
                _ => format!("{mean:.2} ± {deviation:.2}"),
            };
            out.push_str(&cell(&text, width));
        }
        out.push('\n');
    }
    out.push_str(&format!("\nbuild: {} (0)\n", env!("CARGO_PKG_VERSION")));
    out
}

/// What the system calls the CPU.
pub fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map_or_else(String::new, |(_, name)| name.trim().to_owned())
}

/// ISO 8601 in UTC; civil date from days since 1970 by eras of 400 years.
fn now() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_secs()).ok())
        .unwrap_or(0);
    let (days, rest) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let (d, month) = (day_of_year - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{d:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn the_table_has_the_columns_and_widths_of_llama_bench() {
        let about = About {
            file: String::new(),
            kind: "llama 135M Q4_1".to_owned(),
            bytes: 96_573_440,
            params: 134_515_008,
            threads: 2,
            batches: (2048, 512),
            cache_type: "f16",
            isa: "avx2".to_owned(),
        };
        let text = table(&[Measured::new(about, (0, 128, 512), vec![1_000_000_000, 1_000_000_000])]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "| model                          |       size |     params | backend    | threads |            test |                  t/s |"
        );
        assert_eq!(
            lines[1],
            "| ------------------------------ | ---------: | ---------: | ---------- | ------: | --------------: | -------------------: |"
        );
        assert_eq!(
            lines[2],
            "| llama 135M Q4_1                |  92.10 MiB |   134.52 M | CPU        |       2 |    tg128 @ d512 |        128.00 ± 0.00 |"
        );
    }

    #[test]
    fn sizes_are_rounded_as_people_call_them() {
        assert_eq!(rounded(134_515_008), "135M");
        assert_eq!(rounded(1_543_714_304), "1.5B");
    }
}
