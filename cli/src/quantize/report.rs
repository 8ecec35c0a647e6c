//! What `gable quantize` says: a line per tensor, sizes, fall-backs, or one JSON object.

use anyhow::Result;
use gable_kernels::quant::Format;
use gable_model::quantize::{Choice, Deviation, Source};
use gable_model::tensor_table::TensorInfo;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::time::Instant;

/// Collects and prints.
pub struct Report {
    json: bool,
    bar: ProgressBar,
    started: Instant,
    total: usize,
    parameters: f64,
    done: Vec<Line>,
}

/// What became of a tensor.
struct Line {
    name: Box<str>,
    from: Format,
    to: Format,
    instead_of: Option<Format>,
    bytes: [usize; 2],
    deviation: Option<Deviation>,
}

#[expect(clippy::cast_precision_loss, reason = "sizes for people")]
fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// As llama.cpp prints types: `q4_0`, but `q4_K`.
fn name(format: Format) -> String {
    format.name().to_ascii_lowercase().replace("_k", "_K")
}

impl Report {
    /// For all tensors of a model.
    #[expect(clippy::cast_precision_loss, reason = "a count for people")]
    pub fn new(source: &Source, choices: &[Choice], json: bool) -> Result<Report> {
        let tensors = source.tensors();
        let work: usize = tensors
            .iter()
            .zip(choices)
            .filter(|(t, c)| t.format != c.format)
            .fold(0, |n, (t, _)| n.saturating_add(t.dims.elements()));
        let bar = ProgressBar::new(u64::try_from(work).unwrap_or(u64::MAX));
        bar.set_style(
            ProgressStyle::with_template("[{bar:30}] {percent} %, {eta} left")?.progress_chars("=> "),
        );
        let parameters = tensors.iter().fold(0, |n: usize, t| n.saturating_add(t.dims.elements()));
        Ok(Report {
            json,
            bar,
            started: Instant::now(),
            total: tensors.len(),
            parameters: parameters as f64,
            done: Vec::new(),
        })
    }

    /// A tensor is written, or would be.
    pub fn tensor(
        &mut self,
        tensor: &TensorInfo,
        choice: Choice,
        deviation: Option<Deviation>,
    ) -> Result<()> {
        let new_bytes = tensor.dims.n_bytes(choice.format).unwrap_or(usize::MAX);
        let line = Line {
            name: tensor.name.clone(),
            from: tensor.format,
            to: choice.format,
            instead_of: choice.instead_of,
            bytes: [tensor.n_bytes, new_bytes],
            deviation,
        };
        if !self.json {
            let text = line.text(self.done.len().saturating_add(1), self.total, tensor);
            self.bar.suspend(|| writeln!(std::io::stdout(), "{text}"))?;
        }
        if line.from != line.to {
            self.bar.inc(u64::try_from(tensor.dims.elements()).unwrap_or(0));
        }
        self.done.push(line);
        Ok(())
    }

    /// Sizes, fall-backs and time.
    pub fn finish(self, dry: bool) -> Result<()> {
        self.bar.finish_and_clear();
        let [before, after] = [0, 1].map(|i| {
            self.done.iter().fold(0_usize, |n, l| n.saturating_add(l.bytes.get(i).copied().unwrap_or(0)))
        });
        let fallbacks = self.done.iter().filter(|l| l.instead_of.is_some()).count();
        let converted = self.done.iter().filter(|l| l.from != l.to).count();
        let seconds = self.started.elapsed().as_secs_f64();
        let mut out = std::io::stdout().lock();
        if self.json {
            let tensors: Vec<_> = self.done.iter().map(Line::json).collect();
            let json = serde_json::json!({
                "model_bytes": before, "quant_bytes": after, "converted": converted, "fallbacks": fallbacks,
                "seconds": seconds, "dry_run": dry, "tensors": tensors,
            });
            writeln!(out, "{json}")?;
            return Ok(());
        }
        let bits = |bytes: usize| mib(bytes) * f64::from(8 << 20) / self.parameters.max(1.0);
        writeln!(out, "\nmodel size  = {:8.2} MiB ({:.2} BPW)", mib(before), bits(before))?;
        writeln!(out, "quant size  = {:8.2} MiB ({:.2} BPW)", mib(after), bits(after))?;
        if fallbacks > 0 {
            writeln!(out, "WARNING: {fallbacks} of {converted} tensor(s) required fallback quantization")?;
        }
        if !dry {
            writeln!(out, "quantize time = {:8.2} ms", seconds * 1e3)?;
        }
        Ok(())
    }
}

impl Line {
    fn text(&self, i: usize, n: usize, tensor: &TensorInfo) -> String {
        let dim = |i| tensor.dims.get(i).copied().unwrap_or(1);
        let (from, to) = (name(self.from), name(self.to));
        let head = format!(
            "[{i:4}/{n:4}] {:>36} - [{:5}, {:5}, {:5}, {:5}], type = {from:>6}, ",
            self.name,
            dim(0),
            dim(1),
            dim(2),
            dim(3)
        );
        let [before, after] = self.bytes.map(mib);
        if self.from == self.to {
            return format!("{head}size = {before:8.3} MiB");
        }
        let mut text = format!("{head}converting to {to} .. size = {before:8.2} MiB -> {after:8.2} MiB");
        if let Some(d) = self.deviation {
            text += &format!(", rmse {:.3e} ({:.3} %), max {:.3e}", d.rms, d.relative * 100.0, d.max);
        }
        if let Some(wanted) = self.instead_of {
            text += &format!(
                " - fallback: {} columns are not divisible by {}, required for {}",
                dim(0),
                wanted.block_len(),
                name(wanted)
            );
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let deviation = |f: fn(Deviation) -> f64| self.deviation.map(f);
        serde_json::json!({
            "name": &*self.name, "from": self.from.name(), "to": self.to.name(),
            "instead_of": self.instead_of.map(Format::name), "bytes": self.bytes[0], "new_bytes": self.bytes[1],
            "rmse": deviation(|d| d.rms), "relative": deviation(|d| d.relative), "max": deviation(|d| d.max),
        })
    }
}
