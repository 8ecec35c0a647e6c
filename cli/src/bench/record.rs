//! One row of a benchmark: what was run, its samples, and llama-bench's fields in their order.

use super::host::{cpu, now};
use super::options::{Setting, Test};
use crate::limits::Limits;
use crate::statistics::{mean_and_deviation, median, median_interval, percentile, sorted};
use crate::work::{Counter, Extent, passes};
use gable_kernels::gemm::Phase;
use gable_model::model::Model;
use gable_model::session::SessionOptions;
use std::sync::Arc;
use std::time::Duration;

/// What is measured and with what.
#[derive(Debug, Clone)]
pub struct About {
    /// What `-m` named.
    pub file: String,
    /// `llama 135M Q4_1`
    pub kind: String,
    /// Of all tensors.
    pub bytes: usize,
    /// Of all tensors.
    pub params: usize,
    /// How it is run.
    pub setting: Setting,
    /// `f16` or `f32`.
    pub cache_type: &'static str,
    /// Name of the instruction set.
    pub isa: &'static str,
    /// `fast` or `exact`.
    pub numerics: &'static str,
    model: Arc<Model>,
    options: SessionOptions,
    use_mmap: bool,
}

impl About {
    /// What the columns say of a model and how it is run.
    pub fn new(
        model: &Arc<Model>,
        file: &str,
        options: &SessionOptions,
        setting: Setting,
        (numerics, use_mmap): (&'static str, bool),
    ) -> About {
        let tensors = model.files().tensors();
        let sum = |f: fn(&gable_model::tensor_table::TensorInfo) -> usize| {
            tensors.iter().fold(0_usize, |n, t| n.saturating_add(f(t)))
        };
        let params = sum(|t| t.dims.elements());
        About {
            file: file.to_owned(),
            kind: format!("{} {} {}", model.config().architecture, rounded(params), main_format(model)),
            bytes: sum(|t| t.n_bytes),
            params,
            setting,
            cache_type: options.cache_type().name(),
            isa: options.kernels.isa().name(),
            numerics,
            model: Arc::clone(model),
            options: *options,
            use_mmap,
        }
    }

    /// Threads that read prompts, and threads that generate.
    pub fn threads(&self) -> (usize, usize) {
        let n = self.setting.threads;
        (self.options.prompt_threads.unwrap_or(n), self.options.decode_threads.unwrap_or(n))
    }

    /// What each pass of a test is to do, by its extent.
    fn passes(&self, test: Test) -> impl Iterator<Item = Extent> {
        passes(test.depth, test.prompt, test.generate, self.options.batch)
    }
}

/// The format of most of the parameters.
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
fn rounded(params: usize) -> String {
    let n = params as f64;
    match n {
        n if n >= 9.95e9 => format!("{:.0}B", n / 1e9),
        n if n >= 9.995e8 => format!("{:.1}B", n / 1e9),
        n => format!("{:.0}M", n / 1e6),
    }
}

/// One repetition.
#[derive(Debug, Clone)]
pub struct Sample {
    ns: f64,
    /// Until the prompt's logits were there.
    first_ns: Option<f64>,
    /// Of each generated token.
    token_ns: Vec<f64>,
    /// What all would take at the machine's limits of that moment, if they were measured.
    limit_ns: Option<f64>,
}

impl Sample {
    /// From the time that all took, that the prompt took, and the ends of the tokens, the first of which began at
    /// `generation`.
    pub fn new(total: Duration, first: Option<Duration>, generation: Duration, marks: &[Duration]) -> Sample {
        let ns = |d: Duration| d.as_secs_f64() * 1e9;
        let starts = std::iter::once(generation).chain(marks.iter().copied());
        Sample {
            ns: ns(total).max(1.0),
            first_ns: first.map(ns),
            token_ns: starts.zip(marks).map(|(start, end)| ns(end.saturating_sub(start))).collect(),
            limit_ns: None,
        }
    }
}

/// One row of the result.
#[derive(Debug, Clone)]
pub struct Record {
    /// What was run.
    pub about: About,
    /// Which test.
    pub test: Test,
    /// When it began.
    time: String,
    samples: Vec<Sample>,
}

/// A field's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    /// In quotes.
    Text(String),
    /// A whole number.
    Integer(u64),
    /// 0 or 1, in JSON false or true.
    Bool(bool),
    /// Six places.
    Float(f64),
    /// Does not apply to this test.
    Nothing,
    /// Only in JSON.
    List(Vec<f64>),
}

impl Record {
    /// Nothing measured yet.
    pub fn new(about: About, test: Test) -> Record {
        Record { about, test, time: now(), samples: Vec::new() }
    }

    /// Adds a repetition, and what the machine could do meanwhile: in prompts, and in generation.
    pub fn add(&mut self, mut sample: Sample, limits: Option<[Limits; 2]>) {
        if self.samples.is_empty() {
            self.time = now();
        }
        let counter = Counter::new(&self.about.model, &self.about.options);
        sample.limit_ns = limits.map(|[prompt, decode]| {
            let seconds = |extent: Extent| {
                let limits = if extent.phase == Phase::Prompt { prompt } else { decode };
                limits.seconds(&counter.pass(&extent))
            };
            self.about.passes(self.test).map(seconds).sum::<f64>() * 1e9
        });
        self.samples.push(sample);
    }

    /// Tokens per second of every repetition.
    #[expect(clippy::cast_precision_loss, reason = "tokens of one test")]
    pub fn speeds(&self) -> Vec<f64> {
        let n = self.test.prompt.saturating_add(self.test.generate) as f64;
        self.samples.iter().map(|sample| n * 1e9 / sample.ns).collect()
    }

