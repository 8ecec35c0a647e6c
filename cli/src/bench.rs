//! `gable bench`: prompt and generation speed, with llama-bench's flags, test names and output.
//!
//! Tokens are random, nothing is tokenized or sampled. Every test warms up at full length; repetitions go round over the
//! tests of a model, so that a machine that slows down does so for all of them.

mod report;

pub use report::cpu;

use crate::exit::say;
use crate::locate;
use crate::options::{ThreadArgs, usage};
use anyhow::Result;
use gable_kernels::attention::CacheType;
use gable_kernels::{Kernels, Pool};
use gable_model::forward::Numerics;
use gable_model::model::{Model, OpenOptions};
use gable_model::session::{Session, SessionOptions};
use report::{About, Measured};
use std::sync::Arc;
use std::time::Instant;

/// Options of `gable bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable bench\n  gable bench -m smollm2,gemma3 -p 128,512 -n 64 -r 3\n  \
                        gable bench -p 0 -n 32 -d 0,512 -o json\n\nLists are written 1,2,3, ranges 1-4, 1-9+2 or 1-64*2.")]
pub struct BenchArgs {
    /// Models
    #[arg(short, long, value_name = "MODEL", value_delimiter = ',', default_value = crate::catalogue::DEFAULT_MODEL)]
    model: Vec<String>,
    /// Prompt lengths; 0 for none
    #[arg(short = 'p', long, value_name = "LIST", default_value = "512")]
    n_prompt: Vec<String>,
    /// Numbers of generated tokens; 0 for none
    #[arg(short = 'n', long, value_name = "LIST", default_value = "128")]
    n_gen: Vec<String>,
    /// Prompt and generation in one test: PP,TG
    #[arg(long, value_name = "PP,TG", value_parser = pair)]
    pg: Vec<(usize, usize)>,
    /// Tokens that are in the context before
    #[arg(short = 'd', long, value_name = "LIST", default_value = "0")]
    n_depth: Vec<String>,
    /// Repetitions
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = crate::options::count(1, 10_000))]
    repetitions: usize,
    /// Numbers of threads [default: physical cores]
    #[arg(short, long, value_name = "LIST")]
    threads: Vec<String>,
    /// Tokens of a prompt that are read together at most
    #[arg(short, long, value_name = "N", default_value_t = 2048, value_parser = crate::options::count(1, 1 << 20))]
    batch_size: usize,
    /// The same, for a single pass (-ub)
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = crate::options::count(1, 1 << 16))]
    ubatch_size: usize,
    /// Element type of cached keys (-ctk)
    #[arg(long, value_enum)]
    cache_type_k: Option<crate::options::CacheTypeName>,
    /// Element type of cached values (-ctv); must be the same
    #[arg(long, value_enum)]
    cache_type_v: Option<crate::options::CacheTypeName>,
    /// Numbers to compute with
    #[arg(long, value_enum, env = "GABLE_NUMERICS", default_value_t = crate::options::NumericsName::Fast)]
    numerics: crate::options::NumericsName,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = report::Form::Md)]
    output: report::Form,
    /// Measures without warming up
    #[arg(long)]
    no_warmup: bool,
    /// Layers on a GPU: 0
    #[arg(long, value_name = "N", hide = true, value_parser = crate::options::count(0, 0))]
    gpu_layers: Option<usize>,
}

/// One test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Test {
    prompt: usize,
    generate: usize,
    depth: usize,
}

impl Test {
    fn positions(self) -> usize {
        self.prompt.saturating_add(self.generate).saturating_add(self.depth).max(1)
    }
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    let kernels = Kernels::new().map_err(|error| usage(error.to_string()))?;
    let types = (args.cache_type_k, args.cache_type_v);
    if matches!(types, (Some(k), Some(v)) if k != v) {
        return Err(usage("-ctk and -ctv differ; keys and values have one type: f32, f16, bf16 or q8_0"));
    }
    let tests = tests(args)?;
    let threads = match args.threads.is_empty() {
        true => vec![ThreadArgs { threads: None }.threads()],
        false => list(&args.threads)?,
    };
    if threads.iter().any(|n| !(1..=1024).contains(n)) {
        return Err(usage("-t: allowed are 1 to 1024"));
    }
    let mut rows = Vec::new();
    for name in &args.model {
        let path = locate::model(name)?;
        let model = Arc::new(Model::open(&path, &OpenOptions::default())?);
        for &n_threads in &threads {
            let pool = Arc::new(Pool::new(n_threads));
            let mut options = SessionOptions::new(kernels, 1);
            options.numerics = Numerics::from(args.numerics);
            options.batch = args.batch_size.min(args.ubatch_size);
            options.cache_type = types.0.or(types.1).map(CacheType::from);
            say(&format!(
                "{}: isa {}, threads {n_threads}, numerics {}",
                model.name(),
                kernels.isa(),
                args.numerics.name()
            ));
            let samples = measure(&model, &pool, options, &tests, args)?;
            let about = About::new(&model, &path, &options, n_threads, (args.batch_size, args.ubatch_size));
            for (test, samples) in tests.iter().zip(samples) {
                rows.push(Measured::new(about.clone(), (test.prompt, test.generate, test.depth), samples));
            }
        }
    }
    report::print(args.output, &rows)
}

