//! llama-bench's flags: what is measured, and how.

use super::list::{MOST, list, pair};
use crate::exit::say;
use crate::options::{AccessArgs, CacheTypeName, NumericsName, PlacementArgs, count, usage};
use anyhow::Result;
use clap::ValueEnum;

/// What is measured.
#[derive(Debug, clap::Args)]
pub struct MeasureArgs {
    /// Models; `synthetic:SHAPE:TYPE` makes one up, e.g. synthetic:llama-1b:q4_k
    #[arg(short, long, value_name = "MODEL", value_delimiter = ',', env = "GABLE_MODEL",
        default_value = crate::catalogue::DEFAULT_MODEL)]
    pub model: Vec<String>,
    /// Prompt lengths; 0 for none
    #[arg(short = 'p', long, value_name = "LIST", default_value = "512")]
    n_prompt: Vec<String>,
    /// Numbers of generated tokens; 0 for none
    #[arg(short = 'n', long, value_name = "LIST", default_value = "128")]
    n_gen: Vec<String>,
    /// Prompt and generation in one test (-pg PP,TG)
    #[arg(long, value_name = "PP,TG", value_parser = pair)]
    pg: Vec<(usize, usize)>,
    /// Tokens that are in the context before
    #[arg(short = 'd', long, value_name = "LIST", default_value = "0")]
    pub n_depth: Vec<String>,
    /// Repetitions
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = count(1, 10_000))]
    pub repetitions: usize,
    /// Numbers of threads [default: physical cores]
    #[arg(short, long, value_name = "LIST", env = "GABLE_THREADS")]
    pub threads: Vec<String>,
    /// Tokens of a prompt that are read together at most
    #[arg(short, long, value_name = "LIST", default_value = "2048")]
    batch_size: Vec<String>,
    /// The same, for a single pass (-ub)
    #[arg(long, value_name = "LIST", default_value = "512")]
    pub ubatch_size: Vec<String>,
    /// Element types of cached keys (-ctk) [default: f16, with exact numerics f32]
    #[arg(long, value_name = "TYPE", value_enum, value_delimiter = ',')]
    cache_type_k: Vec<CacheTypeName>,
    /// Element types of cached values (-ctv); keys and values have the same
    #[arg(long, value_name = "TYPE", value_enum, value_delimiter = ',')]
    cache_type_v: Vec<CacheTypeName>,
    /// Numbers to compute with
    #[arg(long, value_name = "KIND", value_enum, env = "GABLE_NUMERICS", default_value_t = NumericsName::Fast)]
    pub numerics: NumericsName,
    /// Adds columns: instruction set, GB/s, share of what this machine can do at most, time to first token, 95th
    /// percentile of a token's time
    #[arg(long)]
    pub roofline: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Md)]
    pub output: Form,
    /// Prints the results on stderr too, in this form (-oe)
    #[arg(long, value_name = "OUTPUT", value_enum)]
    pub output_err: Option<Form>,
    /// Measures without warming up
    #[arg(long)]
    pub no_warmup: bool,
    /// Seconds of rest before each test
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = count(0, 3600))]
    pub delay: usize,
    /// Says on stderr what is being measured
    #[arg(long, visible_alias = "verbose", short_alias = 'v')]
    pub progress: bool,
    #[command(flatten)]
    pub placement: PlacementArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    habits: Habits,
}

/// Flags of llama-bench that ask for what is always so here, or never.
#[derive(Debug, clap::Args)]
struct Habits {
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", hide = true, value_parser = zero_or("gpu layers"))]
    gpu_layers: Option<String>,
    #[arg(long, value_name = "0|1", hide = true)]
    cpu_strict: Option<String>,
    #[arg(long, value_name = "0...100", hide = true, value_parser = count(0, 100))]
    poll: Option<usize>,
    #[arg(long, value_name = "N", hide = true, allow_negative_numbers = true)]
    prio: Option<String>,
    #[arg(long, value_name = "on|off|auto", hide = true)]
    flash_attn: Option<String>,
    #[arg(long, value_name = "0|1", hide = true, value_parser = count(0, 1))]
    mmap: Option<usize>,
    #[arg(long, value_name = "0|1", hide = true, value_parser = zero_or("embeddings"))]
    embeddings: Option<String>,
    #[arg(long, value_name = "0|1", hide = true)]
    repack: Option<String>,
    #[arg(long, value_name = "MODE", hide = true, value_parser = zero_or("split modes of GPUs"))]
    split_mode: Option<String>,
    #[arg(long, value_name = "I", hide = true, value_parser = zero_or("a main GPU"))]
    main_gpu: Option<String>,
    #[arg(long, value_name = "DEVICES", hide = true, value_parser = zero_or("devices"))]
    device: Option<String>,
    #[arg(long, value_name = "SPLIT", hide = true, value_parser = zero_or("a tensor split"))]
    tensor_split: Option<String>,
}

/// `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Comma-separated, all values quoted
    Csv,
    /// One array
    Json,
    /// One object per line
    Jsonl,
    /// Markdown table
    Md,
    /// Statements that create a table and fill it
    Sql,
}

/// One test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens generated behind it.
    pub generate: usize,
    /// Tokens in the context before.
    pub depth: usize,
}

