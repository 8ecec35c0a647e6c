//! Measuring: sessions that run tests in turns, on the path that `gable run` takes.

use super::options::{MeasureArgs, Plan, Setting, Test};
use super::record::{About, Record, Sample};
use super::{synthetic, table};
use crate::exit::say;
use crate::limits::{Limits, Prober};
use crate::options::usage;
use crate::statistics::Random;
use anyhow::Result;
use gable_kernels::Kernels;
use gable_kernels::attention::CacheType;
use gable_model::session::{Session, SessionOptions};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A session that runs the tests of one model in one setting.
struct Runner {
    about: About,
    session: Session,
    random: Random,
    /// Where shares of the machine's limits are asked for.
    prober: Option<Prober>,
}

/// Everything that is to be measured, ready to begin.
pub struct Bench<'a> {
    args: &'a MeasureArgs,
    runners: Vec<Runner>,
    records: Vec<Record>,
    tests: Vec<Test>,
}

/// Measures everything, round by round, and prints it on stderr if that is wanted.
pub fn run(args: &MeasureArgs, plan: &Plan) -> Result<Vec<Record>> {
    let mut bench = Bench::new(args, plan)?;
    if !args.no_warmup {
        bench.round(None)?;
    }
    for i in 0..args.repetitions {
        bench.round(Some(i))?;
    }
    let records = bench.finish();
    if let Some(form) = args.output_err {
        table::print(&mut std::io::stderr().lock(), form, &records, args.roofline)?;
    }
    Ok(records)
}

impl<'a> Bench<'a> {
    /// Opens the models and reserves the sessions' memory.
    pub fn new(args: &'a MeasureArgs, plan: &Plan) -> Result<Bench<'a>> {
        let kernels = Kernels::new().map_err(|error| usage(error.to_string()))?;
        let mut bench = Bench { args, runners: Vec::new(), records: Vec::new(), tests: plan.tests.clone() };
        for name in &args.model {
            let (model, file) = synthetic::open(name, args.access())?;
            for &setting in &plan.settings {
                let mut options = session_options(args, kernels, plan, setting);
                let pool = args.placement.pool(setting.threads, &mut options);
                let how = (args.numerics.name(), !args.access().no_mmap);
                let about = About::new(&model, &file, &options, setting, how);
                bench.records.extend(plan.tests.iter().map(|&test| Record::new(about.clone(), test)));
                let prober = match args.roofline {
                    true => Some(Prober::for_model(kernels, Arc::clone(&pool), &model)?),
                    false => None,
                };
                let session = Session::new(Arc::clone(&model), pool, options)?;
                bench.runners.push(Runner { about, session, random: Random::new(), prober });
            }
            let numerics = args.numerics.name();
            say(&format!("{}: isa {}, numerics {numerics}", model.name(), kernels.isa()));
        }
        Ok(bench)
    }

    /// Runs every test once; without a number only to warm up.
    pub fn round(&mut self, number: Option<usize>) -> Result<()> {
        let (n, mut records) = (self.records.len(), self.records.iter_mut().enumerate());
        for runner in &mut self.runners {
            for &test in &self.tests {
                let Some((i, record)) = records.next() else { break };
                if self.args.progress {
                    let round = match number {
                        Some(i) => format!("{}/{}", i.saturating_add(1), self.args.repetitions),
                        None => "to warm up".to_owned(),
                    };
                    let (i, test) = (i.saturating_add(1), test.name());
                    let threads = runner.about.setting.threads;
                    say(&format!("gable bench: benchmark {i}/{n}: {test}, {threads} threads, run {round}"));
                }
                if self.args.delay > 0 {
                    let seconds = u64::try_from(self.args.delay).unwrap_or(u64::MAX);
                    std::thread::sleep(Duration::from_secs(seconds));
                }
                let before = number.and_then(|_| runner.limits());
                let sample = runner.once(test)?;
                if number.is_some() {
                    let limits = before.zip(runner.limits());
                    record.add(sample, limits.map(|([a, b], [c, d])| [a.best(c), b.best(d)]));
                }
            }
        }
        Ok(())
    }

    /// What was measured.
    pub fn finish(self) -> Vec<Record> {
        self.records
    }
}

fn session_options(args: &MeasureArgs, kernels: Kernels, plan: &Plan, setting: Setting) -> SessionOptions {
    let positions = plan.tests.iter().map(|t| t.positions()).max().unwrap_or(1);
    let mut options = SessionOptions::new(kernels, positions);
    options.numerics = args.numerics.into();
    options.batch = setting.batch.min(setting.ubatch);
    options.cache_type = setting.cache_type.map(CacheType::from);
    options
}

impl Runner {
    /// What the machine can do at this moment with the threads that read prompts, and with those that generate.
    fn limits(&self) -> Option<[Limits; 2]> {
        let prober = self.prober.as_ref()?;
        let (prompt, decode) = self.about.threads();
        let limits = prober.probe(decode);
        Some([if prompt == decode { limits } else { prober.probe(prompt) }, limits])
    }

