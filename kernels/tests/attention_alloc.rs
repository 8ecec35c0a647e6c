//! Appending to a cache and attending allocate nothing once scratch is reserved.

use gable_kernels::attention::{
    Arithmetic, AttentionInput, AttentionParams, AttentionScratch, CacheRow, CacheShape, CacheType, KvCache,
    Mask,
};
use gable_kernels::{Kernels, MatMut, MatRef, Pool};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    /// Allocations of this thread: the test harness has others that allocate when they like.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn appending_and_attending_allocate_nothing() {
    for (cache_type, arithmetic) in [
        (CacheType::F16, Arithmetic::F32),
        (CacheType::Bf16, Arithmetic::Bf16),
        (CacheType::Q8_0, Arithmetic::F32),
    ] {
        allocates_nothing(cache_type, arithmetic);
    }
}

fn allocates_nothing(cache_type: CacheType, arithmetic: Arithmetic) {
    let shape = CacheShape {
        n_layers: 1,
        n_kv_heads: 2,
        head_dim: 64,
        cache_type,
        max_positions: 2100,
        max_sequences: 2,
        max_pages: 40,
    };
    let kernels = Kernels::best();
    let mut cache = KvCache::new(shape).unwrap();
    let a = cache.new_sequence().unwrap();
    let params = AttentionParams { n_heads: 6, scale: 0.125, soft_cap: None, mask: Mask::Causal, arithmetic };
    let mut scratch = AttentionScratch::new();
    scratch.reserve(2, 2000, 2100, 6, 64).unwrap();
    let places: Vec<_> = (0..2100).map(|position| CacheRow { sequence: a, position }).collect();
    let (kv, q) = (vec![0.5; 2000 * 128], vec![0.25; 2000 * 384]);
    let mut out = vec![0.0; 2000 * 384];
    let pool = Pool::new(2);
    pool.enter(|team| {
        let mut step = |rows: &[CacheRow]| {
            let n = rows.len();
            let kv = MatRef::from_rows(&kv[..n * 128], 128);
            kernels.append(team, &mut cache, 0, rows, kv, kv).unwrap();
            let input = AttentionInput {
                q: MatRef::from_rows(&q[..n * 384], 384),
                cache: &cache,
                layer: 0,
                rows,
                bias: None,
            };
            let out = MatMut::from_rows(&mut out[..n * 384], 384);
            kernels.attention(team, input, &params, out, &mut scratch, None).unwrap();
        };
        let before = COUNT.get();
        step(&places[..2000]);
        for i in 2000..2100 {
            step(&places[i..=i]);
        }
        assert_eq!(COUNT.get(), before);
    });
}
