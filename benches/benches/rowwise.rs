//! Softmax, norms, rotary positions and activations in bytes read and written per second, beside rten's.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gable_benches::options::Options;
use gable_benches::rowwise::{Op, SHAPES, candidate};
use gable_benches::rten;

fn rowwise(c: &mut Criterion) {
    let options = Options::for_benches();
    for op in Op::ALL {
        let mut group = c.benchmark_group(op.name());
        for &[rows, cols] in SHAPES {
            group.throughput(Throughput::Bytes(op.bytes(rows * cols) as u64));
            let ours = candidate(op, [rows, cols], &options).expect("a shape of every operation");
            let theirs = rten::candidate(op, [rows, cols], &options).ok();
            for mut candidate in std::iter::once(ours).chain(theirs) {
                group.bench_function(BenchmarkId::new(candidate.name, format!("{rows}x{cols}")), |b| {
                    b.iter(|| (candidate.run)());
                });
            }
        }
    }
}

criterion_group!(benches, rowwise);
criterion_main!(benches);