/// Nanoseconds of every repetition of every test.
fn measure(
    model: &Arc<Model>,
    pool: &Arc<Pool>,
    mut options: SessionOptions,
    tests: &[Test],
    args: &BenchArgs,
) -> Result<Vec<Vec<u64>>> {
    options.max_positions = tests.iter().map(|t| t.positions()).max().unwrap_or(1);
    let mut session = Session::new(Arc::clone(model), Arc::clone(pool), options)?;
    let mut random =
        Random(0x9E37_79B9_7F4A_7C15, u32::try_from(model.config().vocab_size).unwrap_or(u32::MAX));
    let mut samples = vec![Vec::with_capacity(args.repetitions); tests.len()];
    let rounds = args.repetitions.saturating_add(usize::from(!args.no_warmup));
    for round in 0..rounds {
        for (test, samples) in tests.iter().zip(&mut samples) {
            let elapsed = once(&mut session, *test, &mut random)?;
            if args.no_warmup || round > 0 {
                samples.push(elapsed);
            }
        }
    }
    Ok(samples)
}

fn once(session: &mut Session, test: Test, random: &mut Random) -> Result<u64> {
    session.truncate(0)?;
    let depth: Vec<u32> = (0..test.depth).map(|_| random.token()).collect();
    let prompt: Vec<u32> = (0..test.prompt).map(|_| random.token()).collect();
    if !depth.is_empty() {
        session.prefill(&depth)?;
    }
    let start = Instant::now();
    if !prompt.is_empty() {
        session.prefill(&prompt)?;
    }
    for _ in 0..test.generate {
        session.decode(random.token())?;
    }
    Ok(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1))
}

fn tests(args: &BenchArgs) -> Result<Vec<Test>> {
    let (prompts, gens) = (list(&args.n_prompt)?, list(&args.n_gen)?);
    let mut tests = Vec::new();
    for depth in list(&args.n_depth)? {
        let test = |prompt, generate| Test { prompt, generate, depth };
        tests.extend(prompts.iter().filter(|&&n| n > 0).map(|&n| test(n, 0)));
        tests.extend(gens.iter().filter(|&&n| n > 0).map(|&n| test(0, n)));
        tests.extend(args.pg.iter().filter(|(p, g)| p.saturating_add(*g) > 0).map(|&(p, g)| test(p, g)));
    }
    if tests.is_empty() {
        return Err(usage("nothing to measure: -p, -n and -pg are all 0"));
    }
    Ok(tests)
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let number = |text: &str| text.parse::<usize>().ok().filter(|&n| n <= MOST);
    let parts = text.split_once(',').and_then(|(p, g)| Some((number(p)?, number(g)?)));
    parts.ok_or_else(|| "write prompt and generated tokens, e.g. 512,128".to_owned())
}

/// Longest test.
const MOST: usize = 1 << 20;

/// The numbers of `1,2`, `1-4`, `1-9+2`, `1-64*2`.
fn list(texts: &[String]) -> Result<Vec<usize>> {
    let mut out = Vec::new();
    for text in texts.iter().flat_map(|t| t.split(',')) {
        let bad =
            || usage(format!("{text:?}: write numbers up to {MOST}, or ranges like 1-4, 1-9+2, 1-64*2"));
        let number = |t: &str| t.parse::<usize>().ok().filter(|&n| n <= MOST).ok_or_else(bad);
        let Some((first, rest)) = text.split_once('-') else {
            out.push(number(text)?);
            continue;
        };
        let (last, step): (&str, Box<dyn Fn(usize) -> usize>) = if let Some((last, by)) = rest.split_once('+')
        {
            let by = number(by)?.max(1);
            (last, Box::new(move |n| n.saturating_add(by)))
        } else if let Some((last, by)) = rest.split_once('*') {
            let by = number(by)?.max(2);
            (last, Box::new(move |n| n.saturating_mul(by).max(1)))
        } else {
            (rest, Box::new(|n| n.saturating_add(1)))
        };
        let (mut n, last) = (number(first)?, number(last)?);
        while n <= last && out.len() < 10_000 {
            out.push(n);
            n = step(n);
        }
    }
    Ok(out)
}

/// Token ids, the same each time (xorshift64).
struct Random(u64, u32);

impl Random {
    fn token(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % u64::from(self.1.max(1))).unwrap_or(0)
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn lists_and_ranges_are_those_of_llama_bench() {
        let of = |text: &str| list(&[text.to_owned()]).unwrap();
        assert_eq!(of("1,5"), [1, 5]);
        assert_eq!(of("2-4"), [2, 3, 4]);
        assert_eq!(of("1-7+3"), [1, 4, 7]);
        assert_eq!(of("1-9*2,3"), [1, 2, 4, 8, 3]);
        assert!(list(&["x".to_owned()]).is_err());
    }
}