    fn once(&mut self, test: Test) -> Result<Sample> {
        let session = &mut self.session;
        let vocabulary = session.model().config().vocab_size;
        let mut token = || u32::try_from(self.random.below(vocabulary)).unwrap_or(0);
        session.truncate(0)?;
        let depth: Vec<u32> = (0..test.depth).map(|_| token()).collect();
        let prompt: Vec<u32> = (0..test.prompt).map(|_| token()).collect();
        let next: Vec<u32> = (0..test.generate).map(|_| token()).collect();
        if !depth.is_empty() {
            session.prefill(&depth)?;
        }
        let mut marks = Vec::with_capacity(next.len());
        let start = Instant::now();
        if !prompt.is_empty() {
            session.prefill(&prompt)?;
        }
        let first = start.elapsed();
        for &token in &next {
            session.decode(token)?;
            marks.push(start.elapsed());
        }
        let total = marks.last().copied().unwrap_or(first);
        Ok(Sample::new(total, (test.prompt > 0).then_some(first), first, &marks))
    }
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::profile;
    use clap::Parser;
    use gable_kernels::Pool;
    use gable_model::generate::{GenerateOptions, generate};
    use gable_model::sampler::{Sampler, SamplerConfig};
    use std::ops::ControlFlow;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        measure: MeasureArgs,
    }

    /// What is measured is what users run: as many passes over as many rows with as many logits.
    #[test]
    fn a_test_calls_the_forward_pass_as_generation_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/llama/model.gguf");
        let args = Args::parse_from(["bench", "-m", path, "--ubatch-size", "16", "-t", "2"]);
        let mut plan = args.measure.plan().unwrap();
        for (prompt, generated) in [(7, 0), (40, 9), (1, 5)] {
            let test = Test { prompt, generate: generated, depth: 0 };
            plan.tests = vec![test];
            let mut bench = Bench::new(&args.measure, &plan).unwrap();
            let measured = &mut bench.runners[0];
            measured.once(test).unwrap();

            let model = Arc::clone(measured.session.model());
            let mut options = SessionOptions::new(Kernels::best(), 100);
            options.batch = 16;
            let mut run = Session::new(Arc::clone(&model), Arc::new(Pool::new(2)), options).unwrap();
            let ids: Vec<u32> = (0..100).take(prompt).collect();
            let mut sampler = Sampler::new(SamplerConfig::default(), model.config().vocab_size).unwrap();
            // The first token comes out of the prompt, the last is not read again.
            let max_tokens = generated + 1;
            let until = GenerateOptions { max_tokens, ignore_eos: true, ..GenerateOptions::default() };
            let stats = generate(&mut run, model.tokenizer(), &mut sampler, &ids, &until, &mut |_| {
                ControlFlow::Continue(())
            });
            assert_eq!(stats.unwrap().speculation.passes, generated);
            assert_eq!(measured.session.calls(), run.calls(), "{prompt} and {generated}");

            let mut profiled = Session::new(Arc::clone(&model), Arc::new(Pool::new(2)), options).unwrap();
            profile::measure(&mut profiled, &SamplerConfig::default(), &ids, max_tokens).unwrap();
            assert_eq!(profiled.calls(), run.calls(), "{prompt} and {generated}, profiled");
            assert_eq!(run.calls().rows as usize, prompt + generated);
            assert_eq!(run.calls().passes as usize, prompt.div_ceil(16) + generated);
        }
    }
}
