//! The times of a run by operation and by the layers that do the same.

use super::Measured;
use crate::limits::Limits;
use crate::work::{Counter, Extent, Work};
use gable_kernels::gemm::Phase;
use gable_model::model::Model;
use gable_model::observer::Operation;
use gable_model::session::SessionOptions;
use gable_model::timeline::TimedPass;
use serde_json::{Value, json};
use std::time::Duration;

/// One operation of the layers that do it with the same shapes and types.
#[derive(Debug)]
pub struct Row {
    /// Which.
    pub operation: Operation,
    /// Shapes and types of its matrices, or how far its attention reaches.
    pub what: String,
    /// The layers, ascending; none for what is done before or behind them.
    pub layers: Vec<usize>,
    /// How often.
    pub calls: usize,
    /// All of them.
    pub seconds: f64,
    /// What was to be done.
    pub work: Work,
    /// How long that takes at least.
    pub limit_seconds: f64,
    /// What bounds it; empty where nothing is counted.
    pub bound: &'static str,
}

/// Prompt or generation.
#[derive(Debug)]
pub struct Part {
    /// `prompt` or `generation`.
    pub name: &'static str,
    /// Passes through the model.
    pub passes: usize,
    /// Their rows.
    pub tokens: usize,
    /// By the clock of the loop that generates.
    pub wall: f64,
    /// What was computed, longest first.
    pub rows: Vec<Row>,
    /// Drawing tokens from logits.
    pub sampling: f64,
    /// From tokens to text.
    pub text: f64,
    /// What the machine can do with the threads that were used.
    pub limits: Limits,
    /// Seconds in which that many threads begin and end an operation that does nothing.
    pub fork_and_join: f64,
}

/// All of a run.
#[derive(Debug)]
pub struct Breakdown {
    /// Prompt, and generation if there was one.
    pub parts: Vec<Part>,
}

impl Breakdown {
    /// Sorts a run's times; limits and the cost of a fork are those of prompts and of generation.
    pub fn new(
        model: &Model,
        options: &SessionOptions,
        measured: &Measured,
        limits: [Limits; 2],
        fork_and_join: [f64; 2],
    ) -> Breakdown {
        let counter = Counter::new(model, options);
        let part = |i: usize, name, phase| {
            let (limits, wall) = (*limits.get(i)?, measured.wall.get(i)?.as_secs_f64());
            let passes: Vec<&TimedPass> = measured.passes.iter().filter(|p| p.phase == phase).collect();
            let (sampling, text) = between(measured, phase);
            let mut rows: Vec<Row> = Vec::new();
            for pass in &passes {
                add(&mut rows, model, &counter, &limits, pass);
            }
            rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
            Some(Part {
                name,
                passes: passes.len(),
                tokens: passes.iter().fold(0, |n, p| n.saturating_add(p.rows)),
                wall,
                rows,
                sampling,
                text,
                limits,
                fork_and_join: fork_and_join.get(i).copied().unwrap_or(0.0),
            })
        };
        let parts = [part(0, "prompt", Phase::Prompt), part(1, "generation", Phase::Decode)];
        Breakdown { parts: parts.into_iter().flatten().filter(|p| p.passes > 0).collect() }
    }

    /// For scripts.
    pub fn json(&self, model: &str, (isa, numerics, threads): (&str, &str, [usize; 2])) -> Value {
        let (wall, accounted) =
            self.parts.iter().fold((0.0, 0.0), |(w, a), p| (w + p.wall, a + p.accounted()));
        json!({
            "model": model, "isa": isa, "numerics": numerics, "threads": threads[1], "threads_batch": threads[0],
            "wall_ms": wall * 1e3, "accounted_ms": accounted * 1e3,
            "phases": self.parts.iter().map(Part::json).collect::<Vec<_>>(),
        })
    }
}

/// Adds a pass's spans to the rows of their kind.
fn add(rows: &mut Vec<Row>, model: &Model, counter: &Counter<'_>, limits: &Limits, pass: &TimedPass) {
    let logits = usize::from(pass.spans.iter().any(|span| span.operation == Operation::Unembed));
    let extent = Extent { phase: pass.phase, first: pass.first, rows: pass.rows, logits };
    for span in &pass.spans {
        let what = what(model, counter, span.operation, span.layer);
        let work = counter.operation(span.operation, span.layer, &extent);
        let at = rows.iter().position(|row| row.operation == span.operation && row.what == what);
        let at = at.unwrap_or_else(|| {
            rows.push(Row::new(span.operation, what));
            rows.len().saturating_sub(1)
        });
        let Some(row) = rows.get_mut(at) else { continue };
        let in_layer = span.operation > Operation::Embed && span.layer < model.config().n_layers;
        if let (true, Err(place)) = (in_layer, row.layers.binary_search(&span.layer)) {
            row.layers.insert(place, span.layer);
        }
        row.calls = row.calls.saturating_add(1);
        row.seconds += span.end.saturating_sub(span.start).as_secs_f64();
        row.work = row.work + work;
        row.limit_seconds += limits.seconds(&work);
        if work != Work::default() {
            row.bound = limits.bound(&row.work);
        }
    }
}

