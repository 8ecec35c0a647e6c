//! Attention of real layers on every instruction set: prompts in multiply-adds per second (of the causal half),
//! generation in bytes of cache per second over more layers than any cache holds.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gable_kernels::attention::{
    Arithmetic, AttentionInput, AttentionParams, AttentionScratch, CacheRow, CacheShape, CacheType, KvCache,
    Mask,
};
use gable_kernels::pool::default_threads;
use gable_kernels::{Kernels, MatMut, MatRef, Pool};

/// Bytes of cache that one generation bench rotates over: four times a large cache.
const DISTINCT_BYTES: usize = 128 << 20;

/// `model`, query heads, key heads, elements of a head, positions.
type Shape = (&'static str, usize, usize, usize, usize);
const PROMPTS: &[Shape] = &[("smollm2", 9, 3, 64, 512), ("heads-of-128", 12, 12, 128, 1024)];
const DECODES: &[Shape] = &[("smollm2", 9, 3, 64, 4096), ("qwen-1.5b", 12, 2, 128, 4096)];

fn run(c: &mut Criterion, name: &str, shapes: &[Shape], decode: bool) {
    let pool = Pool::new(default_threads());
    for &(model, n_heads, n_kv_heads, head_dim, depth) in shapes {
        let mut group = c.benchmark_group(format!("{name}/{model}"));
        for (cache_type, kernels) in [CacheType::F16, CacheType::Bf16, CacheType::Q8_0]
            .into_iter()
            .flat_map(|cache_type| Kernels::every_available().map(move |kernels| (cache_type, kernels)))
        {
            let mut shape = CacheShape {
                n_layers: 1,
                n_kv_heads,
                head_dim,
                cache_type,
                max_positions: depth,
                max_sequences: 1,
                max_pages: 1,
            };
            let page_bytes = KvCache::new(shape).expect("small").page_bytes();
            let bytes = depth.div_ceil(64) * page_bytes;
            shape.n_layers = if decode { DISTINCT_BYTES.div_ceil(bytes) } else { 1 };
            shape.max_pages = shape.pages_for_all();
            let mut cache = KvCache::new(shape).expect("fits");
            let sequence = cache.new_sequence().expect("the first one");
            let places: Vec<_> = (0..depth).map(|position| CacheRow { sequence, position }).collect();
            let rows = if decode { 1 } else { depth };
            let values = |n: usize| (0..n).map(|i| ((i * 31 % 17) as f32 - 8.0) / 8.0).collect::<Vec<_>>();
            let (kv, q) = (values(depth * n_kv_heads * head_dim), values(rows * n_heads * head_dim));
            let kv = MatRef::from_rows(&kv, n_kv_heads * head_dim);
            let mut out = vec![0.0; q.len()];
            let mut scratch = AttentionScratch::new();
            let params = AttentionParams {
                n_heads,
                scale: (head_dim as f32).powf(-0.5),
                soft_cap: None,
                mask: Mask::Causal,
                arithmetic: if decode { Arithmetic::F32 } else { Arithmetic::fastest(kernels) },
            };
            pool.enter(|team| {
                (0..shape.n_layers)
                    .try_for_each(|layer| kernels.append(team, &mut cache, layer, &places, kv, kv))
            })
            .expect("there is room");
            group.throughput(match decode {
                true => Throughput::Bytes(bytes as u64),
                false => Throughput::Elements((2 * n_heads * head_dim * depth * (depth + 1)) as u64),
            });
            let mut layer = 0;
            group.bench_function(BenchmarkId::new(cache_type.name(), kernels.isa()), |b| {
                b.iter(|| {
                    layer = (layer + 1) % shape.n_layers;
                    let q = MatRef::from_rows(&q, n_heads * head_dim);
                    let rows = &places[depth - rows..];
                    let input = AttentionInput { q, cache: &cache, layer, rows, bias: None };
                    let out = MatMut::from_rows(&mut out, n_heads * head_dim);
                    pool.enter(|team| kernels.attention(team, input, &params, out, &mut scratch, None))
                        .expect("shapes fit");
                });
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

criterion_group!(benches, prompt, decode);
criterion_main!(benches);
