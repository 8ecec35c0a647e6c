//! Matmuls of real layers on every instruction set: prompts of 128 rows in multiply-adds per second, generation in
//! bytes of weights per second over more weights than any cache holds.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gable_benches::{LAYERS, Layer, weight_bytes};
use gable_kernels::gemm::{Epilogue, Phase};
use gable_kernels::pool::default_threads;
use gable_kernels::quant::{Activations, Forms, QuantWeights};
use gable_kernels::{Kernels, MatMut, Pool};

/// Weights that one generation bench rotates over: four times a large cache.
const DISTINCT_BYTES: usize = 256 << 20;

fn activations(kernels: Kernels, layer: &Layer, rows: usize) -> Activations {
    let forms = Forms::fast(layer.format);
    let mut x = Activations::new(rows, layer.k, forms);
    let mut view = x.begin(rows, layer.k).expect("made for it");
    for i in 0..rows {
        for (j, v) in view.row_mut(i).iter_mut().enumerate() {
            *v = ((i * 31 + j * 7) % 17) as f32 - 8.0;
        }
    }
    kernels.prepare(&gable_kernels::Team::serial(), &mut x, forms).expect("made for it");
    x
}

fn run(c: &mut Criterion, phase: Phase, rows: usize, name: &str) {
    let pool = Pool::new(default_threads());
    for layer in LAYERS {
        let row_bytes = layer.format.row_bytes(layer.k).expect("whole blocks");
        let copies = if phase == Phase::Decode { DISTINCT_BYTES.div_ceil(layer.n * row_bytes) } else { 1 };
        let bytes = weight_bytes(layer.format, copies * layer.n, layer.k);
        let all = QuantWeights::from_bytes(layer.format, copies * layer.n, layer.k, row_bytes, &bytes)
            .expect("fits");
        let mut group = c.benchmark_group(format!("{name}/{}", layer.name));
        group.throughput(match phase {
            Phase::Decode => Throughput::Bytes((layer.n * row_bytes) as u64),
            Phase::Prompt => Throughput::Elements((2 * rows * layer.n * layer.k) as u64),
        });
        for kernels in Kernels::every_available() {
            let x = activations(kernels, layer, rows);
            let mut out = vec![0.0; rows * layer.n];
            let mut turn = 0;
            group.bench_function(BenchmarkId::new(layer.format.name(), kernels.isa()), |b| {
                b.iter(|| {
                    turn = (turn + 1) % copies;
                    let weights = all.row_range(turn * layer.n..(turn + 1) * layer.n);
                    let view = MatMut::from_rows(&mut out, layer.n);
                    pool.enter(|team| kernels.matmul(team, phase, &x, &weights, Epilogue::default(), view))
                        .expect("shapes fit");
                });
            });
        }
    }
}

fn prompt(c: &mut Criterion) {
    run(c, Phase::Prompt, 128, "prompt-128");
}

fn decode(c: &mut Criterion) {
    run(c, Phase::Decode, 1, "decode");
}

criterion_group!(benches, prompt, decode);
criterion_main!(benches);