    /// Weights and cache that were read, in GB/s; of the median repetition.
    pub fn gigabytes_per_second(&self) -> f64 {
        let ns: Vec<f64> = self.samples.iter().map(|sample| sample.ns).collect();
        let counter = Counter::new(&self.about.model, &self.about.options);
        self.about.passes(self.test).map(|extent| counter.pass(&extent).bytes).sum::<f64>() / median(&ns)
    }

    /// How near the speed was to what the machine could do at that moment, in percent; the median of the repetitions.
    pub fn percent_of_limit(&self) -> Option<f64> {
        let share = |sample: &Sample| Some(100.0 * sample.limit_ns? / sample.ns);
        let shares: Vec<f64> = self.samples.iter().filter_map(share).collect();
        (!shares.is_empty()).then(|| median(&shares))
    }

    /// Median time to the first token, in milliseconds.
    pub fn first_token_ms(&self) -> Option<f64> {
        let ns: Vec<f64> = self.samples.iter().filter_map(|sample| sample.first_ns).collect();
        (!ns.is_empty()).then(|| median(&ns) / 1e6)
    }

    /// 95th percentile of the time of a generated token, over all repetitions, in milliseconds.
    pub fn slow_token_ms(&self) -> Option<f64> {
        let ns: Vec<f64> = self.samples.iter().flat_map(|sample| sample.token_ns.clone()).collect();
        (!ns.is_empty()).then(|| percentile(&sorted(&ns), 0.95) / 1e6)
    }

    /// llama-bench's fields in its order, then our own.
    pub fn fields(&self) -> Vec<(&'static str, Field)> {
        use Field::{Bool, Float, Integer, List, Nothing, Text};
        let a = &self.about;
        let text = |text: &str| Text(text.to_owned());
        let integer = |n: usize| Integer(u64::try_from(n).unwrap_or(u64::MAX));
        let optional = |x: Option<f64>| x.map_or(Nothing, Float);
        let ns: Vec<f64> = self.samples.iter().map(|sample| sample.ns.round()).collect();
        let (speeds, (avg_ns, stddev_ns)) = (self.speeds(), mean_and_deviation(&ns));
        let (avg_ts, stddev_ts) = mean_and_deviation(&speeds);
        let (low, high) = median_interval(&speeds);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time; saturates")]
        let whole = |x: f64| Integer(x.round() as u64);
        vec![
            ("build_commit", text(env!("CARGO_PKG_VERSION"))),
            ("build_number", Integer(0)),
            ("cpu_info", text(&cpu())),
            ("gpu_info", text("")),
            ("backends", text("CPU")),
            ("model_filename", text(&a.file)),
            ("model_type", text(&a.kind)),
            ("model_size", integer(a.bytes)),
            ("model_n_params", integer(a.params)),
            ("n_batch", integer(a.setting.batch)),
            ("n_ubatch", integer(a.setting.ubatch)),
            ("n_threads", integer(a.setting.threads)),
            ("cpu_mask", text("0x0")),
            ("cpu_strict", Bool(false)),
            ("poll", Integer(50)),
            ("type_k", text(a.cache_type)),
            ("type_v", text(a.cache_type)),
            ("n_gpu_layers", Integer(0)),
            ("n_cpu_moe", Integer(0)),
            ("split_mode", text("none")),
            ("main_gpu", Integer(0)),
            ("no_kv_offload", Bool(false)),
            ("flash_attn", Integer(1)),
            ("devices", text("none")),
            ("tensor_split", text("0.00")),
            ("tensor_buft_overrides", text("none")),
            ("use_mmap", Bool(a.use_mmap)),
            ("use_direct_io", Bool(false)),
            ("embeddings", Bool(false)),
            ("no_op_offload", Integer(0)),
            ("no_host", Bool(false)),
            ("repack", Bool(false)),
            ("fit_target", Integer(0)),
            ("fit_min_ctx", Integer(0)),
            ("n_prompt", integer(self.test.prompt)),
            ("n_gen", integer(self.test.generate)),
            ("n_depth", integer(self.test.depth)),
            ("test_time", text(&self.time)),
            ("avg_ns", whole(avg_ns)),
            ("stddev_ns", whole(stddev_ns)),
            ("avg_ts", Float(avg_ts)),
            ("stddev_ts", Float(stddev_ts)),
            ("samples_ns", List(ns)),
            ("samples_ts", List(speeds.clone())),
            ("isa", text(a.isa)),
            ("numerics", text(a.numerics)),
            ("n_threads_batch", integer(a.threads().0)),
            ("median_ts", Float(median(&speeds))),
            ("median_ts_low", Float(low)),
            ("median_ts_high", Float(high)),
            ("gb_s", Float(self.gigabytes_per_second())),
            ("limit_percent", optional(self.percent_of_limit())),
            ("ttft_ms", optional(self.first_token_ms())),
            ("p95_ms", optional(self.slow_token_ms())),
        ]
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn sizes_are_rounded_as_people_call_them() {
        assert_eq!(rounded(134_515_008), "135M");
        assert_eq!(rounded(1_543_714_304), "1.5B");
    }

    #[test]
    fn a_tokens_time_is_that_between_two_marks() {
        let ms = Duration::from_millis;
        let sample = Sample::new(ms(17), Some(ms(10)), ms(10), &[ms(12), ms(17)]);
        assert_eq!((sample.ns, sample.first_ns), (17e6, Some(10e6)));
        assert_eq!(sample.token_ns, [2e6, 5e6]);
    }
}
