//! Dense products on squares and layers of models, beside other crates: `type/shape/who`. Many rows in operations per
//! second; up to 8 rows in bytes of weights per second, with more distinct weights in turn than caches hold.
//!
//! The `gemm` crate is measured with its feature `x86-v4`; without is another run: see Cargo.toml.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gable_benches::dense::{Kind, candidate};
use gable_benches::options::Options;
use gable_benches::timing::{DISTINCT_BYTES, only_testing};

/// `model/matrix`, K and N.
const LAYERS: &[(&str, usize, usize)] = &[
    ("smollm2/ffn_up", 576, 1536),
    ("smollm2/ffn_down", 1536, 576),
    ("gemma3-270m/ffn_up", 640, 2048),
    ("qwen-1.5b/ffn_up", 1536, 8960),
    ("llama-8b/attn_q", 4096, 4096),
    ("llama-8b/ffn_down", 14_336, 4096),
];
const ROWS: &[usize] = &[1, 4, 16, 128, 512];
const SQUARES: &[usize] = &[512, 1024, 2048, 4096];
/// Rows up to which weights come from memory.
const FEW: usize = 8;
/// Multiply-adds of the largest problem that is only run to see that it runs.
const TESTED: usize = 1 << 27;

fn dense(c: &mut Criterion) {
    let options = Options::for_benches();
    let squares = SQUARES.iter().map(|&n| (format!("square/{n}"), [n, n, n]));
    let layers =
        LAYERS.iter().flat_map(|&(name, k, n)| ROWS.iter().map(move |&m| (format!("{name}/{m}"), [m, k, n])));
    let shapes: Vec<(String, [usize; 3])> = squares.chain(layers).collect();
    for kind in Kind::ALL {
        for (name, [m, k, n]) in &shapes {
            if only_testing() && m * k * n > TESTED {
                continue;
            }
            let distinct = if *m <= FEW && !only_testing() { DISTINCT_BYTES } else { 0 };
            let mut group = c.benchmark_group(format!("{}/{name}", kind.name()));
            group.throughput(match m {
                1..=FEW => Throughput::Bytes((k * n * kind.bytes()) as u64),
                _ => Throughput::Elements((2 * m * k * n) as u64),
            });
            for who in kind.candidates(*m) {
                // Made only if the filter lets it run.
                group.bench_function(who, |b| {
                    let mut candidate =
                        candidate(who, kind, [*m, *k, *n], distinct, &options).expect("a name of its own");
                    b.iter(|| (candidate.run)());
                });
            }
        }
    }
}

criterion_group!(benches, dense);
criterion_main!(benches);