impl Test {
    /// Positions that it needs.
    pub fn positions(self) -> usize {
        self.prompt.saturating_add(self.generate).saturating_add(self.depth).max(1)
    }

    /// `pp512`, `tg128`, `pp512+tg128`, with ` @ d512`.
    pub fn name(self) -> String {
        let depth = if self.depth > 0 { format!(" @ d{}", self.depth) } else { String::new() };
        match (self.prompt, self.generate) {
            (p, 0) => format!("pp{p}{depth}"),
            (0, g) => format!("tg{g}{depth}"),
            (p, g) => format!("pp{p}+tg{g}{depth}"),
        }
    }
}

/// A way to run the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Threads.
    pub threads: usize,
    /// `-b`
    pub batch: usize,
    /// `-ub`
    pub ubatch: usize,
    /// `-ctk` and `-ctv`; `None` for what goes with the numerics.
    pub cache_type: Option<CacheTypeName>,
}

/// All combinations: every setting runs every test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In llama-bench's order.
    pub settings: Vec<Setting>,
    /// In llama-bench's order: by depth, then prompts, generations, both.
    pub tests: Vec<Test>,
}

impl MeasureArgs {
    /// What the flags ask for.
    pub fn plan(&self) -> Result<Plan> {
        self.habits.say_what_is_ignored();
        let threads = match self.threads.is_empty() {
            true => vec![gable_kernels::pool::default_threads()],
            false => bounded("-t", list(&self.threads)?, 1024)?,
        };
        let batches = bounded("-b", list(&self.batch_size)?, MOST)?;
        let ubatches = bounded("-ub", list(&self.ubatch_size)?, 1 << 16)?;
        let mut settings = Vec::new();
        for cache_type in self.cache_types()? {
            for &batch in &batches {
                for &ubatch in &ubatches {
                    let setting = |&threads| Setting { threads, batch, ubatch, cache_type };
                    settings.extend(threads.iter().map(setting));
                }
            }
        }
        Ok(Plan { settings, tests: self.tests()? })
    }

    /// How models come into memory: `--no-mmap` and llama-bench's `-mmp 0` are the same.
    pub fn access(&self) -> AccessArgs {
        AccessArgs { no_mmap: self.access.no_mmap || self.habits.mmap == Some(0), ..self.access }
    }

    fn cache_types(&self) -> Result<Vec<Option<CacheTypeName>>> {
        let (k, v) = (&self.cache_type_k, &self.cache_type_v);
        if !k.is_empty() && !v.is_empty() && k != v {
            return Err(usage("-ctk and -ctv differ; keys and values have one type"));
        }
        let given = if k.is_empty() { v } else { k };
        Ok(if given.is_empty() { vec![None] } else { given.iter().map(|&t| Some(t)).collect() })
    }

    fn tests(&self) -> Result<Vec<Test>> {
        let (prompts, gens) = (list(&self.n_prompt)?, list(&self.n_gen)?);
        let mut tests = Vec::new();
        for depth in list(&self.n_depth)? {
            let test = |prompt, generate| Test { prompt, generate, depth };
            tests.extend(prompts.iter().filter(|&&n| n > 0).map(|&n| test(n, 0)));
            tests.extend(gens.iter().filter(|&&n| n > 0).map(|&n| test(0, n)));
            tests.extend(self.pg.iter().filter(|(p, g)| p.saturating_add(*g) > 0).map(|&(p, g)| test(p, g)));
        }
        if tests.is_empty() {
            return Err(usage("nothing to measure: -p, -n and -pg are all 0"));
        }
        Ok(tests)
    }
}

impl Habits {
    fn say_what_is_ignored(&self) {
        let set = |value: &Option<String>| value.as_deref().is_some_and(|v| !["0", "0x0"].contains(&v));
        if set(&self.cpu_strict) || set(&self.prio) {
            say("note: --cpu-strict and --prio have no effect: use taskset and nice");
        }
        if self.flash_attn.as_deref().is_some_and(|v| ["off", "0"].contains(&v)) {
            say("note: -fa off has no effect: attention is always fused");
        }
        if self.poll.is_some_and(|n| n < 50) {
            say("note: --poll has no effect: threads poll while they have work and sleep otherwise");
        }
    }
}

fn bounded(flag: &str, values: Vec<usize>, max: usize) -> Result<Vec<usize>> {
    match values.iter().find(|n| !(1..=max).contains(*n)) {
        Some(n) => Err(usage(format!("{flag} {n}: allowed are 1 to {max}"))),
        None => Ok(values),
    }
}

/// Takes `0` and `none`: everything runs on the CPU.
fn zero_or(what: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |text| match text {
        "0" | "none" | "auto" | "-1" => Ok(text.to_owned()),
        _ => Err(format!("there are no {what} here: everything runs on the CPU; allowed: 0")),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn tests_are_named_as_llama_bench_names_them() {
        let name = |prompt, generate, depth| Test { prompt, generate, depth }.name();
        assert_eq!(name(512, 0, 0), "pp512");
        assert_eq!(name(0, 128, 512), "tg128 @ d512");
        assert_eq!(name(512, 128, 0), "pp512+tg128");
    }
}
