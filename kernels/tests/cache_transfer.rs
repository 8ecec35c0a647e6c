//! Positions of a cache that are copied out and into another one.

mod common;

use common::Random;
use gable_kernels::attention::{
    AttentionInput, AttentionParams, AttentionScratch, CacheRow, CacheShape, CacheType, KvCache, Mask, PAGE,
    SequenceId,
};
use gable_kernels::{KernelError, Kernels, MatMut, MatRef, Team};

const TYPES: [CacheType; 4] = [CacheType::F32, CacheType::F16, CacheType::Bf16, CacheType::Q8_0];

fn shape(head_dim: usize, cache_type: CacheType) -> CacheShape {
    let shape = CacheShape {
        n_layers: 2,
        n_kv_heads: 3,
        head_dim,
        cache_type,
        max_positions: 200,
        max_sequences: 2,
        max_pages: 0,
    };
    CacheShape { max_pages: shape.pages_for_all(), ..shape }
}

fn append(cache: &mut KvCache, sequence: SequenceId, layer: usize, first: usize, k: &[f32], v: &[f32]) {
    let cols = 3 * cache.shape().head_dim;
    let rows: Vec<_> = (0..k.len() / cols).map(|i| CacheRow { sequence, position: first + i }).collect();
    let (k, v) = (MatRef::from_rows(k, cols), MatRef::from_rows(v, cols));
    Kernels::best().append(&Team::serial(), cache, layer, &rows, k, v).unwrap();
}

