//! Times attention on the shapes that the targets name, beside the limits of this machine in the same run.
//!
//! ```text
//! attention_speed [prompt|decode] [f32|f16|bf16|q8_0 (cache) ...] [x-f32|x-bf16 (products)] [depth=N ...] [--threads N]
//! ```

use gable_kernels::attention::{
    Arithmetic, AttentionInput, AttentionParams, AttentionScratch, CacheRow, CacheShape, CacheType, KvCache,
    Mask,
};
use gable_kernels::{KernelError, Kernels, MatMut, MatRef, Pool, Team};
use std::time::Instant;

struct Shape {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    /// Positions in the cache.
    depth: usize,
    /// The last so many are asked for.
    rows: usize,
    window: Option<usize>,
}

const fn shape(n_heads: usize, n_kv_heads: usize, head_dim: usize, depth: usize, rows: usize) -> Shape {
    Shape { n_heads, n_kv_heads, head_dim, depth, rows, window: None }
}

const PROMPTS: &[Shape] = &[
    shape(9, 3, 64, 512, 512),
    shape(12, 12, 128, 1024, 1024),
    shape(12, 12, 128, 4096, 4096),
    Shape { window: Some(512), ..shape(4, 1, 256, 2048, 2048) },
];
const DECODES: &[Shape] = &[
    shape(9, 3, 64, 1024, 1),
    shape(9, 3, 64, 4096, 1),
    shape(9, 3, 64, 16384, 1),
    shape(12, 2, 128, 1024, 1),
    shape(12, 2, 128, 4096, 1),
    shape(12, 2, 128, 16384, 1),
];
/// Bytes of cache that decoding rotates over: a multiple of a large L3.
const DISTINCT_BYTES: usize = 128 << 20;

