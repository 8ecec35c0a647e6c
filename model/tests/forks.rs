//! How often a pass hands work to other threads: each time costs the way there and back.

mod common;

use gable_kernels::attention::{CacheShape, CacheType, KvCache};
use gable_kernels::gemm::Phase;
use gable_kernels::pool::ParallelFor;
use gable_kernels::{Kernels, Team};
use gable_model::forward::{Batch, Ending, Numerics, Row, forward};
use gable_model::scratch::{Scratch, ScratchOptions};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Two threads on paper, which count what they are asked for.
struct Counting(AtomicUsize);

impl ParallelFor for Counting {
    fn threads(&self) -> usize {
        2
    }
    fn parallel_for(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
        self.0.fetch_add(1, Ordering::Relaxed);
        (0..parts).for_each(f);
    }
}

/// Forks of a pass with `count` tokens.
fn forks(phase: Phase, numerics: Numerics, count: usize) -> (usize, usize) {
    let model = common::model("smollm2");
    let config = model.config();
    let shape = CacheShape {
        n_layers: config.n_layers,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim,
        cache_type: CacheType::F16,
        max_positions: 64,
        max_sequences: 1,
        max_pages: 0,
    };
    let mut cache = KvCache::new(CacheShape { max_pages: shape.pages_for_all(), ..shape }).unwrap();
    let sequence = cache.new_sequence().unwrap();
    let options = ScratchOptions {
        kernels: Kernels::best(),
        numerics,
        strict: false,
        max_rows: 16,
        max_logits: 1,
        every_position: false,
        max_positions: 64,
        threads: 2,
    };
    let mut scratch = Scratch::new(&model, options).unwrap();
    let rows: Vec<Row> = (0..count)
        .map(|i| Row { token: 400 + i as u32, position: i, sequence, wants_logits: i + 1 == count })
        .collect();
    let host = Counting(AtomicUsize::new(0));
    let batch = Batch { phase, rows: &rows, ending: Ending::Logits };
    forward(&Team::host(&host), &model, &mut cache, &batch, &mut scratch, &mut ()).unwrap();
    (host.0.into_inner(), config.n_layers)
}

/// Q, K and V; attention; its output; gate, up and their product; the last matrix. In prompts also both norms, RoPE and
/// the new rows of the cache as one, and the rounding of what the heads and the gate give. And once the logits.
#[test]
fn a_decoded_token_forks_five_times_a_layer_and_a_prompt_ten_times() {
    for numerics in [Numerics::Fast, Numerics::Precise] {
        let (decoded, n_layers) = forks(Phase::Decode, numerics, 1);
        assert_eq!(decoded, 5 * n_layers + 1, "{numerics:?}");
    }
    let (precise, n_layers) = forks(Phase::Prompt, Numerics::Precise, 16);
    assert_eq!(precise, 10 * n_layers + 1);
    // Second terms of rows with an outlier, which are known only when all rows are rounded.
    let (fast, _) = forks(Phase::Prompt, Numerics::Fast, 16);
    assert!((precise..=precise + 4 * n_layers).contains(&fast), "{fast}");
}
