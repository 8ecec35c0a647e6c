//! Attention of real layers on every instruction set: prompts in operations per second (of the causal half), generation
//! in bytes of cache per second over more layers than any cache holds. Prompts once more with a tap.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gable_benches::attention::Problem;
use gable_benches::options::Options;
use gable_benches::timing::{DISTINCT_BYTES, only_testing};
use gable_kernels::Kernels;
use gable_kernels::attention::{Arithmetic, CacheType};

/// `model`, query heads, key heads, elements of a head, positions.
type Shape = (&'static str, usize, usize, usize, usize);
const PROMPTS: &[Shape] = &[("smollm2", 9, 3, 64, 512), ("heads-of-128", 12, 12, 128, 1024)];
const DECODES: &[Shape] = &[("smollm2", 9, 3, 64, 4096), ("qwen-1.5b", 12, 2, 128, 4096)];

fn run(c: &mut Criterion, name: &str, shapes: &[Shape], decode: bool) {
    for &(model, n_heads, n_kv_heads, head_dim, depth) in shapes {
        let mut group = c.benchmark_group(format!("{name}/{model}"));
        for (cache_type, kernels) in [CacheType::F16, CacheType::Bf16, CacheType::Q8_0]
            .into_iter()
            .flat_map(|cache_type| Kernels::every_available().map(move |kernels| (cache_type, kernels)))
        {
            let rows = if decode { 1 } else { depth };
            let arithmetic = if decode { Arithmetic::F32 } else { Arithmetic::fastest(kernels) };
            let problem =
                Problem { n_heads, n_kv_heads, head_dim, depth, rows, window: None, cache_type, arithmetic };
            group.throughput(match decode {
                true => Throughput::Bytes(problem.cache_bytes() as u64),
                false => Throughput::Elements(problem.operations() as u64),
            });
            let distinct = if decode && !only_testing() { DISTINCT_BYTES } else { 0 };
            group.bench_function(BenchmarkId::new(cache_type.name(), kernels.isa()), |b| {
                let options = Options { kernels, ..Options::for_benches() };
                let mut candidate = problem.candidate(distinct, &options).expect("fits");
                b.iter(|| (candidate.run)());
            });
        }
    }
}

fn prompt(c: &mut Criterion) {
    run(c, "attention-prompt", PROMPTS, false);
}

fn decode(c: &mut Criterion) {
    run(c, "attention-decode", DECODES, true);
}

/// What it costs to be looked at: not at all, by somebody who wants no head, by somebody who wants one, or all.
fn tap(c: &mut Criterion) {
    let (kernels, options) = (Kernels::best(), Options::for_benches());
    for &(model, n_heads, n_kv_heads, head_dim, depth) in PROMPTS {
        let (rows, cache_type, arithmetic) = (depth, CacheType::F16, Arithmetic::fastest(kernels));
        let problem =
            Problem { n_heads, n_kv_heads, head_dim, depth, rows, window: None, cache_type, arithmetic };
        let mut group = c.benchmark_group(format!("attention-tap/{model}"));
        group.throughput(Throughput::Elements(problem.operations() as u64));
        group.bench_function("off", |b| {
            let mut candidate = problem.candidate(0, &options).expect("fits");
            b.iter(|| (candidate.run)());
        });
        for heads in [0, 1, n_heads] {
            group.bench_function(BenchmarkId::new("heads", heads), |b| {
                let mut candidate = problem.tapped(heads, &options).expect("fits");
                b.iter(|| (candidate.run)());
            });
        }
    }
}

criterion_group!(benches, prompt, decode, tap);
criterion_main!(benches);
