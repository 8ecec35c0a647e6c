//! Softmax, norms, rotary positions and activations in bytes read and written per second.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gable_benches::options::Options;
use gable_benches::rowwise::{Op, SHAPES, candidate};

fn rowwise(c: &mut Criterion) {
    let options = Options::for_benches();
    for op in Op::ALL {
        let mut group = c.benchmark_group(op.name());
        for &[rows, cols] in SHAPES {
            group.throughput(Throughput::Bytes(op.bytes(rows * cols) as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{rows}x{cols}")), |b| {
                let mut candidate =
                    candidate(op, [rows, cols], &options).expect("a shape of every operation");
                b.iter(|| (candidate.run)());
            });
        }
    }
}

criterion_group!(benches, rowwise);
criterion_main!(benches);