/// Attention of one row at the end of a layer.
fn attend(cache: &KvCache, sequence: SequenceId, layer: usize, mask: Mask, q: &[f32]) -> Vec<u32> {
    let head_dim = cache.shape().head_dim;
    let rows = [CacheRow { sequence, position: cache.len(sequence, layer).unwrap() - 1 }];
    let params =
        AttentionParams { n_heads: 6, scale: 0.3, soft_cap: None, mask, arithmetic: Default::default() };
    let mut out = vec![0.0; q.len()];
    let input =
        AttentionInput { q: MatRef::from_rows(q, 6 * head_dim), cache, layer, rows: &rows, bias: None };
    let view = MatMut::from_rows(&mut out, 6 * head_dim);
    let mut scratch = AttentionScratch::new();
    Kernels::best().attention(&Team::serial(), input, &params, view, &mut scratch, None).unwrap();
    out.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn what_was_exported_is_attended_to_with_the_same_bits_after_an_import() {
    // Whole vectors, and heads that end within a vector and within a group of 32.
    for (head_dim, cache_type) in [16, 40, 64].into_iter().flat_map(|d| TYPES.map(|t| (d, t))) {
        let shape = shape(head_dim, cache_type);
        let (mut random, cols) = (Random(7), 3 * head_dim);
        let (mut from, mut to) = (KvCache::new(shape).unwrap(), KvCache::new(shape).unwrap());
        let sequence = from.new_sequence().unwrap();
        // The pages of the other cache have been used before.
        let stale = to.new_sequence().unwrap();
        for layer in 0..2 {
            let (k, v) = (random.values(150 * cols, 2.0), random.values(150 * cols, 2.0));
            append(&mut from, sequence, layer, 0, &k, &v);
            append(&mut to, stale, layer, 0, &v, &k);
        }
        to.end_sequence(stale).unwrap();
        from.release_before(sequence, 1, 100).unwrap();
        assert_eq!(from.first_held(sequence, 1).unwrap(), PAGE);

        let copy = to.new_sequence().unwrap();
        for (layer, first) in [(0, 0), (1, PAGE)] {
            // In parts that end within pages.
            for part in [first..first + 13, first + 13..first + 80, first + 80..150] {
                let mut bytes = vec![0xa5; part.len() * from.position_bytes()];
                from.export(sequence, layer, part.clone(), &mut bytes).unwrap();
                to.import(copy, layer, part.start, &bytes).unwrap();
                let mut again = vec![0; bytes.len()];
                to.export(copy, layer, part, &mut again).unwrap();
                assert_eq!(bytes, again);
            }
            assert_eq!(to.len(copy, layer).unwrap(), 150);
            assert_eq!(to.first_held(copy, layer).unwrap(), first);
            let mask = if layer == 0 { Mask::Causal } else { Mask::Window(51) };
            let q = random.values(2 * cols, 2.0);
            assert_eq!(
                attend(&from, sequence, layer, mask, &q),
                attend(&to, copy, layer, mask, &q),
                "{cache_type:?} {head_dim}"
            );
            // And both go on alike.
            let (k, v) = (random.values(cols, 2.0), random.values(cols, 2.0));
            append(&mut from, sequence, layer, 150, &k, &v);
            append(&mut to, copy, layer, 150, &k, &v);
            assert_eq!(attend(&from, sequence, layer, mask, &q), attend(&to, copy, layer, mask, &q));
        }
    }
}

#[test]
fn a_position_is_its_keys_and_values_head_by_head() {
    let mut cache = KvCache::new(shape(24, CacheType::F32)).unwrap();
    let sequence = cache.new_sequence().unwrap();
    let k: Vec<f32> = (0..72).map(|i| i as f32).collect();
    let v: Vec<f32> = (0..72).map(|i| -(i as f32)).collect();
    append(&mut cache, sequence, 0, 0, &k, &v);
    assert_eq!(cache.position_bytes(), 2 * 72 * 4);
    let mut bytes = vec![0; cache.position_bytes()];
    cache.export(sequence, 0, 0..1, &mut bytes).unwrap();
    let found: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect();
    let want: Vec<f32> = (0..3).flat_map(|h| [&k[h * 24..][..24], &v[h * 24..][..24]].concat()).collect();
    assert_eq!(found, want);
}

#[test]
fn what_is_not_there_and_what_does_not_fit_is_refused_with_both_values() {
    let mut cache = KvCache::new(shape(16, CacheType::Q8_0)).unwrap();
    let sequence = cache.new_sequence().unwrap();
    let n = cache.position_bytes();
    let row = vec![1.0; 48];
    append(&mut cache, sequence, 0, 0, &row, &row);
    let mut bytes = vec![0; n];
    assert_eq!(n, 2 * 3 * (16 + 2));
    assert!(matches!(
        cache.export(sequence, 0, 0..2, &mut vec![0; 2 * n]),
        Err(KernelError::Shape { expected: 2, found: 1, .. })
    ));
    let short = cache.export(sequence, 0, 0..1, &mut bytes[1..]);
    assert!(
        matches!(short, Err(KernelError::Shape { expected, found, .. }) if (expected, found) == (n, n - 1))
    );
    assert!(cache.export(sequence, 2, 0..0, &mut []).is_err());
    assert!(matches!(
        cache.import(sequence, 0, 3, &bytes),
        Err(KernelError::Shape { what: "first position", expected: 1, found: 3, .. })
    ));
    // An empty layer begins at a page or not at all, and nothing goes beyond the cache's end.
    assert!(cache.import(sequence, 1, 65, &bytes).is_err());
    assert!(cache.import(sequence, 1, 256, &bytes).is_err());
    assert!(cache.import(sequence, 1, 0, &bytes[1..]).is_err());
    assert!(cache.import(sequence, 1, 192, &vec![0; 9 * n]).is_err());
    cache.truncate(sequence, 0).unwrap();
    cache.import(sequence, 1, 0, &bytes).unwrap();
    let ended = sequence;
    cache.end_sequence(sequence).unwrap();
    assert!(cache.import(ended, 0, 0, &bytes).is_err() && cache.export(ended, 0, 0..0, &mut []).is_err());
    assert_eq!(cache.free_pages(), cache.shape().max_pages);
}
