//! Matmuls of real layers with weights in every format: prompts of 128 and 512 rows in operations per second, generation of one
//! sequence and of eight in bytes of weights per second over more weights than any cache holds. `phase/layer/format/numbers/instruction set`; numbers
//! are those of `--numerics`, other than `fast` on the best instruction set only.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gable_benches::layers::fast_forms;
use gable_benches::timing::{DISTINCT_BYTES, only_testing};
use gable_benches::{LAYERS, Layer, weight_bytes};
use gable_kernels::gemm::{Epilogue, Phase};
use gable_kernels::pool::default_threads;
use gable_kernels::quant::{Activations, Format, Forms, QuantWeights, Remainder};
use gable_kernels::{Kernels, MatMut, Pool};

/// Multiply-adds of the largest problem that is only run to see that it runs.
const TESTED: usize = 1 << 27;

fn activations(kernels: Kernels, layer: &Layer, rows: usize, forms: Forms) -> Activations {
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

/// What `--numerics` makes of activations for a format.
fn numbers(phase: Phase, format: Format) -> Vec<(&'static str, Forms)> {
    let fast = fast_forms(phase, format);
    let mut all = vec![("exact", Forms::EXACT)];
    if fast != Forms::EXACT {
        all.push(("fast", fast));
    }
    if fast.int8 && phase == Phase::Prompt {
        all.push(("precise", fast.with_remainder(Remainder::All)));
    }
    all
}

fn run(c: &mut Criterion, phase: Phase, rows: usize, name: &str) {
    let pool = Pool::new(default_threads());
    for layer in LAYERS.iter().filter(|l| !only_testing() || rows * l.k * l.n <= TESTED) {
        let mut group = c.benchmark_group(format!("{name}/{}", layer.name));
        for format in Format::ALL {
            // Blocks of 256 do not divide every width.
            let Some(row_bytes) = format.row_bytes(layer.k) else { continue };
            group.throughput(match phase {
                Phase::Decode => Throughput::Bytes((layer.n * row_bytes) as u64),
                Phase::Prompt => Throughput::Elements((2 * rows * layer.n * layer.k) as u64),
            });
            let rotates = phase == Phase::Decode && !only_testing();
            let copies = if rotates { DISTINCT_BYTES.div_ceil(layer.n * row_bytes) } else { 1 };
            for ((numbers, forms), kernels) in numbers(phase, format)
                .into_iter()
                .flat_map(|forms| Kernels::every_available().map(move |kernels| (forms, kernels)))
                .filter(|((numbers, _), kernels)| {
                    *numbers == "fast" || kernels.isa() == Kernels::best().isa()
                })
            {
                let id = BenchmarkId::new(format!("{}/{numbers}", format.name()), kernels.isa());
                group.bench_function(id, |b| {
                    let bytes = weight_bytes(format, layer.n, layer.k).repeat(copies);
                    let all = QuantWeights::from_bytes(format, copies * layer.n, layer.k, row_bytes, &bytes);
                    let all = all.expect("fits");
                    let x = activations(kernels, layer, rows, forms);
                    let mut out = vec![0.0; rows * layer.n];
                    let mut turn = 0;
                    b.iter(|| {
                        turn = (turn + 1) % copies;
                        let weights = all.row_range(turn * layer.n..(turn + 1) * layer.n);
                        let view = MatMut::from_rows(&mut out, layer.n);
                        pool.enter(|team| {
                            kernels.matmul(team, phase, &x, &weights, Epilogue::default(), view)
                        })
                        .expect("shapes fit");
                    });
                });
            }
        }
    }
}

fn prompt(c: &mut Criterion) {
    run(c, Phase::Prompt, 128, "prompt-128");
}

fn long_prompt(c: &mut Criterion) {
    run(c, Phase::Prompt, 512, "prompt-512");
}

fn decode(c: &mut Criterion) {
    run(c, Phase::Decode, 1, "decode");
}

fn decode_eight(c: &mut Criterion) {
    run(c, Phase::Decode, 8, "decode-8");
}

criterion_group!(benches, prompt, long_prompt, decode, decode_eight);
criterion_main!(benches);