/// The best of some runs, in seconds.
fn best_of(runs: usize, mut f: impl FnMut() -> Result<(), KernelError>) -> Result<f64, KernelError> {
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        f()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Operations per second of all threads, in a probe of so many rounds.
fn peak(team: &Team<'_>, probe: impl Fn(usize) -> usize + Sync) -> Result<f64, KernelError> {
    const ROUNDS: usize = 1 << 20;
    let threads = team.threads();
    let done = probe(1) * ROUNDS;
    let time = best_of(20, || {
        team.run(threads, &|_| {
            probe(ROUNDS);
        });
        Ok(())
    })?;
    Ok((done * threads) as f64 / time)
}

/// Seconds that all threads together take to read the memory.
fn read(kernels: Kernels, team: &Team<'_>, memory: &[u8]) -> f64 {
    // In small pieces: a thread that is late leaves its share to the others.
    const PIECE: usize = 1 << 20;
    let start = Instant::now();
    team.run(memory.len() / PIECE, &|i| kernels.probe_read(&memory[i * PIECE..][..PIECE], true));
    start.elapsed().as_secs_f64()
}

fn noise(n: usize) -> Vec<f32> {
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(n)
    .collect()
}

struct Limits {
    f32: f64,
    bf16: f64,
}

fn measure(
    kernels: Kernels,
    team: &Team<'_>,
    limits: &Limits,
    shape: &Shape,
    (cache_type, arithmetic): (CacheType, Arithmetic),
) -> Result<(), KernelError> {
    let Shape { n_heads, n_kv_heads, head_dim, depth, rows, window } = *shape;
    let decode = rows == 1;
    let page_bytes = KvCache::new(cache_shape(shape, cache_type, 1))?.page_bytes();
    let bytes = depth.div_ceil(64) * page_bytes;
    let cached = std::env::args().any(|a| a == "cached");
    let layers = if decode && !cached { DISTINCT_BYTES.div_ceil(bytes) } else { 1 };
    let mut cache = KvCache::new(cache_shape(shape, cache_type, layers))?;
    let sequence = cache.new_sequence()?;
    let places: Vec<_> = (0..depth).map(|position| CacheRow { sequence, position }).collect();
    let kv = noise(depth * n_kv_heads * head_dim);
    let kv = MatRef::from_rows(&kv, n_kv_heads * head_dim);
    for layer in 0..layers {
        kernels.append(team, &mut cache, layer, &places, kv, kv)?;
    }
    let q = noise(rows * n_heads * head_dim);
    let q = MatRef::from_rows(&q, n_heads * head_dim);
    let mut out = vec![0.0; rows * n_heads * head_dim];
    let mut scratch = AttentionScratch::new();
    let mask = window.map_or(Mask::Causal, Mask::Window);
    let params =
        AttentionParams { n_heads, scale: (head_dim as f32).powf(-0.5), soft_cap: None, mask, arithmetic };
    let places = &places[depth - rows..];
    // Short ones often: a call that was disturbed is left out.
    let runs = (20_000_000_000 / (rows * n_heads * head_dim * depth)).clamp(4, 200);
    let memory = vec![1_u8; if decode { DISTINCT_BYTES / 2 } else { 1 << 20 }];
    // Neighbours on the machine change what memory gives: the probe runs in turn with what it is compared with.
    let mut reading = f64::INFINITY;
    let mut time = f64::INFINITY;
    for _ in 0..if decode && !cached { 8 } else { runs } {
        reading = reading.min(read(kernels, team, &memory));
        let start = Instant::now();
        for layer in 0..layers {
            let input = AttentionInput { q, cache: &cache, layer, rows: places, bias: None };
            let out = MatMut::from_rows(&mut out, n_heads * head_dim);
            kernels.attention(team, input, &params, out, &mut scratch, None)?;
        }
        time = time.min(start.elapsed().as_secs_f64() / layers as f64);
    }
    let keys: usize =
        places.iter().map(|row| window.map_or(row.position + 1, |n| n.min(row.position + 1))).sum();
    let rate = (4 * n_heads * head_dim * keys) as f64 / time;
    let (read, limit) = (bytes as f64 / time, memory.len() as f64 / reading);
    print!(
        "{cache_type:?}, {arithmetic:?} products, {n_heads}/{n_kv_heads} d {head_dim} depth {depth} rows {rows}: {:9.1} us  ",
        time * 1e6
    );
    print!("{:6.1} GFLOP/s = {:4.1} % of f32", rate / 1e9, 100.0 * rate / limits.f32);
    print!(" {:4.1} % of bf16", 100.0 * rate / limits.bf16);
    println!("  {:5.1} GB/s of {:5.1} = {:5.1} %", read / 1e9, limit / 1e9, 100.0 * read / limit);
    Ok(())
}

fn cache_shape(shape: &Shape, cache_type: CacheType, n_layers: usize) -> CacheShape {
    let shape = CacheShape {
        n_layers,
        n_kv_heads: shape.n_kv_heads,
        head_dim: shape.head_dim,
        cache_type,
        max_positions: shape.depth,
        max_sequences: 1,
        max_pages: 0,
    };
    CacheShape { max_pages: shape.pages_for_all(), ..shape }
}

fn main() -> Result<(), KernelError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let given = |name: &str| args.iter().any(|a| a == name);
    let all = [
        ("f32", CacheType::F32),
        ("f16", CacheType::F16),
        ("bf16", CacheType::Bf16),
        ("q8_0", CacheType::Q8_0),
    ];
    let types: Vec<_> = all.iter().filter(|(name, _)| given(name)).collect();
    let types = if types.is_empty() { all.iter().collect() } else { types };
    let threads = args.iter().position(|a| a == "--threads").and_then(|i| args.get(i + 1)?.parse().ok());
    let depths: Vec<usize> = args.iter().filter_map(|a| a.strip_prefix("depth=")?.parse().ok()).collect();
    let kernels = Kernels::best();
    Pool::new(threads.unwrap_or(2)).enter(|team| {
        let limits = Limits {
            f32: peak(team, |n| kernels.probe_f32(n))?,
            bf16: peak(team, |n| kernels.probe_bf16(n))?,
        };
        println!(
            "{}, {} threads: f32 {:.0}, bf16 {:.0} GFLOP/s",
            kernels.isa(),
            team.threads(),
            limits.f32 / 1e9,
            limits.bf16 / 1e9,
        );
        let products = [("x-f32", Arithmetic::F32), ("x-bf16", Arithmetic::Bf16)];
        let wanted =
            products.iter().filter(|(name, _)| given(name) || !products.iter().any(|(p, _)| given(p)));
        for (cache_type, arithmetic) in types.iter().flat_map(|(_, t)| wanted.clone().map(|(_, a)| (*t, *a)))
        {
            let (prompts, decodes) = (!given("decode"), !given("prompt"));
            for shape in PROMPTS.iter().filter(|_| prompts).chain(DECODES.iter().filter(|_| decodes)) {
                if depths.is_empty() || depths.contains(&shape.depth) {
                    measure(kernels, team, &limits, shape, (cache_type, arithmetic))?;
                }
            }
        }
        Ok(())
    })
}