/// What tells apart the layers of one operation.
fn what(model: &Model, counter: &Counter<'_>, operation: Operation, layer: usize) -> String {
    if operation == Operation::Attention {
        return match model.config().windows.get(layer).copied().flatten() {
            Some(n) => format!("window {n}"),
            None => "all positions".to_owned(),
        };
    }
    // Matrices of one type over one input are as one.
    let mut shapes: Vec<(&str, usize, usize)> = Vec::new();
    for m in counter.matrices(operation, layer) {
        let format = m.format().name();
        match shapes.iter_mut().find(|(f, _, k)| (*f, *k) == (format, m.cols())) {
            Some((_, rows, _)) => *rows = rows.saturating_add(m.rows()),
            None => shapes.push((format, m.rows(), m.cols())),
        }
    }
    shapes.iter().map(|(format, n, k)| format!("{n} x {k} {format}")).collect::<Vec<_>>().join(" + ")
}

/// Seconds between passes until a token is drawn, and from there on, as far as they belong to the phase. The first token
/// is drawn from the prompt's logits; its text comes in the time of generation.
fn between(measured: &Measured, phase: Phase) -> (f64, f64) {
    let seconds = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64();
    let (mut sampling, mut text) = (0.0, 0.0);
    for (i, &drawn) in measured.drawn.iter().enumerate() {
        let before = measured.passes.iter().rev().find(|p| p.end <= drawn);
        let behind = measured.passes.iter().find(|p| p.start >= drawn);
        if (i == 0) == (phase == Phase::Prompt) {
            sampling += before.map_or(0.0, |p| seconds(p.end, drawn));
        }
        if phase == Phase::Decode {
            text += seconds(drawn, behind.map_or(measured.end, |p| p.start));
        }
    }
    (sampling, text)
}

impl Part {
    /// Time that has a name.
    pub fn accounted(&self) -> f64 {
        self.rows.iter().map(|row| row.seconds).sum::<f64>() + self.sampling + self.text
    }

    /// Operations that were begun.
    pub fn calls(&self) -> usize {
        self.rows.iter().fold(0, |n, row| n.saturating_add(row.calls))
    }

    /// How long everything that was counted takes at least.
    pub fn limit(&self) -> f64 {
        self.limits.seconds(&self.rows.iter().map(|row| row.work).sum())
    }

    fn json(&self) -> Value {
        json!({
            "phase": self.name, "passes": self.passes, "tokens": self.tokens, "wall_ms": self.wall * 1e3,
            "limits": {
                "f32_gflop_s": self.limits.f32 / 1e9, "bf16_gflop_s": self.limits.bf16 / 1e9,
                "int8_gflop_s": self.limits.int8 / 1e9, "read_gb_s": self.limits.read / 1e9,
            },
            "percent_of_limit": 100.0 * self.limit() / self.wall,
            "operations": self.rows.iter().map(|row| row.json(self.wall)).collect::<Vec<_>>(),
            "sampling_ms": self.sampling * 1e3, "text_ms": self.text * 1e3,
            "rest_ms": (self.wall - self.accounted()) * 1e3,
            "fork_and_join_us": self.fork_and_join * 1e6, "operations_begun": self.calls(),
        })
    }
}

impl Row {
    fn new(operation: Operation, what: String) -> Row {
        Row {
            operation,
            what,
            layers: Vec::new(),
            calls: 0,
            seconds: 0.0,
            work: Work::default(),
            limit_seconds: 0.0,
            bound: "",
        }
    }

    /// What the layers' numbers stand for.
    pub fn name(&self) -> &'static str {
        name(self.operation)
    }

    /// Operations per second, in billions.
    pub fn gflops(&self) -> Option<f64> {
        (self.work.operations() > 0.0).then(|| self.work.operations() / self.seconds / 1e9)
    }

    /// Bytes per second, in billions.
    pub fn gigabytes(&self) -> Option<f64> {
        (self.work.bytes > 0.0).then(|| self.work.bytes / self.seconds / 1e9)
    }

    /// Of what the machine can do.
    pub fn percent_of_limit(&self) -> Option<f64> {
        (self.limit_seconds > 0.0).then(|| 100.0 * self.limit_seconds / self.seconds)
    }

    fn json(&self, wall: f64) -> Value {
        json!({
            "operation": self.name(), "what": self.what, "layers": self.layers, "calls": self.calls,
            "ms": self.seconds * 1e3, "percent": 100.0 * self.seconds / wall, "gflop_s": self.gflops(),
            "gb_s": self.gigabytes(), "percent_of_limit": self.percent_of_limit(),
            "bound": (!self.bound.is_empty()).then_some(self.bound),
        })
    }
}

/// What people call it.
pub fn name(operation: Operation) -> &'static str {
    match operation {
        Operation::Enter => "wake threads",
        Operation::Begin => "positions",
        Operation::Embed => "embed",
        Operation::Norm => "norm",
        Operation::Prepare => "quantize input",
        Operation::Qkv => "W_Q W_K W_V",
        Operation::Append => "rope and cache",
        Operation::Attention => "attention",
        Operation::AttentionOutput => "W_O",
        Operation::GateUp => "W_gate W_up",
        Operation::Activate => "activation",
        Operation::Down => "W_down",
        Operation::PostNorm => "post norm",
        Operation::Unembed => "W_U",
        _ => "other",
    }
}
